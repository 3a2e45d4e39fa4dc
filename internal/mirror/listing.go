package mirror

import (
	"context"
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
	q := r.URL.Query()
	last := q.Get("last")
	tags, err := h.listTags(r.Context(), t.name, last != "")
	if err != nil {
		h.miss(w, r, t, "NAME_UNKNOWN", reason(err))
		return
	}
	if last != "" {
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

// listTags is for the pages after the first when later is set.
func (h *handler) listTags(ctx context.Context, n Name, later bool) ([]string, error) {
	if h.pull != nil {
		return h.pull.tags(ctx, n, later)
	}
	return h.store.tags(n)
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
	if errors.Is(err, fs.ErrNotExist) && s.isDir(repositoryPath(n)+"/"+dirDigests) {
		err = nil // its images are known by digest only
	}
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
		refuse(w, r, http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
		return
	}
	found := h.listReferrers(r.Context(), t.name, t.digest)
	if want := r.URL.Query().Get("artifactType"); want != "" {
		found = slices.DeleteFunc(found, func(d ocispec.Descriptor) bool { return d.ArtifactType != want })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeJSON(w, r, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: found,
	})
}

// listReferrers merges what the cache and the upstream know. That nothing is known is an answer, too: a client
// that checks for signatures must not take it for a registry without referrers.
func (h *handler) listReferrers(ctx context.Context, n Name, subject digest.Digest) []ocispec.Descriptor {
	if h.pull != nil {
		h.pull.settled(ctx, n)
	}
	lists := [][]ocispec.Descriptor{h.store.referrers(n, subject), h.store.tagged(n, subject)}
	if h.pull != nil {
		if up, err := h.pull.referrers(ctx, n, subject); err == nil {
			lists = append(lists, up)
		}
	}
	out, seen, room := []ocispec.Descriptor{}, map[digest.Digest]bool{}, maxList
	for _, d := range slices.Concat(lists...) {
		b, err := json.Marshal(d)
		if err != nil || seen[d.Digest] || d.Digest.Validate() != nil || d.Size < 0 {
			continue
		}
		seen[d.Digest] = true
		if room -= len(b); room < 0 {
			break
		}
		out = append(out, d)
	}
	return out
}

// tagged is the list of referrers that a client keeps under a tag, when that was pulled.
func (s *Store) tagged(n Name, subject digest.Digest) []ocispec.Descriptor {
	_, body, err := s.image(Reference{Name: n, Tag: fallbackTag(subject)})
	if err != nil {
		return nil
	}
	var idx ocispec.Index
	if json.Unmarshal(body, &idx) != nil {
		return nil
	}
	return idx.Manifests
}

// referrers reads every manifest that a repository serves: there is no index that could be wrong. A directory
// that cannot be read has none.
func (s *Store) referrers(n Name, subject digest.Digest) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		rel := repositoryPath(n) + "/" + dirDigests + "/" + alg.String()
		entries, err := os.ReadDir(s.path(rel))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.report(rel, Unreadable, err)
		}
		for _, e := range entries {
			ref := Reference{Name: n, Digest: digest.NewDigestFromEncoded(alg, e.Name())}
			if d, ok := s.referrer(ref, subject); ok {
				out = append(out, d)
			}
		}
	}
	return out
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
