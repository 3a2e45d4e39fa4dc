package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// JournalSchema is the version of the journal's records; see docs/formats.md.
const JournalSchema = 1

const maxJournal = 256 << 20

// The types of records.
const (
	typeRun    = "run"    // the first record
	typeIntent = "intent" // what is about to be done, with what is there before
	typeDone   = "done"   // it was done; with what is there now
	typeFail   = "fail"   // it failed; with what is there now
	typeVoid   = "void"   // found by recovery: nothing of the intent had happened
	typeEnd    = "end"    // the last record
)

// entry is one line of a journal.
type entry struct {
	Type   string    `json:"type"`
	Schema int       `json:"schema,omitempty"`
	Time   time.Time `json:"time"`
	// Torn: the line before is the rest of a record that was cut off.
	Torn bool `json:"torn,omitempty"`

	// run
	Verb   string   `json:"verb,omitempty"`
	Node   string   `json:"node,omitempty"`
	Boot   string   `json:"boot,omitempty"`
	Undoes []string `json:"undoes,omitempty"`
	Made   []string `json:"made,omitempty"` // directories above the state directory that had to be made

	// intent; done and fail refer to it by Seq
	Seq     int                  `json:"seq,omitempty"`
	ID      string               `json:"id,omitempty"`
	Kind    resource.Kind        `json:"kind,omitempty"`
	Action  plan.Action          `json:"action,omitempty"`
	Path    string               `json:"path,omitempty"`
	Targets []plan.Target        `json:"targets,omitempty"`
	Scan    []string             `json:"scan,omitempty"`  // directories in which new files belong to the change
	Links   []string             `json:"links,omitempty"` // directories for links of units that were there
	Stage   string               `json:"stage,omitempty"` // where a temporary file may be
	Images  []resource.ImageName `json:"images,omitempty"`
	Shared  bool                 `json:"shared,omitempty"`
	// Ephemeral: a file that somebody else goes on writing; changed since, it is his.
	Ephemeral bool     `json:"ephemeral,omitempty"`
	Foreign   bool     `json:"foreign,omitempty"`
	Restarts  []string `json:"restarts,omitempty"` // units that take it in by a restart
	Owes      []string `json:"owes,omitempty"`     // those of them that ran at that time
	Error     string   `json:"error,omitempty"`

	// end
	Outcome string `json:"outcome,omitempty"`
}

// journal appends to one run's file.
type journal struct {
	files host.FileWriter
	run   string
	path  string
	seq   int
	torn  bool
}

func newJournal(files host.FileWriter, run string) *journal {
	return &journal{files: files, run: run, path: journalPath(run)}
}

func journalPath(run string) string { return path.Join(plan.JournalDir, run+".jsonl") }

// append writes one record durably. After a failure the line may be cut off, which the next record says.
func (j *journal) append(ctx context.Context, e entry) error {
	e.Torn = j.torn
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	line = append(line, '\n')
	if j.torn {
		line = append([]byte{'\n'}, line...)
	}
	if err := j.files.Append(ctx, j.path, line, host.Meta{Mode: 0o600}); err != nil {
		j.torn = true
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	j.torn = false
	return nil
}

// run is what a journal says.
type run struct {
	id      string
	head    entry
	changes []*change
	ended   bool
	outcome string
	torn    bool // the last line is cut off
	seq     int
}

// change is an intent with its outcome.
type change struct {
	run    string
	intent entry
	result entry // Type is empty when the run was cut off before it was written
}

// targets are what the change touched, with what it left there.
func (c *change) targets() []plan.Target {
	if c.result.Type == typeDone || c.result.Type == typeFail {
		return c.result.Targets
	}
	return c.intent.Targets
}

// readRun reads a journal. Only its last line may be damaged, or a line that the next one says was cut off.
func readRun(r host.FS, id string) (*run, error) {
	data, err := r.ReadFile(journalPath(id), maxJournal)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return parseRun(id, data)
}

func parseRun(id string, data []byte) (*run, error) {
	out := &run{id: id, torn: len(data) > 0 && data[len(data)-1] != '\n'}
	bad := 0
	lines := bytes.Split(data, []byte{'\n'})
	for n, line := range lines {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil || e.Type == "" {
			if bad != 0 {
				return nil, damaged(id, bad)
			}
			bad = n + 1
			continue
		}
		if bad != 0 && !e.Torn {
			return nil, damaged(id, bad)
		}
		bad = 0
		if err := out.take(e); err != nil {
			return nil, damaged(id, n+1)
		}
	}
	out.torn = out.torn || bad != 0
	return out, nil
}

// errPermission: journals and backups are readable by root only.
var errPermission = fs.ErrPermission

var errOrder = errors.New("record out of order")

func (r *run) take(e entry) error {
	switch e.Type {
	case typeRun:
		r.head = e
	case typeIntent:
		if e.Seq <= r.seq {
			return errOrder
		}
		r.seq = e.Seq
		r.changes = append(r.changes, &change{run: r.id, intent: e})
	case typeDone, typeFail, typeVoid:
		i := slices.IndexFunc(r.changes, func(c *change) bool { return c.intent.Seq == e.Seq })
		if i < 0 {
			return errOrder
		}
		r.changes[i].result = e
	case typeEnd:
		r.ended, r.outcome = true, e.Outcome
	}
	return nil
}

func damaged(id string, line int) error {
	p := journalPath(id)
	return &diag.Diagnostic{ID: "APL-009", Severity: diag.Error, What: "the journal is damaged", Where: diag.Where{File: p, Line: line, Col: 1},
		Why: "what this run changed cannot be read, so it can neither be finished nor put back",
		Fix: "mv " + p + " " + p + ".damaged   # gives up the rollback of this run"}
}

// runIDs are the runs with a journal, oldest first.
func runIDs(r host.FS) ([]string, error) {
	list, err := r.ReadDir(plan.JournalDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", plan.JournalDir, err)
	}
	var out []string
	for _, fi := range list {
		if id, ok := strings.CutSuffix(path.Base(fi.Path), ".jsonl"); ok && number(id) > 0 && fi.Type == host.TypeFile {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return number(a) - number(b) })
	return out, nil
}

// number is the counter that a run's id begins with: ids are ordered by it, since clocks are wrong.
func number(id string) int {
	head, _, _ := strings.Cut(id, "-")
	n, err := strconv.Atoi(head)
	if err != nil {
		return 0
	}
	return n
}

// nextRun is a new id: a counter and, for people, the time.
func (s *session) nextRun() (string, error) {
	ids, err := runIDs(s.fs)
	if err != nil {
		return "", err
	}
	n := 0
	for _, id := range ids {
		n = max(n, number(id))
	}
	for _, r := range s.ledger.Runs {
		n = max(n, number(r.ID))
	}
	return fmt.Sprintf("%04d-%s", n+1, s.e.now().Format("20060102T150405Z")), nil
}

// readRuns reads every journal, oldest first.
func readRuns(r host.FS) ([]*run, error) {
	ids, err := runIDs(r)
	if err != nil {
		return nil, err
	}
	var out []*run
	for _, id := range ids {
		x, err := readRun(r, id)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}
