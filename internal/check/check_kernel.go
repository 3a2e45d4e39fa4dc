package check

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/kubelet"
)

func kernelChecks() []Check {
	return []Check{
		{
			ID: "HST-08", Title: "kubelet runs on this machine's cgroups", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:    "kubelet exits: \"kubelet is configured to not run on a host using cgroup v1\"",
				Cause:   "since 1.35 kubelet refuses cgroup v1 unless failCgroupV1 is false; a boot parameter or an old system still brings it",
				Look:    "/sys/fs/cgroup/cgroup.controllers, which only cgroup v2 has; failCgroupV1 in kubelet's configuration",
				Fix:     "boot with cgroup v2 (remove systemd.unified_cgroup_hierarchy=0); until then failCgroupV1: false",
				Sources: []string{"kubernetes/kubernetes#134298", "k0sproject/k0s#7398", "kubernetes: pkg/kubelet/apis/config/v1beta1/defaults.go"},
			},
			Run: runCgroups,
		},
		{
			ID: "HST-09", Title: "swap, kernel modules and forwarding are the same after the next boot", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:  "kubelet or the pod network fails, but only after a reboot",
				Cause: "swap was switched off by hand and is in /etc/fstab; a module was loaded by hand; an update installed another kernel, without the module",
				Look: "/proc/swaps and /etc/fstab against kubelet's failSwapOn; each module that the distribution needs, loaded, built in or on disk for the running kernel and for newer ones; " +
					"net.ipv4.ip_forward now and in sysctl.d, unless the distribution sets it itself",
				Fix:     "take swap out of /etc/fstab; name modules in /etc/modules-load.d, settings in /etc/sysctl.d; reboot once before shipping",
				Sources: []string{"rke2-docs: requirements.md, known_issues.md", "kubernetes: docs, container runtimes, prerequisites", "k3s: pkg/agent/syssetup/setup.go"},
			},
			Run: runKernel,
		},
		{
			ID: "HST-10", Title: "programs may be run from where the distribution keeps them", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:    "\"permission denied\" or \"operation not permitted\" when a shim, a CNI plugin or a container starts",
				Cause:   "a hardened image mounts /var with noexec, runs fapolicyd, or enforces SELinux without the distribution's policy",
				Look:    "mount options of the distribution's, containerd's and kubelet's directories; whether fapolicyd starts; SELinux enforced and the policy module in its store",
				Fix:     "remount without noexec, install the policy package, take the directories into fapolicyd's trust or switch it off",
				Sources: []string{"k3s-io/k3s#7372", "rancher/rke2#2848, #3454", "linux-application-whitelisting/fapolicyd#310"},
			},
			Run: runExec,
		},
		{
			ID: "HST-11", Title: "what the node must remember is on a disk", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:    "after each power-on the node is as it came from the factory",
				Cause:   "an overlay in memory over a read-only image, or a tmpfs, under directories that are meant to last",
				Look:    "the file system under /etc, /var/lib, edgeprep's, the distribution's, containerd's and kubelet's directories",
				Fix:     "put these directories on a disk; make the overlay's upper directory lasting",
				Sources: []string{"overlayroot(8)", "proc_pid_mounts(5)"},
			},
			Run: runLasting,
		},
	}
}

func runCgroups(_ context.Context, e *Env) []Finding {
	const subject, file = "cgroups", "/sys/fs/cgroup/cgroup.controllers"
	if fs := e.notLive(subject, "its cgroups are those"); fs != nil {
		return fs
	}
	if _, err := e.Reader.FS().Lstat(file); err == nil {
		return []Finding{pass(subject, "version 2", file)}
	}
	if e.inContainer() {
		return []Finding{unproven(subject, "version 1, that of the container's host; check that")}
	}
	f := Finding{Status: StatusWarn, Subject: subject, Expected: "version 2", Observed: "version 1, which kubelet refuses since 1.35", Source: file,
		Remedy: Remedy{Text: "remove systemd.unified_cgroup_hierarchy=0 from the boot parameters, or set failCgroupV1: false for kubelet"}}
	minor, known := kubelet.Minor(e.Node.Version)
	if on, _, ok := e.kubeletSwitch("failCgroupV1"); (!known || minor >= 35) && (on || !ok) {
		f.Status = StatusFail
	}
	return []Finding{f}
}

