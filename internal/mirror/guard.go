package mirror

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// guard decides who may pull: who has a certificate of the client CA, or one of the tokens.
type guard struct {
	certificates bool
	tokens       *tokens // nil: none
}

// admits says whether a request may be answered.
func (g *guard) admits(r *http.Request) bool {
	if g.certificates && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return true
	}
	return g.tokens != nil && g.tokens.admit(r)
}

// refuse asks for credentials where they help. Not 404: a client must not take it for a missing image.
func (g *guard) refuse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if g.tokens == nil {
		refuse(w, r, http.StatusForbidden, "DENIED", "this mirror asks for a client certificate")
		return
	}
	// Basic only: containerd, podman and docker know it without a token server.
	w.Header().Set("WWW-Authenticate", `Basic realm="edgeprep mirror"`)
	refuse(w, r, http.StatusUnauthorized, "UNAUTHORIZED", "this mirror asks for a token")
}

// Bounds of tokens.
const (
	minReadToken  = 16
	maxReadToken  = 512
	maxReadTokens = 256
)

// tokens are the read tokens of a file, read again when it changes.
type tokens struct {
	file string
	log  *slog.Logger

	mu    sync.Mutex
	files watchedFiles
	sums  [][sha256.Size]byte
}

func newTokens(file string, log *slog.Logger) (*tokens, error) {
	t := &tokens{file: file, log: log, files: watchedFiles{names: []string{file}}}
	t.files.changed(time.Now())
	var err error
	if t.sums, err = readTokens(file); err != nil {
		return nil, fail("MER-071", file, "the tokens cannot be used", "",
			"one token a line, at least "+fmt.Sprint(minReadToken)+" characters, in a file that others cannot read: chmod 600 "+diag.Word(file), err)
	}
	return t, nil
}

// readTokens reads one token a line. No error shows a part of one.
func readTokens(file string) ([][sha256.Size]byte, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	// systemd hands a copy over with an access list, which shows as bits of the group.
	if fi.Mode().Perm()&0o027 != 0 {
		return nil, fmt.Errorf("mode %04o lets others read or change it: %w", fi.Mode().Perm(), fs.ErrPermission)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	var sums [][sha256.Size]byte
	for n, line := range bytes.Split(b, []byte("\n")) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0 || line[0] == '#':
			continue
		case len(line) < minReadToken || len(line) > maxReadToken || bytes.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r > '~' }):
			return nil, fmt.Errorf("line %d is not %d to %d visible ASCII characters", n+1, minReadToken, maxReadToken)
		case len(sums) == maxReadTokens:
			return nil, fmt.Errorf("more than %d tokens", maxReadTokens)
		}
		sums = append(sums, sha256.Sum256(line))
	}
	if len(sums) == 0 {
		return nil, errors.New("no token in it")
	}
	return sums, nil
}

// admit looks for a token in the Authorization header: Bearer, or the password of Basic.
func (t *tokens) admit(r *http.Request) bool {
	given := ""
	if _, password, ok := r.BasicAuth(); ok {
		given = password
	} else if scheme, rest, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		given = strings.TrimSpace(rest)
	}
	if given == "" {
		return false
	}
	sum, found := sha256.Sum256([]byte(given)), 0
	for _, s := range t.current() { // all of them, so that time says nothing
		found |= subtle.ConstantTimeCompare(sum[:], s[:])
	}
	return found == 1
}

// current are the tokens of the file, or those from before when it cannot be used now.
func (t *tokens) current() [][sha256.Size]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.files.changed(time.Now()) {
		if sums, err := readTokens(t.file); err != nil {
			t.log.Error("tokens changed and cannot be used; those from before stay in use", "file", t.file, "error", err)
		} else {
			t.sums = sums
			t.log.Info("tokens changed and are in use", "file", t.file, "tokens", len(sums))
		}
	}
	return t.sums
}

// newGuard reads what Config names; nil: everybody may pull.
func newGuard(cfg Config, log *slog.Logger) (*guard, error) {
	g := &guard{certificates: cfg.TLSClientCA != ""}
	if cfg.Tokens != "" {
		var err error
		if g.tokens, err = newTokens(cfg.Tokens, log); err != nil {
			return nil, err
		}
	}
	if !g.certificates && g.tokens == nil {
		return nil, nil //nolint:nilnil // said above
	}
	return g, nil
}
