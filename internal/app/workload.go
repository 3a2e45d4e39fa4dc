package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/local"
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
	if why := a.cannotImport(ctx, d); why != "" && !d.written(deploy.ManifestID(at.Path)) {
		d.pend("the mirror's manifest and the registries configuration", why+": without its image the mirror could not start, and containerd would depend on it")
		return nil, true, nil
	}
	rs, err := w.Write(d.Node, ids(d.Resources))
	if err != nil {
		return nil, false, err
	}
	d.take(rs, nil)
	if at.Why != "" {
		d.pend("the mirror's manifest "+at.Path, at.Why+": "+at.Fix)
	}
	gate, err := a.closure(ctx, d, w.Image, how)
	d.take(gate, nil)
	return ids(d.Resources), false, err
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
	w := deploy.Workload{Form: deploy.Form(d.Site.Mirror.Workload.Form), Image: self.archive.Images[0].Name}
	err := a.othersCache(d.Site.Mirror.Cache)
	if err != nil {
		return w, err
	}
	if w.Service, err = a.serving(d); err != nil {
		return w, err
	}
	w.Files, err = a.handedFiles(d.Site, w.Upstreams.Config != "")
	return w, err
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
				Where: diag.Where{File: file}, Fix: "ls -l " + file}}
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
	return out, errors.Join(read(deploy.TLSCertName, s.Mirror.TLS.Cert), read(deploy.TLSKeyName, s.Mirror.TLS.Key),
		read(deploy.ClientCAName, s.Mirror.TLS.ClientCA), read(deploy.TokensName, s.Mirror.TokensFile))
}

// ownImage is the mirror's image: the site's archive, or one that is made from this program.
func (a *App) ownImage(ctx context.Context, d *Desired, how reading) (own, error) {
	if file := d.Site.Mirror.Workload.SelfArchive; file != "" {
		return a.givenImage(ctx, d, file, how)
	}
	x, err := a.madeImage(ctx, d, how.verify)
	if err != nil {
		return own{}, refusedUnless(err)
	}
	archive := resource.Archive{Source: deploy.MadeImage, Path: x.Path, Size: x.Size, SHA256: x.SHA256, Mode: 0o644, Stage: filepath.Dir(x.Path),
		Images: x.Names(), Local: true, Made: true}
	return own{x, deploy.StageImage(archive)}, nil
}

func (a *App) givenImage(ctx context.Context, d *Desired, file string, how reading) (own, error) {
	var known preload.Known = ledgerKnown{d.Ledger}
	if how.verify {
		known = nil
	}
	x, err := preload.Inspect(ctx, a.reader.FS(), file, known, a.sink())
	if err != nil {
		return own{}, refusedUnless(err)
	}
	digests := map[string]bool{}
	for _, i := range x.Images {
		digests[i.Digest] = true
	}
	if len(digests) != 1 {
		return own{}, &diag.Refused{Err: &diag.Diagnostic{ID: "MER-089", Severity: diag.Error,
			What: fmt.Sprintf("the archive holds %d images, not the mirror's alone", len(digests)), Where: diag.Where{File: file, Key: "mirror.workload.self_archive"},
			Fix: "edgeprep mirror image --out " + file}}
	}
	return own{archive: x}, d.rememberArchive(a.reader.FS(), x)
}

// imageKey is the ledger's name for the image that was made; no path begins like it.
const imageKey = "image:"

// made is what the ledger remembers of an image that was made.
type made struct {
	Key     string          `json:"key"` // of what it was made from
	Archive preload.Archive `json:"archive"`
}

// madeImage describes the image that is made from this program; the ledger spares making it each time.
func (a *App) madeImage(ctx context.Context, d *Desired, verify bool) (preload.Archive, error) {
	bin, err := a.program(ctx, d, verify)
	if err != nil {
		return preload.Archive{}, err
	}
	roots := rootsFor(d.Site)
	sum := sha256.Sum256(roots)
	key := strings.Join([]string{bin.SHA256, d.Platform, hex.EncodeToString(sum[:])}, " ")
	a.self.options, a.self.want = selfimage.Options{Binary: bin.Source, Platform: d.Platform, Roots: roots}, key
	var m made
	if s, ok := d.Ledger.Sources[imageKey]; ok && json.Unmarshal(s.Data, &m) == nil && m.Key == key {
		d.Sources[imageKey] = s
		return m.Archive, nil
	}
	file, err := a.makeImage(ctx, deploy.MadeImage)
	if err != nil {
		return preload.Archive{}, err
	}
	here, err := local.New(local.Options{})
	if err != nil {
		return preload.Archive{}, err
	}
	if m.Archive, err = preload.Inspect(ctx, here.FS(), file, nil, nil); err != nil {
		return preload.Archive{}, err
	}
	m.Key, m.Archive.Path, m.Archive.Stamp = key, deploy.ImageArchive, preload.Fingerprint{}
	data, err := json.Marshal(m)
	if err != nil {
		return preload.Archive{}, fmt.Errorf("remember the mirror's image: %w", err)
	}
	d.Sources[imageKey] = plan.Source{Data: data}
	return m.Archive, nil
}

// rootsFor are the certification authorities for a mirror that may pull; one that may not needs none.
func rootsFor(s config.Site) []byte {
	if s.Mirror.Upstream != config.UpstreamConnected {
		return nil
	}
	pem, _ := selfimage.HostRoots()
	return pem
}

// selfMade is the mirror's image that this process made, in a temporary directory of its own until it ends.
type selfMade struct {
	options selfimage.Options
	want    string // what it would be made from now
	key     string // what file was made from
	dir     string
	file    string
}

// makeImage makes the mirror's image and gives its path on this machine.
func (a *App) makeImage(ctx context.Context, _ string) (string, error) {
	if a.self.file != "" && a.self.key == a.self.want {
		return a.self.file, nil
	}
	img, err := selfimage.Build(ctx, a.self.options)
	if err != nil {
		return "", err
	}
	if a.self.dir == "" {
		if a.self.dir, err = os.MkdirTemp("", "edgeprep-image-"); err != nil {
			return "", fmt.Errorf("make the mirror's image: %w", err)
		}
	}
	file := filepath.Join(a.self.dir, "mirror.tar")
	if _, err := writeImage(img, file); err != nil {
		return "", err
	}
	a.self.file, a.self.key = file, a.self.want
	return file, nil
}
