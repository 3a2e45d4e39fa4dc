package plan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// PinLabel is what keeps kubelet from collecting an image. containerd: internal/cri/labels, since v1.7; set
// by k3s on 1.6 as well, where it has no effect.
const PinLabel = "io.cri-containerd.pinned"

func (b *builder) images(id string, s resource.ImageSet) (*Change, error) {
	if s.Target == resource.TargetCache {
		return b.cached(id, s)
	}
	return b.imported(id, s)
}

// wantedImages are the images of a set, each once.
func wantedImages(s resource.ImageSet) []resource.ImageName {
	var out []resource.ImageName
	for _, a := range s.Archives {
		out = append(out, a.Images...)
	}
	return sortImages(out)
}

func (b *builder) imported(id string, s resource.ImageSet) (*Change, error) {
	want := wantedImages(s)
	what := fmt.Sprintf("%s into containerd", count(len(want), "image"))
	have, err := b.records(s.Endpoint)
	if errors.Is(err, host.ErrUnavailable) {
		b.later(id, "import "+what, "containerd does not answer at "+s.Endpoint.Socket)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec, _ := b.ledger.Records[id]
	var missing []resource.ImageName
	var replaced []string
	for _, n := range want {
		img, there := have[n.Name]
		if there && img.Target.Digest != n.Digest && !slices.Contains(rec.State.Images, resource.ImageName{Name: n.Name, Digest: img.Target.Digest}) {
			replaced = append(replaced, n.Name)
		}
		ok, err := b.complete(s, n, rec, have)
		if err != nil {
			return nil, err
		}
		if !ok {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	return importChange(s, missing, want, replaced, "containerd"), nil
}

// records are the image records of a containerd by name.
func (b *builder) records(ep host.Endpoint) (map[string]host.Image, error) {
	list, err := b.r.Runtime(ep).Images(b.ctx)
	if err != nil {
		return nil, err
	}
	have := map[string]host.Image{}
	for _, img := range list {
		have[img.Name] = img
	}
	return have, nil
}

// complete says whether an image is there as it was left: record, pin, and content. Content was proven when it
// was imported; a record holds it against containerd's garbage collection.
func (b *builder) complete(s resource.ImageSet, n resource.ImageName, rec Record, have map[string]host.Image) (bool, error) {
	if have[n.Name].Target.Digest != n.Digest || !slices.Contains(rec.State.Images, n) {
		return false, nil
	}
	if s.Pin && have[PinName(n)].Labels[PinLabel] != "pinned" {
		return false, nil
	}
	if !b.opts.Verify {
		return true, nil
	}
	rt := b.r.Runtime(s.Endpoint)
	if ok, err := contentComplete(b.ctx, rt, have[n.Name].Target, s.Platform); err != nil || !ok {
		return false, err
	}
	if !s.Unpack {
		return true, nil
	}
	return rt.Unpacked(b.ctx, n.Name, s.Platform, s.Endpoint.Snapshotter)
}

// PinName is the record that carries the pin of an image: repository@digest, which a pull of the tag does not
// replace.
func PinName(n resource.ImageName) string {
	repo := n.Name
	if i := strings.IndexByte(repo, '@'); i >= 0 {
		repo = repo[:i]
	}
	if i := strings.LastIndexByte(repo, ':'); i > strings.LastIndexByte(repo, '/') {
		repo = repo[:i]
	}
	return repo + "@" + n.Digest
}

func (b *builder) cached(id string, s resource.ImageSet) (*Change, error) {
	want := wantedImages(s)
	has, err := b.cache(id, s.Cache)
	if err != nil {
		return nil, err
	}
	var missing []resource.ImageName
	for _, n := range want {
		ok, err := has(b.ctx, n.Name, n.Digest)
		if err != nil {
			return nil, err
		}
		if !ok {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	return importChange(s, missing, want, nil, "the mirror's cache"), nil
}

// cache answers what the cache holds; one that does not exist holds nothing.
func (b *builder) cache(id, root string) (func(context.Context, string, string) (bool, error), error) {
	if _, err := b.fs.Stat(root); errors.Is(err, fs.ErrNotExist) {
		return func(context.Context, string, string) (bool, error) { return false, nil }, nil
	}
	if b.opts.Cache == nil {
		return b.believe(id), nil
	}
	c, err := b.opts.Cache(b.ctx, root)
	if err != nil {
		return nil, fmt.Errorf("open the mirror's cache %s: %w", root, err)
	}
	return c.Has, nil
}

// believe answers from the ledger.
func (b *builder) believe(id string) func(context.Context, string, string) (bool, error) {
	rec := b.ledger.Records[id]
	return func(_ context.Context, name, digest string) (bool, error) {
		return slices.Contains(rec.State.Images, resource.ImageName{Name: name, Digest: digest}), nil
	}
}

func importChange(s resource.ImageSet, missing, want []resource.ImageName, replaced []string, where string) *Change {
	c := &Change{Kind: resource.KindImageSet, Action: ActionImport, Path: s.Cache, After: &State{Images: want},
		Summary: fmt.Sprintf("%s into %s", count(len(missing), "image"), where)}
	if s.Target == resource.TargetRuntime {
		c.Path = s.Endpoint.Socket
	}
	for _, a := range s.Archives {
		if slices.ContainsFunc(a.Images, func(n resource.ImageName) bool { return slices.Contains(missing, n) }) {
			c.Bytes += a.Size
		}
	}
	names := make([]string, len(missing))
	for i, n := range missing {
		names[i] = "+" + n.Name + " " + n.Digest
	}
	c.Diff = strings.Join(names, "\n") + "\n"
	if len(replaced) > 0 {
		c.Risks = []Risk{RiskOverwrite}
		c.Reason = "these names stand for other content that edgeprep did not bring: " + strings.Join(replaced, ", ")
	}
	return c
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
