package host

import (
	"context"
	"io"
	"time"
)

// Runtime reads images through the containerd API. Unreachable: an error that wraps ErrUnavailable.
type Runtime interface {
	// Version is containerd's own, "2.4.2".
	Version(ctx context.Context) (string, error)
	// Images lists every image record of the namespace.
	Images(ctx context.Context) ([]Image, error)
	// BlobSize says whether the content store has a blob, and its size.
	BlobSize(ctx context.Context, digest string) (size int64, ok bool, err error)
	// OpenBlob reads a blob.
	OpenBlob(ctx context.Context, digest string) (io.ReadCloser, error)
	// Unpacked says whether the layers of the image's manifest for the platform are committed in the snapshotter.
	Unpacked(ctx context.Context, name, platform, snapshotter string) (bool, error)
	// Leases lists leases.
	Leases(ctx context.Context) ([]Lease, error)
	// Plugins lists containerd's plugins, those that did not load with the reason.
	Plugins(ctx context.Context) ([]Plugin, error)
}

// RuntimeControl changes images.
type RuntimeControl interface {
	Runtime
	// Import brings images in: what is there already is not sent again; an image that is not complete at the
	// end has no record. It works under a lease of its own and removes it, and those a killed run left.
	Import(ctx context.Context, src ImageSource, opts ImportOptions) (ImportReport, error)
	// SetImage makes or replaces a record (a pin, a second name, an undo).
	SetImage(ctx context.Context, img Image) error
	// RemoveImage removes a record; missing is no error.
	RemoveImage(ctx context.Context, name string) error
	// InUse lists the image names that containers of the namespace use.
	InUse(ctx context.Context) ([]string, error)
}

// Image is an image record.
type Image struct {
	Name   string            `json:"name"`
	Target Descriptor        `json:"target"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Plugin is a part of containerd.
type Plugin struct {
	Type    string            `json:"type"`              // "io.containerd.snapshotter.v1"
	ID      string            `json:"id"`                // "overlayfs"
	Error   string            `json:"error,omitempty"`   // why it did not load; empty: it did
	Exports map[string]string `json:"exports,omitempty"` // what it tells of itself: "root"
}

// Lease is a containerd lease.
type Lease struct {
	ID      string            `json:"id"`
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Descriptor points to content, as in the OCI image specification.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"` // "sha256:…"
	Size        int64             `json:"size"`
	Platform    string            `json:"platform,omitempty"` // "linux/arm64/v8"; empty when not said
	Annotations map[string]string `json:"annotations,omitempty"`
}

// ImageSource is a set of images ready to be brought in: an archive, an OCI layout, a mirror's cache.
type ImageSource interface {
	// Images are the image records it would make, names normalised ("docker.io/library/busybox:1.36").
	Images() []Image
	// Blobs are all blobs that Images reach and the source holds, each once, in the order of the source.
	Blobs() []Descriptor
	// Open reads one blob, independent of other readers. A source that cannot seek (a compressed archive)
	// returns ErrNotSeekable.
	Open(ctx context.Context, digest string) (io.ReadCloser, error)
	// Each streams the wanted blobs once, in the order of the source, one at a time.
	Each(ctx context.Context, want func(Descriptor) bool, fn func(Descriptor, io.Reader) error) error
	// Close frees what it holds.
	Close() error
}

// ErrNotSeekable says that blobs can only be read in order, by Each.
const ErrNotSeekable = sourceError("the source can only be read in order")

type sourceError string

func (e sourceError) Error() string { return string(e) }

// ImportOptions say how images are brought in.
type ImportOptions struct {
	Platform    string            // "linux/amd64"; what is needed complete; other platforms' content is skipped
	Snapshotter string            // the CRI's; empty: the endpoint's, else "overlayfs"
	Unpack      bool              // commit the layers to the snapshotter
	Pin         bool              // keep kubelet from collecting it: label on a `repo@sha256:…` record
	Labels      map[string]string // own labels for every record made
	Progress    func(ImportProgress)
}

// ImportProgress is how far an import is.
type ImportProgress struct {
	Image       string // what is worked on
	Phase       string // "content", "unpack"
	Done, Total int64  // bytes
}

// ImportReport says what an import did.
type ImportReport struct {
	Created []string // record names made or changed
	Present []string // names that were there, complete
	Bytes   int64    // content bytes sent
}

// CRI asks the kubelet's questions. Unreachable or without the CRI plugin: wraps ErrUnavailable.
type CRI interface {
	Version(ctx context.Context) (CRIVersion, error)
	Status(ctx context.Context) (CRIStatus, error)
	// ImageStatus is kubelet's own presence test, for the exact reference form; ok is false when absent.
	ImageStatus(ctx context.Context, ref string) (img CRIImage, ok bool, err error)
	// PullAbsent asks for a reference that cannot exist and returns the runtime's error (nil error with a
	// nil result never happens: success of such a pull is an error too). Nothing is stored.
	PullAbsent(ctx context.Context, ref string) error
}

// CRIVersion is the answer of RuntimeService.Version.
type CRIVersion struct {
	Name, Version, API string
}

// CRIStatus is the answer of RuntimeService.Status, verbose.
type CRIStatus struct {
	RuntimeReady bool
	NetworkReady bool
	SandboxImage string // the effective pause image
	Snapshotter  string
	ConfigPath   string // the effective registry config_path
	RawConfig    string // the "config" JSON of the verbose answer
}

// CRIImage is what CRI knows of an image.
type CRIImage struct {
	ID          string
	RepoTags    []string
	RepoDigests []string
	Size        uint64
	Pinned      bool
}
