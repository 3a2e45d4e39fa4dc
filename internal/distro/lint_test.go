package distro

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/distros"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

func builtin(t *testing.T, id string) string {
	t.Helper()
	data, err := fs.ReadFile(distros.FS, id+".toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestBuiltinDescriptorsAreClean(t *testing.T) {
	t.Parallel()
	for _, d := range load(t) {
		for _, p := range Lint(d.ID+".toml", []byte(builtin(t, d.ID))) {
			t.Error(p.Text())
		}
		if _, err := json.Marshal(d); err != nil {
			t.Error(err)
		}
	}
}

// Each fault alone gives exactly one finding, with its id, its line and a fix.
func TestLint(t *testing.T) {
	t.Parallel()
	good := builtin(t, "k3s")
	for _, c := range []struct {
		name, old, new string
		id, what, fix  string
	}{
		{"not TOML", `id = "k3s"`, `id = k3s`, "CFG-100", "not TOML", "distro lint"},
		{"unknown key", `socket = "/run`, `sokcet = "/run`, "CFG-101", `unknown key "runtime.sokcet"`, `did you mean "socket"`},
		{"unknown table", "[workload]", "[workloads]", "CFG-101", `unknown key "workloads"`, `did you mean "workload"`},
		{"unknown key in a list", `name = "k3s-agent.service"`, `nam = "k3s-agent.service"`, "CFG-101", `"detect.unit.1.nam"`, `did you mean "name"`},
		{"wrong type", `max_window = 33554432`, `max_window = "32MiB"`, "CFG-102", "preload.max_window must be a whole number", "number"},
		{"wrong element", `traces = ["/etc/rancher/k3s"`, `traces = [1`, "CFG-102", "detect.traces.0 must be a text", "quotes"},
		{"not a table", "[gates.watch]\nsince =", "[gates]\nwatch =", "CFG-102", "gates.watch must be a table", "table"},
		{"extension of lists", `pull_lists = ".txt"`, `pull_lists = "txt"`, "CFG-104", `extension "txt"`, "write .txt"},
		{"missing", `namespace = "k8s.io"`, ``, "CFG-103", "runtime.namespace is missing", "add"},
		{"vocabulary", `method = "directory"`, `method = "dir"`, "CFG-104", `preload.method cannot be "dir"`, "directory, import"},
		{"way of the role", `by = ["command",`, `by = ["comand",`, "CFG-104", `role.by.0 cannot be "comand"`, `did you mean "command"`},
		{"relative path", `started = ["{data-dir}/agent/containerd"`, `started = ["agent/containerd"`, "CFG-104", "started.0 must be an absolute path", "begin it"},
		{"unknown placeholder", `dir = "{data-dir}/agent/images"`, `dir = "{datadir}/agent/images"`, "CFG-105", "preload.dir names {datadir}", "did you mean {data-dir}"},
		{"unknown setting", `prefix = "system-default-registry"`, `prefix = "default-registry"`, "CFG-104", "sandbox.prefix", "use one of"},
		{"config in itself", `from = [{ env = "K3S_CONFIG_FILE" }`, `from = [{ keys = ["config"] }`, "CFG-105", "depend on each other", "default without"},
		{"kubelet's flag with dashes", `argument = "kubelet-arg"`, `argument = "--kubelet-arg"`, "CFG-104", "kubelet.argument is a name", "dashes"},
		{"kubelet's default without a value", `defaults = ["fail-swap-on=false"`, `defaults = ["fail-swap-on"`, "CFG-104", `"fail-swap-on" is not a flag with its value`, "fail-swap-on=false"},
		{"two sources in one", `{ env = "K3S_CONFIG_FILE" }`, `{ env = "K3S_CONFIG_FILE", exists = ["/x"] }`, "CFG-104", "exactly one of", "flags"},
		{"no source", `{ env = "K3S_CONFIG_FILE" }`, `{ unit = "k3s.service" }`, "CFG-104", "exactly one of", "flags"},
		{"regular expression", `regex = 'v[0-9]+`, `regex = 'v(`, "CFG-104", "not a regular expression", "regexp/syntax"},
		{"version list", `since = "1.29.1,1.28.6,`, `since = "1.29,1.28.6,`, "CFG-106", `"1.29" is not a version`, "1.33.1"},
		{"gap in a list", `since = "1.33.1,1.32.5,1.31.9,1.30.13"`, `since = "1.33.1,1.31.9,1.30.13"`, "CFG-106", "leaves out the minors between 1.31.9 and 1.33.1", "each minor"},
		{"minor twice", `since = "1.33.1,1.32.5,1.31.9,1.30.13"`, `since = "1.33.1,1.33.5"`, "CFG-106", "lists 1.33 twice", "first good"},
		{"broken list", `broken = "1.32.2`, `broken = "2.x`, "CFG-106", "gates.star_mirror.broken", "1.33.1"},
		{"staging in the watched prefix", `stage = "{data-dir}/agent/edgeprep-stage"`, `stage = "{data-dir}/agent/images-stage"`, "CFG-104", "begins with preload.dir", "beside it"},
		{"sentinel elsewhere", `sentinel = "zzz`, `sentinel = "../zzz`, "CFG-104", "preload.sentinel is a file name", "leave out"},
		{"unit name", `name = "k3s.service"`, `name = "../k3s"`, "CFG-104", "not the name of a service", "k3s.service"},
		{"file name", `id = "k3s"`, `id = "k4s"`, "CFG-104", `id is "k4s", but the file is called k3s.toml`, "call the file"},
		{"bad id", `id = "k3s"`, `id = "K3S"`, "CFG-104", "lower case", `id = "k3s"`},
		{"list of images elsewhere", `lists = ["k3s-images.txt"]`, `lists = ["/opt/k3s-images.txt"]`, "CFG-104", "images.lists holds names of files", "without a directory"},
		{"pattern that is none", `archives = ["k3s-airgap-images-*"]`, `archives = ["k3s-[a"]`, "CFG-104", "images.archives holds names of files", "without a directory"},
		{"own image with its registry", "archives = [\"k3s-airgap-images-*\"]", `own = ["rancher/klipper-lb"]`, "CFG-104", "images.own holds last parts", "kube-proxy"},
		{"optional image of no setting", "image = \"klipper-lb\"\nsetting = \"disable\"", "image = \"klipper-lb\"\nsetting = \"disabled\"", "CFG-104", "images.optional.1.setting", `did you mean "disable"`},
		{"optional image of every value", "contains = \"servicelb\"\n", "", "CFG-103", "images.optional.1.contains is missing", "add"},
		{"arguments that are no list", `api_args = "kube-apiserver-arg"`, `api_args = "pause-image"`, "CFG-104", "workload.api_args is a setting of type \"string\"", "list"},
		{"note on no gate", `gate = "recursive"`, `gate = "recursiv"`, "CFG-104", "note.2.gate", `did you mean "recursive"`},
		{"certificates that nobody renews so", `renewed = "start"`, `renewed = "boot"`, "CFG-104", `certificates.0.renewed cannot be "boot"`, "start, running"},
		{"a window without days", `value = "120"`, `value = "120d"`, "CFG-104", `"120d" is not a number of days`, `value = "90"`},
		{"a pattern of certificates", `"{data-dir}/agent/*.crt"`, `"{data-dir}/agent/[.crt"`, "CFG-104", "is not a pattern", "path#Match"},
		{"a relative datastore", `sqlite = "{data-dir}/server`, `sqlite = "server`, "CFG-104", "datastore.sqlite must be an absolute path", "begin it"},
		{"a module with a path", `"br_netfilter"`, `"net/br_netfilter"`, "CFG-104", "not the name of a module", "br_netfilter"},
		{"an address of no setting", `address = "{node-ip}"`, `address = "{node-pi}"`, "CFG-105", "address names {node-pi}", "did you mean {node-ip}"},
		{"drop-in without a key", `no_fallback = "disable-default-registry-endpoint"`, ``, "CFG-103", "need each other", "both or neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good {
				t.Fatalf("%q is not in the descriptor", c.old)
			}
			ds := Lint("k3s.toml", []byte(text))
			if len(ds) != 1 {
				t.Fatalf("%d findings: %v", len(ds), ds)
			}
			d := ds[0]
			if d.ID != c.id || !strings.Contains(d.What, c.what) || !strings.Contains(d.Fix, c.fix) || d.Where.File != "k3s.toml" || d.Where.Line == 0 {
				t.Errorf("got %s", d.Text())
			}
		})
	}
}

