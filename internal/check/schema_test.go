package check

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemaFile is published: whoever keeps records can check them with any validator.
const schemaFile = "../../docs/schema/check-v1.schema.json"

// TestSchemaIsCurrent keeps the published schema what the types say; each field is described by its comment.
func TestSchemaIsCurrent(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, true)
	want, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if os.Getenv("EDGEPREP_UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(schemaFile), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s is not current; run make docs. A field that changes its meaning or goes needs a new Schema number:\n%s", schemaFile, d)
	}
}

// TestRecordsValidate: what a run gives is what the schema says, to the last field.
func TestRecordsValidate(t *testing.T) {
	t.Parallel()
	open, closed := compiled(t, schemaOf(t, true)), compiled(t, schemaOf(t, false))
	tpl := newTemplate(t)
	broken := kubeadmSite(t, tpl)
	broken.configTOML("certs.d")
	for name, r := range map[string]Report{
		"healthy": kubeadmSite(t, tpl).run(Options{Deep: true}),
		"broken":  broken.run(Options{Profile: ProfileShip, Strict: true}),
		"partial": kubeadmSite(t, tpl).run(Options{IDs: []string{"REG-01"}}),
	} {
		r.Person, r.Against, r.Drift = "A. Nyman", "left.json", []Drift{{What: "image x", Was: "a", Is: "gone", Matters: true}}
		r.Tool, r.Inputs = Tool{Version: "v1"}, []Input{{Name: "archive", Path: "/opt/a.tar", Size: 1}}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		for kind, s := range map[string]*jsonschema.Schema{"published": open, "closed": closed} {
			if err := s.Validate(doc); err != nil {
				t.Errorf("%s, %s schema: %v", name, kind, err)
			}
		}
		delete(doc.(map[string]any), "verdict")
		if err := open.Validate(doc); err == nil {
			t.Errorf("%s: a record without a verdict validates", name)
		}
		doc.(map[string]any)["verdict"] = "MAYBE"
		if err := open.Validate(doc); err == nil {
			t.Errorf("%s: a record with the verdict MAYBE validates", name)
		}
	}
}

func compiled(t *testing.T, schema map[string]any) *jsonschema.Schema {
	t.Helper()
	b, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("record.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("record.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// schemaOf makes the JSON schema of Report from the types and their comments. An open one takes fields of later
// versions too, as a consumer of records should.
func schemaOf(t *testing.T, open bool) map[string]any {
	t.Helper()
	g := &schemaMaker{t: t, open: open, comments: map[string]string{}, consts: map[string][]any{}, defs: map[string]any{}}
	g.readSource()
	s := g.object(reflect.TypeFor[Report]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = fmt.Sprintf("https://github.com/edgeprep/edgeprep/docs/schema/check-v%d.schema.json", Schema)
	s["title"] = "the record of edgeprep check"
	s["description"] = "Generated from internal/check by make docs. Within a schema number fields are only added: ignore those that you do not know."
	s["properties"].(map[string]any)["schema"].(map[string]any)["const"] = Schema
	s["$defs"] = g.defs
	return s
}

type schemaMaker struct {
	t        *testing.T
	open     bool
	comments map[string]string // of Type and Type.Field
	consts   map[string][]any  // values of the constants of a type
	defs     map[string]any
}

func (g *schemaMaker) readSource() {
	files, err := filepath.Glob("*.go")
	if err != nil {
		g.t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ParseComments)
		if err != nil {
			g.t.Fatal(err)
		}
		for _, d := range file.Decls {
			if decl, ok := d.(*ast.GenDecl); ok {
				g.declaration(decl)
			}
		}
	}
}

func (g *schemaMaker) declaration(d *ast.GenDecl) {
	for _, s := range d.Specs {
		switch x := s.(type) {
		case *ast.TypeSpec:
			g.comments[x.Name.Name] = sentenceOf(x.Name.Name, d.Doc)
			if st, ok := x.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					for _, n := range f.Names {
						g.comments[x.Name.Name+"."+n.Name] = strings.TrimSpace(sentenceOf(n.Name, f.Doc) + " " + sentenceOf(n.Name, f.Comment))
					}
				}
			}
		case *ast.ValueSpec:
			name, ok := x.Type.(*ast.Ident)
			if !ok || len(x.Values) != 1 {
				continue
			}
			if lit, ok := x.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				g.consts[name.Name] = append(g.consts[name.Name], constant.StringVal(constant.MakeFromLiteral(lit.Value, lit.Kind, 0)))
			}
		}
	}
}

// sentenceOf is a comment on one line, without the name that it begins with.
func sentenceOf(name string, c *ast.CommentGroup) string {
	text := strings.Join(strings.Fields(c.Text()), " ")
	text = strings.TrimPrefix(text, name+" ")
	return strings.TrimPrefix(text, "is ")
}

func (g *schemaMaker) object(t reflect.Type) map[string]any {
	props, required := map[string]any{}, []any{}
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		p := g.of(f.Type)
		text := g.comments[t.Name()+"."+f.Name]
		if text == "" {
			g.t.Errorf("%s.%s has no comment: it describes the field in the schema", t.Name(), f.Name)
		}
		if _, ref := p["$ref"]; ref || p["description"] == nil {
			p["description"] = text
		}
		props[name] = p
		if !strings.Contains(opts, "omit") {
			required = append(required, name)
		}
	}
	s := map[string]any{"type": "object", "properties": props, "required": required}
	if !g.open {
		s["additionalProperties"] = false
	}
	return s
}

func (g *schemaMaker) of(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		return g.of(t.Elem())
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": g.of(t.Elem())}
	case t.Kind() == reflect.Struct:
		if g.defs[t.Name()] == nil {
			def := g.object(t)
			def["description"] = g.comments[t.Name()]
			g.defs[t.Name()] = def
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		return map[string]any{"type": "integer", "minimum": 0}
	case t.Kind() == reflect.String:
		s := map[string]any{"type": "string"}
		if values := g.consts[t.Name()]; t.PkgPath() != "" && len(values) > 0 {
			s["enum"] = values
		}
		return s
	}
	g.t.Fatalf("a field of type %s: %s", t, strconv.Quote("no JSON schema is made of it"))
	return nil
}
