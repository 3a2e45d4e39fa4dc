package local

import (
	"runtime/debug"
	"testing"
)

func TestVersionIn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ module, version, ldflags, want string }{
		{"github.com/k3s-io/k3s", "(devel)", "-X github.com/k3s-io/k3s/pkg/version.Version=v1.36.3+k3s1 -X k8s.io/component-base/version.gitVersion=v1.36.3+k3s1 -w -s", "v1.36.3+k3s1"},
		{"k8s.io/kubernetes", "(devel)", "-s -w -X 'k8s.io/component-base/version.gitCommit=abc' -X 'k8s.io/component-base/version.gitVersion=v1.37.2' -X 'k8s.io/client-go/pkg/version.gitVersion=v9'", "v1.37.2"},
		{"github.com/containerd/containerd/v2", "v2.4.2", "", "v2.4.2"},
		{"github.com/containerd/containerd/v2", "(devel)", `-X github.com/containerd/containerd/v2/version.Version=v2.4.2 -X github.com/containerd/containerd/v2/version.Package=github.com/containerd/containerd/v2`, "v2.4.2"},
		{"github.com/containerd/containerd", "v1.7.35+incompatible", "", "v1.7.35+incompatible"},
		{"example.org/x", "v0.0.0-20261122210600-0123456789ab", "", ""},
		{"example.org/x", "v1.2.4-0.20261122210600-0123456789ab+dirty", "", ""},
		{"example.org/x", "(devel)", "-s -w", ""},
		{"", "", "", ""},
	} {
		info := &debug.BuildInfo{Main: debug.Module{Path: c.module, Version: c.version}}
		info.Settings = []debug.BuildSetting{{Key: "-ldflags", Value: c.ldflags}}
		if got := versionIn(info); got != c.want {
			t.Errorf("%s %s %q: %q, want %q", c.module, c.version, c.ldflags, got, c.want)
		}
	}
}
