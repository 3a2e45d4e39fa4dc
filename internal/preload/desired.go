package preload

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// The ways that images get into a distribution's containerd (distro.Preload.Method).
const (
	methodDirectory = "directory"
	methodImport    = "import"
)

// RuntimeSetID is the id of the ImageSet that goes into containerd.
const RuntimeSetID = "images:runtime"

// CacheSetID is the id of the ImageSet that goes into the mirror's cache.
const CacheSetID = "images:cache"

// Options say what a site wants of its archives.
type Options struct {
	Preload      bool   // into containerd ([images] preload)
	Consume      bool   // archives may be moved ([images] consume)
	Platform     string // "linux/arm64"; empty: the node's
	AllowMissing bool   // a required image that no archive has is a note, not an error

	MirrorCache string   // the mirror's cache on this node; empty: this node has no mirror
	MirrorOwner string   // account that the cache's files belong to
	MirrorAfter []string // ids that must be done before the cache is written

	// Cached tells whether that cache has a reference whole already, whoever brought it in; nil: nothing.
	Cached func(Ref) bool

	// Own are archives of edgeprep's own, that containerd needs whatever Preload says, and the mirror does not.
	Own      []Archive
	OwnAfter []string // ids that must be done before they are read

	// FS tells whether the loader's own cache file exists; nil: it does not.
	FS host.FS
}

// Result is the desired state and what there is to say about it.
type Result struct {
	Resources []resource.Resource
	Pending   []Note // what takes effect only later
	Notes     []Note
	Space     []Space
}

// Note is something a person should know that stops nothing.
type Note struct {
	Text  string     `json:"text"`
	Where diag.Where `json:"where,omitzero"`
	Fix   string     `json:"fix,omitempty"`
}

// Space is room that the archives will take, at most: what is there already is not taken off.
type Space struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	What  string `json:"what"` // "archives", "content", "unpacked", "mirror"
}

// IDs are the ids of all resources.
func (r Result) IDs() []string {
	ids := make([]string, 0, len(r.Resources))
	for _, x := range r.Resources {
		ids = append(ids, x.ID)
	}
	return ids
}

// Desired says what a node must get so that its containerd, and the mirror where it has one, hold the images
// of the archives. Archives that cannot work on this node are findings; all of them are reported at once, as
// *diag.Refused.
func Desired(n distro.Node, archives []Archive, required []Ref, opts Options) (Result, error) {
	p := planner{node: n, opts: opts, platform: cmp.Or(opts.Platform, n.Platform)}
	all := slices.Concat(archives, opts.Own)
	p.checkArchives(all)
	p.checkConflicts(all)
	p.checkRequired(archives, required)
	if len(archives) > 0 {
		p.cache(archives)
	}
	if !opts.Preload {
		all = opts.Own
	}
	if len(all) > 0 {
		p.preload(all)
	}
	if err := p.report.Err(); err != nil {
		return Result{}, &diag.Refused{Err: err}
	}
	return p.result, nil
}

// planner collects what Desired returns.
type planner struct {
	node     distro.Node
	opts     Options
	platform string
	report   diag.Report
	result   Result
}

func (p *planner) refuse(d *diag.Diagnostic) { p.report.Add(d) }

func (p *planner) note(where, text, fix string) {
	p.result.Notes = append(p.result.Notes, Note{Text: text, Where: diag.Where{File: where}, Fix: fix})
}

func (p *planner) add(r resource.Resource) string {
	p.result.Resources = append(p.result.Resources, r)
	return r.ID
}

func (p *planner) space(at, what string, bytes int64) {
	if at != "" && bytes > 0 {
		p.result.Space = append(p.result.Space, Space{Path: at, Bytes: bytes, What: what})
	}
}

// cache wants the images in the mirror's cache.
func (p *planner) cache(archives []Archive) {
	if p.opts.MirrorCache == "" {
		return
	}
	var bytes int64
	for _, a := range archives {
		for _, s := range a.Sizes {
			bytes += s.Content
		}
	}
	p.space(p.opts.MirrorCache, "mirror", bytes)
	p.add(resource.Resource{
		ID: CacheSetID, Kind: resource.KindImageSet, After: p.opts.MirrorAfter,
		Why: "the mirror answers for these without an upstream",
		ImageSet: &resource.ImageSet{
			Target: resource.TargetCache, Cache: p.opts.MirrorCache, Owner: p.opts.MirrorOwner,
			Archives: imageArchives(archives), Platform: p.platform,
		},
	})
}

