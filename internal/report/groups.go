package report

import (
	"strings"

	"github.com/edgeprep/edgeprep/internal/check"
)

// group is the checks of one part of the catalogue, by the letters of their ids.
type group struct {
	ID, Title string
	Results   []check.Result
}

// groups keeps the order of the results.
func groups(r check.Report) []group {
	var out []group
	at := map[string]int{}
	for _, x := range r.Results {
		id, _, _ := strings.Cut(x.ID, "-")
		i, ok := at[id]
		if !ok {
			i = len(out)
			at[id] = i
			out = append(out, group{ID: id, Title: groupTitle(id)})
		}
		out[i].Results = append(out[i].Results, x)
	}
	return out
}

func groupTitle(id string) string {
	titles := map[string]string{
		"CRI": "Container runtime", "IMG": "Images", "TAR": "Image archives", "REG": "Registry configuration", "MIR": "Mirror",
		"COLD": "Cold start", "HST": "Host", "K8S": "Kubernetes", "REP": "Replication", "PRC": "Proof",
	}
	if t := titles[id]; t != "" {
		return t
	}
	return id
}

// word is the status as it is printed; colour never says more than it.
func word(x check.Result) string {
	if x.Waived != nil {
		return "WAIVED"
	}
	return strings.ToUpper(string(x.Status))
}

// remarks are the findings that somebody should read: what is not simply passed, one of each reason.
func remarks(x check.Result) []check.Finding {
	var out []check.Finding
	said := map[string]bool{}
	for _, f := range x.Findings {
		if f.Status == check.StatusPass || f.Status == check.StatusSkip && said[f.Reason] {
			continue
		}
		said[f.Reason] = true
		out = append(out, f)
	}
	return out
}

// sentence tells a finding on one line.
func sentence(f check.Finding) string {
	switch {
	case f.Status == check.StatusSkip && f.Deferred:
		return "deferred: " + f.Reason
	case f.Status == check.StatusSkip:
		return "not applicable: " + f.Reason
	case f.Status == check.StatusUnproven || f.Status == check.StatusError:
		return f.Subject + ": " + or(f.Reason, f.Observed)
	}
	var parts []string
	if f.Expected != "" {
		parts = append(parts, "expected "+f.Expected)
	}
	if f.Observed != "" {
		parts = append(parts, "observed "+f.Observed)
	}
	if len(parts) == 0 {
		return f.Subject
	}
	return f.Subject + ": " + strings.Join(parts, ", ")
}

// Code is a digest that people can read to each other: the first 80 bits in groups of four.
func Code(sha256 string) string {
	var parts []string
	for i := 0; i+4 <= len(sha256) && i < 20; i += 4 {
		parts = append(parts, strings.ToUpper(sha256[i:i+4]))
	}
	return strings.Join(parts, "-")
}
