//go:build unix

package host

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// dubious says why others than this user and root have a say about a file or folder: it
// belongs to one, or others may write to it. A folder that is sticky protects what is in
// it, unless strict, of which everything but such a folder is.
func dubious(path string, strict bool) string {
	st, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid, mode := int(sys.Uid), st.Mode()
	switch {
	case uid != 0 && uid != os.Geteuid() && !behindSudo(uid):
		return path + " belongs to " + userName(uid)
	case mode.IsDir() && mode&fs.ModeSticky != 0 && !strict:
		return ""
	case mode.Perm()&0o002 != 0:
		return fmt.Sprintf("everybody may write to %s (`chmod o-w %s` ends it)", path, path)
	case mode.Perm()&0o020 != 0 && sys.Gid != 0 && !ownGroup(int(sys.Gid)):
		return fmt.Sprintf("group %s may write to %s (`chmod g-w %s` ends it)", groupName(int(sys.Gid)), path, path)
	}
	return ""
}

// behindSudo reports whether root acts for the user.
func behindSudo(uid int) bool {
	return os.Geteuid() == 0 && os.Getenv("SUDO_UID") == strconv.Itoa(uid)
}

// ownGroup reports whether a group is the user's private one, as systems make it that
// set the umask 002: of the user's name, and the group that the user belongs to first.
func ownGroup(gid int) bool {
	u, err := user.LookupId(strconv.Itoa(os.Geteuid()))
	return err == nil && u.Gid == strconv.Itoa(gid) && groupName(gid) == u.Username
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return "user " + u.Username
	}
	return fmt.Sprintf("user %d", uid)
}

func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}
