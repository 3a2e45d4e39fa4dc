// Package conformance runs both conformance suites of the OCI distribution specification against the real
// mirror: pulling through from a real registry into an empty cache, with that registry gone, after a restart
// without it, and with no upstream at all.
package conformance

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/test/binaries"
	"github.com/edgeprep/edgeprep/test/edgeprep"
	"github.com/edgeprep/edgeprep/test/registry"
)

func TestMain(m *testing.M) { os.Exit(edgeprep.Main(m)) }

// The upstream's name: not docker.io, which would add library/. The suites push into one repository mainly.
const (
	host = "conformance.test"
	repo = "conf/one"
)

// content is what the suites are told to read.
type content struct {
	tags, manifests, blobs, subjects []string
	image                            [3]string // tag, manifest, config
}

// suite is a conformance suite as it is run read-only.
type suite struct {
	target string
	least  int // passes, so that a suite that did nothing is not one that passed
	env    func(m *edgeprep.Mirror, c content, out string) []string
	count  func(t *testing.T, printed, out string) map[string]int // by status
}

func suites() []suite {
	return []suite{
		{"conformance-suite", 150, func(m *edgeprep.Mirror, c content, out string) []string {
			return append(suiteEnv(m.Addr, out), "OCI_API_PUSH=false", "OCI_RO_DATA_TAGS="+strings.Join(c.tags, " "),
				"OCI_RO_DATA_MANIFESTS="+strings.Join(c.manifests, " "), "OCI_RO_DATA_BLOBS="+strings.Join(c.blobs, " "),
				"OCI_RO_DATA_REFERRERS="+strings.Join(c.subjects, " "))
		}, counted},
		{"conformance-ginkgo", 10, func(m *edgeprep.Mirror, c content, out string) []string {
			return []string{"OCI_ROOT_URL=" + m.URL, "OCI_NAMESPACE=" + repo, "OCI_TEST_PULL=1", "OCI_TAG_NAME=" + c.image[0],
				"OCI_MANIFEST_DIGEST=" + c.image[1], "OCI_BLOB_DIGEST=" + c.image[2], "OCI_REPORT_DIR=" + out}
		}, reported},
	}
}

// suiteEnv is what the newer suite needs to know of a registry. Nothing is deleted: the data must stay.
func suiteEnv(addr, out string) []string {
	return []string{"OCI_REGISTRY=" + addr, "OCI_TLS=disabled", "OCI_REPO1=" + repo, "OCI_REPO2=conf/two", "OCI_VERSION=1.1",
		"OCI_API_TAGS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_BLOBS_DELETE=false", "OCI_RESULTS_DIR=" + out}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	origin := registry.Start(t)
	// The suite fills the registry with its own data set. What the registry itself fails there is its own.
	runSuite(t, "conformance-suite", suiteEnv(origin.Addr, t.TempDir()))
	c := stored(t, origin)
	t.Logf("%d tags, %d manifests, %d blobs, %d subjects", len(c.tags), len(c.manifests), len(c.blobs), len(c.subjects))
	mirrors := map[string]*edgeprep.Mirror{}
	for _, s := range suites() {
		mirrors[s.target] = edgeprep.Serve(t, edgeprep.Options{
			Upstreams: map[string]string{host: origin.URL}, Args: []string{"--default-registry", host},
		})
	}
	all := func(phase string) {
		t.Run(phase, func(t *testing.T) {
			for _, s := range suites() {
				t.Run(s.target, func(t *testing.T) { conform(t, s, mirrors[s.target], c) })
			}
		})
	}
	all("pulling through")
	origin.Stop()
	all("upstream gone")
	for _, m := range mirrors {
		m.Restart()
	}
	all("restarted")
	for _, m := range mirrors {
		m.Args = append(m.Args, "--upstream", "never")
		m.Restart()
	}
	all("never an upstream")
}

