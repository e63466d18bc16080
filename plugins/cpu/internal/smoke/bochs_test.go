package smoke

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// bochsrc describes the emulated machine. An instruction counts as a
// microsecond, so that the waits of drivers are short.
const bochsrc = `
cpu: model=corei7_skylake_x, ips=1000000, reset_on_triple_fault=0
memory: guest=256, host=256
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial
display_library: term
plugin_ctrl: speaker=0
clock: sync=none
log: log
panic: action=fatal
`

// isolinux starts Linux without what takes long: self-tests of cryptography,
// keyboards, further serial ports, address randomisation. It also hides the
// compact XSAVE formats, whose sizes in Bochs Linux finds inconsistent, whereupon
// it would disable AVX altogether. A panic of Linux ends in a triple fault and so
// ends the emulation.
const isolinux = `
default linux
label linux
 linux linux
 initrd initrd
 append console=ttyS0 quiet rdinit=/init clearcpuid=xsaves,xsavec mitigations=off nokaslr nosmp cryptomgr.notests 8250.nr_uarts=1 i8042.nokbd i8042.noaux panic=-1 reboot=triple
`

// emulate builds the tests of packages, whose directories it takes by the name
// that the binary is to have, boots a machine that runs commands, and returns what
// the machine wrote to its serial line.
func emulate(t *testing.T, packages map[string]string, commands ...string) string {
	t.Helper()
	goTool := peers.Program(t, "go", "needed to build for the emulated machine")
	bochs := peers.Program(t, "bochs", "Debian: bochs, bochsbios, vgabios")
	term, _ := filepath.Glob("/usr/lib/*/bochs/plugins/libbx_term_gui.so")
	peers.Need(t, len(term) > 0, "Bochs cannot draw on a terminal (Debian: bochs-term)")
	genisoimage := peers.Program(t, "genisoimage", "Debian: genisoimage")
	dir := t.TempDir()
	iso := filepath.Join(dir, "iso")
	if err := os.Mkdir(iso, 0o777); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for name, from := range map[string]string{
		"iso/linux":        linuxImage(),
		"iso/isolinux.bin": "/usr/lib/ISOLINUX/isolinux.bin",
		"iso/ldlinux.c32":  "/usr/lib/syslinux/modules/bios/ldlinux.c32",
	} {
		data, err := os.ReadFile(from)
		peers.Need(t, err == nil, fmt.Sprintf("%v (Debian: isolinux, syslinux-common, linux-image-cloud-amd64, or an image that REFOCUS_LINUX names)", err))
		write(name, data)
	}

	run := func(in string, env []string, name string, arg ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, name, arg...)
		c.Dir, c.Env = in, append(os.Environ(), env...)
		return c.CombinedOutput()
	}
	var root archive
	root.add("dev", 0o040755, nil)
	root.add("dev/console", 0o020600, nil)
	root.add("commands", 0o100644, []byte(strings.Join(commands, "\n")))
	build := func(name, dir string, command ...string) {
		bin := filepath.Join(t.TempDir(), name)
		arg := append(command, "-o", bin, "-ldflags=-s -w", ".")
		out, err := run(dir, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64"}, goTool, arg...)
		if err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, out)
		}
		data, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		root.add(name, 0o100755, data)
	}
	build("init", "testdata/init", "build")
	for name, dir := range packages {
		build(name, dir, "test", "-c")
	}
	root.add("TRAILER!!!", 0, nil)

	write("iso/initrd", root.Bytes())
	write("iso/isolinux.cfg", []byte(isolinux))
	write("bochsrc", []byte(bochsrc))
	write("debugger", []byte("continue\n")) // where Bochs has one, it stops first
	if out, err := run(dir, nil, genisoimage, "-quiet", "-o", "boot.iso", "-b", "isolinux.bin", "-c", "boot.cat",
		"-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "iso"); err != nil {
		t.Fatalf("genisoimage: %v\n%s", err, out)
	}
	// Bochs fails whatever happened: it panics when the machine is switched off.
	_, err := run(dir, []string{"TERM=vt100"}, bochs, "-q", "-f", "bochsrc", "-rc", "debugger")
	serial, _ := os.ReadFile(filepath.Join(dir, "serial"))
	if len(serial) == 0 {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("bochs: %v; nothing came from the serial line. End of Bochs's log:\n%s", err, log[max(0, len(log)-4000):])
	}
	return string(serial)
}

// linuxImage is REFOCUS_LINUX or an image of Debian's for virtual machines, which
// has the drivers for little else and starts sooner than others.
func linuxImage() string {
	if path := os.Getenv("REFOCUS_LINUX"); path != "" {
		return path
	}
	const pattern = "/boot/vmlinuz-*-cloud-amd64"
	if found, _ := filepath.Glob(pattern); len(found) > 0 {
		return found[len(found)-1]
	}
	return pattern
}

// archive is a cpio archive in the format "newc", which Linux unpacks as its
// first file system. Device nodes are the console's.
type archive struct{ bytes.Buffer }

func (a *archive) add(name string, mode int, data []byte) {
	pad := func() {
		for a.Len()%4 != 0 {
			a.WriteByte(0)
		}
	}
	// Inode, mode, owner, group, links, time, size, the device that holds it,
	// the device that it is, length of the name, sum.
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		0, mode, 0, 0, 1, 0, len(data), 0, 0, 5, 1, len(name)+1, 0, name)
	pad()
	a.Write(data)
	pad()
}
