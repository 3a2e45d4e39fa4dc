package check

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/preload"
)

func ownImageChecks() []Check {
	return []Check{ownImagesCheck(), prefixCheck()}
}

func ownImagesCheck() Check {
	return Check{
		ID: "IMG-02", Title: "the distribution's own images can be had, for the options of this node",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"IMG-10"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "the node stays NotReady, pods of the network or ingress are in ErrImagePull",
			Cause:   "the archive of the release was left out, is of another version, or does not hold the component that was chosen",
			Look:    "the list of images of the release beside the archives (k3s-images.txt, kubeadm-images.txt), else the content of its archives, else what the descriptor names; less what the configuration switches off. CRI's answer for each, else archives, else the mirror",
			Fix:     "add the release's archive to [images] archives and put its list beside it",
			Sources: []string{"rke2-docs: install/airgap.md", "kubernetes: cmd/kubeadm/app/images", "canonical/microk8s#2727"},
		},
		Run: runOwnImages,
	}
}

func runOwnImages(ctx context.Context, e *Env) []Finding {
	n, set := e.Node.Images, e.memo.set()
	if len(n.Lists)+len(n.Archives)+len(n.Own) == 0 {
		return []Finding{skip("own images", "nothing is known of the images that "+e.Node.Name+" brings itself")}
	}
	out := slices.Clone(set.own.bad)
	for _, i := range set.own.images {
		f := e.judgeImage(ctx, i.ref.Name, "", i.source)
		if other := e.prefixed(i.ref); n.Prefix != "" && f.Status == StatusFail {
			f = e.judgeImage(ctx, other, "", i.source)
		}
		out = append(out, f)
	}
	if len(set.own.images) > 0 {
		return out
	}
	for _, rule := range n.Own {
		out = append(out, e.ownRule(ctx, rule))
	}
	if len(n.Own) == 0 && len(out) == 0 {
		out = append(out, e.noOwnList())
	}
	return out
}

// noOwnList: without a list nothing is proven.
func (e *Env) noOwnList() Finding {
	n := e.Node.Images
	why := "which images " + e.Node.Name + " brings itself is not known here: beside the archives there is no " + strings.Join(slices.Concat(n.Lists, n.Archives), " and no ")
	f := unproven("own images", why)
	if !e.memo.facts.Live {
		f = deferred("own images", why)
	}
	f.Remedy = Remedy{Text: "copy the list of the release beside the archives"}
	return f
}

// ownRule looks for an image by the last part of its name. It is no more than a risk: not every cluster runs it.
func (e *Env) ownRule(ctx context.Context, rule string) Finding {
	subject := rule + " of " + e.Node.Name
	var found Finding
	for _, name := range e.namesLike(rule) {
		if found = e.judgeImage(ctx, name, subject, "descriptor of "+e.Node.Name); found.Status == StatusPass {
			return found
		}
	}
	if fs := e.withRuntime(ctx, subject); fs != nil {
		return fs[0]
	}
	base, _, _ := strings.Cut(rule, ":")
	f := Finding{Status: StatusWarn, Subject: subject, Expected: "on the node or in the mirror", Observed: "no archive, no required reference and nothing in containerd has such a name", Source: "descriptor of " + e.Node.Name,
		Remedy: Remedy{Text: "if this cluster runs it, add it to the archives; the list of the release beside them (" + strings.Join(e.Node.Images.Lists, ", ") + ") makes this exact"}}
	if others := e.namesLike(base); len(others) > 0 {
		f.Observed = "only " + strings.Join(others, ", ")
	}
	return f
}

func prefixCheck() Check {
	return Check{
		ID: "IMG-11", Title: "the distribution's own images are there under the registry that is put before their names",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"IMG-02"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "system pods pull from the private registry although the archive was imported",
			Cause:   "a default registry, or kubeadm's imageRepository, rewrites the references; the archive holds the original names",
			Look:    "the setting that the descriptor names, or the registry of the API server's own image; each of the distribution's images under that registry",
			Fix:     "take the setting out and use the mirror, or save the images under the prefixed names",
			Sources: []string{"rancher/rke2#630, #683", "k3s: pkg/agent/containerd (retag)", "kubernetes: cmd/kubeadm/app/images"},
		},
		Run: runPrefix,
	}
}

func runPrefix(ctx context.Context, e *Env) []Finding {
	if e.Node.Images.Prefix != "" {
		own := e.memo.set().own.images
		if len(own) == 0 {
			return []Finding{e.noOwnList()}
		}
		var out []Finding
		for _, i := range own {
			out = append(out, e.judgeImage(ctx, e.prefixed(i.ref), "prefix of "+e.Node.Images.PrefixSource, i.source))
		}
		return out
	}
	like, source := e.likeRegistry()
	if like == "" {
		return []Finding{skip("registry prefix", "none is put before the names of "+e.Node.Name+"'s images")}
	}
	var out []Finding
	for _, rule := range e.Node.Images.Own {
		if names := e.namesLike(rule); len(names) > 0 {
			out = append(out, judgeLike(rule, like, source, names))
		}
	}
	return findings(out, "registry prefix", "none of "+e.Node.Name+"'s images but those of static pods is known")
}

// likeRegistry is where the image of a static pod comes from that others are named after.
func (e *Env) likeRegistry() (registry, source string) {
	m := e.memo.manifests()
	for _, o := range m.objects {
		for _, c := range o.Containers {
			r, err := preload.ParseReference(c.Image)
			if err == nil && m.static[o.File] && e.Node.Images.Like != "" && path.Base(r.Repository) == e.Node.Images.Like {
				return strings.TrimSuffix(r.Host+"/"+r.Repository, "/"+e.Node.Images.Like), o.At(c.Line)
			}
		}
	}
	return "", ""
}

func judgeLike(rule, registry, source string, names []string) Finding {
	for _, n := range names {
		if strings.HasPrefix(n, registry+"/") {
			return pass(rule, n, source)
		}
	}
	return Finding{Status: StatusFail, Subject: rule, Expected: "under " + registry + "/", Observed: "only " + strings.Join(names, ", "), Source: source,
		Remedy: Remedy{Text: "save it under " + registry + "/, as the cluster asks for it, then", Command: "edgeprep apply"}}
}
