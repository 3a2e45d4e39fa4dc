package app

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// LoadCache brings the images of archives, OCI layouts and folders of them into a cache. It needs no node:
// paths are this machine's.
func LoadCache(ctx context.Context, cache string, paths []string, sink progress.Sink) (mirror.LoadReport, error) {
	h, err := local.New(local.Options{})
	if err != nil {
		return mirror.LoadReport{}, fmt.Errorf("open this machine: %w", err)
	}
	s, err := mirror.Open(cache, mirror.Options{Create: true})
	if err != nil {
		return mirror.LoadReport{}, err
	}
	defer s.Close()
	var total mirror.LoadReport
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return total, fmt.Errorf("find %s: %w", p, err)
		}
		found, err := findImages(h.FS(), abs)
		if err != nil {
			return total, err
		}
		for _, f := range found {
			r, err := loadOne(ctx, s, h, f, sink)
			total = plus(total, r)
			if err != nil {
				return total, fmt.Errorf("load %s: %w", f, err)
			}
		}
	}
	return total, nil
}

// findImages are the archives and layouts at a path: itself, or what a folder holds, whose names end like an
// archive's or that are OCI layouts.
func findImages(f host.FS, at string) ([]string, error) {
	fi, err := f.Stat(at)
	if err != nil {
		return nil, fmt.Errorf("find images: %w", err)
	}
	if fi.Type != host.TypeDir || isLayout(f, at) {
		return []string{at}, nil
	}
	entries, err := f.ReadDir(at)
	if err != nil {
		return nil, fmt.Errorf("find images: %w", err)
	}
	var out []string
	for _, e := range entries {
		if p := filepath.Join(at, filepath.Base(e.Path)); archiveName(p) || isLayout(f, p) {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds neither archives nor OCI layouts", at)
	}
	return out, nil
}

func isLayout(f host.FS, dir string) bool {
	_, err := f.Stat(filepath.Join(dir, "oci-layout"))
	return err == nil
}

func archiveName(p string) bool {
	for _, ext := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz"} {
		if strings.HasSuffix(p, ext) {
			return true
		}
	}
	return false
}

func plus(a, b mirror.LoadReport) mirror.LoadReport {
	a.Images = append(a.Images, b.Images...)
	a.Created = append(a.Created, b.Created...)
	a.Blobs += b.Blobs
	a.Bytes += b.Bytes
	return a
}

func loadOne(ctx context.Context, s *mirror.Store, h *local.Host, file string, sink progress.Sink) (mirror.LoadReport, error) {
	sink.Emit(progress.Event{Type: progress.StepStart, Step: file, Msg: "load " + file})
	src, err := preload.Open(ctx, h.FS(), file)
	if err != nil {
		sink.Emit(progress.Event{Type: progress.StepEnd, Step: file, Status: "failed", Msg: "load " + file})
		return mirror.LoadReport{}, err
	}
	defer src.Close()
	r, err := s.Load(ctx, src, mirror.LoadOptions{Progress: func(p mirror.Progress) {
		sink.Emit(progress.Event{Type: progress.StepProgress, Step: file, Done: p.Done, Total: p.Total})
	}})
	end := progress.Event{Type: progress.StepEnd, Step: file, Status: "ok", Msg: fmt.Sprintf("load %s  %s written", file, progress.Bytes(r.Bytes))}
	if err != nil {
		end.Status = "failed"
	}
	sink.Emit(end)
	return r, err
}
