package progress

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func clock() func() time.Time {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time { at = at.Add(6 * time.Second); return at }
}

func TestTextWithoutTerminalHasLinesAndHeartbeats(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := NewStream("r1", "n1", clock(), NewText(&out, TextOptions{}))
	s.Emit(Event{Type: StepStart, Step: "a", Msg: "place cni.tar"})
	for i := range int64(5) {
		s.Emit(Event{Type: StepProgress, Step: "a", Done: i * 10 << 20, Total: 100 << 20})
	}
	s.Emit(Event{Type: StepEnd, Step: "a", Status: "ok"})
	want := "place cni.tar  10%  10.0 MiB/100.0 MiB  853.3 KiB/s  1m48s left\n" +
		"place cni.tar  30%  30.0 MiB/100.0 MiB  1.2 MiB/s  56s left\n" +
		"ok       place cni.tar  (36s)\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if strings.ContainsAny(out.String(), "\r\x1b") {
		t.Error("control characters without a terminal")
	}
}

func TestTextOnTerminalRedrawsOneLineAndCleansUp(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := NewStream("r1", "n1", clock(), NewText(&out, TextOptions{Live: true, Width: 20}))
	s.Emit(Event{Type: StepStart, Step: "a", Msg: strings.Repeat("x", 50)})
	s.Emit(Event{Type: StepEnd, Step: "a", Status: "failed", Msg: strings.Repeat("x", 50) + " no"})
	if got := out.String(); got != "\r"+strings.Repeat("x", 19)+"\r"+strings.Repeat(" ", 19)+"\rfailed   "+strings.Repeat("x", 50)+" no  (6s)\n" {
		t.Errorf("%q", got)
	}
}

func TestEndSaysWhatAndWhy(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := NewStream("r1", "n1", nil, NewText(&out, TextOptions{}))
	s.Emit(Event{Type: StepStart, Step: "a", Msg: "delete /srv/cache"})
	s.Emit(Event{Type: StepEnd, Step: "a", Status: "kept", Msg: "not empty"})
	if out.String() != "kept     delete /srv/cache: not empty\n" {
		t.Errorf("%q", out.String())
	}
}

func TestQuietShowsWhatFailed(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := NewStream("r1", "n1", clock(), NewText(&out, TextOptions{Quiet: true, Live: true}))
	s.Emit(Event{Type: StepStart, Step: "a", Msg: "a"})
	s.Emit(Event{Type: StepEnd, Step: "a", Status: "ok"})
	s.Emit(Event{Type: StepEnd, Step: "b", Status: "failed", Msg: "b broke"})
	if out.String() != "failed   b broke\n" {
		t.Errorf("%q", out.String())
	}
}

type brokenWriter struct{ n int }

func (b *brokenWriter) Write([]byte) (int, error) { b.n++; return 0, errors.New("reader left") }

func TestJSONLinesCarriesSchemaAndStopsWhenTheReaderLeft(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	NewStream("r1", "n1", clock(), NewJSONLines(&out)).Emit(Event{Type: RunStart})
	var e Event
	if err := json.Unmarshal(out.Bytes(), &e); err != nil || e.Schema != Schema || e.Run != "r1" || e.Seq != 1 {
		t.Errorf("%v %+v", err, e)
	}
	w := &brokenWriter{}
	j := NewJSONLines(w)
	j.Emit(Event{})
	j.Emit(Event{})
	if w.n != 1 || j.Err() == nil {
		t.Errorf("%d writes, error %v", w.n, j.Err())
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 30: "1.0 GiB", 5 << 50: "5120.0 TiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}
