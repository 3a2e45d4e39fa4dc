package mirror

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"
)

// HelperFunc asks a credential helper ("ecr-login") for a server, as docker asks docker-credential-ecr-login.
type HelperFunc func(ctx context.Context, helper, server string) (user, secret string, err error)

// helperLife is how long an answer of a helper is used. Those of cloud registries are good for an hour at least.
const helperLife = 10 * time.Minute

// helperPattern is what a helper may be called: it is the end of a program's name.
var helperPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// tokenUser is what a helper says for the user when the secret is a refresh token.
// docker-credential-helpers: credentials/credentials.go
const tokenUser = "<token>"

// hubServer is what docker's helpers know Docker Hub as. docker/cli: registry/config.go, IndexServer
const hubServer = "https://index.docker.io/v1/"

// helped remembers a helper's answer for a while.
type helped struct {
	mu   sync.Mutex
	cred credentials
	at   time.Time
}

// forget has the helper asked again.
func (h *helped) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cred = credentials{}
}

// credentials are what the site has for this upstream, from a file, the environment or a helper.
func (u *upstream) credentials(ctx context.Context) (credentials, error) {
	cred := credentials{helper: u.cfg.Helper}
	if cred.helper == "" {
		var err error
		if cred, err = readCredentials(u.cfg.Credentials, u.cfg.Host, u.base.Host); err != nil || cred.helper == "" {
			return cred, err
		}
	}
	if u.ask == nil || !helperPattern.MatchString(cred.helper) {
		return credentials{}, fmt.Errorf("credential helper %q cannot be asked", clip(cred.helper))
	}
	u.helped.mu.Lock()
	defer u.helped.mu.Unlock()
	if u.helped.cred.helper == cred.helper && time.Since(u.helped.at) < helperLife {
		return u.helped.cred, nil
	}
	server := u.base.Host
	if u.cfg.Host == DefaultRegistry {
		server = hubServer
	}
	user, secret, err := u.ask(ctx, cred.helper, server)
	switch {
	case err != nil:
		return credentials{}, fmt.Errorf("credential helper %s for %s: %w", cred.helper, server, err)
	case secret == "":
		return credentials{}, fmt.Errorf("credential helper %s for %s: %w", cred.helper, server, errors.New("no secret in its answer"))
	case user == tokenUser:
		cred.identity = secret
	default:
		cred.user, cred.password = user, secret
	}
	u.helped.cred, u.helped.at = cred, time.Now()
	return cred, nil
}
