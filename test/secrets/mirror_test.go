package secrets

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/test/edgeprep"
)

// TestOfAMirror: pulls that fail in every way that has to do with credentials leave none in log, misses and metrics.
func TestOfAMirror(t *testing.T) {
	h := newHunt(t)
	dir := t.TempDir()
	origin := httptest.NewServer(http.HandlerFunc(h.hostile))
	t.Cleanup(origin.Close)
	h.origin(t, dir, origin.URL)
	admin := filepath.Join(dir, "admin.sock")
	write(t, dir, "tokens", h.plant("tokens file")+"-0123456789abcdef0123456789\n")
	m := edgeprep.Serve(t, edgeprep.Options{Site: h.site(t, dir, origin.URL), Args: []string{"--admin", admin, "--upstream", "connected"}})
	for _, registry := range []string{"basic.example", "bearer.example", "helper.example", "broken.example", "echo.example", "proxied.example", "environment.example"} {
		for _, path := range []string{"manifests/1", "manifests/sha256:" + strings.Repeat("ab", 32), "blobs/sha256:" + strings.Repeat("cd", 32), "tags/list"} {
			h.get(t, m.URL+"/v2/app/"+path+"?ns="+registry, "")
		}
	}
	for _, header := range []string{"Bearer " + h.plant("a client's token"), "Basic " + h.basic("a client's password")} {
		h.get(t, m.URL+"/v2/app/manifests/2?ns=basic.example&access_token="+h.plant("a client's query"), header)
	}
	h.seen["answer of the metrics"] = h.run("mirror", "misses", "--admin", admin) + h.run("mirror", "misses", "--admin", admin, "-o", "json")
	h.run("mirror", "fill", "--cache", t.TempDir(), "--config", m.Site, "basic.example/app:1", "bearer.example/app:1", "echo.example/app:1", "helper.example/app:1")
	m.Args = append(m.Args, "--tokens", filepath.Join(dir, "tokens"))
	m.Restart()
	h.get(t, m.URL+"/v2/app/manifests/3?ns=basic.example", "Bearer "+h.plant("a wrong token"))
	m.Stop()
	h.seen["the mirror's log"] = m.Log()
	if n := strings.Count(m.Log(), "\n"); n < 10 {
		t.Errorf("the mirror has little to say, %d lines:\n%s", n, m.Log())
	}
	h.files(m.Cache)
	h.report()
}

func (h *hunt) get(t *testing.T, url, authorization string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	h.seen[fmt.Sprintf("%d: answer to %s", len(h.seen), strings.SplitN(url, "access_token", 2)[0])] = fmt.Sprint(resp.Header) + string(b)
}

// site is that of a mirror with an upstream of each kind.
func (h *hunt) site(t *testing.T, dir, origin string) string {
	t.Helper()
	t.Setenv("PLANTED_CREDENTIALS", "robot:"+h.plant("environment"))
	t.Setenv("HTTPS_PROXY", "http://robot:"+h.plant("proxy")+"@127.0.0.1:9")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, script := range map[string]string{
		"good":   `printf '{"ServerURL":"x","Username":"robot","Secret":"` + h.plant("helper") + `"}'`,
		"broken": `echo "Secret: ` + h.plant("helper that fails") + `"; echo "denied: ` + h.plant("helper's complaint") + `" >&2; exit 1`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	for host, rest := range map[string]string{
		"basic.example":  "url = \"" + origin + "/basic\"\ncredentials_file = \"" + dir + "/pull-secret\"",
		"bearer.example": "url = \"" + origin + "/bearer\"\ncredentials_file = \"" + dir + "/docker.json\"",
		"helper.example": "url = \"" + origin + "/basic\"\ncredentials_helper = \"good\"", "broken.example": "url = \"" + origin + "/basic\"\ncredentials_helper = \"broken\"",
		"echo.example":        "url = \"" + origin + "/echo\"\ncredentials_file = \"" + dir + "/pull-secret\"",
		"proxied.example":     "url = \"https://192.0.2.1\"\ncredentials_file = \"" + dir + "/pull-secret\"",
		"environment.example": "url = \"" + origin + "/basic\"\ncredentials_file = \"env:PLANTED_CREDENTIALS\"",
	} {
		fmt.Fprintf(&b, "[[upstream]]\nhost = %q\n%s\n", host, rest)
	}
	return b.String()
}

func (h *hunt) origin(t *testing.T, dir, _ string) {
	t.Helper()
	write(t, dir, "pull-secret", "robot:"+h.plant("credentials file")+"\n")
	write(t, dir, "docker.json", `{"auths":{"bearer.example":{"auth":"`+h.basic("docker config")+`"}}}`)
	h.plant("token of the token server")
	h.plant("signed URL")
}

// hostile is an upstream that repeats what it was sent, redirects to signed addresses, and never serves.
func (h *hunt) hostile(w http.ResponseWriter, r *http.Request) {
	auth := r.Header.Get("Authorization")
	say := func(code int) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"not with %s, %s"}]}`, auth, r.URL)
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/token"):
		fmt.Fprintf(w, `{"token":"%s","expires_in":300}`, h.planted["token of the token server"])
	case strings.HasPrefix(r.URL.Path, "/signed"):
		panic(http.ErrAbortHandler) // the connection breaks
	case auth == "" && strings.HasPrefix(r.URL.Path, "/bearer"):
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x",scope="repository:app:pull"`)
		say(http.StatusUnauthorized)
	case auth == "":
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		say(http.StatusUnauthorized)
	case strings.HasPrefix(r.URL.Path, "/basic"):
		say(http.StatusForbidden)
	case strings.HasPrefix(r.URL.Path, "/echo"):
		w.Header().Set("Content-Type", auth)
		w.Header().Set("Docker-Content-Digest", auth)
		say(http.StatusOK)
	default:
		http.Redirect(w, r, "http://"+r.Host+"/signed/blob?X-Amz-Signature="+h.planted["signed URL"]+"&X-Amz-Date=1", http.StatusTemporaryRedirect)
	}
}
