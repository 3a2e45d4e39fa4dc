package check

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
)

func uniqueChecks() []Check {
	return []Check{
		{
			ID: "HST-04", Title: "the node's units are sound and come back when they fail", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:    "after power-on a unit failed some times, and nobody starts it again",
				Cause:   "Restart= is missing, or the limit of starts is reached while the unit waits for a clock, a disk or a network; a unit file was changed and never loaded",
				Look:    "the units of the distribution, containerd and the mirror: failed or not loaded now, Restart=, StartLimitBurst= within StartLimitIntervalSec= against RestartSec=. Whether they start at boot, and in which order, is COLD-01",
				Fix:     "Restart=always and StartLimitIntervalSec=0 in a drop-in: systemctl edit UNIT",
				Sources: []string{"systemd.service(5), Restart=", "systemd.unit(5), StartLimitIntervalSec="},
			},
			Run: runUnits,
		},
		{
			ID: "HST-05", Title: "this node is no copy of another one", Severity: SeverityFail, Scope: ScopeCluster,
			Story: Story{
				Seen:    "a second node replaces the first one in the cluster, or is rejected: \"Node password rejected, duplicate hostname\"",
				Cause:   "nodes made from one image share machine-id, SSH host keys, product UUID, iSCSI initiator or the distribution's own node password",
				Look:    "whether machine-id was made on this node; fingerprints of everything that must differ, to be compared between the results of all nodes: one node alone cannot tell",
				Fix:     "on the copy: rm /etc/machine-id && systemd-machine-id-setup, new SSH host keys, a new initiator name, remove the distribution's node password",
				Sources: []string{"machine-id(5)", "k3s-io/k3s#467, #532, #802, #6054", "rke2-docs: requirements.md"},
			},
			Run: runUnique,
		},
	}
}

