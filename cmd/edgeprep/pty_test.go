package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal that never answers a query, with a program on it.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	out    bytes.Buffer
	ended  chan error
	read   chan struct{} // closed when nothing more can come
}

// onTerminal starts edgeprep on a terminal of a size; 0x0 is what a serial line says.
func onTerminal(t *testing.T, env []string, cols, rows uint16, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	x := &terminal{t: t, master: master, ended: make(chan error, 1), read: make(chan struct{})}
	x.cmd = exec.Command("edgeprep", args...)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}, env...)
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(x.read)
		buf := make([]byte, 4096)
		for {
			n, err := x.master.Read(buf)
			x.mu.Lock()
			x.out.Write(buf[:n])
			x.mu.Unlock()
			if err != nil { // EIO: nobody has the terminal any more
				return
			}
		}
	}()
	go func() { x.ended <- x.cmd.Wait() }()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill() // over already, unless the test failed
		master.Close()
		<-x.read
	})
	return x
}

// text is what was written so far.
func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.out.String()
}

func (x *terminal) keys(s string) {
	x.t.Helper()
	if _, err := x.master.WriteString(s); err != nil {
		x.t.Fatal(err)
	}
}

// await reads until the text comes.
func (x *terminal) await(text string) {
	x.t.Helper()
	for late := time.Now().Add(time.Minute); !strings.Contains(x.text(), text); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			x.t.Fatalf("%q does not come:\n%q", text, x.text())
		}
	}
}

// code waits for the end of the program.
func (x *terminal) code() int {
	x.t.Helper()
	select {
	case err := <-x.ended:
		<-x.read
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		if err != nil {
			x.t.Fatal(err)
		}
		return 0
	case <-time.After(time.Minute):
		x.t.Fatalf("it does not end:\n%q", x.text())
	}
	return -1
}

// stageTree is a k3s node that was never prepared, with images.
func stageTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("edgeprep", "demo", "--dir", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	node := filepath.Join(dir, "node")
	if out, err := exec.Command("edgeprep", "rollback", "--root", node, "--yes").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return node
}

// TestNoEscapeFromCommands: no command but the TUI writes an escape sequence, whatever the terminal says it is. One
// that asked the terminal something would write one, and wait for an answer that no serial console gives.
func TestNoEscapeFromCommands(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "edgeprep.toml")
	if err := os.WriteFile(file, []byte("version = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, term := range []string{"TERM=xterm-256color", "TERM=linux", "TERM=vt220", "TERM=dumb", "NOTERM=1"} {
		for _, args := range [][]string{{"version"}, {"--help"}, {"distro", "list"}, {"validate", "-c", file}, {"explain", "REG-01"}, {"detect", "--root", t.TempDir()}} {
			t.Run(term+" "+args[0], func(t *testing.T) {
				t.Parallel()
				x := onTerminal(t, []string{term}, 80, 24, args...)
				x.code()
				if out := x.text(); strings.ContainsRune(out, 0x1b) || out == "" {
					t.Errorf("it wrote %q", out)
				}
			})
		}
	}
}

// TestStagingOnATerminal: the plan that the TUI shows, and the file that it writes, are those of the commands. A
// serial line that says 0x0 gets the same.
func TestStagingOnATerminal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		env        []string
		cols, rows uint16
	}{
		{"xterm", []string{"TERM=xterm-256color"}, 80, 24},
		{"serial", []string{"TERM=vt220"}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			node := stageTree(t)
			file := filepath.Join(node, "etc/edgeprep/edgeprep.toml")
			was, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			x := onTerminal(t, c.env, c.cols, c.rows, "--root", node)
			x.await("What do you want to do?")
			x.keys("\r")
			x.await("add a node")
			x.keys("4")
			x.await("How should the mirror run?")
			x.keys("jj") // through the modes to the third, which asks for mirrors, and back
			x.keys("kk")
			x.keys("jjjj") // the cache
			x.keys("\r\x15/srv/images\r6")
			x.await("Plan: ")
			if strings.HasPrefix(c.name, "serial") && strings.Contains(x.text(), "\x1b[>") {
				t.Errorf("a VT220 would print the rest of what it does not know: %q", x.text()[:200])
			}
			x.keys("q")
			if code := x.code(); code != 0 {
				t.Errorf("exit %d", code)
			}
			now, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			upstream := "upstream = \"never\"\n"
			if want := strings.Replace(string(was), upstream, upstream+"cache = \"/srv/images\"\n", 1); string(now) != want {
				t.Errorf("the file is\n%s\nnot\n%s", now, want)
			}
			out, err := exec.Command("edgeprep", "plan", "--root", node).Output()
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if summary := lines[len(lines)-1]; !strings.Contains(x.text(), summary[:30]) {
				t.Errorf("the command's plan ends %q; the TUI wrote\n%q", summary, x.text())
			}
		})
	}
}

// TestLostTerminalEndsTheTUI: a line that is gone ends the view at once, and it does not look like success.
func TestLostTerminalEndsTheTUI(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*terminal){
		"hang-up":   func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGHUP) },
		"terminate": func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := onTerminal(t, []string{"TERM=xterm"}, 80, 24, "tui", "--root", t.TempDir())
			x.await("What do you want to do?")
			lose(x)
			if code, want := x.code(), map[string]int{"hang-up": exitHup, "terminate": exitTerm}[name]; code != want {
				t.Errorf("exit %d, not %d", code, want)
			}
		})
	}
}
