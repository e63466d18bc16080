// Package plot draws the figures of a report as SVG: heat maps, lines, boxes,
// estimates with their intervals and histograms. Figures read on light and dark
// ground, in colours that colour-blind readers tell apart; each says in words what
// it shows and has its values as a Table.
//
// Coordinates are in pixels from the upper left corner. The same values give the
// same bytes.
package plot
