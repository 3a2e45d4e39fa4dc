package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image format, schema 2.
const (
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// maxManifest is the largest manifest that containerd reads.
// containerd: core/remotes/docker/resolver.go, MaxManifestSize (v1.6 to v2.4).
const maxManifest = 4 * 1048 * 1048

// maxRecord bounds what is read of a reference file.
const maxRecord = 4096

// record is the content of a reference file. A file below _digests has no time, so that the same manifest
// gives the same bytes on every node and copies merge without a conflict.
type record struct {
	Reference string        `json:"reference"` // what the path says, again: a copy under another name is not it
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`          // of the manifest
	Time      time.Time     `json:"time,omitzero"` // when the tag got this digest
}

// same says whether two records say the same of the image; the time is no part of that.
func (r record) same(o record) bool {
	r.Time, o.Time = time.Time{}, time.Time{}
	return r == o
}

func (r record) encode() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the record of %s: %w", r.Reference, err)
	}
	return append(b, '\n'), nil
}

// decodeRecord reads a reference file that should be ref's.
func decodeRecord(b []byte, ref Reference) (record, error) {
	var r record
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&r); err != nil {
		return record{}, fmt.Errorf("not a reference file: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return record{}, errors.New("not a reference file: something follows the record")
	}
	return r, r.check(ref)
}

func (r record) check(ref Reference) error {
	if r.Reference != ref.String() {
		return fmt.Errorf("it is the record of %q", clip(r.Reference))
	}
	if err := r.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", clip(r.Digest.String()), err)
	}
	if ref.Digest != "" && r.Digest != ref.Digest {
		return fmt.Errorf("digest %s under the name of another", r.Digest)
	}
	if !isManifestType(r.MediaType) {
		return fmt.Errorf("media type %q is not a manifest's", clip(r.MediaType))
	}
	if r.Size <= 0 || r.Size > maxManifest {
		return fmt.Errorf("size %d is not a manifest's", r.Size)
	}
	return nil
}

func isIndexType(mt string) bool { return mt == ocispec.MediaTypeImageIndex || mt == typeDockerList }

func isManifestType(mt string) bool {
	return slices.Contains(manifestTypes(), mt)
}

func manifestTypes() []string {
	return []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, typeDockerManifest, typeDockerList}
}

// baseType strips parameters from a Content-Type, as containerd does.
func baseType(s string) string {
	if mt, _, err := mime.ParseMediaType(s); err == nil {
		return mt
	}
	return s
}

// clip bounds foreign text in messages.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
