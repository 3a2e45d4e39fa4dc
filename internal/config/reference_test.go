package config

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

// reference writes docs/reference.md from the source of this package's types: one table of keys per TOML
// table, in the order of the file.
func reference(source []byte) ([]byte, error) {
	f, err := parser.ParseFile(token.NewFileSet(), "site.go", source, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read the configuration's types: %w", err)
	}
	types := map[string]*ast.StructType{}
	ast.Inspect(f, func(n ast.Node) bool {
		if ts, ok := n.(*ast.TypeSpec); ok {
			if st, ok := ts.Type.(*ast.StructType); ok {
				types[ts.Name.Name] = st
			}
		}
		return true
	})
	var b bytes.Buffer
	b.WriteString("# edgeprep.toml\n\nGenerated from `internal/config/site.go`; edit there, then `make docs`.\n" +
		"Unknown keys are errors. Paths are absolute. Secrets never stand in this file.\n")
	writeTable(&b, types, "", "Site", false)
	return b.Bytes(), nil
}

func writeTable(b *bytes.Buffer, types map[string]*ast.StructType, name, typ string, list bool) {
	type sub struct {
		name, typ string
		list      bool
	}
	var subs []sub
	var rows []string
	for _, f := range types[typ].Fields.List {
		key := tomlKey(f)
		full := strings.TrimPrefix(name+"."+key, ".")
		t, isList := elem(f.Type)
		if _, table := types[t]; table {
			subs = append(subs, sub{full, t, isList})
			continue
		}
		if isList {
			t = "list of " + t
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", key, t, strings.TrimSpace(f.Comment.Text())))
	}
	if len(rows) > 0 {
		fmt.Fprintf(b, "\n## %s\n\n| key | type | meaning |\n|---|---|---|\n%s\n", heading(name, list), strings.Join(rows, "\n"))
	}
	for _, s := range subs {
		writeTable(b, types, s.name, s.typ, s.list)
	}
}

func heading(name string, list bool) string {
	switch {
	case name == "":
		return "Top of the file"
	case list:
		return "`[[" + name + "]]`"
	}
	return "`[" + name + "]`"
}

func tomlKey(f *ast.Field) string {
	return reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("toml")
}

func elem(e ast.Expr) (name string, list bool) {
	if a, ok := e.(*ast.ArrayType); ok {
		n, _ := elem(a.Elt)
		return n, true
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name, false
	}
	return "?", false
}
