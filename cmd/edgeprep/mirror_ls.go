package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// patternHelp is said by every command that takes patterns.
const patternHelp = "\n\nA PATTERN is written like a reference: busybox is all of docker.io/library/busybox, busybox:1.* some of its tags,\n" +
	"ghcr.io/team/** all below it, ** everything; * stays within one component of a name."

// adminFlag names the socket that a mirror on this machine answers on.
func adminFlag(cmd *cobra.Command, admin *string) {
	cmd.Flags().StringVar(admin, "admin", deploy.AdminPath, "admin socket of the mirror that may be serving the cache")
}

func newMirrorLs(g *globals) *cobra.Command {
	var cache, admin string
	cmd := &cobra.Command{
		Use:     "ls [PATTERN...]",
		Short:   "List the references in the cache",
		Long:    "List the references in the cache: size, last pull, and for which platforms they are complete." + patternHelp,
		Example: "  edgeprep mirror ls --cache /srv/cache\n  edgeprep mirror ls 'ghcr.io/team/**' -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := mirror.ParsePatterns(args); err != nil {
				return &usageError{err}
			}
			s, err := mirror.Open(cache, mirror.Options{ReadOnly: true})
			if err != nil {
				return err
			}
			defer s.Close()
			if err := readable(cache); err != nil {
				return err
			}
			list, err := app.ListCache(cmd.Context(), s, args, admin)
			if err != nil {
				return err
			}
			if g.json() {
				return writeJSON(g.out, list)
			}
			return writeEntries(g.out, list)
		},
	}
	cacheFlag(cmd, &cache)
	adminFlag(cmd, &admin)
	return cmd
}

// readable makes sure that an empty answer means an empty cache: what may not be read is skipped below.
func readable(cache string) error {
	for _, dir := range []string{".", "refs", "blobs"} {
		_, err := os.ReadDir(filepath.Join(cache, dir))
		if errors.Is(err, fs.ErrPermission) {
			return &diag.Diagnostic{ID: "MER-030", Severity: diag.Error, What: "this user may not read the cache",
				Where: diag.Where{File: filepath.Join(cache, dir)}, Fix: "sudo edgeprep mirror ls --cache " + diag.Word(cache)}
		}
	}
	return nil
}

func writeEntries(w io.Writer, list []mirror.Entry) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "REFERENCE\tDIGEST\tSIZE\tLAST PULL\tCOMPLETE\tPLATFORMS")
	for _, e := range list {
		state, platforms := completeness(e)
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Reference, short(e.Digest), progress.Bytes(e.Size), minute(e.LastUse), state, platforms)
	}
	return tw.Flush()
}

// completeness says how many platforms are complete, and which; of those that are there in part, what is
// missing.
func completeness(e mirror.Entry) (state, platforms string) {
	have := 0
	var names []string
	for _, p := range e.Platforms {
		switch {
		case p.Complete:
			have++
			names = append(names, p.Platform)
		case p.Present:
			var missing int64
			for _, c := range p.Missing {
				missing += c.Size
			}
			names = append(names, fmt.Sprintf("%s (%d blobs, %s missing)", p.Platform, len(p.Missing), progress.Bytes(missing)))
		}
	}
	if e.Error != "" {
		return "no: " + e.Error, ""
	}
	return fmt.Sprintf("%d of %d", have, len(e.Platforms)), strings.Join(names, " ")
}

// minute is a time for people; none is a dash.
func minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// short is enough of a digest for people.
func short(digest string) string {
	if len(digest) > 19 {
		return digest[:19]
	}
	return digest
}
