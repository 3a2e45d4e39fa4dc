package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// Where the engine keeps its state on a node.
const (
	StateDir   = "/var/lib/edgeprep"
	LedgerPath = StateDir + "/ledger.json"
	JournalDir = StateDir + "/journal"
	BackupDir  = StateDir + "/backups"
)

// LedgerSchema is the version of the ledger's JSON form; see docs/formats.md.
const LedgerSchema = 1

const maxLedger = 64 << 20

// Ledger is what edgeprep knows of what it did on a node.
type Ledger struct {
	Schema  int               `json:"schema"`
	Records map[string]Record `json:"records"`            // by resource id
	Sources map[string]Source `json:"sources,omitempty"`  // inspected archives, by path
	Owed    map[string]Debt   `json:"restarts,omitempty"` // restarts that are still to be done, by unit
	Runs    []Run             `json:"runs"`               // oldest first; those that changed something
	Folded  string            `json:"folded,omitempty"`   // the last journal record that is taken into account here
}

// Record is one resource as edgeprep left it.
type Record struct {
	Kind  resource.Kind `json:"kind"`
	Path  string        `json:"path,omitempty"` // a path with symlinks resolved, a unit, an account
	Run   string        `json:"run"`            // that wrote it last
	Seq   int           `json:"seq"`            // order of first writing
	State State         `json:"state"`
	// Previous is what was there before edgeprep first touched it; nil: nothing. A file's bytes are in
	// backups/ under their sha256.
	Previous *State `json:"previous,omitempty"`
	// Found: it was as desired when edgeprep first looked and was never written by it. The record only saves
	// reading it again.
	Found  bool `json:"found,omitempty"`
	Shared bool `json:"shared,omitempty"` // a file that is somebody else's too
	// Edited: somebody changed it between two writes of edgeprep, so that Previous is not all that there was.
	Edited bool `json:"edited,omitempty"`
	// Restarts are the units that take it in by a restart.
	Restarts []string `json:"restarts,omitempty"`
}

// Debt is a restart that was not done yet.
type Debt struct {
	Boot string   `json:"boot,omitempty"` // boot id; a reboot pays the debt
	IDs  []string `json:"ids"`            // the resources that changed
}

// Run is one run that changed something.
type Run struct {
	ID      string    `json:"id"`
	Verb    string    `json:"verb"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Outcome string    `json:"outcome"`           // "ok", "failed", "interrupted" or "recovered"
	Undone  string    `json:"undone,omitempty"`  // the run that put it back
	Pending []Pending `json:"pending,omitempty"` // what could not be done then
}

// Source is an inspected archive: Data is what the inspection found, valid while the file is the same.
type Source struct {
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"` // nanoseconds since 1970
	Changed int64  `json:"ctime"`
	Inode   uint64 `json:"inode"`
	Dev     uint64 `json:"dev"`
	// Consumed is where the file was moved to, when it was ([images] consume).
	Consumed string          `json:"consumed,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// SourceOf is the source at fi with what was found in it.
func SourceOf(fi host.FileInfo, data json.RawMessage) Source {
	return Source{Size: fi.Size, ModTime: fi.ModTime.UnixNano(), Changed: fi.Changed.UnixNano(), Inode: fi.Inode, Dev: fi.Dev, Data: data}
}

// Is says whether fi is still the file that was inspected.
func (s Source) Is(fi host.FileInfo) bool {
	o := SourceOf(fi, nil)
	return fi.Type == host.TypeFile && s.Size == o.Size && s.ModTime == o.ModTime && s.Changed == o.Changed &&
		s.Inode == o.Inode && s.Dev == o.Dev
}

// NewLedger is the ledger of a node that edgeprep has not touched.
func NewLedger() Ledger {
	return Ledger{Schema: LedgerSchema, Records: map[string]Record{}, Sources: map[string]Source{}, Owed: map[string]Debt{}}
}

// ReadLedger reads the node's ledger. A node without one has an empty ledger; one that cannot be read is an
// error, never an empty ledger, for that would make every file of ours a stranger's.
func ReadLedger(r host.FS) (Ledger, error) {
	data, err := r.ReadFile(LedgerPath, maxLedger)
	if errors.Is(err, fs.ErrNotExist) {
		return NewLedger(), nil
	}
	if err != nil {
		return Ledger{}, fmt.Errorf("read %s: %w", LedgerPath, err)
	}
	return DecodeLedger(data)
}

// DecodeLedger reads a ledger's JSON form.
func DecodeLedger(data []byte) (Ledger, error) {
	l := NewLedger()
	if err := json.Unmarshal(data, &l); err != nil {
		return Ledger{}, &diag.Diagnostic{ID: "APL-007", Severity: diag.Error, What: "the ledger is damaged: " + err.Error(),
			Where: diag.Where{File: LedgerPath}, Why: "without it edgeprep cannot tell its own files from other people's",
			Fix: "mv " + LedgerPath + " " + LedgerPath + ".damaged && edgeprep apply   # it is made again from " + JournalDir}
	}
	if l.Schema != LedgerSchema {
		return Ledger{}, &diag.Diagnostic{ID: "APL-008", Severity: diag.Error,
			What:  fmt.Sprintf("the ledger has schema %d, this edgeprep knows %d", l.Schema, LedgerSchema),
			Where: diag.Where{File: LedgerPath}, Why: "another version of edgeprep wrote it", Fix: "run the edgeprep that wrote it, or a newer one"}
	}
	l.fill()
	return l, nil
}

// fill makes the maps that a JSON null or a missing key left nil.
func (l *Ledger) fill() {
	if l.Records == nil {
		l.Records = map[string]Record{}
	}
	if l.Sources == nil {
		l.Sources = map[string]Source{}
	}
	if l.Owed == nil {
		l.Owed = map[string]Debt{}
	}
}

// Encode is the ledger's JSON form.
func (l Ledger) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return append(data, '\n'), nil
}

// owns is the record of what edgeprep wrote under id.
func (l Ledger) owns(id string) (Record, bool) {
	r, ok := l.Records[id]
	return r, ok && !r.Found
}

// debt are the resources for which a restart of unit is owed since this boot.
func (l Ledger) debt(unit, boot string) []string {
	d, ok := l.Owed[unit]
	if !ok || (d.Boot != "" && boot != "" && d.Boot != boot) {
		return nil
	}
	return d.IDs
}
