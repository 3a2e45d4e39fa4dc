package app

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/redact"
	"github.com/edgeprep/edgeprep/internal/support"
)

// maxSecret is more than a file of credentials has.
const maxSecret = 1 << 20

// secrets learns what must not be in a bundle: what the site file and its credentials hold. Wherever else such a
// value stands, in a journal say, it is hidden too.
func (a *App) secrets() *redact.Redactor {
	r := &redact.Redactor{}
	data, err := a.readConfig()
	if err != nil {
		return r
	}
	r.Learn(string(data))
	site, _ := config.Parse(a.ConfigName(), data) // also of one with errors
	files := []string{site.Mirror.TokensFile}
	for _, u := range site.Upstreams {
		if name, ok := strings.CutPrefix(u.CredentialsFile, "env:"); ok {
			r.Learn(os.Getenv(name))
			r.Add(os.Getenv(name))
			continue
		}
		files = append(files, u.CredentialsFile)
	}
	for _, p := range files {
		if data, _, err := a.readPart(p, maxSecret, support.Head); p != "" && err == nil {
			r.Learn(string(data))
			r.Add(strings.Split(string(data), "\n")...)
		}
	}
	return r
}

// readPart reads one end of a file of the node; cut is how much of it was left out.
func (a *App) readPart(p string, most int64, keep support.Keep) (data []byte, cut int64, err error) {
	fi, err := a.reader.FS().Stat(p)
	if err != nil {
		return nil, 0, err
	}
	f, err := a.reader.FS().Open(p)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	at := int64(0)
	if cut = max(0, fi.Size-most); keep == support.Tail {
		at = cut
	}
	data, err = io.ReadAll(io.NewSectionReader(f, at, most))
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", p, err)
	}
	return data, cut, nil
}
