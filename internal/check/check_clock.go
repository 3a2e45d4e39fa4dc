package check

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
)

func clockChecks() []Check {
	return []Check{
		{
			ID: "HST-01", Title: "the clock is right after a power-on without a time server", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:  "x509: certificate has expired or is not yet valid; what is signed with a clock from the future stays invalid after it was corrected",
				Cause: "no real-time clock or an empty battery, a clock in local time, or a system clock that was set and never written to the real-time clock",
				Look: "the real-time clock under /sys/class/rtc and its battery as the kernel reports it, its distance from the system's clock, /etc/adjtime; the system's clock against the youngest certificate, " +
					"the release of edgeprep and the planned dates",
				Fix:     "a clock with a battery, hwclock --systohc --utc at the end of staging; where there is none, a saved clock (fake-hwclock, systemd-timesyncd) and a time source on the site",
				Sources: []string{"rancher/k3os#554, #657", "k3s-io/k3s#6152, #6368", "k0sproject/k0s#3732", "suse-edge/edge-image-builder#170", "linux: drivers/rtc/rtc-cmos.c, cmos_procfs"},
			},
			Run: runClock,
		},
		{
			ID: "HST-18", Title: "a time source that is on the site", Severity: SeverityWarn, Scope: ScopeNode,
			Story: Story{
				Seen:    "clocks of the nodes drift apart for months; then logins, leases and certificates fail",
				Cause:   "the time service knows names on the internet only, as it comes out of the box",
				Look:    "the sources of chrony, systemd-timesyncd and ntpd: addresses, names in /etc/hosts or of the local network, reference clocks and local stratum count as on the site",
				Fix:     "name a source on the site, or make one node the site's source: local stratum 10 in its chrony.conf",
				Sources: []string{"chrony.conf(5)", "timesyncd.conf(5)", "siderolabs/talos#13458", "balena-os/meta-balena#3005"},
			},
			Run: runTimeSources,
		},
	}
}

// How far the real-time clock may be from the system's: it ticks in seconds and is read at leisure.
const (
	clockDrift = 10 * time.Second
	clockWrong = 2 * time.Minute
)

// released is a time before which no clock can be that runs this program.
func released() time.Time {
	first := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) // of this check
	info, ok := debug.ReadBuildInfo()
	for i := 0; ok && i < len(info.Settings); i++ {
		if t, err := time.Parse(time.RFC3339, info.Settings[i].Value); info.Settings[i].Key == "vcs.time" && err == nil && t.After(first) {
			return t
		}
	}
	return first
}

func runClock(_ context.Context, e *Env) []Finding {
	var out []Finding
	switch {
	case !e.memo.facts.Live:
		out = e.notLive("clock", "its clock is that")
	case e.inContainer():
		out = []Finding{skip("real-time clock", "a container has the clock of its host; check that")}
	default:
		out = append(e.realTimeClock(), e.systemClock()...)
	}
	content, ok := readText(e.Reader.FS(), "/etc/adjtime")
	if l := strings.Split(strings.TrimSpace(content), "\n"); ok && strings.TrimSpace(l[len(l)-1]) == "LOCAL" {
		out = append(out, Finding{Status: StatusFail, Subject: "real-time clock", Expected: "UTC", Observed: "kept in local time: hours are wrong until somebody corrects them",
			Source: "/etc/adjtime", Remedy: Remedy{Command: "timedatectl set-local-rtc 0"}})
	}
	return out
}

