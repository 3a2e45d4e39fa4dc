package distro

import (
	"testing"

	"github.com/edgeprep/edgeprep/distros"
)

func TestBuiltinDescriptorsAreClean(t *testing.T) {
	t.Parallel()
	set, err := Load(distros.FS, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"k3s", "kubeadm"} {
		if _, ok := set.Get(id); !ok {
			t.Errorf("no descriptor %s in %v", id, set.IDs())
		}
	}
}
