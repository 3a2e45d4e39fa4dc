package preload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// The limits are far above any real archive and keep a hostile one from using memory.
const (
	maxMembers   = 100_000   // files in an archive
	maxName      = 4096      // bytes of a file's name
	maxDocument  = 4 << 20   // one index, manifest or config. containerd: 8 MiB, registries: 4 MiB
	maxDocuments = 128 << 20 // all of them, while a compressed archive is read
	maxDepth     = 4         // indexes within indexes
	maxNodes     = 200_000   // manifests and blobs of one archive
)

// flaw is something wrong with an archive, before it is known which archive that is.
type flaw struct {
	id, what, why, fix string
	err                error // what it was noticed by; may be nil
}

func (f *flaw) Error() string {
	if f.err != nil {
		return f.what + ": " + f.err.Error()
	}
	return f.what
}

func (f *flaw) Unwrap() error { return f.err }

func malformed(format string, args ...any) *flaw {
	return &flaw{
		id: idMalformed, what: fmt.Sprintf(format, args...),
		why: "the archive's own description of its images cannot be followed", fix: "make the archive again",
	}
}

func limit(format string, args ...any) *flaw {
	return &flaw{
		id: idLimit, what: fmt.Sprintf(format, args...),
		why: "no real image archive is like this; it may be damaged or hostile", fix: "make the archive again",
	}
}

func corrupt(format string, args ...any) *flaw {
	return &flaw{
		id: idCorrupt, what: fmt.Sprintf(format, args...),
		why: "containerd would import it without an error, and the container would fail to start",
		fix: "copy the archive again and compare: sha256sum FILE",
	}
}

func truncated(err error) *flaw {
	return &flaw{
		id: idTruncated, what: "the archive ends too early", err: err,
		why: "it was cut short while it was written or copied", fix: "copy the archive again and compare: sha256sum FILE",
	}
}

// explain makes a diagnostic of err for the archive at path.
func explain(path string, err error) error {
	var f *flaw
	var d *diag.Diagnostic
	switch {
	case err == nil || errors.As(err, &d):
		return err
	case errors.As(err, &f):
		p := problem(f.id, path, f.what, f.why, strings.ReplaceAll(f.fix, "FILE", path))
		if f.err != nil {
			return because(f.err, p)
		}
		return p
	case errors.Is(err, io.ErrUnexpectedEOF):
		return explain(path, truncated(err))
	case errors.Is(err, fs.ErrNotExist):
		return because(err, problem(idRead, path, "there is no such archive", "", "correct [images] archives"))
	}
	return because(err, problem(idRead, path, "the archive cannot be read", "", ""))
}

// list names at most n of names.
func list(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}