func (p *planner) preload(archives []Archive) {
	switch p.node.Preload.Method {
	case methodDirectory:
		p.directory(archives)
	case methodImport:
		p.runtime(archives)
	default:
		p.result.Pending = append(p.result.Pending, Note{
			Text: fmt.Sprintf("%s takes no image archives; the mirror serves them when they are asked for", p.node.Name),
		})
	}
	p.spaceOfRuntime(archives)
}

// runtime wants the images in containerd itself. Unpacked and pinned now: a layer that does not unpack is
// found while somebody is there, and kubelet's collection leaves them alone.
func (p *planner) runtime(archives []Archive) {
	p.add(resource.Resource{
		ID: RuntimeSetID, Kind: resource.KindImageSet, After: p.opts.OwnAfter, Why: "containers start from these without a pull",
		ImageSet: &resource.ImageSet{
			Target: resource.TargetRuntime, Endpoint: p.node.Runtime.Endpoint, Archives: imageArchives(archives),
			Platform: p.platform, Unpack: true, Pin: true,
		},
	})
}

func (p *planner) spaceOfRuntime(archives []Archive) {
	var sum Sizes
	for _, a := range archives {
		s := a.SizesFor(p.platform)
		sum.Content += s.Content
		sum.Unpacked += s.Unpacked
	}
	root := cmp.Or(p.node.Runtime.Endpoint.Root, p.node.DataDir)
	p.space(root, "content", sum.Content)
	p.space(root, "unpacked", sum.Unpacked)
}

func imageArchives(archives []Archive) []resource.ImageArchive {
	out := make([]resource.ImageArchive, 0, len(archives))
	for _, a := range archives {
		ia := resource.ImageArchive{Path: a.Path, Size: a.Size, SHA256: a.SHA256}
		for _, i := range a.Images {
			ia.Images = append(ia.Images, resource.ImageName{Name: i.Name, Digest: i.Digest})
		}
		out = append(out, ia)
	}
	return out
}

// checkArchives holds each archive against the node's platform.
func (p *planner) checkArchives(archives []Archive) {
	for _, a := range archives {
		foreign := map[string][]string{} // platforms → images
		for _, i := range a.Images {
			got, ok := i.For(p.platform)
			switch {
			case !ok && !p.opts.Preload && i.neutral():
			case !ok:
				key := cmp.Or(strings.Join(i.platforms(), ", "), "no platform that it says")
				foreign[key] = append(foreign[key], i.Name)
			case !got.Complete():
				p.refuse(problem(idIncomplete, a.Path,
					fmt.Sprintf("%s lacks %s for %s", i.Name, list(got.Missing, 2), p.platform),
					"it would be listed by containerd and fail when a container starts",
					fmt.Sprintf("save it again for the platform: docker pull --platform %s %s", p.platform, i.Name)))
			}
		}
		for _, key := range sortedKeys(foreign) {
			p.refuse(problem(idPlatform, a.Path,
				fmt.Sprintf("%s: for %s; this node is %s", list(foreign[key], 3), key, p.platform),
				"a container from it cannot start here",
				"save it for this platform, or take the archive out of [images] archives"))
		}
		if len(a.Nameless) > 0 {
			p.note(a.Path, fmt.Sprintf("images without a name are left out: %s", list(a.Nameless, 2)), "save them by name")
		}
	}
}

// neutral says that nothing about the image depends on a platform: a chart, say.
func (i Image) neutral() bool { return len(i.platforms()) == 0 }

func (i Image) platforms() []string {
	var out []string
	for _, p := range i.Platforms {
		if p.Platform != "" && !slices.Contains(out, p.Platform) {
			out = append(out, p.Platform)
		}
	}
	return out
}

// holder is an image and the archive it is in.
type holder struct {
	archive string
	image   Image
}

