package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// The defaults of kubelet. kubernetes: pkg/kubelet/apis/config/v1beta1/defaults.go
// (imageGCHighThresholdPercent 85, evictionHard imagefs.available 15 %, nodefs.inodesFree 5 %).
const (
	gcThreshold   = 85
	inodesFree    = 5
	kubeletRoot   = "/var/lib/kubelet"
	cachePurpose  = "mirror cache"
	imagePurpose  = "containerd images"
	archivePlace  = "image directory"
	kubeletVolume = "kubelet"
)

func spaceCheck() Check {
	return Check{
		ID: "TAR-10", Title: "there is room for archives, images and their unpacked layers, below kubelet's thresholds",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"TAR-01"}, Unwaivable: true, Timeout: deepTimeout,
		Story: Story{
			Seen:    "an import ends with \"no space left on device\", or the node has DiskPressure at its first boot and evicts",
			Cause:   "an archive is on the disk three times: the file, its content in containerd, its unpacked layers; and once more in the mirror's cache",
			Look:    "the file systems of image directory, containerd, kubelet and cache: use now, and use once everything is in, against kubelet's 85 % and 5 % of inodes",
			Fix:     "use a larger or separate disk, or fewer images",
			Sources: []string{"k3s-io/k3s#10209, #1552", "rancher/rke2#1830"},
		},
		Run: runSpace,
	}
}

// volume is one file system and what it still has to take.
type volume struct {
	paths    []string
	purposes []string
	space    host.Space
	need     int64
}

func runSpace(_ context.Context, e *Env) []Finding {
	var volumes []*volume
	var out []Finding
	needs, guess := e.needs()
	for _, n := range needs {
		s, err := e.Reader.FS().Space(n.path)
		if err != nil {
			out = append(out, couldNotRun(n.path, err))
			continue
		}
		i := slices.IndexFunc(volumes, func(v *volume) bool { return v.space.Dev == s.Dev })
		if i < 0 {
			i, volumes = len(volumes), append(volumes, &volume{space: s})
		}
		v := volumes[i]
		v.need += n.bytes
		v.paths, v.purposes = append(v.paths, n.path), append(v.purposes, n.purpose)
	}
	for _, v := range volumes {
		out = append(out, v.judge())
	}
	if guess != "" {
		out = append(out, deferred("projected use", guess))
	}
	return out
}

// need is what one place still has to take.
type need struct {
	purpose, path string
	bytes         int64
}

// needs are all places; guess says why the numbers may be too low.
func (e *Env) needs() (out []need, guess string) {
	if e.Node.Preload.Dir != "" {
		out = append(out, need{archivePlace, e.Node.Preload.Dir, e.toPlace()})
	}
	if root := e.Node.Runtime.Endpoint.Root; root != "" {
		n, why := e.toImport()
		out, guess = append(out, need{imagePurpose, root, n}), why
	}
	out = append(out, need{kubeletVolume, kubeletRoot, 0})
	if cache := e.cache(); cache != "" {
		out = append(out, need{cachePurpose, cache, e.toCache(cache)})
	}
	return out, guess
}

// cache is the cache of this node's own mirror; empty when it has none.
func (e *Env) cache() string {
	for _, r := range e.Resources {
		if r.ImageSet != nil && r.ImageSet.Target == resource.TargetCache {
			return r.ImageSet.Cache
		}
	}
	if self, err := e.Site.Self("", e.memo.facts); err == nil && e.Site.HasMirror(self) {
		if e.Site.Mirror.Cache != "" {
			return e.Site.Mirror.Cache
		}
		return config.DefaultCache
	}
	return ""
}

// toPlace are the bytes of archives that are not in the image directory yet.
func (e *Env) toPlace() (n int64) {
	for _, a := range e.imageArchives() {
		if fi, err := e.Reader.FS().Lstat(a.Path); err != nil || fi.Size != a.Size {
			n += a.Size
		}
	}
	return n
}

// toImport are the bytes, packed and unpacked, of images that containerd does not have yet.
func (e *Env) toImport() (n int64, guess string) {
	records, err := map[string]host.Image{}, error(nil)
	if e.memo.facts.Live {
		records, err = e.memo.images()
	}
	if (err != nil || !e.memo.facts.Live) && e.Node.Started {
		return 0, "no runtime tells which images it has already; only what is on the disk now was counted"
	}
	for _, a := range e.memo.archives() {
		missing := slices.ContainsFunc(a.archive.Images, func(i preload.Image) bool {
			_, ok := records[i.Name]
			return !ok
		})
		if a.err == nil && missing {
			s := a.archive.SizesFor(e.Platform)
			n += s.Content + s.Unpacked
		}
	}
	return n, ""
}

// toCache are the bytes of archives that the mirror's cache does not have yet: an archive counts when the
// cache lacks the manifest or index of one of its images.
func (e *Env) toCache(cache string) (n int64) {
	for _, a := range e.memo.archives() {
		missing := slices.ContainsFunc(a.archive.Images, func(i preload.Image) bool {
			alg, hex, ok := strings.Cut(i.Digest, ":")
			if !ok || len(hex) < 2 {
				return true
			}
			_, err := e.Reader.FS().Lstat(path.Join(cache, "blobs", alg, hex[:2], hex))
			return errors.Is(err, fs.ErrNotExist)
		})
		if a.err != nil || !missing {
			continue
		}
		for _, s := range a.archive.Sizes { // the cache takes every platform
			n += s.Content
		}
	}
	return n
}

// judge compares a file system with the thresholds.
func (v *volume) judge() Finding {
	s := v.space
	used := s.Total - s.Free
	f := pass(strings.Join(slices.Compact(v.paths), ", "),
		fmt.Sprintf("%d %% used, %d %% once %s more are in; %s free", percent(used, s.Total), percent(used+v.need, s.Total), bytesText(v.need), bytesText(s.Free)),
		"statfs ("+strings.Join(v.purposes, ", ")+")")
	f.Expected = fmt.Sprintf("below %d %%, %d %% of inodes free", gcThreshold, inodesFree)
	f.Remedy = Remedy{Text: "make room: a larger or separate disk, or fewer images"}
	switch {
	case s.ReadOnly:
		f.Status, f.Observed, f.Remedy = StatusFail, "the file system is read-only", Remedy{Text: "see why", Command: "dmesg | grep -i remount"}
	case s.Total <= 0:
		f.Status, f.Reason = StatusUnproven, "the file system does not tell its size"
	case v.need > s.Free, v.kubelets() && percent(used+v.need, s.Total) >= gcThreshold:
		f.Status = StatusFail
	case s.Inodes > 0 && percent(s.FreeInodes, s.Inodes) < inodesFree:
		f.Status = StatusFail
		f.Observed += fmt.Sprintf("; %d of %d inodes free", s.FreeInodes, s.Inodes)
	case percent(used+v.need, s.Total) >= gcThreshold: // nothing of kubelet's is there: full is not yet harmful
		f.Status = StatusWarn
	default:
		f.Remedy = Remedy{}
	}
	return f
}

// kubelets says whether kubelet watches the file system.
func (v *volume) kubelets() bool {
	return slices.Contains(v.purposes, imagePurpose) || slices.Contains(v.purposes, kubeletVolume)
}

func percent(part, whole int64) int64 {
	if whole <= 0 {
		return 0
	}
	return int64(float64(part) / float64(whole) * 100) // part may be near the limit of int64
}

// bytesText is a size for people.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for ; f >= unit && i < 4; i++ {
		f /= unit
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}
