// Package resource holds the desired state of a node as values: what should be there, in which order it may
// be brought about, and why. Nothing here reads or writes a node.
package resource

import (
	"io/fs"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Kind says which of a Resource's specs is set.
type Kind string

// The kinds.
const (
	KindFile     Kind = "file"
	KindDir      Kind = "dir"
	KindSymlink  Kind = "symlink"
	KindUnit     Kind = "unit"
	KindUser     Kind = "user"
	KindArchive  Kind = "archive"
	KindImageSet Kind = "images"
	KindGate     Kind = "gate"
)

// Resource is one piece of desired state. Exactly one spec is set, the one that Kind names.
type Resource struct {
	ID    string   `json:"id"` // KIND ":" path or name; unique in a plan
	Kind  Kind     `json:"kind"`
	After []string `json:"after,omitempty"` // ids that must be done first; an unknown id is an error
	Why   string   `json:"why,omitempty"`   // for people, shown in the plan

	File     *File     `json:"file,omitempty"`
	Dir      *Dir      `json:"dir,omitempty"`
	Symlink  *Symlink  `json:"symlink,omitempty"`
	Unit     *Unit     `json:"unit,omitempty"`
	User     *User     `json:"user,omitempty"`
	Archive  *Archive  `json:"archive,omitempty"`
	ImageSet *ImageSet `json:"images,omitempty"`
	Gate     *Gate     `json:"gate,omitempty"`
}

// File is a text file with known content.
type File struct {
	Path    string      `json:"path"`
	Content []byte      `json:"-"`
	Mode    fs.FileMode `json:"mode"`
	Owner   string      `json:"owner,omitempty"` // account, or the number of a user and group; empty: root
	// Shared: the file is somebody else's too. Content is what is there now with ours merged in, made from
	// the bytes whose hex sha256 is Base (empty: there was no file). Such a merge is no overwriting; mode
	// and owner of an existing shared file are kept.
	Shared bool   `json:"shared,omitempty"`
	Base   string `json:"base,omitempty"`
	// Secret: the content must not be shown in a diff, log or report.
	Secret bool `json:"secret,omitempty"`
	// Ephemeral: belongs to the run, not to the ledger's drift report (none so far but result files).
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// Dir is a directory.
type Dir struct {
	Path  string      `json:"path"`
	Mode  fs.FileMode `json:"mode"`
	Owner string      `json:"owner,omitempty"` // as a file's
	// Keep: an existing directory stays as it is, whatever its mode and owner.
	Keep bool `json:"keep,omitempty"`
	// Parts: a directory of root's that holds nothing but these is edgeprep's own, filled before Owner was an
	// account. It changes hands, and with it what root owns in its parts.
	Parts []string `json:"parts,omitempty"`
}

// Symlink is a symbolic link.
type Symlink struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// Unit is a systemd unit: one of ours, or one of the distribution's that must take a change in.
type Unit struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled,omitempty"` // start at boot
	Active  bool   `json:"active,omitempty"`  // running now
	// Foreign: not ours. Its enablement and state are left alone; a restart is disruptive and needs
	// --allow restart, and is not done when it is not running.
	Foreign bool `json:"foreign,omitempty"`
	// RestartOn: ids; when one of them changes the unit is restarted, once, if it runs. The debt outlives a
	// killed run.
	RestartOn []string `json:"restartOn,omitempty"`
}

// User is a system account, described by a sysusers.d file that is its own File resource.
type User struct {
	Name string `json:"name"`
	Home string `json:"home,omitempty"`
}

// Archive is a large file placed by name: an image archive in a watched directory.
type Archive struct {
	Source string      `json:"source"`
	Path   string      `json:"path"`
	Size   int64       `json:"size"`
	SHA256 string      `json:"sha256"` // hex
	Mode   fs.FileMode `json:"mode"`
	Stage  string      `json:"stage"` // directory for the temporary file
	// Consume: the source may be moved ([images] consume = true).
	Consume bool     `json:"consume,omitempty"`
	Images  []string `json:"images,omitempty"` // references in it, for people
	// Local: Source is a path of this machine, not of the node under --root: edgeprep's own binary.
	Local bool `json:"local,omitempty"`
	// Made: Source is no file but the name of something that is made, always the same, when it is placed: the
	// mirror's own image.
	Made bool `json:"made,omitempty"`
}

// ImageTarget is where an image set goes.
type ImageTarget string

// The targets.
const (
	TargetRuntime ImageTarget = "runtime" // containerd's store, over its client
	TargetCache   ImageTarget = "cache"   // the mirror's cache on disk
)

// ImageSet is a set of images that must be complete somewhere.
type ImageSet struct {
	Target   ImageTarget    `json:"target"`
	Endpoint host.Endpoint  `json:"endpoint,omitzero"` // TargetRuntime
	Cache    string         `json:"cache,omitempty"`   // TargetCache: the cache's root directory
	Owner    string         `json:"owner,omitempty"`   // TargetCache: account the files belong to
	Archives []ImageArchive `json:"archives"`
	Platform string         `json:"platform"` // "linux/amd64"
	Unpack   bool           `json:"unpack,omitempty"`
	Pin      bool           `json:"pin,omitempty"`
}

// ImageArchive is one source of an ImageSet and what it holds.
type ImageArchive struct {
	Path   string      `json:"path"`
	Size   int64       `json:"size"`
	SHA256 string      `json:"sha256"` // hex
	Images []ImageName `json:"images"`
}

// ImageName is a reference and the digest of what it names.
type ImageName struct {
	Name   string `json:"name"`   // "docker.io/library/busybox:1.36"
	Digest string `json:"digest"` // of the index or manifest, "sha256:…"
}

// Gate is something that must be true before what comes after it is done. It changes nothing.
type Gate struct {
	HTTP   *HTTPGate     `json:"http,omitempty"`
	CRI    *CRIGate      `json:"cri,omitempty"`
	Within time.Duration `json:"within"` // how long to try
}

// HTTPGate is open when the mirror at URL answers for every reference.
type HTTPGate struct {
	URL   string   `json:"url"`   // "http://127.0.0.1:5000"
	Names []string `json:"names"` // references that it must answer a HEAD for, by ?ns=; may be empty
	CA    string   `json:"ca,omitempty"`
	// Files of what is shown to a mirror that asks for a client certificate; empty: nothing.
	ClientCert string `json:"clientCert,omitempty"`
	ClientKey  string `json:"clientKey,omitempty"`
}

// CRIGate is open when the CRI service answers with its plugin loaded, and has the images.
type CRIGate struct {
	Endpoint host.Endpoint `json:"endpoint"`
	Images   []string      `json:"images,omitempty"`  // references that it must have
	Sandbox  bool          `json:"sandbox,omitempty"` // also the image that it makes sandboxes of
}

// ID makes a resource id.
func ID(k Kind, name string) string { return string(k) + ":" + name }