// checkConflicts refuses one name for two images: which one a node gets would depend on the order of import.
func (p *planner) checkConflicts(archives []Archive) {
	first := map[string]holder{}
	for _, a := range archives {
		for _, i := range a.Images {
			f, ok := first[i.Name]
			if !ok {
				first[i.Name] = holder{a.Path, i}
				continue
			}
			if f.image.Digest != i.Digest {
				p.conflict(f, holder{a.Path, i})
			}
		}
	}
}

func (p *planner) conflict(a, b holder) {
	x, _ := a.image.For(p.platform)
	y, _ := b.image.For(p.platform)
	if x.Config != "" && x.Config == y.Config {
		// The same image saved in two forms: a docker-archive does not keep the manifest.
		p.note(b.archive, fmt.Sprintf("%s is in %s too, with another manifest of the same image", b.image.Name, a.archive),
			"keep the OCI form: its digest is the registry's")
		return
	}
	p.refuse(problem(idConflict, b.archive,
		fmt.Sprintf("%s is %s here and %s in %s", b.image.Name, b.image.Digest, a.image.Digest, a.archive),
		"which one the node gets would depend on the order of import", "take one of the archives out of [images] archives"))
}

// checkRequired wants every required reference in an archive, in a form that containerd finds it by, or in the
// mirror's cache.
func (p *planner) checkRequired(archives []Archive, required []Ref) {
	have, byDigest := map[string]bool{}, map[string]bool{}
	for _, a := range archives {
		for _, i := range a.Images {
			have[i.Name] = true
			if ref, err := ParseReference(i.Name); err == nil {
				byDigest[ref.Host+"/"+ref.Repository+"@"+i.Digest] = true
			}
		}
	}
	var missing, cached []string
	for _, r := range required {
		switch {
		case have[r.Name]:
		case !byDigest[r.Name] && p.opts.Cached != nil && p.opts.Cached(r):
			cached = append(cached, r.Name)
		case !byDigest[r.Name]:
			missing = append(missing, r.Name)
		case p.opts.Preload && p.node.Preload.Method == methodDirectory:
			// k3s: since 2025-11-21 (1037dcbff) every import gets a record by digest
			p.note("", r.Name+" is in an archive by its tag only: releases of "+p.node.Name+
				" before December 2025 do not find it by digest", "save it with a name by digest too")
		}
	}
	if len(cached) > 0 && p.opts.Preload {
		p.result.Pending = append(p.result.Pending, Note{Text: "load into containerd what is required and in no archive: " + strings.Join(cached, ", "),
			Fix: "the mirror's cache has it, and containerd pulls it from there"})
	}
	p.missing(missing)
	p.sandbox(have, len(archives) > 0)
}

func (p *planner) missing(names []string) {
	if len(names) == 0 {
		return
	}
	what := fmt.Sprintf("%d required images are in no archive: %s", len(names), strings.Join(names, ", "))
	const fix = "add an archive that has them to [images] archives, pull them into the cache of this node's mirror while there is a network (edgeprep mirror fill), or take them off the list"
	if p.opts.AllowMissing {
		p.note("", what, fix)
		return
	}
	d := problem(idMissing, "", what, "without an uplink nothing else can bring them", fix)
	d.Where.Key = "images.required"
	p.refuse(d)
}

// sandbox: without the pause image no pod starts, whatever else is there.
func (p *planner) sandbox(have map[string]bool, any bool) {
	ref, err := ParseReference(p.node.Sandbox)
	if p.node.Sandbox == "" || err != nil || have[ref.Name] || !any || !p.opts.Preload {
		return
	}
	p.note("", fmt.Sprintf("the sandbox image %s is in no archive", ref.Name),
		"add it: without it no pod starts unless it is on the node already")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// dirs wants a directory and those above it, all but the first level, as they are if they exist.
func (p *planner) dirs(dir string) (id string) {
	parts := strings.Split(strings.Trim(path.Clean(dir), "/"), "/")
	var after []string
	for i := 2; i <= len(parts); i++ {
		at := "/" + strings.Join(parts[:i], "/")
		id = p.add(resource.Resource{
			ID: resource.ID(resource.KindDir, at), Kind: resource.KindDir, After: after, Why: "holds image archives",
			Dir: &resource.Dir{Path: at, Mode: 0o755, Keep: true},
		})
		after = []string{id}
	}
	return id
}
