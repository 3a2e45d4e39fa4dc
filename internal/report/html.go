package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"rsc.io/qr"

	"github.com/edgeprep/edgeprep/internal/check"
)

//go:embed report.html.tmpl
var htmlTemplate string

// htmlView is what the template shows.
type htmlView struct {
	check.Report
	Identity [][2]string
	Groups   []group
	Clocks   [][2]string
	Lasting  [][4]string // certificates: state, last day, subject, file
	Digest   string      // sha256 of the JSON record, hex
	Code     string
	QR       template.HTML
}

// HTML writes a report as one file for paper and phone: no script, nothing that is loaded. sha256 is that of
// the JSON record that the paper stands for.
func HTML(w io.Writer, r check.Report, sha256 string) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"word": word, "remarks": remarks, "sentence": sentence, "until": until, "tally": Counts, "lower": strings.ToLower,
		"join": strings.Join, "passes": func(x check.Result) int { return x.Count(check.StatusPass) },
	}).Parse(htmlTemplate)
	if err != nil {
		return fmt.Errorf("the report's template: %w", err)
	}
	picture, err := qrSVG("edgeprep:sha256:" + sha256)
	if err != nil {
		return err
	}
	if err := t.Execute(w, htmlView{Report: r, Identity: identityRows(r), Groups: groups(r), Clocks: clockRows(r.Clock), Lasting: certificateRows(r.Certificates), Digest: sha256, Code: Code(sha256), QR: picture}); err != nil {
		return fmt.Errorf("write HTML: %w", err)
	}
	return nil
}

// qrSVG draws a text as a QR code, one path of unit squares.
func qrSVG(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", fmt.Errorf("QR code: %w", err)
	}
	var b strings.Builder
	const quiet = 4 // modules of white around it: ISO/IEC 18004
	fmt.Fprintf(&b, `<svg class="qr" viewBox="0 0 %d %d" role="img" aria-label="QR code of the record's digest"><path d="`, code.Size+2*quiet, code.Size+2*quiet)
	for y := range code.Size {
		for x := range code.Size {
			if code.Black(x, y) {
				fmt.Fprintf(&b, "M%d %dh1v1h-1z", x+quiet, y+quiet)
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String()), nil //nolint:gosec // made of numbers above
}
