package distro

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The words of command lines are those that systemd itself reads: many lines of hard pieces go through both.
func TestWordsAsSystemdReadsThem(t *testing.T) {
	t.Parallel()
	program := systemdBinary(t)
	rng := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"a", "B-1", "--x=", " ", "  ", "\t", `"`, `'`, `"c d"`, `'e f'`, `\x41`, `\101`, `\u00e4`, `\s`, `\"`, `\'`, `\\`, "%N", "%%", "$A", "${A}", "$$", "\\\n", "\\\n# note\n", "/"}
	var b strings.Builder
	b.WriteString("[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\n")
	for i := range 600 {
		fmt.Fprintf(&b, "ExecStart=-/bin/true L%d " /* "-": a line that cannot be read does not end it all */, i)
		for range 1 + rng.IntN(9) {
			b.WriteString(pieces[rng.IntN(len(pieces))])
		}
		b.WriteString("\n")
	}
	theirs := systemdWords(t, program, b.String())
	compared := 0
	for _, d := range parseUnit("f", []byte(b.String())) {
		if d.Key != "ExecStart" {
			continue
		}
		words := splitWords(specifiers(strings.TrimPrefix(d.Value, "-"), "edge-k.service"))
		want, ok := theirs[words[1]]
		if !ok { // systemd refuses the line, for a quote that stays open
			continue
		}
		compared++
		if diff := cmp.Diff(want, words); diff != "" {
			t.Errorf("%q (-systemd +ours):\n%s", d.Value, diff)
		}
	}
	if compared < 200 {
		t.Errorf("only %d lines were compared", compared)
	}
}

func systemdBinary(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
		t.Fatal("no systemd on this machine")
	}
	t.Skip("needs systemd: its program is not installed")
	return ""
}

// systemdWords lets systemd read a unit, without running anything, and gives its command lines by their first
// argument.
func systemdWords(t *testing.T, program, unit string) map[string][]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "edgeprep-units") // readable for another user, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	files := map[string]string{"edge-k.service": unit}
	for _, target := range []string{"basic", "shutdown", "default"} {
		files[target+".target"] = "[Unit]\nDefaultDependencies=no\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--user", "--test", "--unit=edge-k.service")
	cmd.Env = []string{"XDG_RUNTIME_DIR=" + run, "HOME=" + dir, "SYSTEMD_UNIT_PATH=" + dir, "LANG=C.UTF-8"}
	if os.Geteuid() == 0 { // a user's manager does not run as root
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		for _, p := range []string{dir, run} {
			if err := os.Chown(p, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := cmd.CombinedOutput()
	lines := map[string][]string{}
	for _, l := range strings.Split(string(out), "\n") {
		if _, text, ok := strings.Cut(l, "Command Line: "); ok {
			words := unquote(text)
			lines[words[1]] = words
		}
	}
	if len(lines) == 0 {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatalf("systemd --test does not work here: %v\n%.2000s", err, out)
		}
		t.Skip("needs systemd: its --test mode does not work here")
	}
	return lines
}

// unquote splits the command line that systemd prints, in the quoting of a shell.
func unquote(s string) []string {
	words := []string{""}
	quoted := false
	for i := 0; i < len(s); i++ {
		last := &words[len(words)-1]
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && i+1 < len(s):
			i++
			*last += strings.Replace(s[i:i+1], "t", "\t", 1) // the only escape that is no quoting
		case c == ' ' && !quoted:
			words = append(words, "")
		default:
			*last += s[i : i+1]
		}
	}
	return words
}
