package repotest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v4"
)

const module = "github.com/edgeprep/edgeprep/"

const root = "../.."

type pkg struct {
	ImportPath, Dir, Doc string
	Imports, Deps        []string
	GoFiles              []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Dir,Doc,Imports,Deps,GoFiles", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

type layers struct {
	of    map[string]int
	edges map[string]bool
}

func readLayers(t *testing.T) layers {
	t.Helper()
	f, err := os.Open("imports.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := layers{of: map[string]int{}, edges: map[string]bool{}}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		switch {
		case len(fields) == 0 || fields[0] == "#" || strings.HasPrefix(fields[0], "#"):
		case fields[0] == "edge":
			if len(fields) < 5 {
				t.Errorf("edge without a reason: %s", sc.Text())
				continue
			}
			l.edges[fields[1]+" -> "+fields[3]] = true
		default:
			n, err := strconv.Atoi(fields[0])
			if err != nil || len(fields) != 2 {
				t.Fatalf("imports.txt: %q", sc.Text())
			}
			l.of[fields[1]] = n
		}
	}
	return l
}

// TestImportsPointDown holds the layers of ARCHITECTURE.md.
func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	l := readLayers(t)
	used := map[string]bool{}
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		at, ok := l.of[from]
		if !ok {
			t.Errorf("%s has no layer in imports.txt", from)
			continue
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, module)
			if !ours {
				continue
			}
			edge := from + " -> " + to
			if below, ok := l.of[to]; ok && below >= at && !l.edges[edge] {
				t.Errorf("%s: layer %d imports layer %d", edge, at, below)
			}
			used[edge] = true
		}
	}
	for e := range l.edges {
		if !used[e] {
			t.Errorf("imports.txt lists %s, which nobody uses", e)
		}
	}
}

// TestLowerLayersStayLight: what plans and renders must not link what acts.
func TestLowerLayersStayLight(t *testing.T) {
	t.Parallel()
	l := readLayers(t)
	heavy := []string{"github.com/spf13/cobra", "charm.land/bubbletea/v2", "os/exec", "github.com/containerd/containerd/v2/client", "github.com/coreos/go-systemd/v22/dbus"}
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if at, ok := l.of[from]; !ok || at > 2 || from == "internal/repotest" {
			continue
		}
		for _, h := range heavy {
			if slices.Contains(p.Imports, h) {
				t.Errorf("%s imports %s", from, h)
			}
			// os/exec comes in by libraries that look for helper programs; what counts there is our own import
			if h != "os/exec" && slices.Contains(p.Deps, h) {
				t.Errorf("%s links %s", from, h)
			}
		}
	}
}

// TestOnlyTheTUIDrawsTheTerminal: what draws full screens stays out of every other package, so that no command can
// write an escape sequence by it.
func TestOnlyTheTUIDrawsTheTerminal(t *testing.T) {
	t.Parallel()
	draws := regexp.MustCompile(`^(charm\.land/|github\.com/charmbracelet/)`)
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, i := range p.Imports {
			if draws.MatchString(i) && from != "internal/tui" {
				t.Errorf("%s imports %s: only internal/tui may", from, i)
			}
		}
		tui := slices.Contains(p.Deps, module+"internal/tui") || from == "internal/tui"
		if !tui && slices.ContainsFunc(p.Deps, draws.MatchString) {
			t.Errorf("%s links what draws the terminal", from)
		}
	}
}

// TestOnlyTheEngineNamesHost: whoever holds a host.Reader cannot write.
func TestOnlyTheEngineNamesHost(t *testing.T) {
	t.Parallel()
	allowed := regexp.MustCompile(`^internal/(apply|host)(/|$)`)
	named := regexp.MustCompile(`\bhost\.(Host|FileWriter|UnitControl|RuntimeControl)\b`)
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if allowed.MatchString(from) {
			continue
		}
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for n, line := range strings.Split(string(src), "\n") {
				code, _, _ := strings.Cut(line, "//")
				if named.MatchString(code) && !strings.Contains(line, "composition:") {
					t.Errorf("%s/%s:%d names the writing half of a host: %s", from, f, n+1, strings.TrimSpace(line))
				}
			}
		}
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestDirectDependenciesAreExplained: each is a line in docs/dependencies.md.
func TestDirectDependenciesAreExplained(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mod), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.Contains(line, "// indirect") {
			continue
		}
		if f[0] == "replace" {
			t.Errorf("go.mod: %s", line)
		}
		if strings.Contains(f[0], ".") && len(f) == 2 && !strings.Contains(string(doc), "`"+f[0]+"`") {
			t.Errorf("docs/dependencies.md has no line for %s", f[0])
		}
	}
}

// TestFilesStaySmall: a file over 400 lines is split by concept, or listed here with its reason.
func TestFilesStaySmall(t *testing.T) {
	t.Parallel()
	reasons := map[string]string{
		"internal/host/hosttest/conformance_files.go":   "one suite, a list of independent cases",
		"internal/host/hosttest/conformance_runtime.go": "one suite, a list of independent cases",
	}
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimPrefix(p.ImportPath, module) + "/" + f
			if n := strings.Count(string(src), "\n"); n > 400 && reasons[name] == "" {
				t.Errorf("%s has %d lines", name, n)
			}
		}
	}
}

func markdown(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, glob := range []string{"*.md", "docs/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, glob))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			docs[strings.TrimPrefix(f, root+"/")] = string(b)
		}
	}
	return docs
}

type block struct {
	file, lang, text string
	line             int
}

func blocks(t *testing.T) []block {
	t.Helper()
	var out []block
	for file, text := range markdown(t) {
		var cur *block
		for n, line := range strings.Split(text, "\n") {
			switch {
			case strings.HasPrefix(line, "```") && cur == nil:
				cur = &block{file: file, lang: strings.TrimPrefix(line, "```"), line: n + 1}
			case strings.HasPrefix(line, "```"):
				out = append(out, *cur)
				cur = nil
			case cur != nil:
				cur.text += line + "\n"
			}
		}
		if cur != nil {
			t.Errorf("%s:%d: block without an end", file, cur.line)
		}
	}
	return out
}

// TestExamplesParse: TOML, YAML, JSON and shell blocks of the documents are read by their own parsers.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	for _, b := range blocks(t) {
		var err error
		switch b.lang {
		case "toml":
			var v map[string]any
			err = toml.Unmarshal([]byte(b.text), &v)
		case "yaml":
			var v any
			err = yaml.Unmarshal([]byte(b.text), &v)
		case "json":
			var v any
			err = json.Unmarshal([]byte(b.text), &v)
		case "sh":
			cmd := exec.Command("bash", "-n")
			cmd.Stdin = strings.NewReader(b.text)
			var out []byte
			if out, err = cmd.CombinedOutput(); err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
		}
		if err != nil {
			t.Errorf("%s:%d: %v", b.file, b.line, err)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	for file, text := range markdown(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s: %s leads nowhere", file, m[1])
			}
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n > 150 {
		t.Errorf("README.md has %d lines, more than 150", n)
	}
}

// TestNoInitFunctions: importing a package does nothing. (Package variables are the linter's: gochecknoglobals.)
func TestNoInitFunctions(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Scope.Objects {
				if d.Kind.String() == "func" && d.Name == "init" {
					t.Errorf("%s/%s has an init function", p.ImportPath, f)
				}
			}
		}
	}
}
