// Package cli is the commands of refocus, a file for each: its flags, the call
// that does the work, and what is printed of the outcome. The work itself is in
// the packages beside this one.
package cli
