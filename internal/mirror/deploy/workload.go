package deploy

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// Names of what a mirror in Kubernetes has on a node.
const (
	// OwnerID is the user and group of the mirror's pod, and of the cache that it serves. It is a number that is
	// the same on every node: one manifest is for all of them, and kubelet must see that it is not root.
	OwnerID = "65532"
	// ManifestName is also what k3s calls the add-on, up to the first dot.
	ManifestName = "edgeprep-mirror.yaml"
	// WaitDir holds manifests that somebody has to apply.
	WaitDir = StateDir + "/manifests"
	// PodAdminPath is the admin socket of a mirror that runs as a pod: below /run nothing of an unprivileged user
	// survives a boot.
	PodAdminPath = StateDir + "/mirror-admin/admin.sock"
	// ImageArchive is where the mirror's own image waits to be imported.
	ImageArchive = StateDir + "/images/edgeprep-mirror.tar"
	// MadeImage is the Source of ImageArchive when edgeprep makes it from its own program.
	MadeImage = "the mirror's own image"
	// FilesDir has copies of the files that a mirror in a pod reads: keys and credentials too.
	FilesDir = StateDir + "/mirror-files"
	podFiles = "/etc/edgeprep/mirror" // in the pod
)

// gateImages is how long a distribution may take to import the archives that were just placed.
const gateImages = 3 * time.Minute

// Form is how the mirror runs in Kubernetes.
type Form string

// The forms.
const (
	StaticPod  Form = "static-pod" // kubelet starts it from a file: nothing of the cluster is needed
	DaemonSet  Form = "daemonset"  // one on every node, once there is an API server
	Deployment Form = "deployment" // one for the cluster, on a volume, reached by a NodePort
)

// HostCache says whether the form keeps its cache in a directory of the node.
func (f Form) HostCache() bool { return f != Deployment }

// inSecret says whether the form gets its files as a Secret: one manifest is then for pods on every node.
func (f Form) inSecret() bool { return f != StaticPod }

// Workload is the mirror as it is wanted in Kubernetes.
type Workload struct {
	Service // what it serves, and how; nothing is read from the paths of its certificate and upstreams
	Form    Form
	Image   string // reference of the mirror's own image, preloaded
	Files   []HandedFile

	// Of a deployment.
	NodePort     int
	StorageClass string // empty: the cluster's default
	Size         int64  // bytes of the volume
}

// HandedFile is a file that the mirror's user could not read by itself, or not in a pod.
type HandedFile struct {
	Name    string // in the pod's directory
	Content []byte
}

// Placed is where a manifest goes.
type Placed struct {
	Path string
	// Why it has no effect there; empty: the distribution takes it by itself.
	Why string
	Fix string // what has to be done then
}

// Place says where the manifest of a form goes on a node.
func Place(f Form, n distro.Node) Placed {
	waits := path.Join(WaitDir, ManifestName)
	switch w := n.Workload; {
	case f != StaticPod && w.Manifests != "":
		return Placed{Path: path.Join(w.Manifests, ManifestName)}
	case f != StaticPod:
		return Placed{waits, "no directory of this node is applied by " + n.Name + " itself", "kubectl apply -f " + waits}
	case w.StaticPods == "":
		return Placed{waits, n.Name + " has no directory of static pods", "kubectl apply -f " + waits}
	case w.StaticPodsWait != "":
		return Placed{waits, w.StaticPodsWait + " is not there: " + n.Name + " would refuse to join with a static pod that is there before it", "edgeprep apply, once the node has joined"}
	default:
		return Placed{Path: path.Join(w.StaticPods, ManifestName)}
	}
}

// Needs are what the mirror's pod needs on a node besides images: the cache, a place for its admin socket, files.
func (w Workload) Needs() []resource.Resource {
	var out list
	if !w.Form.HostCache() {
		return nil
	}
	own := func(p string, mode uint32, parts ...string) string {
		r := dir(p, mode, OwnerID, false)
		r.Dir.Parts = parts
		return out.add(withAfter(r, out.within(p)...))
	}
	own(w.Cache, 0o750, cacheParts()...)
	own(path.Dir(PodAdminPath), 0o750)
	if len(w.Files) == 0 || w.Form.inSecret() {
		return out.all
	}
	in := own(FilesDir, 0o550)
	for _, f := range w.Files {
		r := file(path.Join(FilesDir, f.Name), string(f.Content), "the mirror's pod reads it")
		r.File.Mode, r.File.Owner, r.File.Secret = 0o400, OwnerID, true
		out.add(withAfter(r, in))
	}
	return out.all
}

// Write is the manifest on a node. after are the ids that must be done before: what the pod needs there, its images,
// what fills the cache.
func (w Workload) Write(n distro.Node, after []string) ([]resource.Resource, error) {
	text, err := w.Manifest()
	if err != nil {
		return nil, err
	}
	var out list
	at := Place(w.Form, n)
	r := file(at.Path, text, "the mirror, as a "+string(w.Form))
	r.File.Mode, r.File.Secret = 0o600, w.Form.inSecret() && len(w.Files) > 0
	out.add(withAfter(withAfter(r, manifestDirs(&out, at.Path, n.DataDir)...), after...))
	return out.all, nil
}

