package check

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func rebuildCheck() Check {
	return Check{
		ID: "PRC-05", Title: "a node that is built anew from what is shipped gets every required image",
		Severity: SeverityWarn, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:    "a spare or rebuilt node lacks an image that its siblings have",
			Cause:   "staging pulled the image over the network; it is in containerd, and in nothing that travels",
			Look:    "required references that are in no archive of the site and not in this node's cache",
			Fix:     "pack it: edgeprep mirror export; or bring it into the cache: edgeprep mirror fill",
			Sources: []string{"failure-modes: PRC-05"},
		},
		Run: runRebuild,
	}
}

func runRebuild(ctx context.Context, e *Env) []Finding {
	if len(e.Required) == 0 {
		return []Finding{skip("required references", "no reference is required")}
	}
	packed := map[string]bool{}
	for _, a := range e.memo.archives() {
		for _, i := range a.archive.Images {
			packed[fullName(i.Name)] = a.err == nil
			if r, err := preload.ParseReference(i.Name); err == nil && a.err == nil {
				packed[r.Host+"/"+r.Repository+"@"+i.Digest] = true
			}
		}
	}
	cached, done := e.cached(ctx)
	defer done()
	var out []Finding
	for _, r := range e.Required {
		if packed[r.Name] {
			continue
		}
		if ok, _ := cached(r.Name); ok {
			continue
		}
		out = append(out, Finding{Status: StatusWarn, Subject: r.Name, Expected: "in an archive of the site, or in the mirror's cache", Observed: "in neither: a node that is built anew has nothing to take it from",
			Source: "[images] archives", Remedy: Remedy{Text: "bring it in while there is a network", Command: "edgeprep mirror fill " + r.Name}})
	}
	if len(out) == 0 {
		return []Finding{pass("required references", plural(len(e.Required), "reference")+", each in an archive or in the cache", "[images] archives, cache")}
	}
	return out
}

func meansCheck() Check {
	return Check{
		ID: "PRC-06", Title: "what a person needs to bring this node back is on it",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "there is no way back without a courier",
			Cause:   "the program, its configuration or the archives stayed on the laptop that staged the node; the manual is a web page",
			Look:    "the program (whose explain is the manual), the site file, the required list and every archive of the site, on this node. A second copy belongs on another node",
			Fix:     "copy what is missing to the node; keep archives after import ([images] consume = false)",
			Sources: []string{"failure-modes: PRC-06"},
		},
		Run: runMeans,
	}
}

func runMeans(_ context.Context, e *Env) []Finding {
	need := [][2]string{{config.DefaultPath, "the site file"}}
	if e.Site.Mirror.Mode != string(config.ModeWorkload) {
		need = append(need, [2]string{deploy.Binary, "the program"})
	}
	if e.Site.Images.Required != "" {
		need = append(need, [2]string{e.Site.Images.Required, "the list of required references"})
	}
	for _, a := range e.Archives {
		need = append(need, [2]string{a, "an archive of the site"})
	}
	var out []Finding
	for _, n := range need {
		if _, err := e.Reader.FS().Stat(n[0]); err != nil {
			out = append(out, Finding{Status: StatusWarn, Subject: n[0], Expected: n[1], Observed: "not on this node", Source: n[0], Remedy: Remedy{Text: "copy it there"}})
		}
	}
	if len(out) == 0 {
		return []Finding{pass("this node", plural(len(need), "file")+": program, site file, lists and archives", "stat")}
	}
	return out
}

func rehearsedCheck() Check {
	return Check{
		ID: "PRC-07", Title: "the loss of a node was rehearsed",
		Severity: SeverityWarn, Scope: ScopeRehearsal,
		Story: Story{
			Seen:    "the documented failover does not work",
			Cause:   "it was never done, or not with these nodes and versions",
			Look:    "whether the site has more than one node. Nothing on a node shows that people rehearsed: who did says so by a waiver with date, name and how long it took",
			Fix:     "switch a node off, point the others at the second mirror, pull, measure; then waive this with what you saw",
			Sources: []string{"failure-modes: PRC-07"},
		},
		Run: runRehearsed,
	}
}

