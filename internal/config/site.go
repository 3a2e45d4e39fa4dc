// Package config reads edgeprep.toml: strict, with defaults, and every problem reported at once with its
// line and column. The struct comments are the source of docs/reference.md.
package config

// Site is the content of edgeprep.toml: the same file on every node of a site.
type Site struct {
	Version     int         `toml:"version"` // format of this file, required: 1
	Site        SiteInfo    `toml:"site"`
	Distro      Distro      `toml:"distro"`
	Images      Images      `toml:"images"`
	Mirror      Mirror      `toml:"mirror"`
	Upstreams   []Upstream  `toml:"upstream"`
	Registries  Registries  `toml:"registries"`
	Replication Replication `toml:"replication"`
	Failover    Failover    `toml:"failover"`
	Apply       Apply       `toml:"apply"`
	Checklist   Checklist   `toml:"checklist"`
	Nodes       []Node      `toml:"node"`
}

// SiteInfo is [site].
type SiteInfo struct {
	Name string `toml:"name"` // printed on every report
}

// Distro is [distro].
type Distro struct {
	Kind    string `toml:"kind"`     // descriptor id, or "auto" (default): detect; naming it makes a wrong node fail fast
	DataDir string `toml:"data_dir"` // only to override what is detected
	Version string `toml:"version"`  // for --root, where no program is run
}

// Images is [images].
type Images struct {
	Bundle   string   `toml:"bundle"`
	Archives []string `toml:"archives"` // archive files and OCI layout directories, node paths; globs allowed
	Required string   `toml:"required"` // file with one reference a line; "#" starts a comment
	Platform string   `toml:"platform"` // "linux/arm64"; default: the node's
	Preload  bool     `toml:"preload"`  // default true: archives go into containerd; false: only into the mirror's cache
	Consume  bool     `toml:"consume"`  // default false: archives stay where they are; true: they may be moved
}

// MirrorMode is how the mirror runs.
type MirrorMode string

// The modes.
const (
	ModeSystemd  MirrorMode = "systemd"
	ModeWorkload MirrorMode = "workload"
	ModeNone     MirrorMode = "none"
)

// The forms of a mirror in Kubernetes.
const (
	FormStaticPod  = "static-pod"
	FormDaemonSet  = "daemonset"
	FormDeployment = "deployment"
)

// Mirror is [mirror].
type Mirror struct {
	Mode            string   `toml:"mode"`             // "systemd" (default), "workload" or "none"
	Listen          string   `toml:"listen"`           // host:port; default 127.0.0.1:5000, with several nodes the node's address
	Cache           string   `toml:"cache"`            // default /var/lib/edgeprep/mirror
	Upstream        string   `toml:"upstream"`         // "connected" (default) or "never"
	DefaultRegistry string   `toml:"default_registry"` // default docker.io
	AccessLog       bool     `toml:"access_log"`       // default false: hits are not logged; misses and what is pulled always are
	Metrics         string   `toml:"metrics"`          // address of Prometheus metrics, /healthz and /readyz: "127.0.0.1:9464"; default none
	TokensFile      string   `toml:"tokens_file"`      // a file of mode 0600 with a token a line; with it, only who has one may pull, or a client certificate
	AllowRegistries []string `toml:"allow_registries"` // registries that may be pulled from: "quay.io", "*.example.com"; default all
	DenyRegistries  []string `toml:"deny_registries"`  // wins over allow_registries; "**" is every one
	TLS             TLS      `toml:"tls"`
	Limits          Limits   `toml:"limits"`
	Workload        Workload `toml:"workload"`
}

// TLS is [mirror.tls].
type TLS struct {
	Cert     string `toml:"cert"`      // PEM file
	Key      string `toml:"key"`       // PEM file
	CA       string `toml:"ca"`        // PEM file that containerd checks the certificate with; default: the system's roots
	ClientCA string `toml:"client_ca"` // PEM file; with it, only who has a certificate of it may pull, or a token
}

// Limits is [mirror.limits].
type Limits struct {
	MaxCache       string `toml:"max_cache"`       // "40GiB"; empty: no limit
	MinFree        string `toml:"min_free"`        // default "1GiB"
	ScrubPeriod    string `toml:"scrub_period"`    // within which every blob is read again; default "168h"; "0": never
	MaxConnections int    `toml:"max_connections"` // default 1024; more are closed at once
}

