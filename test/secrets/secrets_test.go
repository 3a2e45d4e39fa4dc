// Package secrets plants a secret of its own in every input of the program, runs the commands, and looks for each of
// them in all that the commands print, write and keep.
package secrets

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/test/edgeprep"
)

func TestMain(m *testing.M) { os.Exit(edgeprep.Main(m)) }

// hunt knows the secrets that were planted, and what was printed and written meanwhile.
type hunt struct {
	t       *testing.T
	planted map[string]string // by place
	seen    map[string]string // by where it was seen
}

func newHunt(t *testing.T) *hunt {
	t.Helper()
	return &hunt{t: t, planted: map[string]string{}, seen: map[string]string{}}
}

// plant makes a secret for a place. It looks like nothing that is looked for by its form.
func (h *hunt) plant(place string) string {
	if h.planted[place] == "" {
		h.planted[place] = fmt.Sprintf("%dPlanted%dIn%s", 7+len(h.planted), 31*len(h.planted), strings.ReplaceAll(place, " ", ""))
	}
	return h.planted[place]
}

// basic is a secret as it is sent, and as docker keeps it.
func (h *hunt) basic(place string) string {
	return base64.StdEncoding.EncodeToString([]byte("robot:" + h.plant(place)))
}

// run runs the program and keeps what it prints, however it ends.
func (h *hunt) run(args ...string) string {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), edgeprep.Build(h.t), args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() == 70) {
		h.t.Errorf("edgeprep %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	h.seen[fmt.Sprintf("%d: edgeprep %s", len(h.seen), strings.Join(args, " "))] = string(out)
	return string(out)
}

// files keeps what lies below a directory.
func (h *hunt) files(dir string) {
	h.t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		h.seen[p] = string(b)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// bundle makes a support bundle and keeps what is in it; it gives the files by name.
func (h *hunt) bundle(args ...string) map[string]string {
	h.t.Helper()
	file := filepath.Join(h.t.TempDir(), "bundle.tar.gz")
	said := h.run(append([]string{"support-bundle", "--out", file}, args...)...)
	f, err := os.Open(file)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, said)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		h.t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(z); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			h.t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			h.t.Fatal(err)
		}
		_, name, _ := strings.Cut(head.Name, "/")
		got[name] = string(b)
		h.seen["support bundle: "+name] = string(b)
	}
	return got
}

// report names every secret that was seen, as it is or as it is sent.
func (h *hunt) report() {
	h.t.Helper()
	total := 0
	for where, text := range h.seen {
		total += len(text)
		for place, secret := range h.planted {
			for _, form := range []string{secret, h.basic(place), base64.StdEncoding.EncodeToString([]byte(secret)), url.QueryEscape(secret)} {
				if i := strings.Index(text, form); i >= 0 {
					h.t.Errorf("the secret of %q is in %s: ...%s...", place, where, text[max(0, i-120):min(len(text), i+120)])
					break
				}
			}
		}
	}
	h.t.Logf("%d secrets looked for in %d outputs and files of %d bytes", len(h.planted), len(h.seen), total)
}

// write puts a file with secrets below a node's root.
func write(t *testing.T, root, name, content string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// appendTo adds to a file.
func appendTo(t *testing.T, root, name, more string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	write(t, root, name, string(b)+more)
}

// keyPair makes a certificate; its key's own lines are the secret.
func (h *hunt) keyPair(root, cert, key string) {
	h.t.Helper()
	write(h.t, root, key, "")
	cmd := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x",
		"-addext", "subjectAltName=IP:127.0.0.1", "-keyout", filepath.Join(root, key), "-out", filepath.Join(root, cert))
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("openssl: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(root, key))
	if err != nil {
		h.t.Fatal(err)
	}
	h.planted["the key "+key] = string(bytes.Split(b, []byte("\n"))[1])
}
