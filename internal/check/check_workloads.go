package check

import (
	"context"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/manifest"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// workloadChecks are about what the manifests on this disk ask for.
func workloadChecks() []Check {
	return []Check{workloadImagesCheck(), pullPolicyCheck(), storageImagesCheck(), runtimeRefsCheck(), remoteSourcesCheck(), admissionCheck()}
}

const noManifest = "no manifest on this disk names one; what only the API knows is for the cluster's own list"

func workloadImagesCheck() Check {
	return Check{
		ID: "IMG-04", Title: "every image that a pod of a manifest on this disk runs can be had, also of init containers, Jobs, CronJobs and hooks",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:    "an install or upgrade hangs until its time-out; a pod stays in Init; a CronJob fails on its first night",
			Cause:   "lists of images are made from running pods: completed Jobs, CronJobs that have not fired, hooks, init and ephemeral containers are not seen",
			Look:    "static pods, the manifests that the distribution applies by itself, and those that wait in " + PendingManifests + ": every container of every kind that starts pods; CRI's answer for it, else an archive that is imported at start, else the mirror",
			Fix:     "add the image to the archives and to the required list; make the list from rendered manifests (helm template), with hooks",
			Sources: []string{"opensearch-project/helm-charts#611", "devops-ia/helm-opencti#63", "hauler-dev/hauler#485"},
		},
		Run: runWorkloadImages,
	}
}

func runWorkloadImages(ctx context.Context, e *Env) []Finding {
	m := e.memo.manifests()
	out := slices.Clone(m.bad)
	for _, o := range m.objects {
		for _, c := range o.Containers {
			out = append(out, e.judgeImage(ctx, c.Image, who(o, c), o.At(c.Line)))
		}
	}
	return findings(out, "images of manifests", noManifest)
}

func who(o manifest.Object, c manifest.Container) string {
	return o.String() + ", " + strings.TrimSpace(c.Role+" "+c.Name)
}

func pullPolicyCheck() Check {
	return Check{
		ID: "IMG-06", Title: "no pod asks a registry at its start for what no mirror resolves",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"IMG-04", "MIR-03"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "ErrImagePull although crictl images shows the image",
			Cause:   "imagePullPolicy Always, which latest and a name without a tag imply, and the admission plugin AlwaysPullImages resolve the tag at a registry at every start",
			Look:    "the pull policy of every container in manifests on this disk after defaulting, admission plugins of the API server, tags that move in the required list; whether the mirror resolves each",
			Fix:     "name a tag or digest that does not move and set imagePullPolicy: IfNotPresent, or bring the image into the mirror",
			Sources: []string{"kubernetes: pkg/apis/core/v1/defaults.go, plugin/pkg/admission/alwayspullimages", "rke2-docs: registry_mirror.md", "openebs/charts#131", "openfaas/faas-netes#322"},
		},
		Run: runPullPolicy,
	}
}

func runPullPolicy(_ context.Context, e *Env) []Finding {
	m := e.memo.manifests()
	plugins, source := e.admissionPlugins()
	forced := slices.Contains(plugins, "AlwaysPullImages")
	var out []Finding
	for _, o := range m.objects {
		for _, c := range o.Containers {
			switch _, err := preload.ParseReference(c.Image); {
			case err != nil: // IMG-04 says so
			case c.Effective() == "Always":
				out = append(out, e.resolvable(c.Image, who(o, c), "pull policy Always", o.At(c.Line)))
			case forced && !m.static[o.File]: // kubelet asks nobody about static pods
				out = append(out, e.resolvable(c.Image, who(o, c), "AlwaysPullImages of the API server", source))
			case manifest.Moving(c.Image):
				out = append(out, moving(c.Image+" ("+who(o, c)+")", o.At(c.Line)))
			}
		}
	}
	for _, r := range e.Required {
		switch {
		case forced:
			out = append(out, e.resolvable(r.Name, "required", "AlwaysPullImages of the API server", source))
		case r.Tag == "latest" && r.Digest == "" && !e.memo.set().held[r.Name].Mirror:
			out = append(out, moving(r.Name+" (required)", "the list of required images"))
		}
	}
	return findings(out, "pull policies", "no container in a manifest on this disk asks a registry at every start, and no required tag moves")
}

