package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/redact"
	"github.com/edgeprep/edgeprep/internal/support"
)

// SupportDir is where bundles go that are given no name, on this machine.
const SupportDir = plan.StateDir + "/support"

const (
	supportStep = time.Minute // for each part that asks somebody
	supportLogs = 10          // runs of which logs and journals are taken
)

// SupportReport says what a bundle holds.
type SupportReport struct {
	File    string          `json:"file"`
	Size    int64           `json:"size"`
	Entries []support.Entry `json:"entries"`
}

// SupportBundle writes what somebody who helps from afar needs to see, without secrets. With "" the file is named by
// node and time in SupportDir. It changes nothing else, and sends nothing.
func (a *App) SupportBundle(ctx context.Context, out string) (r SupportReport, err error) {
	now := time.Now().UTC()
	name := "edgeprep-support-" + a.supportName(ctx) + "-" + now.Format("20060102T150405Z")
	if out == "" {
		out = filepath.Join(SupportDir, name+".tar.zst")
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o700); err != nil {
		return r, fmt.Errorf("support bundle: %w; name another place with --out FILE", err)
	}
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return r, fmt.Errorf("support bundle: %w; name another place with --out FILE", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			err = errors.Join(err, os.Remove(out))
		}
	}()
	c := &collector{App: a, secrets: a.secrets(), seen: map[string]bool{}}
	gz := strings.HasSuffix(out, ".gz") || strings.HasSuffix(out, ".tgz")
	if c.Bundle, err = support.New(f, support.Options{Name: name, Gzip: gz, Time: now, Redactor: c.secrets}); err != nil {
		return r, err
	}
	c.all(ctx)
	if err := errors.Join(c.Bundle.Close(), context.Cause(ctx), f.Sync()); err != nil {
		return r, err
	}
	r.File, r.Entries = out, c.Entries()
	if fi, err := f.Stat(); err == nil {
		r.Size = fi.Size()
	}
	return r, nil
}

func (a *App) supportName(ctx context.Context) string {
	f, err := a.reader.Facts(ctx)
	if err != nil || f.Hostname == "" {
		return "node"
	}
	return regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(f.Hostname, "_")
}

// collector brings a bundle together. Whatever cannot be had is named in it, and stops nothing.
type collector struct {
	*App
	*support.Bundle
	secrets *redact.Redactor
	seen    map[string]bool // node paths that are in already
}

func (c *collector) all(ctx context.Context) {
	node, err := c.Detect(ctx)
	files := c.setUp(node)
	for _, p := range append(c.unitFiles(ctx, node), files...) { // before anything is written
		if data, _, err := c.readPart(p, c.MaxFile(), support.Head); err == nil {
			c.secrets.Learn(string(data))
		}
	}
	c.about(ctx)
	if err != nil {
		c.Missing("about/detect.json", "edgeprep detect", err.Error())
	} else {
		c.JSON("about/detect.json", "edgeprep detect", node)
		c.Text("config/"+node.ID+".descriptor.toml", "descriptor "+node.ID, c.DescriptorSource(node.ID), support.Head, 0)
	}
	c.configuration()
	c.results(ctx)
	c.state()
	c.units(ctx, node)
	for _, p := range files {
		c.onNode(p)
	}
	c.mirror(ctx)
	c.system(node)
}

func (c *collector) about(ctx context.Context) {
	c.Text("about/version.txt", "edgeprep version", []byte(fmt.Sprintf("edgeprep %s\n%s %s/%s\n", c.opts.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)), support.Head, 0)
	f, err := c.reader.Facts(ctx)
	if err != nil {
		c.Missing("about/node.json", "the node", err.Error())
		return
	}
	c.JSON("about/node.json", "the node", f)
}

func (c *collector) configuration() {
	data, err := c.readConfig()
	c.Add("config/edgeprep.toml", c.ConfigName(), data, err, support.Head)
	site, err := c.Site()
	if err != nil {
		c.Missing("config/problems.txt", "edgeprep validate", err.Error())
		return
	}
	if site.Images.Required != "" {
		c.file("config/required.txt", site.Images.Required, support.Head)
	}
	for i, p := range c.newest(site.Checklist.Out, ".json", 3) {
		c.file(fmt.Sprintf("results/kept-%d-%s", i+1, path.Base(p)), p, support.Head)
	}
}

// results are those of the commands that change nothing.
func (c *collector) results(ctx context.Context) {
	c.step(ctx, "results/status.json", "edgeprep status", func(ctx context.Context) (any, error) { return c.Status(ctx) })
	c.step(ctx, "results/plan.json", "edgeprep plan", func(ctx context.Context) (any, error) { return c.Plan(ctx, ApplyOptions{}) })
	c.step(ctx, "results/check.json", "edgeprep check", func(ctx context.Context) (any, error) { return c.Check(ctx, CheckOptions{}) })
}

