package preload

import (
	"bytes"
	"context"
	_ "crypto/sha512" // digests of that algorithm are allowed in an OCI layout
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
)

// sums is what was learnt from a member's bytes. Fields are empty when it was not asked for.
type sums struct {
	digest string      // of the bytes
	diff   string      // of the bytes unpacked; only of docker-archive layers that are packed
	packed Compression // by content
	known  bool        // packed is known
	plain  int64       // size unpacked: exact for plain bytes, else what the packed form says of itself
}

// inventory is what is in an archive or layout directory, by cleaned name. Of several files with one name the
// last counts, as it would after extraction.
type inventory struct {
	members map[string]*member
	links   map[string]string // symlinks: only docker's own kind of archive has use for them
	docs    map[string][]byte // JSON documents that were met on a stream
	// open reads a member; nil for a compressed archive, which can only be read in order.
	open func(*member) (io.ReadCloser, error)
}

func newInventory() *inventory {
	return &inventory{members: map[string]*member{}, docs: map[string][]byte{}}
}

// claimed is the digest that a name of an OCI layout stands for: "blobs/sha256/…".
func claimed(name string) (digest.Digest, bool) {
	algorithm, hex, ok := strings.Cut(strings.TrimPrefix(name, "blobs/"), "/")
	if !ok || !strings.HasPrefix(name, "blobs/") {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return d, d.Validate() == nil
}

// blobName is where an OCI layout keeps a blob.
func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// document reads a small JSON member; ok is false when there is none of that name.
func (v *inventory) document(name string) (b []byte, ok bool, err error) {
	m, ok := v.members[name]
	if !ok {
		return nil, false, nil
	}
	if m.size > maxDocument {
		return nil, true, limit("%q in the archive has %d bytes; %d are allowed", name, m.size, maxDocument)
	}
	if v.open == nil {
		b, ok := v.docs[name]
		if !ok {
			return nil, true, malformed("%q in the archive is not the JSON that it should be", name)
		}
		return b, true, nil
	}
	r, err := v.open(m)
	if err != nil {
		return nil, true, err
	}
	defer r.Close()
	b = make([]byte, m.size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, true, fmt.Errorf("read %s: %w", name, err)
	}
	return b, true, nil
}

// measure fills in what resolving a docker-archive needs of a layer and a stream had no chance to give.
func (v *inventory) measure(ctx context.Context, m *member, want measures) error {
	if v.open == nil || m.sum.known && (!want.digest || m.sum.digest != "") {
		return nil
	}
	r, err := v.open(m)
	if err != nil {
		return err
	}
	defer r.Close()
	m.sum, err = sum(ctx, m.name, r, want)
	return err
}

// looksJSON says whether content may be a document.
func looksJSON(head []byte) bool {
	head = bytes.TrimLeft(head, " \t\r\n")
	return len(head) > 0 && (head[0] == '{' || head[0] == '[')
}