func runUnits(ctx context.Context, e *Env) []Finding {
	if fs := e.withoutUnits(ctx); fs != nil {
		return fs
	}
	units := e.startUnits()
	if e.coldMirror(ctx).Unit != nil {
		units = append(units, deploy.UnitName)
	}
	var out []Finding
	for _, name := range units {
		u, err := e.Reader.Units().Unit(ctx, name)
		switch {
		case err != nil:
			out = append(out, couldNotRun(name, err))
			continue
		case !u.Exists() || u.Load == "masked": // COLD-01 says so
			continue
		case u.Active == "failed":
			out = append(out, Finding{Status: StatusFail, Subject: name, Expected: "running", Observed: "failed", Source: "systemctl status " + name, Remedy: Remedy{Command: "journalctl -u " + name + " -n 50"}})
		case u.NeedsReload:
			out = append(out, Finding{Status: StatusWarn, Subject: name, Expected: "loaded as its files are", Observed: "its files changed since systemd read them: the next boot is the first that obeys them",
				Source: u.Fragment, Remedy: Remedy{Command: "systemctl daemon-reload && systemctl restart " + name}})
		}
		if f, ok := e.restarts(name, append([]string{u.Fragment}, u.DropIns...)); ok && u.Fragment != "" {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return []Finding{pass("units", strings.Join(units, ", ")+": none failed, and they are started again", "systemctl show")}
	}
	return out
}

// restarts says whether a unit stays down after it failed. systemd's defaults: RestartSec=100ms, five starts
// within 10 s.
func (e *Env) restarts(name string, files []string) (Finding, bool) {
	var all []configLine
	for _, f := range files {
		if f != "" {
			all = append(all, configLines(e.Reader.FS(), f)...)
		}
	}
	if len(all) == 0 {
		return Finding{}, false
	}
	f := Finding{Status: StatusWarn, Subject: name, Expected: "started again whenever it fails", Source: files[0],
		Remedy: Remedy{Text: "in a drop-in: [Unit] StartLimitIntervalSec=0 and [Service] Restart=always, RestartSec=5", Command: "systemctl edit " + name}}
	restart, _, ok := lastValue(all, "Restart")
	if !ok || restart == "no" {
		f.Observed = "no Restart=: once failed it stays down"
		return f, true
	}
	interval, burst, pause := unitSeconds(all, 10, "StartLimitIntervalSec", "StartLimitInterval"), 5.0, unitSeconds(all, 0.1, "RestartSec")
	if n, _, ok := lastValue(all, "StartLimitBurst"); ok {
		burst = seconds(n, burst)
	}
	if interval > 0 && burst > 0 && pause*burst < interval {
		f.Observed = "it is started at most " + trimFloat(burst) + " times within " + trimFloat(interval) + " s, and then stays down"
		return f, true
	}
	return Finding{}, false
}

func runUnique(_ context.Context, e *Env) []Finding {
	f := e.Reader.FS()
	var out []Finding
	id, _ := readText(f, "/etc/machine-id")
	id = strings.TrimSpace(id)
	bad := Finding{Status: StatusFail, Subject: "machine-id", Expected: "32 hexadecimal digits of its own", Source: "/etc/machine-id", Remedy: Remedy{Command: "rm -f /etc/machine-id && systemd-machine-id-setup"}}
	switch {
	case id == "uninitialized" || id == "" && !e.memo.facts.Live:
		out = append(out, pass("machine-id", "made at the first boot", "/etc/machine-id"))
	case len(id) != 32 || strings.Trim(id, "0") == "" || strings.Trim(strings.ToLower(id), "0123456789abcdef") != "":
		bad.Observed = "none"
		if id != "" {
			bad.Observed = "not one: " + id[:min(len(id), 40)]
		}
		out = append(out, bad)
	default:
		out = append(out, pass("machine-id", id, "/etc/machine-id"))
	}
	out = append(out, e.fingerprints()...)
	if len(e.Site.Nodes) > 1 {
		out = append(out, deferred("the other nodes", "one node cannot tell whether another one shares these: compare the results of all "+plural(len(e.Site.Nodes), "node")))
	}
	return out
}

// fingerprints are what must differ between nodes; of secrets a short hash.
func (e *Env) fingerprints() []Finding {
	f := e.Reader.FS()
	var out []Finding
	keys, _ := glob(f, "/etc/ssh/ssh_host_*_key.pub")
	for _, k := range keys {
		content, _ := readText(f, k)
		if w := strings.Fields(content); len(w) > 1 {
			if raw, err := base64.StdEncoding.DecodeString(w[1]); err == nil {
				sum := sha256.Sum256(raw)
				out = append(out, pass(path.Base(k), "SHA256:"+base64.RawStdEncoding.EncodeToString(sum[:]), k))
			}
		}
	}
	for _, p := range append([]string{"/sys/class/dmi/id/product_uuid", "/etc/iscsi/initiatorname.iscsi"}, e.Node.Identity...) {
		data, err := f.ReadFile(p, maxText)
		switch {
		case errors.Is(err, fs.ErrPermission):
			out = append(out, skip(p, "readable by root only"))
		case err == nil && len(data) > 0:
			sum := sha256.Sum256(data)
			out = append(out, pass(p, "sha256 "+hex.EncodeToString(sum[:6])+"...", p))
		}
	}
	return out
}

// unitSeconds is the last of some directives that mean a time; systemd.time(7) in seconds, "5s" or "1min".
func unitSeconds(all []configLine, fallback float64, keys ...string) float64 {
	for _, k := range keys {
		if v, _, ok := lastValue(all, k); ok {
			return seconds(v, fallback)
		}
	}
	return fallback
}

func seconds(s string, fallback float64) float64 {
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return n
	}
	if s == "infinity" {
		return math.Inf(1)
	}
	if d, err := time.ParseDuration(strings.ReplaceAll(strings.ReplaceAll(s, "min", "m"), " ", "")); err == nil {
		return d.Seconds()
	}
	return fallback
}

func trimFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
