package local

import (
	"github.com/edgeprep/edgeprep/internal/host"
)

// ReadOnly is a view of a node whose values have no writing method, also none that a type assertion finds.
func ReadOnly(r host.Reader) host.Reader { return readOnly{r} }

// Each view embeds an interface: it has that one's methods and none of the value behind it.
type (
	readOnly    struct{ host.Reader }
	fsView      struct{ host.FS }
	unitView    struct{ host.UnitReader }
	runtimeView struct{ host.Runtime }
	criView     struct{ host.CRI }
)

func (r readOnly) FS() host.FS                           { return fsView{r.Reader.FS()} }
func (r readOnly) Units() host.UnitReader                { return unitView{r.Reader.Units()} }
func (r readOnly) Runtime(ep host.Endpoint) host.Runtime { return runtimeView{r.Reader.Runtime(ep)} }
func (r readOnly) CRI(ep host.Endpoint) host.CRI         { return criView{r.Reader.CRI(ep)} }
