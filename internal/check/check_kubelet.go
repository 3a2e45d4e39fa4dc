package check

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/kubelet"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func kubeletChecks() []Check {
	return []Check{pullRecordsCheck(), serialPullsCheck(), removedFlagsCheck()}
}

func pullRecordsCheck() Check {
	return Check{
		ID: "K8S-05", Title: "kubelet lets every pod use the required images that are on the node",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "\"image is not present with pull policy of Never\", or a pull of an image that is there",
			Cause:   "kubelet remembers which images it pulled and with which credentials (alpha in 1.33, on since 1.35): a pull that was cut off makes an image that was brought in later count as its own, and one pulled with a secret is for pods with that secret only",
			Look:    "kubelet's records below image_manager, for required references; its policy and feature gate, from files and flags",
			Fix:     "stop kubelet, remove the record, start it: it takes the image for preloaded then; or imagePullCredentialsVerificationPolicy: NeverVerify on a node that no stranger uses",
			Sources: []string{"kubernetes: pkg/kubelet/images/pullmanager (KEP-2535)", "kubernetes/kubernetes#138175"},
		},
		Run: runPullRecords,
	}
}

// The policies. kubernetes: pkg/kubelet/images/pullmanager/image_pull_policies.go
const (
	policyKey      = "imagePullCredentialsVerificationPolicy"
	allowlistKey   = "preloadedImagesVerificationAllowlist"
	policyNever    = "NeverVerify"
	policyPreload  = "NeverVerifyPreloadedImages"
	policyListed   = "NeverVerifyAllowlistedImages"
	policyAlways   = "AlwaysVerify"
	recordsGate    = "featureGates/KubeletEnsureSecretPulledImages"
	recordsAlpha   = 33
	recordsDefault = 35
)

func runPullRecords(ctx context.Context, e *Env) []Finding {
	const subject = "kubelet's pull records"
	c, err := e.memo.kubelet()
	if err != nil {
		return []Finding{couldNotRun(subject, err)}
	}
	if why := e.noRecords(c); why != "" {
		return []Finding{skip(subject, why)}
	}
	policy := kubelet.Value{Text: policyPreload, Source: "kubelet's default"}
	if v, ok := c.Get(policyKey); ok {
		policy = v
	}
	var out []Finding
	switch policy.Text {
	case policyNever:
		return []Finding{pass(subject, policyKey+" is "+policyNever, policy.Source)}
	case policyPreload:
		out = e.intents()
	default:
		out = e.verified(c, policy)
	}
	out = append(out, e.secretRecords(ctx)...)
	if len(out) == 0 {
		n, err := kubelet.CountPulled(e.Reader.FS(), e.Node.Kubelet.Root)
		if err != nil {
			return []Finding{couldNotRun(subject, err)}
		}
		return []Finding{pass(subject, fmt.Sprintf("no pull was cut off, and none of %s is about a required image with credentials", plural(n, "record")), e.recordsDir())}
	}
	return out
}

func (e *Env) recordsDir() string { return path.Join(e.Node.Kubelet.Root, "image_manager") }

// noRecords says why this kubelet keeps none.
func (e *Env) noRecords(c kubelet.Config) string {
	minor, known := kubelet.Minor(e.Node.Version)
	on, v, stated := c.Bool(recordsGate)
	switch {
	case e.Node.Kubelet.Root == "":
		return "nothing tells where this distribution's kubelet keeps them"
	case stated && !on:
		return "the feature KubeletEnsureSecretPulledImages is off: " + v.Source
	case known && (minor < recordsAlpha || minor < recordsDefault && !stated):
		return "kubelet of " + e.Node.Version + " does not verify credentials of images that are there"
	}
	return ""
}

// intents: at its next start kubelet makes a record without credentials of each that names an image which is there.
func (e *Env) intents() []Finding {
	list, err := kubelet.Intents(e.Reader.FS(), e.Node.Kubelet.Root)
	if err != nil {
		return []Finding{couldNotRun("pulls without an end", err)}
	}
	var out []Finding
	for _, in := range list {
		f := Finding{Status: StatusWarn, Subject: in.Image, Expected: "no pull without an end", Source: in.File,
			Observed: "a pull of it was cut off, so kubelet takes it for an image that it pulled with credentials which it does not know",
			Remedy:   Remedy{Text: "while kubelet does not run, or as soon as no pull runs", Command: "rm " + in.File}}
		switch {
		case in.Err != nil:
			f.Subject, f.Observed = in.File, "kubelet cannot read it: "+in.Err.Error()
		case e.isRequired(in.Image):
			f.Status = StatusFail
		}
		out = append(out, f)
	}
	return out
}

