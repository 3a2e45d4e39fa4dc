// Command mirrorbench measures edgeprep's mirror against nginx and the distribution registry, in one run, and
// says for each figure whether it meets its aim:
//
//	mirrorbench -short                      a few minutes, prints the table
//	mirrorbench -write docs/benchmarks.md   also writes it into the document, between its markers
//
// All servers are child processes on this machine and get their turns one after the other, forth and back;
// figures are medians. Bodies are thrown away inside the kernel, so that the client costs little.
package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/test/binaries"
)

// bench is one run.
type bench struct {
	dir      string
	programs programs
	img      *image
	rounds   int
	round    time.Duration
	many     int // manifests of the row about the start
	say      func(format string, args ...any)
}

func (b *bench) kinds() []kind {
	var out []kind
	for _, k := range []kind{nginx, ours, distribution} {
		if b.programs.has(k) {
			out = append(out, k)
		}
	}
	return out
}

// part is a group of rows that are measured together.
type part struct {
	name string
	run  func(*bench, context.Context) ([]row, error)
}

func parts() []part {
	return []part{
		{"blobs", (*bench).warmBlobs}, {"manifests", (*bench).manifests}, {"fast", (*bench).coldFast}, {"link", (*bench).coldLink},
		{"many", (*bench).coldMany}, {"offline", (*bench).offline}, {"hit", (*bench).costOfHit}, {"start", (*bench).startup},
	}
}

type options struct {
	edgeprep, registry, parts, write, dir string
	short                                 bool
	rounds                                int
}

func main() {
	var o options
	flag.StringVar(&o.edgeprep, "edgeprep", "bin/edgeprep", "the program to measure")
	flag.StringVar(&o.registry, "registry", "", "distribution's registry program (default: the one that go run ./test/build -what distribution made)")
	flag.StringVar(&o.parts, "parts", "", "only these, by comma: blobs manifests fast link many offline hit start")
	flag.StringVar(&o.write, "write", "", "document that the table is written into")
	flag.StringVar(&o.dir, "dir", "", "folder for 1 GB of files (default: a new one below /var/tmp)")
	flag.BoolVar(&o.short, "short", false, "shorter and fewer rounds: the figures are less certain")
	flag.IntVar(&o.rounds, "rounds", 0, "rounds (default 7, short 3)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mirrorbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	root, err := binaries.Root()
	if err != nil {
		return err
	}
	if o.registry == "" {
		o.registry = builtRegistry(root)
	}
	p, err := find(o.edgeprep, o.registry)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cmp.Or(o.dir, "/var/tmp"), "mirrorbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, programs: p, rounds: 7, round: 2 * time.Second, many: 10000,
		say: func(f string, args ...any) { fmt.Fprintf(os.Stderr, f+"\n", args...) }}
	if o.short {
		b.rounds, b.round = 3, 700*time.Millisecond
	}
	if o.rounds > 0 {
		b.rounds = o.rounds
	}
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	if b.img, err = makeImage(files, []int64{150e6, 24e6, 10e6, 4e6, 2e6}); err != nil {
		return err
	}
	load := loadAverage()
	before, err := b.quiet()
	if err != nil {
		return err
	}
	rows, err := b.measure(ctx, o.parts)
	if err != nil {
		return err
	}
	after, err := machineActivity()
	if err != nil {
		return err
	}
	text := b.heading(ctx, o, load)
	if d := doubts(before, after); d != "" {
		text += "\n" + d + "\n"
		b.say("%s", d)
	}
	text += "\n" + table(rows)
	fmt.Fprint(os.Stdout, text)
	if o.write == "" {
		return nil
	}
	return replace(o.write, text)
}

// quiet says at once when others are using the machine, and gives what it has done so far.
func (b *bench) quiet() (activity, error) {
	before, err := machineActivity()
	if err != nil {
		return before, err
	}
	time.Sleep(time.Second)
	now, err := machineActivity()
	if d := doubts(before, now); d != "" {
		b.say("before anything is measured: %s", d)
	}
	return now, err
}

func (b *bench) measure(ctx context.Context, only string) ([]row, error) {
	var rows []row
	for _, p := range parts() {
		if only != "" && !strings.Contains(","+only+",", ","+p.name+",") {
			continue
		}
		b.say("== %s", p.name)
		r, err := p.run(b, ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		for _, r := range r {
			b.say("%s: %s (aim %s) %s; %s", r.what, r.measured, r.aim, r.verdict, r.others)
		}
		rows = append(rows, r...)
	}
	return rows, nil
}

// heading says what was measured, where and how.
func (b *bench) heading(ctx context.Context, o options, load string) string {
	args := "make bench-mirror"
	if o.short {
		args += " SHORT=1"
	}
	if o.parts != "" {
		args += " PARTS=" + o.parts
	}
	var u unix.Utsname
	unix.Uname(&u) // its name is only told
	return fmt.Sprintf("Command: `%s`, on %s; %s. %d rounds of %s.\n"+
		"Machine: %s, %d cores, %s; Linux %s; %s. Load average at the start %s, at the end %s.\n"+
		"Against nginx %s and distribution %s, all on loopback; the image has %.0f MB, its largest layer %.0f MB.\n"+
		"Client of manifests: %s.\n",
		args, time.Now().UTC().Format("2006-01-02 15:04 UTC"), firstLine(ctx, b.programs.edgeprep[0], "version"), b.rounds, b.round,
		grep("/proc/cpuinfo", "model name"), runtime.NumCPU(), grep("/proc/meminfo", "MemTotal"), unix.ByteSliceToString(u.Release[:]), runtime.Version(),
		load, loadAverage(), lastWord(firstLine(ctx, b.programs.nginx, "-v"), "/"), lastWord(firstLine(ctx, b.programs.distribution, "--version"), " "),
		float64(b.img.size())/1e6, float64(b.img.blobs[1].size)/1e6, b.manifestClient(ctx))
}

// manifestClient is who asks for manifests: it shares the cores with the servers, so it counts.
func (b *bench) manifestClient(ctx context.Context) string {
	if b.programs.wrk == "" {
		return "this program, one thread; wrk costs the servers' cores less: apt-get install wrk"
	}
	out, err := exec.CommandContext(ctx, b.programs.wrk, "-v").CombinedOutput()
	f := strings.Fields(string(out)) // it says its name and version, and ends with 1
	if len(f) < 2 {
		return fmt.Sprintf("wrk, one thread (%v)", err)
	}
	return strings.Join(f[:2], " ") + ", one thread"
}

func firstLine(ctx context.Context, program, arg string) string {
	if program == "" {
		return "(not measured)"
	}
	out, err := exec.CommandContext(ctx, program, arg).CombinedOutput()
	if err != nil {
		return "(unknown)"
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return string(line)
}

// lastWord is the version at the end of what a program says of itself.
func lastWord(s, sep string) string { return s[strings.LastIndex(s, sep)+1:] }

func grep(path, key string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

// builtRegistry is distribution's program, if it was built.
func builtRegistry(root string) string {
	t, err := binaries.Lookup("distribution")
	if err != nil {
		return ""
	}
	dir, err := t.Find(root)
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "registry")
}
