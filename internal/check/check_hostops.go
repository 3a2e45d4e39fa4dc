package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

func hostOpsChecks() []Check {
	return []Check{
		{
			ID: "HST-13", Title: "nothing updates or restarts this node by itself", Severity: SeverityWarn, Scope: ScopeNode,
			Story: Story{
				Seen:    "at the first link-up, or with a stick that somebody plugs in, containerd or the kernel changes and restarts",
				Cause:   "the distribution's own timers for updates are still on; away from a network they fail and fill the log",
				Look:    "timers and services of apt, dnf, yum, packagekit, snapd, fwupd, Ubuntu Pro, rpm-ostree, zypper, zincati and systemd-sysupdate that start at boot",
				Fix:     "mask them; update by a visit, with a bundle",
				Sources: []string{"canonical/microk8s#1022, #3545", "m-lab/k8s-support#520"},
			},
			Run: runUpdates,
		},
		{
			ID: "HST-14", Title: "no firewall or network manager works against the pod network", Severity: SeverityWarn, Scope: ScopeNode,
			Story: Story{
				Seen:    "the pod network works until a firewall reloads or NetworkManager takes an interface over",
				Cause:   "firewalld and ufw replace rules that kube-proxy and the CNI wrote; NetworkManager configures interfaces that are theirs; nm-cloud-setup adds routing rules",
				Look:    "firewalld, ufw, nm-cloud-setup and NetworkManager where they start at boot, and NetworkManager's unmanaged-devices",
				Fix:     "disable the firewall or open what the distribution names; unmanaged-devices for the CNI's interfaces; disable nm-cloud-setup",
				Sources: []string{"rke2-docs: known_issues.md", "k3s-io/docs: docs/installation/requirements.md"},
			},
			Run: runFirewalls,
		},
		{
			ID: "HST-16", Title: "no disk waits for a server or a person before it is unlocked", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:    "after power-on the box stays dark or asks for a passphrase that nobody is there to type",
				Cause:   "a disk is unlocked by a Tang server of the lab, or by hand",
				Look:    "/etc/crypttab, whether clevis starts, dm-crypt devices; what is in a LUKS header cannot be read here, nor what the firmware does after a power loss",
				Fix:     "bind the disk to the node's own TPM: systemd-cryptenroll --tpm2-device=auto, or clevis luks bind with tpm2; set the firmware to power on after a power loss",
				Sources: []string{"crypttab(5)", "systemd-cryptenroll(1)", "clevis-luks-bind(1)"},
			},
			Run: runUnlock,
		},
		{
			ID: "HST-17", Title: "somebody can log in until the end of the mission", Severity: SeverityWarn, Scope: ScopeNode,
			Story: Story{
				Seen:    "something is wrong at the site and nobody gets in",
				Cause:   "the account or its password has expired meanwhile, or the login needs a directory server that is not there",
				Look:    "the dates in /etc/shadow of accounts that may log in, against [checklist] power_on and mission; whether there is such an account at all; sssd without cached credentials. No password is read, no hash is shown",
				Fix:     "chage -E -1 -M -1 ACCOUNT for the one that is meant for emergencies; try it with the cable out",
				Sources: []string{"shadow(5)", "chage(1)", "sssd.conf(5), cache_credentials"},
			},
			Run: runAccounts,
		},
		{
			ID: "HST-19", Title: "logs outlive a power-off", Severity: SeverityWarn, Scope: ScopeNode,
			Story: Story{
				Seen:    "the node failed at the site and nothing tells why",
				Cause:   "the journal is in memory: /var/log/journal is missing, or Storage=volatile",
				Look:    "/var/log/journal and Storage= in journald.conf and its drop-ins",
				Fix:     "mkdir -p /var/log/journal and restart journald; SystemMaxUse= bounds it",
				Sources: []string{"journald.conf(5)"},
			},
			Run: runJournal,
		},
	}
}