// isRequired says whether a pod's way to write an image is about a required one.
func (e *Env) isRequired(image string) bool {
	r, err := preload.ParseReference(image)
	return err == nil && slices.ContainsFunc(e.Required, func(q preload.Ref) bool { return q.Host == r.Host && q.Repository == r.Repository })
}

// verified: with these policies kubelet asks a registry although the image is there.
func (e *Env) verified(c kubelet.Config, policy kubelet.Value) []Finding {
	list, _ := c.Get(allowlistKey)
	var out []Finding
	for _, r := range e.Required {
		if policy.Text == policyListed && allowlisted(list.List, r) {
			continue
		}
		f := Finding{Status: StatusWarn, Subject: r.Name, Expected: policyPreload, Source: policy.Source,
			Observed: fmt.Sprintf("%s is %s: kubelet asks a registry each time a pod uses it, and with the pull policy Never the pod does not start", policyKey, policy.Text),
			Remedy:   Remedy{Text: "set " + policyKey + ": " + policyPreload + " in kubelet's configuration"}}
		if len(e.Mirrors) == 0 {
			f.Status = StatusFail
		}
		out = append(out, f)
	}
	return out
}

// allowlisted says whether a list of repositories, or of prefixes that end with "/*", names an image.
func allowlisted(list []string, r preload.Ref) bool {
	name := r.Host + "/" + r.Repository
	return slices.ContainsFunc(list, func(p string) bool {
		prefix, many := strings.CutSuffix(p, "*")
		return many && strings.HasPrefix(name, prefix) || p == name
	})
}

// secretRecords: a required image that kubelet itself pulled, but not for every pod.
func (e *Env) secretRecords(ctx context.Context) []Finding {
	n, err := kubelet.CountPulled(e.Reader.FS(), e.Node.Kubelet.Root)
	if err != nil {
		return []Finding{couldNotRun("kubelet's pull records", err)}
	}
	if n == 0 {
		return nil
	}
	if fs := e.withRuntime(ctx, "kubelet's pull records"); fs != nil {
		return fs
	}
	var out []Finding
	for _, r := range e.Required {
		if f, bad := e.secretRecord(ctx, r); bad {
			out = append(out, f)
		}
	}
	return out
}

func (e *Env) secretRecord(ctx context.Context, r preload.Ref) (Finding, bool) {
	img, ok, err := e.Reader.CRI(e.Node.Runtime.Endpoint).ImageStatus(ctx, r.Name)
	if err != nil {
		return couldNotRun(r.Name, err), true
	}
	if !ok { // CRI-10 says so
		return Finding{}, false
	}
	p, file, ok, err := kubelet.PulledRecord(e.Reader.FS(), e.Node.Kubelet.Root, img.ID)
	f := Finding{Status: StatusWarn, Subject: r.Name, Expected: "a record for every pod, or none", Source: file,
		Remedy: Remedy{Text: "stop kubelet, remove the record, start it; kubelet takes the image for preloaded then", Command: "rm " + file}}
	switch {
	case err != nil:
		f.Observed = "kubelet cannot read the record and pulls the image again: " + err.Error()
		return f, true
	case !ok:
		return f, false
	}
	for name, c := range p.Credentials {
		named, err := preload.ParseReference(name)
		if err != nil || named.Host != r.Host || named.Repository != r.Repository {
			continue
		}
		f.Observed = "kubelet pulled it with " + namesOf("secret", c.Secrets) + namesOf("service account", c.ServiceAccounts) + ": pods without it have to pull it again"
		return f, !c.AllPods
	}
	f.Observed = "kubelet pulled the same content under another name, or a pull was cut off: pods have to pull it again under this one"
	return f, true
}

func namesOf(kind string, list []kubelet.Named) string {
	var out []string
	for _, n := range list {
		out = append(out, kind+" "+n.Namespace+"/"+n.Name)
	}
	return strings.Join(out, ", ")
}

