package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// maxText is the largest text file that is read whole.
const maxText = 16 << 20

// maxLinks bounds a chain of symlinks.
const maxLinks = 40

// Look is the state of a path; nil: nothing is there. Files up to 16 MiB are read, larger ones carry a stamp
// and no hash.
func Look(r host.FS, p string) (*State, []byte, error) {
	fi, err := r.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	s := stateOf(fi)
	if fi.Type != host.TypeFile || fi.Size > maxText {
		return s, nil, nil
	}
	data, err := r.ReadFile(p, maxText)
	if err != nil {
		return nil, nil, err
	}
	s.SHA256, s.Size = Sum(data), int64(len(data))
	return s, data, nil
}

func stateOf(fi host.FileInfo) *State {
	s := &State{Type: fi.Type, Mode: fi.Mode, UID: fi.UID, GID: fi.GID}
	switch fi.Type {
	case host.TypeSymlink:
		s.Target, s.Mode = fi.Target, 0
	case host.TypeFile:
		st := StampOf(fi)
		s.Size, s.Stamp = fi.Size, &st
	}
	return s
}

// Sum is the hex sha256 of data.
func Sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// behind follows symlinks at p itself, for files that are merged where they really are. A link to nothing
// stands for the file that will be there.
func behind(r host.FS, p string) (string, error) {
	for range maxLinks {
		fi, err := r.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) || (err == nil && fi.Type != host.TypeSymlink) {
			return p, nil
		}
		if err != nil {
			return "", err
		}
		if path.IsAbs(fi.Target) {
			p = path.Clean(fi.Target)
		} else {
			p = path.Join(path.Dir(p), fi.Target)
		}
	}
	return "", &diag.Diagnostic{ID: "APL-004", Severity: diag.Error, What: "too many symlinks", Where: diag.Where{File: p}, Fix: "namei -l " + p}
}

// owner is the user and group id of an account; UnknownID while there is no such account, and where owners
// cannot be set (a directory of an ordinary user).
func (b *builder) owner(name string) (int, error) {
	if !b.facts.Live && !b.facts.Root {
		return UnknownID, nil
	}
	if name == "" {
		return 0, nil
	}
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	a, ok, err := b.r.Account(name)
	if err != nil || !ok {
		return UnknownID, err
	}
	return a.UID, nil
}

// ids fills a state's owner in.
func (b *builder) ids(s *State, name string) error {
	uid, err := b.owner(name)
	if err != nil {
		return err
	}
	s.UID, s.GID = uid, uid
	if _, err := strconv.ParseUint(name, 10, 31); uid > 0 && err != nil {
		a, _, err := b.r.Account(name)
		if err != nil {
			return err
		}
		s.GID = a.GID
	}
	return nil
}

func (b *builder) file(id string, f resource.File) (*Change, error) {
	p := f.Path
	if f.Shared {
		var err error
		if p, err = behind(b.fs, p); err != nil {
			return nil, err
		}
	}
	got, old, err := Look(b.fs, p)
	if err != nil {
		return nil, err
	}
	want := &State{Type: host.TypeFile, Mode: f.Mode, Size: int64(len(f.Content)), SHA256: Sum(f.Content)}
	if err := b.ids(want, f.Owner); err != nil {
		return nil, err
	}
	if f.Shared && got != nil && got.Type == host.TypeFile {
		want.Mode, want.UID, want.GID = got.Mode, got.UID, got.GID
		if got.SHA256 != want.SHA256 && got.SHA256 != f.Base {
			b.problem(moved(p))
			return nil, nil
		}
	}
	c := b.compare(id, p, got, want, f.Shared)
	if c != nil && c.Action != ActionNone {
		c.Diff = diffText(p, old, f.Content, f.Secret)
	}
	return c, nil
}

func moved(p string) *diag.Diagnostic {
	return &diag.Diagnostic{ID: "APL-006", What: "the file changed while the plan was made", Where: diag.Where{File: p},
		Why: "the merge was made from other bytes than are there now", Fix: "edgeprep apply"}
}

func (b *builder) dir(id string, d resource.Dir) (*Change, error) {
	got, _, err := Look(b.fs, d.Path)
	if err != nil {
		return nil, err
	}
	if got != nil && got.Type == host.TypeSymlink {
		if fi, err := b.fs.Stat(d.Path); err == nil && fi.Type == host.TypeDir {
			got = stateOf(fi)
		}
	}
	if d.Keep && got != nil && got.Type == host.TypeDir {
		return nil, nil
	}
	want := &State{Type: host.TypeDir, Mode: d.Mode}
	if err := b.ids(want, d.Owner); err != nil {
		return nil, err
	}
	c := b.compare(id, d.Path, got, want, false)
	if c != nil && c.Action == ActionUpdate && got.UID == 0 && b.onlyParts(d) {
		c.Risks, c.Reason = nil, "filled before "+d.Owner+" was an account"
	}
	return c, nil
}

