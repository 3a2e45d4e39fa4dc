package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
)

// accountTimeout is for programs that make accounts; they may wait for /etc/.pwd.lock.
const accountTimeout = 30 * time.Second

// Account implements host.Reader. It reads /etc/passwd only: what a directory service adds is not there at
// early boot.
func (h *Host) Account(name string) (host.Account, bool, error) {
	b, err := h.fs.ReadFile("/etc/passwd", 0)
	if errors.Is(err, fs.ErrNotExist) {
		return host.Account{}, false, nil
	}
	if err != nil {
		return host.Account{}, false, fmt.Errorf("account %s: %w", name, err)
	}
	for line := range strings.Lines(string(b)) {
		if a, ok := parseAccount(strings.TrimRight(line, "\r\n")); ok && a.Name == name {
			return a, true, nil
		}
	}
	return host.Account{}, false, nil
}

// parseAccount reads a line of passwd(5).
func parseAccount(line string) (host.Account, bool) {
	f := strings.Split(line, ":")
	if len(f) < 7 || f[0] == "" {
		return host.Account{}, false
	}
	uid, uerr := strconv.ParseUint(f[2], 10, 31)
	gid, gerr := strconv.ParseUint(f[3], 10, 31)
	return host.Account{Name: f[0], UID: int(uid), GID: int(gid), Home: f[5]}, uerr == nil && gerr == nil
}

// EnsureAccount implements host.Host. The program that makes the account is the node's when it is the running
// one, else this machine's: nothing from a mounted image is run.
func (h *Host) EnsureAccount(ctx context.Context, a host.Account) error {
	if _, ok, err := h.Account(a.Name); ok || err != nil {
		return err
	}
	cmd, err := h.accountCommand(a)
	if err != nil {
		return err
	}
	if err := runTool(ctx, cmd); err != nil {
		return fmt.Errorf("make account %s: %w", a.Name, err)
	}
	if _, ok, err := h.Account(a.Name); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("make account %s: %s ended well but there is no such account", a.Name, cmd[0]))
	}
	return nil
}

func (h *Host) accountCommand(a host.Account) ([]string, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("make account %s: needs root: %w", a.Name, host.ErrUnavailable)
	}
	if tool, err := exec.LookPath("systemd-sysusers"); err == nil {
		if name := h.sysusersFile(a.Name); name != "" && h.root.live() {
			return []string{tool, name}, nil
		} else if name != "" {
			return []string{tool, "--root=" + h.root.dir, name}, nil
		}
	}
	if !h.root.live() {
		return nil, fmt.Errorf("make account %s: it is made at the node's next boot: %w", a.Name, host.ErrUnavailable)
	}
	tool, err := exec.LookPath("useradd")
	if err != nil {
		return nil, fmt.Errorf("make account %s: neither systemd-sysusers nor useradd is here: %w", a.Name, err)
	}
	home := a.Home
	if home == "" {
		home = "/nonexistent"
	}
	return []string{tool, "--system", "--user-group", "--no-create-home", "--home-dir", home,
		"--shell", "/usr/sbin/nologin", a.Name}, nil
}

// sysusersFile is the name of the sysusers.d(5) file that describes the account. Names are looked up by the
// tool in the same directories, also under a root.
func (h *Host) sysusersFile(account string) string {
	for _, dir := range []string{"/etc/sysusers.d", "/run/sysusers.d", "/usr/local/lib/sysusers.d", "/usr/lib/sysusers.d"} {
		entries, err := h.fs.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if name := path.Base(e.Path); strings.HasSuffix(name, ".conf") && h.describes(e.Path, account) {
				return name
			}
		}
	}
	return ""
}

func (h *Host) describes(file, account string) bool {
	b, err := h.fs.ReadFile(file, smallFile)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 2 && (f[0] == "u" || f[0] == "u!") && strings.Trim(f[1], `"`) == account {
			return true
		}
	}
	return false
}

// runTool runs a program and puts what it says into the error.
func runTool(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, firstText(out.Bytes()))
	}
	return nil
}
