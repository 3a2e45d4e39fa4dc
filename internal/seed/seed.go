// Package seed renders cloud-init NoCloud seeds: what makes one machine of a site the node that edgeprep.toml
// says, with nobody there. It is pure: files in, files out.
package seed

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
)

// DistrosDir is where descriptors of a site's own are on a node.
const DistrosDir = "/etc/edgeprep/distros"

// File is a file of a seed, or one that it puts on the node.
type File struct {
	Path    string // in the seed: a name; on the node: absolute
	Content []byte
	Secret  bool
}

// Input is what the seed of one node is made of.
type Input struct {
	Site     string // name of the site, for the instance id
	Node     string // becomes the host name
	Revision int    // a new one makes cloud-init run its first boot again
	Config   []byte // edgeprep.toml
	Files    []File // further ones for the node: descriptors, lists, certificates
	// Install are the arguments of `edgeprep unit install` that are run at every boot, for an image that
	// carries edgeprep without its units; nil: the image carries them.
	Install []string
	Network []byte // network-config as it stands; nil: none
}

// userData is the part of cloud-config that a seed uses.
// cloud-init: cloudinit/config/schemas/schema-cloud-config-v1.json
type userData struct {
	Hostname string      `yaml:"hostname"`
	Bootcmd  [][]string  `yaml:"bootcmd,omitempty"`
	Files    []writeFile `yaml:"write_files"`
}

type writeFile struct {
	Path        string `yaml:"path"`
	Permissions string `yaml:"permissions"`
	Owner       string `yaml:"owner"`
	Encoding    string `yaml:"encoding,omitempty"`
	Content     string `yaml:"content"`
}

type metaData struct {
	InstanceID string `yaml:"instance-id"`
	Hostname   string `yaml:"local-hostname"`
}

var hostname = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// Render makes the files of a NoCloud seed. user-data is plain cloud-config with its files inline and, unless
// Install asks for it, no bootcmd: anything else makes cloud-init wait for a network that is not there
// (cloud-init: cloudinit/cmd/main.py _should_wait_via_user_data, since 24.4).
func Render(in Input) ([]File, error) {
	if !hostname.MatchString(in.Node) || len(in.Node) > 64 {
		return nil, &diag.Diagnostic{ID: "CFG-040", Severity: diag.Error, What: fmt.Sprintf("%q cannot be a host name", in.Node),
			Where: diag.Where{Key: "node.name"}, Why: "cloud-init gives the node its name, by which it finds itself in edgeprep.toml",
			Fix: `name = "edge-1": lower case letters, digits, "-" and "."`}
	}
	u := userData{Hostname: in.Node}
	if in.Install != nil {
		u.Bootcmd = [][]string{append([]string{"edgeprep", "unit", "install"}, in.Install...)}
	}
	secret := false
	for _, f := range append([]File{{Path: config.DefaultPath, Content: in.Config}}, in.Files...) {
		u.Files = append(u.Files, onNode(f))
		secret = secret || f.Secret
	}
	user, err := document(u)
	if err != nil {
		return nil, err
	}
	meta, err := document(metaData{InstanceID: in.instanceID(), Hostname: in.Node})
	if err != nil {
		return nil, err
	}
	out := []File{{Path: "meta-data", Content: meta},
		{Path: "user-data", Content: append([]byte("#cloud-config\n"), user...), Secret: secret}}
	if in.Network != nil {
		out = append(out, File{Path: "network-config", Content: in.Network})
	}
	return out, nil
}

func document(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write the seed: %w", err)
	}
	return b.Bytes(), enc.Close()
}

// instanceID tells first boots apart. It says nothing of the content: a changed seed with the same id is not
// taken up by a machine that has booted.
func (in Input) instanceID() string {
	site := strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return unicode.ToLower(r)
		}
		return '-'
	}, in.Site)
	parts := slices.DeleteFunc([]string{strings.Trim(site, "-"), in.Node, fmt.Sprintf("r%d", in.Revision)}, func(s string) bool { return s == "" })
	return strings.Join(parts, "-")
}

// onNode is a file as cloud-init writes it. Everything is root's own: edgeprep.toml may name hosts and paths
// that are nobody else's business.
func onNode(f File) writeFile {
	w := writeFile{Path: f.Path, Permissions: "0600", Owner: "root:root", Content: string(f.Content)}
	if !plain(f.Content) {
		w.Encoding, w.Content = "b64", base64.StdEncoding.EncodeToString(f.Content)
	}
	return w
}

// plain says whether YAML holds text as it is.
func plain(b []byte) bool {
	return utf8.Valid(b) && !strings.ContainsFunc(string(b), func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) })
}

// Named is a file that edgeprep.toml names.
type Named struct {
	Key, Path string
	Secret    bool
}

// NamedFiles are the files that edgeprep.toml names and a node reads, each once.
func NamedFiles(s config.Site) []Named {
	var out []Named
	add := func(key, path string, secret bool) {
		known := slices.ContainsFunc(out, func(n Named) bool { return n.Path == path })
		if path != "" && !known && strings.HasPrefix(path, "/") {
			out = append(out, Named{key, path, secret})
		}
	}
	add("images.required", s.Images.Required, false)
	add("mirror.tls.cert", s.Mirror.TLS.Cert, false)
	add("mirror.tls.key", s.Mirror.TLS.Key, true)
	add("mirror.tls.ca", s.Mirror.TLS.CA, false)
	add("mirror.tls.client_ca", s.Mirror.TLS.ClientCA, false)
	add("mirror.tokens_file", s.Mirror.TokensFile, true)
	add("registries.client_cert", s.Registries.ClientCert, false)
	add("registries.client_key", s.Registries.ClientKey, true)
	for i, u := range s.Upstreams {
		key := fmt.Sprintf("upstream[%d].", i)
		add(key+"ca", u.CA, false)
		add(key+"client_cert", u.ClientCert, false)
		add(key+"client_key", u.ClientKey, true)
		add(key+"credentials_file", u.CredentialsFile, true)
	}
	return out
}
