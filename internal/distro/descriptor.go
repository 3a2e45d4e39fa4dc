// Package distro knows Kubernetes distributions as data: it loads and lints their descriptors, and detects
// which one a node runs, with evidence for every fact. It only reads.
package distro

// Descriptor describes a distribution with a closed vocabulary: what shows that it is installed, where its
// settings come from, and where images, registry configuration and manifests go. Paths and texts are
// templates: "{data-dir}" stands for the value of [settings.data-dir]; {config} (the configuration file in
// effect), {unit} (without ".service") and {arch} are always known.
type Descriptor struct {
	ID         string             `toml:"id" json:"id"`                    // "k3s"; the file is ID.toml
	Name       string             `toml:"name" json:"name"`                // "K3s"
	Summary    string             `toml:"summary" json:"summary"`          // one line for people
	Support    string             `toml:"support" json:"support"`          // "tested" or "untested"
	Detect     DetectRule         `toml:"detect" json:"detect"`            //
	Role       RoleRule           `toml:"role" json:"role"`                //
	Version    VersionRule        `toml:"version" json:"version"`          //
	Config     ConfigRule         `toml:"config" json:"config,omitzero"`   //
	Settings   map[string]Setting `toml:"settings" json:"settings"`        // "data-dir" is required
	Started    []string           `toml:"started" json:"started"`          // one of these exists once it has run
	Runtime    RuntimeRule        `toml:"runtime" json:"runtime"`          //
	Preload    PreloadRule        `toml:"preload" json:"preload"`          //
	Registries RegistriesRule     `toml:"registries" json:"registries"`    //
	Workload   WorkloadRule       `toml:"workload" json:"workload"`        //
	Kubelet    KubeletRule        `toml:"kubelet" json:"kubelet,omitzero"` //
	Sandbox    SandboxRule        `toml:"sandbox" json:"sandbox"`          //
	Images     ImagesRule         `toml:"images" json:"images,omitzero"`   //
	Gates      GateRules          `toml:"gates" json:"gates"`              //
	// What a power-on depends on besides images.
	Certificates []CertificateRule `toml:"certificates" json:"certificates,omitempty"`
	Datastore    DatastoreRule     `toml:"datastore" json:"datastore,omitzero"`
	Kernel       KernelRule        `toml:"kernel" json:"kernel,omitzero"`
	Identity     []string          `toml:"identity" json:"identity,omitempty"` // files that no two nodes may share
	Address      string            `toml:"address" json:"address,omitempty"`   // template: the node's own address as it was told
	Join         string            `toml:"join" json:"join,omitempty"`         // template: the server that it joins
	Notes        []NoteRule        `toml:"note" json:"notes,omitempty"`        //
	Origin       string            `toml:"-" json:"origin"`                    // the file it was read from
	Local        bool              `toml:"-" json:"local,omitempty"`           // from /etc/edgeprep/distros
}

// DetectRule says what shows that a node runs the distribution. It is a candidate when one of its units is
// there, that unit is enabled or active or a program is there, and any and none hold.
type DetectRule struct {
	Units    []UnitRule `toml:"unit" json:"units"`
	Program  string     `toml:"program" json:"program"`         // base name of the program that the units run
	Binaries []string   `toml:"binaries" json:"binaries"`       // where it is installed, best first
	Any      []string   `toml:"any" json:"any,omitempty"`       // at least one must exist
	None     []string   `toml:"none" json:"none,omitempty"`     // none may exist: another product that looks alike
	Traces   []string   `toml:"traces" json:"traces,omitempty"` // what may be left behind: reported, never evidence
}

// UnitRule names a unit. A name with "*" covers units that users name; they count only when they run
// Program with one of the commands of [role].
type UnitRule struct {
	Name string `toml:"name" json:"name"`
	Role Role   `toml:"role" json:"role,omitempty"`
}