func TestLintNamesThePlace(t *testing.T) {
	t.Parallel()
	text := strings.Replace(builtin(t, "k3s"), `socket = "/run`, `sokcet = "/run`, 1)
	line := 1 + strings.Count(text[:strings.Index(text, "sokcet")], "\n")
	if got := Lint("/etc/edgeprep/distros/k3s.toml", []byte(text))[0].Where.String(); got != fmt.Sprintf("/etc/edgeprep/distros/k3s.toml:%d:1", line) {
		t.Error(got)
	}
}

func TestLintReportsEverything(t *testing.T) {
	t.Parallel()
	ds := Lint("x.toml", []byte("id = \"x\"\n[detect]\nprogram = \"x\"\n"))
	got := map[string]bool{}
	last := 0
	for _, d := range ds {
		got[d.Where.Key] = true
		if d.Where.Line < last {
			t.Errorf("not in the order of the file: %v", ds)
		}
		last = d.Where.Line
	}
	for _, want := range []string{"name", "summary", "support", "detect", "role", "settings", "runtime.socket", "preload.method", "registries.format", "sandbox.of", "version.regex"} {
		if !got[want] {
			t.Errorf("%s is not reported: %v", want, ds)
		}
	}
}

func TestSettingsCycle(t *testing.T) {
	t.Parallel()
	text := strings.Replace(builtin(t, "kubeadm"), `default = "/etc/containerd/config.toml"`, `default = "{containerd-root}/config.toml"`, 1)
	text = strings.Replace(text, `default = "/var/lib/containerd"`, `default = "{containerd-config}/root"`, 1)
	ds := Lint("kubeadm.toml", []byte(text))
	if len(ds) == 0 || ds[0].ID != "CFG-105" || !strings.Contains(ds[0].What, "depend on each other") {
		t.Errorf("%v", ds)
	}
}

