package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/mirror/selfimage"
)

// MirrorChart writes the mirror's Helm chart into a new directory. image is the reference of the mirror's image;
// empty: that of the image that is made from this program.
func MirrorChart(ctx context.Context, dir, image string) ([]string, error) {
	if image == "" {
		var err error
		if image, err = ownReference(ctx); err != nil {
			return nil, err
		}
	}
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &diag.Refused{Err: &diag.Diagnostic{ID: "MER-093", Severity: diag.Error, What: "the directory for the chart is not empty or not to be read",
			Where: diag.Where{File: dir}, Fix: "choose another --out"}}
	}
	files, err := deploy.Chart(image)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(files))
	w := atomicfile.Writer{}
	for _, name := range names {
		abs, err := filepath.Abs(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return nil, fmt.Errorf("write the chart: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil {
			return nil, fmt.Errorf("write the chart: %w", err)
		}
		if err := w.Write(abs, files[name], atomicfile.Meta{Mode: 0o644, UID: -1, GID: -1}); err != nil {
			return nil, fmt.Errorf("write the chart: %w", err)
		}
	}
	return names, nil
}

// ownReference is the name of the image that is made from this program.
func ownReference(ctx context.Context) (string, error) {
	self, err := ownProgram()
	if err != nil {
		return "", err
	}
	here, err := local.New(local.Options{})
	if err != nil {
		return "", err
	}
	sum, err := sumFile(ctx, here.FS(), self)
	if err != nil {
		return "", err
	}
	return selfimage.Repository + ":" + selfimage.Tag(sum), nil
}
