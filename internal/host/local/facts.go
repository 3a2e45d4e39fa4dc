package local

import (
	"context"
	"debug/elf"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/host"
)

const smallFile = 64 << 10

// Facts implements host.Reader. What cannot be read stays empty: none of it may keep a node from starting.
func (h *Host) Facts(ctx context.Context) (host.Facts, error) {
	if err := ctx.Err(); err != nil {
		return host.Facts{}, err
	}
	f := host.Facts{
		Hostname: h.firstLine("/etc/hostname"), MachineID: h.firstLine("/etc/machine-id"),
		OS: runtime.GOOS, Arch: runtime.GOARCH, Live: h.root.live(), Root: os.Geteuid() == 0,
	}
	if f.MachineID == "uninitialized" { // machine-id(5): the first boot is still to come
		f.MachineID = ""
	}
	if !f.Live {
		f.Arch = h.archOfPrograms()
		return f, nil
	}
	if name, err := os.Hostname(); err == nil {
		f.Hostname = name
	}
	f.BootID = h.firstLine("/proc/sys/kernel/random/boot_id")
	f.Addresses, f.ClockSync = addresses(), clockSync()
	return f, nil
}

// clockSync asks the kernel, without setting anything. STA_UNSYNC does not count: it is also set to keep the kernel
// from writing the real-time clock. systemd: src/basic/time-util.c, ntp_synced
func clockSync() host.ClockSync {
	var t unix.Timex
	_, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		return ""
	case t.Maxerror < 16_000_000: // microseconds
		return host.ClockSynchronized
	}
	return host.ClockFree
}

// firstLine is the first line that is neither empty nor a comment (hostname(5) allows them).
func (h *Host) firstLine(path string) string {
	b, err := h.fs.ReadFile(path, smallFile)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

// addresses are those that other machines may reach this one by.
func addresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if ip := p.Addr().Unmap(); !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			out = append(out, ip)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// archOfPrograms reads the architecture of a mounted image from programs that every image has.
func (h *Host) archOfPrograms() string {
	for _, p := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init", "/bin/sh", "/usr/bin/env", "/bin/busybox"} {
		if arch := h.archOf(p); arch != "" {
			return arch
		}
	}
	return runtime.GOARCH
}

func (h *Host) archOf(path string) string {
	f, err := h.fs.open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	e, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	little := e.Data == elf.ELFDATA2LSB
	switch {
	case e.Machine == elf.EM_X86_64:
		return "amd64"
	case e.Machine == elf.EM_AARCH64:
		return "arm64"
	case e.Machine == elf.EM_ARM:
		return "arm"
	case e.Machine == elf.EM_386:
		return "386"
	case e.Machine == elf.EM_RISCV && e.Class == elf.ELFCLASS64:
		return "riscv64"
	case e.Machine == elf.EM_PPC64 && little:
		return "ppc64le"
	case e.Machine == elf.EM_S390:
		return "s390x"
	}
	return ""
}
