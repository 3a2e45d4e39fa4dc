package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/mirror/selfimage"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// own is the mirror's own image on this node.
type own struct {
	archive preload.Archive
	stage   []resource.Resource // that bring the archive to the node; none when the site did
}

func inKubernetes(s config.Site) bool { return s.Mirror.Mode == string(config.ModeWorkload) }

// cachesHere says whether a mirror's cache is a directory of its node.
func cachesHere(s config.Site) bool {
	return !inKubernetes(s) || deploy.Form(s.Mirror.Workload.Form).HostCache()
}

// runsHere says whether a pod of the mirror may run on the node: one of a deployment on every node.
func runsHere(s config.Site, self config.Node) bool {
	return inKubernetes(s) && (s.HasMirror(self) || !cachesHere(s))
}

// writes says whether this node's run writes the manifest: one of a cluster has one writer.
func writes(s config.Site, self config.Node) bool {
	return s.Mirror.Workload.Form == config.FormStaticPod || self.Mirror == "primary"
}

// addressed finds the address that a NodePort answers on, where the site does not say it, and refuses loopback
// where nothing tells that it answers there.
func addressed(d *Desired, facts host.Facts) error {
	if !inKubernetes(d.Site) || d.Site.Mirror.Workload.Form != config.FormDeployment {
		return nil
	}
	if err := loopbackPort(d); err != nil || d.Self.Address != "" || len(d.Site.Registries.Endpoints) > 0 {
		return err
	}
	var found []string
	for _, a := range facts.Addresses {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			found = append(found, a.String())
		}
	}
	if len(found) == 1 {
		d.Self.Address = found[0]
		return nil
	}
	return &diag.Refused{Err: &diag.Diagnostic{ID: "MER-091", Severity: diag.Error, What: fmt.Sprintf("this node has %d addresses; which one the NodePort answers on is not said", len(found)),
		Where: diag.Where{Key: "node.address"}, Why: "containerd is pointed at the node's own address", Fix: "[[node]] name = \"" + d.Self.Name + "\", address = \"10.0.0.11\""}}
}

// loopbackPort refuses a NodePort on 127.0.0.1 but where the node's own configuration tells that the service proxy
// answers there: kube-proxy does so in iptables mode and IPv4 only.
// kubernetes: cmd/kube-proxy/app/server_linux.go, localhostNodePorts
func loopbackPort(d *Desired) error {
	for i, e := range d.Site.Registries.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Port() != strconv.Itoa(d.Site.Mirror.Workload.NodePort) {
			continue
		}
		a, err := netip.ParseAddr(u.Hostname())
		if err == nil && (!a.IsLoopback() || a.Is4() && d.Node.Workload.LoopbackNodePort) || err != nil && u.Hostname() != "localhost" {
			continue
		}
		return &diag.Refused{Err: &diag.Diagnostic{ID: "MER-090", Severity: diag.Error, What: "nothing on this node tells that a NodePort answers on " + u.Hostname(),
			Where: diag.Where{Key: fmt.Sprintf("registries.endpoints[%d]", i)},
			Why:   "kube-proxy answers there in iptables mode and on IPv4 only, not in nftables or ipvs mode, and other service proxies do as they like",
			Fix:   "remove the endpoint: each node is then pointed at its own address; or form = \"static-pod\" or \"daemonset\""}}
	}
	return nil
}

// adminPath is where this node's mirror answers its admin verbs.
func adminPath(s config.Site) string {
	if inKubernetes(s) {
		return deploy.PodAdminPath
	}
	return deploy.AdminPath
}

// cacheOwner is the account that the cache belongs to.
func cacheOwner(s config.Site) string {
	if inKubernetes(s) {
		return deploy.OwnerID
	}
	return deploy.Account
}

