// Command init is the first and only program of the machine that TestEmulated
// emulates: it runs the commands in /commands, one a line, prints how each ended
// and switches the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

func main() {
	list, err := os.ReadFile("/commands")
	if err != nil {
		fmt.Println(err)
	}
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		c := exec.Command(f[0], f[1:]...)
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stdout
		if err := c.Run(); err != nil {
			fmt.Printf("%s: %v\n", f[0], err)
		} else {
			fmt.Printf("%s: succeeded\n", f[0])
		}
	}
	time.Sleep(time.Second) // the serial line is slow
	fmt.Println(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}
