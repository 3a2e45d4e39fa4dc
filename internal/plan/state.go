package plan

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// UnknownID stands for an owner that is not known or not compared.
const UnknownID = -1

// State is what is, was or will be at one place of a node. One of its groups of fields is used.
type State struct {
	// A path.
	Type   host.FileType `json:"type,omitempty"`
	Mode   fs.FileMode   `json:"mode,omitempty"`
	UID    int           `json:"uid,omitempty"` // UnknownID: not known
	GID    int           `json:"gid,omitempty"`
	Size   int64         `json:"size,omitempty"`
	SHA256 string        `json:"sha256,omitempty"` // hex, of a file's content
	Target string        `json:"target,omitempty"` // of a symlink
	Stamp  *Stamp        `json:"stamp,omitempty"`  // of a large file: tells without reading that it is the same

	Unit    *UnitState           `json:"unit,omitempty"`
	Account *host.Account        `json:"account,omitempty"`
	Image   *host.Image          `json:"image,omitempty"`  // one image record
	Images  []resource.ImageName `json:"images,omitempty"` // a set, sorted by name
}

// UnitState is a unit's enablement and activity.
type UnitState struct {
	Load    string `json:"load,omitempty"`
	Enabled string `json:"enabled,omitempty"`
	Active  string `json:"active,omitempty"`
}

// Stamp tells whether a file is the one whose content is known. The device is not in it: its number may be
// another one after a reboot.
type Stamp struct {
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"` // nanoseconds since 1970
	Inode   uint64 `json:"inode"`
}

// StampOf is the stamp of a file.
func StampOf(fi host.FileInfo) Stamp {
	return Stamp{Size: fi.Size, ModTime: fi.ModTime.UnixNano(), Inode: fi.Inode}
}

// Target is one place that a change touches, with what was there before and after. Exactly one of the names
// is set. The journal holds targets; a rollback turns them round.
type Target struct {
	Path     string        `json:"path,omitempty"`
	Unit     string        `json:"unit,omitempty"`
	Image    string        `json:"image,omitempty"`   // a record of the containerd at Endpoint
	Endpoint host.Endpoint `json:"endpoint,omitzero"` // of Image
	Before   *State        `json:"before,omitempty"`  // nil: nothing
	After    *State        `json:"after,omitempty"`   // nil: nothing
}

// Key names the place.
func (t Target) Key() string {
	switch {
	case t.Path != "":
		return "path:" + t.Path
	case t.Unit != "":
		return "unit:" + t.Unit
	}
	return "image:" + t.Endpoint.Socket + ":" + t.Endpoint.Namespace + ":" + t.Image
}

// Name is the place for people.
func (t Target) Name() string { return t.Path + t.Unit + t.Image }

// Same says whether two states are the same for whoever uses the node; nil is nothing there. Times and inodes
// do not count.
func Same(a, b *State) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	switch {
	case a.Unit != nil && b.Unit != nil:
		return a.Unit.same(*b.Unit)
	case a.Image != nil && b.Image != nil:
		return sameImage(*a.Image, *b.Image)
	case a.Account != nil && b.Account != nil:
		return a.Account.Name == b.Account.Name
	}
	return samePath(*a, *b) && slices.Equal(a.Images, b.Images)
}

// same compares what a rollback can put back: a failed unit and an inactive one are both not running.
func (u UnitState) same(o UnitState) bool {
	return unit(u).IsEnabled() == unit(o).IsEnabled() && unit(u).Running() == unit(o).Running()
}

func unit(u UnitState) host.Unit {
	return host.Unit{Load: u.Load, Enabled: u.Enabled, Active: u.Active}
}

// Running says whether the unit runs.
func (u UnitState) Running() bool { return unit(u).Running() }

// IsEnabled says whether the unit starts at boot.
func (u UnitState) IsEnabled() bool { return unit(u).IsEnabled() }

// UnitStateOf takes over what is compared.
func UnitStateOf(u host.Unit) *State {
	return &State{Unit: &UnitState{Load: u.Load, Enabled: u.Enabled, Active: u.Active}}
}

// CRIManaged is the label by which containerd's CRI plugin marks records that it knows.
// containerd: internal/cri/labels, since v1.0
const CRIManaged = criLabels + "image"

const criLabels = "io.cri-containerd."

// sameImage leaves the CRI plugin's labels out: it sets them some time after a record is made (also the pin
// of its sandbox image, since 2.0), so they say nothing of who changed the record.
func sameImage(a, b host.Image) bool {
	return a.Name == b.Name && a.Target.Digest == b.Target.Digest && maps.Equal(ownLabels(a), ownLabels(b))
}

func ownLabels(i host.Image) map[string]string {
	out := maps.Clone(i.Labels)
	maps.DeleteFunc(out, func(k, _ string) bool { return strings.HasPrefix(k, criLabels) })
	return out
}

func samePath(a, b State) bool {
	if a.Type != b.Type || a.Target != b.Target || (a.Type == host.TypeFile && !sameContent(a, b)) {
		return false
	}
	// A symlink's mode means nothing on Linux.
	return a.Type == host.TypeSymlink || (a.Mode == b.Mode && sameID(a.UID, b.UID) && sameID(a.GID, b.GID))
}

// sameContent compares hashes, and stamps where a large file was not read.
func sameContent(a, b State) bool {
	if a.Size != b.Size {
		return false
	}
	if a.SHA256 != "" && b.SHA256 != "" {
		return a.SHA256 == b.SHA256
	}
	return a.Stamp != nil && b.Stamp != nil && *a.Stamp == *b.Stamp
}

func sameID(a, b int) bool { return a == b || a == UnknownID || b == UnknownID }

// meta is "0644", with the owner when it is not root.
func (s State) meta() string {
	m := fmt.Sprintf("%04o", modeBits(s.Mode))
	if s.UID > 0 || s.GID > 0 {
		m += fmt.Sprintf(" %d:%d", s.UID, s.GID)
	}
	return m
}

// modeBits is a mode as chmod(1) writes it.
func modeBits(m fs.FileMode) uint32 {
	b := uint32(m.Perm())
	for bit, v := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			b |= v
		}
	}
	return b
}

func sortImages(in []resource.ImageName) []resource.ImageName {
	slices.SortFunc(in, func(a, b resource.ImageName) int {
		return strings.Compare(a.Name+"\x00"+a.Digest, b.Name+"\x00"+b.Digest)
	})
	return slices.Compact(in)
}
