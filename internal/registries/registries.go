// Package registries says what a node's container runtime is told about registries, and reads what it has
// been told: hosts.toml trees and config.toml of containerd, registries.yaml of k3s and RKE2.
//
// It is pure: it reads through host.Reader and gives resources. In every form containerd knows only mirrors;
// who may talk to an upstream registry is the mirror's business (with registries.yaml, where containerd
// appends the upstream itself, a drop-in of the distribution's configuration takes it away).
package registries

import (
	"context"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// The formats of distro.Registries.
const (
	FormatYAML   = "registries.yaml"
	FormatCertsD = "certs.d"
)

// Policy is what the runtime should be told.
type Policy struct {
	Endpoints []Endpoint // mirrors, in the order they are tried
	Hosts     []string   // registry hosts to name besides "*": "docker.io", "registry.local:5000"
	// Former are mirrors that edgeprep wrote here earlier; those that are no endpoints any more are taken out
	// of files that are shared with others.
	Former []Endpoint
	// Upstream: the site may reach upstream registries now ([mirror] upstream = "connected").
	Upstream bool
}

// Note is something a person should know that stops nothing.
type Note struct {
	Text  string     `json:"text"`
	Where diag.Where `json:"where,omitzero"`
	Fix   string     `json:"fix,omitempty"`
}

// Result is the desired state and what there is to say about it.
type Result struct {
	Resources []resource.Resource
	Notes     []Note
	Pending   []Note // what takes effect only later, or not on this version
}

func (r *Result) note(text string, w diag.Where, fix string) {
	r.Notes = append(r.Notes, Note{Text: text, Where: w, Fix: fix})
}

// Desired is the registries configuration of a node. What cannot be merged safely is a *diag.Refused.
//
// The Unit resources in it are the distribution's own; when another package wants the same unit restarted,
// the caller unites their RestartOn.
func Desired(ctx context.Context, r host.Reader, n distro.Node, p Policy) (Result, error) {
	p, err := p.normalize()
	if err != nil {
		return Result{}, &diag.Refused{Err: err}
	}
	b := &builder{fs: r.FS(), node: n, policy: p, seen: map[string]bool{}}
	switch n.Registries.Format {
	case FormatYAML:
		err = b.registriesYAML(ctx)
	case FormatCertsD:
		err = b.containerd(ctx)
	default:
		err = unknownFormat(n)
	}
	if err != nil {
		return Result{}, err
	}
	return b.result, nil
}
