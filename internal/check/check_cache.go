package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror"
)

func cacheChecks() []Check {
	return []Check{cacheRoomCheck(), cacheFilesCheck(), cacheServedCheck(), cacheKeptCheck(), tagTimeCheck(), namesCheck(), missAnswerCheck()}
}

// withCache is nil when this node's mirror keeps its cache in files that are here.
func (e *Env) withCache() []Finding {
	switch {
	case len(e.Mirrors) == 0:
		return []Finding{skip("the cache", "no mirror is configured")}
	case e.Cache == "" || e.cache() == "":
		return []Finding{skip("the cache", "it is not a directory of this node")}
	}
	if _, err := e.Reader.FS().Stat(e.cache()); errors.Is(err, fs.ErrNotExist) {
		return []Finding{deferred("the cache", "there is none yet: edgeprep apply makes it, or its disk is not mounted")}
	}
	return nil
}

// readCache looks at every file of the cache, without hashing blobs: MIR-04 and the scrub do that.
func (e *Env) readCache(ctx context.Context) (mirror.VerifyReport, error) {
	s, err := mirror.Open(e.Cache, mirror.Options{ReadOnly: true})
	if err != nil {
		return mirror.VerifyReport{}, err
	}
	defer func() { _ = s.Close() }() // nothing was written
	return s.Verify(ctx, false, nil)
}

func cacheRoomCheck() Check {
	return Check{
		ID: "MIR-05", Title: "the cache's disk can be written and has room beyond what the mirror leaves free",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "other mirrors: all pulls fail when the disk fills, and most of the cache is gone after a restart. This one serves what it has, and keeps nothing new",
			Cause:   "a full or read-only file system, or a cache at its own limit. edgeprep's mirror writes nothing on a read",
			Look:    "the file system of the cache: read-only, room against min_free and against 10 % or 2 GiB; the cache's size against max_cache",
			Fix:     "a disk or partition of its own; edgeprep mirror prune; [mirror.limits]",
			Sources: []string{"docs/upstreams.md, \"cache full, read-only\"", "aceeric/ociregistry: impl/cache/cache.go, impl/serialize/serialize.go"},
		},
		Run: runCacheRoom,
	}
}

// roomy is what a disk should have free: a tenth, or this much.
const roomy = 2 << 30

func runCacheRoom(_ context.Context, e *Env) []Finding {
	if fs := e.withCache(); fs != nil {
		return fs
	}
	dir := e.cache()
	s, err := e.Reader.FS().Space(dir)
	if err != nil {
		return []Finding{couldNotRun(dir, err)}
	}
	return []Finding{e.judgeRoom(dir, s)}
}

func (e *Env) judgeRoom(dir string, s host.Space) Finding {
	f := pass(dir, bytesText(s.Free)+" free", "statfs")
	keeps := e.Site.Mirror.Upstream != config.UpstreamNever
	least, err := config.ParseSize(orWord(e.Site.Mirror.Limits.MinFree, config.DefaultMinFree))
	if err != nil {
		return couldNotRun(dir, err)
	}
	f.Expected = "10 % or " + bytesText(roomy) + " free"
	f.Remedy = Remedy{Text: "remove what is not used, or use a larger disk", Command: "edgeprep mirror prune --unused-for 90d"}
	switch {
	case s.ReadOnly:
		f.Status, f.Observed, f.Remedy = StatusFail, "the file system is read-only: what is cached is served, a bad blob cannot be set aside or repaired",
			Remedy{Text: "see why", Command: "dmesg | grep -i remount"}
	case s.Total <= 0:
		f.Status, f.Reason, f.Remedy = StatusUnproven, "the file system does not tell its size", Remedy{}
	case s.Free < least && keeps:
		f.Status, f.Observed = StatusFail, bytesText(s.Free)+" free, below min_free: nothing new is kept"
	case s.Free < s.Total/10 && s.Free < roomy:
		f.Status, f.Observed = StatusWarn, bytesText(s.Free)+" free: what is cached is served, and little more fits"
	default:
		f.Remedy = Remedy{}
	}
	return f
}

func cacheFilesCheck() Check {
	return Check{
		ID: "MIR-06", Title: "every file of the cache is what its name says, and every reference leads to content",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:    "some images are answered with 404 although their files are there; with other mirrors, almost all of them",
			Cause:   "files that a sync, a crash or a person left: cut short, empty, conflict copies, temporaries. Here each affects itself alone; other mirrors stop reading at the first",
			Look:    "every file of the cache on disk: names, reference files, sizes of blobs, what references reach, quarantine",
			Fix:     "edgeprep mirror verify lists them; remove what does not belong, load what is missing again",
			Sources: []string{"docs/cache.md", "aceeric/ociregistry: serialize.go WalkTheCache", "Syncthing: lib/fs/tempname.go"},
		},
		Run: runCacheFiles,
	}
}