func runRehearsed(_ context.Context, e *Env) []Finding {
	const subject = "a rehearsal"
	if len(e.Site.Nodes) < 2 {
		return []Finding{skip(subject, "the site file names one node: there is nothing to fail over to")}
	}
	return []Finding{{Status: StatusWarn, Subject: subject, Expected: "somebody who did it", Observed: "nothing on this node shows that one took place", Source: "[[node]]",
		Remedy: Remedy{Text: "rehearse it, then say so", Command: "edgeprep check --profile ship --by NAME --waive 'PRC-07: node 2 off for an hour, pulls after 41 s'"}}}
}

func mediaCheck() Check {
	return Check{
		ID: "PRC-08", Title: "archives came whole off the medium that carried them",
		Severity: SeverityWarn, Scope: ScopeNode, Timeout: deepTimeout, DependsOn: []string{"TAR-01"},
		Story: Story{
			Seen:    "an archive is cut short or missing after it was carried on a stick",
			Cause:   "FAT32 holds 4 GiB at most for a file, a copy was broken off, names differ in case alone",
			Look:    "sizes at FAT32's limit, leftovers of copies beside archives, names that only case tells apart, and a .sha256 or SHA256SUMS beside an archive against its digest",
			Fix:     "copy again on exFAT or ext4, compare: sha256sum -c",
			Sources: []string{"failure-modes: PRC-08"},
		},
		Run: runMedia,
	}
}

// fatLimit is the largest size of a file on FAT32.
const fatLimit = 1<<32 - 1

func runMedia(ctx context.Context, e *Env) []Finding {
	if len(e.Archives) == 0 {
		return []Finding{skip("archives", "the site names none")}
	}
	var out []Finding
	warn := func(subject, expected, observed, source string) {
		out = append(out, Finding{Status: StatusWarn, Subject: subject, Expected: expected, Observed: observed, Source: source, Remedy: Remedy{Text: "copy it again from where it was made, and compare digests"}})
	}
	lower := map[string]string{}
	compared := 0
	for _, a := range e.Archives {
		fi, err := e.Reader.FS().Stat(a)
		if err != nil || fi.Type != host.TypeFile { // TAR-01 says so
			continue
		}
		if fi.Size == fatLimit {
			warn(a, "a file that is not cut", "4 GiB less a byte, as FAT32 cuts what is larger", "stat")
		}
		if other, ok := lower[strings.ToLower(a)]; ok {
			warn(a, "names that differ in more than case", other+" differs in case alone", "stat")
		}
		lower[strings.ToLower(a)] = a
		want, source := e.statedSum(a)
		if want == "" {
			continue
		}
		compared++
		if got := e.cheapSum(ctx, a, fi); got != "" && got != want {
			warn(a, "sha256 "+want, "sha256 "+got, source)
		}
	}
	if len(out) == 0 {
		return []Finding{pass(plural(len(e.Archives), "archive"), strconv.Itoa(compared)+" compared with the digest beside it, none cut as FAT32 cuts", "stat, *.sha256, SHA256SUMS")}
	}
	return out
}

// statedSum is the digest that a file beside an archive gives for it; empty: none does.
func (e *Env) statedSum(archive string) (sum, source string) {
	dir, base := path.Split(archive)
	for _, file := range []string{archive + ".sha256", dir + "SHA256SUMS", dir + "sha256sum.txt"} {
		data, err := e.Reader.FS().ReadFile(file, maxText)
		if err != nil {
			continue
		}
		for i, line := range strings.Split(string(data), "\n") {
			f := strings.Fields(line)
			named := len(f) == 2 && path.Base(strings.TrimPrefix(f[1], "*")) == base || len(f) == 1 && file == archive+".sha256"
			if named && len(f[0]) == sha256.Size*2 {
				return strings.ToLower(f[0]), fmt.Sprintf("%s:%d", file, i+1)
			}
		}
	}
	return "", ""
}

// cheapSum is the digest of a file, by its bytes or as it was recorded while it was the same; empty: it is large, and
// only --deep reads it.
func (e *Env) cheapSum(ctx context.Context, p string, fi host.FileInfo) string {
	if _, known := e.recorded(p, fi); !known && fi.Size > smallInput && !e.opts.Deep {
		return ""
	}
	sum, err := e.sumOf(ctx, p, fi)
	if err != nil {
		return "it cannot be read"
	}
	return sum
}

func (e *Env) recorded(p string, fi host.FileInfo) (string, bool) {
	if e.Recorded == nil {
		return "", false
	}
	return e.Recorded(p, fi)
}