func TestLoadLocal(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	k3s := strings.Replace(builtin(t, "k3s"), `default = "/var/lib/rancher/k3s"`, `default = "/srv/k3s"`, 1)
	own := strings.NewReplacer(`id = "k3s"`, `id = "mine"`, `"k3s.service"`, `"mine.service"`, `"k3s-agent.service"`, `"mine-agent.service"`, `"k3s-*.service"`, `"mine-*.service"`).Replace(builtin(t, "k3s"))
	n.WriteFile(LocalDir+"/k3s.toml", k3s)
	n.WriteFile(LocalDir+"/mine.toml", own)
	n.WriteFile(LocalDir+"/mine.toml.bak", "not looked at")
	set, err := Load(distros.FS, n.FS())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"k3s", "kubeadm", "mine"}, set.IDs()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	d, _ := set.Get("k3s")
	if !d.Local || d.Origin != LocalDir+"/k3s.toml" || d.Settings["data-dir"].Default != "/srv/k3s" {
		t.Errorf("%+v", d)
	}
	if b, _ := load(t).Get("k3s"); b.Local || b.Origin != "distros/k3s.toml" {
		t.Errorf("%+v", b)
	}
	n.WriteFile("/etc/systemd/system/mine.service", "[Service]\nExecStart=/usr/local/bin/k3s server\n")
	n.WriteFile("/usr/local/bin/k3s", "x")
	got, err := Detect(t.Context(), n, set, Options{})
	if err != nil || got.ID != "mine" || !strings.Contains(got.Untested, LocalDir+"/mine.toml") {
		t.Errorf("%+v, %v", got, err)
	}
}

// A local descriptor with a fault is reported, all of them at once; nothing is silently left out.
func TestLoadLocalFaults(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile(LocalDir+"/a.toml", "id = ")
	n.WriteFile(LocalDir+"/b.toml", "ids = 1")
	_, err := Load(distros.FS, n.FS())
	var files []string
	for _, d := range diag.Of(err) {
		files = append(files, d.Where.File+" "+d.ID)
	}
	if diff := cmp.Diff([]string{LocalDir + "/a.toml CFG-100", LocalDir + "/b.toml CFG-101"}, files); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	n = hosttest.New(t)
	n.Mkdir(LocalDir + "/a.toml")
	if _, err := Load(distros.FS, n.FS()); err == nil {
		t.Error("a directory in the place of a descriptor is not reported")
	}
}
