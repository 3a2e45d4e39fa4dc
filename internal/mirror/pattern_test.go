package mirror

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestPatterns(t *testing.T) {
	t.Parallel()
	d := someDigest.String()
	all := []string{"docker.io/library/busybox:1.36", "docker.io/library/busybox:1.37", "docker.io/library/busybox@" + d,
		"docker.io/team/busybox:1.36", "ghcr.io/team/app:1", "ghcr.io/team/sub/app:1", "ghcr.io/other/app:1", "localhost:5000/app:v1"}
	for pattern, want := range map[string]string{
		"**":                       "01234567",
		"busybox":                  "012",
		"busybox:1.36":             "0",
		"busybox:1.3*":             "01",
		"busybox:1.3[7-9]":         "1",
		"busy*":                    "012",
		"*":                        "012",
		"library/busybox:1.37":     "1",
		"index.docker.io/busybox":  "012",
		"team/busybox":             "3",
		"*/*/busybox:1.36":         "03",
		"**/busybox":               "0123",
		"**/app:1":                 "456",
		"ghcr.io/**":               "456",
		"ghcr.io/team/**":          "45",
		"ghcr.io/team/*":           "4",
		"ghcr.io/*/app":            "46",
		"ghcr.io/**/app":           "456",
		"localhost:5000/app":       "7",
		"localhost:5000/**":        "7",
		"busybox@" + d:             "2",
		"busybox:1.36@" + d:        "02",
		"**@sha256:*":              "01234567",
		"docker.io/library/other":  "",
		"ghcr.io/team/app:1/**":    "",
		"ghcr.io/team/app/**":      "",
		"docker.io/library/busyb?": "",
	} {
		p, err := ParsePattern(pattern)
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		got := ""
		for i, s := range all {
			r, err := ParseReference(s)
			if err != nil {
				t.Fatal(err)
			}
			if p.Match(r, digestFor(i)) {
				got += string(rune('0' + i))
			}
		}
		if got != want {
			t.Errorf("%s selects %q, want %q", pattern, got, want)
		}
	}
	for _, bad := range []string{"", "a b", "UPPER", "busybox:", "busybox@", "busybox@sha256:abc", "[", "busybox:[", "a//b", "../x", "busybox:-x", "/x"} {
		if p, err := ParsePattern(bad); err == nil {
			t.Errorf("%q was accepted: %+v", bad, p)
		}
	}
}

// digestFor is what the test's references point to: the third one is by digest.
func digestFor(i int) digest.Digest {
	if i == 2 {
		return someDigest
	}
	return digest.FromString(strings.Repeat("y", i))
}

// The allow and deny lists of upstreams use the same rules, on the repository alone.
func TestMatchesAny(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"team/*", "team/app", true}, {"team/*", "team/a/b", false}, {"team/*", "team", false}, {"team/**", "team/a/b", true},
		{"team/**", "team", false}, {"**", "x", true}, {"team**", "team-x/app", true}, {"team**", "team", true}, {"*/app", "team/app", true},
		{"**/app", "a/b/app", true}, {"**/app", "app", true}, {"a/**/z", "a/z", true}, {"a/**/z", "a/b/c/z", true}, {"a/**/z", "b/z", false},
		{"a/b", "a/b", true}, {"a/b", "a/bc", false}, {"", "", true}, {"[", "x", false},
	} {
		if got := matchesAny([]string{c.pattern}, c.name); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.name, got)
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, s := range []string{"**", "busybox:1.*", "ghcr.io/**/app@sha256:*", "localhost:5000/x", "[a-", "a\\"} {
		f.Add(s)
	}
	r := Reference{Name: Name{"docker.io", "library/busybox"}, Tag: "1"}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePattern(s)
		if err != nil {
			return
		}
		p.Match(r, someDigest)
		if exact, err := ParseReference(s); err == nil && !strings.ContainsAny(s, wildcards) && !p.Match(exact, exact.Digest) {
			t.Errorf("%q does not select the reference %s", s, exact)
		}
	})
}
