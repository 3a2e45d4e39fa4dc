package ctr

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// The findings of an import.
const (
	idSource   = "NOD-151" // the source cannot be read to its end
	idCorrupt  = "NOD-152" // content does not have the digest it is named by
	idMissing  = "NOD-153" // a blob is neither in the source nor in containerd
	idPlatform = "NOD-154" // nothing for the node's platform
	idUnpack   = "NOD-155" // containerd cannot unpack a layer
	idSpace    = "NOD-156" // containerd's disk is full
)

// finding is a diagnostic that keeps its cause for errors.Is.
type finding struct {
	*diag.Diagnostic
	cause error
}

func (f *finding) Unwrap() []error { return []error{f.Diagnostic, f.cause} }

// explain makes a finding of an error where it knows what to do about it. image is empty where several images
// may share what failed.
func (im *importer) explain(ctx context.Context, image string, err error) error {
	var f *finding
	if err == nil || ctx.Err() != nil || errors.As(err, &f) || errors.Is(err, host.ErrUnavailable) {
		return err
	}
	if len(diag.Of(err)) > 0 { // the source knows better
		return err
	}
	if d := im.diagnose(image, err); d != nil {
		d.Severity = diag.Error
		d.Where.Key = "containerd at " + im.r.ep.Socket
		return &finding{d, err}
	}
	if image != "" {
		return im.r.wrap(ctx, "import "+image, err)
	}
	return im.r.wrap(ctx, "import", err)
}

func (im *importer) diagnose(image string, err error) *diag.Diagnostic {
	var corrupt *corruptError
	var source *sourceError
	var missing *missingError
	var unpack *unpackError
	switch {
	// containerd passes the system's words, not its error number.
	case strings.Contains(err.Error(), "no space left on device"):
		return &diag.Diagnostic{ID: idSpace, What: "containerd's disk is full", Why: err.Error(),
			Fix: "df -h " + im.r.rootOrDefault() + "   # make room there, then run edgeprep apply again"}
	case errors.As(err, &corrupt):
		return &diag.Diagnostic{ID: idCorrupt, What: corrupt.Error(), Why: causeText(corrupt.err),
			Fix: "copy the image archive again and compare its sha256 with the one it was made with"}
	case errors.As(err, &source):
		return &diag.Diagnostic{ID: idSource, What: "the image source ends early or cannot be read", Why: err.Error(),
			Fix: "copy the image archive again and compare its sha256 with the one it was made with"}
	case errors.As(err, &missing):
		return &diag.Diagnostic{ID: idMissing, What: subject(image) + " is incomplete: " + missing.Error(),
			Why: "neither the image source nor containerd has it; the archive was made for another platform or is partial",
			Fix: "make the archive again with platform " + im.opts.Platform}
	case errors.Is(err, errNoPlatform):
		return &diag.Diagnostic{ID: idPlatform, What: fmt.Sprintf("%s has nothing for platform %s", subject(image), im.opts.Platform),
			Fix: "make the archive again with platform " + im.opts.Platform}
	case errors.As(err, &unpack):
		return &diag.Diagnostic{ID: idUnpack, What: subject(image) + " cannot be unpacked", Why: err.Error(),
			Fix: "journalctl -u containerd   # says why the " + im.sn + " snapshotter refused it"}
	}
	return nil
}

func (r *Runtime) rootOrDefault() string {
	if r.ep.Root != "" {
		return r.ep.Root
	}
	return "/var/lib/containerd"
}

func subject(image string) string {
	if image == "" {
		return "an image"
	}
	return "image " + image
}

func causeText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
