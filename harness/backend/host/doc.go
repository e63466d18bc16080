// Package host knows which backend plugins there are and which of them may run.
//
// Plugins looks for executables called refocus-backend-NAME in the folders of
// Places, compares them with the lock file, in which a person has pinned those
// that are trusted, and starts one by its name through package plugin.
package host