// updaters are units that change software, or ask somebody on the internet whether it should.
func updaters() []string {
	return []string{
		"apt-daily.timer", "apt-daily-upgrade.timer", "dnf-automatic.timer", "dnf-automatic-install.timer", "dnf5-automatic.timer", "dnf-makecache.timer",
		"yum-cron.service", "packagekit.service", "snapd.service", "fwupd-refresh.timer", "motd-news.timer", "ua-timer.timer", "update-notifier-download.timer",
		"rpm-ostreed-automatic.timer", "transactional-update.timer", "zincati.service", "systemd-sysupdate.timer", "update-engine.service",
	}
}

func runUpdates(ctx context.Context, e *Env) []Finding {
	if fs := e.withoutUnits(ctx); fs != nil {
		return fs
	}
	var out []Finding
	for _, u := range e.unitsOn(ctx, updaters()...) {
		out = append(out, Finding{Status: StatusWarn, Subject: u, Expected: "not enabled", Observed: "starts at boot", Source: "systemctl is-enabled " + u,
			Remedy: Remedy{Text: "updates come by visit", Command: "systemctl mask --now " + u}})
	}
	if len(out) == 0 {
		return []Finding{pass("updates", "no unit that updates starts", "systemctl is-enabled")}
	}
	return out
}

// withoutUnits is the one finding of a check about units where nothing tells about them.
func (e *Env) withoutUnits(ctx context.Context) []Finding {
	if _, err := e.Reader.Units().Unit(ctx, "multi-user.target"); err != nil {
		return []Finding{unproven("units", "there is no systemd to ask: "+err.Error())}
	}
	return nil
}

func runFirewalls(ctx context.Context, e *Env) []Finding {
	if fs := e.withoutUnits(ctx); fs != nil {
		return fs
	}
	var out []Finding
	add := func(unit, observed string, r Remedy) {
		out = append(out, Finding{Status: StatusWarn, Subject: unit, Expected: "not enabled, or arranged for", Observed: observed, Source: "systemctl is-enabled " + unit, Remedy: r})
	}
	for _, u := range e.unitsOn(ctx, "firewalld.service", "nm-cloud-setup.service", "nm-cloud-setup.timer") {
		add(u, "starts at boot: it changes rules under the pod network", Remedy{Command: "systemctl disable --now " + u})
	}
	if v, _, ok := lastValue(configLines(e.Reader.FS(), "/etc/ufw/ufw.conf"), "ENABLED"); ok && v == "yes" && e.unitOn(ctx, "ufw.service") {
		add("ufw.service", "starts at boot: forwarded traffic of pods is dropped unless it was allowed", Remedy{Command: "ufw disable"})
	}
	if e.unitOn(ctx, "NetworkManager.service") {
		_, _, ok := lastValue(configLines(e.Reader.FS(), "/usr/lib/NetworkManager/conf.d/*.conf", "/etc/NetworkManager/NetworkManager.conf", "/etc/NetworkManager/conf.d/*.conf"), "unmanaged-devices")
		if !ok {
			add("NetworkManager.service", "no unmanaged-devices: it may take the pod network's interfaces over",
				Remedy{Command: `printf '[keyfile]\nunmanaged-devices=interface-name:cni*;interface-name:flannel*;interface-name:cali*;interface-name:cilium*;interface-name:veth*\n' > /etc/NetworkManager/conf.d/90-kubernetes.conf`})
		}
	}
	if len(out) == 0 {
		return []Finding{pass("firewall", "none that starts, and no interface is taken over", "systemctl is-enabled")}
	}
	return out
}

