package standin

import "syscall"

// thread is the number of the thread of the operating system.
func thread() int { return syscall.Gettid() }
