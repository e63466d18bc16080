/**
 * Support for parsing the model spec for the BioImage Model Zoo at
 * <a href="https://bioimage.io">https://bioimage.io</a>.
 */
package qupath.bioimageio.spec;
