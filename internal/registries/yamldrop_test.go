package registries

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAMirrorThatMovedIsTakenOut: after [mirror] listen had changed, the old address stayed in every list and
// cost a dial time-out per request.
func TestAMirrorThatMovedIsTakenOut(t *testing.T) {
	t.Parallel()
	former := []Endpoint{{URL: "http://127.0.0.1:5000"}}
	for name, c := range map[string]struct{ in, want string }{
		"own lines": {
			"# theirs\nmirrors:\n  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:5000\"\n  docker.io:\n    endpoint:\n      - http://127.0.0.1:5000/v2/\n      - https://customer.example # keep\n",
			"# theirs\nmirrors:\n  \"*\":\n    endpoint:\n  docker.io:\n    endpoint:\n      - https://customer.example # keep\n",
		},
		"flow style": {
			"mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:5000\", \"https://customer.example\"]\n",
			"mirrors:\n  docker.io:\n    endpoint: [\"https://customer.example\"]\n",
		},
		"nothing of ours": {"mirrors:\n  docker.io:\n    endpoint:\n    - https://customer.example\n", "mirrors:\n  docker.io:\n    endpoint:\n    - https://customer.example\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, bad, err := dropEndpoints("f", []byte(c.in), former)
			if bad != nil || err != nil {
				t.Fatal(bad, err)
			}
			if d := cmp.Diff(c.want, string(got)); d != "" {
				t.Error(d)
			}
			if _, _, err := MergeYAML("f", got, []Endpoint{{URL: "http://127.0.0.1:5009"}}, nil); err != nil {
				t.Error(err)
			}
		})
	}
}
