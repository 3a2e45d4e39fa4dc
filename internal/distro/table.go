package distro

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table writes the descriptors for people: edgeprep distro list.
func (ds Descriptors) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tSUPPORT\tHOW\tFROM") // errors come out of Flush
	for _, d := range ds {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", d.ID, d.Name, d.Support, d.Summary, d.Origin)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the table of distributions: %w", err)
	}
	return nil
}

// Markdown is the table of supported distributions for the README.
func Markdown(ds Descriptors) string {
	var b strings.Builder
	b.WriteString("| distribution | id | images | registries | support |\n|---|---|---|---|---|\n")
	for _, d := range ds {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s |\n", d.Name, d.ID, d.images(), d.registriesAt(), d.Support)
	}
	return b.String()
}

func (d *Descriptor) images() string {
	if d.Preload.Method == "directory" {
		return "placed in `" + d.plain(d.Preload.Dir) + "`"
	}
	return "imported over containerd's API, pinned"
}

func (d *Descriptor) registriesAt() string {
	if d.Registries.Format == "registries.yaml" {
		return "`" + d.plain(d.Registries.File) + "`, merged"
	}
	return "`" + d.plain(d.Registries.CertsD) + "/*/hosts.toml`"
}

// plain fills a template with defaults.
func (d *Descriptor) plain(template string) string {
	return placeholder.ReplaceAllStringFunc(template, func(m string) string {
		if s, ok := d.Settings[m[1:len(m)-1]]; ok {
			return s.Default
		}
		return m
	})
}
