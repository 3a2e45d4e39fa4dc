package redact_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/redact"
)

const secret = "S3cr3t-Pl4nt3d"

func TestText(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ in, want string }{
		// a site file with what does not belong there
		{`url = "https://bob:S3cr3t-Pl4nt3d@registry.example.com/v2"`, `url = "https://***@registry.example.com/v2"`},
		{`password = "S3cr3t-Pl4nt3d"`, `password = "***"`},
		{`credentials_file = "/etc/edgeprep/pull-secret"`, `credentials_file = "/etc/edgeprep/pull-secret"`},
		{`tokens_file = "/etc/edgeprep/tokens"`, `tokens_file = "/etc/edgeprep/tokens"`},
		{`credentials_helper = "ecr-login"`, `credentials_helper = "ecr-login"`},
		{`credentials_file = "env:NAME"`, `credentials_file = "env:NAME"`},
		{`mirror.tokens_file = "S3cr3t-Pl4nt3d" is not a path`, `mirror.tokens_file = "***" is not a path`},
		// registries.yaml
		{"    auth:\n      username: bob\n      password: S3cr3t-Pl4nt3d # it\n", "    auth:\n      username: bob\n      password: ***\n"},
		{"      auth: S3cr3t-Pl4nt3d==", "      auth: ***"},
		{"      identity_token: S3cr3t-Pl4nt3d", "      identity_token: ***"},
		// hosts.toml
		{"[host.\"https://r\".header]\n  x-plain = \"S3cr3t-Pl4nt3d\"\n[host.\"https://q\"]\n  ca = \"/x\"", "[host.\"https://r\".header]\n  x-plain = \"***\"\n[host.\"https://q\"]\n  ca = \"/x\""},
		{`  authorization = ["Basic S3cr3t-Pl4nt3d"]`, `  authorization = ***`},
		{"  [host.x.header]\n  authorization = [\n    \"Basic S3cr3t-Pl4nt3d\",\n  ]\n  [host.x.more]\n  a = 1", "  [host.x.header]\n  authorization = ***\n    ***,\n  ]\n  [host.x.more]\n  a = 1"},
		{"[plugins.\"x\".registry.headers]\nX-Meta = [\"S3cr3t-Pl4nt3d\"]\n[y]\nz = 1", "[plugins.\"x\".registry.headers]\nX-Meta = ***\n[y]\nz = 1"},
		{"auth:\n  identity_token: >-\n    S3cr3t-Pl4nt3d\n    S3cr3t-Pl4nt3d\n\n  username: bob\n", "auth:\n  identity_token: >-\n    ***\n    ***\n\n  username: bob\n"},
		// docker config, on one line and on several
		{`{"auths":{"quay.io":{"auth":"S3cr3t-Pl4nt3d","email":"a@b"}}}`, `{"auths":{"quay.io":{"auth":"***","email":"a@b"}}}`},
		{"{\n \"auths\": {\n  \"quay.io\": {\n   \"identitytoken\": \"S3cr3t-Pl4nt3d\"\n", "{\n \"auths\": {\n  \"quay.io\": {\n   \"identitytoken\": \"***\"\n"},
		// units, environments, command lines
		{`Environment="HTTPS_PROXY=http://u:S3cr3t-Pl4nt3d@proxy:3128" NO_PROXY=x`, `Environment="HTTPS_PROXY=http://***@proxy:3128" NO_PROXY=x`},
		{`Environment="FOO=S3cr3t-Pl4nt3d and more" 'BAR=S3cr3t-Pl4nt3d' BAZ=S3cr3t-Pl4nt3d KUBELET_ARGS=--x`, `Environment="FOO=***" 'BAR=***' BAZ=*** KUBELET_ARGS=--x`},
		{`https_proxy=u:S3cr3t-Pl4nt3d@proxy:3128`, `https_proxy=***@proxy:3128`},
		{`Environment=K3S_TOKEN=S3cr3t-Pl4nt3d`, `Environment=K3S_TOKEN=***`},
		{`ExecStart=/usr/bin/k3s agent --token S3cr3t-Pl4nt3d --server https://x:6443`, `ExecStart=/usr/bin/k3s agent --token *** --server https://x:6443`},
		{`--etcd-s3-secret-key=S3cr3t-Pl4nt3d --x`, `--etcd-s3-secret-key=*** --x`},
		{`datastore-endpoint: postgres://u:S3cr3t-Pl4nt3d@db/k3s`, `datastore-endpoint: postgres://***@db/k3s`},
		// logs
		{`GET /v2/ Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.S3cr3t-Pl4nt3d.x`, `GET /v2/ Authorization: ***`},
		{`sent basic S3cr3t-Pl4nt3d= to it`, `sent basic *** to it`},
		{`a bearer token is missing`, `a bearer token is missing`},
		{`Get "https://s3/x?X-Amz-Signature=S3cr3t-Pl4nt3d&X-Amz-Date=1": EOF`, `Get "https://s3/x?X-Amz-Signature=***&X-Amz-Date=1": EOF`},
		{`join with abcdef.0123456789abcdef please`, `join with *** please`},
		{`K10` + strings.Repeat("0a", 32) + `::server:S3cr3t-Pl4nt3d`, `***`},
		{"-----BEGIN RSA PRIVATE KEY-----\nS3cr3t-Pl4nt3d\n-----END RSA PRIVATE KEY-----\nafter", "(a private key is not shown)\nafter"},
		{"-----BEGIN PRIVATE KEY-----\nS3cr3t-Pl4nt3d", "(a private key is not shown)"},
		{`    client-key-data: S3cr3t-Pl4nt3d`, `    client-key-data: ***`},
		{`{"msg":"url \"https://u:S3cr3t-Pl4nt3d@h/x\" refused","n":1}`, `{"msg":"url \"https://***@h/x\" refused","n":1}`},
		// what is none
		{`automountServiceAccountToken: false`, `automountServiceAccountToken: false`},
		{"authentication:\n  anonymous:\n", "authentication:\n  anonymous:\n"},
		{`--authorization-mode=Node,RBAC`, `--authorization-mode=Node,RBAC`},
		{`docker.io/library/busybox@sha256:0a1b`, `docker.io/library/busybox@sha256:0a1b`},
		{`https://registry.example.com/v2/a@sha256:00`, `https://registry.example.com/v2/a@sha256:00`},
		{`http://127.0.0.1:5000`, `http://127.0.0.1:5000`},
	} {
		if d := cmp.Diff(tc.want, redact.Text(tc.in)); d != "" {
			t.Errorf("%s\n(-want +got):\n%s", tc.in, d)
		}
	}
}