// resolvable says whether a mirror answers for an image that is asked for at every start.
func (e *Env) resolvable(image, who, why, source string) Finding {
	subject := image + " (" + who + ")"
	h := e.memo.set().held[fullName(image)]
	switch {
	case h.Mirror:
		return pass(subject, why+": the mirror resolves it", source)
	case h.Asked != "":
		return unproven(subject, why+", and whether a mirror resolves it is not known: "+h.Asked)
	}
	return Finding{Status: StatusFail, Subject: subject, Expected: "a mirror that resolves it with egress cut", Observed: why + ", and no mirror has it", Source: source,
		Remedy: Remedy{Text: "set imagePullPolicy: IfNotPresent and a tag that does not move, or bring it into the mirror", Command: "edgeprep mirror load ARCHIVE"}}
}

func moving(subject, source string) Finding {
	return Finding{Status: StatusWarn, Subject: subject, Expected: "a tag or digest that does not move", Observed: "latest, said or implied: nodes may have different images, and a pod without a pull policy asks a registry at every start",
		Source: source, Remedy: Remedy{Text: "name the version"}}
}

// admissionPlugins are those that the API server of this node is told to use besides its defaults.
func (e *Env) admissionPlugins() (plugins []string, source string) {
	const flag = "enable-admission-plugins="
	take := func(words []string, at string) {
		for _, w := range words {
			if list, ok := strings.CutPrefix(strings.TrimLeft(w, "-"), flag); ok {
				plugins, source = append(plugins, strings.Split(list, ",")...), at
			}
		}
	}
	m := e.memo.manifests()
	for _, o := range m.objects {
		for _, c := range o.Containers {
			if m.static[o.File] {
				take(c.Words, o.At(c.Line))
			}
		}
	}
	take(strings.Fields(e.Node.Workload.APIArgs), e.Node.Workload.APIArgsSource)
	return plugins, source
}

func storageImagesCheck() Check {
	return Check{
		ID: "IMG-03", Title: "the images of storage drivers, helper pods included, can be had",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"IMG-04"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "volumes stay Pending; a mirror that keeps its cache on one never starts",
			Cause:   "images of CSI sidecars, node plugins and helper pods are on no list; the helper of local-path is named in a ConfigMap, not in a pod",
			Look:    "for each StorageClass in manifests on this disk: the pods that are told of its provisioner, else those of the same file, and images named in ConfigMaps of their namespace. Where the mirror itself waits for a volume, on the node",
			Fix:     "preload the driver's images on every node that may mount such a volume, and pin them",
			Sources: []string{"rancher/local-path-provisioner#32, #188"},
		},
		Run: runStorageImages,
	}
}

func runStorageImages(ctx context.Context, e *Env) []Finding {
	objects := e.memo.manifests().objects
	var out []Finding
	for _, class := range objects {
		if class.Driver == "" || class.Driver == "kubernetes.io/no-provisioner" {
			continue
		}
		for _, o := range driverObjects(objects, class) {
			for _, c := range o.Containers {
				out = append(out, e.storageImage(ctx, c.Image, class.Name+": "+who(o, c), o.At(c.Line)))
			}
			if o.Workload { // what it tells its program is IMG-05's
				continue
			}
			for _, t := range o.Texts {
				out = append(out, e.storageImage(ctx, t.Image, class.Name+": "+o.String()+", "+t.Where, o.At(t.Line)))
			}
		}
	}
	return findings(out, "storage drivers", "no manifest on this disk has a StorageClass with a driver; of those that only the API knows the cluster's own list tells")
}

// driverObjects are the workloads that are told of a class's driver, else those of the class's file, and the
// ConfigMaps of their namespaces.
func driverObjects(objects []manifest.Object, class manifest.Object) []manifest.Object {
	var out []manifest.Object
	for _, is := range []func(manifest.Object) bool{
		func(o manifest.Object) bool { return mentions(o, class.Driver) },
		func(o manifest.Object) bool { return o.Workload && o.File == class.File },
	} {
		for _, o := range objects {
			if is(o) {
				out = append(out, o)
			}
		}
		if len(out) > 0 {
			break
		}
	}
	near := func(o manifest.Object) bool {
		return slices.ContainsFunc(out, func(d manifest.Object) bool { return d.Workload && d.Namespace == o.Namespace })
	}
	for _, o := range objects {
		if o.Kind == "ConfigMap" && near(o) {
			out = append(out, o)
		}
	}
	return out
}

