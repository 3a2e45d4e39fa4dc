package preload

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// archive is the graph as a value that can be kept.
func (g *graph) archive() Archive {
	a := Archive{Format: g.format, Combined: g.combined, Nameless: g.nameless}
	for _, i := range g.images {
		img := Image{Name: i.name.Name, Digest: i.target.Digest, MediaType: i.target.MediaType}
		if i.stored != img.Name {
			img.Stored = i.stored
		}
		for _, p := range i.content.platforms {
			img.Platforms = append(img.Platforms, Platform{
				Platform: p.platform, Manifest: p.manifest, Config: p.config, Missing: p.missing,
			})
		}
		a.Images = append(a.Images, img)
	}
	a.Sizes = g.sizes()
	return a
}

// sizes sums each platform's blobs, once each.
func (g *graph) sizes() []Sizes {
	held := map[string]*blob{}
	for _, b := range g.blobs {
		held[b.desc.Digest] = b
	}
	sums := map[string]*Sizes{}
	counted := map[[2]string]bool{}
	for _, i := range g.images {
		for _, p := range i.content.platforms {
			s, ok := sums[p.platform]
			if !ok {
				s = &Sizes{Platform: p.platform}
				sums[p.platform] = s
			}
			for _, d := range p.blobs {
				b, ok := held[d]
				if key := [2]string{p.platform, d}; ok && !counted[key] {
					counted[key] = true
					s.add(b, d != p.manifest && d != p.config)
				}
			}
		}
	}
	out := make([]Sizes, 0, len(sums))
	for _, k := range slices.Sorted(maps.Keys(sums)) {
		out = append(out, *sums[k])
	}
	return out
}

func (s *Sizes) add(b *blob, layer bool) {
	s.Content += b.desc.Size
	if layer && b.member != nil {
		s.Unpacked += b.member.sum.plain
	}
}

func (v *inventory) byOrder() []*member {
	return slices.SortedFunc(maps.Values(v.members), func(a, b *member) int { return cmp.Compare(a.order, b.order) })
}

// info describes a layout directory as if it were one file: it changes when any file in it does.
func (v *inventory) info(dir host.FileInfo) host.FileInfo {
	h := fnv.New64a()
	dir.Size = 0
	for _, m := range v.byOrder() {
		fi := m.info
		dir.Size += fi.Size
		if fi.ModTime.After(dir.ModTime) {
			dir.ModTime = fi.ModTime
		}
		if fi.Changed.After(dir.Changed) {
			dir.Changed = fi.Changed
		}
		_, _ = h.Write([]byte(m.name)) // a hash's Write never fails
		for _, n := range []uint64{
			uint64(fi.Size), uint64(fi.ModTime.UnixNano()), uint64(fi.Changed.UnixNano()), fi.Inode, fi.Dev,
		} {
			_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, n))
		}
	}
	dir.Inode = h.Sum64()
	return dir
}

// step reports an inspection.
type step struct {
	sink  progress.Sink
	id    string
	total int64
	last  int64
}

func begin(sink progress.Sink, path string, total int64) *step {
	if sink == nil {
		sink = progress.Discard{}
	}
	s := &step{sink: sink, id: "inspect:" + path, total: total}
	sink.Emit(progress.Event{Type: progress.StepStart, Step: s.id, Msg: "inspect " + path, Total: total})
	return s
}

// report emits every few megabytes.
func (s *step) report(done int64) {
	const every = 8 << 20
	if done-s.last >= every {
		s.last = done
		s.sink.Emit(progress.Event{Type: progress.StepProgress, Step: s.id, Done: done, Total: s.total})
	}
}

func (s *step) end(err error) {
	e := progress.Event{Type: progress.StepEnd, Step: s.id, Status: "ok", Done: s.total, Total: s.total}
	if err != nil {
		e.Status, e.Msg = "failed", err.Error()
	}
	s.sink.Emit(e)
}
