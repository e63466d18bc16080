// Package study reads the specification of a study and expands it into runs.
//
// A spec is a TOML file: its plain tables hold the study at the scale of the
// published paper, and each [profile.NAME] table overlays any of those fields
// with smaller (or other) values. [Find] reads one of the shipped series or a
// user's own file; every mistake in it is reported as
//
//	file:line: key: what is wrong
//
// with the nearest valid key or value. [File.Study] applies a profile and
// [Study.Expand] turns the result into a [Plan]: the domains (labelled sets of
// images that differ in one respect, such as defocus) and the runs (single
// stages of training) in an order in which every run follows the pretraining
// it starts from. [Plan.Estimate] says what all that costs.
//
// Nothing here reads images, draws random numbers or trains. The study is the
// one of Rangel DaCosta, Oill and Scott, "Strategies for effective transfer
// learning for HRTEM analysis with neural networks", Elemental Microscopy 2025
// (DOI 10.69761/kjte5358). Field comments say [paper] where that paper states
// a value and [choice] where it is silent and the value is ours.
package study
