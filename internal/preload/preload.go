// Package preload knows image archives: it reads and verifies them, and says what a node must be given so
// that its containerd has their images.
//
// An archive is a docker-archive (`docker save`), an OCI layout in a tar, each plain or compressed, or an OCI
// layout directory. Nothing is ever extracted by name: content is found in place and read as a stream, so an
// archive may be hostile and larger than memory.
//
// Open gives the images of an archive to whoever imports them, Inspect verifies every byte of it, Desired
// turns verified archives into resources.
package preload

import (
	"fmt"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// The ids of this package's diagnostics.
const (
	idRead        = "NOD-101" // cannot be read
	idTruncated   = "NOD-102" // ends too early
	idCorrupt     = "NOD-103" // content does not have the digest it is named by
	idFormat      = "NOD-104" // not an image archive
	idCompression = "NOD-105" // packed in a way that cannot be read
	idNoName      = "NOD-106" // images without names
	idLimit       = "NOD-107" // larger or deeper than any real archive
	idMalformed   = "NOD-108" // index or manifest that makes no sense
	idReference   = "NOD-109" // not an image reference
	idRequired    = "NOD-110" // a line of the list of required images
	idIncomplete  = "NOD-111" // an image lacks blobs for the node's platform
	idPlatform    = "NOD-112" // an image is not for the node's platform
	idWindow      = "NOD-113" // zstd window that the distribution's loader refuses
	idMissing     = "NOD-114" // required images that no archive has
	idConflict    = "NOD-115" // one name, two digests
	idLoader      = "NOD-116" // a form that the distribution's loader does not take
	idExternal    = "NOD-117" // an external runtime: the image directory has no effect
	idUnqualified = "NOD-118" // a name that the distribution's loader would take verbatim
	idNameDigest  = "NOD-119" // a name that says another digest
)

// problem makes an error-severity diagnostic about an archive.
func problem(id, path, what, why, fix string) *diag.Diagnostic {
	return &diag.Diagnostic{
		ID: id, Severity: diag.Error, What: what, Where: diag.Where{File: path}, Why: why, Fix: fix,
	}
}

// caused is a diagnostic with the error that led to it.
type caused struct {
	*diag.Diagnostic
	err error
}

func (c *caused) Unwrap() []error { return []error{c.Diagnostic, c.err} }

// because keeps err findable (fs.ErrNotExist, context.Canceled) behind the diagnostic.
func because(err error, d *diag.Diagnostic) error {
	d.What = fmt.Sprintf("%s: %v", d.What, err)
	return &caused{Diagnostic: d, err: err}
}
