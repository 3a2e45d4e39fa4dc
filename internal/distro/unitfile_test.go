package distro

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

func TestSplitWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		``:                                 {},
		`  a  b	c `:                        {"a", "b", "c"},
		`'--data-dir' '/data/k3s'`:         {"--data-dir", "/data/k3s"},
		`--a="b c" 'd e'f`:                 {"--a=b c", "d ef"},
		`"" ''`:                            {"", ""},
		`a\x20b \101 \u00e4 \s`:            {"a b", "A", "ä", " "},
		`"say \"hi\"" 'it\'s'`:             {`say "hi"`, "it's"},
		`\q \x0 \xzz \U00110000 \000`:      {`\q`, `\x0`, `\xzz`, `\U00110000`, `\000`},
		`trailing\`:                        {`trailing\`},
		`"open end`:                        {"open end"},
		"--kubelet-arg=\"max-pods=2\"\n x": {"--kubelet-arg=max-pods=2", "x"},
	} {
		if diff := cmp.Diff(want, append([]string{}, splitWords(in)...)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}

func TestParseUnit(t *testing.T) {
	t.Parallel()
	const text = "; comment\n[Unit]\r\nDescription = x \n\n[Service]\nExecStart=/bin/a \\\n# inside\n  'b c' \\\n\n" +
		"Environment=A=1\nnot a directive\nEven=ends in two \\\\\nNext=y\n"
	var got []string
	for _, d := range parseUnit("f", []byte(text)) {
		got = append(got, d.Section+"|"+d.Key+"|"+d.Value+"|"+string(rune('0'+d.Line/10))+string(rune('0'+d.Line%10)))
	}
	want := []string{"Unit|Description|x|03", "Service|ExecStart|/bin/a  'b c'|06", "Service|Environment|A=1|10", "Service|Even|ends in two \\\\|12", "Service|Next|y|13"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	env := map[string]envVar{
		"ARGS":  {`--a 'b c'`, "env:1"},
		"DIR":   {"/x y", "env:2"},
		"EMPTY": {"", "env:3"},
	}
	for in, want := range map[string][]string{
		`-/usr/bin/k3s $ARGS`:          {"/usr/bin/k3s@unit", "--a@env:1", "b c@env:1"},
		`@/usr/bin/k3s --d=${DIR}/z`:   {"/usr/bin/k3s@unit", "--d=/x y/z@env:2"},
		`:/usr/bin/k3s $ARGS ${DIR}`:   {"/usr/bin/k3s@unit", "$ARGS@unit", "${DIR}@unit"},
		`/k $EMPTY $NONE ${NONE} z`:    {"/k@unit", "@unit", "z@unit"},
		`/k $$ARGS a$$b $ a$ --x=$DIR`: {"/k@unit", "$ARGS@unit", "a$b@unit", "$@unit", "a$@unit", "--x=$DIR@unit"},
		`/k %N %n %p %% %i ; /other b`: {"/k@unit", "k3s-edge@unit", "k3s-edge.service@unit", "k3s-edge@unit", "%@unit"},
		`/k ${BAD-NAME} ${open`:        {"/k@unit", "${BAD-NAME}@unit", "${open@unit"},
	} {
		got := []string{}
		for _, w := range commandLine(in, "unit", "k3s-edge.service", env) {
			got = append(got, w.Text+"@"+w.Source)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}

func TestParseEnvFile(t *testing.T) {
	t.Parallel()
	const text = "# c\n; c\nA=plain value  \nB=\"double \\\"q\\\" \\n\"\nC='single \\ ${A}'\nD=one \\\n  two\nexport E=1\n F = spaced\nG=\nH=mi\"xed\"'ed'\nI=a\\ b\n"
	got := map[string]string{}
	for _, d := range parseEnvFile("f", []byte(text)) {
		got[d.Key] = d.Value
	}
	want := map[string]string{"A": "plain value", "B": `double "q" \n`, "C": `single \ ${A}`, "D": "one two", "F": "spaced", "G": "", "H": "mixeded", "I": "a b"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	u := &unit{Command: commandLine(`/usr/bin/env A=b /usr/local/bin/k3s --debug server --data-dir /a -d=/b --docker --docker=false --config`, "s", "k3s.service", nil)}
	if u.program() != "/usr/local/bin/k3s" || u.subcommand().Text != "server" {
		t.Errorf("program %q, command %q", u.program(), u.subcommand().Text)
	}
	for flag, want := range map[string]string{"--data-dir": "/a", "-d": "/b", "--docker": "false", "--debug": "true", "--config": "", "--none": ""} {
		isSwitch := flag == "--docker" || flag == "--debug"
		if got, ok := u.flag([]string{flag}, isSwitch); got.Text != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", flag, got.Text, ok)
		}
	}
	if got, _ := u.flag([]string{"--data-dir", "-d"}, false); got.Text != "/b" {
		t.Errorf("the last of two forms should count, not %q", got.Text)
	}
}

// Drop-ins apply by file name whatever their directory, the more specific and stronger one hiding others of
// its name; a link to /dev/null hides one.
func TestDropIns(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.Add(txtar.Parse([]byte(`
-- usr/lib/systemd/system/k3s-a-b.service --
[Service]
ExecStart=/k
-- usr/lib/systemd/system/service.d/10-all.conf --
-- usr/lib/systemd/system/k3s-.service.d/20-prefix.conf --
-- etc/systemd/system/k3s-a-.service.d/15-longer.conf --
-- usr/lib/systemd/system/k3s-a-b.service.d/30-hidden.conf --
-- etc/systemd/system/k3s-a-b.service.d/30-hidden.conf -> /dev/null --
-- run/systemd/system/k3s-a-b.service.d/20-prefix.conf --
-- etc/systemd/system/k3s-a-b.service.d/readme.txt --
`)))
	want := []string{"/usr/lib/systemd/system/service.d/10-all.conf", "/etc/systemd/system/k3s-a-.service.d/15-longer.conf", "/run/systemd/system/k3s-a-b.service.d/20-prefix.conf"}
	if diff := cmp.Diff(want, dropIns(n.FS(), "k3s-a-b.service")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestMissingEnvironmentFile(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/etc/systemd/system/k.service", "[Service]\nEnvironmentFile=/etc/k.d/*.env\nEnvironmentFile=/missing\nExecStart=/k $X\n")
	n.WriteFile("/etc/k.d/a.env", "X=1\n")
	n.WriteFile("/etc/k.d/b.env", "X=2\n")
	u, ok, err := readUnit(t.Context(), n, "k.service")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if got := u.args()[0]; got.Text != "2" || got.Source != "/etc/k.d/b.env:1 (X)" {
		t.Errorf("%+v", got)
	}
	if len(u.Notes) != 1 || !strings.Contains(u.Notes[0], "/missing") {
		t.Errorf("notes %q", u.Notes)
	}
}

// quoteWord writes a word so that systemd reads it back.
func quoteWord(w string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "$", "$$", "%", "%%").Replace(w) + `"`
}

// Whatever words a unit's command line is made of, they are read back; arbitrary text never panics and loses
// no plain word.
func FuzzCommandLine(f *testing.F) {
	f.Add("--data-dir", "/data dir", "[Service]\nExecStart=/k \\\n 'x'\n")
	f.Add(`a\`, `$HOME "x" %N;`, "\\\n#\n[")
	f.Add("\t", "ä\x00", "A=\\")
	f.Fuzz(func(t *testing.T, a, b, text string) {
		if strings.ContainsAny(a+b, "\x00") || a == ";" || b == ";" {
			return
		}
		unit := "[Service]\nExecStart=/bin/k \\\n  " + quoteWord(a) + " \\\n# comment\n\t" + quoteWord(b) + "\n"
		ds := parseUnit("f", []byte(unit))
		if len(ds) != 1 {
			t.Fatalf("%q: %d directives", unit, len(ds))
		}
		words := commandLine(ds[0].Value, "s", "k.service", nil)
		if len(words) != 3 || words[1].Text != a || words[2].Text != b {
			t.Fatalf("%q: %+v", unit, words)
		}
		for _, d := range append(parseUnit("f", []byte(text)), parseEnvFile("f", []byte(text))...) {
			got := splitWords(d.Value)
			if !strings.ContainsAny(d.Value, `"'\`) && !slices.Equal(got, fields(d.Value)) {
				t.Fatalf("%q: %q", d.Value, got)
			}
			commandLine(d.Value, "s", "k@i.service", map[string]envVar{"A": {Value: d.Value}})
		}
	})
}

// fields splits at systemd's white space, which is not all of Unicode's.
func fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}
