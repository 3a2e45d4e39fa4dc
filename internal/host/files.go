package host

import (
	"context"
	"io"
	"io/fs"
	"time"
)

// FS reads the node's files. A missing path gives an error that matches fs.ErrNotExist.
type FS interface {
	// Lstat describes path itself; only the directories above it are followed.
	Lstat(path string) (FileInfo, error)
	// Stat follows symlinks, always inside the root.
	Stat(path string) (FileInfo, error)
	// Open opens a regular file for reading; anything else is an error (a FIFO would hang).
	Open(path string) (File, error)
	// ReadFile reads a small text file; over limit bytes (0: 16 MiB) it fails.
	ReadFile(path string, limit int64) ([]byte, error)
	// ReadDir lists a directory by name, entries described as by Lstat.
	ReadDir(path string) ([]FileInfo, error)
	// Space is the room on the file system that holds path or its nearest existing parent.
	Space(path string) (Space, error)
	// Label is the SELinux context of path, links followed; empty when it has none.
	Label(path string) (string, error)
}

// File is an open file.
type File interface {
	io.Reader
	io.ReaderAt
	io.Seeker
	io.Closer
}

// FileType is the type of a directory entry.
type FileType string

// The types that matter here.
const (
	TypeFile    FileType = "file"
	TypeDir     FileType = "dir"
	TypeSymlink FileType = "symlink"
	TypeOther   FileType = "other"
)

// FileInfo describes a directory entry; size, times, device and inode tell whether it changed.
type FileInfo struct {
	Path    string      `json:"path"`
	Type    FileType    `json:"type"`
	Mode    fs.FileMode `json:"mode"` // permission, setuid, setgid and sticky bits only
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`
	Size    int64       `json:"size"`
	ModTime time.Time   `json:"modTime"`
	Changed time.Time   `json:"changed"` // ctime
	Dev     uint64      `json:"dev"`
	Inode   uint64      `json:"inode"`
	Target  string      `json:"target,omitempty"` // of a symlink, as stored
}

// Space is the room on a file system, in bytes and inodes.
type Space struct {
	Total      int64  `json:"total"`
	Free       int64  `json:"free"` // for an unprivileged user
	Inodes     int64  `json:"inodes"`
	FreeInodes int64  `json:"freeInodes"`
	ReadOnly   bool   `json:"readOnly"`
	Dev        uint64 `json:"dev"`
}

// FileWriter changes the node's files. Each method is durable when it returns (file and directory synced)
// and all or nothing: killed at any instant, the old or the new state is there, never a part.
type FileWriter interface {
	// Write replaces path by rename from the same directory. Missing parents are an error: they are Dirs.
	Write(ctx context.Context, path string, content []byte, meta Meta) error
	// Append adds to path and syncs it (the journal). It creates the file.
	Append(ctx context.Context, path string, content []byte, meta Meta) error
	// Place puts a copy of a large file at dst, staged in opts.Stage on dst's file system: by reflink, else
	// by hard link where that is safe, else by copy.
	Place(ctx context.Context, src, dst string, opts PlaceOptions) (PlaceResult, error)
	// Mkdir makes one directory, or gives an existing one meta. Its parent must exist.
	Mkdir(ctx context.Context, path string, meta Meta) error
	// Symlink makes or replaces a symlink.
	Symlink(ctx context.Context, path, target string) error
	// Remove removes a file, symlink or empty directory; a missing one is no error.
	Remove(ctx context.Context, path string) error
	// SetMeta changes mode and owner.
	SetMeta(ctx context.Context, path string, meta Meta) error
	// Lock takes the exclusive flock on path, creating it, and writes what into it for the message that the
	// next one sees. Held elsewhere: *LockedError, after wait.
	Lock(ctx context.Context, path, what string, wait time.Duration) (unlock func() error, err error)
}

// Meta is what a written entry gets besides its bytes. A process without root leaves the owner as it is.
type Meta struct {
	Mode fs.FileMode `json:"mode"`
	UID  int         `json:"uid"` // 0 is root
	GID  int         `json:"gid"`
}

// PlaceOptions say how Place works.
type PlaceOptions struct {
	Stage  string // directory for the temporary file, made if missing; on dst's file system
	Meta   Meta
	Size   int64                  // expected; another one is an error
	SHA256 string                 // expected, hex; checked where bytes are copied; empty: not checked
	Done   func(n int64)          // bytes copied so far; may be nil
	Allow  func(PlaceMethod) bool // nil: every method
	Move   bool                   // the source is consumed: rename where possible, remove after a copy
	Local  bool                   // src is a path of this machine, not of the node under a root
}

// PlaceMethod is how a file was placed.
type PlaceMethod string

// From the cheapest.
const (
	PlaceRename  PlaceMethod = "rename"
	PlaceReflink PlaceMethod = "reflink"
	PlaceLink    PlaceMethod = "link" // only when the source is root's and nobody else can write it
	PlaceCopy    PlaceMethod = "copy"
)

// PlaceResult says what Place did.
type PlaceResult struct {
	Method PlaceMethod
	SHA256 string // hex; empty when no byte was read
	Info   FileInfo
}

// LockedError says who holds a lock.
type LockedError struct {
	Path   string
	Holder string // what the holder wrote; may be empty
}

func (e *LockedError) Error() string {
	if e.Holder == "" {
		return "another run holds " + e.Path
	}
	return "another run holds " + e.Path + ": " + e.Holder
}