// mentions says whether a container is told of a name.
func mentions(o manifest.Object, name string) bool {
	return slices.ContainsFunc(o.Containers, func(c manifest.Container) bool {
		return slices.ContainsFunc(c.Words, func(w string) bool { return strings.Contains(w, name) })
	})
}

// storageImage: a mirror that waits for a volume cannot serve the images of the volume's driver.
func (e *Env) storageImage(ctx context.Context, image, who, source string) Finding {
	f := e.judgeImage(ctx, image, who, source)
	volume := e.Site.Mirror.Mode == string(config.ModeWorkload) && e.Site.Mirror.Workload.Form == config.FormDeployment
	if h := e.memo.set().held[fullName(image)]; f.Status == StatusPass && volume && h.Node == "" {
		f.Status, f.Expected, f.Observed = StatusFail, "on the node", "only in the mirror, whose own volume waits for this driver"
		f.Remedy = Remedy{Text: "add an archive of it to [images] archives, so that it is preloaded, then", Command: "edgeprep apply"}
	}
	return f
}

func runtimeRefsCheck() Check {
	return Check{
		ID: "IMG-05", Title: "images named in environment, arguments, ConfigMaps and custom resources can be had",
		Severity: SeverityWarn, Scope: ScopeRehearsal, DependsOn: []string{"IMG-04"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "an operator is Running; the pods that it makes days later are in ImagePullBackOff",
			Cause:   "operators take images from RELATED_IMAGE_ variables, flags, ConfigMaps, fields of custom resources: no pod names them before the operator makes one",
			Look:    "every string in manifests on this disk that is an image reference with a tag or digest and a registry, or stands behind a key with \"image\"; repository and tag in values of charts. Names that are in the program itself only a rehearsal finds",
			Fix:     "add them to the archives and the required list; prove it by a rehearsal with egress cut",
			Sources: []string{"openshift/oc-mirror#895", "okd-project/okderators-catalog-index#21", "chaosblade-io/chaosblade#1172"},
		},
		Run: runRuntimeRefs,
	}
}

func runRuntimeRefs(ctx context.Context, e *Env) []Finding {
	var out []Finding
	for _, o := range e.memo.manifests().objects {
		for _, t := range o.Texts {
			out = append(out, e.judgeImage(ctx, t.Image, o.String()+", "+t.Where, o.At(t.Line)))
		}
	}
	return findings(out, "images named elsewhere", noManifest)
}

func remoteSourcesCheck() Check {
	return Check{
		ID: "IMG-13", Title: "no chart, repository or manifest is fetched from outside the site at run time",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "an install times out although all images are there",
			Cause:   "charts and repositories are fetched by their controllers over HTTP, which no image mirror serves",
			Look:    "HelmChart, HelmRelease, HelmRepository, GitRepository, Application and their like in manifests on this disk: URLs that are neither the cluster's own nor a private address or name",
			Fix:     "put the chart into the object (spec.chartContent), render it into a manifest, or serve it at the site",
			Sources: []string{"canonical/microk8s#3863, #1184", "k3s-io/helm-controller"},
		},
		Run: runRemoteSources,
	}
}

func runRemoteSources(_ context.Context, e *Env) []Finding {
	var out []Finding
	for _, o := range e.memo.manifests().objects {
		for _, s := range o.Sources {
			subject := o.String() + ", " + s.Key
			if s.Local() {
				out = append(out, pass(subject, s.URL+" is at the site", o.At(s.Line)))
				continue
			}
			out = append(out, Finding{Status: StatusFail, Subject: subject, Expected: "in the object, or at the site", Observed: "fetched from " + withoutUser(s.URL), Source: o.At(s.Line),
				Remedy: Remedy{Text: "put the chart into spec.chartContent, render it into a manifest, or serve it at the site"}})
		}
	}
	return findings(out, "charts and repositories", "no object on this disk fetches one")
}

// withoutUser leaves out what may be a password.
func withoutUser(u string) string {
	scheme, rest, ok := strings.Cut(u, "://")
	at := strings.LastIndexByte(strings.SplitN(rest, "/", 2)[0], '@')
	if !ok || at < 0 {
		return u
	}
	return scheme + "://" + rest[at+1:]
}