// onlyParts says whether a directory holds what belongs there and nothing else. Hidden entries are those of
// programs that copy it.
func (b *builder) onlyParts(d resource.Dir) bool {
	list, err := b.fs.ReadDir(d.Path)
	return err == nil && len(d.Parts) > 0 && !slices.ContainsFunc(list, func(fi host.FileInfo) bool {
		name := path.Base(fi.Path)
		return !strings.HasPrefix(name, ".") && !slices.Contains(d.Parts, name)
	})
}

func (b *builder) symlink(id string, s resource.Symlink) (*Change, error) {
	got, old, err := Look(b.fs, s.Path)
	if err != nil {
		return nil, err
	}
	c := b.compare(id, s.Path, got, &State{Type: host.TypeSymlink, Target: s.Target}, false)
	if c != nil && got != nil && got.Type == host.TypeFile {
		c.Diff = diffText(s.Path, old, nil, false)
	}
	return c, nil
}

// compare is the three-way decision on a path: what is wanted, what is there, what edgeprep left there.
// A merge overwrites nothing of anybody's.
func (b *builder) compare(id, p string, got, want *State, merge bool) *Change {
	c := &Change{Kind: kindOf(*want), Path: p, Summary: p, Before: got, After: want, Action: ActionNone}
	rec, ours := b.ledger.owns(id)
	switch {
	case got == nil:
		c.Action = ActionCreate
		if ours {
			c.Reason = "removed outside edgeprep"
		}
		return c
	case Same(got, want):
		return c
	case (got.Type == host.TypeDir) != (want.Type == host.TypeDir), got.Type == host.TypeOther:
		b.problem(&diag.Diagnostic{ID: "APL-004", What: "there is a " + string(got.Type) + " where a " + string(want.Type) + " has to be",
			Where: diag.Where{File: p}, Fix: "mv " + diag.Word(p) + " " + diag.Word(p+".old")})
		return nil
	}
	c.Action = ActionUpdate
	if merge || (ours && Same(got, &rec.State)) {
		return c
	}
	c.Reason = "not written by edgeprep"
	if ours {
		c.Reason = "edited outside edgeprep"
	}
	c.Risks = []Risk{RiskOverwrite}
	return c
}

func kindOf(s State) resource.Kind {
	switch s.Type {
	case host.TypeDir:
		return resource.KindDir
	case host.TypeSymlink:
		return resource.KindSymlink
	}
	return resource.KindFile
}

// user wants an account to exist.
func (b *builder) user(id string, u resource.User) (*Change, error) {
	_, ok, err := b.r.Account(u.Name)
	if err != nil || ok {
		return nil, err
	}
	if !b.facts.Live && !b.facts.Root {
		b.later(id, "make the account "+u.Name, "only root can make accounts under another root; systemd-sysusers makes it at the next boot")
		return nil, nil
	}
	return &Change{Kind: resource.KindUser, Action: ActionCreate, Path: u.Name, Summary: "account " + u.Name,
		After: &State{Account: &host.Account{Name: u.Name, Home: u.Home}}}, nil
}

// removal undoes a resource that nobody wants any more: what was there before comes back.
func (b *builder) removal(id string, rec Record) (*Change, error) {
	if rec.Kind == resource.KindUnit {
		return b.retire(rec)
	}
	got, data, err := Look(b.fs, rec.Path)
	if err != nil {
		return nil, err
	}
	if got == nil && rec.Previous == nil {
		return b.forget(id)
	}
	c := &Change{Kind: rec.Kind, Action: ActionDelete, Path: rec.Path, Summary: rec.Path, Before: got, After: rec.Previous,
		Reason: "no longer wanted"}
	if rec.Previous != nil {
		c.Action, c.Reason = ActionRestore, "no longer wanted; what was there before comes back"
	}
	if Same(got, rec.Previous) {
		return b.forget(id)
	}
	c.Diff = removalDiff(rec, data)
	if got != nil && (rec.Edited || !Same(got, &rec.State)) && got.Type != host.TypeDir {
		c.Reason, c.Risks = "edited outside edgeprep, "+c.Reason, []Risk{RiskOverwrite}
	}
	if rec.Kind == resource.KindArchive {
		c.Risks = append(c.Risks, RiskRemove)
	}
	return c, nil
}

// forget drops a record of something that is gone already.
func (b *builder) forget(id string) (*Change, error) {
	b.plan.Refresh[id] = Record{}
	return nil, nil
}

func removalDiff(rec Record, data []byte) string {
	if rec.Kind != resource.KindFile || rec.Previous != nil || bytes.IndexByte(data, 0) >= 0 {
		return ""
	}
	return diffText(rec.Path, data, nil, rec.State.Mode.Perm()&0o044 == 0)
}