// manifestDirs makes the directories of a manifest where they are missing. Below the distribution's data directory
// they are root's alone: it keeps its keys there.
func manifestDirs(out *list, p, dataDir string) []string {
	var outside, inside []string
	for _, d := range above(p) {
		if dataDir != "" && strings.HasPrefix(d, dataDir+"/") {
			inside = append(inside, d)
		} else {
			outside = append(outside, d)
		}
	}
	return append(out.dirs(outside, 0o755), out.dirs(inside, 0o700)...)
}

// StageImage brings the archive of the mirror's own image to the node.
func StageImage(a resource.Archive) []resource.Resource {
	var out list
	out.add(withAfter(resource.Resource{ID: resource.ID(resource.KindArchive, a.Path), Kind: resource.KindArchive, Archive: &a,
		Why: "the mirror cannot be pulled from itself"}, out.within(a.Path)...))
	return out.all
}

// Gate is proven before anything on the node depends on the mirror: not that it answers, which only a started
// cluster can bring about, but that nothing it starts from would have to be pulled.
func Gate(n distro.Node, images []string, after []string) resource.Resource {
	return resource.Resource{ID: GateID(), Kind: resource.KindGate, After: after,
		Why:  "the mirror's pod must not need an image that only the mirror has",
		Gate: &resource.Gate{CRI: &resource.CRIGate{Endpoint: n.Runtime.Endpoint, Images: images, Sandbox: true}, Within: gateImages}}
}

//go:embed templates/*.yaml
var templates embed.FS

// Manifest is what Kubernetes is given.
func (w Workload) Manifest() (string, error) {
	t, err := template.New("").Funcs(template.FuncMap{"q": quote, "indent": indent, "b64": base64.StdEncoding.EncodeToString}).ParseFS(templates, "templates/*.yaml")
	if err != nil {
		return "", fmt.Errorf("manifest of the mirror: %w", err)
	}
	v, err := w.values()
	if err != nil {
		return "", err
	}
	var pod, b bytes.Buffer
	if err := t.ExecuteTemplate(&pod, "pod.yaml", v); err != nil {
		return "", fmt.Errorf("manifest of the mirror: %w", err)
	}
	v.Pod = strings.TrimSpace(pod.String())
	if err := t.ExecuteTemplate(&b, string(w.Form)+".yaml", v); err != nil {
		return "", fmt.Errorf("manifest of the mirror: %w", err)
	}
	return b.String(), nil
}

// values are what the templates are filled with.
type values struct {
	Workload
	Args        []string
	HostNetwork bool
	NodeIP      bool   // the arguments name the node's address
	InSecret    bool   // Files are a Secret, not a directory of the node
	CacheMount  string // where the cache's volume is in the pod
	Quantity    string // of the volume
	Port        int
	ProbeHost   string // empty: the pod's address
	Scheme      string
	Owner       string
	Admin       string // directory of the admin socket
	FilesDir    string
	PodFiles    string
	Sum         string // of the files; another one restarts the pod
	Pod         string
}

// volume is where a deployment's volume is in the pod. The cache is a directory in it: the volume's own root is
// root's, and the mirror writes only into a cache that is its own.
const volume = StateDir

// podPort is where a deployment's pod listens, behind the NodePort.
const podPort = 5000

func (w Workload) values() (values, error) {
	host, port, err := net.SplitHostPort(w.Listen)
	if err != nil {
		return values{}, fmt.Errorf("manifest of the mirror: listen %q: %w", w.Listen, err)
	}
	v := values{Workload: w, HostNetwork: w.Form.HostCache(), InSecret: w.Form.inSecret(), CacheMount: w.Cache, ProbeHost: host, Scheme: "HTTP",
		Owner: OwnerID, Admin: path.Dir(PodAdminPath), FilesDir: FilesDir, PodFiles: podFiles, Sum: w.sum()}
	if v.Port, err = strconv.Atoi(port); err != nil {
		return values{}, fmt.Errorf("manifest of the mirror: listen %q: %w", w.Listen, err)
	}
	switch {
	case w.Form == Deployment:
		v.ProbeHost, v.CacheMount, v.Quantity, v.Port = "", volume, quantity(w.Size), podPort
		v.Listen, v.Cache = "0.0.0.0:"+strconv.Itoa(podPort), path.Join(volume, "mirror")
	case w.Form == DaemonSet && !loopback(host):
		// Each node has another address; status.hostIP is the one that kubelet has.
		v.ProbeHost, v.NodeIP, v.Listen = "", true, "$(NODE_IP):"+port
	}
	v.Args = v.args()
	if w.TLSCert != "" {
		v.Scheme = "HTTPS"
	}
	return v, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// quantity writes bytes as Kubernetes does.
func quantity(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}} {
		if n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

func (w Workload) args() []string {
	config := ""
	if w.Upstreams.Config != "" {
		config = path.Join(podFiles, ConfigName)
	}
	admin := PodAdminPath
	if w.Form == Deployment {
		admin = "" // nobody on the nodes could reach it
	}
	args := w.arguments(admin, config, func(f servedFile) string { return path.Join(podFiles, f.copied) })
	if w.Form == Deployment {
		args = append(args, "--create")
	}
	return args
}

// sum changes with the files: a pod does not see that they did.
func (w Workload) sum() string {
	if len(w.Files) == 0 {
		return ""
	}
	h := sha256.New()
	for _, f := range w.Files {
		fmt.Fprintf(h, "%s %d\n%s\n", f.Name, len(f.Content), f.Content)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// quote writes a string as YAML reads it: YAML 1.2 takes JSON's.
func quote(s string) (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

func indent(n int, s string) string {
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n))
}