// RoleRule says how the role is found; the first way that answers counts.
type RoleRule struct {
	By          []string        `toml:"by" json:"by"` // "command", "env", "unit", "files"
	Commands    map[string]Role `toml:"commands" json:"commands,omitempty"`
	AgentEnv    string          `toml:"agent_env" json:"agentEnv,omitempty"`
	ServerFiles []string        `toml:"server_files" json:"serverFiles,omitempty"`
	AgentFiles  []string        `toml:"agent_files" json:"agentFiles,omitempty"`
	Default     Role            `toml:"default" json:"default,omitempty"`
}

// VersionRule says how the version is found: by asking the program, else from the first source that answers.
type VersionRule struct {
	Args  []string `toml:"args" json:"args,omitempty"`
	Regex string   `toml:"regex" json:"regex"` // its first group, else its match, is the version
	From  []Source `toml:"from" json:"from,omitempty"`
}

// ConfigRule is the distribution's own configuration file, in the manner of k3s: YAML whose keys are the
// names of flags, with a directory FILE.d of files that are read after it.
type ConfigRule struct {
	Setting string `toml:"setting" json:"setting,omitempty"` // the setting that names the file
}

// Setting is a value that a node may have in several places.
type Setting struct {
	Type    string   `toml:"type" json:"type"` // "path", "string", "bool", "endpoint", "list"
	Default string   `toml:"default" json:"default,omitempty"`
	From    []Source `toml:"from" json:"from"` // the first that has it wins; of a list, all together
}

// Source is one place of a setting; exactly one of Flags, Env, Keys, File and Exists is set.
type Source struct {
	Flags  []string `toml:"flags" json:"flags,omitempty"`   // in the command line of Unit; the last one counts
	Env    string   `toml:"env" json:"env,omitempty"`       // in the environment of Unit
	Unit   string   `toml:"unit" json:"unit,omitempty"`     // empty: the unit that was detected
	Keys   []string `toml:"keys" json:"keys,omitempty"`     // of the configuration file, [config]
	File   string   `toml:"file" json:"file,omitempty"`     // a YAML or JSON file, with Key; without Key its whole text
	Key    string   `toml:"key" json:"key,omitempty"`       // "a.b"
	Exists []string `toml:"exists" json:"exists,omitempty"` // the first path that exists is the value
}

// RuntimeRule describes the containerd of the distribution.
type RuntimeRule struct {
	Socket      string         `toml:"socket" json:"socket"`
	Root        string         `toml:"root" json:"root"`
	Namespace   string         `toml:"namespace" json:"namespace"`
	Snapshotter string         `toml:"snapshotter" json:"snapshotter,omitempty"`
	Config      string         `toml:"config" json:"config"`
	CertsD      string         `toml:"certs_d" json:"certsD,omitempty"` // empty: what config says
	Unit        string         `toml:"unit" json:"unit,omitempty"`      // empty: the distribution runs it itself
	Binaries    []string       `toml:"binaries" json:"binaries,omitempty"`
	External    []ExternalRule `toml:"external" json:"external,omitempty"`
	Bundled     []VersionValue `toml:"bundled" json:"bundled,omitempty"` // containerd's version by the distribution's
}

// ExternalRule recognises a node that was told to use another runtime. Empty and "false" never match.
type ExternalRule struct {
	Setting  string `toml:"setting" json:"setting"`
	Contains string `toml:"contains" json:"contains,omitempty"` // of the value; empty: any value
	Unless   string `toml:"unless" json:"unless,omitempty"`     // template; "{socket}" is containerd's own
	Name     string `toml:"name" json:"name,omitempty"`         // "CRI-O"; empty: the value
	Note     string `toml:"note" json:"note"`
}

// VersionValue is a value that holds from some versions on; the last rule that holds counts.
type VersionValue struct {
	Since string `toml:"since" json:"since"` // a list as in Gate
	Value string `toml:"value" json:"value"`
}

