package check

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// imageSet is what this node's files ask for besides the required list, and who has it.
type imageSet struct {
	own  ownSet
	held map[string]coldstart.Holding // by normalised reference
}

// ownSet are the distribution's own images.
type ownSet struct {
	images []ownImage
	bad    []Finding // lists and archives that could not be read
}

// ownImage is one, and the file that says so.
type ownImage struct {
	ref    preload.Ref
	source string
}

// imageSet finds out who has each image that a check of this group asks about.
func (e *Env) imageSet(ctx context.Context) imageSet {
	set := imageSet{own: e.ownSet(ctx), held: map[string]coldstart.Holding{}}
	cached, done := e.cached(ctx)
	defer done()
	holding := e.holding(cached)
	names := e.askedFor(set.own)
	held := make([]coldstart.Holding, len(names))
	parallel(len(names), func(i int) { held[i] = holding(names[i]) })
	for i, n := range names {
		set.held[n] = held[i]
	}
	return set
}

// askedFor are all references that files on this disk name, each once.
func (e *Env) askedFor(own ownSet) []string {
	var refs []string
	for _, o := range e.memo.manifests().objects {
		for _, c := range o.Containers {
			refs = append(refs, c.Image)
		}
		for _, t := range o.Texts {
			refs = append(refs, t.Image)
		}
	}
	for _, i := range own.images {
		refs = append(refs, i.ref.Name)
		if e.Node.Images.Prefix != "" {
			refs = append(refs, e.prefixed(i.ref))
		}
	}
	for _, r := range e.Required {
		refs = append(refs, r.Name)
	}
	for _, rule := range e.Node.Images.Own {
		refs = append(refs, e.namesLike(rule)...)
	}
	if e.Node.Sandbox != "" {
		refs = append(refs, e.Node.Sandbox)
	}
	refs = fullNames(refs)
	slices.Sort(refs)
	return slices.Compact(refs)
}

// prefixed is a reference as the distribution asks for it with a default registry. k3s: pkg/agent/containerd, retag
func (e *Env) prefixed(r preload.Ref) string {
	name := e.Node.Images.Prefix + "/" + r.Repository
	if r.Digest != "" {
		return name + "@" + r.Digest
	}
	return name + ":" + r.Tag
}

const maxImageList = 1 << 20

// ownSet reads the lists of the distribution's release that lie beside the archives, else the content of its own
// archives.
func (e *Env) ownSet(ctx context.Context) ownSet {
	var set ownSet
	for _, f := range e.filesLike(e.Node.Images.Lists) {
		set.readList(e.Reader.FS(), f)
	}
	if len(set.images) == 0 {
		e.ownArchives(ctx, &set)
	}
	set.images = slices.DeleteFunc(set.images, func(i ownImage) bool { return slices.Contains(e.Node.Images.NotNeeded, path.Base(i.ref.Repository)) })
	return set
}

// filesLike are the regular files with one of some names beside the site's archives and its list of images, and
// in the image directory.
func (e *Env) filesLike(patterns []string) []string {
	dirs := []string{e.Node.Preload.Dir, path.Dir(e.Site.Images.Required)}
	for _, a := range e.Archives {
		dirs = append(dirs, path.Dir(a))
	}
	slices.Sort(dirs)
	var out []string
	for _, d := range slices.Compact(dirs) {
		if !path.IsAbs(d) {
			continue
		}
		entries, err := e.Reader.FS().ReadDir(d)
		if err != nil {
			continue // other checks say what is wrong with it
		}
		for _, x := range entries {
			like := func(p string) bool { ok, err := path.Match(p, path.Base(x.Path)); return ok && err == nil }
			if x.Type == host.TypeFile && slices.ContainsFunc(patterns, like) {
				out = append(out, x.Path)
			}
		}
	}
	return out
}

// readList takes a list of a release in, a reference a line.
func (s *ownSet) readList(f host.FS, file string) {
	data, err := f.ReadFile(file, maxImageList)
	if err != nil {
		s.bad = append(s.bad, couldNotRun(file, err))
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxImageList+1)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		source := fmt.Sprintf("%s:%d", file, n)
		r, err := preload.ParseReference(text)
		if err != nil {
			s.bad = append(s.bad, Finding{Status: StatusFail, Subject: source, Expected: "an image reference a line", Observed: err.Error(), Source: source,
				Remedy: Remedy{Text: "copy the list from the release again"}})
			return // not such a list at all
		}
		s.images = append(s.images, ownImage{r, source})
	}
}