func runUnlock(ctx context.Context, e *Env) []Finding {
	if _, err := e.Reader.FS().ReadFile("/etc/crypttab", maxText); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []Finding{couldNotRun("/etc/crypttab", err)}
	}
	clevis := e.unitOn(ctx, "clevis-luks-askpass.path") || e.unitOn(ctx, "clevis-luks-askpass.service")
	var out []Finding
	for _, l := range configLines(e.Reader.FS(), "/etc/crypttab") {
		w := append(strings.Fields(l.text), "", "", "")
		if w[1] != "" {
			out = append(out, judgeUnlock(l, w[0], w[1], w[2], w[3], clevis))
		}
	}
	if len(out) == 0 {
		return []Finding{pass("encrypted disks", "none that is unlocked at boot", "/etc/crypttab")}
	}
	return out
}

// judgeUnlock says what a disk waits for. crypttab(5): name, device, key, options.
func judgeUnlock(l configLine, name, device, key, options string, clevis bool) Finding {
	has := func(o string) bool {
		return slices.ContainsFunc(strings.Split(options, ","), func(x string) bool { return x == o || strings.HasPrefix(x, o+"=") })
	}
	f := Finding{Status: StatusFail, Subject: name, Expected: "unlocked by the node itself", Source: l.where(),
		Remedy: Remedy{Text: "bind it to the node's TPM", Command: "systemd-cryptenroll --tpm2-device=auto " + device}}
	switch {
	case has("noauto"):
		return pass(name, "not unlocked at boot", l.where())
	case has("_netdev"):
		f.Observed = "waits for the network (_netdev)"
	case has("tpm2-device"):
		return pass(name, "by the node's TPM", l.where())
	case strings.HasPrefix(key, "/"):
		return pass(name, "by a key on this node", l.where())
	case clevis:
		return Finding{Status: StatusUnproven, Subject: name, Observed: "by clevis", Source: l.where(), Reason: "whether by a TPM or by a Tang server is in the LUKS header",
			Remedy: Remedy{Command: "clevis luks list -d " + device}}
	default:
		f.Observed = "a person must type a passphrase"
	}
	return f
}

// account is a line of /etc/shadow without the password's hash.
type account struct {
	name            string
	usable          bool // a password that can be used
	changed, expire int64
	maximum         int64 // days that a password is good for
}

// readAccounts are those that may log in. shadow(5), passwd(5)
func (e *Env) readAccounts() ([]account, error) {
	f := e.Reader.FS()
	shell := map[string]bool{}
	for _, l := range configLines(f, "/etc/passwd") {
		if c := strings.Split(l.text, ":"); len(c) >= 7 {
			shell[c[0]] = c[6] != "" && !strings.HasSuffix(c[6], "/nologin") && !strings.HasSuffix(c[6], "/false") && !strings.HasSuffix(c[6], "/sync")
		}
	}
	data, err := f.ReadFile("/etc/shadow", maxText)
	if err != nil {
		return nil, err
	}
	var out []account
	for l := range strings.Lines(string(data)) {
		c := strings.Split(strings.TrimSpace(l), ":")
		if len(c) < 8 || !shell[c[0]] {
			continue
		}
		out = append(out, account{name: c[0], usable: c[1] != "" && !strings.ContainsAny(c[1][:1], "!*"), changed: number(c[2]), maximum: number(c[4]), expire: number(c[7])})
	}
	return out, nil
}

