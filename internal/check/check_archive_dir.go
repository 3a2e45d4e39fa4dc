package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func archiveDirChecks() []Check {
	return []Check{archiveOwnerCheck(), finishedCheck(), listsCheck()}
}

func archiveOwnerCheck() Check {
	return Check{
		ID: "TAR-06", Title: "the loader may read the archives, and nobody but root may replace them",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"TAR-05"},
		Story: Story{
			Seen:  "permission denied in the log, or a denial of SELinux, and none of the archive's images",
			Cause: "a file that is moved keeps the SELinux label of where it came from, and a data-dir of one's own is in no policy; a file that others may write can be exchanged for another image",
			Look:  "owner, mode and SELinux label of the image directory and of every archive in it; whether SELinux enforces",
			Fix:   "chown root:root, chmod 0644; restorecon -RF DIR, for a data-dir of one's own after semanage fcontext",
			Sources: []string{"k3s-io/k3s#2158", "rancher/rke2#3427, #3454", "rke2-docs: selinux.md",
				"k3s-selinux: policy/centos9/k3s.fc"},
		},
		Run: runArchiveOwner,
	}
}

func runArchiveOwner(_ context.Context, e *Env) []Finding {
	if fs := e.inLoaderDir("the archives are read by edgeprep alone"); fs != nil {
		return fs
	}
	f, dir := e.Reader.FS(), path.Clean(e.Node.Preload.Dir)
	at, err := f.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{skip(dir, "there is none, and no archive")}
	}
	if err != nil {
		return []Finding{couldNotRun(dir, err)}
	}
	at.Path = dir
	out := e.ownership(at)
	for _, fi := range e.memo.loader().files {
		if e.loads(fi) {
			out = append(out, e.ownership(fi)...)
		}
	}
	if e.enforcing() {
		out = append(out, e.labels(at)...)
	}
	if len(out) == 0 {
		return []Finding{pass(dir, "root's alone, and readable", "stat")}
	}
	return out
}

// ownership finds entries that others than root may exchange. A process without root sees a node of its own
// making (a directory, a user namespace), whose owners say nothing.
func (e *Env) ownership(fi host.FileInfo) []Finding {
	const others = 0o022
	var what []string
	if fi.UID != 0 && e.memo.facts.Root {
		what = append(what, fmt.Sprintf("belongs to uid %d", fi.UID))
	}
	if fi.Mode&others != 0 && fi.Mode&fs.ModeSticky == 0 {
		what = append(what, "may be written by others than its owner")
	}
	if len(what) == 0 {
		return nil
	}
	return []Finding{{Status: StatusWarn, Subject: fi.Path, Expected: "root's, not writable by others", Observed: fmt.Sprintf("%s (mode %04o)", strings.Join(what, ", "), fi.Mode.Perm()),
		Source: "stat", Remedy: Remedy{Command: "chown root:root " + fi.Path + " && chmod go-w " + fi.Path}}}
}

// enforcing says whether SELinux refuses what its policy does not allow.
func (e *Env) enforcing() bool {
	if e.memo.facts.Live {
		b, err := e.Reader.FS().ReadFile("/sys/fs/selinux/enforce", 16)
		return err == nil && strings.TrimSpace(string(b)) == "1"
	}
	return slices.Contains(textLines(e.Reader.FS(), "/etc/selinux/config"), "SELINUX=enforcing")
}

// foreignTypes are labels that no policy gives to a directory of container images.
func foreignTypes() []string {
	return []string{"", "default_t", "unlabeled_t", "file_t", "user_home_t", "admin_home_t", "user_tmp_t", "tmp_t", "removable_t", "nfs_t"}
}

