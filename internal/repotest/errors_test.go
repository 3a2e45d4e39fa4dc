package repotest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

var errorID = regexp.MustCompile(`^(CFG|NOD|APL|MER)-\d{3}$`)

// errorText is what is said under one id, and where in the source.
type errorText struct {
	pkg   string
	whats []string
	whys  []string
	fixes []string
}

// TestErrorsGenerated keeps docs/errors.md what the source says: every id with its texts. An id belongs to
// one package, so that two meanings cannot share one.
func TestErrorsGenerated(t *testing.T) {
	t.Parallel()
	found := map[string]*errorText{}
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			pkg := strings.TrimPrefix(p.ImportPath, module)
			ast.Inspect(file, func(n ast.Node) bool { collect(found, pkg, n); return true })
		}
	}
	checkDoc(t, "docs/errors.md", errorsDoc(found))
}

// collect takes the ids of composite literals (with their What) and of other uses.
func collect(found map[string]*errorText, pkg string, n ast.Node) {
	switch x := n.(type) {
	case *ast.ValueSpec: // const idTruncated = "NOD-102" // ends too early
		if len(x.Values) == 1 && x.Comment != nil {
			add(found, pkg, literal(x.Values[0]), strings.TrimSpace(x.Comment.Text()))
		}
	case *ast.CompositeLit:
		together(found, pkg, x.Elts)
		fields := map[string]string{}
		for _, e := range x.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				fields[fmt.Sprint(kv.Key)] = literal(kv.Value)
			}
		}
		add(found, pkg, fields["ID"], fields["What"])
		if e := found[fields["ID"]]; e != nil {
			e.whys, e.fixes = with(e.whys, fields["Why"]), with(e.fixes, fields["Fix"])
		}
	case *ast.CallExpr:
		together(found, pkg, x.Args)
	case *ast.AssignStmt:
		together(found, pkg, x.Rhs)
	case *ast.BasicLit:
		add(found, pkg, literal(x), "")
	}
}

// together takes an id and the first sentence beside it: arguments of a call, or values assigned at once.
func together(found map[string]*errorText, pkg string, list []ast.Expr) {
	id, what := "", ""
	for _, e := range list {
		s := literal(e)
		switch {
		case errorID.MatchString(s):
			id = s
		case strings.Contains(s, " ") && what == "":
			what = s
		}
	}
	add(found, pkg, id, what)
}

func add(found map[string]*errorText, pkg, id, what string) {
	if !errorID.MatchString(id) {
		return
	}
	e := found[id]
	if e == nil {
		e = &errorText{pkg: pkg}
		found[id] = e
	}
	if what != "" && !slices.Contains(e.whats, what) {
		e.whats, e.pkg = append(e.whats, what), pkg
	}
}

// with adds a text that is not there yet and says something.
func with(list []string, s string) []string {
	if strings.Trim(s, ". ") == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// literal is the text of a string expression, with "..." for what is computed.
func literal(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.BasicLit:
		if x.Kind == token.STRING {
			s, _ := strconv.Unquote(x.Value)
			return s
		}
	case *ast.BinaryExpr:
		l, r := literal(x.X), literal(x.Y)
		if l == "" {
			l = "..."
		}
		if r == "" {
			r = "..."
		}
		return l + r
	case *ast.CallExpr:
		if sel, ok := x.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sprintf" && len(x.Args) > 0 {
			return regexp.MustCompile(`%[-+# 0-9.]*[a-zA-Z]`).ReplaceAllString(literal(x.Args[0]), "...")
		}
	}
	return ""
}

func errorsDoc(found map[string]*errorText) string {
	ids := make([]string, 0, len(found))
	for id := range found {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	var b strings.Builder
	b.WriteString("# Errors\n\nGenerated from the source by `make docs`. Each error also says where, why, and one fix that can be typed.\n" +
		"`CFG` configuration and descriptors, `NOD` the node and its archives, `APL` plan, apply and rollback, `MER` the mirror.\n" +
		"Ids are never reused. Checks have ids of their own: [checks.md](checks.md). `edgeprep explain ID` prints one.\n\n" +
		"| id | says | why | fix | from |\n|---|---|---|---|---|\n")
	for _, id := range ids {
		e := found[id]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | `%s` |\n", id, cell(e.whats), cell(e.whys), cell(e.fixes), e.pkg)
	}
	return b.String()
}

func cell(texts []string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "......", "...").Replace(strings.Join(texts, "; "))
}

// checkDoc compares a generated document, or writes it with EDGEPREP_UPDATE=1.
func checkDoc(t *testing.T, name, want string) {
	t.Helper()
	file := filepath.Join(root, name)
	if os.Getenv("EDGEPREP_UPDATE") == "1" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what the source says (%v); run: make docs", name, err)
	}
}
