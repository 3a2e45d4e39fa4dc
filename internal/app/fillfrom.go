package app

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// IsMirrorURL says whether an argument names a mirror and no file.
func IsMirrorURL(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// through makes upstreams that pull every registry of the references from one mirror. It is asked in path style
// (/v2/docker.io/library/busybox), which needs no ns parameter; references of its own host are asked for as they
// are. CA, client certificate and credentials are those of the upstream that the site names for its host.
func through(at string, named []mirror.Upstream, refs []mirror.Reference) ([]mirror.Upstream, error) {
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, &diag.Refused{Err: diag.Report{{ID: "MER-068", Severity: diag.Error, What: "this is not the URL of a mirror",
			Fix: "write it as http://host:5000; credentials belong into an [[upstream]] of --config"}}}
	}
	var like mirror.Upstream
	for _, n := range named {
		if n.Host == u.Host {
			like = n
		}
	}
	like.Allow, like.Deny = nil, nil
	var out []mirror.Upstream
	seen := map[string]bool{}
	for _, r := range refs {
		if seen[r.Registry] {
			continue
		}
		seen[r.Registry] = true
		m := like
		m.Host, m.URL = r.Registry, strings.TrimRight(at, "/")
		if r.Registry != u.Host {
			m.URL += "/" + r.Registry
		}
		out = append(out, m)
	}
	return out, nil
}

// references are those of the command line and of the list.
func (r FillRequest) references() ([]mirror.Reference, error) {
	names := r.References
	if r.Required != "" {
		listed, err := r.listed()
		if err != nil {
			return nil, err
		}
		names = append(names, listed...)
	}
	var out []mirror.Reference
	seen := map[string]bool{}
	for _, n := range names {
		ref, err := mirror.ParseReference(n)
		if err != nil {
			return nil, err
		}
		if !seen[ref.String()] {
			seen[ref.String()] = true
			out = append(out, ref)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("nothing to %s: name references or a --required file", r.verb())
	}
	return out, nil
}

func (r FillRequest) verb() string {
	if r.From != "" {
		return "load"
	}
	return "fill with"
}

// listed are the references of the list: a file as [images] required names one, stdin, or what
// "edgeprep mirror ls -o json" prints.
func (r FillRequest) listed() ([]string, error) {
	if r.Required == "-" || startsLikeJSON(r.Required) {
		return readNames(r.Required, r.Stdin)
	}
	h, err := local.New(local.Options{})
	if err != nil {
		return nil, fmt.Errorf("open this machine: %w", err)
	}
	file, err := filepath.Abs(r.Required)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", r.Required, err)
	}
	refs, err := preload.ReadRequired(h.FS(), file)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, ref := range refs {
		out = append(out, ref.String())
	}
	return out, nil
}

func startsLikeJSON(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	return err == nil && bytes.HasPrefix(bytes.TrimSpace(b), []byte("["))
}
