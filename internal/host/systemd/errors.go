package systemd

import (
	"github.com/edgeprep/edgeprep/internal/diag"
)

// fault is a diagnostic about a unit.
func fault(id, unit, what, why, fix string) *diag.Diagnostic {
	return &diag.Diagnostic{ID: id, Severity: diag.Error, What: what, Where: diag.Where{Unit: unit}, Why: why, Fix: fix}
}

// jobFault is the error of a job that ended, nil when it was done. The results are those of systemd's JobRemoved
// signal (org.freedesktop.systemd1(5)).
func jobFault(verb, unit, result string) error {
	switch result {
	case "done":
		return nil
	case "dependency":
		return fault("APL-071", unit, verb+": a unit that it requires failed", "systemd starts a unit only after all that it requires",
			"systemctl list-dependencies "+unit+"; systemctl --failed")
	}
	return fault("APL-070", unit, verb+": systemd says "+result, "the unit's own program or its settings are at fault",
		"journalctl -u "+unit+" -n 20")
}

func notInstallable(unit string) error {
	return fault("APL-072", unit, "it cannot be enabled: it has no [Install] section",
		"nothing would start it at boot", "systemctl edit "+unit+"   # add [Install] and WantedBy=multi-user.target")
}

func masked(unit, by string) error {
	return fault("APL-073", unit, "it cannot be enabled: it is masked by "+by, "somebody decided that it must not start",
		"systemctl unmask "+unit)
}

func noUnitFile(unit string) error {
	return fault("APL-074", unit, "there is no such unit file", "it is in none of systemd's unit directories",
		"systemctl cat "+unit+"; ls "+configDir)
}
