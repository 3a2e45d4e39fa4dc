package distro

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// version is the part of a version that gates compare. Build metadata ("+k3s1") does not count: k3s and RKE2
// tie features to the Kubernetes patch.
type version struct {
	major, minor, patch int
	pre                 bool // a pre-release: before its patch
}

var versionForm = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(-[0-9A-Za-z.-]+)?([+~][0-9A-Za-z.~+-]*)?$`)

var preRelease = regexp.MustCompile(`^-(alpha|beta|rc)`)

// parseVersion reads "v1.33.1+k3s1", "1.7.35", "2.0.0-rc.1" or Debian's "1.6.20~ds1".
func parseVersion(s string) (version, bool) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil {
		return version{}, false
	}
	n := func(i int) int { v, _ := strconv.Atoi(m[i]); return v } // digits only, short enough
	// Vendors add things like -gke.1 to a released version: only these names are earlier ones.
	pre := preRelease.MatchString(m[4])
	return version{n(1), n(2), n(3), pre}, true
}

func (v version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch)
	if v.pre {
		s += "-rc"
	}
	return s
}

// compare orders versions.
func (v version) compare(o version) int {
	a, b := []int{v.major, v.minor, v.patch, 1}, []int{o.major, o.minor, o.patch, 1}
	if v.pre {
		a[3] = 0
	}
	if o.pre {
		b[3] = 0
	}
	return slices.Compare(a, b)
}

func (v version) sameMinor(o version) bool { return v.major == o.major && v.minor == o.minor }

// parseVersions reads a comma separated list.
func parseVersions(list string) ([]version, error) {
	var out []version
	for _, s := range strings.Split(list, ",") {
		v, ok := parseVersion(strings.TrimSpace(s))
		if !ok {
			return nil, fmt.Errorf("%q is not a version such as 1.33.1", strings.TrimSpace(s))
		}
		out = append(out, v)
	}
	return out, nil
}

// since says whether v has what the first good patches of some minors have: a later minor than all of them
// does; one that is not listed and not later does not.
func since(v version, firsts []version) bool {
	if len(firsts) == 0 {
		return false
	}
	newest := slices.MaxFunc(firsts, version.compare)
	if !v.sameMinor(newest) && v.compare(newest) > 0 {
		return true
	}
	return slices.ContainsFunc(firsts, func(f version) bool { return v.sameMinor(f) && v.compare(f) >= 0 })
}

// open says whether a gate is open for a version; one that is not known keeps it closed.
func (g *Gate) open(v string) bool {
	if g == nil {
		return false
	}
	have, ok := parseVersion(v)
	firsts, err := parseVersions(g.Since)
	if !ok || err != nil || !since(have, firsts) {
		return false
	}
	if g.Broken == "" {
		return true
	}
	broken, err := parseVersions(g.Broken)
	return err == nil && !slices.ContainsFunc(broken, func(b version) bool {
		return b.sameMinor(have) && b.patch == have.patch
	})
}

// valueFor is the last value whose versions cover v.
func valueFor(rules []VersionValue, v string) (string, bool) {
	have, ok := parseVersion(v)
	if !ok {
		return "", false
	}
	value, found := "", false
	for _, r := range rules {
		if firsts, err := parseVersions(r.Since); err == nil && since(have, firsts) {
			value, found = r.Value, true
		}
	}
	return value, found
}
