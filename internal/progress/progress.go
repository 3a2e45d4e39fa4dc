// Package progress carries what happens during long work to whoever shows or records it. The engine emits
// events and knows nothing of terminals; the text printer, the JSON Lines writer and the TUI are readers of
// the same stream.
package progress

import (
	"cmp"
	"encoding/json"
	"sync"
	"time"
)

// Type is the kind of an event.
type Type string

// The event types of schema 1. Readers ignore types and fields that they do not know.
const (
	RunStart     Type = "run.start"
	RunEnd       Type = "run.end"
	StepStart    Type = "step.start"
	StepProgress Type = "step.progress"
	StepEnd      Type = "step.end"
	CheckResult  Type = "check.result"
	Log          Type = "log"
)

// Schema is the version of the event stream, carried by run.start.
const Schema = 1

// Event is one record of the stream.
type Event struct {
	Time   time.Time       `json:"ts"`
	Type   Type            `json:"type"`
	Schema int             `json:"schema,omitempty"`
	Run    string          `json:"run,omitempty"`
	Node   string          `json:"node,omitempty"`
	Seq    uint64          `json:"seq"`
	Step   string          `json:"step,omitempty"`   // resource or check id
	Status string          `json:"status,omitempty"` // "ok", "failed", "skipped", "pending"
	Msg    string          `json:"msg,omitempty"`
	Done   int64           `json:"done,omitempty"`  // bytes
	Total  int64           `json:"total,omitempty"` // bytes
	Data   json.RawMessage `json:"data,omitempty"`
}

// Sink takes events. Emit does not block for long and is safe for concurrent use.
type Sink interface {
	Emit(Event)
}

// Discard drops every event.
type Discard struct{}

// Emit does nothing.
func (Discard) Emit(Event) {}

// Func is a Sink made of a function.
type Func func(Event)

// Emit calls f.
func (f Func) Emit(e Event) { f(e) }

// Stream stamps time, run, node and sequence number on events and hands them to its sinks in order.
type Stream struct {
	mu    sync.Mutex
	seq   uint64
	run   string
	node  string
	now   func() time.Time
	sinks []Sink
}

// NewStream makes a stream; now nil is time.Now. Without a run or node it takes those of the run.start event.
func NewStream(run, node string, now func() time.Time, sinks ...Sink) *Stream {
	if now == nil {
		now = time.Now
	}
	return &Stream{run: run, node: node, now: now, sinks: sinks}
}

// Emit implements Sink.
func (s *Stream) Emit(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	if e.Type == RunStart {
		s.run, s.node = cmp.Or(s.run, e.Run), cmp.Or(s.node, e.Node)
	}
	e.Seq, e.Run, e.Node = s.seq, s.run, s.node
	if e.Time.IsZero() {
		e.Time = s.now().UTC()
	}
	if e.Type == RunStart {
		e.Schema = Schema
	}
	for _, k := range s.sinks {
		k.Emit(e)
	}
}
