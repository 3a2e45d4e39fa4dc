package mirror

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// FuzzManifest: what an upstream sends is refused or is what its digest and type say, and what it reaches has
// valid digests and sizes.
func FuzzManifest(f *testing.F) {
	set := standard(f)
	for _, img := range set.Images {
		f.Add(set.Blob(img.Digest), img.MediaType, img.Digest)
	}
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../..","size":-1}]}`), "", "")
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":""},"layers":null}`), "application/json; charset=x", "sha256:")
	f.Fuzz(func(t *testing.T, b []byte, contentType, said string) {
		h := http.Header{"Content-Type": {contentType}, "Docker-Content-Digest": {said}}
		rec, err := checkManifest(Reference{Name: Name{"quay.io", "a/b"}, Tag: "1"}, h, b)
		if err != nil {
			return
		}
		if rec.Digest != rec.Digest.Algorithm().FromBytes(b) || rec.Size != int64(len(b)) || !isManifestType(rec.MediaType) {
			t.Fatalf("%+v", rec)
		}
		doc, err := parseManifest(b, rec.MediaType)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range append(doc.Manifests, doc.Layers...) {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("%q of %d bytes", d.Digest, d.Size)
			}
		}
	})
}

// FuzzContentType: the type has no parameters, no capitals and no spaces, and asking again gives the same.
func FuzzContentType(f *testing.F) {
	for _, s := range []string{"", "application/json", "Application/JSON; charset=utf-8", "a/b;c", ";", "a/b;=", "text/html ,x/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := baseType(s)
		if again := baseType(got); again != got {
			t.Errorf("%q: %q, then %q", s, got, again)
		}
		if isManifestType(got) && got != strings.ToLower(got) {
			t.Errorf("%q: %q", s, got)
		}
	})
}

// FuzzChallenge: hostile ones end.
func FuzzChallenge(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a/t?x=1,2",service=reg , scope="repository:a/b:pull,push",error="a \"b\""`, "Bearer", `Bearer realm="`, `Basic =`, `a=\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scheme, params := parseChallenge(s)
		if strings.ToLower(scheme) != scheme || len(params) > len(s) {
			t.Errorf("%q %v", scheme, params)
		}
	})
}

// FuzzRangeEnd: what is passed on without being kept ends where net/http ends the range.
func FuzzRangeEnd(f *testing.F) {
	for _, s := range []string{"", "bytes=0-", "bytes=0-0", "bytes=-5", "bytes=5-2", "bytes=1-2,4-5", "bytes= 7-9", "bytes=9-99999999999999999999", "x=1-2", "bytes=-"} {
		f.Add(s)
	}
	const size = 1000
	f.Fuzz(func(t *testing.T, header string) {
		end, ok := rangeEnd(header, size)
		if !ok {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header["Range"] = []string{header}
		w := httptest.NewRecorder()
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(strings.Repeat("x", size)))
		switch w.Code {
		case http.StatusPartialContent:
			rg := strings.TrimPrefix(w.Header().Get("Content-Range"), "bytes ")
			_, last, _ := strings.Cut(strings.TrimSuffix(rg, "/1000"), "-")
			if n, err := strconv.ParseInt(last, 10, 64); err != nil || n+1 != end {
				t.Errorf("%q ends at %d, net/http sends %s", header, end, rg)
			}
		case http.StatusOK:
			if end != size {
				t.Errorf("%q ends at %d, net/http sends all", header, end)
			}
		}
	})
}

// FuzzPartName: a partial file is taken for the blob that it is of, and for no other.
func FuzzPartName(f *testing.F) {
	f.Add(partName(someDigest, "0badb007"))
	f.Add("tmp/part-sha256-x-y")
	f.Fuzz(func(t *testing.T, name string) {
		d, ok := partDigest(name)
		if !ok {
			return
		}
		if d.Validate() != nil || !strings.Contains(name, d.Encoded()) || blobPath(d) != blobPath(digest.Digest(d.String())) {
			t.Errorf("%q: %s", name, d)
		}
	})
}