// workload wants the mirror in Kubernetes on this node: after the images that it starts from, before anything
// depends on it. held says that the rest has to wait.
func (a *App) workload(ctx context.Context, d *Desired, self own, how reading) (before []string, held bool, err error) {
	w, err := a.wanted(d, self)
	if err != nil {
		return nil, false, err
	}
	d.MirrorImage = w.Image
	d.take(w.Needs(), nil)
	at := deploy.Place(w.Form, d.Node)
	if why := a.cannotImport(ctx, d); why != "" && !d.written(preload.RuntimeSetID) {
		d.pend("the mirror's manifest and the registries configuration", why+": without its image the mirror could not start, and containerd would depend on it")
		return nil, true, nil
	}
	if writes(d.Site, d.Self) {
		rs, err := w.Write(d.Node, ids(d.Resources))
		if err != nil {
			return nil, false, err
		}
		d.take(rs, nil)
		if at.Why != "" {
			d.pend("the mirror's manifest "+at.Path, at.Why+": "+at.Fix)
		}
		held = at.Why != "" && !d.pointed() && !a.answers(ctx, d)
	}
	if !cachesHere(d.Site) && len(d.Archives) > 0 {
		d.pend("the content of the mirror's volume", "only its pod can write there: kubectl -n edgeprep exec deploy/edgeprep-mirror -- "+
			selfimage.Program+" mirror fill --cache "+selfimage.Cache+" REFERENCE...")
	}
	if held {
		d.pend("the registries configuration", "containerd would depend on a mirror that nothing starts yet: edgeprep apply, once it answers or its manifest is taken")
		return nil, true, nil
	}
	gate, err := a.closure(ctx, d, w.Image, how)
	d.take(gate, nil)
	return ids(d.Resources), false, err
}

// pointed says whether an earlier run pointed containerd at the mirror: what is there is not taken away because
// the mirror is away just now.
func (d *Desired) pointed() bool {
	r := d.Node.Registries
	for _, rec := range d.Ledger.Records {
		if rec.Path != "" && (rec.Path == r.File || r.CertsD != "" && strings.HasPrefix(rec.Path, r.CertsD+"/")) {
			return true
		}
	}
	return false
}

// answers says whether the mirror that the node is to be pointed at answers now.
func (a *App) answers(ctx context.Context, d *Desired) bool {
	if !live(a.opts.Root) || len(d.Endpoints) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	g := resource.HTTPGate{URL: d.Endpoints[0], CA: caFor(d.Endpoints[0], d.Site.Mirror.TLS.CA)}
	var files apply.GateFiles
	if g.CA != "" {
		files.CA, _ = a.reader.FS().ReadFile(g.CA, 1<<20) // without it the answer is not trusted
	}
	return apply.Probe(ctx, g, files) == nil
}

// pend tells people of what is not done now.
func (d *Desired) pend(what, why string) {
	d.Pending = append(d.Pending, plan.Pending{ID: "mirror", What: what, Why: why})
}

// written says whether an earlier run wrote a resource: one that could not be made now is not taken away.
func (d *Desired) written(id string) bool {
	r, ok := d.Ledger.Records[id]
	return ok && !r.Found
}

// cannotImport says why images cannot be brought into containerd now; empty: they can, or the distribution
// imports them itself.
func (a *App) cannotImport(ctx context.Context, d *Desired) string {
	if d.Node.Preload.Method != "import" {
		return ""
	}
	if _, err := a.reader.Runtime(d.Node.Runtime.Endpoint).Version(ctx); err != nil {
		return "containerd does not answer at " + d.Node.Runtime.Endpoint.Socket
	}
	return ""
}

// closure is the gate before anything depends on the mirror: what it starts from is on the node. An image that
// nothing brings would be a deadlock at the first start.
func (a *App) closure(ctx context.Context, d *Desired, image string, how reading) ([]resource.Resource, error) {
	images := []string{image}
	sandbox := d.sandboxArchived()
	if sandbox {
		images = append(images, d.Node.Sandbox)
	}
	_, err := a.reader.CRI(d.Node.Runtime.Endpoint).Version(ctx)
	if err != nil && !sandbox && !d.Node.Started && d.Node.Sandbox != "" && !how.lenient {
		return nil, &diag.Refused{Err: &diag.Diagnostic{ID: "MER-085", Severity: diag.Error,
			What: "the sandbox image " + d.Node.Sandbox + " is in no archive, and containerd cannot be asked for it",
			Why:  "without it the mirror's pod does not start, and only the mirror could serve it",
			Fix:  "add an archive that has it to [images] archives"}}
	}
	if d.Node.Preload.Restart { // they are imported by the very restart that takes the registries configuration in
		return nil, nil
	}
	return []resource.Resource{deploy.Gate(d.Node, images, ids(d.Resources))}, nil
}

