package fast

// Memory is how many bytes the engine holds once it has run a batch of n images of h×w:
// its arrays of parameters, and the arena with all values, gradients and scratch memory,
// laid out as for the run.
func (e *Engine) Memory(n, h, w int, training bool) (int64, error) {
	p, err := e.program(key{n: n, h: h, w: w, training: training}, make([]bool, len(e.net.params)))
	if err != nil {
		return 0, err
	}
	arrays := len(e.values) + len(e.grads) + len(e.moment1) + len(e.moment2) + len(e.rounded)
	return 4 * int64(max(p.total, len(e.arena))+arrays), nil
}
