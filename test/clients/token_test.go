package clients

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/test/edgeprep"
	"github.com/edgeprep/edgeprep/test/registry"
)

// leeway is how long distribution takes a token after its end. distribution: registry/auth/token/token.go, Leeway
const leeway = time.Minute

// tokens is a token server as distribution knows it: it asks for name and password, and grants pulls of one
// repository. distribution: docs/content/spec/auth/token.md and jwt.md
type tokens struct {
	*httptest.Server
	key        *ecdsa.PrivateKey
	repository string

	mu    sync.Mutex
	end   time.Duration // of the tokens that it issues, from now on; what it says of that is always 5 minutes
	asked []string      // scopes, and "refused" for a wrong password
}

const (
	tokenUser     = "edge"
	tokenPassword = "correct horse battery"
)

func newTokens(t *testing.T, repository string) *tokens {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &tokens{key: key, repository: repository, end: 5 * time.Minute}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *tokens) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if user, password, _ := r.BasicAuth(); user != tokenUser || password != tokenPassword {
		s.asked = append(s.asked, "refused")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	scope := r.URL.Query().Get("scope")
	s.asked = append(s.asked, scope)
	access := []map[string]any{}
	if scope == "repository:"+s.repository+":pull" {
		access = append(access, map[string]any{"type": "repository", "name": s.repository, "actions": []string{"pull"}})
	}
	now := time.Now()
	jwt, err := s.sign(map[string]any{
		"iss": "issuer", "sub": tokenUser, "aud": r.URL.Query().Get("service"), "access": access,
		"exp": now.Add(s.end).Unix(), "nbf": now.Add(-time.Hour).Unix(), "iat": now.Unix(), "jti": fmt.Sprint(len(s.asked)),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": jwt, "expires_in": 300})
}

// sign makes a JSON Web Token (RFC 7519) with ES256 (RFC 7518, 3.4).
func (s *tokens) sign(claims map[string]any) (string, error) {
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := encode([]byte(`{"alg":"ES256","typ":"JWT","kid":"edge"}`)) + "." + encode(body)
	sum := sha256.Sum256([]byte(text))
	r, q, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", err
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	q.FillBytes(sig[32:])
	return text + "." + encode(sig), nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// keys is the JSON Web Key Set (RFC 7517) by which the registry trusts the server.
func (s *tokens) keys(t *testing.T, file string) string {
	t.Helper()
	point, err := s.key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "kid": "edge", "alg": "ES256", "use": "sig", "x": encode(point[1:33]), "y": encode(point[33:]),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, set, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *tokens) expire(end time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = end
}

// forget gives what was asked for since the last call.
func (s *tokens) forget() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.asked, " ")
	s.asked = nil
	return out
}

// A registry that wants tokens, as distribution, Harbor and GitLab have them: each repository's own, a new one
// when the last is refused though it should still be good, and nothing without the right password.
func TestUpstreamWithTokens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := registry.Start(t, registry.WithDir(dir))
	kinds := open.PushKinds("team/kinds")
	open.PushKinds("team/secret")
	open.Stop()
	server := newTokens(t, "team/kinds")
	origin := registry.Start(t, registry.WithDir(dir), registry.WithConfig(func(config string) string {
		return config + fmt.Sprintf("auth:\n  token:\n    realm: %s/token\n    service: reg\n    issuer: issuer\n    jwks: %s\n",
			server.URL, server.keys(t, filepath.Join(t.TempDir(), "keys.json")))
	}))
	secret := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(secret, []byte(tokenUser+":"+tokenPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	site := fmt.Sprintf("[[upstream]]\nhost = %q\nurl = %q\n", portHost, origin.URL)
	good := edgeprep.Serve(t, edgeprep.Options{Site: site + fmt.Sprintf("credentials_file = %q\n", secret)})
	none := edgeprep.Serve(t, edgeprep.Options{Site: site})
	status := func(m *edgeprep.Mirror, path string) int {
		t.Helper()
		return ask(t, http.MethodGet, m.URL+"/v2/"+pathHost+"/"+path).StatusCode
	}
	for _, c := range []struct {
		m    *edgeprep.Mirror
		path string
		want int
		said string
	}{
		{none, "team/kinds/manifests/v1", 404, "refused"},
		{good, "team/secret/manifests/v1", 404, "repository:team/secret:pull"},
		{good, "team/kinds/manifests/v1", 200, "repository:team/kinds:pull"},
		{good, "team/kinds/blobs/" + kinds[0].Blobs[0].String(), 200, ""},
		{good, "team/kinds/tags/list", 200, ""},
	} {
		if got := status(c.m, c.path); got != c.want {
			t.Errorf("%s: %d, want %d\n%s", c.path, got, c.want, origin.Log())
		}
		if said := server.forget(); said != c.said && !strings.HasPrefix(said, c.said+" ") {
			t.Errorf("%s: the token server was asked for %q, want %q", c.path, said, c.said)
		}
	}
	good.Restart() // it knows no token any more
	server.expire(4*time.Second - leeway)
	if got := status(good, "team/kinds/manifests/zstd"); got != 200 {
		t.Errorf("with a short token: %d", got)
	}
	time.Sleep(4500 * time.Millisecond) // a token is past its end when the clock says so
	server.expire(5 * time.Minute)
	if got, said := status(good, "team/kinds/blobs/"+kinds[5].Blobs[0].String()), server.forget(); got != 200 || strings.Count(said, "repository:team/kinds:pull") != 2 {
		t.Errorf("the token's end: %d, %q", got, said)
	}
	if strings.Contains(good.Log(), tokenPassword) || strings.Contains(good.Log(), "Bearer") {
		t.Error("the log has what it must not")
	}
}