// A secret that was read from its file is hidden in whatever form it is met.
func TestRedactorHidesValuesInEveryForm(t *testing.T) {
	t.Parallel()
	var r redact.Redactor
	r.Add("bob:" + secret)
	r.Learn("configs:\n  quay.io:\n    auth:\n      auth: " + base64.StdEncoding.EncodeToString([]byte("eve:0ther-S3cr3t")))
	for _, s := range []string{
		"upstream says: wrong password " + secret + "!",
		"sent " + base64.StdEncoding.EncodeToString([]byte("bob:"+secret)),
		"odd " + base64.StdEncoding.EncodeToString([]byte("eve:0ther-S3cr3t")) + " and 0ther-S3cr3t",
	} {
		got := r.Text(s)
		for _, no := range []string{secret, "0ther-S3cr3t", base64.StdEncoding.EncodeToString([]byte("bob:" + secret)), base64.StdEncoding.EncodeToString([]byte("eve:0ther-S3cr3t"))} {
			if strings.Contains(got, no) {
				t.Errorf("%q became %q", s, got)
			}
		}
	}
	if got := r.Text("bob is a user"); got != "bob is a user" {
		t.Error(got)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"password: x", `"auth":"x"`, "https://u:p@h", "[host.x.header]\na = [\n\"x\",\n]", "-----BEGIN PRIVATE KEY-----", "a_token=[", "sig=1&sig=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once := redact.Text(s)
		if twice := redact.Text(once); strings.Count(twice, "\n") != strings.Count(once, "\n") {
			t.Errorf("%q: %q, again %q", s, once, twice)
		}
		for _, form := range []string{"password: ", "\npassword=", "x https://u:"} {
			end := ""
			if strings.HasSuffix(form, "u:") {
				end = "@host/"
			}
			if got := redact.Text("a " + form + secret + end + "\n" + s); strings.Contains(got, secret) && !strings.Contains(s, secret) {
				t.Errorf("%q before %q: %q", form, s, got)
			}
		}
	})
}

// TestAKeyWithinAStringLeavesJSONValid: "password: x" in a finding's text took the end of the string, and with it
// the document, along.
func TestAKeyWithinAStringLeavesJSONValid(t *testing.T) {
	t.Parallel()
	var r redact.Redactor
	r.Add(`odd"value\with`, "7,\"a\":1")
	for _, s := range []string{
		"password: " + secret, "it said password: " + secret + ", then", `he said "password: ` + secret + `"`, "token=" + secret, `a "token": "` + secret + `" b`,
		"x\npassword: " + secret + "\nz", "Authorization: Bearer " + secret, `C:\password: ` + secret + `\`, "auth: [" + secret + ", b", "https://u:" + secret + "@h/x",
		`\"password\": \"` + secret + `\" more`, "-----BEGIN PRIVATE KEY-----\n" + secret, `{"password":"` + secret + `"}`, `odd"value\with and password=` + secret,
	} {
		for _, v := range []any{
			map[string]any{"observed": s, "next": 1}, map[string]any{"a": []any{s, "next"}}, map[string]any{"password": s, "next": "v"}, map[string]any{"tokens": map[string]any{s: s}},
			map[string]any{"token": 1234567, "secret": []any{s, map[string]any{"n": s}}},
		} {
			flat, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			indented, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			lines := "no JSON: password: x\n" + string(flat) + "\n" + string(flat) + "\n"
			for _, text := range []string{string(flat), string(indented), lines} {
				for _, got := range []string{redact.Text(text), r.Text(text)} {
					doc := got
					if text == lines {
						if strings.Contains(s, "PRIVATE KEY") { // without its end it goes to that of the text
							continue
						}
						doc = strings.Split(got, "\n")[2]
					}
					if !json.Valid([]byte(doc)) || strings.Contains(got, secret) || strings.Contains(got, "1234567") {
						t.Errorf("%s\nbecame\n%s", text, got)
					}
				}
			}
		}
	}
	if got, want := redact.Text(`{ "a": "b\u0026c", "password" : "`+secret+`", "n": [1, true, null] }`), `{ "a": "b\u0026c", "password" : "***", "n": [1, true, null] }`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
