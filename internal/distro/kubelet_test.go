package distro

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

func TestKubeletArgs(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/etc/x.yaml", "kubelet-arg:\n- root-dir=/data/kubelet\n- --registry-qps=3\n")
	n.WriteFile("/etc/x.yaml.d/9.yaml", "kubelet-arg+: fail-swap-on=true\n")
	words := []word{{"/usr/bin/x", "u"}, {"server", "u"}, {"--kubelet-arg=registry-qps=4", "u"}, {"--kubelet-arg", "u"}, {"v=2", "u"}, {"--debug", "u"}, {"--data-dir", "u"}, {"/d", "u"}}
	c, err := readConfig(n.FS(), "/etc/x.yaml")
	if err != nil {
		t.Fatal(err)
	}
	x := &resolver{d: &Descriptor{}, fs: n.FS(), unit: &unit{Command: words}, config: c, read: true}
	got, err := x.kubeletArgs("kubelet-arg")
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, a := range got {
		texts = append(texts, a.Text)
	}
	if d := cmp.Diff([]string{"root-dir=/data/kubelet", "registry-qps=3", "fail-swap-on=true", "registry-qps=4", "v=2"}, texts); d != "" {
		t.Error(d)
	}
	got, _ = x.kubeletArgs("")
	texts = nil
	for _, a := range got {
		texts = append(texts, a.Text)
	}
	if d := cmp.Diff([]string{"kubelet-arg=registry-qps=4", "kubelet-arg=v=2", "debug", "data-dir=/d"}, texts); d != "" {
		t.Error(d)
	}
}
