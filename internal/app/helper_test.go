package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCredentialHelper(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	script("good", `test "$1" = get && read -r s || test -n "$s" && echo "{\"ServerURL\":\"$s\",\"Username\":\"u $s\",\"Secret\":\"p\"}"`)
	script("broken", "echo credentials not found, token=hush; echo hush >&2; exit 1")
	script("garbled", "echo hush")
	script("endless", "yes hush | head -c 1000000")
	user, secret, err := credentialHelper(t.Context(), "good", "quay.io")
	if err != nil || user != "u quay.io" || secret != "p" {
		t.Errorf("%q %q %v", user, secret, err)
	}
	for name, want := range map[string]string{"broken": "exit status 1; try: echo quay.io | docker-credential-broken get", "garbled": "not the JSON",
		"endless": "endless", "none": "executable file not found"} {
		_, _, err := credentialHelper(t.Context(), name, "quay.io")
		if err == nil || strings.Contains(err.Error(), "hush") || name != "endless" && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
