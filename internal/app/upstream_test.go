package app

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
)

const upstreamSite = `version = 1
[mirror.limits]
min_free = "2GiB"
[[upstream]]
host = "registry.example:5000"
url = "https://harbor.example/v2/cache"
credentials_file = "/etc/edgeprep/pull"
client_cert = "/etc/edgeprep/tls.crt"
client_key = "/etc/edgeprep/tls.key"
deny = ["secret/**"]
rate = "10MiB/s"
[[upstream]]
host = "ghcr.io"
credentials_file = "env:GHCR"
`

func TestMirrorUpstreams(t *testing.T) {
	t.Parallel()
	file, secrets := filepath.Join(t.TempDir(), "site.toml"), t.TempDir()
	put := func(p, text string) {
		t.Helper()
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(file, upstreamSite)
	want := mirror.Upstreams{MinFree: 2 << 30, Named: []mirror.Upstream{
		{Host: "registry.example:5000", URL: "https://harbor.example/v2/cache", Credentials: "/etc/edgeprep/pull",
			ClientCert: "/etc/edgeprep/tls.crt", ClientKey: "/etc/edgeprep/tls.key", Deny: []string{"secret/**"}, Rate: 10 << 20},
		{Host: "ghcr.io", Credentials: "env:GHCR"}}}
	got, err := MirrorUpstreams(file, "")
	if got.Ask == nil {
		t.Error("no helper can be asked")
	}
	got.Ask = nil
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	// A service may read neither, and has copies; an empty one says that the file is gone.
	put(filepath.Join(secrets, deploy.ConfigName), upstreamSite)
	handed := filepath.Join(secrets, deploy.SecretName("credentials", "registry.example:5000"))
	put(handed, "u:p")
	put(filepath.Join(secrets, deploy.SecretName("key", "registry.example:5000")), "")
	want.Named[0].Credentials = handed
	got, err = MirrorUpstreams("/nowhere/site.toml", secrets)
	got.Ask = nil
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	if got, err := MirrorUpstreams("", ""); err != nil || got.MinFree != 1<<30 || got.Named != nil {
		t.Errorf("%+v %v", got, err)
	}
	put(file, "version = 1\n[[upstream]]\nhost = \"a.example\"\nrate = \"fast\"\n")
	for _, f := range []string{file, "/nowhere/site.toml"} {
		if _, err := MirrorUpstreams(f, ""); err == nil {
			t.Errorf("%s: no error", f)
		} else if _, ok := errors.AsType[*InvalidConfig](err); !ok {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestServiceUpstreams(t *testing.T) {
	t.Parallel()
	site, found := config.Parse("x", []byte(upstreamSite))
	if found.HasErrors() {
		t.Fatal(found)
	}
	a := &App{opts: Options{Config: "/srv/site.toml"}}
	got, err := a.serviceUpstreams(site)
	want := deploy.Upstreams{Config: "/srv/site.toml", Sum: got.Sum, Files: []deploy.UpstreamFiles{
		{Host: "registry.example:5000", Credentials: "/etc/edgeprep/pull", Key: "/etc/edgeprep/tls.key"}, {Host: "ghcr.io"}}}
	if d := cmp.Diff(want, got); d != "" || err != nil || got.Sum == "" {
		t.Errorf("%v %s", err, d)
	}
	site.Upstreams[0].Rate = "1MiB/s"
	if other, _ := a.serviceUpstreams(site); other.Sum == got.Sum {
		t.Error("a change of the upstreams does not show")
	}
	a.opts.Root = "/mnt"
	if got, _ := a.serviceUpstreams(site); got.Config != config.DefaultPath {
		t.Errorf("below a root: %s", got.Config)
	}
	site.Mirror.Upstream = config.UpstreamNever
	if got, err := a.serviceUpstreams(site); got.Config != "" || err != nil {
		t.Errorf("never: %+v %v", got, err)
	}
	listed, _ := config.Parse("x", []byte("version = 1\n[mirror]\ndeny_registries = [\"docker.io\"]\n"))
	if got, err := a.serviceUpstreams(listed); got.Config == "" || got.Sum == "" || err != nil {
		t.Errorf("a list of registries: %+v %v", got, err)
	}
	plain, _ := config.Parse("x", []byte("version = 1\n"))
	if got, err := a.serviceUpstreams(plain); got.Config != "" || err != nil {
		t.Errorf("no upstream by name: %+v %v", got, err)
	}
}

// What the site's limits say reaches the service by its flags, and a flag counts more than the file.
func TestMirrorLimits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]deploy.Limits{
		"":                     {},
		"min_free = \"1GiB\"":  {},
		"scrub_period = \"0\"": {ScrubPeriod: "0"},
		"min_free = \"\"":      {MinFree: "0"},
		"max_cache = \"9GB\"":  {MaxCache: "9GB"},
		"scrub_period = \"24h\"\nmin_free = \"2 GiB\"": {MinFree: "2 GiB", ScrubPeriod: "24h"},
	} {
		site, found := config.Parse("x", []byte("version = 1\n[mirror.limits]\n"+text+"\n"))
		if found.HasErrors() {
			t.Fatalf("%s: %v", text, found)
		}
		if got := serviceLimits(site.Mirror.Limits); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	file := filepath.Join(t.TempDir(), "site.toml")
	if err := os.WriteFile(file, []byte("version = 1\n[mirror.limits]\nmin_free = \"3MiB\"\nscrub_period = \"1h\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ReadMirror(file, "", config.Limits{ScrubPeriod: "0"})
	if err != nil || s.ScrubPeriod != 0 || s.Upstreams.MinFree != 3<<20 {
		t.Errorf("%+v %v", s, err)
	}
	s, err = ReadMirror("", "", config.Limits{MinFree: "7", MaxCache: "8"})
	if err != nil || s.Upstreams.MaxCache != 8 || s.ScrubPeriod != 168*time.Hour || s.Upstreams.MinFree != 7 {
		t.Errorf("%+v %v", s, err)
	}
}

// A service takes the copy of a file only where it may not read the file itself: the file is what is replaced.
func TestServedFile(t *testing.T) {
	t.Parallel()
	secrets, file := t.TempDir(), filepath.Join(t.TempDir(), "tokens")
	copied := filepath.Join(secrets, "tokens")
	for _, p := range []string{file, copied} {
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range [][3]string{{file, secrets, file}, {file + ".gone", secrets, copied}, {file + ".gone", "", file + ".gone"}, {"", secrets, ""}} {
		if got := ServedFile("tokens", c[0], c[1]); got != c[2] {
			t.Errorf("%q %q: %q, want %q", c[0], c[1], got, c[2])
		}
	}
}
