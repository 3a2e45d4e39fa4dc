package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/mirror/selfimage"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// ownImage is the mirror's image: the site's archive, or one that is made from this program.
func (a *App) ownImage(ctx context.Context, d *Desired, how reading) (own, error) {
	if file := d.Site.Mirror.Workload.SelfArchive; file != "" {
		return a.givenImage(ctx, d, file, how)
	}
	x, err := a.madeImage(ctx, d, how.verify)
	if err != nil {
		return own{}, refusedUnless(err)
	}
	archive := resource.Archive{Source: deploy.MadeImage, Path: x.Path, Size: x.Size, SHA256: x.SHA256, Mode: 0o644, Stage: filepath.Dir(x.Path),
		Images: x.Names(), Local: true, Made: true}
	return own{x, deploy.StageImage(archive)}, nil
}

func (a *App) givenImage(ctx context.Context, d *Desired, file string, how reading) (own, error) {
	var known preload.Known = ledgerKnown{d.Ledger}
	if how.verify {
		known = nil
	}
	x, err := preload.Inspect(ctx, a.reader.FS(), file, known, a.sink())
	if err != nil {
		return own{}, refusedUnless(err)
	}
	digests := map[string]bool{}
	for _, i := range x.Images {
		digests[i.Digest] = true
	}
	if len(digests) != 1 {
		return own{}, &diag.Refused{Err: &diag.Diagnostic{ID: "MER-089", Severity: diag.Error,
			What: fmt.Sprintf("the archive holds %d images, not the mirror's alone", len(digests)), Where: diag.Where{File: file, Key: "mirror.workload.self_archive"},
			Fix: "edgeprep mirror image --out " + file}}
	}
	return own{archive: x}, d.rememberArchive(a.reader.FS(), x)
}

// imageKey is the ledger's name for the image that was made; no path begins like it.
const imageKey = "image:"

// made is what the ledger remembers of an image that was made.
type made struct {
	Key     string          `json:"key"` // of what it was made from
	Archive preload.Archive `json:"archive"`
}

// madeImage describes the image that is made from this program; the ledger spares making it each time.
func (a *App) madeImage(ctx context.Context, d *Desired, verify bool) (preload.Archive, error) {
	bin, err := a.program(ctx, d, verify)
	if err != nil {
		return preload.Archive{}, err
	}
	roots := rootsFor(d.Site)
	sum := sha256.Sum256(roots)
	key := strings.Join([]string{bin.SHA256, d.Platform, hex.EncodeToString(sum[:])}, " ")
	a.self.options, a.self.want = selfimage.Options{Binary: bin.Source, Platform: d.Platform, Roots: roots}, key
	var m made
	if s, ok := d.Ledger.Sources[imageKey]; ok && json.Unmarshal(s.Data, &m) == nil && m.Key == key {
		d.Sources[imageKey] = s
		return m.Archive, nil
	}
	file, err := a.makeImage(ctx, deploy.MadeImage)
	if err != nil {
		return preload.Archive{}, err
	}
	here, err := local.New(local.Options{})
	if err != nil {
		return preload.Archive{}, err
	}
	if m.Archive, err = preload.Inspect(ctx, here.FS(), file, nil, nil); err != nil {
		return preload.Archive{}, err
	}
	m.Key, m.Archive.Path, m.Archive.Stamp = key, deploy.ImageArchive, preload.Fingerprint{}
	data, err := json.Marshal(m)
	if err != nil {
		return preload.Archive{}, fmt.Errorf("remember the mirror's image: %w", err)
	}
	d.Sources[imageKey] = plan.Source{Data: data}
	return m.Archive, nil
}

// rootsFor are the certification authorities for a mirror that may pull; one that may not needs none.
func rootsFor(s config.Site) []byte {
	if s.Mirror.Upstream != config.UpstreamConnected {
		return nil
	}
	pem, _ := selfimage.HostRoots()
	return pem
}

// selfMade is the mirror's image that this process made, in a temporary directory of its own until it ends.
type selfMade struct {
	options selfimage.Options
	want    string // what it would be made from now
	key     string // what file was made from
	dir     string
	file    string
}

// makeImage makes the mirror's image and gives its path on this machine.
func (a *App) makeImage(ctx context.Context, _ string) (string, error) {
	if a.self.file != "" && a.self.key == a.self.want {
		return a.self.file, nil
	}
	img, err := selfimage.Build(ctx, a.self.options)
	if err != nil {
		return "", err
	}
	if a.self.dir == "" {
		if a.self.dir, err = os.MkdirTemp("", "edgeprep-image-"); err != nil {
			return "", fmt.Errorf("make the mirror's image: %w", err)
		}
	}
	file := filepath.Join(a.self.dir, "mirror.tar")
	if _, err := writeImage(img, file); err != nil {
		return "", err
	}
	a.self.file, a.self.key = file, a.self.want
	return file, nil
}
