package check

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// injected is one entry of the list of faults: what is done to a node, and what shows that it is found.
type injected struct {
	n      int
	what   string
	checks string   // ids, as the catalogue of failure modes has them
	tests  []string // "folder TestName": besides the faults of TestFaults whose names begin with FI-nn
	not    string   // why nothing covers it, or what of it is not covered
}

// noCheck is a reason that holds until a fault of the table carries the number.
const noCheck = "no check yet"

// faultList is FI-01 to FI-40. A fault of the table that is named after one covers it by itself.
func faultList() []injected {
	return []injected{
		{1, "the pause image is gone, or another one is configured", "IMG-01", []string{"internal/check TestRealContainerd"}, ""},
		{2, "an image is loaded by tag and referred to by digest", "IMG-07", nil, ""},
		{3, "images are imported into the namespace default", "CRI-01, CRI-10", []string{"internal/check TestWrongNamespace"}, ""},
		{4, "an archive is cut at 25, 50 and 99 %, and on a block boundary", "TAR-01", nil, ""},
		{5, "a byte of a blob in an archive is flipped", "TAR-01, CRI-02", nil, ""},
		{6, "zstd with a large window, xz, gzip where only plain tar is read", "TAR-03, TAR-04", nil, ""},
		{7, "an archive in a sub-folder; another data directory", "TAR-05", nil, ""},
		{8, "an index with one platform's content only", "TAR-15", []string{"internal/check TestFI08AllLoaders"}, ""},
		{9, "an archive whose name is a bare tag", "IMG-10", nil, noCheck},
		{10, "the loader's cache file, a restart, a disk that fills", "TAR-08, TAR-10", []string{"internal/check TestSpaceOnARealFullDisk"}, "image collection by a kubelet under pressure takes minutes: not injected"},
		{11, "the archive is removed after import, and the distribution restarts", "TAR-09", nil, "a restart of the real k3s"},
		{12, "a program in a snapshot is zeroed; a blob of the content store is deleted", "CRI-02, CRI-06", []string{"internal/check TestRealContainerd"}, ""},
		{13, "killed during import and during unpacking", "CRI-02, CRI-06", []string{"internal/host/ctr TestKilledImport", "internal/apply TestKill", "test/e2e TestPowerCutDuringTheFirstApply"}, ""},
		{14, "config_path is empty or a list", "REG-01, REG-02", []string{"internal/check TestRealListOfDirectories"}, ""},
		{15, "hosts.toml is no TOML, misspelt, empty, or its directory hides _default", "REG-04, REG-05, REG-08", nil, ""},
		{16, "inline mirrors beside config_path", "CRI-08", nil, ""},
		{17, "a CA is missing or wrong; a certificate without the address; one that ends before power-on", "REG-12, REG-13, K8S-02", nil, ""},
		{18, "egress is dropped or refused; look-ups time out or fail at once", "REG-09, HST-07", []string{"test/faults TestTable", "internal/check TestMachineWithoutNetwork"}, ""},
		{19, "the first endpoint is a black hole, the second is well", "REG-25", nil, noCheck},
		{20, "a mirror ignores ns", "REG-24", []string{"internal/check TestAPullThatArrivesWithAnotherNS"}, ""},
		{21, "an endpoint is a NodePort on loopback with the proxy of nftables", "REG-18", nil, "a whole cluster with that proxy is not run"},
		{22, "a proxy is set in the unit", "REG-23", nil, noCheck},
		{23, "cold start with egress cut, the mirror's image gone from the node", "COLD-02, COLD-03", []string{"test/e2e TestDeadlockOfAMirrorInAPod"}, ""},
		{24, "the mirror's disk is full during a cached pull, then the mirror restarts", "MIR-05", []string{"internal/mirror TestFullDisk", "internal/mirror TestDiskFillsWhileABlobComesIn", "test/faults TestTable"}, ""},
		{25, "temporary files, conflict copies and empty files in the cache", "MIR-06", []string{"test/faults TestForeignFilesUnderARunningMirror"}, "replication (REP-02) comes with the multi-node issue"},
		{26, "a blob is short, or has other bytes of the right size", "MIR-04", []string{"internal/check TestAMirrorThatServesWrongBytes", "internal/mirror TestBadBlobGoesToQuarantine", "internal/mirror TestLoadHealsABadBlob", "test/faults TestTable"}, ""},
		{27, "the clock is 400 days ahead, ten years behind, in local time", "HST-01, MIR-08, K8S-02", nil, ""},
		{28, "credentials of an upstream are not to be had when the mirror starts", "MIR-11", []string{"internal/mirror TestBasic", "test/secrets TestOfAMirror"}, ""},
		{29, "the node that writes dies during replication, and returns", "REP-01, REP-05, REP-09, MIR-07", nil, "replication comes with the multi-node issue"},
		{30, "the writer deletes; the cache's file system is unmounted under replication", "REP-04", nil, "replication comes with the multi-node issue"},
		{31, "two nodes are cloned from one disk", "HST-05", nil, "the comparison of two nodes (REP-08) comes with the multi-node issue"},
		{32, "the cable is out at boot; no default route; no DHCP", "HST-02, HST-06", []string{"test/e2e TestKubeletWithoutARoute"}, ""},
		{33, "the address of an etcd member changes", "K8S-01", nil, noCheck},
		{34, "one of three servers is powered on", "K8S-03", nil, "needs a cluster of three: comes with the multi-node issue"},
		{35, "an intent to pull is left behind, and the image is then loaded from an archive", "K8S-05", nil, "that kubelet then refuses the pod is read in its source, not run"},
		{36, "images are pruned after the checklist", "CRI-12, PRC-04", nil, noCheck},
		{37, "unattended updates are on", "HST-13", nil, noCheck},
		{38, "cgroup v1; noexec on /var; fapolicyd", "HST-08, HST-10", nil, "a boot of such a kernel"},
		{39, "the checklist runs with the internet up", "PRC-03", []string{"internal/check TestEgress", "internal/check TestEgressDuringTheRun"}, ""},
		{40, "an archive is half copied into the live directory", "TAR-13", []string{"internal/host/local TestKilledAnywhere"}, ""},
	}
}