// PreloadRule says how images get into containerd.
type PreloadRule struct {
	Method     string   `toml:"method" json:"method"` // "directory" or "import"
	Dir        string   `toml:"dir" json:"dir,omitempty"`
	Stage      string   `toml:"stage" json:"stage,omitempty"`
	Extensions []string `toml:"extensions" json:"extensions,omitempty"`
	MaxWindow  int64    `toml:"max_window" json:"maxWindow,omitempty"`
	Sentinel   string   `toml:"sentinel" json:"sentinel,omitempty"`
	CacheFile  string   `toml:"cache_file" json:"cacheFile,omitempty"`
	PullLists  string   `toml:"pull_lists" json:"pullLists,omitempty"` // extension of the lists of references in Dir that are pulled at start
	LoaderPin  string   `toml:"loader_pin" json:"loaderPin,omitempty"` // on images that the loader pinned and will unpin when their archive is gone
}

// RegistriesRule says where registry configuration goes.
type RegistriesRule struct {
	Format     string `toml:"format" json:"format"` // "registries.yaml" or "certs.d"
	File       string `toml:"file" json:"file,omitempty"`
	CertsD     string `toml:"certs_d" json:"certsD,omitempty"`
	DropIn     string `toml:"drop_in" json:"dropIn,omitempty"`
	NoFallback string `toml:"no_fallback" json:"noFallback,omitempty"`
	Restart    string `toml:"restart" json:"restart"` // "distribution", "runtime" or "none"
}

// WorkloadRule says where manifests go.
type WorkloadRule struct {
	Manifests  string `toml:"manifests" json:"manifests,omitempty"` // servers only
	StaticPods string `toml:"static_pods" json:"staticPods,omitempty"`
	// NodePortLoopback says that the service proxy answers for NodePorts on 127.0.0.1 (kube-proxy in iptables
	// mode), unless NotLoopback holds.
	NodePortLoopback bool           `toml:"node_port_loopback" json:"nodePortLoopback,omitempty"`
	NotLoopback      []LoopbackRule `toml:"not_loopback" json:"notLoopback,omitempty"`
	// StaticPodsAfter must exist before a static pod is written: its presence may stop the distribution's own
	// installer.
	StaticPodsAfter string `toml:"static_pods_after" json:"staticPodsAfter,omitempty"`
	// APIArgs is the setting, a list, with arguments for an API server that is not a static pod.
	APIArgs string      `toml:"api_args" json:"apiArgs,omitempty"`
	Brings  []BringRule `toml:"brings" json:"brings,omitempty"`
}

// KubeletRule says where kubelet keeps its state and what configures it.
type KubeletRule struct {
	Root      string `toml:"root" json:"root,omitempty"`            // of its state, but for what --root-dir says; empty: /var/lib/kubelet
	Config    string `toml:"config" json:"config,omitempty"`        // its configuration file
	ConfigDir string `toml:"config_dir" json:"configDir,omitempty"` // files that are read after it
	// Argument is the flag, and the key of [config], whose values are flags of a kubelet inside the distribution's
	// own process; empty: the unit that was detected runs kubelet itself.
	Argument string `toml:"argument" json:"argument,omitempty"`
	// Defaults are flags that the distribution gives it unless it is told otherwise: "fail-swap-on=false".
	Defaults []string `toml:"defaults" json:"defaults,omitempty"`
}

// LoopbackRule recognises a node whose service proxy was told otherwise.
type LoopbackRule struct {
	Setting  string `toml:"setting" json:"setting"`
	Contains string `toml:"contains" json:"contains"` // of the value
}

// BringRule names a part of the cluster that the distribution's own unit brings, without a pod of it.
type BringRule struct {
	Part    string `toml:"part" json:"part"`                 // "api", "network" (of pods) or "proxy" (of services)
	Role    Role   `toml:"role" json:"role,omitempty"`       // on these nodes only
	Setting string `toml:"setting" json:"setting,omitempty"` // unless this setting
	Unless  string `toml:"unless" json:"unless,omitempty"`   // has this value
}