// conform runs one suite and takes nothing but passes.
func conform(t *testing.T, s suite, m *edgeprep.Mirror, c content) {
	out := t.TempDir()
	printed := runSuite(t, s.target, s.env(m, c, out))
	count := s.count(t, printed, out)
	t.Logf("%v", count)
	bad := 0
	for status, n := range count {
		if !slices.Contains([]string{"pass", "skip", "disabled"}, status) {
			bad += n
		}
	}
	if bad > 0 || count["pass"] < s.least {
		t.Errorf("%v\n%s", count, grep(printed, ": FAIL", ": Error", "[FAIL]", " - "))
	}
}

// summary is a line of what the newer suite prints at the end: it leaves no report when a registry is read-only,
// as it cannot write the status of what it did not try (ReportResultsYAML), and it ends with 0 when it did not
// even start.
var summary = regexp.MustCompile(`(?m)^  (\w+)\.{5,}: +(\d+)$`)

func counted(t *testing.T, printed, _ string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, m := range summary.FindAllStringSubmatch(printed, -1) {
		count[strings.ToLower(m[1])], _ = strconv.Atoi(m[2])
	}
	if !strings.Contains(printed, "\nOCI Conformance Result: Pass\n") {
		count["result"] = 1
	}
	delete(count, "total")
	return count
}

// reported counts the test cases of the older suite's report by their status.
func reported(t *testing.T, _, out string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(out, "junit.xml"))
	if err != nil {
		t.Fatalf("the suite left no report: %v", err)
	}
	var report struct {
		Cases []struct {
			Status string `xml:"status,attr"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, c := range report.Cases {
		count[strings.NewReplacer("passed", "pass", "skipped", "skip").Replace(c.Status)]++
	}
	return count
}

// grep keeps the lines with one of the texts, and those after them.
func grep(s string, texts ...string) string {
	var out []string
	for line := range strings.Lines(s) {
		if slices.ContainsFunc(texts, func(x string) bool { return strings.Contains(line, x) }) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// runSuite runs a suite with nothing of this process's own settings for it, and gives what it printed.
func runSuite(t *testing.T, target string, env []string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, target))
	cmd.Dir = t.TempDir() // a file oci-conformance.yaml here would be read
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "OCI_") }), env...)
	out, _ := cmd.Output() // its report counts
	return string(out)
}

func program(t *testing.T, name string) string {
	t.Helper()
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	target, err := binaries.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := target.Find(root)
	if err != nil {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs a conformance suite: " + err.Error())
	}
	return filepath.Join(dir, "conformance")
}

// stored reads what the registry really has from its directory: it keeps SHA-512 content under SHA-256 names.
func stored(t *testing.T, r *registry.Registry) content {
	t.Helper()
	at := filepath.Join(r.Dir, "data/docker/registry/v2/repositories", repo)
	c := content{
		tags:      names(t, filepath.Join(at, "_manifests/tags/*")),
		manifests: digests(t, r, "manifests", filepath.Join(at, "_manifests/revisions/sha256/*")),
		blobs:     digests(t, r, "blobs", filepath.Join(at, "_layers/sha256/*")),
	}
	for _, d := range c.manifests {
		_, body := read(t, r.URL+"/v2/"+repo+"/manifests/"+d)
		var m struct{ Subject *ocispec.Descriptor }
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		if m.Subject != nil && !slices.Contains(c.subjects, m.Subject.Digest.String()) {
			c.subjects = append(c.subjects, m.Subject.Digest.String())
		}
	}
	_, body := read(t, r.URL+"/v2/"+repo+"/manifests/image")
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	c.image = [3]string{"image", digest.FromBytes(body).String(), m.Config.Digest.String()}
	if len(c.tags) < 10 || len(c.manifests) < 30 || len(c.blobs) < 30 || len(c.subjects) < 2 {
		t.Fatalf("the registry was not filled: %+v", c)
	}
	return c
}

func names(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		files[i] = filepath.Base(f)
	}
	return files
}

// digests are those that the registry gives.
func digests(t *testing.T, r *registry.Registry, verb, pattern string) []string {
	t.Helper()
	var out []string
	for _, hex := range names(t, pattern) {
		d := "sha256:" + hex
		if status, body := read(t, r.URL+"/v2/"+repo+"/"+verb+"/"+d); status == http.StatusOK && digest.FromBytes(body).String() == d {
			out = append(out, d)
		}
	}
	return out
}

func read(t *testing.T, url string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Accept"] = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}
