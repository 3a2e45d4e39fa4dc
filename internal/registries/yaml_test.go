package registries

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/diag"
)

var mirror = []Endpoint{{URL: "http://127.0.0.1:5000"}}

func TestMergeYAML(t *testing.T) {
	t.Parallel()
	two := []Endpoint{{URL: "http://127.0.0.1:5000"}, {URL: "https://10.0.0.2:5000", CA: "/etc/edgeprep/ca.crt"}}
	for _, c := range []struct {
		name, in  string
		endpoints []Endpoint
		hosts     []string
		want      string
	}{
		{"no file", "", mirror, []string{"docker.io"}, `mirrors:
  "*":
    endpoint:
      - "http://127.0.0.1:5000"
  docker.io:
    endpoint:
      - "http://127.0.0.1:5000"
`},
		{"comments, order, other keys and rewrite stay", `# ours since 2021
configs: # credentials
  registry.local:5000:
    auth: {username: u, password: "p w"} # secret

# mirrors
mirrors:
    # the hub
    docker.io:
        rewrite:
            "^library/(.*)": "hub/$1"
        endpoint: # tried in order
            - https://hub.local # site
            - 'https://other'
    empty:
x-note: 0x1F
`, mirror, nil, `# ours since 2021
configs: # credentials
  registry.local:5000:
    auth: {username: u, password: "p w"} # secret

# mirrors
mirrors:
    "*":
        endpoint:
            - "http://127.0.0.1:5000"
    "registry.local:5000":
        endpoint:
            - "http://127.0.0.1:5000"
    # the hub
    docker.io:
        rewrite:
            "^library/(.*)": "hub/$1"
        endpoint: # tried in order
            - "http://127.0.0.1:5000"
            - https://hub.local # site
            - 'https://other'
    empty:
        endpoint:
            - "http://127.0.0.1:5000"
x-note: 0x1F
`},
		{"flow style stays", `{mirrors: {"*": {endpoint: ["https://a"]}}}` + "\n", mirror, nil, `{mirrors: {"*": {endpoint: ["http://127.0.0.1:5000", "https://a"]}}}` + "\n"},
		{"ours moves to the front as it is spelt", "mirrors:\n  \"*\":\n    endpoint:\n    - https://a\n    - 127.0.0.1:5000\n", mirror, nil,
			"mirrors:\n  \"*\":\n    endpoint:\n    - 127.0.0.1:5000\n    - https://a\n"},
		{"nothing to do keeps every byte", "mirrors:   \n  '*': {endpoint:   [ 'http://127.0.0.1:5000/v2/' ]}\n\n\n", mirror, nil,
			"mirrors:   \n  '*': {endpoint:   [ 'http://127.0.0.1:5000/v2/' ]}\n\n\n"},
		{"mirror itself and this machine are no upstreams", "mirrors:\n  localhost:32000:\n    endpoint:\n      - http://localhost:32000\nconfigs:\n  127.0.0.1:5000:\n    auth:\n      username: x\n", mirror, nil,
			"mirrors:\n  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:5000\"\n  localhost:32000:\n    endpoint:\n      - http://localhost:32000\nconfigs:\n  127.0.0.1:5000:\n    auth:\n      username: x\n"},
		{"two endpoints, one with a CA", "mirrors:\n", two, nil, `mirrors:
  "*":
    endpoint:
      - "http://127.0.0.1:5000"
      - "https://10.0.0.2:5000"
configs:
  "10.0.0.2:5000":
    tls:
      ca_file: "/etc/edgeprep/ca.crt"
`},
		{"a client certificate", "", []Endpoint{{URL: "https://10.0.0.2:5000", ClientCert: "/c.crt", ClientKey: "/c.key"}}, nil, `mirrors:
  "*":
    endpoint:
      - "https://10.0.0.2:5000"
configs:
  "10.0.0.2:5000":
    tls:
      cert_file: "/c.crt"
      key_file: "/c.key"
`},
		{"a CA that is there stays", "configs:\n  10.0.0.2:5000:\n    tls:\n      ca_file: /own.crt\nmirrors:\n  \"*\":\n    endpoint: [\"http://127.0.0.1:5000\", \"https://10.0.0.2:5000\"]\n", two, nil,
			"configs:\n  10.0.0.2:5000:\n    tls:\n      ca_file: /own.crt\nmirrors:\n  \"*\":\n    endpoint: [\"http://127.0.0.1:5000\", \"https://10.0.0.2:5000\"]\n"},
		{"crlf", "mirrors:\r\n  \"*\":\r\n    endpoint:\r\n      - https://a\r\n", mirror, nil, "mirrors:\r\n  \"*\":\r\n    endpoint:\r\n      - \"http://127.0.0.1:5000\"\r\n      - https://a\r\n"},
		{"only a comment", "# nothing yet\n", mirror, nil, "# nothing yet\nmirrors:\n  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:5000\"\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, _, err := MergeYAML("registries.yaml", []byte(c.in), c.endpoints, c.hosts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			again, _, err := MergeYAML("registries.yaml", got, c.endpoints, c.hosts)
			if err != nil || string(again) != string(got) {
				t.Errorf("a second merge changed it (%v):\n%s", err, cmp.Diff(string(got), string(again)))
			}
		})
	}
}

func TestMergeYAMLRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, in, id string
		line         int
	}{
		{"not YAML", "mirrors:\n  *:\n    endpoint: []\n", idYAML, 2},
		{"tab", "mirrors:\n\t\"*\": {}\n", idYAML, 2},
		{"not a mapping", "- a\n", idYAMLShape, 1},
		{"a string", "hello\n", idYAMLShape, 1},
		{"two documents", "mirrors: {}\n---\nmirrors: {}\n", idYAMLShape, 0},
		{"endpoint is no list", "mirrors:\n  docker.io:\n    endpoint: https://a\n", idYAMLShape, 3},
		{"mirrors is a list", "mirrors:\n  - docker.io\n", idYAMLShape, 2},
		{"repeated key", "mirrors:\n  a: {}\n  a: {}\n", idYAMLShape, 3},
		{"alias", "x: &x {endpoint: [\"https://a\"]}\nmirrors:\n  docker.io: *x\n", idYAMLShape, 3},
		{"merge key", "x: &x {}\nmirrors:\n  <<: *x\n", idYAMLShape, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := MergeYAML("/r.yaml", []byte(c.in), mirror, nil)
			var d *diag.Diagnostic
			if !errors.As(err, &d) {
				t.Fatalf("got %v", err)
			}
			if d.ID != c.id || d.Where.File != "/r.yaml" || d.Where.Line != c.line || d.Fix == "" {
				t.Errorf("got %s", d.Text())
			}
		})
	}
}

func TestMergeYAMLUnknownKeys(t *testing.T) {
	t.Parallel()
	in := "mirror:\n  a: {}\nmirrors:\n  docker.io:\n    endpoints: [\"https://a\"]\n    endpoint: [\"http://[\"]\nconfigs:\n  a:\n    auth:\n      token: x\n"
	out, warnings, err := MergeYAML("/r.yaml", []byte(in), mirror, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.ID+" "+w.Where.String()+" "+w.Fix)
	}
	want := []string{
		"NOD-212 /r.yaml:1:1 did you mean mirrors?", "NOD-212 /r.yaml:5:5 did you mean endpoint?",
		`NOD-214 /r.yaml:6:16 write it as "http://10.0.0.1:5000"`, "NOD-212 /r.yaml:10:7 remove it",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(string(out), "endpoints: [\"https://a\"]") || !strings.Contains(string(out), "token: x") {
		t.Errorf("an unknown key was lost:\n%s", out)
	}
}

// FuzzMergeYAML: what comes out is, read by the YAML library alone, what went in with the endpoints first, and
// a second merge changes nothing.
func FuzzMergeYAML(f *testing.F) {
	for _, s := range []string{
		"", "# c\n", "mirrors:\n", "mirrors:\n  \"*\":\n    endpoint:\n      - https://a # b\n", "{mirrors: {a: {endpoint: [b, c], rewrite: {\"^x\": y}}}, configs: {d: {tls: {insecure_skip_verify: yes}}}}",
		"configs:\n  a:\n    auth:\n      username: \"1\"\n\n# t\nz: |\n  text\n   more\n", "mirrors:\r\n  a:\r\n    endpoint: []\r\n", "a: &x 1\nb: *x\nmirrors: {}\n", "---\nmirrors: ~\n...\n",
		"mirrors:\n    docker.io:\n        endpoint:\n        - 127.0.0.1:5000\n",
	} {
		f.Add(s, "docker.io")
	}
	f.Fuzz(func(t *testing.T, in, host string) {
		if !ValidHost(host) {
			t.Skip()
		}
		out, _, err := MergeYAML("r.yaml", []byte(in), mirror, []string{host})
		if err != nil {
			return
		}
		var before, after map[string]any
		if err := yaml.Unmarshal([]byte(in), &before); err != nil {
			t.Fatalf("merged what is not YAML: %v\n%q", err, in)
		}
		if err := yaml.Unmarshal(out, &after); err != nil {
			t.Fatalf("result is not YAML: %v\n%q\n%q", err, in, out)
		}
		strip(before)
		leading := strip(after)
		if !leading {
			t.Fatalf("an entry does not begin with the mirror:\n%s", out)
		}
		if !reflect.DeepEqual(prune(before), prune(after)) {
			t.Fatalf("more than endpoints changed:\n%q\n%q\n%s", in, out, cmp.Diff(prune(before), prune(after)))
		}
		again, _, err := MergeYAML("r.yaml", out, mirror, []string{host})
		if err != nil || string(again) != string(out) {
			t.Fatalf("not idempotent (%v):\n%q\n%q", err, out, again)
		}
	})
}

// strip takes one mention of the mirror out of each list; leading says whether "*" and all entries that may
// have it began with it.
func strip(doc map[string]any) (leading bool) {
	mirrors, _ := doc["mirrors"].(map[string]any)
	star, _ := mirrors["*"].(map[string]any)
	leading = star != nil
	for name, v := range mirrors {
		entry, _ := v.(map[string]any)
		list, _ := entry["endpoint"].([]any)
		for i, x := range list {
			s, _ := x.(string)
			if e, ok := k3sEndpoint(s); ok && e.Same(mirror[0]) {
				leading = leading && i == 0
				entry["endpoint"] = append(append([]any{}, list[:i]...), list[i+1:]...)
				break
			}
			if i == len(list)-1 && !loopback(name) {
				leading = false
			}
		}
	}
	return leading
}

// prune takes out what is empty.
func prune(v any) any {
	switch t := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range t {
			if p := prune(x); p != nil {
				out[k] = p
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		if len(t) == 0 {
			return nil
		}
		out := make([]any, len(t))
		for i := range t {
			out[i] = prune(t[i])
		}
		return out
	}
	return v
}
