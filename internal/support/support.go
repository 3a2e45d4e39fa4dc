// Package support writes what somebody who helps from afar needs to see of a node: one archive of text files,
// without secrets and of bounded size. It sends nothing anywhere.
package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/redact"
)

// The limits of a bundle, before compression.
const (
	DefaultMaxFile  = 2 << 20
	DefaultMaxTotal = 64 << 20
)

// ContentsName is the last file of a bundle: what it holds, what was cut, what is missing and why.
const ContentsName = "contents.json"

// Keep says which end of a file that is too long counts.
type Keep int

// The ends.
const (
	Head Keep = iota // of configurations
	Tail             // of logs
)

// Options say how a bundle is made.
type Options struct {
	Name     string // of the directory that everything lies in
	Gzip     bool   // instead of zstd
	Time     time.Time
	Redactor *redact.Redactor
	MaxFile  int64 // 0: DefaultMaxFile
	MaxTotal int64 // 0: DefaultMaxTotal
}

// Entry is one file of a bundle, or one that could not be had.
type Entry struct {
	Name    string `json:"name"`
	Source  string `json:"source"`            // path on the node, or the command or API that gave it
	Size    int64  `json:"size"`              // bytes in the bundle
	Cut     int64  `json:"cut,omitempty"`     // bytes of the source that were left out
	Missing string `json:"missing,omitempty"` // why it is not there
}

// Bundle is being written. Errors stick: Close gives the first.
type Bundle struct {
	opts    Options
	pack    io.WriteCloser
	tar     *tar.Writer
	left    int64
	entries []Entry
	names   map[string]bool
	err     error
}

// New begins a bundle on w.
func New(w io.Writer, o Options) (*Bundle, error) {
	if o.MaxFile == 0 {
		o.MaxFile = DefaultMaxFile
	}
	if o.MaxTotal == 0 {
		o.MaxTotal = DefaultMaxTotal
	}
	if o.Redactor == nil {
		o.Redactor = &redact.Redactor{}
	}
	b := &Bundle{opts: o, left: o.MaxTotal, names: map[string]bool{}}
	if o.Gzip {
		b.pack = gzip.NewWriter(w)
	} else {
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
		if err != nil {
			return nil, fmt.Errorf("support bundle: %w", err)
		}
		b.pack = z
	}
	b.tar = tar.NewWriter(b.pack)
	b.err = b.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: o.Name + "/", Mode: 0o700, ModTime: o.Time})
	return b, b.err
}

// MaxFile is the most that is kept of one file.
func (b *Bundle) MaxFile() int64 { return b.opts.MaxFile }

// Text adds a file, its secrets hidden. cut is what the caller has left out of it already.
func (b *Bundle) Text(name, source string, content []byte, keep Keep, cut int64) {
	if !utf8.Valid(content) || bytes.IndexByte(content, 0) >= 0 {
		b.Missing(name, source, "it is not text")
		return
	}
	text := b.opts.Redactor.Text(string(content))
	limit := min(b.opts.MaxFile, b.left)
	if over := int64(len(text)) - limit; over > 0 {
		cut += over
		if keep == Tail {
			text = text[over:]
		} else {
			text = text[:limit]
		}
		text = b.opts.Redactor.Text(strings.ToValidUTF8(text, "")) // the cut may have made a new form of an old secret
	}
	if text == "" && cut > 0 {
		b.Missing(name, source, "the bundle is full")
		return
	}
	b.write(name, []byte(text))
	b.left -= int64(len(text))
	b.entries = append(b.entries, Entry{Name: name, Source: source, Size: int64(len(text)), Cut: cut})
}

// JSON adds a value.
func (b *Bundle) JSON(name, source string, v any) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		b.Missing(name, source, err.Error())
		return
	}
	b.Text(name, source, buf.Bytes(), Head, 0)
}

// Missing says why something is not there.
func (b *Bundle) Missing(name, source, why string) {
	b.entries = append(b.entries, Entry{Name: name, Source: source, Missing: b.opts.Redactor.Text(why)})
}

// Add is Text, or Missing where there is an error.
func (b *Bundle) Add(name, source string, content []byte, err error, keep Keep) {
	if err != nil {
		b.Missing(name, source, err.Error())
		return
	}
	b.Text(name, source, content, keep, 0)
}

func (b *Bundle) write(name string, content []byte) {
	if b.err != nil {
		return
	}
	name = path.Join("/", name)[1:] // nothing leads out of the directory
	if b.names[name] {
		b.err = fmt.Errorf("support bundle: two files are named %s", name)
		return
	}
	b.names[name] = true
	h := &tar.Header{Typeflag: tar.TypeReg, Name: b.opts.Name + "/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: b.opts.Time}
	if b.err = b.tar.WriteHeader(h); b.err == nil {
		_, b.err = b.tar.Write(content)
	}
}

// Entries are what the bundle holds and misses so far.
func (b *Bundle) Entries() []Entry { return b.entries }

// Close writes the list of contents and ends the bundle.
func (b *Bundle) Close() error {
	data, err := json.MarshalIndent(map[string]any{"schema": 1, "made": b.opts.Time, "files": b.entries}, "", "  ")
	if b.err == nil {
		b.err = err
	}
	b.write(ContentsName, append(data, '\n'))
	for _, c := range []io.Closer{b.tar, b.pack} {
		if err := c.Close(); b.err == nil {
			b.err = err
		}
	}
	if b.err != nil {
		return fmt.Errorf("write the support bundle: %w", b.err)
	}
	return nil
}

// WriteEntries lists what a bundle holds, for people.
func WriteEntries(w io.Writer, entries []Entry) error {
	var out strings.Builder
	for _, e := range entries {
		switch {
		case e.Missing != "":
			fmt.Fprintf(&out, "  %-10s %s: %s\n", "-", e.Name, firstLine(e.Missing))
		case e.Cut > 0:
			fmt.Fprintf(&out, "  %-10s %s (%s more were left out)\n", progress.Bytes(e.Size), e.Name, progress.Bytes(e.Cut))
		default:
			fmt.Fprintf(&out, "  %-10s %s\n", progress.Bytes(e.Size), e.Name)
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
