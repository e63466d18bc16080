package dataset

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/random"
)

// Groups of images that stay together, besides regular expressions.
const (
	GroupByFile   = "file"   // the images of one file
	GroupByFolder = "folder" // the images of one folder
)

// groupsOf names the group of every image: of its file, its folder, or what the
// parenthesis of a regular expression matches in its path, written with slashes.
func groupsOf(x *pages, kept []int, by string) ([]string, error) {
	var rule *regexp.Regexp
	switch by {
	case GroupByFile, GroupByFolder:
	default:
		var err error
		if rule, err = regexp.Compile(by); err != nil {
			return nil, fmt.Errorf("group_by: %w", err)
		}
		if rule.NumSubexp() != 1 {
			return nil, fmt.Errorf("group_by: %q has %d parentheses, want one around what names the group", by, rule.NumSubexp())
		}
	}
	groups := make([]string, len(kept))
	for k, i := range kept {
		name := x.name(i)
		switch by {
		case GroupByFile:
			groups[k] = name
		case GroupByFolder:
			groups[k] = filepath.Dir(name)
		default:
			m := rule.FindStringSubmatch(filepath.ToSlash(name))
			if m == nil {
				return nil, fmt.Errorf("group_by: %q does not match %s", by, name)
			}
			groups[k] = m[1]
		}
	}
	return groups, nil
}

// split divides n images, by their places in a list, into those that train and
// those that validate, both in order. Images of one group stay together; nil is
// every image by itself.
func split(n int, groups []string, o ImportOptions) (train, validation []int, err error) {
	fraction := o.ValidationFraction
	if fraction == 0 {
		fraction = 0.2
	}
	if !(fraction > 0 && fraction < 1) {
		return nil, nil, fmt.Errorf("a fraction of %v for validation, want one between 0 and 1", fraction)
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	if groups == nil && o.Folds == 0 {
		t, v, err := counts(n, fraction, o)
		if err != nil {
			return nil, nil, err
		}
		if o.Shuffle {
			o.shuffle(order)
		}
		train, validation = order[:t:t], order[n-v:]
		slices.Sort(train)
		slices.Sort(validation)
		return train, validation, nil
	}
	// The groups in the order of their first images, or shuffled.
	var members [][]int
	at := map[string]int{}
	for i := range n {
		g := fmt.Sprint(i)
		if groups != nil {
			g = groups[i]
		}
		k, ok := at[g]
		if !ok {
			k = len(members)
			at[g] = k
			members = append(members, nil)
		}
		members[k] = append(members[k], i)
	}
	if o.Shuffle {
		shuffled := make([]int, len(members))
		for i := range shuffled {
			shuffled[i] = i
		}
		o.shuffle(shuffled)
		was := slices.Clone(members)
		for i, k := range shuffled {
			members[i] = was[k]
		}
	}
	parts := max(o.Folds, 2)
	if len(members) < parts {
		return nil, nil, fmt.Errorf("%d groups of images, want at least %d", len(members), parts)
	}
	if o.Folds == 0 { // the last groups, until the fraction is reached
		want := max(int(math.Round(fraction*float64(n))), 1)
		for i := len(members) - 1; i > 0 && len(validation) < want; i-- {
			validation = append(validation, members[i]...)
		}
	} else {
		// The largest group first, each into the fold that has the fewest images.
		if o.Fold < 1 || o.Fold > o.Folds {
			return nil, nil, fmt.Errorf("fold %d of %d", o.Fold, o.Folds)
		}
		slices.SortStableFunc(members, func(a, b []int) int { return len(b) - len(a) })
		folds := make([][]int, o.Folds)
		for _, m := range members {
			least := 0
			for f := range folds {
				if len(folds[f]) < len(folds[least]) {
					least = f
				}
			}
			folds[least] = append(folds[least], m...)
		}
		validation = folds[o.Fold-1]
	}
	slices.Sort(validation)
	for i := range n {
		if _, v := slices.BinarySearch(validation, i); !v {
			train = append(train, i)
		}
	}
	return train, validation, nil
}

// shuffle is Fisher and Yates's, written out like train's, since digests depend on
// it.
func (o ImportOptions) shuffle(s []int) {
	rng := random.Stream(o.Seed, "split "+o.Name)
	for i := len(s) - 1; i > 0; i-- {
		j := Below(rng, uint64(i+1))
		s[i], s[j] = s[j], s[i]
	}
}

// counts is how many of n images train and how many validate.
func counts(n int, fraction float64, opt ImportOptions) (train, validation int, err error) {
	train, validation = opt.TrainImages, opt.ValidationImages
	switch {
	case train < 0 || validation < 0:
		return 0, 0, fmt.Errorf("%d images for training and %d for validation", train, validation)
	case train == 0 && validation == 0:
		validation = min(max(int(math.Round(fraction*float64(n))), 1), n-1)
		train = n - validation
	case train == 0:
		train = n - validation
	case validation == 0:
		validation = n - train
	}
	if train < 1 || validation < 1 || train > n-validation {
		return 0, 0, fmt.Errorf("%d images for training and %d for validation, of %d", train, validation, n)
	}
	return train, validation, nil
}

// leak says which sessions, by the names of files without their last number and by
// folder, have images on both sides of a split, empty for none or where there is
// only one session.
func leak(x *pages, train, validation []int) string {
	session := func(i int) string {
		name := x.name(i)
		stem := strings.TrimSuffix(name, filepath.Ext(name))
		return strings.TrimRight(stem, "0123456789")
	}
	if len(x.files) == 1 {
		return ""
	}
	inTrain, all, both := map[string]bool{}, map[string]bool{}, []string{}
	for _, i := range train {
		inTrain[session(i)] = true
		all[session(i)] = true
	}
	for _, i := range validation {
		s := session(i)
		all[s] = true
		if inTrain[s] && !slices.Contains(both, s) {
			both = append(both, s)
		}
	}
	if len(all) < 2 || len(all) > len(x.files)/2 || len(both) == 0 {
		return ""
	}
	return both[0]
}
