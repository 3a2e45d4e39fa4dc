package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commandLine is a command of edgeprep with a flag, as sources and docs write it: "edgeprep mirror ls --cache".
var commandLine = regexp.MustCompile(`\bedgeprep ([a-z][a-z-]*(?: [a-z][a-z-]*)?) --([a-z][a-z-]+)`)

// The fix of NOD-110 named a command that there is not, "edgeprep images discover --out".
func TestCommandsThatAreNamedExist(t *testing.T) {
	t.Parallel()
	root := newRoot(&globals{})
	for _, dir := range []string{"../../internal", ".", "../../docs", "../../README.md"} {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(p, "_test.go") || !strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, ".md") {
				return err
			}
			text, err := os.ReadFile(p)
			for _, m := range commandLine.FindAllStringSubmatch(string(text), -1) {
				if what := unknown(root, strings.Fields(m[1]), m[2]); what != "" && m[1] != "with" {
					t.Errorf("%s: %q: there is no %s", p, m[0], what)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if unknown(root, []string{"images", "discover"}, "out") == "" || unknown(root, []string{"mirror", "ls"}, "root-dir") == "" {
		t.Error("this test finds nothing")
	}
}

// unknown says what of a command line there is not.
func unknown(root *cobra.Command, words []string, flag string) string {
	cmd, rest, err := root.Find(words)
	if err != nil || cmd == root || len(rest) > 0 && cmd.HasSubCommands() {
		return "command " + strings.Join(words, " ")
	}
	if flag != "help" && cmd.Flags().Lookup(flag) == nil && cmd.InheritedFlags().Lookup(flag) == nil {
		return "flag --" + flag + " of " + cmd.CommandPath()
	}
	return ""
}
