package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/support"
)

const (
	journalLines   = "2000" // of each unit
	journalTimeout = 20 * time.Second
)

// units are the states, files and journals of the units that matter: the distribution's, its runtime's, edgeprep's.
func (c *collector) units(ctx context.Context, n distro.Node) {
	var states []host.Unit
	for _, name := range unitNames(n) {
		u, err := c.reader.Units().Unit(ctx, name)
		if err != nil {
			c.Missing("units/"+name, name, err.Error())
			continue
		}
		states = append(states, u)
		if !u.Exists() {
			continue
		}
		for _, p := range append([]string{u.Fragment}, u.DropIns...) {
			c.onNode(p)
		}
		if live(c.opts.Root) {
			text, err := journal(ctx, name)
			c.Add("logs/"+name+".txt", "journalctl -u "+name, text, err, support.Tail)
		}
	}
	c.JSON("units/states.json", "systemd", states)
}

// unitNames are the units that matter, each once.
func unitNames(n distro.Node) []string {
	names := append(slices.Clone(n.Units), n.Runtime.Unit, deploy.UnitName, deploy.ApplyUnit, deploy.CheckUnit)
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

// unitFiles are the files of the units: what stands in their environments a program may have told its journal.
func (c *collector) unitFiles(ctx context.Context, n distro.Node) []string {
	var out []string
	for _, name := range unitNames(n) {
		if u, err := c.reader.Units().Unit(ctx, name); err == nil && u.Exists() {
			out = append(append(out, u.Fragment), u.DropIns...)
		}
	}
	return out
}

// journal are the last lines of a unit.
func journal(ctx context.Context, unit string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "journalctl", "--no-pager", "-q", "-o", "short-iso", "-n", journalLines, "-u", unit) //nolint:gosec // a name of ours or of a descriptor
	cmd.WaitDelay = time.Second
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("journalctl: %w: %s", err, strings.TrimSpace(complaints.String()))
	}
	return bytes.ToValidUTF8(bytes.ReplaceAll(out, []byte{0}, nil), []byte("?")), nil
}

// mirror is how the mirror does, what it was asked for in vain, and what its cache holds, without a blob.
func (c *collector) mirror(ctx context.Context) {
	site, err := c.Site()
	if err != nil {
		return // said beside the configuration
	}
	if live(c.opts.Root) {
		admin := mirror.AdminClient(adminPath(site))
		h, err := admin.Health(ctx)
		if err != nil {
			c.Missing("mirror/health.json", "admin socket", err.Error())
		} else {
			c.JSON("mirror/health.json", "admin socket", h)
			numbers, err := admin.Metrics(ctx)
			c.Add("mirror/metrics.txt", "admin socket", numbers, err, support.Head)
		}
		if misses, err := admin.Misses(ctx, ""); err == nil {
			c.JSON("mirror/misses.json", "admin socket", misses)
		}
	}
	c.cache(ctx, site.Mirror.Cache)
}

func (c *collector) cache(ctx context.Context, dir string) {
	const name = "mirror/cache.txt"
	ctx, cancel := context.WithTimeout(ctx, supportStep)
	defer cancel()
	real, err := c.host.RealPath(dir)
	if err != nil {
		c.Missing(name, dir, err.Error())
		return
	}
	s, err := mirror.Open(real, mirror.Options{ReadOnly: true})
	if err != nil {
		c.Missing(name, dir, err.Error())
		return
	}
	list, err := s.List(ctx)
	var b bytes.Buffer
	writeReferences(&b, list)
	c.Add(name, dir, b.Bytes(), errors.Join(err, s.Close()), support.Head)
}

func writeReferences(w io.Writer, list []mirror.Entry) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, e := range list {
		fmt.Fprintf(tw, "%s\t%s\t%d\n", e.Reference, e.Digest, e.Size)
	}
	_ = tw.Flush() // into memory
}