// labels compares the archives' labels with that of their directory, which is what a file gets that is made there.
func (e *Env) labels(dir host.FileInfo) []Finding {
	want, err := e.labelType(dir.Path)
	if err != nil {
		return []Finding{couldNotRun(dir.Path, err)}
	}
	var out []Finding
	bad := func(file, observed, command string) {
		out = append(out, Finding{Status: StatusFail, Subject: file, Expected: "a label that the policy lets the runtime read", Observed: observed,
			Source: "security.selinux; /sys/fs/selinux/enforce", Remedy: Remedy{Command: command}})
	}
	if slices.Contains(foreignTypes(), want) {
		bad(dir.Path, "type "+strconv.Quote(want), "semanage fcontext -a -t container_var_lib_t '"+e.Node.DataDir+"(/.*)?' && restorecon -RF "+e.Node.DataDir)
		return out
	}
	for _, fi := range e.memo.loader().files {
		if got, err := e.labelType(fi.Path); err != nil {
			out = append(out, couldNotRun(fi.Path, err))
		} else if e.loads(fi) && got != want {
			bad(fi.Path, "type "+strconv.Quote(got)+", its directory has "+want, "restorecon -F "+fi.Path)
		}
	}
	return out
}

// labelType is the third part of user:role:type:level.
func (e *Env) labelType(p string) (string, error) {
	label, err := e.Reader.FS().Label(p)
	if parts := strings.Split(label, ":"); err == nil && len(parts) > 2 {
		return parts[2], nil
	}
	return "", err
}

func finishedCheck() Check {
	return Check{
		ID: "TAR-13", Title: "no archive in the image directory is only half there, and nothing still writes one",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "\"unexpected EOF\" in the log, and an image absent although its archive is complete by now",
			Cause:   "loaders take a file seconds after it appeared, and look again only when size or time change; a copy that takes longer is imported half",
			Look:    "names that copying tools give to unfinished files, files that a process has open for writing, leftovers in the staging directory",
			Fix:     "wait for the copy, then restart the distribution; copy under another name beside the directory and rename",
			Sources: []string{"k3s: pkg/agent/containerd/watcher.go", "k0s: pkg/component/worker/ocibundle.go"},
		},
		Run: runFinished,
	}
}

// unfinished is how copying tools call what they have not finished: edgeprep, curl and wget, browsers, FileZilla,
// WinSCP, rsync.
var unfinished = regexp.MustCompile(`(?i)\.(?:partial|part|tmp|filepart|crdownload|download|incomplete)$|^\..+\.[A-Za-z0-9]{6}$`)

func runFinished(_ context.Context, e *Env) []Finding {
	if fs := e.inLoaderDir("edgeprep imports archives once they are verified"); fs != nil {
		return fs
	}
	dir := path.Clean(e.Node.Preload.Dir)
	var out []Finding
	for _, fi := range e.memo.loader().files {
		if unfinished.MatchString(path.Base(fi.Path)) {
			out = append(out, Finding{Status: StatusFail, Subject: fi.Path, Expected: "finished archives only", Observed: bytesText(fi.Size) + " of a copy that was not finished",
				Source: "its name", Remedy: Remedy{Text: "copy it again, and remove this", Command: "rm " + fi.Path}})
		}
	}
	if left, err := e.Reader.FS().ReadDir(e.Node.Preload.Stage); err == nil && e.Node.Preload.Stage != "" {
		for _, fi := range left {
			out = append(out, Finding{Status: StatusWarn, Subject: fi.Path, Expected: "an empty staging directory", Observed: bytesText(fi.Size) + " left by a run that was stopped",
				Source: "file tree", Remedy: Remedy{Text: "run it again, it finishes what it began", Command: "edgeprep apply"}})
		}
	}
	seen := "names"
	if e.memo.facts.Live {
		out = append(out, writers(e.Reader.FS(), dir, e.runtimeUnit())...)
		seen = "names; open files in /proc"
	}
	if len(out) == 0 {
		return []Finding{pass(dir, "nothing unfinished", seen)}
	}
	return out
}

// writers finds processes that have a file below dir open for writing. What may not be looked at, a process of
// another account for instance, is passed over: this is a help, not the proof, which is TAR-01's.
func writers(f host.FS, dir, unit string) []Finding {
	procs, err := f.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []Finding
	for _, p := range procs {
		pid := path.Base(p.Path)
		if _, err := strconv.Atoi(pid); err != nil || p.Type != host.TypeDir {
			continue
		}
		fds, err := f.ReadDir(p.Path + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if strings.HasPrefix(fd.Target, dir+"/") && writes(f, p.Path+"/fdinfo/"+path.Base(fd.Path)) {
				comm, _ := f.ReadFile(p.Path+"/comm", 64)
				out = append(out, Finding{Status: StatusFail, Subject: fd.Target, Expected: "nobody writes it", Source: fd.Path,
					Observed: fmt.Sprintf("process %s (%s) has it open for writing", pid, strings.TrimSpace(string(comm))),
					Remedy:   Remedy{Text: "wait until it is done, then", Command: "systemctl restart " + unit}})
			}
		}
	}
	return out
}

