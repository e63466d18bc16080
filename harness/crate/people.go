package crate

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Person is an author.
type Person struct {
	Name string
	URL  string // an ORCID, or a page that stands for the person; "" if none was given
}

// ParsePerson reads "Name" or "Name <ORCID or address of a page>".
func ParsePerson(text string) (Person, error) {
	name, rest, has := strings.Cut(text, "<")
	p := Person{Name: strings.TrimSpace(name)}
	if p.Name == "" || strings.ContainsAny(p.Name, ">\n") {
		return Person{}, fmt.Errorf("author %q has no name", text)
	}
	if !has {
		return p, nil
	}
	id, ok := strings.CutSuffix(strings.TrimSpace(rest), ">")
	if !ok {
		return Person{}, fmt.Errorf("author %q: want 'Name <ORCID or https address>'", text)
	}
	orcid := strings.TrimPrefix(strings.TrimPrefix(id, "https://"), "orcid.org/")
	if orcidForm.MatchString(orcid) {
		if !checkORCID(orcid) {
			return Person{}, fmt.Errorf("author %q: %s is not an ORCID: its last digit does not fit", text, orcid)
		}
		p.URL = "https://orcid.org/" + orcid
		return p, nil
	}
	if u, err := url.Parse(id); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return Person{}, fmt.Errorf("author %q: %q is neither an ORCID nor an https address", text, id)
	}
	p.URL = id
	return p, nil
}

var orcidForm = regexp.MustCompile(`^\d{4}-\d{4}-\d{4}-\d{3}[\dX]$`)

// checkORCID compares the check digit (ISO 7064, MOD 11-2).
func checkORCID(id string) bool {
	sum := 0
	for _, c := range strings.ReplaceAll(id[:len(id)-1], "-", "") {
		sum = (sum + int(c-'0')) * 2
	}
	check := (12 - sum%11) % 11
	return id[len(id)-1] == "0123456789X"[check]
}

var licenseForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+-]*$`)

// License is the address of a licence that is named by its SPDX identifier, such as
// CC-BY-4.0, or by an address.
func License(text string) (address string, err error) {
	if u, err := url.Parse(text); err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" {
		return text, nil
	}
	if !licenseForm.MatchString(text) {
		return "", fmt.Errorf("licence %q is neither an SPDX identifier, such as CC-BY-4.0, nor an https address", text)
	}
	return "https://spdx.org/licenses/" + text, nil
}
