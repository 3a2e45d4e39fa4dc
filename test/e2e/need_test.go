package e2e

import (
	"os"
	"testing"

	"github.com/edgeprep/edgeprep/test/nspawn"
)

// need skips outside `make e2e`: these tests boot whole nodes and take minutes, and `make test` stays what one
// runs between two edits.
func need(t *testing.T) {
	t.Helper()
	if os.Getenv("EDGEPREP_E2E") != "1" {
		t.Skip("boots whole nodes: make e2e")
	}
	nspawn.Need(t)
}
