package check

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/edgeprep/edgeprep/internal/host/local"
)

// TestMachineWithoutNetwork runs the egress check for real in a network namespace of its own, where nothing
// can be reached: it must not take that for the node's network (where PID 1 may be looked at, it says so), and
// need no network to say it.
func TestMachineWithoutNetwork(t *testing.T) {
	t.Parallel()
	if os.Getenv("EDGEPREP_TEST_NETNS") != "" {
		h, err := local.New(local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := runChecks(t, Env{Reader: h}, Options{}, egressCheck())
		fmt.Printf("egress=%s reason=%s\n", r.Egress.State, r.Egress.Reason)
		for _, p := range r.Egress.Probes {
			fmt.Printf("probe=%s tries=%d reached=%d last=%s\n", p.Target, p.Tries, p.Reached, p.Last)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMachineWithoutNetwork$", "-test.v")
	cmd.Env = append(os.Environ(), "EDGEPREP_TEST_NETNS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"egress=unproven", "network namespace",
		"probe=registry-1.docker.io:443 tries=2 reached=0",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}
