package clients

import (
	"regexp"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/host/cri/critest"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/test/edgeprep"
	"github.com/edgeprep/edgeprep/test/registry"
)

// chunked has containerd 2.4 fetch several layers at once and each of them in pieces, each piece by a Range of
// its own. containerd: plugins/transfer/plugin.go, core/remotes/docker/fetcher.go, since v2.1.
func chunked(config string) string {
	if !strings.HasPrefix(config, "version = 3") {
		return config
	}
	return config + `[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = 8
  max_concurrent_unpacks = 2
  concurrent_layer_fetch_buffer = 262144
`
}

// runtime starts a containerd whose hosts.toml names the mirror and nobody else, in the form that edgeprep writes.
func runtime(t *testing.T, version string, m *edgeprep.Mirror) *critest.Kubelet {
	t.Helper()
	d := ctrtest.Start(t, version, ctrtest.WithConfig(chunked))
	d.WriteHosts("_default", `server = "`+m.URL+`"
[host."`+m.URL+`"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "2s"
`)
	return critest.New(t, d.Endpoint())
}

// pullAll pulls references as kubelet does.
func pullAll(t *testing.T, k *critest.Kubelet, images []image) {
	t.Helper()
	for _, i := range images {
		for _, ref := range i.refs() {
			if id, err := k.PullImage(t.Context(), ref); err != nil || id != i.config.String() {
				t.Errorf("%s %s: %s, not %s: %v", i.kind, ref, id, i.config, err)
			}
		}
	}
}

// partial is a request in the log for a part of a blob that begins inside it.
var partial = regexp.MustCompile(`range="?bytes=[1-9]`)

func TestContainerd(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.7", "2.4"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.twice(t, func(t *testing.T) { pullAll(t, runtime(t, version, s.mirror), s.images) })
			if n := len(partial.FindAllString(s.mirror.Log(), -1)); (version == "2.4") != (n > 0) {
				t.Errorf("%d parts were asked for", n)
			}
		})
	}
}

// What was filled while there was an upstream is pulled without one: by tag, and by digest.
func TestFillThenCutOff(t *testing.T) {
	t.Parallel()
	origin := registry.Start(t)
	images := fill(t, origin)
	m := edgeprep.Serve(t, edgeprep.Options{
		Upstreams: map[string]string{portHost: origin.URL, "docker.io": origin.URL},
	})
	args := []string{"mirror", "fill", "--cache", m.Cache, "--config", m.Site}
	for _, i := range images {
		args = append(args, i.byTag())
	}
	if out, err := edgeprep.Run(t, args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	origin.Stop()
	if out, err := edgeprep.Run(t, args...); err != nil || strings.Contains(out, "pulled ") {
		t.Errorf("the second fill, with nobody to ask: %v\n%s", err, out)
	}
	m.Args = []string{"--upstream", "never"}
	m.Restart()
	for _, version := range []string{"1.7", "2.4"} {
		t.Run(version, func(t *testing.T) { pullAll(t, runtime(t, version, m), images) })
	}
	if out, err := edgeprep.Run(t, "mirror", "verify", "--cache", m.Cache); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