// writes reads the flags of an open file. Linux: Documentation/filesystems/proc.rst, /proc/<pid>/fdinfo
func writes(f host.FS, info string) bool {
	for _, line := range textLines(f, info) {
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(flags), 8, 64)
			const accessMode = 3 // O_ACCMODE; 0 is O_RDONLY
			return err == nil && n&accessMode != 0
		}
	}
	return false
}

func listsCheck() Check {
	return Check{
		ID: "TAR-14", Title: "lists of images that the distribution pulls at start name nothing that is not here",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-10"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "the start hangs for minutes before kubelet: \"Pulling image ...\"",
			Cause:   "k3s and RKE2 pull every line of every .txt file in the image directory, one after the other, before kubelet starts; without a network each absent one waits for its time-outs",
			Look:    "the lists in the image directory, and CRI's answer for each line; without a runtime the archives",
			Fix:     "remove the list, or bring its images in",
			Sources: []string{"k3s: pkg/agent/containerd/containerd.go (prePullImages)", "rke2-docs: import-images.md"},
		},
		Run: runLists,
	}
}

func runLists(ctx context.Context, e *Env) []Finding {
	if fs := e.inLoaderDir("so it pulls no lists from one"); fs != nil {
		return fs
	}
	lists := e.Node.Preload.PullLists
	if lists == "" {
		return []Finding{skip(e.Node.Preload.Dir, e.Node.Name+" pulls no lists")}
	}
	var out []Finding
	for _, fi := range e.memo.loader().files {
		if strings.HasSuffix(path.Base(fi.Path), lists) {
			out = append(out, e.pullList(ctx, fi.Path)...)
		}
	}
	if len(out) == 0 {
		return []Finding{skip(e.Node.Preload.Dir, "there is no list")}
	}
	return out
}

// pullList judges every line of one list.
func (e *Env) pullList(ctx context.Context, file string) []Finding {
	data, err := e.Reader.FS().ReadFile(file, 1<<20)
	if err != nil {
		return []Finding{couldNotRun(file, err)}
	}
	var out []Finding
	n := 0
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		n++
		source := fmt.Sprintf("%s:%d", file, i+1)
		ref, err := preload.ParseReference(line)
		if err != nil {
			out = append(out, Finding{Status: StatusWarn, Subject: source, Expected: "an image reference", Observed: err.Error(), Source: source})
			continue
		}
		if f, bad := e.listed(ctx, ref, source); bad {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return []Finding{pass(file, fmt.Sprintf("%d images, all of them here", n), file)}
	}
	return out
}

// listed looks for an image of a list where it has to be found at the next start.
func (e *Env) listed(ctx context.Context, ref preload.Ref, source string) (f Finding, bad bool) {
	f = Finding{Status: StatusFail, Subject: ref.Name, Expected: "on this node", Source: source,
		Remedy: Remedy{Text: "add it to [images] archives, or take the line out of the list"}}
	if e.withRuntime(ctx, source) == nil {
		_, ok, err := e.Reader.CRI(e.Node.Runtime.Endpoint).ImageStatus(ctx, ref.Name)
		if err != nil {
			return couldNotRun(ref.Name, err), true
		}
		f.Observed = "absent: each start waits for its time-outs"
		return f, !ok
	}
	where, unread := e.inArchives(func(i preload.Image) bool { return i.Name == ref.Name || ref.Digest != "" && i.Digest == ref.Digest })
	switch {
	case len(where) > 0:
		return Finding{}, false
	case len(unread) > 0 || e.Node.Started:
		return unproven(ref.Name, "it is in no archive that can be read; whether the runtime has it already can be told only while it runs"), true
	}
	f.Observed = "in none of the archives"
	return f, true
}
