package app

import (
	"context"
	"fmt"
	"io"

	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// FillRequest is what is brought into a cache from upstreams.
type FillRequest struct {
	Cache      string
	References []string
	Required   string // list with more of them; "-" is Stdin; empty: none
	Platforms  []string
	Upstreams  mirror.Upstreams
	From       string // URL of the mirror that all of it comes from; empty: the upstreams
	Stdin      io.Reader
}

// FillCache brings references completely into a cache while there is a network. It needs no node.
func FillCache(ctx context.Context, r FillRequest, sink progress.Sink) (mirror.FillReport, error) {
	refs, err := r.references()
	if err != nil {
		return mirror.FillReport{}, err
	}
	msg := fmt.Sprintf("fill %s with %d references", r.Cache, len(refs))
	if r.From != "" {
		if r.Upstreams.Named, err = through(r.From, r.Upstreams.Named, refs); err != nil {
			return mirror.FillReport{}, err
		}
		msg = fmt.Sprintf("load %d references from %s", len(refs), r.From)
	}
	s, err := mirror.Open(r.Cache, mirror.Options{Create: true})
	if err != nil {
		return mirror.FillReport{}, err
	}
	defer s.Close()
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
