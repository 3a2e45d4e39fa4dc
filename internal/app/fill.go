package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// FillRequest is what is brought into a cache from upstreams.
type FillRequest struct {
	Cache      string
	References []string
	Required   string // file with more of them; empty: none
	Platforms  []string
	Upstreams  mirror.Upstreams
}

// FillCache brings references completely into a cache while there is a network. It needs no node.
func FillCache(ctx context.Context, r FillRequest, sink progress.Sink) (mirror.FillReport, error) {
	refs, err := r.references()
	if err != nil {
		return mirror.FillReport{}, err
	}
	s, err := mirror.Open(r.Cache, mirror.Options{Create: true})
	if err != nil {
		return mirror.FillReport{}, err
	}
	defer s.Close()
	msg := fmt.Sprintf("fill %s with %d references", r.Cache, len(refs))
	const step = "fill"
	sink.Emit(progress.Event{Type: progress.StepStart, Step: step, Msg: msg})
	out, err := mirror.Fill(ctx, s, r.Upstreams, refs, mirror.FillOptions{Platforms: r.Platforms, Progress: func(p mirror.Progress) {
		sink.Emit(progress.Event{Type: progress.StepProgress, Step: step, Done: p.Done, Total: p.Total})
	}})
	end := progress.Event{Type: progress.StepEnd, Step: step, Status: "ok", Msg: msg + "  " + progress.Bytes(out.Bytes) + " pulled"}
	if err != nil {
		end.Status = "failed"
	}
	sink.Emit(end)
	return out, err
}

// references are those of the command line and of the required file.
func (r FillRequest) references() ([]mirror.Reference, error) {
	names := r.References
	if r.Required != "" {
		h, err := local.New(local.Options{})
		if err != nil {
			return nil, fmt.Errorf("open this machine: %w", err)
		}
		file, err := filepath.Abs(r.Required)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", r.Required, err)
		}
		refs, err := preload.ReadRequired(h.FS(), file)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			names = append(names, ref.String())
		}
	}
	var out []mirror.Reference
	seen := map[string]bool{}
	for _, n := range names {
		ref, err := mirror.ParseReference(n)
		if err != nil {
			return nil, err
		}
		if !seen[ref.String()] {
			seen[ref.String()] = true
			out = append(out, ref)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("nothing to fill with: name references or a --required file")
	}
	return out, nil
}