// kubeletSwitch is a switch of kubelet's configuration in effect.
func (e *Env) kubeletSwitch(key string) (on bool, source string, ok bool) {
	c, err := e.memo.kubelet()
	if err != nil {
		return false, "", false
	}
	on, v, ok := c.Bool(key)
	return on, v.Source, ok
}

func runKernel(_ context.Context, e *Env) []Finding {
	out := e.swap()
	switch {
	case !e.memo.facts.Live:
		return append(out, e.notLive("kernel", "its kernel is that")...)
	case e.inContainer():
		return append(out, skip("kernel modules", "a container has the kernel of its host; check that"))
	}
	out = append(out, e.modules()...)
	if !e.Node.Kernel.Prepared {
		out = append(out, e.forwarding())
	}
	return out
}

// swap compares what is on now and after the next boot with what kubelet takes.
func (e *Env) swap() []Finding {
	on, source, ok := e.kubeletSwitch("failSwapOn")
	if ok && !on {
		return []Finding{pass("swap", "kubelet takes it (failSwapOn: false)", source)}
	}
	f := Finding{Status: StatusFail, Subject: "swap", Expected: "off", Remedy: Remedy{Text: "take it out of /etc/fstab, and", Command: "swapoff -a"}}
	var out []Finding
	if content, ok := readText(e.Reader.FS(), "/proc/swaps"); ok && e.memo.facts.Live {
		for _, l := range strings.Split(strings.TrimSpace(content), "\n")[1:] {
			f.Observed, f.Source = "on: "+strings.Fields(l + " ?")[0], "/proc/swaps"
			out = append(out, f)
		}
	}
	for _, l := range configLines(e.Reader.FS(), "/etc/fstab") {
		if w := strings.Fields(l.text); len(w) >= 4 && w[2] == "swap" && !slices.Contains(strings.Split(w[3], ","), "noauto") {
			f.Observed, f.Source = "on after the next boot: "+w[0], l.where()
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return []Finding{pass("swap", "off, and not in /etc/fstab", "/proc/swaps, /etc/fstab")}
	}
	return out
}

// kernels are the running one and those that are installed and newer, of which the next boot may take one.
func (e *Env) kernels() (running string, newer []string) {
	content, _ := readText(e.Reader.FS(), "/proc/sys/kernel/osrelease")
	running = strings.TrimSpace(content)
	dirs, _ := glob(e.Reader.FS(), "/lib/modules/*")
	for _, d := range dirs {
		if v := path.Base(d); v != running && olderKernel(running, v) {
			newer = append(newer, v)
		}
	}
	return running, newer
}

// olderKernel compares versions as "6.12.48+deb13-amd64": number by number, then as text.
func olderKernel(a, b string) bool {
	if c := slices.Compare(numbers(a), numbers(b)); c != 0 {
		return c < 0
	}
	return a < b
}

// numbers are those in a text, in order.
func numbers(s string) []int {
	var out []int
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		if n, err := strconv.Atoi(w); err == nil {
			out = append(out, n)
		}
	}
	return out
}

func (e *Env) modules() []Finding {
	if len(e.Node.Kernel.Modules) == 0 {
		return []Finding{skip("kernel modules", "nothing says which ones this distribution needs")}
	}
	running, newer := e.kernels()
	var out []Finding
	for _, k := range append([]string{running}, newer...) {
		has := e.moduleFiles(k)
		var missing []string
		for _, m := range e.Node.Kernel.Modules {
			_, err := e.Reader.FS().Lstat("/sys/module/" + m) // loaded, or built in with parameters
			if !has(m) && (k != running || err != nil) {
				missing = append(missing, m)
			}
		}
		f := pass("kernel "+k, "has "+strings.Join(e.Node.Kernel.Modules, ", "), "/lib/modules/"+k)
		if len(missing) > 0 {
			f.Status, f.Expected, f.Observed = StatusFail, "modules "+strings.Join(e.Node.Kernel.Modules, ", "), "no module "+strings.Join(missing, ", ")
			f.Remedy = Remedy{Text: "install the package of extra modules for this kernel, or remove the kernel"}
		}
		out = append(out, f)
	}
	if len(newer) > 0 {
		out = append(out, Finding{Status: StatusWarn, Subject: "kernel", Expected: running, Observed: newer[len(newer)-1] + " is installed and waits for a boot", Source: "/lib/modules",
			Remedy: Remedy{Text: "boot it here rather than at the site", Command: "systemctl reboot"}})
	}
	if !e.Node.Kernel.Prepared {
		out = append(out, e.persistentModules()...)
	}
	return out
}

