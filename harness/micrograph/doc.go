// Package micrograph prepares micrographs for a network: the same steps, in the
// same order, for a user's own training data and for images to segment.
//
//	Repair       finds what is no image (X-rays, hot and dead pixels, missing
//	             values, dead edges, the outside of an aperture) and fills it
//	Flatten      divides by the illumination, where that is asked for
//	Resample     brings an image to another pixel size and its segmentation back
//	Standardize  mean 0 and variance 1 over the pixels that are image
//
// An image that needs no repair keeps its bits. Images are rows of float32 values,
// row by row; all sums are in float64 and in an order that does not depend on the
// machine.
package micrograph

// Version is raised when the bits of a repaired image change: it enters the digests
// of data sets with such images.
const Version = 2
