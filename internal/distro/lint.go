package distro

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// Lint checks a descriptor: all problems at once, each with its place. An empty report means that it can be
// used.
func Lint(name string, data []byte) diag.Report {
	_, ds := parse(name, data)
	return ds
}

// parse reads and checks a descriptor; it is nil when there are errors.
func parse(file string, data []byte) (*Descriptor, diag.Report) {
	doc, err := tomledit.Parse(data)
	if err != nil {
		return nil, diag.Report{syntaxProblem(file, err)}
	}
	l := &linter{file: file, index: doc.Index(), names: builtinNames()}
	l.shape(reflect.TypeFor[Descriptor](), doc.Tree(), nil)
	if l.found.HasErrors() { // values of wrong types make further findings misleading
		return nil, l.found
	}
	var d Descriptor
	if err := toml.Unmarshal(data, &d); err != nil {
		return nil, diag.Report{syntaxProblem(file, err)}
	}
	d.Origin = file
	l.d = &d
	l.semantics()
	slices.SortStableFunc(l.found, func(a, b *diag.Diagnostic) int { return cmp.Compare(a.Where.Line, b.Where.Line) })
	if l.found.HasErrors() {
		return nil, l.found
	}
	return &d, l.found
}

func syntaxProblem(file string, err error) *diag.Diagnostic {
	d := &diag.Diagnostic{ID: "CFG-100", Severity: diag.Error, What: "the descriptor is not TOML: " + err.Error(),
		Where: diag.Where{File: file}, Fix: "correct the line, then: edgeprep distro lint " + file}
	var se *tomledit.SyntaxError
	if errors.As(err, &se) {
		d.Where.Line, d.Where.Col, d.What = se.Line, se.Col, "the descriptor is not TOML: "+se.Msg
	}
	return d
}

// linter collects findings about one descriptor.
type linter struct {
	file  string
	index tomledit.Index
	d     *Descriptor
	names map[string]bool // what templates may name
	found diag.Report
}

func builtinNames() map[string]bool { return map[string]bool{"unit": true, "arch": true} }

// at reports a problem with the key at p.
func (l *linter) at(id, what, fix string, p ...string) {
	pos, _ := l.index.Nearest(p...)
	l.found.Add(&diag.Diagnostic{ID: id, Severity: diag.Error, What: what, Fix: fix,
		Where: diag.Where{File: l.file, Line: pos.Line, Col: pos.Col, Key: strings.Join(p, ".")}})
}

// shape compares a decoded table with the type it is meant for.
func (l *linter) shape(t reflect.Type, v any, p []string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		m, ok := v.(map[string]any)
		if !ok {
			l.wrongType("a table", p)
			return
		}
		l.table(t, m, p)
	case reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			l.wrongType("a table", p)
			return
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			l.shape(t.Elem(), m[k], append(slices.Clone(p), k))
		}
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			l.wrongType("a list", p)
			return
		}
		for i, e := range list {
			l.shape(t.Elem(), e, append(slices.Clone(p), strconv.Itoa(i)))
		}
	default:
		l.scalar(t.Kind(), v, p)
	}
}

func (l *linter) scalar(kind reflect.Kind, v any, p []string) {
	var ok bool
	want := "a text in quotes"
	switch kind {
	case reflect.Bool:
		_, ok = v.(bool)
		want = "true or false"
	case reflect.Int64:
		_, ok = v.(int64)
		want = "a whole number"
	default:
		_, ok = v.(string)
	}
	if !ok {
		l.wrongType(want, p)
	}
}

func (l *linter) wrongType(want string, p []string) {
	l.at("CFG-102", fmt.Sprintf("%s must be %s", strings.Join(p, "."), want), "write "+want, p...)
}

func (l *linter) table(t reflect.Type, m map[string]any, p []string) {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("toml"); name != "-" {
			fields[name] = t.Field(i).Type
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		key := append(slices.Clone(p), k)
		ft, ok := fields[k]
		if !ok {
			l.unknownKey(k, slices.Sorted(maps.Keys(fields)), key)
			continue
		}
		l.shape(ft, m[k], key)
	}
}

