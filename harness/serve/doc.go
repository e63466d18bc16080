// Package serve is the workbench: a local web page over a store, with what runs
// now, a study's figures with filters, single runs and comparisons, micrographs to
// segment, and the images of every domain.
//
// It has no second implementation of anything: figures are drawn by report/plot,
// models opened by trained, micrographs read, segmented and measured by predict.
// Pages are made here, complete, from html/template; a small script adds what needs
// one: what runs, which is asked for again and again and changed in place, sliders,
// dropped files, and the parts of a micrograph that are drawn while it is segmented. The
// state of a view is its address.
//
// The server listens on the loopback interface only, and answers only requests
// whose path begins with a token that it draws at its start, whose Host header
// names the address that it listens on (so that a name which resolves to it is not
// enough), and which no other page has sent; what changes something wants a header
// that no form can send, too. Pages load nothing from elsewhere: their
// Content-Security-Policy allows them nothing else.
package serve