// fiNames are the faults of the table by number.
func fiNames(t *testing.T) map[int][]string {
	t.Helper()
	out := map[int][]string{}
	for name := range faults(t) {
		if m := regexp.MustCompile(`^FI-(\d{2}): `).FindStringSubmatch(name); m != nil {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			out[n] = append(out[n], name)
		} else if strings.HasPrefix(name, "FI") {
			t.Errorf("fault %q: write it FI-nn: ...", name)
		}
	}
	return out
}

// TestFaultListIsCurrent: each fault of the list is injected by a test that exists, or it is said why not. The document
// is made from the list.
func TestFaultListIsCurrent(t *testing.T) {
	t.Parallel()
	named := fiNames(t)
	var b strings.Builder
	b.WriteString("# The list of faults\n\nGenerated from `internal/check/fi_test.go` by `make docs`. FI-nn are the numbers of the catalogue of failure modes. *Table*: a node that\n" +
		"differs from a healthy one in this fault alone fails the check for the stated reason (`go test ./internal/check -run TestFaults/FI-nn`).\n\n" +
		"| fault | injected | checks | proven by | not covered |\n|---|---|---|---|---|\n")
	covered := 0
	for i, f := range faultList() {
		if f.n != i+1 {
			t.Fatalf("FI-%02d stands in the place of FI-%02d", f.n, i+1)
		}
		var by []string
		if len(named[f.n]) > 0 {
			by = append(by, "table")
		}
		for _, test := range f.tests {
			exists(t, test)
			folder, name, _ := strings.Cut(test, " ")
			by = append(by, "`"+name+"` in "+folder)
		}
		switch {
		case len(by) > 0:
			covered++
			f.not = strings.TrimPrefix(f.not, noCheck)
		case f.not == "":
			t.Errorf("FI-%02d: nothing injects it, and no reason is given", f.n)
		}
		fmt.Fprintf(&b, "| FI-%02d | %s | %s | %s | %s |\n", f.n, f.what, f.checks, strings.Join(by, ", "), f.not)
		delete(named, f.n)
	}
	for n := range named {
		t.Errorf("there is no FI-%02d", n)
	}
	fmt.Fprintf(&b, "\n%d of %d are injected.\n", covered, len(faultList()))
	const file = "../../docs/fault-list.md"
	if os.Getenv("EDGEPREP_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b.String(), string(got)); d != "" {
		t.Errorf("%s is not current; run make docs:\n%s", file, d)
	}
}

// exists says whether "folder TestName" is a test of the repository.
func exists(t *testing.T, test string) {
	t.Helper()
	folder, name, _ := strings.Cut(test, " ")
	files, err := filepath.Glob(filepath.Join("../..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(files, func(file string) bool {
		src, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(src), "\nfunc "+name+"(t *testing.T)")
	}) {
		t.Errorf("there is no test %s", test)
	}
}