func (l *linter) unknownKey(name string, known, p []string) {
	fix := "known keys: " + strings.Join(known, ", ")
	if near := diag.Nearest(name, known); near != "" {
		fix = fmt.Sprintf("did you mean %q? %s", near, fix)
	}
	l.at("CFG-101", fmt.Sprintf("unknown key %q", strings.Join(p, ".")), fix, p...)
}

// required reports an empty value.
func (l *linter) required(value string, p ...string) {
	if value == "" {
		l.at("CFG-103", strings.Join(p, ".")+" is missing", "add it; edgeprep distro show k3s is an example", p...)
	}
}

// oneOf reports a value outside the vocabulary.
func (l *linter) oneOf(value string, allowed []string, p ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	fix := "use one of: " + strings.Join(allowed, ", ")
	if near := diag.Nearest(value, allowed); near != "" && value != "" {
		fix = fmt.Sprintf("did you mean %q? %s", near, fix)
	}
	l.at("CFG-104", fmt.Sprintf("%s cannot be %q", strings.Join(p, "."), value), fix, p...)
}

// absolute reports a path that is not absolute. A template may begin with a setting.
func (l *linter) absolute(value string, p ...string) {
	if value != "" && !path.IsAbs(value) && !strings.HasPrefix(value, "{") {
		l.at("CFG-104", fmt.Sprintf("%s must be an absolute path, not %q", strings.Join(p, "."), value), "begin it with / or {data-dir}", p...)
	}
	l.template(value, p...)
}

func (l *linter) absolutes(values []string, p ...string) {
	for i, v := range values {
		l.absolute(v, append(slices.Clone(p), strconv.Itoa(i))...)
	}
}

// template reports a placeholder that nothing fills.
func (l *linter) template(value string, p ...string) {
	for _, m := range placeholder.FindAllStringSubmatch(value, -1) {
		if !l.names[m[1]] {
			known := slices.Sorted(maps.Keys(l.names))
			fix := "known: " + strings.Join(known, ", ")
			if near := diag.Nearest(m[1], known); near != "" {
				fix = fmt.Sprintf("did you mean {%s}? %s", near, fix)
			}
			l.at("CFG-105", fmt.Sprintf("%s names {%s}, which is no setting", strings.Join(p, "."), m[1]), fix, p...)
		}
	}
}

// setting reports a name that is no setting.
func (l *linter) setting(name string, p ...string) {
	if _, ok := l.d.Settings[name]; name != "" && !ok {
		l.oneOf(name, slices.Sorted(maps.Keys(l.d.Settings)), p...)
	}
}

// versions reports a list that is not one, or that leaves a minor out: versions in the gap would be treated
// as old without anybody having meant that.
func (l *linter) versions(list string, gapless bool, p ...string) {
	vs, err := parseVersions(list)
	if err != nil {
		l.at("CFG-106", fmt.Sprintf("%s: %v", strings.Join(p, "."), err), `write the first good patch of each minor: "1.33.1,1.32.5"`, p...)
		return
	}
	slices.SortFunc(vs, version.compare)
	for i := 1; i < len(vs) && gapless; i++ {
		a, b := vs[i-1], vs[i]
		switch {
		case a.sameMinor(b):
			l.at("CFG-106", fmt.Sprintf("%s lists %d.%d twice", strings.Join(p, "."), a.major, a.minor), "keep the first good patch of each minor", p...)
		case a.major == b.major && b.minor != a.minor+1:
			l.at("CFG-106", fmt.Sprintf("%s leaves out the minors between %s and %s", strings.Join(p, "."), a, b), "list the first good patch of each minor", p...)
		}
	}
}

func (l *linter) regex(expr string, p ...string) {
	l.required(expr, p...)
	if _, err := regexp.Compile(expr); err != nil {
		l.at("CFG-104", fmt.Sprintf("%s is not a regular expression: %v", strings.Join(p, "."), err), "see https://pkg.go.dev/regexp/syntax", p...)
	}
}
