//go:build unix

package files

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// access says whether files may be made in a folder.
func access(folder string) error { return unix.Access(folder, unix.W_OK|unix.X_OK) }

// owner says whose a folder is and what would let others write to it.
func owner(folder string) string {
	st, err := os.Stat(folder)
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid, gid := strconv.Itoa(int(sys.Uid)), strconv.Itoa(int(sys.Gid))
	who, group := "user "+uid, "group "+gid
	if u, err := user.LookupId(uid); err == nil {
		who = u.Username
	}
	if g, err := user.LookupGroupId(gid); err == nil {
		group = "group " + g.Name
	}
	whose := fmt.Sprintf("%s belongs to %s, %s, with mode %04o", folder, who, group, sys.Mode&0o7777)
	if groups, err := os.Getgroups(); err == nil && !slices.Contains(append(groups, os.Getegid()), int(sys.Gid)) {
		return whose + ", and you are not in that group"
	}
	return fmt.Sprintf("%s; to share it, %s lets the group write ('chmod -R g+rwX' on the whole store, 'chmod g+s' on its folders) and everybody sets 'umask 002' before running refocus", whose, who)
}
