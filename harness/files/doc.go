// Package files writes every file that refocus leaves behind.
//
// A file is written under a temporary name beside its own, synced, renamed, and
// its folder is synced too: after a crash of the process or of the machine, at
// any moment, it exists whole or not at all, and what was reported written is
// there (see crashfs, which tests it). What killed writers left is swept by the next
// writer of the same name; a writer that lives is known by the lock it holds, one on
// another machine by the time of its file.
//
// Files and folders take the permissions that the umask leaves, and the group
// that their folder hands down, so that several people may share a store: a
// folder with the set-group-ID bit and a umask of 002. Where permission is missing the
// error says whose folder it is and what to set.
//
// The package also has the one description of a file by content (File), the record
// in which a process tells others, on other machines too, what it is doing (Record,
// Process), and a lock between processes (Lock), which network file systems may keep to
// one machine: it saves work and protects nothing. Scratch folders that a program makes and removes
// for itself are no business of it.
package files
