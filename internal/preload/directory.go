package preload

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"path"
	"slices"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// directory wants the archives where the distribution looks for them. Order: directory, the loader's cache
// file, archives, and the sentinel last.
func (p *planner) directory(archives []Archive) {
	at := p.node.Preload
	if p.node.Runtime.External != "" {
		p.refuse(&diag.Diagnostic{
			ID: idExternal, Severity: diag.Error, Where: diag.Where{File: at.Dir},
			What: fmt.Sprintf("%s uses the runtime %s and reads no image archives", p.node.Name, p.node.Runtime.External),
			Why:  "what is placed in its image directory has no effect",
			Fix:  "remove the setting that names that runtime, or set [images] preload = false",
		})
		return
	}
	after := append([]string{p.dirs(at.Dir)}, p.opts.OwnAfter...)
	if id := p.loaderCache(after); id != "" {
		after = append(after, id)
	}
	placed := p.place(archives, after)
	if at.Sentinel != "" && len(placed) > 0 {
		p.sentinel(placed)
	}
	if at.Restart && len(placed) > 0 {
		p.restart(placed)
	}
	if !p.node.Installed {
		p.result.Pending = append(p.result.Pending, Note{
			Text: p.node.Name + " is not installed: it imports the archives when it starts for the first time",
		})
	}
}

// place wants each archive under a name that the loader takes, each content once.
func (p *planner) place(archives []Archive, after []string) (ids []string) {
	if p.opts.Consume && p.opts.MirrorCache != "" {
		after = append(after, CacheSetID) // it reads them where they are now
	}
	taken, seen := map[string]bool{}, map[string]bool{} // names, digests
	var bytes int64
	for _, a := range archives {
		name, ok := p.loadable(a)
		if !ok || seen[a.SHA256] {
			continue
		}
		if taken[name] {
			name = distinct(name, a.SHA256)
		}
		taken[name], seen[a.SHA256] = true, true
		dst := path.Join(p.node.Preload.Dir, name)
		if dst == path.Clean(a.Path) {
			p.note(a.Path, "the archive is in the image directory already: edgeprep leaves it alone", "")
			continue
		}
		bytes += a.Size
		ids = append(ids, p.add(p.archive(a, dst, after)))
	}
	p.space(p.node.Preload.Dir, "archives", bytes)
	return ids
}

func (p *planner) archive(a Archive, dst string, after []string) resource.Resource {
	return resource.Resource{
		ID: resource.ID(resource.KindArchive, dst), Kind: resource.KindArchive, After: slices.Clone(after),
		Why: fmt.Sprintf("%s imports it: %s", p.node.Name, list(a.Names(), 3)),
		Archive: &resource.Archive{
			Source: a.Path, Path: dst, Size: a.Size, SHA256: a.SHA256, Mode: 0o644,
			Stage: p.node.Preload.Stage, Consume: p.opts.Consume, Images: a.Names(),
		},
	}
}

// loadable holds an archive against what the loader takes, and gives its name there.
func (p *planner) loadable(a Archive) (name string, ok bool) {
	before := len(p.report)
	at := p.node.Preload
	if a.Format == OCILayout {
		p.refuse(problem(idLoader, a.Path, "an OCI layout directory cannot be placed in an image directory",
			p.node.Name+" reads archive files", "tar -C "+a.Path+" -cf FILE.tar oci-layout index.json blobs"))
		return "", false
	}
	if at.MaxWindow > 0 && a.Window > at.MaxWindow {
		p.refuse(problem(idWindow, a.Path,
			fmt.Sprintf("the archive needs a zstd window of %d MiB; %s allows %d", a.Window>>20, p.node.Name, at.MaxWindow>>20),
			"its loader fails with \"window size exceeded\" and starts without the images",
			"zstd -dc --long=31 "+a.Path+" | zstd --long=24 -o NEW.tar.zst"))
	}
	p.checkStored(a)
	name, ok = loaderName(path.Base(a.Path), a.Compression, at.Extensions, at.Sentinel)
	if !ok {
		p.refuse(problem(idLoader, a.Path, fmt.Sprintf("%s reads no archives packed with %q", p.node.Name, a.Compression),
			"its loader goes by the name, and has none for this", "unpack it and name the .tar"))
	}
	if path.Dir(path.Clean(a.Path)) == path.Clean(at.Dir) && name != path.Base(a.Path) {
		p.refuse(problem(idLoader, a.Path, fmt.Sprintf("%s does not load the archive by this name", p.node.Name),
			"its loader decides by the name, in lower case", "mv "+diag.Word(a.Path)+" "+diag.Word(path.Join(at.Dir, name))))
	}
	return name, len(p.report) == before
}

// checkStored refuses names that the loader would take as they are written, in a form that nothing asks for.
// k3s:pkg/agent/containerd: OCI names are verbatim, docker-archive's are normalised
func (p *planner) checkStored(a Archive) {
	if a.Format == DockerArchive {
		return
	}
	for _, i := range a.Images {
		if i.Stored != "" {
			p.refuse(problem(idUnqualified, a.Path,
				fmt.Sprintf("an image is named %q in the archive; containerd would be asked for %s", i.Stored, i.Name),
				p.node.Name+" takes names of an OCI layout as they are",
				"save it by its full name: skopeo copy docker://"+i.Name+" oci-archive:FILE:"+i.Name))
		}
	}
}

// loaderCache wants the file that makes the loader remember what it imported. It is the loader's from then
// on: whatever is in it stays.
func (p *planner) loaderCache(after []string) (id string) {
	at := p.node.Preload
	if !p.node.Gates.ImportCache || at.CacheFile == "" {
		return ""
	}
	f := &resource.File{Path: path.Join(at.Dir, path.Base(at.CacheFile)), Mode: 0o644, Shared: true, Ephemeral: true}
	if p.opts.FS != nil {
		b, err := p.opts.FS.ReadFile(f.Path, 0)
		switch {
		case err == nil:
			sum := sha256.Sum256(b)
			f.Content, f.Base = b, hex.EncodeToString(sum[:])
		case !errors.Is(err, iofs.ErrNotExist):
			p.refuse(problem(idRead, f.Path, "the loader's cache file cannot be read: "+err.Error(), "", ""))
		}
	}
	return p.add(resource.Resource{
		ID: resource.ID(resource.KindFile, f.Path), Kind: resource.KindFile, After: after, File: f,
		Why: "the archives are not imported again at every start",
	})
}

// sentinel wants the file that the loader sees last: while it is looked at, all archives are done.
func (p *planner) sentinel(after []string) {
	at := path.Join(p.node.Preload.Dir, path.Base(p.node.Preload.Sentinel))
	p.add(resource.Resource{
		ID: resource.ID(resource.KindFile, at), Kind: resource.KindFile, After: after,
		Why:  "kubelet waits for the last archive only if another file follows it",
		File: &resource.File{Path: at, Mode: 0o644},
	})
}

func (p *planner) restart(archives []string) {
	for _, u := range p.node.Units {
		p.add(resource.Resource{
			ID: resource.ID(resource.KindUnit, u), Kind: resource.KindUnit, After: archives,
			Why:  "imports new archives only when it starts",
			Unit: &resource.Unit{Name: u, Foreign: true, RestartOn: archives},
		})
	}
}
