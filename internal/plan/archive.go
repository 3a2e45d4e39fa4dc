package plan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// archive compares a placed file by size, mode and stamp; it is read only when those do not tell.
func (b *builder) archive(id string, a resource.Archive) (*Change, error) {
	got, _, err := Look(b.fs, a.Path)
	if err != nil {
		return nil, err
	}
	want := &State{Type: host.TypeFile, Mode: a.Mode, Size: a.Size, SHA256: a.SHA256}
	if err := b.ids(want, ""); err != nil {
		return nil, err
	}
	how := ""
	if got != nil && got.Type == host.TypeFile {
		if how, err = b.identify(id, a, got); err != nil {
			return nil, err
		}
	}
	c := b.compare(id, a.Path, got, want, how == "damaged")
	if c == nil || c.Action == ActionNone {
		return nil, nil
	}
	if got != nil && got.SHA256 == want.SHA256 && got.Size == want.Size {
		return c, nil // only mode or owner: no bytes to move
	}
	c.Kind, c.Action, c.Bytes = resource.KindArchive, ActionPlace, a.Size
	if how == "damaged" {
		c.Reason = "damaged: it is not what edgeprep wrote, though size and time are"
	}
	return c, nil
}

// identify fills got.SHA256 in: from the ledger while the stamp is the one that edgeprep left, else by reading.
// A file with a known stamp and other bytes is damaged, not edited.
func (b *builder) identify(id string, a resource.Archive, got *State) (string, error) {
	rec, known := b.ledger.Records[id]
	sameStamp := known && rec.State.Stamp != nil && *rec.State.Stamp == *got.Stamp
	if sameStamp && !b.opts.Verify {
		got.SHA256 = rec.State.SHA256
		return "", nil
	}
	if got.Size != a.Size && got.SHA256 == "" {
		return "", nil
	}
	if got.SHA256 == "" {
		sum, err := HashFile(b.ctx, b.fs, a.Path)
		if err != nil {
			return "", err
		}
		got.SHA256 = sum
	}
	if sameStamp && got.SHA256 != rec.State.SHA256 {
		return "damaged", nil
	}
	if got.SHA256 == a.SHA256 && !sameStamp {
		b.remember(id, rec, a, *got)
	}
	return "", nil
}

// remember keeps the stamp of a file that had to be read, so that the next run need not.
func (b *builder) remember(id string, rec Record, a resource.Archive, got State) {
	if rec.Run == "" {
		rec = Record{Kind: resource.KindArchive, Path: a.Path, Found: true}
	}
	rec.State = got
	b.plan.Refresh[id] = rec
}

// HashFile is the hex sha256 of a file of any size.
func HashFile(ctx context.Context, r host.FS, p string) (sum string, err error) {
	f, err := r.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
