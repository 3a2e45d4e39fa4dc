package check

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/kubelet"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func processChecks() []Check {
	return []Check{recordCheck(), versionsCheck(), sealCheck(), rebuildCheck(), meansCheck(), rehearsedCheck(), mediaCheck()}
}

// Bounds of kept records.
const (
	maxRecordFile  = 32 << 20
	maxRecordFiles = 5000
	defaultReports = "/var/lib/edgeprep/reports"
)

// keptRecord is the last record that a run kept on this node; nil: there is none.
func (e *Env) keptRecord() (r *Report, file string, err error) {
	dir := orWord(e.Site.Checklist.Out, defaultReports)
	entries, err := e.Reader.FS().ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dir, nil
	}
	if err != nil || len(entries) > maxRecordFiles {
		return nil, dir, errors.Join(err, fmt.Errorf("%s: %d files", dir, len(entries)))
	}
	for _, x := range slices.Backward(entries) { // their names begin with the time
		if name := path.Base(x.Path); strings.HasPrefix(name, "check-") && strings.HasSuffix(name, ".json") {
			file = path.Join(dir, name)
			r, err = readRecord(e.Reader.FS(), file)
			return r, file, err
		}
	}
	return nil, dir, nil
}

// readRecord reads a record and compares it with the digest that was kept beside it.
func readRecord(f host.FS, file string) (*Report, error) {
	data, err := f.ReadFile(file, maxRecordFile)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	if want, err := f.ReadFile(file+".sha256", 4096); err != nil || !strings.HasPrefix(string(want), hex.EncodeToString(sum[:])) {
		return nil, fmt.Errorf("%s is not what its .sha256 says", file)
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &r, nil
}

func recordCheck() Check {
	return Check{
		ID: "PRC-01", Title: "what is on this node is on record",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "something does not work on site, and nobody can say what is on the box or what changed",
			Cause:   "a node that was prepared by hand, or a record that stayed on a laptop",
			Look:    "edgeprep's ledger of what it wrote; on arrival and in operation a kept record of the checklist, whole as its sha256 says",
			Fix:     "edgeprep apply writes the ledger; edgeprep check --profile ship --keep --by NAME keeps the record",
			Sources: []string{"failure-modes: PRC-01", "docs/formats.md"},
		},
		Run: runRecord,
	}
}

func runRecord(_ context.Context, e *Env) []Finding {
	onSite := e.opts.Profile == ProfileArrival || e.opts.Profile == ProfileRunning
	l, err := plan.ReadLedger(e.Reader.FS())
	if err != nil {
		return []Finding{couldNotRun(plan.LedgerPath, err)}
	}
	var out []Finding
	if _, err := e.Reader.FS().Stat(plan.LedgerPath); err != nil {
		if e.opts.Profile == ProfileStage {
			return []Finding{deferred(plan.LedgerPath, "nothing was applied on this node yet: edgeprep apply writes the ledger")}
		}
		out = append(out, Finding{Status: StatusFail, Subject: plan.LedgerPath, Expected: "the ledger of what was written", Observed: "there is none", Source: plan.LedgerPath, Remedy: Remedy{Command: "edgeprep apply"}})
	} else {
		out = append(out, pass(plan.LedgerPath, plural(len(l.Records), "thing")+" written, by "+plural(len(l.Runs), "run"), plan.LedgerPath))
	}
	r, file, err := e.keptRecord()
	keep := Remedy{Text: "keep one", Command: "edgeprep check --profile ship --keep"}
	switch {
	case err != nil:
		out = append(out, Finding{Status: StatusFail, Subject: file, Expected: "a record as it was kept", Observed: err.Error(), Source: file, Remedy: keep})
	case r != nil:
		out = append(out, pass(file, fmt.Sprintf("profile %s, %s, %s", r.Profile, r.Verdict, r.Finished.UTC().Format("2006-01-02 15:04")), file))
	case onSite:
		out = append(out, Finding{Status: map[bool]Status{true: StatusFail, false: StatusWarn}[e.opts.Profile == ProfileArrival], Subject: file, Expected: "the record that the node left with",
			Observed: "no kept record", Source: file, Remedy: keep})
	}
	return out
}

func versionsCheck() Check {
	return Check{
		ID: "PRC-02", Title: "Kubernetes' own images are of the version that is installed",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "the control plane's pods ask for versions that the bundle lacks; or kubelet refuses to work with an older API server",
			Cause:   "the distribution was upgraded after the images were packed, or the other way round",
			Look:    "images of Kubernetes' components in archives and required references, whose tags are versions, against the installed version; kubelet may be three minors older than the API server, never newer",
			Fix:     "pack the images of the installed version: kubeadm config images list",
			Sources: []string{"kubernetes: version skew policy", "rancher/wharfie: FindImage", "failure-modes: PRC-02"},
		},
		Run: runVersions,
	}
}

// components are images of Kubernetes itself: their tags are its versions.
func components() []string {
	return []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"}
}

