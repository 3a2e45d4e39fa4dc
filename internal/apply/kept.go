package apply

import (
	"fmt"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/plan"
)

// keptError says what a rollback left as it is.
func keptError(kept []plan.Pending) error {
	var r diag.Report
	for _, k := range kept {
		r.Add(&diag.Diagnostic{ID: "APL-017", Severity: diag.Error, What: "left as it is: " + k.Why, Where: diag.Where{File: k.What},
			Fix: keptFix(k.Why)})
	}
	return fmt.Errorf("%w: %w", ErrKept, r)
}

// keptFix is what to type about something that was left as it is.
func keptFix(why string) string {
	if why == inUseReason {
		return "stop the container, then: edgeprep rollback"
	}
	if why == journalLost {
		return "bring the journal back to " + plan.JournalDir + ", or take away by hand what edgeprep status names"
	}
	return "edgeprep rollback --allow overwrite   # where it was edited; else free it and roll back again"
}