// realTimeClock looks at the clock that goes on without power.
func (e *Env) realTimeClock() []Finding {
	f := e.Reader.FS()
	dirs, _ := glob(f, "/sys/class/rtc/rtc*")
	if len(dirs) == 0 {
		return []Finding{e.withoutClock()}
	}
	rtc := dirs[0]
	for _, d := range dirs { // the one that the kernel takes the time from
		if c, _ := readText(f, d+"/hctosys"); strings.TrimSpace(c) == "1" {
			rtc = d
		}
	}
	name, source := path.Base(rtc), rtc+"/since_epoch"
	content, _ := readText(f, source)
	seconds, err := strconv.ParseInt(strings.TrimSpace(content), 10, 64)
	if err != nil {
		return []Finding{{Status: StatusFail, Subject: name, Expected: "a time", Observed: "it cannot be read: the clock does not run", Source: source,
			Remedy: Remedy{Text: "set it; if it stays so, replace clock or battery", Command: "hwclock --systohc --utc"}}}
	}
	at, now := time.Unix(seconds, 0), e.Now()
	e.seenClock(func(c *ClockRecord) { c.RTC, c.RTCName, c.Time = writable(at), name, writable(now) })
	out := []Finding{judgeDrift(name, source, at.Sub(now))}
	if c, ok := readText(f, "/proc/driver/rtc"); ok {
		v, found := procValue(c, "batt_status")
		e.seenClock(func(c *ClockRecord) { c.Battery = v })
		if found && v != "okay" {
			out = append(out, Finding{Status: StatusFail, Subject: name, Expected: "battery okay", Observed: "battery " + v, Source: "/proc/driver/rtc", Remedy: Remedy{Text: "replace the battery"}})
		}
	}
	return out
}

func judgeDrift(name, source string, delta time.Duration) Finding {
	f := pass(name, fmt.Sprintf("%s from the system's clock", delta.Abs().Round(time.Second)), source)
	f.Expected = "the same as the system's clock"
	switch {
	case delta.Abs() > clockWrong:
		f.Status = StatusFail
	case delta.Abs() > clockDrift:
		f.Status = StatusWarn
	default:
		return f
	}
	f.Remedy = Remedy{Text: "if the system's clock is right", Command: "hwclock --systohc --utc"}
	return f
}

