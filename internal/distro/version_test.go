package distro

import (
	"fmt"
	"testing"
)

func TestGate(t *testing.T) {
	t.Parallel()
	watch := &Gate{Since: "1.33.1, 1.32.5,1.31.9,1.30.13", Broken: "1.34.2,1.32.7"}
	for v, want := range map[string]bool{
		"v1.33.1+k3s1": true, "v1.33.0+k3s1": false, "1.32.5": true, "1.32.4": false, "1.30.13+rke2r2": true, "1.30.12": false,
		"1.29.99": false, "1.34.0": true, "2.0.0": true, "v1.33.1-rc1+k3s1": false, "v1.33.2-rc1+k3s1": true, "v1.34.0-rc1+k3s1": true,
		"v1.34.2+k3s1": false, "v1.34.2-rc1+k3s1": false, "1.32.7": false, "1.32.8": true,
		"": false, "garbage": false, "1.33": false, "v1.33.1.2": false, "v1.33.1-gke.5": true, "1.33.1~ds1": true,
	} {
		if got := watch.open(v); got != want {
			t.Errorf("%q: %v", v, got)
		}
	}
	var none *Gate
	if none.open("1.33.1") || (&Gate{Since: "nonsense"}).open("1.33.1") || (&Gate{Since: "1.0.0", Broken: "x"}).open("1.33.1") {
		t.Error("a gate that is not there or cannot be read must be closed")
	}
}

func TestValueFor(t *testing.T) {
	t.Parallel()
	pause := []VersionValue{{"1.6.0", "3.6"}, {"1.7.0", "3.8"}, {"2.0.0", "3.10"}, {"2.2.0", "3.10.1"}, {"2.3.0", "3.10.2"}}
	for v, want := range map[string]string{"1.6.20": "3.6", "1.7.35": "3.8", "2.0.7": "3.10", "2.1.0": "3.10", "2.2.9": "3.10.1", "2.4.2": "3.10.2", "1.5.0": "", "": "", "3.0.0": "3.10.2"} {
		if got, ok := valueFor(pause, v); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", v, got, ok)
		}
	}
}

// The gates of the descriptors at the versions that facts name.
func TestBuiltinGates(t *testing.T) {
	t.Parallel()
	d, _ := load(t).Get("k3s")
	for v, want := range map[string]Gates{
		"v1.29.1+k3s1":  {NoFallbackKey: true},
		"v1.29.3+k3s1":  {NoFallbackKey: true, StarMirror: true},
		"v1.29.13+k3s1": {Watch: true, NoFallbackKey: true, StarMirror: true, PartialIndex: true},
		"v1.31.6+k3s1":  {Watch: true, NoFallbackKey: true, PartialIndex: true},
		"v1.32.3+k3s1":  {Watch: true, NoFallbackKey: true, StarMirror: true, PartialIndex: true},
		"v1.33.1+k3s1":  {Watch: true, Recursive: true, NoFallbackKey: true, StarMirror: true, PartialIndex: true},
		"v1.36.2+k3s1":  {Watch: true, Recursive: true, NoFallbackKey: true, StarMirror: true, PartialIndex: true},
		"v1.36.3+k3s1":  {Watch: true, Recursive: true, ImportCache: true, NoFallbackKey: true, StarMirror: true, PartialIndex: true},
		"v1.37.0+k3s1":  {Watch: true, Recursive: true, ImportCache: true, NoFallbackKey: true, StarMirror: true, PartialIndex: true},
		"v1.30.1+k3s1":  {NoFallbackKey: true, StarMirror: true},
		"v1.30.2+k3s1":  {NoFallbackKey: true, StarMirror: true, PartialIndex: true},
		"v1.26.12+k3s1": {},
	} {
		g := d.Gates
		got := Gates{g.Watch.open(v), g.Recursive.open(v), g.ImportCache.open(v), g.NoFallbackKey.open(v), g.StarMirror.open(v), g.PartialIndex.open(v)}
		if got != want {
			t.Errorf("%s: %+v, want %+v", v, got, want)
		}
	}
}

// Versions survive printing, and a gate that is open for a patch is open for the next one and for every later
// minor.
func FuzzGate(f *testing.F) {
	f.Add("1.33.1,1.32.5", 1, 33, 1, false)
	f.Add("2.0.4,1.7.0,1.6.0", 2, 1, 0, true)
	f.Add("1.33.1,x", 0, 0, 0, false)
	f.Fuzz(func(t *testing.T, list string, major, minor, patch int, pre bool) {
		const most = 99999
		if min(major, minor, patch) < 0 || max(major, minor, patch) > most {
			return
		}
		v := version{major, minor, patch, pre}
		if back, ok := parseVersion("v" + v.String() + "+k3s1"); !ok || back != v {
			t.Fatalf("%s read as %s, %v", v, back, ok)
		}
		g := &Gate{Since: list}
		firsts, err := parseVersions(list)
		if err != nil {
			if g.open(v.String()) {
				t.Fatalf("%q is no list and opens", list)
			}
			return
		}
		if g.open(v.String()) && !g.open(version{major, minor, patch + 1, false}.String()) {
			t.Fatalf("%q opens for %s and not for the next patch", list, v)
		}
		if !g.open(fmt.Sprintf("%d.0.0", 999999)) && firsts[0].major < 999999 {
			t.Fatalf("%q stays closed for ever", list)
		}
		for _, first := range firsts {
			if !g.open(first.String()) {
				t.Fatalf("%q is closed for %s, which it lists", list, first)
			}
		}
	})
}
