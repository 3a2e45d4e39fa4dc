package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/check"
)

// Formats are the forms that a report is rendered in, besides the record, "json".
func Formats() []string { return []string{"text", "json", "html", "junit", "markdown"} }

// Write renders a report in a format.
func Write(w io.Writer, format string, r check.Report, o Options) error {
	switch format {
	case "json":
		return JSON(w, r)
	case "html":
		var record bytes.Buffer
		if err := JSON(&record, r); err != nil {
			return err
		}
		return HTML(w, r, digest(record.Bytes()))
	case "junit":
		return JUnit(w, r)
	case "markdown":
		return Markdown(w, r)
	}
	return Text(w, r, o)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Kept is what Keep wrote.
type Kept struct {
	Record string   // path of the JSON record
	SHA256 string   // of the record, hex
	Files  []string // every file, the record first
}

// Keep writes a report into a directory: the record as JSON with its sha256 beside it, and what is rendered
// of it. With a signer the record is signed too. The record comes first and is durable before the others.
func Keep(dir string, r check.Report, s *Signer) (Kept, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return Kept{}, fmt.Errorf("keep the report: %w", err)
	}
	var record bytes.Buffer
	if err := JSON(&record, r); err != nil {
		return Kept{}, err
	}
	base := filepath.Join(dir, name(r))
	k := Kept{Record: base + ".json", SHA256: digest(record.Bytes())}
	put := func(suffix string, content []byte) error {
		p := base + suffix
		if err := (atomicfile.Writer{}).Write(p, content, atomicfile.Meta{Mode: 0o640, UID: os.Geteuid(), GID: os.Getegid()}); err != nil {
			return fmt.Errorf("keep the report: %w", err)
		}
		k.Files = append(k.Files, p)
		return nil
	}
	err := errors.Join(put(".json", record.Bytes()), put(".json.sha256", []byte(k.SHA256+"  "+filepath.Base(k.Record)+"\n")))
	if err == nil && s != nil {
		var sig []byte
		if sig, err = s.Sign(record.Bytes()); err == nil {
			err = put(".json.sig", sig)
		}
	}
	for _, f := range []struct{ format, suffix string }{{"html", ".html"}, {"junit", ".junit.xml"}, {"markdown", ".md"}, {"text", ".txt"}} {
		var b bytes.Buffer
		if err == nil {
			err = Write(&b, f.format, r, Options{})
		}
		if err == nil {
			err = put(f.suffix, b.Bytes())
		}
	}
	return k, err
}

// name is the file name of a report without its extension: when, where, what came of it.
func name(r check.Report) string {
	node := regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(or(r.Node.Hostname, "node"), "_")
	return strings.Join([]string{"check", r.Started.UTC().Format("20060102T150405Z"), strings.TrimLeft(node, "."), string(r.Verdict)}, "-")
}