func runCacheFiles(_ context.Context, e *Env) []Finding {
	if fs := e.withCache(); fs != nil {
		return fs
	}
	r, err := e.memo.cache()
	if err != nil {
		return []Finding{couldNotRun(e.cache(), err)}
	}
	var out []Finding
	for _, f := range r.Foreign {
		if !ordinary(f.Path) {
			out = append(out, e.foreign(f))
		}
	}
	seen := map[string]bool{}
	for _, p := range r.Problems {
		if seen[p.Reference] {
			continue
		}
		seen[p.Reference] = true
		f := Finding{Status: StatusWarn, Subject: p.Reference, Expected: "complete", Observed: p.Detail, Source: e.cache(),
			Remedy: Remedy{Text: "load it again, or remove the reference", Command: "edgeprep mirror prune " + p.Reference}}
		if e.isRequired(p.Reference) {
			f.Remedy = Remedy{Text: "load it again", Command: "edgeprep mirror load ARCHIVE"}
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return []Finding{pass(e.cache(), fmt.Sprintf("%s, %s, %s", plural(len(r.Entries), "reference"), plural(r.Blobs, "blob"), bytesText(r.Bytes)), "every file's name, size and document")}
	}
	return out
}

// ordinary are files that a file system or a replicated folder has in its root: ext4's, Syncthing's.
func ordinary(p string) bool { return p == "lost+found" || p == ".stfolder" || p == ".stignore" }

// foreign judges a file that the mirror does not use: what somebody meant to be content is missing then.
func (e *Env) foreign(f mirror.Foreign) Finding {
	file := path.Join(e.cache(), f.Path)
	out := Finding{Status: StatusWarn, Subject: file, Expected: "nothing but the cache's own files", Observed: string(f.Kind) + ": " + f.Detail, Source: file,
		Remedy: Remedy{Text: "if nobody needs it", Command: "rm " + file}}
	switch f.Kind {
	case mirror.Garbage, mirror.Unreadable, mirror.Corrupt:
		out.Status = StatusFail
		out.Remedy = Remedy{Text: "remove it and load the image again", Command: "rm " + file}
	case mirror.Aside:
		out.Remedy = Remedy{Text: "load the image again; then it may go", Command: "edgeprep mirror prune --yes"}
	}
	return out
}

func cacheServedCheck() Check {
	return Check{
		ID: "MIR-07", Title: "the running mirror serves what is in the cache on this disk",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"MIR-03", "MIR-06"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "files were copied to this node, and its mirror still answers 404",
			Cause:   "other mirrors read their cache once, at start; this one serves files as they appear, but for one that was started before its disk was mounted or on another directory",
			Look:    "references that are complete in the cache's directory, up to 50: each by its digest at this node's mirror; the directory that the mirror says it serves",
			Fix:     "restart the mirror once its disk is there: systemctl restart edgeprep-mirror.service",
			Sources: []string{"aceeric/ociregistry: docs/docs/design.md, limitations.md", "docs/cache.md, \"Files may appear at any time\""},
		},
		Run: runCacheServed,
	}
}

// maxServed bounds how many references are asked for.
const maxServed = 50

func runCacheServed(ctx context.Context, e *Env) []Finding {
	if fs := e.withCache(); fs != nil {
		return fs
	}
	if !e.memo.facts.Live && !e.MirrorsRun {
		return []Finding{deferred("the cache", "this is a mounted image or directory: its mirror does not run; run edgeprep check on the node")}
	}
	r, err := e.memo.cache()
	if err != nil {
		return []Finding{couldNotRun(e.cache(), err)}
	}
	var refs []string
	for _, x := range r.Entries {
		if name, err := mirror.ParseReference(x.Reference); err == nil && x.Usable("") && len(refs) < maxServed {
			refs = append(refs, name.Name.String()+"@"+x.Digest)
		}
	}
	if len(refs) == 0 {
		return []Finding{skip(e.cache(), "no reference in it is complete")}
	}
	var out []Finding
	for _, m := range e.ownMirrors() {
		out = append(out, e.served(ctx, m, refs))
	}
	if len(out) == 0 {
		return []Finding{skip(e.cache(), "the mirrors that this node asks run on other nodes")}
	}
	return out
}

// ownMirrors are the endpoints of this node's mirror.
func (e *Env) ownMirrors() []Mirror {
	var out []Mirror
	for _, m := range e.Mirrors {
		if m.Admin != "" || e.MirrorsRun {
			out = append(out, m)
		}
	}
	return out
}

