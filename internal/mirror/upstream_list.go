package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what is taken of a list: an upstream may send one that never ends.
const (
	maxPages = 1000
	maxPage  = 4 << 20 // bytes of one page
	maxList  = 4 << 20 // bytes of what is kept of all pages
)

// tags lists the tags of a repository, in no order.
func (u *upstream) tags(ctx context.Context, repository string) ([]string, error) {
	var out []string
	kept := 0
	c := call{method: http.MethodGet, repository: repository, verb: "tags", ref: "list"}
	err := u.pages(ctx, c, func(body []byte) error {
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return fmt.Errorf("not a list of tags: %w", err)
		}
		for _, t := range page.Tags {
			if !validTag(t) {
				continue
			}
			if kept += len(t); kept > maxList {
				return fmt.Errorf("more than %d bytes of tags", maxList)
			}
			out = append(out, t)
		}
		return nil
	})
	return out, err
}

// referrers lists what refers to a digest: by the API, or where there is none by the tag that clients keep the
// list under. OCI distribution-spec v1.1: "Listing Referrers", "Unavailable Referrers API".
func (u *upstream) referrers(ctx context.Context, n Name, subject digest.Digest) ([]ocispec.Descriptor, error) {
	var out []ocispec.Descriptor
	kept := 0
	add := func(body []byte) error {
		var idx ocispec.Index
		if err := json.Unmarshal(body, &idx); err != nil {
			return fmt.Errorf("not a list of referrers: %w", err)
		}
		if kept += len(body); kept > maxList {
			return fmt.Errorf("more than %d bytes of referrers", maxList)
		}
		out = append(out, idx.Manifests...)
		return nil
	}
	c := call{method: http.MethodGet, repository: n.Repository, verb: "referrers", ref: subject.String()}
	err := u.pages(ctx, c, add)
	if err == nil || ctx.Err() != nil || u.breaker.isOpen() || !u.allows(n.Repository) {
		return out, err
	}
	// Registries without the API answer 404, but also 400, 405 and worse.
	_, body, terr := u.manifest(ctx, Reference{Name: n, Tag: fallbackTag(subject)}, nil)
	if terr != nil {
		return nil, fmt.Errorf("%w; %w", err, terr)
	}
	out = nil
	return out, add(body)
}

// fallbackTag is the tag of a list of referrers. OCI distribution-spec v1.1, "Referrers Tag Schema".
func fallbackTag(d digest.Digest) string {
	alg, hex := d.Algorithm().String(), d.Encoded()
	return alg[:min(32, len(alg))] + "-" + hex[:min(64, len(hex))]
}

// pages reads a list page by page.
func (u *upstream) pages(ctx context.Context, c call, read func(body []byte) error) error {
	for range maxPages {
		resp, err := u.do(ctx, c)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage+1))
		resp.Body.Close()
		if err == nil && len(body) > maxPage {
			err = fmt.Errorf("a page longer than %d bytes", maxPage)
		}
		if err == nil {
			err = read(body)
		}
		if err != nil {
			return fmt.Errorf("%w: %s/%s %s: %w", errUnavailable, u.cfg.Host, c.repository, c.verb, err)
		}
		next := nextQuery(resp.Header.Values("Link"))
		if next == "" || next == c.query {
			return nil
		}
		c.query = next
	}
	return fmt.Errorf("%w: %s/%s %s: more than %d pages", errUnavailable, u.cfg.Host, c.repository, c.verb, maxPages)
}

// nextQuery is the query of the link to the next page (RFC 8288), or "". Its host and path are not looked at:
// registries behind proxies give their own, and nothing else than the repository's list is to be asked for.
func nextQuery(links []string) string {
	for _, s := range links {
		for s != "" {
			_, rest, _ := strings.Cut(s, "<")
			target, params, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			own, _, _ := strings.Cut(params, "<")
			if rel := strings.ReplaceAll(own, `"`, ""); strings.Contains(strings.ToLower(rel), "rel=next") {
				u, err := url.Parse(target)
				if err != nil {
					return ""
				}
				return u.RawQuery
			}
			s = params
		}
	}
	return ""
}
