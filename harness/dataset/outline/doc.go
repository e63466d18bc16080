// Package outline reads the particles that people outlined in other programs, and
// fills them in: ImageJ's regions of interest (.roi, .zip of them; the format of
// ij.io.RoiDecoder) and COCO's annotations (.json: polygons and run lengths).
//
// A pixel belongs to a particle whose outline, in pixels from the image's upper
// left corner, surrounds its centre, by the even-odd rule.
package outline