func runVersions(_ context.Context, e *Env) []Finding {
	const subject = "versions"
	tags := map[string][]string{}
	for _, r := range e.shipped() {
		if name := path.Base(r.Repository); slices.Contains(components(), name) && r.Tag != "" && !slices.Contains(tags[name], r.Tag) {
			tags[name] = append(tags[name], r.Tag)
		}
	}
	minor, known := kubelet.Minor(e.Node.Version)
	switch {
	case len(tags) == 0:
		return []Finding{skip(subject, "no archive and no required reference has an image of Kubernetes' own version")}
	case !known:
		return []Finding{unproven(subject, "the installed version is not known; set [distro] version")}
	}
	var out []Finding
	for _, name := range components() {
		if len(tags[name]) > 0 {
			out = append(out, e.judgeVersion(name, tags[name], minor))
		}
	}
	return out
}

// shipped are the required references and those of every archive.
func (e *Env) shipped() []preload.Ref {
	out := slices.Clone(e.Required)
	for _, a := range e.memo.archives() {
		for _, n := range a.archive.Names() {
			if r, err := preload.ParseReference(n); a.err == nil && err == nil {
				out = append(out, r)
			}
		}
	}
	return out
}

func (e *Env) judgeVersion(name string, tags []string, minor int) Finding {
	core, _, _ := strings.Cut(e.Node.Version, "+")
	f := Finding{Status: StatusFail, Subject: name, Expected: core, Observed: strings.Join(tags, ", "), Source: "[images] archives and required",
		Remedy: Remedy{Text: "ship the images of " + core}}
	for _, t := range tags {
		m, ok := kubelet.Minor(t)
		switch {
		case t == core || "v"+t == core:
			return pass(name, t, f.Source)
		case ok && m == minor:
			f.Status = StatusWarn // another patch works; nobody tested it
		case ok && m > minor && m-minor <= 3 && f.Status == StatusFail:
			f.Status, f.Observed = StatusWarn, f.Observed+": newer than kubelet, which may be three minors behind"
		}
	}
	return f
}

func sealCheck() Check {
	return Check{
		ID: "PRC-04", Title: "nothing changed since the record that was kept",
		Severity: SeverityWarn, Scope: ScopeNode, Timeout: deepTimeout, DependsOn: []string{"PRC-01"},
		Story: Story{
			Seen:    "\"it was checked\": before the last edit",
			Cause:   "somebody mended something after the checklist had passed, kubelet or a person removed an image, a disk lost data",
			Look:    "machine, distribution, images of containerd, configuration, required list and archives against the last kept record of this node, on arrival and in operation; whether the clock is after it",
			Fix:     "see whether each change was meant; run the checklist again and keep its record",
			Sources: []string{"failure-modes: PRC-04, CRI-12"},
		},
		Run: runSeal,
	}
}

func runSeal(ctx context.Context, e *Env) []Finding {
	const subject = "the last record"
	if e.opts.Profile == ProfileStage || e.opts.Profile == ProfileShip {
		return []Finding{skip(subject, "while a node is prepared it changes; arrival and running compare it")}
	}
	was, file, err := e.keptRecord()
	if err != nil {
		return []Finding{couldNotRun(file, err)}
	}
	if was == nil {
		return []Finding{skip(subject, "none was kept; PRC-01 says so")}
	}
	// certificates: other checks read them at the same time; the comparison of whole records has them
	is := Report{Started: e.Now().UTC(), Node: e.identity(), Tool: was.Tool, Images: e.inventory(), Inputs: e.inputsNow(ctx, was.Inputs), Certificates: was.Certificates}
	if is.Images == nil { // nobody can be asked: that is no change
		is.Images = was.Images
	}
	var out []Finding
	for _, d := range Compare(*was, is) {
		if d.Matters {
			out = append(out, Finding{Status: StatusWarn, Subject: d.What, Expected: d.Was, Observed: d.Is, Source: file,
				Remedy: Remedy{Text: "if it was meant", Command: "edgeprep check --profile ship --keep"}})
		}
	}
	if len(out) == 0 {
		return []Finding{pass(subject, "as it was on "+was.Finished.UTC().Format("2006-01-02 15:04"), file)}
	}
	return out
}

// smallInput is hashed again; of a larger one the digest counts that was found when it was inspected.
const smallInput = 64 << 20

// inputsNow fingerprints the files of a record as they are now.
func (e *Env) inputsNow(ctx context.Context, was []Input) []Input {
	var out []Input
	for _, in := range was {
		fi, err := e.Reader.FS().Stat(in.Path)
		if err != nil {
			continue // gone
		}
		now := Input{Name: in.Name, Path: in.Path, Size: fi.Size, SHA256: in.SHA256}
		switch {
		case in.SHA256 == "":
		case fi.Size != in.Size:
			now.SHA256 = fmt.Sprintf("other bytes: %d, not %d", fi.Size, in.Size)
		default:
			now.SHA256 = orWord(e.cheapSum(ctx, in.Path, fi), in.SHA256)
		}
		out = append(out, now)
	}
	return out
}
