package hosttest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// Hash is a hash of everything below root but times: types, modes, owners, content, link targets. Equal
// hashes mean that nothing changed.
func Hash(t testing.TB, root string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(Tree(t, root)))
	return hex.EncodeToString(sum[:])
}

// Tree is what Hash hashes, one entry a line: compare two of them to see what changed. Entries of /proc-like
// kinds appear with their type only.
func Tree(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		line, err := treeLine(root, p, d)
		b.WriteString(line)
		return err
	})
	if err != nil {
		t.Fatalf("hash tree: %v", err)
	}
	return b.String()
}

func treeLine(root, p string, d fs.DirEntry) (string, error) {
	rel, err := filepath.Rel(root, p)
	if err != nil {
		return "", err
	}
	info, err := d.Info()
	if err != nil {
		return "", err
	}
	uid, gid := uint32(0), uint32(0)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		uid, gid = st.Uid, st.Gid
	}
	what := ""
	switch {
	case info.Mode().IsRegular():
		what, err = fileSum(p)
	case info.Mode()&fs.ModeSymlink != 0:
		what, err = os.Readlink(p)
		what = "-> " + what
	}
	return strings.TrimRight(fmt.Sprintf("/%s %v %d:%d %s", rel, info.Mode(), uid, gid, what), " ") + "\n", err
}

func fileSum(p string) (string, error) {
	f, err := os.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// FromTxtar makes a node from a txtar file. An entry's name is a node path, with or without the leading
// slash, and says more where needed:
//
//	-- etc/hostname --               a file, mode 0644
//	-- usr/local/bin/k3s mode=0755 --  a file with a mode
//	-- var/lib/rancher/ --           a directory
//	-- var/run -> /run --            a symbolic link
func FromTxtar(t testing.TB, file string) *Node {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := New(t)
	n.Add(a)
	return n
}

// Add makes the entries of a txtar archive.
func (n *Node) Add(a *txtar.Archive) {
	n.t.Helper()
	for _, f := range a.Files {
		n.addEntry(f)
	}
}

func (n *Node) addEntry(f txtar.File) {
	n.t.Helper()
	if name, target, ok := strings.Cut(f.Name, " -> "); ok {
		n.Symlink("/"+strings.TrimPrefix(name, "/"), target)
		return
	}
	name, attr, _ := strings.Cut(f.Name, " ")
	p := "/" + strings.TrimPrefix(name, "/")
	mode, isSet := strings.CutPrefix(strings.TrimSpace(attr), "mode=")
	perm := uint64(0o644)
	if isSet {
		var err error
		if perm, err = strconv.ParseUint(mode, 8, 12); err != nil {
			n.t.Fatalf("%s: %v", f.Name, err)
		}
	}
	if strings.HasSuffix(p, "/") {
		n.Mkdir(p)
		if isSet {
			n.must(os.Chmod(n.Path(p), fs.FileMode(perm)))
		}
		return
	}
	n.WriteMode(p, string(f.Data), fs.FileMode(perm))
}
