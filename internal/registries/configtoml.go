package registries

import (
	"context"
	"fmt"
	"path"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// containerd wants a hosts.toml tree in one explicit directory and, where config.toml does not name exactly
// that, the edit of one line in it.
func (b *builder) containerd(context.Context) error {
	dir := want(b.node.Registries.CertsD, b.node.Runtime.CertsD)
	config := ""
	if b.node.Runtime.Config != "" {
		c, err := loadContainerd(b.fs, resolve(b.fs, b.node.Runtime.Config), parseRelease(b.node.Runtime.Version))
		if err != nil {
			return refused(err)
		}
		if dir, config, err = b.configTOML(c, dir); err != nil {
			return err
		}
	}
	if err := b.tree(dir); err != nil {
		return err
	}
	if config != "" {
		b.restart(config)
		b.lastAfterAll()
	}
	return nil
}

// lastAfterAll lets the restarts wait for every file: a restart must find the whole tree.
func (b *builder) lastAfterAll() {
	var files []string
	for i := range b.result.Resources {
		r := &b.result.Resources[i]
		if r.Kind == resource.KindFile {
			files = append(files, r.ID)
		}
		if r.Kind == resource.KindUnit {
			r.After = files
		}
	}
}

// configTOML wants config.toml to name one directory; dir is the one to use when none is named.
//
// The file is wanted also when nothing has to change in it: once edited it stays edgeprep's concern.
func (b *builder) configTOML(c *containerdConfig, dir string) (used, id string, err error) {
	const why = "lets containerd read the registry directories"
	if len(c.files) == 0 {
		b.result.note("containerd has no "+c.main+": a minimal one is written; everything that it does not name keeps its built-in default (also SystemdCgroup)",
			diag.Where{File: c.main}, "")
		return dir, b.shared(c.main, nil, minimalConfig(c.release, dir), 0o644, why), nil
	}
	if d := c.blocked(); d != nil {
		return "", "", refuse(d)
	}
	if d := c.wrongTable(); d != nil {
		b.result.note(d.What, d.Where, d.Fix)
	}
	now, set := c.configPath()
	t := c.target()
	f := c.files[t.file]
	if set && single(now.value) {
		return now.value, b.shared(f.path, f.data, f.data, 0o644, why), nil
	}
	dir = want(now.value, dir)
	if set {
		b.replaced(f.at(registryKey(now.id, "config_path")...), now.value, dir)
	}
	content, err := c.edit(t, dir)
	if err != nil {
		return "", "", refuse(newDiag(idReadOnly, f.at(registryKey(t.id)...), err.Error(), "",
			"write by hand: [plugins."+quoted(t.id)+".registry] config_path = "+quoted(dir)))
	}
	if space, err := b.fs.Space(f.path); err == nil && space.ReadOnly {
		return "", "", refuse(newDiag(idReadOnly, diag.Where{File: f.path}, "config_path must change, and the file is on a read-only file system", "",
			"point containerd at a copy: a drop-in of "+cmpOr(b.node.Runtime.Unit, "containerd.service")+" with --config /etc/containerd/config.toml"))
	}
	return dir, b.shared(f.path, f.data, content, 0o644, why), nil
}

// replaced says what the new value leaves out.
func (b *builder) replaced(w diag.Where, old, dir string) {
	b.result.note(fmt.Sprintf("config_path %s is replaced by %s: containerd 2.1 and later read no list", quoted(old), quoted(dir)), w, "")
	for _, other := range splitList(old) {
		if names, err := registryDirs(b.fs, other); err == nil && path.Clean(other) != dir && len(names) > 0 {
			b.result.note(fmt.Sprintf("the %d registry directories in %s are no longer read", len(names), other), diag.Where{File: other}, "move what you need to "+dir)
		}
	}
}

// edit sets config_path and checks that the result then says so by the rules of this containerd.
func (c *containerdConfig) edit(t setting, dir string) ([]byte, error) {
	f := c.files[t.file]
	doc, err := f.doc.Set(registryKey(t.id, "config_path"), dir)
	if err != nil {
		return nil, err
	}
	after := *c
	after.files = append([]configFile(nil), c.files...)
	after.files[t.file].doc = doc
	if s, ok := after.configPath(); !ok || s.value != dir {
		return nil, fmt.Errorf("config_path in %s would be overridden by %q", f.path, s.value)
	}
	return doc.Bytes(), nil
}