// Workload is [mirror.workload].
type Workload struct {
	Form         string   `toml:"form"`          // "static-pod" (default), "daemonset" or "deployment"
	NodePort     int      `toml:"node_port"`     // of a deployment; default 31080
	StorageClass string   `toml:"storage_class"` // of a deployment's volume; default: the cluster's own
	Size         string   `toml:"size"`          // of a deployment's volume, required there: "40GiB"
	SelfArchive  string   `toml:"self_archive"`  // archive of the mirror's image on each node; default: made from the program that applies
	Bootstrap    []string `toml:"bootstrap"`     // images that run before the mirror serves and are in no manifest on the node's disk: of the pod network, the service proxy, the storage driver
}

// Upstream is one [[upstream]].
type Upstream struct {
	Host              string   `toml:"host"`               // the registry as references name it: "docker.io"
	URL               string   `toml:"url"`                // where it answers; default https://HOST. A path is put before each repository
	CA                string   `toml:"ca"`                 // PEM file, trusted besides the system's roots
	ClientCert        string   `toml:"client_cert"`        // PEM file
	ClientKey         string   `toml:"client_key"`         // PEM file
	CredentialsHelper string   `toml:"credentials_helper"` // "ecr-login": docker-credential-ecr-login is asked, instead of a file
	CredentialsFile   string   `toml:"credentials_file"`   // a file of mode 0600, or "env:NAME"; "user:password" or a docker config
	Insecure          bool     `toml:"insecure"`           // certificates are not verified
	Allow             []string `toml:"allow"`              // repositories: "team/*", "team/**"; default all
	Deny              []string `toml:"deny"`               // wins over allow
	Rate              string   `toml:"rate"`               // "10MiB/s", of all its blobs together
}

// Registries is [registries]: what containerd (or CRI-O) is told.
type Registries struct {
	Hosts      []string `toml:"hosts"`       // registry hosts besides those that are found; "*" is always there
	Endpoints  []string `toml:"endpoints"`   // mirror URLs; default: derived from [mirror] and [[node]]
	Write      bool     `toml:"write"`       // default true; false: registries config is left alone
	ClientCert string   `toml:"client_cert"` // PEM file that containerd shows to the mirrors
	ClientKey  string   `toml:"client_key"`  // PEM file
}

// Replication is [replication].
type Replication struct {
	Engine string `toml:"engine"` // "none" (default), "syncthing" or "builtin"
}

// Failover is [failover].
type Failover struct {
	Mode string `toml:"mode"` // "manual" (default) or "endpoints"
}

// Apply is [apply].
type Apply struct {
	Allow []string `toml:"allow"` // risks accepted: restart, overwrite, remove, plain-http, untested-distro
}

// Checklist is [checklist].
type Checklist struct {
	Profile      string   `toml:"profile"`
	Out          string   `toml:"out"`           // default /var/lib/edgeprep/reports
	EgressProbes []string `toml:"egress_probes"` // host:port that must not be reachable
	Ship         string   `toml:"ship"`          // date on which the box is closed
	PowerOn      string   `toml:"power_on"`      // date on which the node is switched on at its site; default: ship
	Mission      string   `toml:"mission"`       // how long it then works without a visit: "180d", "26w"
	Waive        []Waiver `toml:"waive"`
}

// Waiver is one [[checklist.waive]].
type Waiver struct {
	ID     string `toml:"id"`
	Reason string `toml:"reason"`
	Owner  string `toml:"owner"`
	Until  string `toml:"until"` // date
}

// Node is one [[node]].
type Node struct {
	Name    string   `toml:"name"`    // matched against hostname, then machine id, then address
	Address string   `toml:"address"` // IP that other nodes reach it by
	Roles   []string `toml:"roles"`
	Mirror  string   `toml:"mirror"` // "primary" (default of the first), "replica" or "none"
}

// Defaults that other packages need.
const (
	DefaultPath     = "/etc/edgeprep/edgeprep.toml"
	DefaultMinFree  = "1GiB"
	DefaultCache    = "/var/lib/edgeprep/mirror"
	DefaultListen   = "127.0.0.1:5000"
	DefaultRegistry = "docker.io"
	DefaultScrub    = "168h"
	NoScrub         = "0"
	DefaultNodePort = 31080
)