// ownArchives takes the names in, that the distribution's own archives hold.
func (e *Env) ownArchives(ctx context.Context, set *ownSet) {
	for _, f := range e.filesLike(e.Node.Images.Archives) {
		names, err := e.namesIn(ctx, f)
		if err != nil {
			set.bad = append(set.bad, unproven(f, "its images are not known: "+err.Error()))
			continue
		}
		for _, n := range names {
			if r, err := preload.ParseReference(n); err == nil {
				set.images = append(set.images, ownImage{r, f})
			}
		}
	}
}

// namesIn are the image names of an archive, of the site or not.
func (e *Env) namesIn(ctx context.Context, file string) ([]string, error) {
	for _, a := range e.memo.archives() {
		if a.path == file {
			return a.archive.Names(), a.err
		}
	}
	src, err := preload.Open(ctx, e.Reader.FS(), file)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, i := range src.Images() {
		out = append(out, i.Name)
	}
	return out, src.Close()
}

// namesLike are the references that are known on this node, of containerd, archives or the required list, whose
// last part is name: "coredns", or with its tag "kube-proxy:v1.36.2".
func (e *Env) namesLike(name string) []string {
	want, tag, tagged := strings.Cut(name, ":")
	var out []string
	add := func(s string) {
		r, err := preload.ParseReference(s)
		if err == nil && path.Base(r.Repository) == want && (!tagged || r.Tag == tag) && !slices.Contains(out, r.Name) {
			out = append(out, r.Name)
		}
	}
	if records, err := e.memo.images(); err == nil {
		for n := range records {
			add(n)
		}
	}
	for _, a := range e.memo.archives() {
		for _, n := range a.archive.Names() {
			add(n)
		}
	}
	for _, r := range e.Required {
		add(r.Name)
	}
	slices.Sort(out)
	return out
}

// judgeImage says whether an image can be had with egress cut: kubelet finds it, or the mirror serves it.
func (e *Env) judgeImage(ctx context.Context, written, who, source string) Finding {
	subject := written
	if who != "" {
		subject = written + " (" + who + ")"
	}
	r, err := preload.ParseReference(written)
	if err != nil {
		return Finding{Status: StatusFail, Subject: subject, Expected: "an image reference", Observed: err.Error(), Source: source,
			Remedy: Remedy{Text: "correct it"}}
	}
	h, observed := e.memo.set().held[r.Name], "neither the node nor a mirror has it"
	if h.Node == inContainerd && e.criLacks(ctx, written) {
		h.Node, observed = "", "containerd has a record of it, whose content CRI cannot use, and no mirror has it"
	}
	switch {
	case h.Node != "":
		return pass(subject, h.Node, source)
	case h.Mirror:
		return pass(subject, "in the mirror", source)
	case h.Unknown != "":
		if fs := e.withRuntime(ctx, subject); fs != nil {
			return fs[0]
		}
	case h.Asked != "":
		return unproven(subject, "it is not on the node, and whether a mirror has it is not known: "+h.Asked)
	}
	return Finding{Status: StatusFail, Subject: subject, Expected: "on the node or in the mirror", Observed: observed, Source: source,
		Remedy: Remedy{Text: "add an archive that holds " + r.Name + " to [images] archives, then", Command: "edgeprep apply"}}
}

// inContainerd is what holding says of an image with a record.
const inContainerd = "in containerd"

// criLacks says that CRI does not find what containerd has a record of.
func (e *Env) criLacks(ctx context.Context, ref string) bool {
	if !e.memo.facts.Live {
		return false
	}
	_, ok, err := e.Reader.CRI(e.Node.Runtime.Endpoint).ImageStatus(ctx, ref)
	return err == nil && !ok
}

// findings is out, or the one reason why there is nothing to say.
func findings(out []Finding, subject, nothing string) []Finding {
	if len(out) == 0 {
		return []Finding{skip(subject, nothing)}
	}
	return out
}
