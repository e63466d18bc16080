package backend

// Names in the state of a session. Weights and BatchNormalization statistics go
// by the names they have in the graph.
const (
	FirstMoment  = "adam.m." // before a parameter's name: Adam's running mean of its gradient
	SecondMoment = "adam.v." // … and of its square
)

// Keys of a state's metadata; the values are decimal numbers.
const (
	StepKey      = "step"       // optimiser steps taken, those that were skipped not counted
	LossScaleKey = "loss_scale" // mixed precision: by which the next step multiplies the loss
	GoodStepsKey = "good_steps" // mixed precision: steps since the scale last changed
)
