// Package standin is a stand-in for the CUDA driver on machines without a GPU: it fills
// the table of package driver with functions that execute the very PTX that a real driver
// would get, by package ptx. Only tests import it.
//
// It is as strict and as late as a driver may be:
//
//   - Nothing that is asynchronous happens before somebody waits for it. Where a copy from
//     the device is under way its destination holds 0xA5s, and a copy to the device, from
//     pinned memory, finds out whether the source was changed in the meantime.
//   - Contexts are current per thread of the operating system; handles and memory belong
//     to one context.
//   - Device memory has addresses that nothing on the host has, is never written by
//     itself, and is never used twice.
//   - A kernel's fault (see ptx.Fault) is an error that sticks to the context.
//   - The last release of a context finds it empty, or tells what was left.
//
// What breaks a rule gets the error that the driver gives, and is also told to
// Options.Misuse, since a program may well hide errors from its tests.
package standin
