// Package kubelet reads what a node's files say about its kubelet: its configuration in effect, and its records
// of the images that it pulled.
package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
)

// Bounds of what is read.
const (
	maxConfigFile  = 1 << 20
	maxConfigFiles = 200
	maxConfigDepth = 4
)

// Value is a setting and where it was written.
type Value struct {
	Text   string
	List   []string // of a setting that is a list
	Source string   // "/var/lib/kubelet/config.yaml:12", "default"
}

// Config is kubelet's configuration as the node's files say it: its file, then the files of its directory, then
// its flags. kubernetes: cmd/kubelet/app/server.go, NewKubeletCommand.
type Config struct {
	values map[string]Value
	args   []distro.Arg
}

// Read reads the configuration of a node's kubelet. A file that is not there says nothing; one that cannot be
// read or understood is an error: kubelet would not start with it.
func Read(f host.FS, k distro.Kubelet) (Config, error) {
	c := Config{values: map[string]Value{}, args: k.Args}
	for _, d := range k.Defaults {
		c.flag(distro.Arg{Text: d, Source: "default"})
	}
	files, err := configFiles(f, k)
	if err != nil {
		return c, err
	}
	for _, file := range files {
		data, err := f.ReadFile(file, maxConfigFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = c.merge(file, data)
		}
		if err != nil {
			return c, fmt.Errorf("kubelet's configuration %s: %w", file, err)
		}
	}
	for _, a := range k.Args {
		c.flag(a)
	}
	return c, nil
}

// configFiles are the files in the order in which they count: those of the directory that end with .conf, by
// their path, also in directories below.
func configFiles(f host.FS, k distro.Kubelet) ([]string, error) {
	var out []string
	if k.Config != "" {
		out = append(out, k.Config)
	}
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		entries, err := f.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("kubelet's configuration directory: %w", err)
		}
		for _, e := range entries {
			p := path.Join(dir, path.Base(e.Path))
			switch {
			case e.Type == host.TypeDir && depth < maxConfigDepth:
				if err := walk(p, depth+1); err != nil {
					return err
				}
			case e.Type != host.TypeDir && path.Ext(p) == ".conf" && len(out) < maxConfigFiles:
				out = append(out, p)
			}
		}
		return nil
	}
	if k.ConfigDir == "" {
		return out, nil
	}
	return out, walk(k.ConfigDir, 0)
}

// merge takes a file in: a JSON merge patch, so a table adds to what is there and anything else replaces it.
func (c *Config) merge(file string, data []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("it is not YAML: %w", err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return errors.New("it is not a KubeletConfiguration")
	}
	c.table(file, "", root)
	return nil
}

func (c *Config) table(file, prefix string, n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := prefix+n.Content[i].Value, n.Content[i+1]
		source := fmt.Sprintf("%s:%d", file, n.Content[i].Line)
		switch {
		case v.Kind == yaml.MappingNode && strings.Count(key, "/") < maxConfigDepth:
			delete(c.values, key)
			c.table(file, key+"/", v)
		case v.Tag == "!!null":
			c.remove(key)
		case v.Kind == yaml.ScalarNode:
			c.remove(key)
			c.values[key] = Value{Text: v.Value, Source: source}
		case v.Kind == yaml.SequenceNode:
			c.remove(key)
			list := []string{}
			for _, e := range v.Content {
				list = append(list, e.Value)
			}
			c.values[key] = Value{List: list, Source: source}
		}
	}
}

// remove forgets a setting with all that is below it.
func (c *Config) remove(key string) {
	for k := range c.values {
		if k == key || strings.HasPrefix(k, key+"/") {
			delete(c.values, k)
		}
	}
}

// flag takes a flag in. One that stands for a table replaces it, but for feature gates, which are united.
func (c *Config) flag(a distro.Arg) {
	name, value, given := strings.Cut(a.Text, "=")
	key, ok := flagKeys()[name]
	if !ok {
		return
	}
	if !given {
		value = "true"
	}
	separator := map[string]string{"eviction-hard": "<", "eviction-minimum-reclaim": "=", "feature-gates": "="}[name]
	if separator == "" {
		c.values[key] = Value{Text: value, Source: a.Source}
		return
	}
	if name != "feature-gates" {
		c.remove(key)
	}
	for _, pair := range strings.Split(value, ",") {
		if k, v, ok := strings.Cut(pair, separator); ok {
			c.values[key+"/"+strings.TrimSpace(k)] = Value{Text: strings.TrimSpace(v), Source: a.Source}
		}
	}
}

