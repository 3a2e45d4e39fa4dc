package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/test/nspawn"
)

// terminal is a tmux session of 80x24 with one program on a node in it.
type terminal struct {
	t      *testing.T
	socket string
}

// open runs a command line on the node in a terminal of its own.
func open(t *testing.T, n *nspawn.Node, command string) *terminal {
	t.Helper()
	x := &terminal{t: t, socket: filepath.Join(t.TempDir(), "tmux")}
	args := append([]string{"new-session", "-d", "-x", "80", "-y", "24", "-s", "edgeprep"}, n.Inside("env", "TERM=screen", "LANG=C.UTF-8", "bash", "-c",
		command+"; echo left with $?; exec sleep infinity")...)
	x.tmux(args...)
	t.Cleanup(x.lose)
	return x
}

func (x *terminal) tmux(args ...string) string {
	x.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", x.socket, "-f", "/dev/null"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (x *terminal) screen() string {
	x.t.Helper()
	return x.tmux("capture-pane", "-p", "-t", "edgeprep")
}

// keys presses keys by the names that tmux gives them.
func (x *terminal) keys(names ...string) {
	x.t.Helper()
	x.tmux(append([]string{"send-keys", "-t", "edgeprep"}, names...)...)
}

func (x *terminal) typed(text string) {
	x.t.Helper()
	x.tmux("send-keys", "-t", "edgeprep", "-l", text)
}

// until waits for a text on the screen.
func (x *terminal) until(within time.Duration, text string) string {
	x.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		s := x.screen()
		if strings.Contains(s, text) {
			return s
		}
		if time.Now().After(end) {
			x.t.Fatalf("no %q within %s on\n%s", text, within, s)
		}
	}
}

// lose takes the terminal away, as a cut line does.
func (x *terminal) lose() { _ = exec.Command("tmux", "-S", x.socket, "kill-server").Run() }

// toReview goes from the start to the reviewed plan with the defaults.
func (x *terminal) toReview() {
	x.t.Helper()
	x.until(time.Minute, "Step 1 of 9")
	x.until(time.Minute, "What do you want to do?")
	x.keys("Enter")
	x.until(time.Minute, "Step 2 of 9")
	for _, step := range []string{"3", "4", "5", "6"} {
		x.keys("Tab")
		x.until(time.Minute, "Step "+step+" of 9")
	}
	x.until(2*time.Minute, "Plan: ")
}

// TestStagingTUI: a real node from nothing to a kept report by keys alone, with the terminal lost in the middle of
// the first run; and the same by numbered questions from a here-document.
func TestStagingTUI(t *testing.T) {
	need(t)
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatal("needs tmux: apt-get install tmux")
	}
	n := shaped(t, buildTools(t), "2.4")
	n.Must(t, "mkdir -p /opt/edgeprep/images && images -binary /bin/busybox -pause registry.k8s.io/pause:3.10.2 -out /opt/edgeprep/images && mv /opt/edgeprep/images/mirror.tar /opt/edgeprep/")

	step(t, "the terminal is lost during apply", func() {
		x := open(t, n, "edgeprep")
		x.toReview()
		x.keys("A")
		x.until(time.Minute, "type restart to accept")
		x.typed("restart")
		x.keys("Enter")
		x.until(time.Minute, "Safe to disconnect")
		x.lose()
		r := n.Sh(t, "edgeprep apply --attach")
		if r.Code != 0 || !strings.Contains(r.Stderr, "ok ") {
			t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		n.Must(t, "edgeprep plan --detailed-exitcode && systemctl is-active edgeprep-mirror && ! systemctl is-failed 'edgeprep-run-*'")
	})
	step(t, "from nothing to a kept report", func() {
		n.Must(t, "edgeprep rollback --allow restart && rm /etc/edgeprep/edgeprep.toml")
		x := open(t, n, "edgeprep")
		x.toReview()
		x.keys("A")
		x.until(time.Minute, "type restart to accept")
		x.typed("restart")
		x.keys("Enter")
		x.until(2*time.Minute, "DONE")
		x.keys("Enter")
		x.until(2*time.Minute, "Step 8 of 9")
		s := x.until(2*time.Minute, "only what is missing")
		if strings.Contains(s, "FAIL") {
			t.Errorf("a check failed:\n%s", s)
		}
		x.keys("Tab")
		x.until(time.Minute, "NOT PROVEN YET") // nobody recorded upstreams of a node that never had a network
		x.keys("n")
		x.typed("A. Nyman")
		x.keys("Enter")
		x.keys("Enter")
		x.until(time.Minute, "sha256")
		x.keys("Enter")
		x.until(time.Minute, "left with 0")
		n.Must(t, "cd /var/lib/edgeprep/reports && sha256sum -c *.sha256 && grep -q 'A. Nyman' *.json && ls *.html")
	})
	step(t, "by numbered questions", func() {
		n.Must(t, "edgeprep rollback --allow restart && rm -r /etc/edgeprep/edgeprep.toml /var/lib/edgeprep/reports")
		out := n.Must(t, "edgeprep tui --plain <<'END'\n\n\n\n\n\n\n\nrestart\nA. Nyman\nEND")
		if !strings.Contains(out, "Verdict: PASS-UNPROVEN") || strings.ContainsAny(out, "\x1b\r") {
			t.Errorf("%s", out)
		}
		n.Must(t, "edgeprep plan --detailed-exitcode && grep -q 'A. Nyman' /var/lib/edgeprep/reports/*.json")
	})
}
