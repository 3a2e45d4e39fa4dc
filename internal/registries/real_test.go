package registries

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/cri"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/host/local"
)

// recorder is a mirror that has nothing and remembers for which registries it was asked.
type recorder struct {
	mu    sync.Mutex
	asked []string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	r.asked = append(r.asked, q.URL.Query().Get("ns"))
	r.mu.Unlock()
	http.NotFound(w, q)
}

// arrived says whether a pull of a registry's image reached the mirror.
func (r *recorder) arrived(t *testing.T, c host.CRI, registry string) bool {
	t.Helper()
	r.mu.Lock()
	r.asked = nil
	r.mu.Unlock()
	if err := c.PullAbsent(t.Context(), registry+"/edgeprep-probe/none:x"); err == nil {
		t.Fatal("an image that does not exist was pulled")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.asked, registry)
}

var releases = map[string]string{"1.6": "1.6.20", "1.7": "1.7.35", "2.4": "2.4.2"}

// TestRealContainerd: with a list as config_path, and with every kind of registry directory, a containerd of
// each version asks the mirror exactly when ReadEffective says so; and after what Desired wants is written,
// for everything.
func TestRealContainerd(t *testing.T) {
	t.Parallel()
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		rec := &recorder{}
		server := httptest.NewServer(rec)
		t.Cleanup(server.Close)
		h, err := local.New(local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, c := local.ReadOnly(h), cri.New(d.Endpoint())
		t.Cleanup(func() { _ = c.Close() })
		n := distro.Node{
			ID:         "kubeadm",
			Runtime:    distro.Runtime{Config: d.Config, Version: releases[d.Version], Unit: "containerd.service"},
			Registries: distro.Registries{Format: FormatCertsD, CertsD: d.ConfigPath, Restart: []string{"containerd.service"}},
		}
		p := Policy{Endpoints: []Endpoint{{URL: server.URL}}}
		host := "[host.\"" + server.URL + "\"]\n"
		for registry, text := range map[string]string{
			"_default": string(RenderHosts(p.Endpoints)), "plain.invalid": host, "broken.invalid": host + "server == 1\n", "capability.invalid": host + "capabilities = [\"fetch\"]\n",
			"misspelt.invalid": strings.Replace(host, "host", "hosts", 1), "port.invalid:5000": host, "alone.invalid": "server = \"" + server.URL + "\"\n", "type.invalid": host + "skip_verify = 1\n",
		} {
			d.WriteHosts(registry, text)
		}
		if err := os.Mkdir(filepath.Join(d.ConfigPath, "empty.invalid"), 0o755); err != nil {
			t.Fatal(err)
		}
		registries := []string{"any.invalid", "plain.invalid", "broken.invalid", "capability.invalid", "misspelt.invalid", "port.invalid:5000", "port.invalid:5001", "alone.invalid", "type.invalid", "empty.invalid"}

		compare := func(when string, all bool) {
			t.Helper()
			e, err := ReadEffective(t.Context(), r, n)
			if err != nil {
				t.Fatal(err)
			}
			for _, registry := range registries {
				l := e.For(registry)
				want := l.Mirrors(p.Endpoints) || Endpoint.Same(Endpoint{URL: l.Server}, p.Endpoints[0])
				if got := rec.arrived(t, c, registry); got != want || all && !got {
					t.Errorf("%s: a pull of %s asked the mirror: %v (asked for %q); by what we read it should: %v (%+v)", when, registry, got, rec.asked, want, l)
				}
			}
			if all && len(e.Problems) > 0 {
				t.Errorf("%s: %s", when, ids(e.Problems))
			}
		}
		compare("one directory", false)

		list := strings.Replace(read1(t, d.Config), `config_path = "`+d.ConfigPath, `config_path = "`+d.ConfigPath+":/etc/docker/certs.d", 1)
		write1(t, d.Config, list)
		d.Restart()
		compare("a list", false)

		want, err := Desired(t.Context(), r, n, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range want.Resources {
			if x.File != nil {
				if err := os.MkdirAll(filepath.Dir(x.File.Path), 0o755); err != nil {
					t.Fatal(err)
				}
				write1(t, x.File.Path, string(x.File.Content))
			}
		}
		d.Restart()
		compare("applied", true)
	})
}

func read1(t *testing.T, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write1(t *testing.T, p, content string) {
	t.Helper()
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
