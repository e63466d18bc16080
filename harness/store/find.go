package store

import (
	"fmt"
	"strings"
)

// Find finds the one finished run that a word names: by its digest, the beginning of
// one, or its name within its study.
func (s *Store) Find(word string) (string, error) {
	all, err := s.Runs()
	if err != nil {
		return "", err
	}
	return s.find(word, "finished run", all, func(digest string) string {
		if m, err := s.Manifest(digest); err == nil {
			return m.ID
		}
		return ""
	})
}

// FindAttempted is Find for the runs that were ever attempted.
func (s *Store) FindAttempted(word string) (string, error) {
	all, err := s.Attempted()
	if err != nil {
		return "", err
	}
	return s.find(word, "run that has been attempted", all, func(digest string) string {
		if a, err := s.Last(digest); err == nil && a != nil {
			return a.ID
		}
		return ""
	})
}

func (s *Store) find(word, what string, digests []string, name func(digest string) string) (string, error) {
	var found []string
	if word != "" {
		for _, d := range digests {
			if strings.HasPrefix(d, strings.ToLower(word)) {
				found = append(found, d)
			}
		}
	}
	if len(found) == 0 && word != "" {
		for _, d := range digests {
			if name(d) == word {
				found = append(found, d)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no %s in %s has the name %q, or a digest that begins with it", what, s.root, word)
	}
	return "", fmt.Errorf("%d runs are called %q or have digests that begin with it; give more of one: %.12s, %.12s", len(found), word, found[0], found[1])
}
