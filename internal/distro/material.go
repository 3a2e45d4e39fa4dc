package distro

import (
	"context"
	"fmt"
	"path"
	"strconv"
)

// CertificateRule names files with certificates and says who renews them.
type CertificateRule struct {
	Files []string `toml:"files" json:"files"` // patterns; PEM, or kubeconfigs with certificates in them
	// Renewed says when they are made anew without anybody's help: "start" of the distribution, "running" kubelet,
	// or never (empty). Certificates of authorities never are.
	Renewed string `toml:"renewed" json:"renewed,omitempty"`
	// Within says how many days before their end a start renews them; empty: always.
	Within []VersionValue `toml:"within" json:"within,omitempty"`
	// Renew is the command that makes them anew, for people.
	Renew string `toml:"renew" json:"renew,omitempty"`
}

// DatastoreRule says where a server keeps the cluster's state, and what brings it back.
type DatastoreRule struct {
	Etcd       string   `toml:"etcd" json:"etcd,omitempty"`              // data directory of the member
	EtcdConfig string   `toml:"etcd_config" json:"etcdConfig,omitempty"` // a file with etcd's options, as YAML or as flags
	SQLite     string   `toml:"sqlite" json:"sqlite,omitempty"`          // database of a server without etcd
	Snapshots  []string `toml:"snapshots" json:"snapshots,omitempty"`    // patterns of etcd's snapshots
	Recovery   []string `toml:"recovery" json:"recovery,omitempty"`      // files that a restored cluster needs besides
	// Certificate is what the API server shows; empty: the distribution makes it for the addresses that it has.
	Certificate string `toml:"certificate" json:"certificate,omitempty"`
}

// KernelRule says what the distribution needs of the kernel.
type KernelRule struct {
	Modules []string `toml:"modules" json:"modules,omitempty"`
	// Prepared: the distribution loads them and sets what it needs under /proc/sys itself at each start.
	Prepared bool `toml:"prepared" json:"prepared,omitempty"`
	// SELinux is the policy module that it needs where SELinux is enforced.
	SELinux string `toml:"selinux" json:"selinux,omitempty"`
}

// Certificates are files with certificates, resolved.
type Certificates struct {
	Files   []string `json:"files"`
	Renewed string   `json:"renewed,omitempty"` // "start", "running" or never
	Within  int      `json:"within,omitempty"`  // days before the end; 0: at any start
	Renew   string   `json:"renew,omitempty"`   // command
}

// Datastore is where this server keeps the cluster's state; empty on others.
type Datastore struct {
	Etcd        string   `json:"etcd,omitempty"`
	EtcdConfig  string   `json:"etcdConfig,omitempty"`
	SQLite      string   `json:"sqlite,omitempty"`
	Snapshots   []string `json:"snapshots,omitempty"`
	Recovery    []string `json:"recovery,omitempty"`
	Certificate string   `json:"certificate,omitempty"`
}

// Kernel is what the distribution needs of the kernel.
type Kernel struct {
	Modules  []string `json:"modules,omitempty"`
	Prepared bool     `json:"prepared,omitempty"`
	SELinux  string   `json:"selinux,omitempty"`
}

// material resolves what a power-on depends on besides images: certificates, the datastore, the kernel.
func (b *builder) material(context.Context) error {
	b.n.Kernel = Kernel(b.d.Kernel)
	if err := b.fill(map[*string]string{&b.n.Address: b.d.Address, &b.n.Join: b.d.Join}); err != nil {
		return err
	}
	for _, rule := range b.d.Certificates {
		files, err := b.texts(rule.Files)
		if err != nil {
			return err
		}
		c := Certificates{Files: files, Renewed: rule.Renewed}
		if c.Renew, err = b.x.text(rule.Renew); err != nil {
			return err
		}
		if c.Within, err = b.days(rule.Within); err != nil {
			return err
		}
		b.n.Certificates = append(b.n.Certificates, c)
	}
	var err error
	if b.n.Identity, err = b.texts(b.d.Identity); err != nil || b.n.Role != RoleServer {
		return err
	}
	return b.datastore()
}

// days is a number of days that goes by the version; one that is not known is the oldest.
func (b *builder) days(rules []VersionValue) (int, error) {
	if len(rules) == 0 {
		return 0, nil
	}
	text, ok := valueFor(rules, b.n.Version)
	if !ok {
		text = rules[0].Value
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s: certificates.within: %w", b.d.Origin, err)
	}
	return n, nil
}

func (b *builder) datastore() error {
	rule, d := b.d.Datastore, &b.n.Datastore
	var err error
	if d.Snapshots, err = b.texts(rule.Snapshots); err != nil {
		return err
	}
	if d.Recovery, err = b.texts(rule.Recovery); err != nil {
		return err
	}
	return b.fill(map[*string]string{&d.Etcd: rule.Etcd, &d.EtcdConfig: rule.EtcdConfig, &d.SQLite: rule.SQLite, &d.Certificate: rule.Certificate})
}

// texts fills templates; what is relative or empty once filled is left out.
func (b *builder) texts(templates []string) ([]string, error) {
	var out []string
	for _, t := range templates {
		s, err := b.x.text(t)
		if err != nil {
			return nil, err
		}
		if path.IsAbs(s) {
			out = append(out, s)
		}
	}
	return out, nil
}

// material checks what is said of certificates, datastore and kernel.
func (l *linter) material() {
	for i, c := range l.d.Certificates {
		p := []string{"certificates", strconv.Itoa(i)}
		if len(c.Files) == 0 {
			l.at("CFG-103", "certificates.files is missing", `write files = ["{data-dir}/pki/*.crt"]`, p...)
		}
		l.patterns(c.Files, append(p, "files")...)
		l.oneOf(c.Renewed, []string{"", "start", "running"}, append(p, "renewed")...)
		l.template(c.Renew, append(p, "renew")...)
		l.versionValues(c.Within, append(p, "within")...)
		for k, w := range c.Within {
			at := append(p, "within", strconv.Itoa(k))
			if n, err := strconv.ParseUint(w.Value, 10, 16); err != nil || n == 0 {
				l.at("CFG-104", fmt.Sprintf("%q is not a number of days", w.Value), `write value = "90"`, append(at, "value")...)
			}
		}
	}
	s := l.d.Datastore
	for key, v := range map[string]string{"etcd": s.Etcd, "etcd_config": s.EtcdConfig, "sqlite": s.SQLite, "certificate": s.Certificate} {
		l.absolute(v, "datastore", key)
	}
	l.patterns(s.Snapshots, "datastore", "snapshots")
	l.absolutes(s.Recovery, "datastore", "recovery")
	l.absolutes(l.d.Identity, "identity")
	l.template(l.d.Address, "address")
	l.template(l.d.Join, "join")
	for i, m := range l.d.Kernel.Modules {
		if m == "" || path.Base(m) != m {
			l.at("CFG-104", fmt.Sprintf("%q is not the name of a module", m), `write "br_netfilter"`, "kernel", "modules", strconv.Itoa(i))
		}
	}
}

func (l *linter) patterns(list []string, p ...string) {
	l.absolutes(list, p...)
	for i, f := range list {
		if _, err := path.Match(f, "/"); err != nil {
			l.at("CFG-104", fmt.Sprintf("%q is not a pattern of paths", f), "see https://pkg.go.dev/path#Match", append(p, strconv.Itoa(i))...)
		}
	}
}
