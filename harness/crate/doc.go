// Package crate publishes a finished study as a research object, and opens what was
// published: a folder or a ZIP file that is a Workflow Run RO-Crate.
//
// It follows RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) and of the profiles of
// Workflow Run RO-Crate 0.5 the one called Workflow Run Crate
// (https://w3id.org/ro/wfrun/workflow/0.5): a spec is a declarative workflow, which
// refocus, as a workflow engine, carries out with backends. Process Run Crate would not
// say that there was one; Provenance Run Crate wants an action for every one of
// thousands of runs, each of which has a manifest that says more.
//
//	ro-crate-metadata.json   what is what, for machines
//	README.md                the same for people
//	study/NAME.toml          the spec, the crate's main entity
//	study/study.json         its profile, its runs, the arithmetic that they have
//	refocus.lock.toml        pins of the backends that trained
//	data/ runs/              the store's own layout, so that a crate is a store
//	reports/                 the report, made anew from these runs
//	models/                  the best model of every target, as ONNX
//	reference/               published tables that the report compares with, if any
//	SHA256SUMS               of every file but itself and the next, for sha256sum -c
//	MERKLE-ROOT              files.Root of what SHA256SUMS lists
//
// The root is one number that stands for everything, the metadata included: who has it
// from elsewhere (a paper, a receipt of an audit) knows that nothing was changed.
package crate