// sandboxArchived says whether an archive that goes into containerd has the sandbox image.
func (d *Desired) sandboxArchived() bool {
	r, err := preload.ParseReference(d.Node.Sandbox)
	return err == nil && d.Site.Images.Preload && slices.Contains(names(d.Archives), r.Name)
}

// wanted is the mirror's workload, as the site wants it.
func (a *App) wanted(d *Desired, self own) (deploy.Workload, error) {
	c := d.Site.Mirror.Workload
	w := deploy.Workload{Form: deploy.Form(c.Form), Image: self.archive.Images[0].Name, NodePort: c.NodePort, StorageClass: c.StorageClass}
	err := ephemeral(c)
	if err == nil && w.Form.HostCache() {
		err = a.othersCache(d.Site.Mirror.Cache)
	}
	if err == nil && c.Size != "" {
		w.Size, err = config.ParseSize(c.Size)
	}
	if err != nil {
		return w, err
	}
	if w.Service, err = a.serving(d); err != nil {
		return w, err
	}
	w.Files, err = a.handedFiles(d.Site, w.Upstreams.Config != "")
	return w, err
}

// ephemeral refuses storage that does not outlive the pod.
func ephemeral(w config.Workload) error {
	if !strings.EqualFold(strings.ReplaceAll(w.StorageClass, "-", ""), "emptydir") {
		return nil
	}
	return &diag.Refused{Err: &diag.Diagnostic{ID: "MER-092", Severity: diag.Error, What: "the cache cannot be kept in an emptyDir",
		Where: diag.Where{Key: "mirror.workload.storage_class"},
		Why:   "it is emptied when the pod goes: the mirror would come up at the site without an image. Its storage has to survive power-off, shipping and a cold start",
		Fix:   "name a storage class of persistent volumes (kubectl get storageclass), or form = \"static-pod\""}}
}

// othersCache refuses a cache of another user than root, whose files change hands: the pod could read none of it.
func (a *App) othersCache(cache string) error {
	fi, err := a.reader.FS().Stat(cache + "/blobs")
	if errors.Is(err, fs.ErrNotExist) || err == nil && (fmt.Sprint(fi.UID) == deploy.OwnerID || fi.UID == 0 || fi.UID == os.Getuid()) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the cache: %w", err)
	}
	return &diag.Refused{Err: &diag.Diagnostic{ID: "MER-087", Severity: diag.Error,
		What: fmt.Sprintf("the cache belongs to user %d, the mirror's pod is user %s", fi.UID, deploy.OwnerID), Where: diag.Where{File: cache},
		Why: "it could not read what is cached", Fix: "chown -R " + deploy.OwnerID + ":" + deploy.OwnerID + " " + cache}}
}

// handedFiles are the files that the pod gets copies of: configuration and secrets for its upstreams, certificate
// and key of its own.
func (a *App) handedFiles(s config.Site, upstreams bool) ([]deploy.HandedFile, error) {
	var out []deploy.HandedFile
	read := func(name, file string) error {
		if file == "" {
			return nil
		}
		data, err := a.reader.FS().ReadFile(file, 1<<20)
		if err != nil {
			return &diag.Refused{Err: &diag.Diagnostic{ID: "MER-088", Severity: diag.Error, What: "a file for the mirror's pod cannot be read: " + cause(err),
				Where: diag.Where{File: file}, Fix: "ls -l " + diag.Word(file)}}
		}
		out = append(out, deploy.HandedFile{Name: name, Content: data})
		return nil
	}
	if upstreams {
		data, err := a.readConfig()
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		out = append(out, deploy.HandedFile{Name: deploy.ConfigName, Content: data})
		for _, u := range s.Upstreams {
			err = errors.Join(err, read(deploy.SecretName("credentials", u.Host), u.CredentialsFile), read(deploy.SecretName("key", u.Host), u.ClientKey),
				read(deploy.SecretName("cert", u.Host), u.ClientCert), read(deploy.SecretName("ca", u.Host), u.CA))
		}
		if err != nil {
			return nil, err
		}
	}
	err := errors.Join(read(deploy.TLSCertName, s.Mirror.TLS.Cert), read(deploy.TLSKeyName, s.Mirror.TLS.Key),
		read(deploy.ClientCAName, s.Mirror.TLS.ClientCA), read(deploy.TokensName, s.Mirror.TokensFile))
	return out, err
}