func serialPullsCheck() Check {
	return Check{
		ID: "K8S-06", Title: "a pull that hangs does not hold up other pods' pulls",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "pods that have nothing to do with each other wait behind one pull that hangs",
			Cause:   "serializeImagePulls is true unless it is set: kubelet pulls one image at a time, and a registry that does not answer takes the whole time-out of its pull",
			Look:    "serializeImagePulls and maxParallelImagePulls in effect; whether every pull ends at this node's own mirror, which answers at once in either case",
			Fix:     "serializeImagePulls: false, or maxParallelImagePulls: 4, in kubelet's configuration",
			Sources: []string{"kubernetes: pkg/kubelet/apis/config/v1beta1/defaults.go", "rancher/rke2#3176"},
		},
		Run: runSerialPulls,
	}
}

func runSerialPulls(_ context.Context, e *Env) []Finding {
	const subject = "serializeImagePulls"
	c, err := e.memo.kubelet()
	if err != nil {
		return []Finding{couldNotRun(subject, err)}
	}
	serial, v, _ := c.Bool(subject)
	if !serial {
		return []Finding{pass(subject, "images are pulled beside each other", v.Source)}
	}
	where := e.slowEnds()
	if where == "" {
		return []Finding{pass(subject, "one image at a time, and each pull ends at this node's own mirror", v.Source)}
	}
	return []Finding{{Status: StatusWarn, Subject: subject, Expected: "false, or no pull that can hang", Observed: "true, and a pull may wait for " + where, Source: v.Source,
		Remedy: Remedy{Text: "serializeImagePulls: false in kubelet's configuration, then restart it"}}}
}

// slowEnds are where a pull may go besides this node's own mirror; empty: nowhere.
func (e *Env) slowEnds() string {
	for _, m := range e.Mirrors {
		if m.Admin == "" {
			return m.URL + ", on another node"
		}
	}
	eff, err := e.memo.registries()
	if err != nil {
		return "a registry: what the runtime asks cannot be read"
	}
	for _, h := range e.requiredHosts() {
		if len(eff.Pending) == 0 && eff.For(h).Upstream {
			return h
		}
	}
	if len(e.Mirrors) == 0 {
		return "the registries themselves: there is no mirror"
	}
	return ""
}

func removedFlagsCheck() Check {
	return Check{
		ID: "K8S-07", Title: "kubelet's configuration can be read and has no flag that this version does not know",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "kubelet ends at once with \"unknown flag\", often only at the first restart after an upgrade: at power-on on site",
			Cause:   "flags are deprecated for years and then removed; scripts and files that somebody wrote keep them. kubeadm upgrade cleans only its own file",
			Look:    "kubelet's flags, from its unit, its environment files or the distribution's configuration, against those that were removed up to this version; its configuration files",
			Fix:     "remove the flag where the finding says",
			Sources: []string{"kubernetes/kubernetes#114017, #122082, #133779", "kubernetes-sigs/image-builder#1866", "siderolabs/go-kubernetes"},
		},
		Run: runRemovedFlags,
	}
}

func runRemovedFlags(_ context.Context, e *Env) []Finding {
	const subject = "kubelet"
	if _, err := e.memo.kubelet(); err != nil {
		return []Finding{{Status: StatusFail, Subject: subject, Expected: "a configuration that kubelet can read", Observed: err.Error(), Source: e.Node.Kubelet.Config,
			Remedy: Remedy{Text: "correct the file"}}}
	}
	args := e.Node.Kubelet.Args
	if _, ok := kubelet.Minor(e.Node.Version); !ok && len(kubelet.RemovedFlags(args, "v1.999.0")) > 0 {
		return []Finding{unproven(subject, "it has a flag that later versions do not know, and its version is not known; set [distro] version")}
	}
	var out []Finding
	for _, r := range kubelet.RemovedFlags(args, e.Node.Version) {
		out = append(out, Finding{Status: StatusFail, Subject: "--" + r.Name, Expected: "no flag that was removed", Source: r.Source,
			Observed: fmt.Sprintf("removed in %s; this is %s", r.Since, e.Node.Version), Remedy: Remedy{Text: "take it out of " + r.Source}})
	}
	if len(out) == 0 {
		return []Finding{pass(subject, fmt.Sprintf("%s, none of them removed up to %s", plural(len(args), "flag"), orWord(e.Node.Version, "now")), "kubelet's unit and configuration")}
	}
	return out
}