// flagKeys are the flags that stand for settings which are asked for here.
// kubernetes: cmd/kubelet/app/options/options.go, AddKubeletConfigFlags
func flagKeys() map[string]string {
	return map[string]string{
		"cgroup-driver":              "cgroupDriver",
		"eviction-hard":              "evictionHard",
		"eviction-minimum-reclaim":   "evictionMinimumReclaim",
		"fail-swap-on":               "failSwapOn",
		"feature-gates":              "featureGates",
		"image-gc-high-threshold":    "imageGCHighThresholdPercent",
		"image-gc-low-threshold":     "imageGCLowThresholdPercent",
		"minimum-image-ttl-duration": "imageMinimumGCAge",
		"pod-manifest-path":          "staticPodPath",
		"protect-kernel-defaults":    "protectKernelDefaults",
		"registry-burst":             "registryBurst",
		"registry-qps":               "registryPullQPS",
		"resolv-conf":                "resolvConf",
		"rotate-certificates":        "rotateCertificates",
		"runtime-request-timeout":    "runtimeRequestTimeout",
		"serialize-image-pulls":      "serializeImagePulls",
	}
}

// defaults are kubelet's own. kubernetes: pkg/kubelet/apis/config/v1beta1/defaults.go and
// pkg/kubelet/eviction/defaults_linux.go.
func defaults() map[string]string {
	return map[string]string{
		"failSwapOn":                  "true",
		"imageGCHighThresholdPercent": "85",
		"imageGCLowThresholdPercent":  "80",
		"imageMaximumGCAge":           "0s",
		"imageMinimumGCAge":           "2m0s",
		"registryBurst":               "10",
		"registryPullQPS":             "5",
		"runtimeRequestTimeout":       "2m0s",
		"serializeImagePulls":         "true",
	}
}

// Get is a setting by its name in a KubeletConfiguration, a key in a table after a slash: "serializeImagePulls",
// "evictionHard/imagefs.available". ok is false when neither the node's files nor kubelet's defaults say it.
func (c Config) Get(key string) (v Value, ok bool) {
	if v, ok = c.values[key]; ok {
		return v, true
	}
	if key == "serializeImagePulls" {
		// several at a time imply that they are not serialised
		if n, err := strconv.Atoi(c.values["maxParallelImagePulls"].Text); err == nil && n > 1 {
			return Value{Text: "false", Source: c.values["maxParallelImagePulls"].Source}, true
		}
	}
	text, ok := defaults()[key]
	if !ok {
		text, ok = c.evictionDefault(key)
	}
	return Value{Text: text, Source: "kubelet's default"}, ok
}

// evictionDefault holds as long as nothing is said of evictionHard; what is said replaces all of it, unless
// mergeDefaultEvictionSettings is set.
func (c Config) evictionDefault(key string) (string, bool) {
	signal, ok := strings.CutPrefix(key, "evictionHard/")
	if !ok {
		return "", false
	}
	if c.values["mergeDefaultEvictionSettings"].Text != "true" {
		for k := range c.values {
			if strings.HasPrefix(k, "evictionHard/") {
				return "0%", true
			}
		}
	}
	text, ok := map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%",
		"imagefs.available": "15%", "imagefs.inodesFree": "5%"}[signal]
	return text, ok
}

// Number is Get of a number.
func (c Config) Number(key string) (n int64, v Value, ok bool) {
	v, ok = c.Get(key)
	if !ok {
		return 0, v, false
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(v.Text, "%"), 10, 64)
	return n, v, err == nil
}

// Bool is Get of a switch.
func (c Config) Bool(key string) (on bool, v Value, ok bool) {
	v, ok = c.Get(key)
	on, err := strconv.ParseBool(v.Text)
	return on, v, ok && err == nil
}

// Args are the flags that were given on this node, "name=value" without dashes.
func (c Config) Args() []distro.Arg { return slices.Clone(c.args) }
