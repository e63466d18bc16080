package study

import (
	"fmt"
	"slices"
	"strings"
)

// axis is a list of values that a study's configurations are combined from.
type axis struct {
	key    string // dotted, as in the spec
	length int
	value  func(i int) any
	// one and many name it for people.
	one, many string
}

func axisOf[T any](key string, list []T, one, many string) axis {
	return axis{key, len(list), func(i int) any { return list[i] }, one, many}
}

// axes are the lists of the study's kind, the last varying fastest.
func (s *Study) axes() []axis {
	switch s.Kind {
	case Transfer:
		return []axis{
			axisOf("pretrain.learning_rates", s.Pretrain.LearningRates, "pretraining rate", "pretraining rates"),
			axisOf("transfer.learning_rates", s.Transfer.LearningRates, "transfer rate", "transfer rates"),
			axisOf("transfer.images", s.Transfer.Images, "number of images", "numbers of images"),
			axisOf("transfer.frozen", s.Transfer.Frozen, "frozen part", "frozen parts"),
		}
	case Mixture:
		return []axis{
			axisOf("mixture.images", s.Mixture.Images, "mixture", "mixtures"),
			axisOf("mixture.learning_rates", s.Mixture.LearningRates, "learning rate", "learning rates"),
		}
	}
	return nil
}

// zipped reports whether a list is walked together with others.
func (s *Study) zipped(key string) bool {
	return slices.ContainsFunc(s.Zip, func(group []string) bool { return slices.Contains(group, key) })
}

// loops are the indices of axes that are walked together, in the order of the first
// of each: an axis that is not zipped is by itself.
func (s *Study) loops(axes []axis) [][]int {
	var all [][]int
	done := make([]bool, len(axes))
	for i, a := range axes {
		if done[i] {
			continue
		}
		loop := []int{i}
		for _, group := range s.Zip {
			if !slices.Contains(group, a.key) {
				continue
			}
			for k := i + 1; k < len(axes); k++ {
				if slices.Contains(group, axes[k].key) {
					loop = append(loop, k)
					done[k] = true
				}
			}
		}
		all = append(all, loop)
	}
	return all
}

// combinations lists the study's configurations: for each, the index into every
// axis. They are the full product of the axes, but for those that are zipped.
func (s *Study) combinations() [][]int {
	axes := s.axes()
	all := [][]int{make([]int, len(axes))}
	for _, loop := range s.loops(axes) {
		var next [][]int
		for _, c := range all {
			for i := range axes[loop[0]].length {
				d := slices.Clone(c)
				for _, k := range loop {
					d[k] = i
				}
				next = append(next, d)
			}
		}
		all = next
	}
	return all
}

// configurations is the number of models per pair and initialisation.
func (s *Study) configurations() int {
	axes, n := s.axes(), 1
	for _, loop := range s.loops(axes) {
		n *= axes[loop[0]].length
	}
	return n
}

// checkZip wants every group to name lists of the study, and the others to have
// no value twice.
func (s *Study) checkZip(c *checker) {
	axes := s.axes()
	var valid []string
	for _, a := range axes {
		valid = append(valid, a.key)
	}
	if len(valid) == 0 {
		return // the kind is wrong
	}
	seen := map[string]bool{}
	for _, group := range s.Zip {
		if len(group) < 2 {
			c.fail(at("zip"), "a group of %d has nothing to go together with; give the keys of two or more lists", len(group))
		}
		for _, key := range group {
			if !slices.Contains(valid, key) {
				c.fail(at("zip"), "%s", suggestValue(key, valid))
			} else if seen[key] {
				c.fail(at("zip"), "has %s twice", key)
			}
			seen[key] = true
		}
	}
	for _, a := range axes {
		if !s.zipped(a.key) {
			c.distinctAxis(a)
		}
	}
}

// distinctAxis wants every value of a list to be different.
func (c *checker) distinctAxis(a axis) {
	seen := map[any]bool{}
	for i := range a.length {
		v := a.value(i)
		if seen[v] {
			c.fail(strings.Split(a.key, "."), "has %v twice", v)
			return
		}
		seen[v] = true
	}
}

// checkZipped wants the lists of a group to have one length, and no combination of
// their values twice.
func (s *Study) checkZipped(c *checker, group []string) {
	var lists []axis
	for _, a := range s.axes() {
		if slices.Contains(group, a.key) {
			lists = append(lists, a)
		}
	}
	if len(lists) < 2 {
		return
	}
	for _, a := range lists[1:] {
		if a.length != lists[0].length {
			c.fail(at("zip"), "%s has %d and %s %d: zipped lists go together value by value and need one length",
				lists[0].key, lists[0].length, a.key, a.length)
			return
		}
	}
	seen := map[string]bool{}
	for i := range lists[0].length {
		var values []string
		for _, a := range lists {
			values = append(values, fmt.Sprint(a.value(i)))
		}
		together := strings.Join(values, ", ")
		if seen[together] {
			c.fail(at("zip"), "has %s twice", together)
			return
		}
		seen[together] = true
	}
}
