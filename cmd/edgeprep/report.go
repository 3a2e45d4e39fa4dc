package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/report"
)

// keeping are the flags of check that make its result last.
type keeping struct {
	out, sign, person, against, format string
	waive                              []string
}

func (k *keeping) flags(f *pflag.FlagSet) {
	f.StringVar(&k.out, "out", "", "keep the result in this directory: JSON with its sha256, HTML, JUnit, Markdown, text")
	f.StringVar(&k.sign, "sign", "", "sign the kept JSON with this ssh key (FILE, or FILE.pub for a key of the ssh agent)")
	f.StringVar(&k.person, "by", "", "name of the person who checks, for the record")
	f.StringVar(&k.against, "against", "", "compare with an earlier JSON record of this node: what changed, does it matter")
	f.StringVar(&k.format, "format", "", "write to stdout as text, json, html, junit or markdown (default: as -o says)")
	f.StringArrayVar(&k.waive, "waive", nil, "accept a failed check for this run: 'ID: reason'; needs --by; may be repeated")
}

// into checks the flags and fills the options.
func (k *keeping) into(o *app.CheckOptions) error {
	if err := formatKnown(k.format); err != nil {
		return err
	}
	if k.sign != "" && k.out == "" {
		return &usageError{fmt.Errorf("--sign signs what is kept: name a directory with --out")}
	}
	o.Person = k.person
	for _, w := range k.waive {
		id, reason, _ := strings.Cut(w, ":")
		id, reason = strings.ToUpper(strings.TrimSpace(id)), strings.TrimSpace(reason)
		if _, ok := check.ByID(id); !ok {
			return &usageError{fmt.Errorf("--waive %q: there is no check %q; edgeprep check --list names them", w, id)}
		}
		if reason == "" || k.person == "" {
			return &usageError{fmt.Errorf("--waive %q: write --waive '%s: reason' and --by NAME", w, id)}
		}
		o.Waivers = append(o.Waivers, config.Waiver{ID: id, Reason: reason, Owner: k.person})
	}
	if k.against == "" {
		return nil
	}
	old, err := readRecord(k.against)
	o.Against, o.AgainstName = old, k.against
	return err
}

func formatKnown(format string) error {
	if format != "" && !slices.Contains(report.Formats(), format) {
		return &usageError{fmt.Errorf("--format %q is not one of %s", format, strings.Join(report.Formats(), ", "))}
	}
	return nil
}

// keep writes the result where --out says, and names the record on stderr.
func (k *keeping) keep(g *globals, r check.Report) error {
	if k.out == "" {
		return nil
	}
	var signer *report.Signer
	if k.sign != "" {
		var err error
		if signer, err = report.NewSigner(k.sign); err != nil {
			return err
		}
		defer signer.Close()
	}
	kept, err := report.Keep(k.out, r, signer)
	if err != nil {
		return err
	}
	fmt.Fprintf(g.err, "kept: %s\n      sha256 %s, code %s\n", kept.Record, kept.SHA256, report.Code(kept.SHA256))
	return nil
}

// maxReport bounds a record that is read.
const maxReport = 64 << 20

// readRecord reads a kept JSON record.
func readRecord(file string) (*check.Report, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, &usageError{fmt.Errorf("record: %w", err)}
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxReport {
		return nil, &usageError{fmt.Errorf("%s is not a record: a JSON file of edgeprep check --out", file)}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	var r check.Report
	if err := json.Unmarshal(data, &r); err != nil || r.Schema == 0 {
		return nil, &usageError{fmt.Errorf("%s is not a record: a JSON file of edgeprep check --out", file)}
	}
	if r.Schema > check.Schema {
		return nil, &usageError{fmt.Errorf("%s has schema %d; this edgeprep knows %d: read it with a newer one", file, r.Schema, check.Schema)}
	}
	return &r, nil
}

func newReport(g *globals) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "report RECORD",
		Short: "Show a kept checklist result again, in any format",
		Long: "Renders the JSON record of `edgeprep check --out` again. The record itself is what counts: its sha256 is printed\n" +
			"on the paper, and with a signature beside it anybody can verify it:\n\n" +
			"  ssh-keygen -Y verify -f allowed_signers -I NAME -n " + report.Namespace + " -s RECORD.sig < RECORD",
		Example: "  edgeprep report check-20261122T214000Z-kiosk-0417-PASS.json\n  edgeprep report RECORD --format html > report.html",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := formatKnown(format); err != nil {
				return err
			}
			r, err := readRecord(args[0])
			if err != nil {
				return err
			}
			return g.writeReport(*r, format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "text, json, html, junit or markdown (default: as -o says)")
	return cmd
}

func (g *globals) writeReport(r check.Report, format string) error {
	if format == "" {
		format = g.output
	}
	return report.Write(g.out, format, r, report.Options{Color: g.colored(g.out), Verbose: g.verbose > 0, Quiet: g.quiet})
}
