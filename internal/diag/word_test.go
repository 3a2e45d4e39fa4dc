package diag_test

import (
	"os/exec"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
)

func TestWordIsWhatTheShellReads(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"/var/lib/edgeprep/mirror", "", "my cache", "it's", "a$b", "x;y", "~root", "*", "k\u00e4se", "a\nb", "host:5000/a@sha256:1"} {
		out, err := exec.Command("sh", "-c", "printf %s "+diag.Word(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q is typed as %s and read as %q (%v)", s, diag.Word(s), out, err)
		}
	}
	if got := diag.Word("/srv/cache"); got != "/srv/cache" {
		t.Errorf("a plain path is quoted: %s", got)
	}
}
