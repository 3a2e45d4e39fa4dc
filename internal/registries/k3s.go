package registries

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// registriesYAML wants registries.yaml, and the drop-in that takes the default endpoint away.
func (b *builder) registriesYAML(context.Context) error {
	if ext := b.node.Runtime.External; ext != "" {
		b.result.Pending = append(b.result.Pending, Note{
			Text:  b.node.Name + " was told to use another runtime (" + ext + "): its registries file is without effect and is not written",
			Where: diag.Where{File: b.node.Registries.File}, Fix: "point that runtime at the mirror by hand, or let " + b.node.ID + " run its own",
		})
		return nil
	}
	file := resolve(b.fs, b.node.Registries.File)
	old, err := readYAML(b.fs, file)
	if err != nil {
		return err
	}
	current, err := b.withoutFormer(file, old)
	if err != nil {
		return err
	}
	content, warnings, err := MergeYAML(file, current, b.policy.Endpoints, b.policy.Hosts)
	if err != nil {
		return refused(err)
	}
	for _, w := range warnings {
		b.result.note(w.What, w.Where, w.Fix)
	}
	files := []string{b.shared(file, old, content, 0o600, "makes containerd pull from the mirror")}
	if !b.node.Gates.StarMirror {
		b.result.note(`with this version a mirror for "*" may not fall back to the registry itself (k3s issue 11857)`, diag.Where{File: file},
			"name the registries that matter in [registries] hosts")
	}
	dropIn, err := b.noFallback()
	if err != nil {
		return err
	}
	if dropIn != "" {
		files = append(files, dropIn)
	}
	b.restart(files...)
	return nil
}

// withoutFormer is the file without the mirrors that are no longer wanted.
func (b *builder) withoutFormer(file string, old []byte) ([]byte, error) {
	gone := slices.DeleteFunc(slices.Clone(b.policy.Former), func(f Endpoint) bool {
		return slices.ContainsFunc(b.policy.Endpoints, f.Same)
	})
	out, bad, err := dropEndpoints(file, old, gone)
	if bad != nil {
		return nil, refused(bad)
	}
	return out, err
}

// readYAML reads registries.yaml; nil when there is none.
func readYAML(f host.FS, file string) ([]byte, error) {
	info, err := f.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Type != host.TypeFile {
		return nil, refuse(newDiag(idYAMLKind, diag.Where{File: file}, "it is a "+string(info.Type)+", not a file",
			"k3s and RKE2 then wait for ever at start, with the message \"Waiting to retrieve agent configuration\"", "mv "+file+" "+file+".bad"))
	}
	data, err := read(f, file)
	if err != nil {
		return nil, refused(err)
	}
	return data, nil
}

// refused wraps what is wrong with the node; another error stays as it is.
func refused(err error) error {
	if len(diag.Of(err)) > 0 {
		return &diag.Refused{Err: err}
	}
	return err
}

// noFallback wants the drop-in by which containerd gets no endpoint but the mirrors.
func (b *builder) noFallback() (id string, err error) {
	key, file := b.node.Registries.NoFallback, b.node.Registries.DropIn
	switch {
	case b.policy.Upstream:
		return "", nil
	case !b.node.Gates.NoFallbackKey || key == "" || file == "":
		b.result.Pending = append(b.result.Pending, Note{
			Text:  b.node.Name + " " + cmpOr(b.node.Version, "of unknown version") + " cannot be told to leave out the upstream registry: when the mirror lacks an image, containerd tries the registry itself",
			Where: diag.Where{Key: key}, Fix: "upgrade " + b.node.ID + ", or expect slow errors for images that are missing",
		})
		return "", nil
	}
	over, err := overridden(b.fs, file, key)
	if err != nil {
		return "", err
	}
	if over != nil {
		return "", refuse(newDiag(idNoFallback, *over, key+" is set to false in a file that is read after "+file,
			"the last file wins, so the upstream registry would be tried", "remove the key from "+over.File))
	}
	content := "# Written by edgeprep: containerd asks the mirrors of registries.yaml and nobody else.\n" + key + ": true\n"
	id = b.file(resource.File{Path: file, Content: []byte(content), Mode: 0o644}, "keeps containerd from trying upstream registries")
	return id, nil
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// overridden finds a drop-in after file that sets key to anything but true.
func overridden(f host.FS, file, key string) (*diag.Where, error) {
	names, err := dropIns(f, path.Dir(file))
	if err != nil {
		return nil, refused(err)
	}
	for _, p := range names {
		if path.Base(p) <= path.Base(file) {
			continue
		}
		if value, where := yamlBool(f, p, key); where != nil && !value {
			return where, nil
		}
	}
	return nil, nil
}

// dropIns are the files of a config.yaml.d directory in the order they are read.
func dropIns(f host.FS, dir string) ([]string, error) {
	list, err := f.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, newDiag(idRead, diag.Where{File: dir}, "it cannot be listed: "+err.Error(), "", "ls -ld "+dir)
	}
	var out []string
	for _, e := range list {
		if strings.HasSuffix(e.Path, ".yaml") || strings.HasSuffix(e.Path, ".yml") {
			out = append(out, path.Join(dir, path.Base(e.Path)))
		}
	}
	slices.Sort(out)
	return out, nil
}

// yamlBool reads one key of a configuration file. where is nil when it is not there, or not readable: that
// such a file stops the distribution is found elsewhere.
func yamlBool(f host.FS, file, key string) (value bool, where *diag.Where) {
	data, err := read(f, file)
	if err != nil || data == nil {
		return false, nil
	}
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil || len(doc.Content) == 0 {
		return false, nil
	}
	n := child(doc.Content[0], key)
	if n == nil {
		return false, nil
	}
	// The distributions hand the value to a flag: true, "true" and 1 are the same.
	value = slices.Contains([]string{"true", "1", "t", "yes"}, strings.ToLower(n.Value))
	return value, &diag.Where{File: file, Line: n.Line, Col: n.Column, Key: key}
}

// fallbackOff says whether the distribution is told to leave the default endpoint out, and where.
func fallbackOff(f host.FS, dropIn, key string) (bool, *diag.Where) {
	if dropIn == "" || key == "" {
		return false, nil
	}
	dir := path.Dir(dropIn)
	files := []string{strings.TrimSuffix(dir, ".d")}
	if more, err := dropIns(f, dir); err == nil {
		files = append(files, more...)
	}
	var off bool
	var at *diag.Where
	for _, p := range files {
		if v, where := yamlBool(f, p, key); where != nil {
			off, at = v, where
		}
	}
	return off, at
}
