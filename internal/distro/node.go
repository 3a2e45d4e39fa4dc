package distro

import "github.com/edgeprep/edgeprep/internal/host"

// Role is what a node is in its cluster.
type Role string

// The roles. An agent is what other distributions call a worker.
const (
	RoleServer  Role = "server"
	RoleAgent   Role = "agent"
	RoleUnknown Role = "unknown"
)

// Node is what was found on a node, resolved: no template, default or environment variable is left in it.
type Node struct {
	ID         string     `json:"id"`                // descriptor id: "k3s"
	Name       string     `json:"name"`              // "K3s"
	Version    string     `json:"version,omitempty"` // "v1.36.3+k3s1"; empty: not known
	Role       Role       `json:"role"`
	Installed  bool       `json:"installed"` // the program is there (not only its configuration)
	Started    bool       `json:"started"`   // has run before: its state is on disk
	DataDir    string     `json:"dataDir"`
	Platform   string     `json:"platform"` // "linux/amd64"
	Units      []string   `json:"units"`    // of this node's role, in start order
	Runtime    Runtime    `json:"runtime"`
	Preload    Preload    `json:"preload"`
	Registries Registries `json:"registries"`
	Workload   Workload   `json:"workload"`
	Kubelet    Kubelet    `json:"kubelet"`
	Sandbox    string     `json:"sandbox,omitempty"` // the pause image's reference, as far as files tell
	Images     Images     `json:"images,omitzero"`
	Gates      Gates      `json:"gates"`

	Certificates []Certificates `json:"certificates,omitempty"`
	Datastore    Datastore      `json:"datastore,omitzero"` // of a server
	Kernel       Kernel         `json:"kernel,omitzero"`
	Identity     []string       `json:"identity,omitempty"` // files that no two nodes may share
	Address      string         `json:"address,omitempty"`  // its own, as it was told; empty: it takes that of its default route
	Join         string         `json:"join,omitempty"`     // the server that it joins; empty: none
	Evidence     []Evidence     `json:"evidence"`
	Notes        []string       `json:"notes,omitempty"` // traps met on this node, for people
	// Untested says why this descriptor cannot be relied upon; empty: it is tested.
	Untested    string `json:"untested,omitempty"`
	Fingerprint string `json:"-"`
}

// Evidence says where a fact comes from.
type Evidence struct {
	Fact   string `json:"fact"`   // "data-dir", "role", "version", "runtime", …
	Value  string `json:"value"`  // what it says
	Source string `json:"source"` // "/etc/rancher/k3s/config.yaml:3", "k3s.service ExecStart", "/usr/local/bin/k3s --version", "default"
}

// Runtime is the node's containerd.
type Runtime struct {
	Endpoint host.Endpoint `json:"endpoint"`
	// External: the distribution was told to use a runtime of its own choice; its image directory and
	// registries file are then without effect.
	External string `json:"external,omitempty"`
	Config   string `json:"config,omitempty"`  // containerd's config.toml, effective path
	CertsD   string `json:"certsD,omitempty"`  // the registry config directory that containerd is pointed at
	Unit     string `json:"unit,omitempty"`    // "containerd.service"; empty when the distribution runs it itself
	Binary   string `json:"binary,omitempty"`  // containerd's path
	Version  string `json:"version,omitempty"` // "1.7.35"; empty: not known
}

// Preload says how images get into the node's containerd.
type Preload struct {
	Method     string   `json:"method"` // "directory" or "import"
	Dir        string   `json:"dir,omitempty"`
	Stage      string   `json:"stage,omitempty"` // staging directory: same file system, never below a path that begins with Dir
	Extensions []string `json:"extensions,omitempty"`
	MaxWindow  int64    `json:"maxWindow,omitempty"` // zstd window in bytes; 0: no limit
	Sentinel   string   `json:"sentinel,omitempty"`  // file to be placed last; empty: none
	CacheFile  string   `json:"cacheFile,omitempty"` // to be created empty when Gates allow it
	PullLists  string   `json:"pullLists,omitempty"` // extension of lists in Dir that are pulled before kubelet starts; empty: there are none
	LoaderPin  string   `json:"loaderPin,omitempty"` // label of the loader's own pins, which it takes off again; empty: it has none
	// Restart: new archives take effect only after a restart of Units.
	Restart bool `json:"restart,omitempty"`
}

