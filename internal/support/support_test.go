package support_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/edgeprep/edgeprep/internal/redact"
	"github.com/edgeprep/edgeprep/internal/support"
)

// unpacked is what a bundle holds, by name; modes are checked on the way.
func unpacked(t *testing.T, data []byte, gz bool) map[string]string {
	t.Helper()
	var r io.Reader
	var err error
	if gz {
		r, err = gzip.NewReader(bytes.NewReader(data))
	} else {
		r, err = zstd.NewReader(bytes.NewReader(data))
	}
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := map[byte]int64{tar.TypeDir: 0o700, tar.TypeReg: 0o600}[h.Typeflag]; h.Mode != want {
			t.Errorf("%s has mode %o, want %o", h.Name, h.Mode, want)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(b)
	}
}

func TestBundle(t *testing.T) {
	t.Parallel()
	for _, gz := range []bool{false, true} {
		var r redact.Redactor
		r.Add("hunter2-and-more")
		var buf bytes.Buffer
		b, err := support.New(&buf, support.Options{Name: "n", Gzip: gz, Time: time.Unix(0, 0).UTC(), Redactor: &r, MaxFile: 60, MaxTotal: 200})
		if err != nil {
			t.Fatal(err)
		}
		b.Text("a/secret.txt", "/a", []byte("password: x1x2x3\nand hunter2-and-more\n"), support.Head, 0)
		b.Text("../../evil", "/e", []byte("inside"), support.Head, 0)
		b.Text("head", "/h", []byte(strings.Repeat("h", 59)+"XY"), support.Head, 0)
		b.Text("tail", "/t", []byte("XY"+strings.Repeat("t", 59)), support.Tail, 5)
		b.Text("binary", "/b", []byte{0xff, 0}, support.Head, 0)
		b.Add("gone", "/g", nil, errors.New("no such file: token=x1x2x3"), support.Head)
		b.JSON("value.json", "here", map[string]string{"token": "x1x2x3", "url": "https://u:pw@h"})
		b.Text("late", "/l", []byte(strings.Repeat("l", 60)), support.Head, 0)
		b.Text("later", "/m", []byte("x"), support.Head, 0)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		got := unpacked(t, buf.Bytes(), gz)
		contents := got["n/contents.json"]
		delete(got, "n/contents.json")
		want := map[string]string{
			"n/": "", "n/a/secret.txt": "password: ***\nand ***\n", "n/evil": "inside", "n/head": strings.Repeat("h", 59) + "X",
			"n/tail": "Y" + strings.Repeat("t", 59), "n/value.json": "{\n  \"token\": \"***\",\n  \"url\": \"https://***@h\"\n}\n", "n/late": "lllll",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("gzip %v (-want +got):\n%s", gz, d)
		}
		for _, s := range []string{`"missing": "it is not text"`, `no such file: token=***`, `"cut": 6`, `"missing": "the bundle is full"`} {
			if !strings.Contains(contents, s) {
				t.Errorf("contents.json lacks %s:\n%s", s, contents)
			}
		}
		var list bytes.Buffer
		if err := support.WriteEntries(&list, b.Entries()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(list.String(), "a/secret.txt") || strings.Contains(list.String(), "x1x2x3") {
			t.Error(list.String())
		}
	}
}

// A bundle that cannot be written says so, and does not pretend.
func TestBundleOnAFullDisk(t *testing.T) {
	t.Parallel()
	b, err := support.New(full{}, support.Options{Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	b.Text("a", "/a", []byte("x"), support.Head, 0)
	if err := b.Close(); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Error(err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }
