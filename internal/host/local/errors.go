package local

import (
	"errors"
	"fmt"
	"path"
	"syscall"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// explain wraps the failures of a write that a person can do something about in a diagnostic; errors.Is sees
// through it.
func explain(op, p string, err error) error {
	if err == nil || len(diag.Of(err)) > 0 {
		return err
	}
	err = named(op, p, err)
	for _, k := range knownFailures() {
		if errors.Is(err, k.errno) {
			return fault(k.id, p, op+": "+k.what, k.why, fmt.Sprintf(k.fix, path.Dir(p)), err)
		}
	}
	return err
}

// fault is a diagnostic about a path that keeps its cause.
func fault(id, p, what, why, fix string, cause error) error {
	d := &diag.Diagnostic{ID: id, Severity: diag.Error, What: what, Where: diag.Where{File: p}, Why: why, Fix: fix}
	if cause == nil {
		return d
	}
	return &causedError{diag: d, cause: cause}
}

// causedError is a diagnostic and the error behind it.
type causedError struct {
	diag  *diag.Diagnostic
	cause error
}

func (e *causedError) Error() string   { return e.diag.Error() }
func (e *causedError) Unwrap() []error { return []error{e.diag, e.cause} }

type knownFailure struct {
	errno syscall.Errno
	id    string
	what  string
	why   string
	fix   string // %s is the directory
}

// knownFailures are what the kernel says of a disk, in words. The ids are part of the catalogue of errors:
// never reused.
func knownFailures() []knownFailure {
	return []knownFailure{
		{syscall.ENOSPC, "APL-050", "no space left", "the file system is full, in bytes or inodes; nothing was changed", "df -h %[1]s; df -i %[1]s"},
		{syscall.EDQUOT, "APL-050", "no space left", "the quota is used up; nothing was changed", "quota -v; df -h %s"},
		{syscall.EROFS, "APL-051", "read-only file system", "the file system is mounted read-only, or turned so after an error; nothing was changed", "findmnt -T %s"},
		{syscall.EXDEV, "APL-052", "on another file system", "a file can only be renamed within one file system; nothing was changed", "findmnt -T %s"},
		{syscall.EACCES, "APL-053", "not permitted", "this user may not write there", "sudo edgeprep apply   # or see: ls -ld %s"},
		{syscall.EPERM, "APL-053", "not permitted", "this user may not, or the entry is immutable", "lsattr -d %s"},
		{syscall.EIO, "APL-057", "input/output error", "the disk or its controller reports a fault", "dmesg | tail -n 50; findmnt -T %s"},
		{syscall.ENOTDIR, "APL-058", "not a directory", "a part of the path is a file", "ls -ld %s"},
		{syscall.EISDIR, "APL-059", "is a directory", "a directory is where a file should be", "ls -la %s"},
	}
}
