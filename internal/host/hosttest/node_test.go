package hosttest

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/edgeprep/edgeprep/internal/host"
)

var _ host.Host = (*Node)(nil)

func TestTxtar(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Add(txtar.Parse([]byte("-- etc/hostname --\nedge\n-- usr/local/bin/k3s mode=0755 --\n#!\n-- var/empty/ --\n-- var/run -> /run --\n-- run/x --\ny\n")))
	if got := n.ReadFile("/var/run/x"); got != "y\n" {
		t.Errorf("through an absolute link: %q", got)
	}
	info, err := n.FS().Lstat("/usr/local/bin/k3s")
	if err != nil || info.Mode != 0o755 {
		t.Errorf("mode: %v %v", info.Mode, err)
	}
	if info, err := n.FS().Stat("/var/empty"); err != nil || info.Type != host.TypeDir {
		t.Errorf("directory: %v %v", info, err)
	}
}

func TestHashSeesEveryChange(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, change := range map[string]func(*Node) error{
		"content": func(n *Node) error { return n.Files().Write(ctx, "/a", []byte("2"), host.Meta{Mode: 0o644}) },
		"mode":    func(n *Node) error { return n.Files().SetMeta(ctx, "/a", host.Meta{Mode: 0o600}) },
		"new":     func(n *Node) error { return n.Files().Mkdir(ctx, "/d", host.Meta{Mode: 0o755}) },
		"link":    func(n *Node) error { return n.Files().Symlink(ctx, "/l", "/b") },
		"removed": func(n *Node) error { return n.Files().Remove(ctx, "/a") },
	} {
		n := New(t)
		n.WriteFile("/a", "1")
		n.Symlink("/l", "/a")
		before := n.Hash()
		if err := n.Files().Write(ctx, "/a", []byte("1"), host.Meta{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if n.Hash() != before {
			t.Errorf("%s: the hash changed although only times did", name)
		}
		if err := change(n); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n.Hash() == before {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestFaultsAndCalls(t *testing.T) {
	t.Parallel()
	ctx, boom := context.Background(), errors.New("boom")
	n := New(t)
	n.FailOn("files.Write", 2, boom)
	n.FailOn("files.Mkdir /c", 0, boom)
	var got []bool
	for _, p := range []string{"/a", "/b", "/a"} {
		got = append(got, errors.Is(n.Files().Write(ctx, p, nil, host.Meta{Mode: 0o644}), boom))
	}
	got = append(got, errors.Is(n.Files().Mkdir(ctx, "/d", host.Meta{Mode: 0o755}), boom),
		errors.Is(n.Files().Mkdir(ctx, "/c", host.Meta{Mode: 0o755}), boom))
	if diff := cmp.Diff([]bool{false, true, false, false, true}, got); diff != "" {
		t.Error(diff)
	}
	want := "files.Write /a\nfiles.Write /b\nfiles.Write /a\nfiles.Mkdir /d\nfiles.Mkdir /c\n"
	if diff := cmp.Diff(want, n.CallLog("files.")); diff != "" {
		t.Error(diff)
	}
	if n.Exists("/b") || n.Exists("/c") {
		t.Error("a failed call did something")
	}
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	n := New(t)
	n.Mkdir("/etc")
	ctx := context.Background()
	for range 2 {
		if err := n.EnsureAccount(ctx, host.Account{Name: "edgeprep", Home: "/var/lib/edgeprep"}); err != nil {
			t.Fatal(err)
		}
	}
	a, ok, err := n.Account("edgeprep")
	if err != nil || !ok || a.Home != "/var/lib/edgeprep" {
		t.Errorf("account: %+v %v %v", a, ok, err)
	}
}

func TestImagesInCRI(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	n := New(t)
	ep := host.Endpoint{Socket: "/run/containerd/containerd.sock", Namespace: "k8s.io"}
	m := MakeImage(ImageSpec{Name: "docker.io/library/busybox:1.36", Platforms: []string{"linux/arm64", "linux/amd64"}})
	if _, err := n.RuntimeControl(ep).Import(ctx, NewSource(m), host.ImportOptions{Platform: "linux/amd64", Unpack: true, Pin: true}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"busybox:1.36", "docker.io/library/busybox@" + m.Image.Target.Digest, m.Configs["linux/amd64"].Digest} {
		img, ok, err := n.CRI(ep).ImageStatus(ctx, ref)
		if err != nil || !ok || !img.Pinned || img.ID != m.Configs["linux/amd64"].Digest {
			t.Errorf("%s: %+v %v %v", ref, img, ok, err)
		}
	}
	if _, ok, err := n.CRI(ep).ImageStatus(ctx, "busybox:1.37"); ok || err != nil {
		t.Errorf("absent image: %v %v", ok, err)
	}
	if err := n.CRI(ep).PullAbsent(ctx, "docker.io/x/y:z"); err == nil {
		t.Error("a pull of what does not exist succeeded")
	}
}
