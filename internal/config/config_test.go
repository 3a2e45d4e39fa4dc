package config

import (
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

func parse(t *testing.T, src string) (Site, []string) {
	t.Helper()
	s, found := Parse("edgeprep.toml", []byte(src))
	var lines []string
	for _, d := range found {
		lines = append(lines, d.ID+" "+d.Where.String()+" "+d.What)
	}
	return s, lines
}

func TestParseGood(t *testing.T) {
	t.Parallel()
	s, problems := parse(t, "version = 1\n[mirror]\nupstream = \"never\"\n[images]\narchives = [\"/opt/a.tar\"]\n")
	if problems != nil {
		t.Fatal(problems)
	}
	if s.Mirror.Cache != DefaultCache || s.Mirror.Mode != "systemd" || !s.Images.Preload || !s.Registries.Write {
		t.Errorf("defaults: %+v", s)
	}
}

func TestParseBad(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		src  string
		want []string
	}{
		"not TOML":                            {"version = \n", []string{"CFG-001 edgeprep.toml:1:11 not readable as TOML: "}},
		"wrong type":                          {"version = 1\n[images]\narchives = \"x\"\n", []string{"CFG-002 edgeprep.toml:3:12 images.archives must be a list of strings"}},
		"a mirror that would refuse its node": {"version = 1\n[mirror]\ntokens_file = \"/t\"\n", []string{`CFG-046 edgeprep.toml:2:2 the mirror would refuse this node's containerd`}},
		"half a client certificate":           {"version = 1\n[registries]\nclient_cert = \"/t\"\n", []string{`CFG-017 edgeprep.toml:3:1 a client certificate needs its key and a key its certificate`}},
		"client CA without TLS":               {"version = 1\n[mirror]\nmode = \"none\"\n[registries]\nwrite = false\n[mirror.tls]\nclient_ca = \"/t\"\n", []string{`CFG-017 edgeprep.toml:7:1 client certificates need TLS`}},
		"metrics on the mirror's own port":    {"version = 1\n[mirror]\nlisten = \"127.0.0.1:5000\"\nmetrics = \"127.0.0.1:5000\"\n", []string{`CFG-011 edgeprep.toml:4:1 metrics = "127.0.0.1:5000" is not ADDRESS:PORT, or the mirror's own`}},
		"lists of registries":                 {"version = 1\n[mirror]\nallow_registries = [\"https://quay.io\"]\n", []string{`CFG-018 edgeprep.toml:3:21 "https://quay.io" is not a registry host or a pattern of them`}},
		"a helper that is a path":             {"version = 1\n[[upstream]]\nhost = \"quay.io\"\ncredentials_helper = \"../x\"\n", []string{`CFG-018 edgeprep.toml:4:1 credentials_helper = "../x" is not the name of a helper, or stands beside credentials_file`}},
		"max_connections":                     {"version = 1\n[mirror.limits]\nmax_connections = -1\n", []string{`CFG-015 edgeprep.toml:3:1 max_connections = -1 is not a number of connections`}},
		"unknown keys":                        {"version = 1\nfoo = 1\n[mirror]\nlistn = \"127.0.0.1:5000\"\n", []string{`CFG-003 edgeprep.toml:2:1 unknown key "foo" at the top of the file`, `CFG-003 edgeprep.toml:4:1 unknown key "listn" in [mirror]`}},
		"unknown table":                       {"version = 1\n[containerd]\nx = 1\n", []string{`CFG-003 edgeprep.toml:2:2 unknown key "containerd" at the top of the file`}},
		"no version":                          {"[site]\nname = \"x\"\n", []string{"CFG-004 edgeprep.toml (version) version is missing"}},
		"several at once": {"version = 1\n[mirror]\nmode = \"sistemd\"\nlisten = \"0.0.0.0:5000\"\ncache = \"/var/lib/rancher/x\"\n[apply]\nallow = [\"all\"]\n", []string{
			`CFG-010 edgeprep.toml:3:1 mirror.mode = "sistemd" is not one of systemd, workload, none`,
			"CFG-014 edgeprep.toml:5:1 the cache is below /var/lib/rancher",
			`CFG-011 edgeprep.toml:4:1 listen = "0.0.0.0:5000" is not ADDRESS:PORT`,
			`CFG-010 edgeprep.toml:7:10 apply.allow[0] = "all" is not one of restart, overwrite, remove, plain-http, untested-distro`}},
		"relative path":          {"version = 1\n[images]\narchives = [\"images/a.tar\"]\n", []string{`CFG-012 edgeprep.toml:3:13 images.archives[0] = "images/a.tar" is not a clean absolute path`}},
		"node without address":   {"version = 1\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n[[node]]\nname = \"b\"\n", []string{`CFG-020 edgeprep.toml:5:3 node "b" has no address`}},
		"no mirror to pull from": {"version = 1\n[mirror]\nmode = \"none\"\n", []string{`CFG-019 edgeprep.toml:3:1 mode = "none" leaves containerd nothing to pull from`}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, got := parse(t, c.src)
			if name == "not TOML" && len(got) == 1 && strings.HasPrefix(got[0], c.want[0]) {
				return
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestUnknownKeyShowsTheLineAndTheNearestKey(t *testing.T) {
	t.Parallel()
	_, found := Parse("edgeprep.toml", []byte("version = 1\n[mirror]\nlistn = \"127.0.0.1:5000\"\n"))
	want := `error CFG-003: unknown key "listn" in [mirror]
  where  edgeprep.toml:3:1
     2 | [mirror]
     3 | listn = "127.0.0.1:5000"
       | ^^^^^
  fix    did you mean "listen"? known keys: access_log, allow_registries, cache, default_registry, deny_registries, limits, listen, metrics, mode, tls, tokens_file, upstream, workload`
	if d := cmp.Diff(want, found[0].Text()); d != "" {
		t.Error(d)
	}
}

// TestEveryEnumRefusesABadValue: go-toml v2.4.3 does not call UnmarshalText for named strings, so a bad value
// can only be caught by Parse.
func TestEveryEnumRefusesABadValue(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"[mirror]\nmode = 'x'", "[mirror]\nupstream = 'x'", "[mirror.workload]\nform = 'x'", "[replication]\nengine = 'x'",
		"[failover]\nmode = 'x'", "[checklist]\nprofile = 'x'", "[apply]\nallow = ['x']", "[[node]]\nname = 'a'\nmirror = 'x'",
	} {
		if _, found := Parse("f", []byte("version = 1\n"+line+"\n")); !hasID(found, "CFG-010") {
			t.Errorf("%q accepted: %v", line, found)
		}
	}
}

func hasID(r diag.Report, id string) bool {
	for _, d := range r {
		if d.ID == id {
			return true
		}
	}
	return false
}

func TestEveryFieldHasATomlName(t *testing.T) {
	t.Parallel()
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		for ty.Kind() == reflect.Slice {
			ty = ty.Elem()
		}
		if ty.Kind() != reflect.Struct {
			return
		}
		for i := range ty.NumField() {
			if n := tomlName(ty.Field(i)); n == "" || n != strings.ToLower(n) {
				t.Errorf("%s.%s: toml name %q", ty, ty.Field(i).Name, n)
			}
			walk(ty.Field(i).Type)
		}
	}
	walk(reflect.TypeFor[Site]())
}

const threeNodes = `version = 1
[mirror]
upstream = "never"
[[node]]
name = "a"
address = "10.0.0.1"
[[node]]
name = "b"
address = "10.0.0.2"
[[node]]
name = "c"
address = "10.0.0.3"
mirror = "none"
`

func TestNodes(t *testing.T) {
	t.Parallel()
	s, problems := parse(t, threeNodes)
	if problems != nil {
		t.Fatal(problems)
	}
	a, err := s.Self("", host.Facts{Hostname: "a.example.com"})
	if err != nil || a.Mirror != "primary" {
		t.Fatalf("%+v %v", a, err)
	}
	b, err := s.Self("", host.Facts{Hostname: "localhost", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}})
	if err != nil || b.Name != "b" || b.Mirror != "replica" {
		t.Fatalf("%+v %v", b, err)
	}
	c, err := s.Self("c", host.Facts{Hostname: "a"})
	if err != nil || s.HasMirror(c) {
		t.Fatalf("%+v %v", c, err)
	}
	for _, x := range []struct {
		n     Node
		peers bool
		want  []string
	}{
		{a, true, []string{"http://10.0.0.1:5000", "http://10.0.0.2:5000"}},
		{b, true, []string{"http://10.0.0.2:5000", "http://10.0.0.1:5000"}},
		{b, false, []string{"http://10.0.0.2:5000"}},
		{c, true, []string{"http://10.0.0.1:5000", "http://10.0.0.2:5000"}},
	} {
		if d := cmp.Diff(x.want, s.Endpoints(x.n, x.peers)); d != "" {
			t.Errorf("%s: %s", x.n.Name, d)
		}
	}
	if !s.PlainHTTPOffLoopback(a) {
		t.Error("plain http off loopback not seen")
	}
	if _, err := s.Self("", host.Facts{Hostname: "localhost"}); err == nil {
		t.Error("a foreign machine was taken for a node")
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"0": 0, "512": 512, "1 KiB": 1024, "40GiB": 40 << 30, "5MB": 5e6} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%q: %d %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", "-1", "1.5GiB", "9999999TiB"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("%q read as %d", s, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(threeNodes))
	f.Add([]byte("version = 1\n[mirror]\nx = 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, found := Parse("f", data)
		if !found.HasErrors() && s.Version != 1 {
			t.Error("a file without version = 1 was accepted")
		}
		for _, d := range found {
			if d.ID == "" || d.What == "" {
				t.Errorf("empty finding %+v", d)
			}
			if n := strings.Count(string(data), "\n") + 1; d.Where.Line > n {
				t.Errorf("line %d of %d", d.Where.Line, n)
			}
		}
	})
}

func TestReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("site.go")
	if err != nil {
		t.Fatal(err)
	}
	want, err := reference(src)
	if err != nil {
		t.Fatal(err)
	}
	const file = "../../docs/reference.md"
	if os.Getenv("EDGEPREP_UPDATE") == "1" {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != string(want) {
		t.Errorf("%v: docs/reference.md is not what site.go says; run: make docs", err)
	}
}

// TestSystemDirectoryAsCache: the cache's directory is given to the mirror's account.
func TestSystemDirectoryAsCache(t *testing.T) {
	t.Parallel()
	for dir, bad := range map[string]bool{"/": true, "/etc": true, "/usr/x": true, "/opt": true, "/var/lib/edgeprep/journal": true,
		"/a\nb": true, "/opt/cache": false, "/srv/cache": false, DefaultCache: false} {
		_, lines := parse(t, "version = 1\n[mirror]\ncache = "+strconv.Quote(dir)+"\n")
		if got := strings.Contains(strings.Join(lines, "\n"), "CFG-022"); got != bad {
			t.Errorf("%q: %q", dir, lines)
		}
	}
}

// TestExcerptIsSafeToPrint: what is shown of a file must not reach the terminal as commands, nor fill it.
func TestExcerptIsSafeToPrint(t *testing.T) {
	t.Parallel()
	for _, src := range []string{"version = 1\n# \x1b]0;x\x07\nx y\n", "version = 1\nbad = \x1b[31m", "bad = " + strings.Repeat("x", 1<<16)} {
		_, found := Parse("f.toml", []byte(src))
		var text strings.Builder
		for _, d := range found {
			text.WriteString(d.Text())
		}
		if len(found) == 0 || strings.ContainsAny(text.String(), "\x1b\x07") || text.Len() > 2000 {
			t.Errorf("%.40q: %.400q", src, text.String())
		}
	}
}
