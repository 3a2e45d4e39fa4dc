package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func platformChecks() []Check {
	return []Check{platformCheck(), schemaCheck()}
}

func platformCheck() Check {
	return Check{
		ID: "IMG-08", Title: "the images are for this node's platform, and so are the programs in them",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-10"}, Unwaivable: true, Timeout: deepTimeout,
		Story: Story{
			Seen:    "\"exec format error\", \"no match for platform\", or an image that stays incomplete",
			Cause:   "an archive was exported on another architecture; or an image says that it is for one and holds programs of another",
			Look:    "for every image in containerd that this node's files ask for: the manifest that containerd would take, the config's platform; --deep also the program that the image starts, its machine read from the layers",
			Fix:     "export the image again for the node's platform: skopeo copy --override-arch, docker save --platform",
			Sources: []string{"k3s-io/k3s#1285, #2198", "kubernetes-sigs/kind#1346", "mesosphere/mindthegap#292"},
		},
		Run: runPlatform,
	}
}

// askedRecords are the images in containerd that this node's files ask for, by name.
func (e *Env) askedRecords() ([]host.Image, error) {
	records, err := e.memo.images()
	if err != nil {
		return nil, err
	}
	var out []host.Image
	for name := range e.memo.set().held {
		if img, ok := records[name]; ok {
			out = append(out, img)
		}
	}
	slices.SortFunc(out, func(a, b host.Image) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// eachVariant judges every image in containerd that is asked for.
func (e *Env) eachVariant(ctx context.Context, subject string, judge func(host.Image, variant, error) Finding) []Finding {
	if fs := e.withRuntime(ctx, subject); fs != nil {
		return fs
	}
	images, err := e.askedRecords()
	if err != nil {
		return []Finding{couldNotRun(subject, err)}
	}
	store := e.Reader.Runtime(e.Node.Runtime.Endpoint)
	var out []Finding
	for _, img := range images {
		v, err := resolveVariant(ctx, store, img.Target, e.Platform)
		switch {
		case ctx.Err() != nil:
			return append(out, couldNotRun(subject, ctx.Err()))
		default:
			out = append(out, judge(img, v, err))
		}
	}
	return findings(out, subject, "containerd has none of the images that are asked for")
}

func runPlatform(ctx context.Context, e *Env) []Finding {
	p := programs{e: e, layers: map[string]layerFiles{}}
	return e.eachVariant(ctx, "platforms", func(img host.Image, v variant, err error) Finding {
		f := Finding{Status: StatusFail, Subject: img.Name, Expected: "for " + e.Platform, Source: "content store of " + e.Node.Runtime.Endpoint.Socket,
			Remedy: Remedy{Text: "export it again for " + e.Platform + ", then", Command: "edgeprep apply"}}
		switch {
		case err != nil:
			return unproven(img.Name, err.Error())
		case v.schema1:
			return skip(img.Name, "its manifest is of a kind that IMG-15 refuses")
		case v.layers == nil && len(v.offered) > 0:
			f.Observed = "its index has only " + strings.Join(v.offered, ", ")
			return f
		case v.platform != "" && !preload.Runs(e.Platform, v.platform):
			f.Observed = "its config says " + v.platform
			return f
		case !e.opts.Deep:
			return pass(img.Name, v.said(), f.Source)
		}
		return p.judge(ctx, img, v, f)
	})
}

func (v variant) said() string {
	if v.platform == "" {
		return "its config names no platform"
	}
	return "its config says " + v.platform
}

// programs looks for the programs that images start; images share layers.
type programs struct {
	e      *Env
	layers map[string]layerFiles
}

// judge compares the machine of an image's program with the node's; bad is the finding when they differ.
func (p *programs) judge(ctx context.Context, img host.Image, v variant, bad Finding) Finding {
	files := map[string]file{}
	for _, d := range v.layers {
		l, err := p.layer(ctx, d.Digest.String())
		if err != nil {
			return unproven(img.Name, err.Error())
		}
		l.over(files)
	}
	name, f, ok := entrypoint(files, v.config.Config)
	_, arch, _ := strings.Cut(p.e.Platform, "/")
	arch, _, _ = strings.Cut(arch, "/")
	fits := machines(arch)
	switch {
	case !ok || !f.isELF || fits == nil:
		return pass(img.Name, v.said()+"; no program to compare with in its layers", bad.Source)
	case !slices.Contains(fits, f.machine):
		bad.Observed = fmt.Sprintf("%s, but %s is a program for %s", v.said(), name, f.machine)
		return bad
	}
	return pass(img.Name, fmt.Sprintf("%s; %s is a program for %s", v.said(), name, f.machine), bad.Source)
}

func (p *programs) layer(ctx context.Context, digest string) (layerFiles, error) {
	if l, ok := p.layers[digest]; ok {
		return l, nil
	}
	r, err := p.e.Reader.Runtime(p.e.Node.Runtime.Endpoint).OpenBlob(ctx, digest)
	if err != nil {
		return layerFiles{}, fmt.Errorf("layer %s cannot be read: %w", digest, err)
	}
	l, err := readLayer(ctx, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return l, fmt.Errorf("layer %s: %w", digest, err)
	}
	p.layers[digest] = l
	return l, nil
}

func schemaCheck() Check {
	return Check{
		ID: "IMG-15", Title: "no image has a manifest of docker's first schema, which containerd refuses",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"TAR-01"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "a pull or import is refused: unsupported manifest type",
			Cause:   "schema 1 is from 2015 and was removed in containerd 2.1; old registries still answer with it",
			Look:    "media type and schemaVersion of the images in containerd that are asked for, and of those in the archives",
			Fix:     "pull and push the image with a current tool, which converts it: skopeo copy --format oci",
			Sources: []string{"containerd: RELEASES.md (removed in 2.1)"},
		},
		Run: runSchema,
	}
}

func runSchema(ctx context.Context, e *Env) []Finding {
	bad := func(subject, source string) Finding {
		return Finding{Status: StatusFail, Subject: subject, Expected: "an OCI or schema 2 manifest", Observed: "its manifest is of docker's schema 1", Source: source,
			Remedy: Remedy{Text: "convert it: skopeo copy --format oci docker://NAME oci-archive:FILE:NAME"}}
	}
	out := e.eachVariant(ctx, "manifests", func(img host.Image, v variant, err error) Finding {
		if err != nil {
			return skip(img.Name, "its manifest cannot be read, which IMG-08 says")
		}
		if v.schema1 {
			return bad(img.Name, "content store of "+e.Node.Runtime.Endpoint.Socket)
		}
		return pass(img.Name, "a manifest that containerd takes", "content store of "+e.Node.Runtime.Endpoint.Socket)
	})
	for _, a := range e.memo.archives() {
		if a.err != nil && strings.Contains(a.err.Error(), "manifest.v1+") {
			out = append(out, bad(a.path, a.err.Error()))
		}
	}
	return out
}
