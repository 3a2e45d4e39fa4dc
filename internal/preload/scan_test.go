package preload

import "testing"

func TestIsDocument(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       bool
	}{
		{"index.json", "{}", true},
		{"blobs/sha256/x", `{"schemaVersion":2}`, true},
		{"blobs/sha256/x", `{"architecture":"amd64","rootfs":{}}`, true},
		{"c.json", `{"rootfs":{}}`, true},
		{"blobs/sha256/x", `{"_type":"https://in-toto.io/Statement/v0.1","predicate":{"layers":[]}}`, false},
		{"blobs/sha256/x", `[{"schemaVersion":2}]`, false},
		{"blobs/sha256/x", `{"schemaVersion":`, false},
	}
	for _, tt := range tests {
		if got := isDocument(tt.name, []byte(tt.text)); got != tt.want {
			t.Errorf("%s %s: %v", tt.name, tt.text, got)
		}
	}
}

func TestTailWriter(t *testing.T) {
	t.Parallel()
	for _, parts := range [][]string{{"abcdef"}, {"abc", "def"}, {"a", "b", "c", "d", "e", "f"}, {"abcdef", ""}, {"abcd", "ef"}} {
		w := &tailWriter{}
		for _, p := range parts {
			if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		if got := string(w.bytes()); got != "cdef" {
			t.Errorf("%q: %q", parts, got)
		}
	}
	w := &tailWriter{}
	_, _ = w.Write([]byte("ab"))
	if got := string(w.bytes()); got != "ab" {
		t.Errorf("short: %q", got)
	}
}