// moduleFiles says what a kernel has on disk or built in. kmod: modules.dep(5), modules.builtin
func (e *Env) moduleFiles(kernel string) func(string) bool {
	have := map[string]bool{}
	for _, name := range []string{"modules.dep", "modules.builtin"} {
		data, _ := e.Reader.FS().ReadFile("/lib/modules/"+kernel+"/"+name, 0) // missing: has none
		for l := range strings.Lines(string(data)) {
			file, _, _ := strings.Cut(strings.TrimSpace(l), ":")
			module, _, _ := strings.Cut(path.Base(file), ".ko")
			have[strings.ReplaceAll(module, "-", "_")] = true
		}
	}
	return func(m string) bool { return have[strings.ReplaceAll(m, "-", "_")] }
}

// persistentModules: what was loaded by hand is gone after a boot. overlay and nf_conntrack come with their first user.
func (e *Env) persistentModules() []Finding {
	if !slices.Contains(e.Node.Kernel.Modules, "br_netfilter") {
		return nil
	}
	for _, l := range configLines(e.Reader.FS(), "/etc/modules", "/etc/modules-load.d/*.conf", "/usr/lib/modules-load.d/*.conf", "/run/modules-load.d/*.conf") {
		if l.text == "br_netfilter" {
			return []Finding{pass("br_netfilter", "loaded at boot", l.where())}
		}
	}
	return []Finding{{Status: StatusWarn, Subject: "br_netfilter", Expected: "loaded at boot", Observed: "no file of modules-load.d names it", Source: "/etc/modules-load.d",
		Remedy: Remedy{Command: "echo br_netfilter > /etc/modules-load.d/kubernetes.conf"}}}
}

func (e *Env) forwarding() Finding {
	const key = "net.ipv4.ip_forward"
	now, _ := readText(e.Reader.FS(), "/proc/sys/net/ipv4/ip_forward")
	kept, at, ok := lastValue(configLines(e.Reader.FS(), "/usr/lib/sysctl.d/*.conf", "/run/sysctl.d/*.conf", "/etc/sysctl.d/*.conf", "/etc/sysctl.conf"), key)
	f := Finding{Status: StatusFail, Subject: key, Expected: "1, now and in sysctl.d", Source: "/proc/sys/net/ipv4/ip_forward",
		Remedy: Remedy{Command: "echo net.ipv4.ip_forward=1 > /etc/sysctl.d/90-kubernetes.conf && sysctl --system"}}
	switch {
	case ok && kept != "1":
		f.Observed, f.Source = kept+" after the next boot", at.where()
	case !ok && strings.TrimSpace(now) != "1":
		f.Observed = fmt.Sprintf("%q now, and no file sets it", strings.TrimSpace(now))
	case !ok:
		f.Status, f.Observed = StatusWarn, "1 now, but no file of sysctl.d sets it: what set it may not after the next boot"
	default:
		return pass(key, "1 after each boot", at.where())
	}
	return f
}

// has says whether a mount has an option.
func (m mount) has(option string) bool { return slices.Contains(strings.Split(m.options, ","), option) }

