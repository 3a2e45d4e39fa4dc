package local

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// labelName is where Linux keeps SELinux contexts: include/uapi/linux/xattr.h.
const labelName = "security.selinux"

func (f fileSystem) Label(p string) (string, error) {
	real, err := f.root.resolve(p, true)
	if err != nil {
		return "", err
	}
	// A context has no fixed limit; the kernel's own is a page.
	buf := make([]byte, 4096)
	n, err := unix.Getxattr(real, labelName, buf)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return "", nil
	case err != nil:
		return "", named("label", p, err)
	}
	return strings.TrimRight(string(buf[:n]), "\x00"), nil
}