// SandboxRule says which pause image is used.
type SandboxRule struct {
	Setting  string         `toml:"setting" json:"setting,omitempty"`
	Prefix   string         `toml:"prefix" json:"prefix,omitempty"` // setting with a registry that is put before it
	Of       string         `toml:"of" json:"of"`                   // whose version Default goes by: "distribution" or "runtime"
	Defaults []VersionValue `toml:"default" json:"defaults,omitempty"`
}

// ImagesRule says which images are the distribution's own.
type ImagesRule struct {
	Lists    []string `toml:"lists" json:"lists,omitempty"`       // names of the lists of images that a release comes with
	Archives []string `toml:"archives" json:"archives,omitempty"` // patterns of names of archives with these images and no others
	// Own are images that every node may run, where a release has no list: the last part of the name, with a tag
	// or without, "kube-proxy:{version}".
	Own []string `toml:"own" json:"own,omitempty"`
	// Like is the last part of the name of a static pod's image: Own come from the same registry.
	Like     string         `toml:"like" json:"like,omitempty"`
	Prefix   string         `toml:"prefix" json:"prefix,omitempty"` // setting with a registry that is put before their names
	Optional []OptionalRule `toml:"optional" json:"optional,omitempty"`
}

// OptionalRule names an image that is not needed when a setting says so.
type OptionalRule struct {
	Image    string `toml:"image" json:"image"`       // last part of its name
	Setting  string `toml:"setting" json:"setting"`   //
	Contains string `toml:"contains" json:"contains"` // of the value
}

// GateRules say what which version can do. A gate that is not there is closed.
type GateRules struct {
	Watch         *Gate `toml:"watch" json:"watch,omitempty"`
	Recursive     *Gate `toml:"recursive" json:"recursive,omitempty"`
	ImportCache   *Gate `toml:"import_cache" json:"importCache,omitempty"`
	NoFallbackKey *Gate `toml:"no_fallback_key" json:"noFallbackKey,omitempty"`
	StarMirror    *Gate `toml:"star_mirror" json:"starMirror,omitempty"`
	PartialIndex  *Gate `toml:"partial_index" json:"partialIndex,omitempty"`
}

// Gate is open for some versions.
type Gate struct {
	// Since lists the first good patch of each minor, "1.33.1,1.32.5,1.31.9": later minors have it, earlier
	// ones do not.
	Since string `toml:"since" json:"since"`
	// Broken lists single versions that Since covers and that do not have it all the same.
	Broken string `toml:"broken" json:"broken,omitempty"`
	// Of says whose version counts: "distribution" (default) or "runtime".
	Of string `toml:"of" json:"of,omitempty"`
}

// NoteRule is a trap that people are told of when all its conditions hold. {value} and {other} in Text are
// those of Shadowed.
type NoteRule struct {
	Text       string `toml:"text" json:"text"`
	Role       Role   `toml:"role" json:"role,omitempty"`
	Gate       string `toml:"gate" json:"gate,omitempty"`                // this gate is closed
	Shadowed   string `toml:"shadowed_env" json:"shadowedEnv,omitempty"` // the environment disagrees with what this setting is
	Exists     string `toml:"exists" json:"exists,omitempty"`            // this path exists
	NotStarted bool   `toml:"not_started" json:"notStarted,omitempty"`   // it has never run
}

// Descriptors is a set of descriptors, by id.
type Descriptors []*Descriptor

// Get finds a descriptor.
func (ds Descriptors) Get(id string) (*Descriptor, bool) {
	for _, d := range ds {
		if d.ID == id {
			return d, true
		}
	}
	return nil, false
}

// IDs lists the ids.
func (ds Descriptors) IDs() []string {
	ids := make([]string, len(ds))
	for i, d := range ds {
		ids[i] = d.ID
	}
	return ids
}
