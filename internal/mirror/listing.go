package mirror

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// tags serves tags/list with n and last.
func (h *handler) tags(w http.ResponseWriter, r *http.Request, t target) {
	tags, err := h.store.tags(t.name)
	if err != nil {
		h.miss(w, r, t, "NAME_UNKNOWN", "not in the cache")
		return
	}
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		i, exact := slices.BinarySearch(tags, last)
		if exact {
			i++
		}
		tags = tags[i:]
	}
	if n, err := strconv.Atoi(q.Get("n")); err == nil && n >= 0 && n < len(tags) {
		tags = tags[:n]
		if n > 0 {
			w.Header().Set("Link", nextPage(t, n, tags[n-1]))
		}
	}
	writeJSON(w, r, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{t.raw, tags})
}

func nextPage(t target, n int, last string) string {
	q := url.Values{"n": {strconv.Itoa(n)}, "last": {last}}
	if t.ns != "" {
		q.Set("ns", t.ns)
	}
	return "</v2/" + t.raw + "/tags/list?" + q.Encode() + `>; rel="next"`
}

// tags lists the tags of a repository, sorted.
func (s *Store) tags(n Name) ([]string, error) {
	rel := repositoryPath(n) + "/" + dirTags
	entries, err := os.ReadDir(s.path(rel)) // sorted
	if err != nil {
		return nil, s.absent(rel, Unreadable, err)
	}
	tags := []string{}
	for _, e := range entries {
		if !validTag(e.Name()) {
			continue
		}
		if _, err := s.lookup(Reference{Name: n, Tag: e.Name()}); err == nil {
			tags = append(tags, e.Name())
		}
	}
	return tags, nil
}

// referrers serves the manifests of a repository whose subject is a digest; none is an empty index.
func (h *handler) referrers(w http.ResponseWriter, r *http.Request, t target) {
	if t.digest == "" {
		h.miss(w, r, t, "DIGEST_INVALID", "invalid digest")
		return
	}
	found, err := h.store.referrers(t.name, t.digest)
	if err != nil {
		h.miss(w, r, t, "NAME_UNKNOWN", "not in the cache")
		return
	}
	if want := r.URL.Query().Get("artifactType"); want != "" {
		found = slices.DeleteFunc(found, func(d ocispec.Descriptor) bool { return d.ArtifactType != want })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeJSON(w, r, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: found,
	})
}

// referrers reads every manifest that a repository serves: there is no index that could be wrong.
func (s *Store) referrers(n Name, subject digest.Digest) ([]ocispec.Descriptor, error) {
	out := []ocispec.Descriptor{}
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		rel := repositoryPath(n) + "/" + dirDigests + "/" + alg.String()
		entries, err := os.ReadDir(s.path(rel))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, s.absent(rel, Unreadable, err)
		}
		for _, e := range entries {
			ref := Reference{Name: n, Digest: digest.NewDigestFromEncoded(alg, e.Name())}
			if d, ok := s.referrer(ref, subject); ok {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// referrer describes a manifest if its subject is the one asked for.
// Fields: OCI distribution-spec v1.1, "Listing Referrers".
func (s *Store) referrer(ref Reference, subject digest.Digest) (ocispec.Descriptor, bool) {
	if ref.Digest.Validate() != nil {
		return ocispec.Descriptor{}, false
	}
	rec, err := s.lookup(ref)
	if err != nil {
		return ocispec.Descriptor{}, false
	}
	b, err := s.manifest(rec.Digest)
	if err != nil {
		return ocispec.Descriptor{}, false
	}
	var doc manifestDoc
	if json.Unmarshal(b, &doc) != nil || doc.Subject == nil || doc.Subject.Digest != subject {
		return ocispec.Descriptor{}, false
	}
	kind := doc.ArtifactType
	if kind == "" {
		kind = doc.Config.MediaType
	}
	return ocispec.Descriptor{
		MediaType: rec.MediaType, Digest: rec.Digest, Size: rec.Size,
		ArtifactType: kind, Annotations: doc.Annotations,
	}, true
}
