// Package plugin makes a plugin of a backend.Backend and a backend.Backend of a
// plugin.
//
// On the plugin's side Serve is the whole main function: it answers the service
// of proto/ with the methods of a Backend. On the harness's side Launch starts an
// executable and Client is the running process. What a process answers is checked
// before anybody believes it (Checked), and a process that dies, hangs or talks
// nonsense becomes an error of package backend that says which. Package host
// decides which executables may be started.
//
// The processes are go-plugin's: a handshake on standard output, gRPC over a
// socket under mutual TLS, log lines on standard error.
package plugin