// procValue finds "key : value" in a file of /proc.
func procValue(content, key string) (string, bool) {
	for l := range strings.Lines(content) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// savedClocks are files whose time the system's clock is set to where there is no better one.
// fake-hwclock(8); systemd-timesyncd.service(8)
func savedClocks() []string {
	return []string{"/etc/fake-hwclock.data", "/var/lib/systemd/timesync/clock", "/var/lib/private/systemd/timesync/clock"}
}

func (e *Env) withoutClock() Finding {
	f := e.Reader.FS()
	if c, _ := readText(f, "/proc/cpuinfo"); strings.Contains(c, " hypervisor") {
		return skip("real-time clock", "a virtual machine without one has the clock of its host; check that")
	}
	for _, s := range savedClocks() {
		if _, err := f.Lstat(s); err == nil {
			return Finding{Status: StatusWarn, Subject: "real-time clock", Expected: "one with a battery", Observed: "none: at power-on the clock is where it was at the last shutdown",
				Source: s, Remedy: Remedy{Text: "add a clock with a battery, or a time source on the site that is there first"}}
		}
	}
	return Finding{Status: StatusFail, Subject: "real-time clock", Expected: "one with a battery", Observed: "none, and no saved clock: every power-on begins years ago", Source: "/sys/class/rtc",
		Remedy: Remedy{Text: "add a clock with a battery, or at least", Command: "systemctl enable --now systemd-timesyncd"}}
}

// systemClock is compared with what must be earlier, and with what should be later.
func (e *Env) systemClock() []Finding {
	now := e.Now()
	f := pass("system clock", now.UTC().Format(time.RFC3339), "clock_gettime")
	f.Expected = "after " + day(released())
	remedy := Remedy{Text: "set the clock", Command: "timedatectl set-time 'YYYY-MM-DD hh:mm:ss' && hwclock --systohc --utc"}
	if c, ok := e.memo.certificates().latestStart(); ok && c.NotBefore.After(now) {
		return []Finding{{Status: StatusFail, Subject: "system clock", Expected: "after " + c.NotBefore.UTC().Format(time.RFC3339) + ", when " + c.name() + " became valid",
			Observed: f.Observed, Source: c.file, Remedy: remedy}}
	}
	on, err := time.Parse(time.DateOnly, e.Site.Checklist.PowerOn)
	early := e.opts.Profile == ProfileStage || e.opts.Profile == ProfileShip || e.opts.Profile == ""
	switch {
	case now.Before(released()):
		f.Status, f.Remedy = StatusFail, remedy
	case err == nil && early && now.After(on.AddDate(0, 0, 1)):
		f.Status, f.Expected, f.Remedy = StatusWarn, "before "+day(on)+", the planned power-on", Remedy{Text: "one of them is wrong: the clock, or [checklist] power_on"}
	}
	return []Finding{f}
}

// timeService is a program that sets the clock, and where its sources are written.
type timeService struct {
	units []string
	files []string
}

// timeServices: the paths are those of the projects and of the distributions that move them.
func timeServices() []timeService {
	return []timeService{
		{[]string{"chrony.service", "chronyd.service"}, []string{"/etc/chrony.conf", "/etc/chrony/chrony.conf", "/etc/chrony.d/*.conf", "/etc/chrony/conf.d/*.conf", "/etc/chrony/sources.d/*.sources"}},
		{[]string{"ntp.service", "ntpd.service", "ntpsec.service"}, []string{"/etc/ntp.conf", "/etc/ntpsec/ntp.conf", "/etc/ntpsec/ntp.d/*.conf"}},
		{[]string{"systemd-timesyncd.service"}, []string{"/usr/lib/systemd/timesyncd.conf.d/*.conf", "/etc/systemd/timesyncd.conf", "/etc/systemd/timesyncd.conf.d/*.conf", "/run/systemd/timesyncd.conf.d/*.conf"}},
	}
}

func runTimeSources(ctx context.Context, e *Env) []Finding {
	if e.memo.facts.Live && e.inContainer() {
		return []Finding{skip("time service", "a container has the clock of its host; check that")}
	}
	for _, s := range timeServices() {
		on := e.unitsOn(ctx, s.units...)
		if len(on) == 0 {
			continue
		}
		local, remote := timeSources(e.Reader.FS(), s.files)
		e.seenClock(func(c *ClockRecord) { c.Service, c.Sources = on[0], slices.Concat(local, remote) })
		f := pass(on[0], strings.Join(local, ", "), strings.Join(s.files[:1], ", "))
		f.Expected = "a source on the site"
		if len(local) == 0 {
			f.Status, f.Observed = StatusWarn, "none but "+strings.Join(remote, ", ")
			f.Remedy = Remedy{Text: "name a source on the site, an address rather than a name"}
			if len(remote) == 0 {
				f.Observed = "none is named: it asks its maker's servers on the internet"
			}
		}
		return []Finding{f}
	}
	return []Finding{{Status: StatusWarn, Subject: "time service", Expected: "one that starts at boot", Observed: "none is enabled: the clocks of the nodes drift apart",
		Source: "systemctl is-enabled", Remedy: Remedy{Command: "systemctl enable --now systemd-timesyncd"}}}
}

// timeSources sorts what a time service asks into what can be there without an uplink and what cannot.
func timeSources(f host.FS, files []string) (local, remote []string) {
	for _, l := range configLines(f, files...) {
		words := strings.Fields(strings.Replace(l.text, "=", " ", 1))
		switch key := strings.ToLower(words[0]); {
		case key == "refclock", key == "local", key == "peer" && len(words) > 1:
			local = append(local, strings.Join(words[:min(2, len(words))], " "))
		case (key == "server" || key == "pool") && len(words) > 1:
			words = words[:2]
			fallthrough
		case key == "ntp":
			for _, w := range words[1:] {
				if onSite(f, w) {
					local = append(local, w)
				} else {
					remote = append(remote, w)
				}
			}
		}
	}
	return local, remote
}

// onSite says whether a host can be found without an uplink: an address that is not public, a name in /etc/hosts
// or one that no public server knows.
func onSite(f host.FS, name string) bool {
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || !a.IsGlobalUnicast()
	}
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(name, ".")), ".")
	if last := labels[len(labels)-1]; len(labels) == 1 || slices.Contains([]string{"local", "lan", "internal", "home", "corp", "site", "arpa", "localdomain"}, last) {
		return true
	}
	for _, l := range configLines(f, "/etc/hosts") {
		if words := strings.Fields(l.text); slices.Contains(words[1:], name) {
			return true
		}
	}
	return false
}