// stateDirs are where the distribution keeps programs and state.
func (e *Env) stateDirs() []string {
	var out []string
	for _, d := range []string{e.Node.DataDir, e.Node.Runtime.Endpoint.Root, e.Node.Kubelet.Root, kubeletRoot} {
		if d != "" && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

func runExec(ctx context.Context, e *Env) []Finding {
	if fs := e.notLive("mounts", "its mounts are those"); fs != nil {
		return append(fs, e.policies(ctx)...)
	}
	if _, ok := mountOf(e.Reader.FS(), "/"); !ok {
		return append([]Finding{unproven("mounts", "/proc/mounts cannot be read")}, e.policies(ctx)...)
	}
	var out []Finding
	for _, d := range append(e.stateDirs(), "/opt/cni/bin") {
		m, ok := mountOf(e.Reader.FS(), d)
		if !ok || !m.has("noexec") && !m.has("nosuid") {
			continue
		}
		f := Finding{Status: StatusFail, Subject: d, Expected: "mounted without noexec", Observed: m.point + " is mounted noexec", Source: "/proc/mounts",
			Remedy: Remedy{Text: "also in /etc/fstab", Command: "mount -o remount,exec " + m.point}}
		if !m.has("noexec") {
			f.Status, f.Expected, f.Observed = StatusWarn, "mounted without nosuid", m.point+" is mounted nosuid: setuid programs in volumes lose it"
			f.Remedy.Command = "mount -o remount,suid " + m.point
		}
		out = append(out, f)
	}
	out = append(out, e.policies(ctx)...)
	if len(out) == 0 {
		return []Finding{pass("mounts and policies", "nothing forbids programs in "+strings.Join(e.stateDirs(), ", "), "/proc/mounts")}
	}
	return out
}

// policies are fapolicyd and SELinux.
func (e *Env) policies(ctx context.Context) []Finding {
	var out []Finding
	if e.unitOn(ctx, "fapolicyd.service") {
		out = append(out, Finding{Status: StatusFail, Subject: "fapolicyd.service", Expected: "not enabled", Observed: "enabled: it does not work with containers",
			Source: "systemctl is-enabled", Remedy: Remedy{Command: "systemctl disable --now fapolicyd"}})
	}
	mode, at, ok := lastValue(configLines(e.Reader.FS(), "/etc/selinux/config"), "SELINUX")
	if !ok || mode != "enforcing" || e.Node.Kernel.SELinux == "" {
		return out
	}
	modules, err := glob(e.Reader.FS(), "/var/lib/selinux/*/active/modules/*/"+e.Node.Kernel.SELinux)
	switch {
	case err != nil:
		out = append(out, unproven("SELinux", "its policy modules cannot be read: "+err.Error()))
	case len(modules) == 0:
		out = append(out, Finding{Status: StatusFail, Subject: "SELinux", Expected: "policy module " + e.Node.Kernel.SELinux, Observed: "enforced without it", Source: at.where(),
			Remedy: Remedy{Text: "install the distribution's policy package (" + e.Node.Kernel.SELinux + "-selinux) from the media"}})
	}
	return out
}

// inMemory are file systems that a power-off empties.
func inMemory(kind string) bool {
	return kind == "tmpfs" || kind == "ramfs" || kind == "devtmpfs" || kind == "rootfs"
}

func runLasting(_ context.Context, e *Env) []Finding {
	if fs := e.notLive("mounts", "its mounts are those"); fs != nil {
		return fs
	}
	if e.inContainer() { // overlays name their directories as the host sees them
		return []Finding{unproven("mounts", "a container has file systems of its host; check there that they are on a disk")}
	}
	if _, ok := mountOf(e.Reader.FS(), "/"); !ok {
		return []Finding{unproven("mounts", "/proc/mounts cannot be read")}
	}
	var out []Finding
	for _, d := range append([]string{"/etc", "/var/lib", "/var/lib/edgeprep"}, e.stateDirs()...) {
		m, ok := mountOf(e.Reader.FS(), d)
		if !ok {
			continue
		}
		f := Finding{Status: StatusFail, Subject: d, Expected: "on a disk, writable", Source: "/proc/mounts", Remedy: Remedy{Text: "mount a disk there"}}
		upper := upperOf(m)
		um, _ := mountOf(e.Reader.FS(), upper)
		switch {
		case inMemory(m.kind):
			f.Observed = m.point + " is a " + m.kind + ": a power-off empties it"
		case m.kind == "overlay" && upper == "" || m.kind == "squashfs" || m.kind == "iso9660" || m.kind == "erofs":
			f.Observed = m.point + " is a read-only " + m.kind
		case m.kind == "overlay" && inMemory(um.kind):
			f.Observed = m.point + " is an overlay that writes to a " + um.kind + ": a power-off empties it"
		case m.has("ro") && d != "/etc":
			f.Observed = m.point + " is mounted read-only"
		default:
			continue
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return []Finding{pass("mounts", "all on lasting, writable file systems", "/proc/mounts")}
	}
	return out
}

// upperOf is the directory that an overlay writes to.
func upperOf(m mount) string {
	for _, o := range strings.Split(m.options, ",") {
		if v, ok := strings.CutPrefix(o, "upperdir="); ok {
			return v
		}
	}
	return ""
}
