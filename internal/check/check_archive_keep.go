package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func archiveKeepChecks() []Check {
	return []Check{importTimeCheck(), importCacheCheck(), keptCheck(), refreshedCheck()}
}

func importTimeCheck() Check {
	return Check{
		ID: "TAR-07", Title: "importing the archives at each start does not hold kubelet back for long",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"TAR-05"},
		Story: Story{
			Seen:  "the service is \"activating\" for minutes after every restart, and the node NotReady; with a time-out it is restarted for ever",
			Cause: "the loader imports every archive again at every start, before kubelet; 20 archives cost a node 2 to 2.5 minutes, 30 GB more than ten",
			Look:  "the bytes of the archives in the image directory, whether the loader remembers what it imported, the unit's TimeoutStartSec",
			Fix:   "keep only what is needed before the mirror serves in the image directory; the rest goes into the mirror's cache ([images] preload)",
			Sources: []string{"rancher/rke2#773, #797, #5557", "k3s-io/k3s#9242", "spatiumddi/spatiumddi#1082",
				"rke2-docs: airgap.md"},
		},
		Run: runImportTime,
	}
}

const (
	// importRate is what a loader was seen to manage, in bytes of the archives a second: k3s-io/k3s#9242, 30 GB in
	// ten minutes.
	importRate = 50 << 20
	// importPatience is how long a start may take longer without anybody minding.
	importPatience = time.Minute
	// unitPatience is what systemd allows a start by default. systemd.conf(5), DefaultTimeoutStartSec
	unitPatience = 90 * time.Second
)

func runImportTime(ctx context.Context, e *Env) []Finding {
	if fs := e.inLoaderDir("images are imported once"); fs != nil {
		return fs
	}
	dir := path.Clean(e.Node.Preload.Dir)
	var bytes int64
	n := 0
	for _, fi := range e.memo.loader().files {
		if e.loads(fi) {
			bytes += fi.Size
			n++
		}
	}
	if n == 0 {
		return []Finding{skip(dir, "no archive lies in it")}
	}
	took := importTime(bytes)
	f := pass(dir, fmt.Sprintf("%d archives, %s: about %s at each start", n, bytesText(bytes), took), fmt.Sprintf("sizes, at %s a second", bytesText(importRate)))
	if e.remembers() {
		f.Observed = fmt.Sprintf("%d archives, %s; %s remembers what was imported", n, bytesText(bytes), e.Node.Preload.CacheFile)
		return []Finding{f}
	}
	limit, source := e.startTimeout(ctx)
	switch {
	case limit > 0 && took >= limit:
		f.Observed += fmt.Sprintf("; systemd stops the start after %s (%s)", limit, source)
	case took <= importPatience:
		return []Finding{f}
	}
	f.Status, f.Expected = StatusWarn, "at most "+importPatience.String()+", and less than the unit's time-out"
	f.Remedy = Remedy{Text: "leave only what runs before the mirror serves in the image directory; the mirror serves the rest"}
	return []Finding{f}
}

// importTime rounds up: no import takes less than a second.
func importTime(bytes int64) time.Duration {
	return time.Duration(bytes/importRate+1) * time.Second
}

// remembers says whether the loader keeps account of what it imported.
func (e *Env) remembers() bool {
	p := e.Node.Preload
	if p.CacheFile == "" || !e.Node.Gates.ImportCache {
		return false
	}
	_, err := e.Reader.FS().Stat(path.Join(p.Dir, p.CacheFile))
	return err == nil
}

// startTimeout is how long systemd lets the distribution start; zero: without an end.
func (e *Env) startTimeout(ctx context.Context) (limit time.Duration, source string) {
	limit, source = unitPatience, "systemd's default"
	if len(e.Node.Units) == 0 {
		return 0, ""
	}
	u, err := e.Reader.Units().Unit(ctx, e.Node.Units[len(e.Node.Units)-1])
	if err != nil {
		return 0, ""
	}
	for _, file := range append([]string{u.Fragment}, u.DropIns...) {
		for _, line := range textLines(e.Reader.FS(), file) {
			key, value, _ := strings.Cut(line, "=")
			if k := strings.TrimSpace(key); k != "TimeoutStartSec" && k != "TimeoutSec" {
				continue
			}
			if d, err := timeSpan(value); err == nil {
				limit, source = d, file
			}
		}
	}
	return limit, source
}

