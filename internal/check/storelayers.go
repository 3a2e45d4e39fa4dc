package check

import (
	"archive/tar"
	"context"
	"encoding/json"
	"path"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// layerSizes are the sizes that the layers of the required images give to programs, by path: of one file in
// several layers all. It reads every layer.
func (e *Env) layerSizes(ctx context.Context, programs []program) map[string][]int64 {
	rt := e.Reader.Runtime(e.Node.Runtime.Endpoint)
	out := map[string][]int64{}
	seen := map[string]bool{}
	for _, r := range e.Required {
		img, ok := e.record(r)
		if !ok {
			continue
		}
		for _, l := range e.layersOf(ctx, rt, img.Target) {
			if !seen[l] {
				seen[l] = true
				e.addSizes(ctx, rt, l, programs, out)
			}
		}
	}
	return out
}

// layersOf are the layers of an image for this node's platform. What is missing is CRI-02's.
func (e *Env) layersOf(ctx context.Context, rt blobs, target host.Descriptor) []string {
	w := e.newWalk(rt)
	w.deep = false
	if _, err := w.from(ctx, target); err != nil {
		return nil
	}
	body, err := readBlob(ctx, rt, w.manifest)
	var m ocispec.Manifest
	if err != nil || json.Unmarshal(body, &m) != nil {
		return nil
	}
	var out []string
	for _, l := range m.Layers {
		out = append(out, l.Digest.String())
	}
	return out
}

// addSizes notes what one layer says of programs. A layer that cannot be read says nothing: CRI-02 --deep finds it.
func (e *Env) addSizes(ctx context.Context, rt blobs, layer string, programs []program, sizes map[string][]int64) {
	r, err := rt.OpenBlob(ctx, layer)
	if err != nil {
		return
	}
	defer r.Close()
	plain, err := preload.Decompress(interruptible{ctx, r})
	if err != nil {
		return
	}
	defer plain.Close()
	for t := tar.NewReader(plain); ; {
		h, err := t.Next()
		if err != nil {
			return
		}
		p := path.Join("/", h.Name)
		if h.Typeflag == tar.TypeReg && slices.ContainsFunc(programs, func(x program) bool { return x.path == p }) {
			sizes[p] = append(sizes[p], h.Size)
		}
	}
}

// oldest is when the oldest of some files was written.
func oldest(list []host.FileInfo) time.Time {
	return slices.MinFunc(list, func(a, b host.FileInfo) int { return a.ModTime.Compare(b.ModTime) }).ModTime
}
