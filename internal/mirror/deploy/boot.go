package deploy

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/resource"
)

// The units that make a node prepare itself. Like every unit of edgeprep they are not called k3s* or rke2-*.
const (
	ApplyUnit   = "edgeprep-apply.service"
	CheckUnit   = "edgeprep-check.service"
	bootDropIn  = "20-edgeprep-apply.conf"
	checkWithin = "15m" // RKE2 imports large archives for minutes at its first start: rancher/rke2#5557
)

// Boot is what makes a node prepare itself at every start: a unit that runs apply before the distribution, and
// one that runs the checklist once the distribution is there.
type Boot struct {
	Units    []string // of the distribution, that wait for apply; they need not exist yet
	Runtime  string   // containerd's unit, when the distribution does not run it: apply talks to it
	Degraded bool     // the distribution starts also when apply failed
	Binary   BinaryFile
}

// Resources are the units, enabled, and then the drop-ins that make the distribution wait for them. In this
// order a removal takes the drop-ins away first, so that stopping the unit stops nothing else.
func (b Boot) Resources() []resource.Resource {
	l := &list{}
	program := l.add(withAfter(Service{Binary: b.Binary}.program(), l.within(Binary)...))
	var enabled []string
	for _, u := range []struct{ name, content, why string }{
		{ApplyUnit, b.applyUnit(), "prepares the node at every start, before Kubernetes"},
		{CheckUnit, checkUnit(), "runs the checklist once containerd answers"},
	} {
		p := path.Join(unitDir, u.name)
		written := l.add(withAfter(file(p, u.content, u.why), l.within(p)...))
		enabled = append(enabled, l.add(resource.Resource{ID: resource.ID(resource.KindUnit, u.name), Kind: resource.KindUnit,
			Why: u.why, After: []string{program, written}, Unit: &resource.Unit{Name: u.name, Enabled: true}}))
	}
	for _, u := range b.Units {
		if u == b.Runtime {
			continue // apply needs it, so it cannot wait for apply
		}
		p := bootDropInPath(u)
		l.add(withAfter(file(p, b.dropIn(u), u+" waits for apply"), append(l.within(p), enabled...)...))
	}
	return l.all
}

// list collects resources.
type list struct{ all []resource.Resource }

func (l *list) add(r resource.Resource) string {
	l.all = append(l.all, r)
	return r.ID
}

// within makes the directories above a path where they are missing, and says what comes after them.
func (l *list) within(p string) (after []string) { return l.dirs(above(p), 0o755) }

func (l *list) dirs(dirs []string, mode uint32) (after []string) {
	for _, d := range dirs {
		id := resource.ID(resource.KindDir, d)
		if !slices.ContainsFunc(l.all, func(r resource.Resource) bool { return r.ID == id }) {
			l.add(withAfter(dir(d, mode, "", true), after...))
		}
		after = []string{id}
	}
	return after
}

func bootDropInPath(unit string) string { return path.Join(unitDir, unit+".d", bootDropIn) }

// BootOwns says whether a resource exists for the boot units alone.
func BootOwns(id string) bool {
	for _, u := range []string{ApplyUnit, CheckUnit} {
		if id == resource.ID(resource.KindUnit, u) || id == resource.ID(resource.KindFile, path.Join(unitDir, u)) {
			return true
		}
	}
	return strings.HasPrefix(id, resource.ID(resource.KindFile, unitDir)+"/") && path.Base(id) == bootDropIn
}

// BootInstalled is the resource whose record in the ledger says that the boot units are wanted.
func BootInstalled() string { return resource.ID(resource.KindFile, path.Join(unitDir, ApplyUnit)) }

// ProgramID is the resource of the program that the units run.
func ProgramID() string { return resource.ID(resource.KindArchive, Binary) }

// applyUnit renders the unit that prepares the node.
//
// After=cloud-config.target: user-data is written by then, by every release of cloud-init since 22.1, and
// nothing in that order depends on multi-user.target. After=cloud-init.target or cloud-final.service would be
// a cycle: both come after multi-user.target, which comes after the distribution (cloud-init#4068, #2728).
// No Wants= of it: that would start cloud-init where it found no data source and is off. No network target: a
// node whose cable is out would wait for its time-out.
//
// RemainAfterExit=yes: the distribution requires the unit, and must not run apply again each time it restarts
// by itself. A unit that was not started in this boot is started by such a restart, also by one that apply
// itself asked for; then that run holds the lock (75) and answers for the node.
//
// No time-out: killing an import half-way helps nobody. No Restart=: when a oneshot fails, what requires it
// has failed already (systemd.unit(5)).
func (b Boot) applyUnit() string {
	after := []string{"local-fs.target", "cloud-config.target", UnitName}
	if b.Runtime != "" {
		after = append(after, b.Runtime)
	}
	before := slices.DeleteFunc(slices.Clone(b.Units), func(u string) bool { return u == b.Runtime })
	return `# Written by edgeprep.
[Unit]
Description=Prepare this node before Kubernetes starts (edgeprep)
Documentation=https://github.com/edgeprep/edgeprep
After=` + strings.Join(after, " ") + `
Before=` + strings.Join(before, " ") + `
RequiresMountsFor=/etc/edgeprep /var/lib/edgeprep

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=` + Binary + ` apply --if-configured --no-input
SuccessExitStatus=75
TimeoutStartSec=infinity
StandardInput=null
SyslogIdentifier=edgeprep-apply

[Install]
WantedBy=multi-user.target
`
}

// checkUnit renders the unit that runs what needs a running containerd. It is not ordered after the
// distribution, which may never become ready, and then the report matters most: it waits by itself, until the
// checks pass or the time is up. Type=simple, so that multi-user.target does not wait for it.
func checkUnit() string {
	return `# Written by edgeprep.
[Unit]
Description=Run the checklist of this node (edgeprep)
Documentation=https://github.com/edgeprep/edgeprep
After=` + ApplyUnit + ` ` + UnitName + `
RequiresMountsFor=/etc/edgeprep /var/lib/edgeprep

[Service]
Type=simple
ExecStart=` + Binary + ` check --if-configured --no-input --profile running --wait ` + checkWithin + ` --keep
StandardInput=null
SyslogIdentifier=edgeprep-check
Nice=10

[Install]
WantedBy=multi-user.target
`
}

// dropIn makes a unit wait for apply. Requires=: a node that would pull from nowhere stays visibly down.
func (b Boot) dropIn(unit string) string {
	how, why := "Requires", unit+" does not start on a node that is not prepared."
	if b.Degraded {
		how, why = "Wants", unit+" starts after apply, also when it failed."
	}
	return fmt.Sprintf("# Written by edgeprep: %s\n[Unit]\n%s=%s\nAfter=%s\n", why, how, ApplyUnit, ApplyUnit)
}

// BootWaiting are the units that have been made to wait for apply, by the ids of their resources, sorted.
func BootWaiting(ids []string) []string {
	var out []string
	for _, id := range ids {
		dir, name := path.Split(strings.TrimPrefix(id, string(resource.KindFile)+":"))
		if name == bootDropIn {
			out = append(out, strings.TrimSuffix(path.Base(dir), ".d"))
		}
	}
	slices.Sort(out)
	return out
}
