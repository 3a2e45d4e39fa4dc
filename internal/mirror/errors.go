package mirror

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// ErrNotFound says that the cache has no such reference or blob.
var ErrNotFound = errors.New("not in the cache")

// lacking is ErrNotFound of an upstream: it was asked, and the cache has nothing to do with it.
type lacking struct{}

func (lacking) Error() string        { return "the upstream does not have it" }
func (lacking) Is(target error) bool { return target == ErrNotFound }

var errLacking = lacking{}

// errCorrupt says that a blob is there but is not what its name says.
var errCorrupt = errors.New("the content does not match its digest")

// failure is a diagnostic that keeps its cause for errors.Is.
type failure struct {
	d     *diag.Diagnostic
	cause error
}

func (e *failure) Error() string {
	if e.cause == nil {
		return e.d.Error()
	}
	return e.d.Error() + ": " + e.cause.Error()
}

func (e *failure) Unwrap() []error { return []error{e.d, e.cause} }

// fail makes a diagnostic about a file, or whatever where names.
func fail(id, where, what, why, fix string, cause error) error {
	if why == "" && cause != nil { // else nobody would see it
		why = cause.Error()
	}
	return &failure{cause: cause, d: &diag.Diagnostic{
		ID: id, Severity: diag.Error, What: what, Where: diag.Where{File: where}, Why: why, Fix: fix,
	}}
}

// writeError says what stopped a write to the cache.
func writeError(dir, what string, err error) error {
	const why = "what was there before is whole and is served"
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fail("MER-002", dir, "no space left while writing "+what, why, "free some space: df -h "+diag.Word(dir), err)
	case errors.Is(err, syscall.EROFS):
		return fail("MER-003", dir, "the cache is on a read-only file system", why, "mount -o remount,rw the file system of "+diag.Word(dir), err)
	case errors.Is(err, fs.ErrPermission):
		return fail("MER-004", dir, "not allowed to write "+what, "the cache belongs to another user",
			"run this as root or as the owner: stat -c %U "+diag.Word(dir), err)
	}
	return fmt.Errorf("write %s in the cache %s: %w", what, dir, err)
}
