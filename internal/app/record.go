package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/edgeprep/edgeprep/internal/check"
)

// record completes a report with what it was made from, so that it can be compared with a later one.
func (a *App) record(ctx context.Context, d Desired, r *check.Report) {
	r.Tool = check.Tool{Version: a.opts.Version}
	if exe, err := os.Executable(); err == nil {
		if f, err := os.Open(exe); err == nil {
			r.Tool.SHA256, _ = hashOf(ctx, f) // unreadable: left out
		}
	}
	if data, err := a.readConfig(); err == nil && a.opts.Config != "-" {
		sum := sha256.Sum256(data)
		r.Inputs = append(r.Inputs, check.Input{Name: "configuration", Path: a.ConfigName(), Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])})
	}
	if p := d.Site.Images.Required; p != "" {
		r.Inputs = append(r.Inputs, a.input(ctx, "required", p, nil))
	}
	known := ledgerKnown{d.Ledger}
	for _, p := range d.Paths {
		r.Inputs = append(r.Inputs, a.input(ctx, "archive", p, &known))
	}
}

// input fingerprints a file of the node. Archives are large: the digest that was found when it was inspected
// counts while the file is unchanged, and one that nobody knows is left out.
func (a *App) input(ctx context.Context, name, path string, known *ledgerKnown) check.Input {
	in := check.Input{Name: name, Path: path}
	fi, err := a.reader.FS().Stat(path)
	if err != nil {
		return in
	}
	in.Size = fi.Size
	if known != nil {
		if x, ok := known.Known(path, fi); ok {
			in.SHA256 = x.SHA256
		}
		return in
	}
	if f, err := a.reader.FS().Open(path); err == nil {
		in.SHA256, _ = hashOf(ctx, f) // unreadable: left out
	}
	return in
}

// hashOf hashes and closes.
func hashOf(ctx context.Context, f io.ReadCloser) (string, error) {
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), ctx.Err()
}
