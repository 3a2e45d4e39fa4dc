package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// fakeHelper is a credential helper, with what it was asked.
type fakeHelper struct {
	mu           sync.Mutex
	user, secret string
	asked        []string
}

func (h *fakeHelper) ask(_ context.Context, helper, server string) (string, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, helper+" "+server)
	if h.secret == "" {
		return "", "", errors.New("it broke")
	}
	return h.user, h.secret, nil
}

func (h *fakeHelper) say(user, secret string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.user, h.secret = user, secret
}

// wants makes an origin ask for a user and password, which may change.
func wants(o *origin) func(user, password string) {
	var mu sync.Mutex
	var wantUser, wantPassword string
	o.setFault(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		mu.Lock()
		defer mu.Unlock()
		if u, p, _ := r.BasicAuth(); u == wantUser && p == wantPassword {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	return func(user, password string) {
		mu.Lock()
		defer mu.Unlock()
		wantUser, wantPassword = user, password
	}
}

// A helper is asked when its credentials are wanted, not for each request, and again when they are refused.
func TestCredentialHelper(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	want := wants(o)
	h := &fakeHelper{}
	for name, u := range map[string]Upstream{
		"site":        {Helper: "ecr-login"},
		"credHelpers": {Credentials: credentialsFile(t, fmt.Sprintf(`{"auths":{%q:{}},"credHelpers":{%q:"ecr-login"},"credsStore":"none"}`, o.URL, strings.TrimPrefix(o.URL, "http://")))},
		"credsStore":  {Credentials: credentialsFile(t, fmt.Sprintf(`{"auths":{%q:{}},"credsStore":"ecr-login"}`, o.URL))},
	} {
		s := open(t, tempDir(t))
		u.Host, u.URL = "quay.io", o.URL
		p, err := newPuller(s, Upstreams{Named: []Upstream{u}, Ask: h.ask}, testLimits())
		must(t, err)
		h.mu.Lock()
		h.asked = nil
		h.mu.Unlock()
		want("AWS", "one")
		h.say("AWS", "one")
		manifest := func() error {
			_, _, err := p.named["quay.io"].manifest(t.Context(), mustReference(t, "quay.io/library/edge-web:1.0"), nil)
			return err
		}
		for range 3 {
			if err := manifest(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		want("AWS", "two")
		h.say("AWS", "two")
		if err := manifest(); err != nil {
			t.Errorf("%s: after the first was refused: %v", name, err)
		}
		if got := strings.Join(h.asked, ","); got != strings.TrimSuffix(strings.Repeat("ecr-login "+strings.TrimPrefix(o.URL, "http://")+",", 2), ",") {
			t.Errorf("%s: asked %s", name, got)
		}
		want("AWS", "three")
		h.say("", "")
		if err := manifest(); !errors.Is(err, errRefused) || strings.Contains(err.Error(), "two") {
			t.Errorf("%s: a helper that breaks: %v", name, err)
		}
		must(t, s.Close())
		p.closeIdle()
	}
}

func mustReference(t testing.TB, s string) Reference {
	t.Helper()
	r, err := ParseReference(s)
	must(t, err)
	return r
}

func TestCredentialHelperAnswers(t *testing.T) {
	t.Parallel()
	h := &fakeHelper{user: "<token>", secret: "refresh"}
	u, err := newUpstream(Upstream{Host: DefaultRegistry, Helper: "pass"}, nil, testLimits())
	must(t, err)
	if _, err := u.credentials(t.Context()); err == nil {
		t.Error("nobody can be asked")
	}
	u.ask = h.ask
	if c, err := u.credentials(t.Context()); err != nil || c.identity != "refresh" || c.user != "" || h.asked[0] != "pass https://index.docker.io/v1/" {
		t.Errorf("%+v %v %v", c, err, h.asked)
	}
	for _, name := range []string{"../../bin/sh", "-x", "a b", "a/b", ".."} {
		u.cfg.Helper = name
		if _, err := u.credentials(t.Context()); err == nil {
			t.Errorf("%q was asked", name)
		}
	}
}

// The site says of which registries anything is pulled at all; what is cached is served.
func TestRegistryLists(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, standard(t))
	at := func(allow, deny []string) map[string]bool {
		s := open(t, tempDir(t))
		p, err := newPuller(s, Upstreams{Named: []Upstream{{Host: "docker.io", URL: o.URL}, {Host: "quay.io", URL: o.URL}},
			AllowRegistries: allow, DenyRegistries: deny}, testLimits())
		must(t, err)
		defer p.closeIdle()
		defer s.Close()
		out := map[string]bool{}
		for _, r := range []string{"docker.io", "quay.io", "a.example.com", "a.b.example.com:5000"} {
			_, err := p.at(Name{r, "x/y"})
			if err != nil && !errors.Is(err, errRefused) {
				t.Error(err)
			}
			out[r] = err == nil
		}
		return out
	}
	all := map[string]bool{"docker.io": true, "quay.io": true, "a.example.com": true, "a.b.example.com:5000": true}
	diff(t, "no lists", all, at(nil, nil))
	diff(t, "deny", map[string]bool{"docker.io": false, "quay.io": true, "a.example.com": false, "a.b.example.com:5000": true},
		at(nil, []string{"Index.docker.io", "*.example.com"}))
	diff(t, "allow", map[string]bool{"docker.io": true, "quay.io": false, "a.example.com": false, "a.b.example.com:5000": true},
		at([]string{"docker.io", "*:5000"}, nil))
	diff(t, "deny wins", map[string]bool{"docker.io": false, "quay.io": true, "a.example.com": true, "a.b.example.com:5000": true},
		at([]string{"**"}, []string{"docker.io"}))
	diff(t, "nothing", map[string]bool{"docker.io": false, "quay.io": false, "a.example.com": false, "a.b.example.com:5000": false}, at(nil, []string{"**"}))
}
