package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// Result is what ResultPath holds: the report of the last run, how its command ended, and what the checklist
// said since.
type Result struct {
	Report
	// Exit is the code that the command ended with.
	Exit int `json:"exit"`
	// Errors say why it is not 0; also of a run that ended before it began: an invalid configuration.
	Errors diag.Report  `json:"errors,omitempty"`
	Boot   string       `json:"boot,omitempty"` // boot id; a result of another boot does not outlive it
	Check  *CheckResult `json:"check,omitempty"`
}

// CheckResult is the outcome of the checklist.
type CheckResult struct {
	Time    time.Time `json:"time"`
	Profile string    `json:"profile"`
	Verdict string    `json:"verdict"`
	Exit    int       `json:"exit"`
	Missing []string  `json:"missing,omitempty"` // what keeps the verdict from PASS
	Report  string    `json:"report,omitempty"`  // the kept report
}

const maxResult = 16 << 20

// ReadResult reads the last result; there is none before the first run of a boot.
func ReadResult(f host.FS) (Result, error) {
	data, err := f.ReadFile(ResultPath, maxResult)
	if err != nil {
		return Result{}, fmt.Errorf("read %s: %w", ResultPath, err)
	}
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return Result{}, fmt.Errorf("read %s: %w", ResultPath, err)
	}
	return r, nil
}

// NoteRun leaves the outcome of a run for cloud-init and monitoring. Only a running node has a place for it,
// and only root may write there; for others it does nothing.
func NoteRun(ctx context.Context, h host.Host, r Report, exit int, found diag.Report) error {
	if r.Schema == 0 {
		r.Schema = ReportSchema
	}
	return note(ctx, h, func(facts host.Facts, _ Result) Result {
		if r.Node == "" {
			r.Node = facts.Hostname
		}
		return Result{Report: r, Exit: exit, Errors: found, Boot: facts.BootID}
	})
}

// NoteCheck adds the outcome of the checklist to that of the last run.
func NoteCheck(ctx context.Context, h host.Host, c CheckResult) error {
	return note(ctx, h, func(facts host.Facts, last Result) Result {
		if last.Schema == 0 { // no run in this boot
			last.Schema, last.Node, last.Boot = ReportSchema, facts.Hostname, facts.BootID
		}
		last.Check = &c
		return last
	})
}

func note(ctx context.Context, h host.Host, change func(host.Facts, Result) Result) error {
	ctx = context.WithoutCancel(ctx)
	facts, err := h.Facts(ctx)
	if err != nil || !facts.Live || !facts.Root {
		return err
	}
	last, err := ReadResult(h.FS())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		last = Result{} // an unreadable one says nothing
	}
	data, err := json.MarshalIndent(change(facts, last), "", " ")
	if err != nil {
		return fmt.Errorf("%s: %w", ResultPath, err)
	}
	if err := h.Files().Mkdir(ctx, resultDir, host.Meta{Mode: 0o755}); err != nil {
		return fmt.Errorf("make %s: %w", resultDir, err)
	}
	return h.Files().Write(ctx, ResultPath, append(data, '\n'), host.Meta{Mode: 0o644})
}

// keptReports is how many reports are kept in a directory.
const keptReports = 50

// KeepReport writes a report into a directory of the node under the next free number; clocks are wrong.
func KeepReport(ctx context.Context, h host.Host, dir, kind string, data []byte) (string, error) {
	var above []string
	for d := dir; d != "/" && d != "."; d = path.Dir(d) {
		above = append(above, d)
	}
	for _, d := range slices.Backward(above) {
		if _, err := h.FS().Stat(d); err == nil {
			continue
		}
		if err := h.Files().Mkdir(ctx, d, host.Meta{Mode: 0o755}); err != nil {
			return "", fmt.Errorf("make %s: %w", d, err)
		}
	}
	list, err := h.FS().ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("keep the report: %w", err)
	}
	var numbered []string
	last := 0
	for _, fi := range list {
		var n int
		if _, err := fmt.Sscanf(path.Base(fi.Path), "%d-", &n); err == nil && strings.HasSuffix(fi.Path, ".json") {
			numbered, last = append(numbered, fi.Path), max(last, n)
		}
	}
	file := path.Join(dir, fmt.Sprintf("%06d-%s.json", last+1, kind))
	if err := h.Files().Write(ctx, file, data, host.Meta{Mode: 0o640}); err != nil {
		return "", fmt.Errorf("keep the report: %w", err)
	}
	slices.Sort(numbered)
	for i := 0; i <= len(numbered)-keptReports; i++ {
		if err := h.Files().Remove(ctx, numbered[i]); err != nil {
			return file, fmt.Errorf("remove an old report: %w", err)
		}
	}
	return file, nil
}