func (e *Env) served(ctx context.Context, m Mirror, refs []string) Finding {
	c, err := e.mirrorClient(m)
	if err != nil {
		return couldNotRun(m.URL, err)
	}
	defer c.Close()
	var missing []string
	for _, ref := range refs {
		_, err := c.Resolve(ctx, ref)
		switch {
		case errors.Is(err, host.ErrUnavailable):
			return skip(m.URL, "it does not answer; MIR-03 says so")
		case errors.Is(err, mirror.ErrNotFound):
			missing = append(missing, ref)
		}
	}
	if len(missing) > 0 {
		return Finding{Status: StatusFail, Subject: m.URL, Expected: "what is complete in " + e.cache(), Observed: fmt.Sprintf("404 for %d of %d, the first %s", len(missing), len(refs), missing[0]),
			Source: "HEAD by digest", Remedy: Remedy{Text: "it serves another directory, or may not read this one", Command: "edgeprep status"}}
	}
	return pass(m.URL, plural(len(refs), "reference")+" of "+e.cache()+" answered by digest", "HEAD by digest")
}

func cacheKeptCheck() Check {
	return Check{
		ID: "MIR-08", Title: "nothing on this node removes cached images by the clock",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "the cache is empty some minutes after the first power-on on site",
			Cause:   "something removes by age: another registry's proxy ttl, a cron job or timer that prunes, systemd-tmpfiles below /tmp and /var/tmp. A box was off for weeks, or its clock jumped",
			Look:    "tmpfiles.d rules with an age for the cache or a directory above it; cron files and units that prune or delete in it. edgeprep's mirror itself removes nothing by time",
			Fix:     "take the rule or job out; prune by hand: edgeprep mirror prune",
			Sources: []string{"distribution: registry/proxy/proxyregistry.go (ttl)", "tmpfiles.d(5)", "aceeric/ociregistry: impl/cache/prune.go"},
		},
		Run: runCacheKept,
	}
}

// Directories of what runs by the clock, and of what cleans up.
func tmpfilesDirs() []string {
	return []string{"/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d"}
}

func clockworkDirs() []string {
	return []string{"/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/var/spool/cron", "/var/spool/cron/crontabs", "/etc/systemd/system"}
}

func runCacheKept(_ context.Context, e *Env) []Finding {
	if fs := e.withCache(); fs != nil {
		return fs
	}
	cache := e.cache()
	var out []Finding
	say := func(observed, source string) {
		out = append(out, Finding{Status: StatusFail, Subject: cache, Expected: "nothing removes from it by itself", Observed: observed, Source: source,
			Remedy: Remedy{Text: "take the line out of " + source}})
	}
	e.eachLine(tmpfilesDirs(), ".conf", func(line, source string) {
		if f := strings.Fields(line); len(f) >= 6 && f[5] != "-" && above(f[1], cache) && !strings.ContainsAny(f[0][:1], "xX") {
			say("systemd-tmpfiles removes there what is older than "+f[5], source)
		}
	})
	e.eachLine(append(clockworkDirs(), "/etc/crontab"), "", func(line, source string) {
		prunes := strings.Contains(line, "mirror prune") && strings.Contains(line, "--yes")
		if prunes || strings.Contains(line, cache) && (strings.Contains(line, "-delete") || strings.Contains(line, "rm -") || strings.Contains(line, "tmpreaper")) {
			say("a job of this node removes from it", source)
		}
	})
	if len(out) == 0 {
		return []Finding{pass(cache, "no tmpfiles rule, cron file or unit removes from it", strings.Join(append(tmpfilesDirs()[:1], "/etc/cron.*", "/etc/systemd/system"), ", "))}
	}
	return out
}

// above says whether dir is p or a directory over it.
func above(dir, p string) bool {
	dir = path.Clean(dir)
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// eachLine calls fn with every line that is no comment of the files in some directories, or of a file itself.
func (e *Env) eachLine(paths []string, ext string, fn func(line, source string)) {
	for _, p := range paths {
		files := []string{p}
		if entries, err := e.Reader.FS().ReadDir(p); err == nil {
			files = nil
			for _, x := range entries {
				if strings.HasSuffix(x.Path, ext) && x.Type != host.TypeDir {
					files = append(files, path.Join(p, path.Base(x.Path)))
				}
			}
		}
		for _, file := range files {
			data, err := e.Reader.FS().ReadFile(file, 1<<20)
			if err != nil {
				continue // not there, or no text: it runs nothing
			}
			for i, line := range strings.Split(string(data), "\n") {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					fn(line, fmt.Sprintf("%s:%d", file, i+1))
				}
			}
		}
	}
}