func importCacheCheck() Check {
	return Check{
		ID: "TAR-08", Title: "the loader's memory of imported archives does not take the pins off",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:  "after the second start and a full disk the preloaded images are gone",
			Cause: "at each start k3s and RKE2 take their pins off and put them on again for what they import; with .cache.json nothing is imported, and until July 2026 nothing was pinned again",
			Look:  "the loader's cache file in the image directory, against the version",
			Fix:   "remove the file, or use a release that pins again",
			Sources: []string{"k3s-io/k3s#14265, #14270 to #14273", "k3s: pkg/agent/containerd/containerd.go (clearLabels, labelImages)",
				"rke2-docs: airgap.md"},
		},
		Run: runImportCache,
	}
}

func runImportCache(_ context.Context, e *Env) []Finding {
	if fs := e.inLoaderDir("so no loader keeps account of one"); fs != nil {
		return fs
	}
	n := e.Node
	if n.Preload.CacheFile == "" {
		return []Finding{skip(n.Preload.Dir, "the loader of "+n.Name+" keeps no account of what it imported")}
	}
	file := path.Join(n.Preload.Dir, n.Preload.CacheFile)
	_, err := e.Reader.FS().Stat(file)
	version := n.Name + " " + n.Version
	if n.Version == "" {
		version = n.Name + " of a version that is not known"
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{skip(file, "there is none: everything is imported, and pinned, at each start")}
	case err != nil:
		return []Finding{couldNotRun(file, err)}
	case n.Gates.ImportCache:
		return []Finding{pass(file, version+" pins again what it does not import again", file)}
	}
	return []Finding{{Status: StatusFail, Subject: file, Expected: "absent", Source: file, Observed: version + " takes the pins off at its second start",
		Remedy: Remedy{Command: "rm " + file}}}
}

func keptCheck() Check {
	return Check{
		ID: "TAR-09", Title: "images that the loader pinned keep the archive that they came from",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:  "it works for weeks; then images are gone after a restart and a full disk",
			Cause: "the archive was deleted after the import to save space: k3s and k0s take the pin off an image whose archive is gone, MicroK8s never sets one",
			Look:  "required images whose only pins are the loader's own, and the archives in the image directory that hold them; whether a mirror has them",
			Fix:   "leave the archives where they are, or let edgeprep pin the images (edgeprep apply)",
			Sources: []string{"k3s: pkg/agent/containerd/containerd.go (clearLabels)", "k0s: pkg/component/worker/ocibundle.go",
				"k3s-io/k3s#11363"},
		},
		Run: runKept,
	}
}

func runKept(ctx context.Context, e *Env) []Finding {
	if fs := e.inLoaderDir("edgeprep's own pins stay when the archives go"); fs != nil {
		return fs
	}
	label := e.Node.Preload.LoaderPin
	switch {
	case label == "":
		return []Finding{skip("pins", "the loader of "+e.Node.Name+" sets none")}
	case len(e.Required) == 0:
		return []Finding{skip("required references", "none is required; CRI-10 says so")}
	}
	if fs := e.withContainerd(ctx, "pins"); fs != nil {
		return fs
	}
	records, _ := e.memo.images() // withContainerd has seen that there is no error
	var out []Finding
	kept := 0
	for _, r := range e.Required {
		switch own, loaders := pins(records, records[r.Name].Target.Digest, label); {
		case own > 0 || loaders == 0: // none at all is CRI-04's
			kept++
		case e.inLoaderDirAs(r):
			kept++
		default:
			out = append(out, e.losesPin(r))
		}
	}
	if len(out) == 0 {
		return []Finding{pass("pins", fmt.Sprintf("%d images keep theirs at the next start", kept), "image records; archives in "+e.Node.Preload.Dir)}
	}
	return out
}

// pins counts the pins on a digest, those of the loader apart.
func pins(records map[string]host.Image, digest, label string) (own, loaders int) {
	for _, img := range records {
		switch {
		case digest == "" || img.Target.Digest != digest || img.Labels[plan.PinLabel] != "pinned":
		case img.Labels[label] != "":
			loaders++
		default:
			own++
		}
	}
	return own, loaders
}

