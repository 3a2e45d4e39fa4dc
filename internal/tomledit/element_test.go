package tomledit

import "testing"

func TestElementsOfTables(t *testing.T) {
	t.Parallel()
	const two = "# site\n[mirror]\nmode = \"systemd\" # kept\n\n[[node]]\nname = \"a\" # first\n\n[[node]]\nname = \"b\"\n\n[apply]\nallow = []\n"
	for _, c := range []struct {
		name, in, want string
		edit           func(*Doc) (*Doc, error)
	}{
		{"append behind the last", two, "# site\n[mirror]\nmode = \"systemd\" # kept\n\n[[node]]\nname = \"a\" # first\n\n[[node]]\nname = \"b\"\n\n[[node]]\nname = \"c\"\n\n[apply]\nallow = []\n",
			func(d *Doc) (*Doc, error) {
				d, err := d.AppendTable("node")
				if err != nil {
					return nil, err
				}
				return d.Set([]string{"node", "2", "name"}, "c")
			}},
		{"append the first", "x = 1\n", "x = 1\n\n[[node]]\n", func(d *Doc) (*Doc, error) { return d.AppendTable("node") }},
		{"append to nothing", "", "[[node]]\n", func(d *Doc) (*Doc, error) { return d.AppendTable("node") }},
		{"delete the first", two, "# site\n[mirror]\nmode = \"systemd\" # kept\n\n\n[[node]]\nname = \"b\"\n\n[apply]\nallow = []\n",
			func(d *Doc) (*Doc, error) { return d.DeleteElement(0, "node") }},
		{"delete the only one", "x = 1\n[[node]]\nname = \"a\"\n", "x = 1\n", func(d *Doc) (*Doc, error) { return d.DeleteElement(0, "node") }},
		{"append within an element", "[[a]]\n[[a.b]]\nx = 1\n[[a]]\ny = 2\n", "[[a]]\n[[a.b]]\nx = 1\n\n[[a.b]]\n[[a]]\ny = 2\n",
			func(d *Doc) (*Doc, error) { return d.AppendTable("a", "0", "b") }},
		{"a nested first one", "[checklist]\nout = \"/x\"\n", "[checklist]\nout = \"/x\"\n\n[[checklist.waive]]\n", func(d *Doc) (*Doc, error) { return d.AppendTable("checklist", "waive") }},
		{"append to an array", "node = [{name = \"a\"}]\n", "", func(d *Doc) (*Doc, error) { return d.AppendTable("node") }},
		{"append to a value", "node = 1\n", "", func(d *Doc) (*Doc, error) { return d.AppendTable("node") }},
		{"delete what is not there", two, "", func(d *Doc) (*Doc, error) { return d.DeleteElement(2, "node") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, err := Parse([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.edit(d)
			switch {
			case c.want == "" && err == nil:
				t.Errorf("made\n%s", got.Bytes())
			case c.want != "" && err != nil:
				t.Error(err)
			case c.want != "" && string(got.Bytes()) != c.want:
				t.Errorf("made\n%s\nnot\n%s", got.Bytes(), c.want)
			}
		})
	}
}
