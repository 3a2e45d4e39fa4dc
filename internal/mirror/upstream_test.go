package mirror

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// origin is a real registry over HTTP with a set of images, counters and faults.
type origin struct {
	*httptest.Server
	set *imagetest.Set

	mu     sync.Mutex
	gets   map[string]int // "GET blobs sha256:…" to requests
	bytes  int64          // of blob bodies
	ranges []string
	auth   []string // Authorization headers as they came
	fault  func(w http.ResponseWriter, r *http.Request, ref string) bool
	tags   map[string]string // overrides
	hold   chan struct{}     // a blob's second half waits for it
	cut    int               // so long is that half; 0: half
}

func newOrigin(t testing.TB, set *imagetest.Set) *origin {
	t.Helper()
	o := &origin{set: set, gets: map[string]int{}, tags: map[string]string{}}
	o.Server = httptest.NewServer(o)
	t.Cleanup(func() { o.CloseClientConnections(); o.Close() })
	return o
}

func (o *origin) setFault(f func(w http.ResponseWriter, r *http.Request, ref string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fault = f
}

func (o *origin) count(what string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for k, v := range o.gets {
		if strings.HasPrefix(k, what) {
			n += v
		}
	}
	return n
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, ok := parseTarget(r.URL.Path, "", DefaultRegistry)
	if !ok || t.op == opPing {
		o.note(r, "ping", "")
		w.WriteHeader(http.StatusOK)
		return
	}
	verb := string(t.op)
	o.note(r, verb, t.ref)
	o.mu.Lock()
	fault := o.fault
	o.mu.Unlock()
	if fault != nil && fault(w, r, t.ref) {
		return
	}
	o.answer(w, r, t)
}

func (o *origin) note(r *http.Request, verb, ref string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gets[r.Method+" "+verb+" "+ref]++
	if rg := r.Header.Get("Range"); rg != "" {
		o.ranges = append(o.ranges, rg)
	}
	if a := r.Header.Get("Authorization"); a != "" {
		o.auth = append(o.auth, a)
	}
}

func (o *origin) answer(w http.ResponseWriter, r *http.Request, t target) {
	if t.op == opManifest {
		d := o.resolve(t)
		body := o.set.Blob(d)
		mt := sniffManifest(body)
		if mt == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", mt)
		w.Header().Set("Docker-Content-Digest", d)
		send(w, r, http.StatusOK, body)
		return
	}
	body := o.set.Blob(t.ref)
	if body == nil {
		http.NotFound(w, r)
		return
	}
	o.body(w, r, body)
}

// body sends a blob, also from the middle, in two halves.
func (o *origin) body(w http.ResponseWriter, r *http.Request, b []byte) {
	status := http.StatusOK
	if s, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		from, _ := strconv.Atoi(strings.TrimSuffix(s, "-"))
		if from >= len(b) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		b, status = b[from:], http.StatusPartialContent
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	half := o.half(b)
	n, _ := w.Write(b[:half])
	o.mu.Lock()
	o.bytes += int64(n)
	hold := o.hold
	o.mu.Unlock()
	if hold != nil {
		w.(http.Flusher).Flush()
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	n, _ = w.Write(b[half:])
	o.mu.Lock()
	o.bytes += int64(n)
	o.mu.Unlock()
}

func (o *origin) half(b []byte) int64 {
	if o.cut > 0 {
		return int64(max(0, len(b)-o.cut))
	}
	return int64(len(b) / 2)
}

func (o *origin) resolve(t target) string {
	if t.digest != "" {
		return t.digest.String()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if d, ok := o.tags[t.tag]; ok {
		return d
	}
	for _, img := range o.set.Images {
		for _, n := range img.Names {
			ref, err := ParseReference(n)
			if err == nil && ref.Repository == t.raw && ref.Tag == t.tag {
				return img.Digest
			}
		}
	}
	return ""
}

func testLimits() limits {
	l := defaultLimits()
	l.retry = 5 * time.Millisecond
	return l
}

// pullerTo is a puller into an empty store from one origin that serves docker.io and registry.example:5000.
func pullerTo(t testing.TB, at string, lim limits, edit func(*Upstream)) (*puller, *httptest.Server) {
	t.Helper()
	return pullerOf(t, open(t, tempDir(t)), at, lim, edit)
}

func pullerOf(t testing.TB, s *Store, at string, lim limits, edit func(*Upstream)) (*puller, *httptest.Server) {
	t.Helper()
	var named []Upstream
	for _, h := range []string{DefaultRegistry, "registry.example:5000", "quay.io", "ghcr.io", "registry.k8s.io"} {
		u := Upstream{Host: h, URL: at}
		if edit != nil {
			edit(&u)
		}
		named = append(named, u)
	}
	p, err := newPuller(s, Upstreams{Named: named}, lim)
	must(t, err)
	srv := httptest.NewServer(NewHandler(s, HandlerOptions{pull: p}))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		s.Close()
		p.closeIdle()
	})
	return p, srv
}

// An upstream asks for a token, sends blobs from another host, and lets tokens expire. The other host must
// not see the token, the token's realm must see the credentials, and nobody else.
func TestBearer(t *testing.T) {
	t.Parallel()
	set := standard(t)
	var mu sync.Mutex
	issued, blobAuth, denied := 0, 0, 0
	blobHost := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "" {
			blobAuth++
		}
		w.Write(set.Blob(strings.TrimPrefix(r.URL.Path, "/")))
	}))
	t.Cleanup(blobHost.Close)
	realm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		user, pass, _ := r.BasicAuth()
		scope := r.URL.Query().Get("scope")
		if user != "u" || pass != "p:w" || r.URL.Query().Get("service") != "reg" || !strings.HasPrefix(scope, "repository:library/") {
			denied++
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		issued++
		fmt.Fprintf(w, `{"token":"t%d %s","expires_in":300}`, issued, base64.StdEncoding.EncodeToString([]byte(scope)))
	}))
	t.Cleanup(realm.Close)
	o := newOrigin(t, set)
	valid := 1
	o.setFault(func(w http.ResponseWriter, r *http.Request, ref string) bool {
		tt, _ := parseTarget(r.URL.Path, "", DefaultRegistry)
		scope := "repository:" + tt.name.Repository + ":pull"
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d %s", valid, base64.StdEncoding.EncodeToString([]byte(scope))) {
			valid = issued + 1
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="reg",scope="%s"`, realm.URL, scope))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if tt.op == opBlob {
			http.Redirect(w, r, blobHost.URL+"/"+ref, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	_, srv := pullerTo(t, o.URL, testLimits(), func(u *Upstream) { u.Credentials = credentialsFile(t, "u:p:w\n") })
	web, _ := set.Image(imagetest.WebName)
	if a := get(t, srv.URL+"/v2/library/edge-web/manifests/1.0"); a.StatusCode != 200 {
		t.Fatal(a.Status, string(a.body))
	}
	mu.Lock()
	valid = -1 // the token expires in the middle of a pull
	mu.Unlock()
	for _, d := range web.Platforms[0].Layers {
		if a := get(t, srv.URL+"/v2/library/edge-web/blobs/"+d); string(a.body) != string(set.Blob(d)) {
			t.Errorf("%s: %s %s", d, a.Status, a.body)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if blobAuth != 0 || denied != 0 || issued != 2 {
		t.Errorf("the blob host saw %d tokens; %d tokens were issued (want 2), %d denied", blobAuth, issued, denied)
	}
}

func TestBasic(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	o.setFault(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if u, p, _ := r.BasicAuth(); u == "robot$x" && p == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	file := credentialsFile(t, "robot$x:wrong")
	_, srv := pullerTo(t, o.URL, testLimits(), func(u *Upstream) { u.Credentials = file })
	url := srv.URL + "/v2/library/edge-web/manifests/1.0"
	if a := get(t, url); a.StatusCode != 404 || !strings.Contains(string(a.body), "refuses") {
		t.Errorf("wrong password: %s %s", a.Status, a.body)
	}
	host := strings.TrimPrefix(o.URL, "http://")
	good := base64.StdEncoding.EncodeToString([]byte("robot$x:secret"))
	must(t, writeFile(file, fmt.Sprintf(`{"auths":{"other.example":{"auth":"x"},"http://%s/v1/":{"auth":%q}}}`, host, good)))
	if a := get(t, url); a.StatusCode != 200 {
		t.Errorf("password replaced: %s %s", a.Status, a.body)
	}
}

func TestParseChallenge(t *testing.T) {
	t.Parallel()
	scheme, p := parseChallenge(`Bearer realm="https://a.example/t?x=1,2",service=reg , scope="repository:a/b:pull,push",error="a \"b\""`)
	diff(t, "challenge", map[string]string{"realm": "https://a.example/t?x=1,2", "service": "reg",
		"scope": "repository:a/b:pull,push", "error": `a "b"`}, p)
	if scheme != "bearer" {
		t.Error(scheme)
	}
	for _, s := range []string{"", "Bearer", `Bearer realm="`, `Basic =`, `Bearer a=`, `Bearer realm="\`} {
		parseChallenge(s) // hostile ones end
	}
}

// Whoever can ask the mirror must not reach what only the mirror can reach.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, standard(t))
	s := open(t, tempDir(t))
	p, srv := pullerOf(t, s, o.URL, testLimits(), nil)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(o.URL, "http://"))
	for _, ns := range []string{"127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port} {
		if a := get(t, srv.URL+"/v2/library/edge-web/manifests/1.0?ns="+ns); a.StatusCode != 404 {
			t.Errorf("%s: %s", ns, a.Status)
		}
	}
	if n := o.count(""); n != 0 {
		t.Errorf("%d requests came through", n)
	}
	public, named := &dialer{}, &dialer{named: true}
	for addr, want := range map[string][2]bool{
		"10.0.0.1:443": {false, true}, "192.168.1.1:80": {false, true}, "[fd00::1]:443": {false, true}, "100.64.1.1:1": {false, true},
		"169.254.169.254:80": {false, false}, "[fe80::1]:80": {false, false}, "[::ffff:127.0.0.1]:80": {false, true},
		"0.0.0.0:80": {false, false}, "1.1.1.1:443": {true, true}, "[2606:4700::1]:443": {true, true},
	} {
		if got := [2]bool{public.control("tcp", addr, nil) == nil, named.control("tcp", addr, nil) == nil}; got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	u, err := p.at(Name{"quay.io", "a/b"})
	must(t, err)
	u.cfg.Deny, u.cfg.Allow = []string{"a/secret*", "b/**"}, []string{"a/*", "b/**"}
	for repo, want := range map[string]bool{"a/x": true, "a/secret1": false, "a/x/y": false, "b/c/d": false, "c": false} {
		if u.allows(repo) != want {
			t.Errorf("%s: %v", repo, !want)
		}
	}
}

func TestRedirectsThatAreNotFollowed(t *testing.T) {
	t.Parallel()
	u, err := newUpstream(Upstream{Host: "docker.io"}, nil, testLimits())
	must(t, err)
	if u.base.String() != "https://registry-1.docker.io" {
		t.Error(u.base)
	}
	for _, to := range []string{"http://registry-1.docker.io/x", "file:///etc/passwd", "", "gopher://x"} {
		if next, err := u.follow(u.base, to); err == nil {
			t.Errorf("%q followed to %s", to, next)
		}
	}
	prefixed, err := newUpstream(Upstream{Host: "quay.io", URL: "https://harbor.example/v2/quay/"}, nil, testLimits())
	must(t, err)
	if prefixed.prefix != "quay/" {
		t.Error(prefixed.prefix)
	}
}

func credentialsFile(t testing.TB, text string) string {
	t.Helper()
	p := t.TempDir() + "/credentials"
	must(t, writeFile(p, text))
	return p
}

func (o *origin) blobBytes() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes
}
