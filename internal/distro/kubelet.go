package distro

import (
	"context"
	"fmt"
	"path"
	"strings"
)

// defaultKubeletRoot is kubelet's own. kubernetes: cmd/kubelet/app/options/options.go, defaultRootDir
const defaultKubeletRoot = "/var/lib/kubelet"

// kubelet finds where kubelet's state and configuration are, and the flags that it is given on this node.
func (b *builder) kubelet(context.Context) error {
	rule, k := b.d.Kubelet, &b.n.Kubelet
	k.Defaults = rule.Defaults
	if err := b.fill(map[*string]string{&k.Root: rule.Root, &k.Config: rule.Config, &k.ConfigDir: rule.ConfigDir}); err != nil {
		return err
	}
	if k.Root == "" {
		k.Root = defaultKubeletRoot
	}
	args, err := b.x.kubeletArgs(rule.Argument)
	k.Args = args
	for _, a := range args {
		if name, value, _ := strings.Cut(a.Text, "="); name == "root-dir" && path.IsAbs(value) {
			k.Root = path.Clean(value)
		}
	}
	return err
}

// kubeletArgs are kubelet's own flags, those of its unit or those that the distribution hands on. The distribution
// takes flags of its command line after its configuration file's.
func (x *resolver) kubeletArgs(argument string) ([]Arg, error) {
	if argument == "" {
		return flagArgs(x.unit.args()), nil
	}
	if err := x.readConfig(); err != nil {
		return nil, err
	}
	var out []Arg
	if c, ok := x.config[argument]; ok {
		for _, v := range c.Values {
			out = append(out, Arg{Text: strings.TrimLeft(v, "-"), Source: c.Source})
		}
	}
	for _, a := range flagArgs(x.unit.args()) {
		if v, ok := strings.CutPrefix(a.Text, argument+"="); ok {
			out = append(out, Arg{Text: strings.TrimLeft(v, "-"), Source: a.Source})
		}
	}
	return out, nil
}

// flagArgs are the flags of a command line as "name=value". A flag that is followed by a word which is none takes
// it as its value: nothing here tells which flags are switches, and a kubelet takes no other words.
func flagArgs(words []word) []Arg {
	var out []Arg
	for i := 0; i < len(words); i++ {
		text := words[i].Text
		if !strings.HasPrefix(text, "-") {
			continue
		}
		text = strings.TrimLeft(text, "-")
		if !strings.Contains(text, "=") && i+1 < len(words) && !strings.HasPrefix(words[i+1].Text, "-") {
			i++
			text += "=" + words[i].Text
		}
		out = append(out, Arg{Text: text, Source: words[i].Source})
	}
	return out
}

// kubelet checks what is said of kubelet.
func (l *linter) kubelet() {
	rule := l.d.Kubelet
	l.absolute(rule.Root, "kubelet", "root")
	l.absolute(rule.Config, "kubelet", "config")
	l.absolute(rule.ConfigDir, "kubelet", "config_dir")
	if strings.HasPrefix(rule.Argument, "-") {
		l.at("CFG-104", fmt.Sprintf("kubelet.argument is a name, not %q", rule.Argument), "leave out the dashes", "kubelet", "argument")
	}
	for i, d := range rule.Defaults {
		if name, _, ok := strings.Cut(d, "="); !ok || name == "" || strings.HasPrefix(d, "-") {
			l.at("CFG-104", fmt.Sprintf("%q is not a flag with its value", d), `write "fail-swap-on=false"`, "kubelet", "defaults", fmt.Sprint(i))
		}
	}
}
