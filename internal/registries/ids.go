package registries

import (
	"strconv"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
)

// Ids of this package's findings: NOD-2xx.
const (
	idEndpoint     = "NOD-200" // a mirror URL that cannot be used
	idHost         = "NOD-201" // not a registry host
	idFormat       = "NOD-202" // registries format unknown
	idRead         = "NOD-203" // a file of the node cannot be read
	idYAML         = "NOD-210" // registries.yaml is not YAML
	idYAMLShape    = "NOD-211" // registries.yaml is YAML of another shape
	idYAMLUnknown  = "NOD-212" // registries.yaml has a key that is ignored
	idYAMLKind     = "NOD-213" // registries.yaml is a directory or the like
	idYAMLEndpoint = "NOD-214" // registries.yaml has an endpoint that is skipped
	idNoFallback   = "NOD-215" // the drop-in is overridden
	idInactive     = "NOD-216" // written, but the runtime has not taken it in
	idTOML         = "NOD-220" // config.toml is not TOML
	idImport       = "NOD-221" // config.toml imports a file that is not there
	idCRIDisabled  = "NOD-222" // the CRI plugin is switched off
	idInline       = "NOD-223" // config.toml has inline mirrors or configs
	idVersions     = "NOD-224" // config versions that do not go together
	idColon        = "NOD-225" // config_path is a list
	idNoConfigPath = "NOD-226" // config_path is not set
	idWrongTable   = "NOD-227" // config_path stands where it is not read
	idRelative     = "NOD-228" // config_path is not absolute
	idReadOnly     = "NOD-229" // config.toml cannot be changed where it is
	idHostsTOML    = "NOD-230" // hosts.toml is not TOML: ignored as a whole
	idHostsKey     = "NOD-231" // hosts.toml has a key that is ignored
	idHostsValue   = "NOD-232" // hosts.toml has a value for which it is ignored as a whole
	idHostsServer  = "NOD-233" // hosts.toml has a server and no [host]
	idHostsInline  = "NOD-234" // a host that is no [host."URL"] header
	idHostsTLS     = "NOD-235" // TLS settings on plain http
	idHostsResolve = "NOD-236" // a mirror without resolve
	idHostsEmpty   = "NOD-237" // a registry directory without hosts.toml hides _default
	idHostsCA      = "NOD-238" // a CA or client file that cannot be read
)

func newDiag(id string, w diag.Where, what, why, fix string) *diag.Diagnostic {
	return &diag.Diagnostic{ID: id, Severity: diag.Error, What: what, Where: w, Why: why, Fix: fix}
}

func warning(d *diag.Diagnostic) *diag.Diagnostic {
	d.Severity = diag.Warning
	return d
}

func refuse(d *diag.Diagnostic) error { return &diag.Refused{Err: d} }

func quoted(s string) string { return strconv.Quote(s) }

func unknownFormat(n distro.Node) error {
	return refuse(newDiag(idFormat, diag.Where{Key: "registries.format"}, "registries format "+quoted(n.Registries.Format)+" of "+n.ID+" is not known",
		"edgeprep writes "+FormatYAML+" and "+FormatCertsD, "correct the descriptor: edgeprep distro show "+n.ID))
}