// number is one of shadow's, -1 when it is empty.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func runAccounts(ctx context.Context, e *Env) []Finding {
	const file = "/etc/shadow"
	all, err := e.readAccounts()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{skip("accounts", "there is no "+file+": nobody logs in here by password")}
	case errors.Is(err, fs.ErrPermission):
		return []Finding{deferred("accounts", file+" is readable by root only; run as root")}
	case err != nil:
		return []Finding{couldNotRun("accounts", err)}
	}
	if len(all) == 0 {
		return []Finding{skip("accounts", "no account has a shell: nobody is meant to log in")}
	}
	out, open := []Finding(nil), 0
	for _, a := range all {
		f, ok := e.judgeAccount(a)
		switch {
		case !a.usable && !e.hasKeys(a.name):
		case ok:
			open++
		default:
			out = append(out, f)
		}
	}
	if open == 0 {
		out = append(out, Finding{Status: StatusWarn, Subject: "accounts", Expected: "one that can log in until the mission's end", Observed: "none with a password or a key that lasts", Source: file,
			Remedy: Remedy{Text: "set one with passwd ACCOUNT, and", Command: "chage -E -1 -M -1 root"}})
	}
	if e.unitOn(ctx, "sssd.service") {
		if v, at, ok := lastValue(configLines(e.Reader.FS(), "/etc/sssd/sssd.conf", "/etc/sssd/conf.d/*.conf"), "cache_credentials"); !ok || !strings.EqualFold(v, "true") {
			out = append(out, Finding{Status: StatusWarn, Subject: "sssd", Expected: "cache_credentials = true", Observed: "logins need the directory server", Source: at.file,
				Remedy: Remedy{Text: "set cache_credentials = true, or keep a local account"}})
		}
	}
	if len(out) == 0 {
		return []Finding{pass("accounts", plural(open, "account")+" can log in until the mission's end", file)}
	}
	return out
}

// judgeAccount compares an account's dates with the mission. ok: it lasts.
func (e *Env) judgeAccount(a account) (f Finding, ok bool) {
	_, until, _ := e.horizon()
	f = Finding{Status: StatusWarn, Subject: a.name, Expected: "usable until " + day(until), Source: "/etc/shadow", Remedy: Remedy{Command: "chage -E -1 -M -1 " + a.name}}
	date := func(days int64) time.Time { return time.Unix(0, 0).AddDate(0, 0, int(min(days, 1<<20))) }
	switch {
	case a.expire >= 0 && date(a.expire).Before(until):
		f.Observed = "the account expires on " + day(date(a.expire))
	case a.usable && a.changed == 0:
		f.Observed, f.Remedy.Command = "the password must be changed at the next login", "chage -d today "+a.name
	case a.usable && a.changed > 0 && a.maximum >= 0 && a.maximum < 10000 && date(a.changed+a.maximum).Before(until):
		f.Observed = fmt.Sprintf("the password expires on %s", day(date(a.changed+a.maximum)))
	default:
		return f, true
	}
	return f, false
}

// hasKeys says whether an account lets somebody in by a key.
func (e *Env) hasKeys(name string) bool {
	for _, l := range configLines(e.Reader.FS(), "/etc/passwd") {
		if c := strings.Split(l.text, ":"); len(c) >= 7 && c[0] == name && strings.HasPrefix(c[5], "/") {
			return len(configLines(e.Reader.FS(), c[5]+"/.ssh/authorized_keys")) > 0
		}
	}
	return false
}

func runJournal(_ context.Context, e *Env) []Finding {
	storage, at, ok := lastValue(configLines(e.Reader.FS(), "/usr/lib/systemd/journald.conf", "/usr/lib/systemd/journald.conf.d/*.conf", "/etc/systemd/journald.conf", "/etc/systemd/journald.conf.d/*.conf"), "Storage")
	info, err := e.Reader.FS().Stat("/var/log/journal")
	f := Finding{Status: StatusWarn, Subject: "journal", Expected: "on disk", Source: "/var/log/journal", Remedy: Remedy{Command: "mkdir -p /var/log/journal && systemctl restart systemd-journald"}}
	switch {
	case ok && (storage == "volatile" || storage == "none"):
		f.Observed, f.Source, f.Remedy = "Storage="+storage, at.where(), Remedy{Text: "write Storage=persistent there"}
	case ok && storage == "persistent":
		return []Finding{pass("journal", "Storage=persistent", at.where())}
	case err != nil || info.Type != "dir":
		f.Observed = "in memory: there is no /var/log/journal"
	default:
		return []Finding{pass("journal", "on disk", "/var/log/journal")}
	}
	return []Finding{f}
}