// Registries says where the node's registry configuration is.
type Registries struct {
	Format string `json:"format"`         // "registries.yaml" or "certs.d"
	File   string `json:"file,omitempty"` // registries.yaml
	CertsD string `json:"certsD,omitempty"`
	// DropIn and NoFallback: the configuration key that forbids the default endpoint, and the file it goes to.
	DropIn     string   `json:"dropIn,omitempty"`
	NoFallback string   `json:"noFallback,omitempty"`
	Restart    []string `json:"restart,omitempty"` // units that must restart to take File or DropIn in
}

// Kubelet is where the node's kubelet keeps its state and what configures it.
type Kubelet struct {
	Root      string `json:"root"`                // --root-dir
	Config    string `json:"config,omitempty"`    // its configuration file; empty: none
	ConfigDir string `json:"configDir,omitempty"` // of files that are read after it; empty: none
	// Defaults are flags that the distribution gives it itself, "fail-swap-on=false"; Config, ConfigDir and Args win.
	Defaults []string `json:"defaults,omitempty"`
	// Args are flags that were given on this node, "name=value", without dashes. The last of a name counts.
	Args []Arg `json:"args,omitempty"`
}

// Arg is a flag and where it was written.
type Arg struct {
	Text   string `json:"text"`
	Source string `json:"source"`
}

// Workload is where manifests go.
type Workload struct {
	Manifests  string `json:"manifests,omitempty"`
	StaticPods string `json:"staticPods,omitempty"`
	// Brings are the parts of the cluster that the distribution's unit brings without a pod: "api", "network", "proxy".
	Brings []string `json:"brings,omitempty"`
	// LoopbackNodePort: a NodePort answers on 127.0.0.1, as far as the node's configuration tells.
	LoopbackNodePort bool `json:"loopbackNodePort,omitempty"`
	// StaticPodsWait is what must exist before a static pod may be written, and does not yet.
	StaticPodsWait string `json:"staticPodsWait,omitempty"`
	// APIArgs are arguments of an API server that is no static pod, and where they were read.
	APIArgs       string `json:"apiArgs,omitempty"`
	APIArgsSource string `json:"apiArgsSource,omitempty"`
}

// Images says how the distribution's own images are known.
type Images struct {
	Lists    []string `json:"lists,omitempty"`    // names of lists of images
	Archives []string `json:"archives,omitempty"` // patterns of names of archives with these and no others
	Own      []string `json:"own,omitempty"`      // last parts of names, with or without a tag
	Like     string   `json:"like,omitempty"`     // a static pod's image, by the last part of its name, whose registry Own come from
	Prefix   string   `json:"prefix,omitempty"`   // registry that is put before their names
	// PrefixSource is where Prefix was read.
	PrefixSource string `json:"prefixSource,omitempty"`
	// NotNeeded are images of the lists that this node's configuration switches off, by the last part of the name.
	NotNeeded []string `json:"notNeeded,omitempty"`
}

// Gates are what the version allows; the cautious side when it is not known.
type Gates struct {
	Watch         bool `json:"watch"`         // archives are imported while it runs
	Recursive     bool `json:"recursive"`     // sub-directories are read
	ImportCache   bool `json:"importCache"`   // .cache.json works and keeps pins
	NoFallbackKey bool `json:"noFallbackKey"` // knows Registries.NoFallback
	StarMirror    bool `json:"starMirror"`    // "*" works with a fallback
	PartialIndex  bool `json:"partialIndex"`  // an index is imported although platforms it names are not in the archive
}
