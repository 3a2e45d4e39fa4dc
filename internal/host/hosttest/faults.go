package hosttest

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Call is a recorded call: "files.Write" with the path, "units.Restart" with the unit, "runtime.Import".
type Call struct {
	Op   string
	Args []string
}

func (c Call) String() string { return strings.TrimSpace(c.Op + " " + strings.Join(c.Args, " ")) }

// Faults records calls and makes some of them fail.
type Faults struct {
	mu    sync.Mutex
	calls []Call
	count map[string]int
	fail  map[string]map[int]error
}

// FailOn makes the n-th call (from 1, counted from the start) of an operation fail with err before it does
// anything; n 0 makes every one fail. "files.Write /etc/x" is the operation on that path only.
func (f *Faults) FailOn(op string, n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		f.fail = map[string]map[int]error{}
	}
	if f.fail[op] == nil {
		f.fail[op] = map[int]error{}
	}
	f.fail[op][n] = err
}

// ClearFaults lets everything work again.
func (f *Faults) ClearFaults() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = nil
}

// Calls are the calls so far whose operation begins with prefix.
func (f *Faults) Calls(prefix string) []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Call
	for _, c := range f.calls {
		if strings.HasPrefix(c.Op, prefix) {
			out = append(out, c)
		}
	}
	return out
}

// CallLog is Calls as text, one a line.
func (f *Faults) CallLog(prefix string) string {
	var b strings.Builder
	for _, c := range f.Calls(prefix) {
		b.WriteString(c.String() + "\n")
	}
	return b.String()
}

// ResetCalls forgets the calls so far.
func (f *Faults) ResetCalls() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.count = nil, nil
}

func (f *Faults) call(op string, args ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == nil {
		f.count = map[string]int{}
	}
	f.calls = append(f.calls, Call{op, slices.Clone(args)})
	keys := []string{op}
	if len(args) > 0 {
		keys = append(keys, op+" "+args[0])
	}
	var failed error
	for _, k := range keys {
		f.count[k]++
		if err := f.fail[k][f.count[k]]; err != nil {
			failed = err
		} else if err := f.fail[k][0]; err != nil {
			failed = err
		}
	}
	return failed
}

// files is a writer with faults in front.
type files struct {
	*Faults
	w host.FileWriter
}

func (f *files) Write(ctx context.Context, path string, content []byte, m host.Meta) error {
	if err := f.call("files.Write", path); err != nil {
		return err
	}
	return f.w.Write(ctx, path, content, m)
}

func (f *files) Append(ctx context.Context, path string, content []byte, m host.Meta) error {
	if err := f.call("files.Append", path); err != nil {
		return err
	}
	return f.w.Append(ctx, path, content, m)
}

func (f *files) Place(ctx context.Context, src, dst string, opts host.PlaceOptions) (host.PlaceResult, error) {
	if err := f.call("files.Place", dst, src); err != nil {
		return host.PlaceResult{}, err
	}
	return f.w.Place(ctx, src, dst, opts)
}

func (f *files) Mkdir(ctx context.Context, path string, m host.Meta) error {
	if err := f.call("files.Mkdir", path); err != nil {
		return err
	}
	return f.w.Mkdir(ctx, path, m)
}

func (f *files) Symlink(ctx context.Context, path, target string) error {
	if err := f.call("files.Symlink", path, target); err != nil {
		return err
	}
	return f.w.Symlink(ctx, path, target)
}

func (f *files) Remove(ctx context.Context, path string) error {
	if err := f.call("files.Remove", path); err != nil {
		return err
	}
	return f.w.Remove(ctx, path)
}

func (f *files) SetMeta(ctx context.Context, path string, m host.Meta) error {
	if err := f.call("files.SetMeta", path); err != nil {
		return err
	}
	return f.w.SetMeta(ctx, path, m)
}

func (f *files) Lock(ctx context.Context, path, what string, wait time.Duration) (func() error, error) {
	if err := f.call("files.Lock", path); err != nil {
		return nil, err
	}
	return f.w.Lock(ctx, path, what, wait)
}

func itoa(n int) string { return strconv.Itoa(n) }
