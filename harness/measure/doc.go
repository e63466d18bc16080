// Package measure finds particles in a mask and measures them.
//
//	Components  connected regions, numbered
//	FillHoles   closes what lies inside a particle
//	Split       parts touching particles by a watershed of the distance to the border
//	Shapes      area, perimeter, Feret diameters, ellipse, convex area, outline
//	ROI, GeoJSON  outlines for ImageJ and for QuPath
//
// Lengths are defined as scikit-image's regionprops defines them, with which a test
// compares; Feret diameters are those of the hull of the pixels' edges. A pixel
// (y, x) covers the square from y to y+1 and from x to x+1 in outlines, as in
// ImageJ; centres of mass count from the centre of the first pixel.
package measure