func (c *collector) step(ctx context.Context, name, source string, f func(context.Context) (any, error)) {
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, supportStep)
	defer cancel()
	v, err := f(ctx)
	if err != nil {
		c.Missing(name, source, err.Error())
		return
	}
	c.JSON(name, source, v)
}

// state is what runs left behind; the bytes of files before they were changed (backups) stay on the node.
func (c *collector) state() {
	c.file("state/ledger.json", plan.LedgerPath, support.Head)
	c.file("state/result.json", apply.ResultPath, support.Head)
	for _, d := range []struct{ name, dir string }{{"state/journal/", plan.JournalDir}, {"logs/apply/", logDir}} {
		for _, p := range c.newest(d.dir, ".jsonl", supportLogs) {
			c.file(d.name+path.Base(p), p, support.Tail)
		}
	}
}

// setUp are the files that say how the node is set up: those that told what it is, registries configuration, and those
// that edgeprep wrote.
func (a *App) setUp(n distro.Node) []string {
	var out []string
	for _, e := range n.Evidence {
		if p, _, _ := strings.Cut(e.Source, ":"); path.IsAbs(p) && !strings.Contains(p, " ") {
			out = append(out, p)
		}
	}
	out = append(out, n.Registries.File, n.Registries.DropIn, n.Runtime.Config)
	for _, dir := range []string{n.Registries.CertsD, n.Runtime.CertsD} {
		list, err := a.reader.FS().ReadDir(dir)
		for _, e := range list {
			if err == nil && e.Type == host.TypeDir {
				out = append(out, path.Join(dir, path.Base(e.Path), "hosts.toml"))
			}
		}
	}
	l, err := plan.ReadLedger(a.reader.FS())
	for _, rec := range l.Records {
		if err == nil && rec.State.Type == host.TypeFile && rec.State.Size < support.DefaultMaxFile && rec.State.Mode&0o004 != 0 {
			out = append(out, rec.Path)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// onNode adds a file of the node under its path. One that only its owner may read is secret as a whole.
func (c *collector) onNode(p string) {
	if p == "" || c.seen[p] {
		return
	}
	c.seen[p] = true
	fi, err := c.reader.FS().Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && fi.Type != host.TypeFile:
		return
	case err == nil && strings.HasSuffix(p, ".pem"), err == nil && strings.HasSuffix(p, ".key"), strings.HasPrefix(p, deploy.FilesDir+"/"):
		c.Missing("files"+p, p, "not shown: it may be a secret as a whole")
		return
	}
	c.file("files"+p, p, support.Head)
}

// system is what the kernel and the operating system say.
func (c *collector) system(n distro.Node) {
	for _, p := range []string{"/etc/os-release", "/etc/resolv.conf", "/etc/hosts", "/etc/fstab"} {
		c.onNode(p)
	}
	if live(c.opts.Root) {
		for _, p := range []string{"version", "cmdline", "uptime", "loadavg", "meminfo", "mounts", "swaps", "modules", "net/route", "net/ipv6_route", "net/dev"} {
			data, err := readHere(filepath.Join("/proc", p))
			c.Add("system/"+strings.ReplaceAll(p, "/", "-")+".txt", "/proc/"+p, data, err, support.Head)
		}
	}
	spaces := map[string]any{}
	for _, p := range []string{"/", "/var", plan.StateDir, "/run", n.DataDir, n.Runtime.Endpoint.Root} {
		if p == "" {
			continue
		}
		if s, err := c.reader.FS().Space(p); err == nil {
			spaces[p] = s
		}
	}
	c.JSON("system/space.json", "statfs", spaces)
}

// file adds a file of the node, as much of it as a bundle takes.
func (c *collector) file(name, p string, keep support.Keep) {
	data, cut, err := c.readPart(p, c.MaxFile(), keep)
	if err != nil {
		c.Missing(name, p, err.Error())
		return
	}
	c.Text(name, p, data, keep, cut)
}

// newest are the last n files of a directory, by name, whose names end so.
func (a *App) newest(dir, suffix string, n int) []string {
	list, err := a.reader.FS().ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range list {
		if e.Type == host.TypeFile && strings.HasSuffix(e.Path, suffix) {
			out = append(out, path.Join(dir, path.Base(e.Path)))
		}
	}
	slices.Sort(out)
	return out[max(0, len(out)-n):]
}
