package app

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// Coverage is what the archives on a node hold, and what of it a plan needs.
type Coverage struct {
	Platform string
	Archives []ArchiveFile
	Patterns []string // of [images] archives that match nothing
	Required string   // the list's file; empty: there is none
	Refs     []string // of the list, normalised
	NoList   error    // why the list cannot be read
	Cached   []string // of Refs, what the mirror's cache on this node has whole for Platform
	Pull     Pull     // how what is missing may be brought into that cache
	Disk     host.Space
	DiskAt   string
	Read     []preload.Archive // to be known the next time
}

// ArchiveFile is an archive that a plan has or could have.
type ArchiveFile struct {
	Path    string
	Chosen  bool // [images] archives names it
	Size    int64
	Need    int64 // bytes on the node once it is in containerd and in the mirror's cache: an estimate
	Names   []string
	Problem string // why it is of no use to this node; empty: it is
}

// DefaultArchives is where archives are looked for when a plan names none.
const DefaultArchives = "/opt/edgeprep/images"

// Coverage reads the archives that the configuration names and those beside them. known spares reading again what
// did not change. Whatever is wrong with an archive is said with it.
func (a *App) Coverage(ctx context.Context, known []preload.Archive) (Coverage, error) {
	site, err := a.Site()
	if err != nil {
		return Coverage{}, err
	}
	c := Coverage{Required: site.Images.Required}
	c.Platform, c.DiskAt = a.aim(ctx, site)
	if c.Disk, err = a.reader.FS().Space(c.DiskAt); err != nil {
		return c, fmt.Errorf("measure the room at %s: %w", c.DiskAt, err)
	}
	if c.Required != "" {
		refs, err := preload.ReadRequired(a.reader.FS(), c.Required)
		c.NoList = err
		for _, r := range refs {
			c.Refs = append(c.Refs, r.Name)
		}
	}
	c.inCache(ctx, a.pull(ctx, site, c.Platform))
	chosen, err := a.candidates(&c, site.Images.Archives)
	if err != nil {
		return c, err
	}
	for i := range c.Archives {
		f := &c.Archives[i]
		f.Chosen = slices.Contains(chosen, f.Path)
		x, err := preload.Inspect(ctx, a.reader.FS(), f.Path, preload.Inspected(known), a.sink())
		if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		f.judge(x, err, c.Platform, site.Images.Preload, cachesHere(site))
		if err == nil {
			c.Read = append(c.Read, x)
		}
	}
	return c, nil
}

// aim is the platform that images are for, and the directory on whose file system they will be.
func (a *App) aim(ctx context.Context, site config.Site) (platform, dataDir string) {
	platform, dataDir = site.Images.Platform, "/var"
	if n, err := a.detect(ctx, site.Distro); err == nil {
		return firstOf(platform, n.Platform), firstOf(n.DataDir, dataDir)
	}
	if f, err := a.reader.Facts(ctx); err == nil {
		platform = firstOf(platform, f.OS+"/"+f.Arch)
	}
	return platform, dataDir
}

// inCache notes which of the references the cache has.
func (c *Coverage) inCache(ctx context.Context, p Pull) {
	c.Pull = p
	if p.Cache == "" {
		return
	}
	has, done := cached(ctx, p.Cache, c.Platform)
	defer done()
	for _, r := range c.Refs {
		if has(r) {
			c.Cached = append(c.Cached, r)
		}
	}
}

// candidates fills Archives and Patterns, and gives the paths that the patterns name.
func (a *App) candidates(c *Coverage, patterns []string) (chosen []string, err error) {
	dirs := []string{}
	for _, p := range patterns {
		found, err := glob(a.reader.FS(), p)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			c.Patterns = append(c.Patterns, p)
		}
		chosen = append(chosen, found...)
		if dir := path.Dir(p); !strings.ContainsAny(dir, "*?[") {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		dirs = []string{DefaultArchives}
	}
	all := slices.Clone(chosen)
	for _, d := range dirs {
		entries, _ := a.reader.FS().ReadDir(d) // a directory that is not there has no archives
		for _, e := range entries {
			if e.Type == host.TypeFile && looksLikeArchive(e.Path) {
				all = append(all, path.Join(d, path.Base(e.Path)))
			}
		}
	}
	slices.Sort(all)
	for _, p := range slices.Compact(all) {
		c.Archives = append(c.Archives, ArchiveFile{Path: p})
	}
	return chosen, nil
}

func looksLikeArchive(name string) bool {
	base := path.Base(name)
	return !strings.HasPrefix(base, ".") && (strings.Contains(base, ".tar") || strings.HasSuffix(base, ".tgz"))
}

// judge says what an archive brings to a node.
func (f *ArchiveFile) judge(x preload.Archive, err error, platform string, preloaded, cached bool) {
	if err != nil {
		f.Problem = err.Error()
		if found := diag.Of(err); len(found) > 0 {
			f.Problem = found[0].What
		}
		return
	}
	f.Size, f.Names = x.Size, x.Names()
	for _, i := range x.Images {
		if p, ok := i.For(platform); !ok {
			f.Problem = strings.Join(platformsOf(i), ", ") + ", the node is " + platform
		} else if !p.Complete() {
			f.Problem = i.Name + " is not complete"
		}
	}
	s := x.SizesFor(platform)
	if preloaded {
		f.Need += x.Size + s.Content + s.Unpacked
	}
	if cached {
		for _, s := range x.Sizes { // the cache takes every platform
			f.Need += s.Content
		}
	}
}

func platformsOf(i preload.Image) []string {
	var out []string
	for _, p := range i.Platforms {
		out = append(out, p.Platform)
	}
	return out
}
