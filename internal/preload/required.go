package preload

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

const maxRequired = 4 << 20

// ReadRequired reads a list of references, one a line; "#" begins a comment. References are normalised, and
// those that mean the same are merged. All bad lines are reported at once.
func ReadRequired(fs host.FS, path string) ([]Ref, error) {
	b, err := fs.ReadFile(path, maxRequired)
	if err != nil {
		return nil, because(err, problem(idRequired, path, "the list of required images cannot be read", "",
			"correct [images] required, or make the list, one reference a line: printf '%s\\n' docker.io/library/busybox:1.36 > "+diag.Word(path)))
	}
	return parseRequired(path, b)
}

func parseRequired(path string, b []byte) ([]Ref, error) {
	var refs []Ref
	var report diag.Report
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(b, []byte("\ufeff"))))
	lines.Buffer(nil, maxRequired+1)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(withoutComment(lines.Text()))
		if text == "" {
			continue
		}
		ref, err := ParseReference(text)
		if err != nil {
			report.Add(badLine(path, n, err))
			continue
		}
		if !seen[ref.Name] {
			seen[ref.Name] = true
			refs = append(refs, ref)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return refs, report.Err()
}

func withoutComment(s string) string {
	s, _, _ = strings.Cut(s, "#") // no reference has one
	return s
}

func badLine(path string, line int, err error) *diag.Diagnostic {
	d := problem(idRequired, path, err.Error(), "every line holds one image reference; # starts a comment",
		"write it like registry.example.com/team/app:1.0")
	d.Where.Line = line
	return d
}
