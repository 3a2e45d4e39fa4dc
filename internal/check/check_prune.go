package check

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

func pruneChecks() []Check {
	return []Check{{
		ID: "CRI-12", Title: "no job on this node removes images",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "images vanish on a schedule, the pause image with them",
			Cause:   "crictl rmi --prune and the like take every image that no container uses just now; they know neither pins nor that nothing can be pulled again",
			Look:    "cron tables, systemd units and timers of this node, and the scripts that they name, for commands that remove images",
			Fix:     "disable the job on nodes without an uplink",
			Sources: []string{"containerd/containerd#9793", "kubernetes-sigs/cri-tools#839"},
		},
		Run: runPrune,
	}}
}

// prunes finds commands that remove images.
var prunes = regexp.MustCompile(`crictl\b[^\n;|&]*\brmi\b[^\n;|&]*(?:\s-q\b|\s-a\b|--prune|--all|\$)|` +
	`\b(?:docker|nerdctl|podman|buildah)\b[^\n;|&]*\b(?:system|image|images)\s+prune\b|` +
	`\bctr\b[^\n;|&]*\bi(?:mages?)?\s+(?:prune|rm|remove|delete|del)\b`)

// jobDirs are where jobs of this node are kept: cron's, and units that are not a package's.
func jobDirs() []string {
	return []string{"/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly",
		"/var/spool/cron", "/var/spool/cron/crontabs", "/etc/systemd/system", "/usr/local/lib/systemd/system", "/run/systemd/system"}
}

const (
	maxJobs   = 2000      // files that are looked at
	maxScript = 256 << 10 // bytes of one
)

func runPrune(_ context.Context, e *Env) []Finding {
	f := e.Reader.FS()
	files := []string{"/etc/crontab", "/etc/anacrontab"}
	for _, dir := range jobDirs() {
		files = append(files, filesIn(f, dir)...)
	}
	var out []Finding
	for _, file := range files[:min(len(files), maxJobs)] {
		for _, at := range append([]string{file}, scripts(f, file)...) {
			if line, text := removes(f, at); line > 0 {
				out = append(out, Finding{Status: StatusWarn, Subject: file, Expected: "nothing that removes images", Observed: text, Source: fmt.Sprintf("%s:%d", at, line),
					Remedy: stopJob(file)})
			}
		}
	}
	if len(out) == 0 {
		return []Finding{pass("jobs", fmt.Sprintf("%d cron tables, units and scripts: none removes images", len(files)), "/etc/cron*, /var/spool/cron, /etc/systemd/system")}
	}
	return out
}

// stopJob is how a job is taken out of use.
func stopJob(file string) Remedy {
	if name := path.Base(file); strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".timer") {
		name = strings.TrimSuffix(strings.TrimSuffix(name, ".service"), ".timer")
		return Remedy{Text: "switch it off on this node", Command: "systemctl disable --now " + name + ".timer " + name + ".service"}
	}
	return Remedy{Text: "take the line out on this node, or the file: " + file}
}

// filesIn are the regular files of a directory and of drop-in directories below it.
func filesIn(f host.FS, dir string) []string {
	entries, err := f.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, d := range entries {
		switch {
		case d.Type == host.TypeFile:
			out = append(out, d.Path)
		case d.Type == host.TypeDir && strings.HasSuffix(d.Path, ".d") && !strings.HasSuffix(dir, ".d"):
			out = append(out, filesIn(f, d.Path)...)
		}
	}
	return out
}

// named finds absolute paths in a job's text.
var named = regexp.MustCompile(`(?m)(?:^|[\s"'=;&|@:+!-])(/[\w./+-]+)`)

// scripts are the text files that a job names: they do the work.
func scripts(f host.FS, file string) []string {
	data := textOf(f, file)
	var out []string
	for _, m := range named.FindAllSubmatch(data, 50) {
		p := path.Clean(string(m[1]))
		fi, err := f.Stat(p)
		if err != nil || fi.Type != host.TypeFile || fi.Size > maxScript || p == file {
			continue
		}
		if bytes.HasPrefix(textOf(f, p), []byte("#!")) {
			out = append(out, p)
		}
	}
	return out
}

// textOf is the content of a small file without NUL bytes; nil when it is something else.
func textOf(f host.FS, file string) []byte {
	data, err := f.ReadFile(file, maxScript)
	if err != nil || bytes.IndexByte(data, 0) >= 0 {
		return nil
	}
	return bytes.ReplaceAll(data, []byte("\\\n"), []byte("  "))
}

// removes is the first line that removes images, and what it says; 0 when there is none.
func removes(f host.FS, file string) (line int, text string) {
	for i, l := range bytes.Split(textOf(f, file), []byte("\n")) {
		l = bytes.TrimSpace(l)
		if len(l) == 0 || l[0] == '#' || l[0] == ';' {
			continue
		}
		if m := prunes.Find(l); m != nil {
			return i + 1, string(m)
		}
	}
	return 0, ""
}
