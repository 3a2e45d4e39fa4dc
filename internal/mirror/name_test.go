package mirror

import (
	"regexp"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

var someDigest = digest.FromString("x")

func TestParseTarget(t *testing.T) {
	t.Parallel()
	d := someDigest.String()
	for _, c := range []struct {
		path, ns string
		op       op
		name     string
		ref      string
	}{
		{"/v2/", "", opPing, "/", ""},
		{"/v2", "", opPing, "/", ""},
		{"/v2/library/busybox/manifests/1.36", "docker.io", opManifest, "docker.io/library/busybox", "1.36"},
		{"/v2/busybox/manifests/1", "docker.io", opManifest, "docker.io/library/busybox", "1"},
		{"/v2/busybox/manifests/1", "registry-1.docker.io", opManifest, "docker.io/library/busybox", "1"},
		{"/v2/busybox/manifests/1", "", opManifest, "docker.io/library/busybox", "1"},
		{"/v2/a/b/manifests/1", "", opManifest, "docker.io/a/b", "1"},
		{"/v2/docker.io/busybox/manifests/1", "", opManifest, "docker.io/library/busybox", "1"},
		{"/v2/docker.io/library/busybox/manifests/1", "", opManifest, "docker.io/library/busybox", "1"},
		{"/v2/quay.io/a/b/c/d/e/blobs/" + d, "", opBlob, "quay.io/a/b/c/d/e", d},
		{"/v2/localhost/a/manifests/Mixed_Case.1", "", opManifest, "localhost/a", "Mixed_Case.1"},
		{"/v2/up.test:5555/a/manifests/1", "", opManifest, "up.test:5555/a", "1"},
		{"/v2/a/manifests/1", "up.test:5555", opManifest, "up.test:5555/a", "1"},
		{"/v2/up.test__5555/a/b__1/manifests/1", "", opManifest, "up.test:5555/a/b__1", "1"},
		{"/v2/localhost__5000/a/manifests/1", "", opManifest, "localhost:5000/a", "1"},
		{"/v2/up.test__5555/a/manifests/1", "r.io", opManifest, "r.io/up.test__5555/a", "1"},
		{"/v2/a__1/manifests/1", "", opManifest, "docker.io/library/a__1", "1"},
		{"/v2/quay.io/a/manifests/1", "ghcr.io", opManifest, "ghcr.io/quay.io/a", "1"},
		{"/v2/x/blobs/manifests/tags/list", "r.io", opTags, "r.io/x/blobs/manifests", "list"},
		{"/v2/manifests/manifests/manifests", "r.io", opManifest, "r.io/manifests", "manifests"},
		{"/v2/a/referrers/" + d, "R.IO", opReferrers, "r.io/a", d},
		{"/v2/foo.bar/manifests/1", "", opManifest, "docker.io/library/foo.bar", "1"},
	} {
		got, ok := parseTarget(c.path, c.ns, DefaultRegistry)
		if !ok || got.op != c.op || got.name.String() != c.name || got.ref != c.ref {
			t.Errorf("%s ns=%s: %v %+v", c.path, c.ns, ok, got)
		}
		if c.op != opPing && !got.name.valid() {
			t.Errorf("%s ns=%s: name not valid", c.path, c.ns)
		}
	}
}

func TestParseTargetRefuses(t *testing.T) {
	t.Parallel()
	for _, p := range []string{
		"", "/", "/v1/", "/v2x/a/manifests/1", "/v2/_catalog", "/v2/a", "/v2/a/manifests", "/v2/manifests/1",
		"/v2/a/blobs/uploads/", "/v2/a/tags/other", "/v2/a/manifests/1/",
	} {
		if got, ok := parseTarget(p, "", DefaultRegistry); ok {
			t.Errorf("%q: %+v", p, got)
		}
	}
	for _, c := range [][2]string{
		{"/v2/../etc/manifests/1", ""}, {"/v2/a//b/manifests/1", ""}, {"/v2/a/_tags/manifests/1", ""},
		{"/v2/a.b__/c/manifests/1", ""}, {"/v2/a.b__5000__6000/c/manifests/1", ""}, {"/v2/__5000/c/manifests/1", ""},
		{"/v2/A/manifests/1", ""}, {"/v2/a/manifests/1", ".."}, {"/v2/a/manifests/1", "_tags"},
		{"/v2/a/manifests/1", "a/b"}, {"/v2/a/manifests/1", "h:"}, {"/v2/" + strings.Repeat("a/", 200) + "a/manifests/1", ""},
		{"/v2/.a/manifests/1", "r.io"}, {"/v2/a\x00/manifests/1", "r.io"},
	} {
		if got, ok := parseTarget(c[0], c[1], DefaultRegistry); !ok || got.name.valid() {
			t.Errorf("%q ns=%q: %v %+v", c[0], c[1], ok, got)
		}
	}
}

func TestParseReference(t *testing.T) {
	t.Parallel()
	d := someDigest.String()
	for in, want := range map[string]string{
		"busybox":                           "docker.io/library/busybox:latest",
		"Registry.Example:5000/a:B":         "registry.example:5000/a:B",
		"index.docker.io/a/b:1":             "docker.io/a/b:1",
		"ghcr.io/a/b@" + d:                  "ghcr.io/a/b@" + d,
		"ghcr.io/a/b:1@" + d:                "ghcr.io/a/b:1@" + d,
		"[::1]:5000/a:1":                    "[::1]:5000/a:1",
		"A/b:1":                             "a/b:1", // upper case makes it a registry
		"r.io/A/b":                          "",
		"a/b@sha256:123":                    "",
		"a/b:" + strings.Repeat("x", 129):   "",
		"":                                  "",
		strings.Repeat("a", 300):            "",
		"docker.io/library/busybox:../../x": "",
	} {
		got, err := ParseReference(in)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestPathsRoundTrip(t *testing.T) {
	t.Parallel()
	n := Name{"up.test:5555", "a/b__c/d-e"}
	for _, r := range []Reference{{Name: n, Tag: "V1.2_x"}, {Name: n, Digest: someDigest}} {
		got, ok := parseRecordPath(recordPath(r))
		if !ok || got != r {
			t.Errorf("%v: %v, %v", r, got, ok)
		}
	}
	if d, ok := parseBlobPath(blobPath(someDigest)); !ok || d != someDigest {
		t.Errorf("%v %v", d, ok)
	}
	for _, p := range []string{
		"refs", "refs/h", "refs/h/_tags/1", "refs/h/a/1", "refs/h/a/_tags/.x", "refs/h/a/_tags/1/2", "refs/../a/_tags/1",
		"refs/h/a/_digests/sha256/12", "refs/H/a/_tags/1", "blobs/sha256/ab/" + someDigest.Encoded(),
	} {
		if r, ok := parseRecordPath(p); ok {
			t.Errorf("%s: %v", p, r)
		}
		if d, ok := parseBlobPath(p); ok {
			t.Errorf("%s: %v", p, d)
		}
	}
}

// FuzzName compares the hand-written grammar with distribution's expressions.
func FuzzName(f *testing.F) {
	for _, s := range []string{"a", "a.b", "a..b", "a__b", "a___b", "a--b", "a-", "_a", "localhost:5000", "[::1]:5", "A", "h:", "a_.b", "x.-y"} {
		f.Add(s)
	}
	path := regexp.MustCompile(`^[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*)*$`)
	domain := regexp.MustCompile("^(?:" + reference.DomainRegexp.String() + ")$")
	tag := regexp.MustCompile("^(?:" + reference.TagRegexp.String() + ")$")
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := validRepository(s), path.MatchString(s); got != want {
			t.Errorf("repository %q: %v, want %v", s, got, want)
		}
		if got, want := validRegistry(s), domain.MatchString(s) && strings.ToLower(s) == s; got != want {
			t.Errorf("registry %q: %v, want %v", s, got, want)
		}
		if got, want := validTag(s), tag.MatchString(s); got != want {
			t.Errorf("tag %q: %v, want %v", s, got, want)
		}
	})
}

// FuzzTarget: what is accepted is safe as a path, and asking for it again gives the same.
func FuzzTarget(f *testing.F) {
	f.Add("/v2/library/busybox/manifests/1", "docker.io")
	f.Add("/v2/quay.io/a/b/blobs/"+someDigest.String(), "")
	f.Add("/v2/a/tags/list", "[::1]:5000")
	f.Fuzz(func(t *testing.T, path, ns string) {
		got, ok := parseTarget(path, ns, DefaultRegistry)
		if !ok || got.op == opPing || !got.name.valid() {
			return
		}
		verb := map[op]string{opManifest: "manifests", opBlob: "blobs", opTags: "tags", opReferrers: "referrers"}[got.op]
		again, ok := parseTarget("/v2/"+got.name.Repository+"/"+verb+"/"+got.ref, got.name.Registry, DefaultRegistry)
		again.raw, again.ns = got.raw, got.ns
		if !ok || again != got {
			t.Errorf("%q %q: %+v, again %+v", path, ns, got, again)
		}
		if got.op == opManifest && (got.tag != "" || got.digest != "") {
			r := got.reference()
			if back, ok := parseRecordPath(recordPath(r)); !ok || back != r {
				t.Errorf("%v: its path gives %v", r, back)
			}
		}
	})
}

// FuzzRecord: what is accepted is written and read again the same.
func FuzzRecord(f *testing.F) {
	ref := Reference{Name: Name{"docker.io", "library/busybox"}, Tag: "1"}
	b, err := record{Reference: ref.String(), Digest: someDigest, MediaType: typeDockerList, Size: 10}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"reference":"docker.io/library/busybox:1"}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b, ref)
		if err != nil {
			return
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeRecord(again, ref)
		if err != nil || !back.same(r) || !back.Time.Equal(r.Time) {
			t.Errorf("%+v became %+v, %v", r, back, err)
		}
	})
}