// inLoaderDirAs says whether an archive that the loader will see holds the image.
func (e *Env) inLoaderDirAs(r preload.Ref) bool {
	there := map[string]bool{}
	for _, fi := range e.memo.loader().files {
		there[fi.Path] = e.loads(fi)
	}
	has := func(i preload.Image) bool { return i.Name == r.Name || r.Digest != "" && i.Digest == r.Digest }
	for _, a := range e.imageArchives() {
		if there[path.Clean(a.Path)] && slices.Contains(a.Images, r.Name) {
			return true
		}
	}
	return slices.ContainsFunc(e.readable(), func(a preload.Archive) bool {
		return there[path.Clean(a.Path)] && slices.ContainsFunc(a.Images, has)
	})
}

func (e *Env) losesPin(r preload.Ref) Finding {
	f := Finding{Status: StatusFail, Subject: r.Name, Expected: "an archive in " + e.Node.Preload.Dir + ", or a pin of its own",
		Observed: "no archive there holds it: " + e.Node.Name + " takes its pin off at the next start", Source: "image records; archives",
		Remedy: Remedy{Text: "put the archive back", Command: "edgeprep apply"}}
	if e.mirrored(r) {
		f.Status = StatusWarn
		f.Observed += "; the mirror has it"
	}
	if slices.ContainsFunc(e.memo.unnamed(), func(a inspected) bool { return errors.Is(a.err, errNotRead) }) {
		u := deferred(r.Name, "archives in "+e.Node.Preload.Dir+" were not read: run edgeprep check --deep")
		return u
	}
	return f
}

// mirrored says whether a mirror serves the whole image.
func (e *Env) mirrored(r preload.Ref) bool {
	if e.withMirrors() != nil {
		return false
	}
	return slices.ContainsFunc(e.memo.mirrors(), func(w mirrorWalk) bool { return w.ref == r.Name && w.err == nil && w.result.OK() })
}

func refreshedCheck() Check {
	return Check{
		ID: "TAR-17", Title: "containerd has the images that the archives hold now",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"TAR-12"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "the node runs the old build after its archive was replaced",
			Cause:   "a loader that finds size and time of an archive unchanged, or only its time, does not import it again",
			Look:    "each name in the archives: the image that containerd has under it against the archive's",
			Fix:     "put the archive there under another name, or touch it and restart the distribution",
			Sources: []string{"k3s: pkg/agent/containerd/watcher.go", "k3s-io/k3s#14284", "k0sproject/k0s#4316"},
		},
		Run: runRefreshed,
	}
}

func runRefreshed(ctx context.Context, e *Env) []Finding {
	archives := e.readable()
	if len(archives) == 0 {
		return []Finding{skip("archives", "there is none that can be read")}
	}
	if fs := e.withContainerd(ctx, "images of the archives"); fs != nil {
		return fs
	}
	records, _ := e.memo.images() // withContainerd has seen that there is no error
	var out []Finding
	n := 0
	for _, a := range archives {
		for _, i := range a.Images {
			img, ok := records[i.Name]
			if !ok {
				continue // absence is CRI-10's
			}
			n++
			if img.Target.Digest != i.Digest && e.otherImage(ctx, img, i) {
				out = append(out, e.stale(a, i, img))
			}
		}
	}
	if len(out) == 0 {
		return []Finding{pass("archives", fmt.Sprintf("%d names stand for the same image here and there", n), "image records; manifests in the archives")}
	}
	return out
}

// otherImage compares what is behind two manifests: a docker-archive makes up new ones for the same image.
func (e *Env) otherImage(ctx context.Context, img host.Image, i preload.Image) bool {
	w := e.newWalk(e.Reader.Runtime(e.Node.Runtime.Endpoint))
	w.deep = false
	p, ok := i.For(e.Platform)
	_, err := w.from(ctx, img.Target)
	return err != nil || !ok || w.config == "" || w.config != p.Config
}

func (e *Env) stale(a preload.Archive, i preload.Image, img host.Image) Finding {
	f := Finding{Status: StatusWarn, Subject: i.Name, Expected: i.Digest + " of " + a.Path, Observed: "containerd has " + img.Target.Digest, Source: "image records",
		Remedy: Remedy{Command: "edgeprep apply"}}
	if e.Node.Preload.Method == "directory" {
		f.Remedy = Remedy{Text: "let the loader see it", Command: "touch " + path.Join(e.Node.Preload.Dir, "*") + " && systemctl restart " + e.runtimeUnit()}
	}
	return f
}
