package mirror

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// authorizer remembers what an upstream wants in the Authorization header.
type authorizer struct {
	fetch sync.Mutex // one token is asked for at a time
	mu    sync.Mutex
	basic string
	token map[string]token // by scope
}

type token struct {
	header  string
	expires time.Time
}

// maxTokens bounds what is remembered: whoever can reach the mirror can name any repository.
const maxTokens = 1024

// known is the header for a scope, or "".
func (a *authorizer) known(scope string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.token[scope]; ok && time.Now().Before(t.expires) {
		return t.header
	}
	return a.basic
}

func (a *authorizer) setBasic(header string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.basic = header
}

func (a *authorizer) setToken(scope string, t token) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token == nil || len(a.token) >= maxTokens {
		a.token = map[string]token{}
	}
	a.token[scope] = t
}

// authorize answers a challenge. tried is the header that was refused; "" means that there is nothing new.
func (u *upstream) authorize(ctx context.Context, challenges []string, scope, tried string) (string, error) {
	u.auth.fetch.Lock()
	defer u.auth.fetch.Unlock()
	if now := u.auth.known(scope); now != tried {
		return now, nil // another request got it meanwhile
	}
	cred, err := u.credentials(ctx)
	if err == nil && cred.helper != "" && tried == cred.basic() { // it was good once
		u.helped.forget()
		cred, err = u.credentials(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", errRefused, err)
	}
	for _, c := range challenges {
		scheme, params := parseChallenge(c)
		switch {
		case scheme == "bearer" && params["realm"] != "":
			return u.bearer(ctx, params, cred, scope)
		case scheme == "basic" && cred.user != "":
			header := cred.basic()
			u.auth.setBasic(header)
			if header == tried {
				return "", nil
			}
			return header, nil
		}
	}
	return "", nil
}

// bearer asks the realm for a token. distribution: docs/content/spec/auth/token.md, oauth.md
func (u *upstream) bearer(ctx context.Context, params map[string]string, cred credentials, scope string) (string, error) {
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && (realm.Scheme != "http" || u.base.Scheme == "https") {
		return "", fmt.Errorf("token realm %q: %w: it is not https", clip(params["realm"]), errRefused)
	}
	key := scope
	if s := params["scope"]; s != "" {
		scope = s
	}
	req, err := tokenRequest(ctx, realm, url.Values{"service": {params["service"]}, "scope": {scope}}, cred)
	if err != nil {
		return "", err
	}
	resp, err := u.roundTrip(req, nil)
	if err != nil {
		return "", fmt.Errorf("token realm %s: %w", realm.Host, err)
	}
	defer resp.Body.Close()
	switch s := resp.StatusCode; {
	case s == http.StatusOK:
	case s >= http.StatusInternalServerError || s == http.StatusTooManyRequests:
		return "", fmt.Errorf("token realm %s answered %s", realm.Host, resp.Status)
	default:
		u.helped.forget()
		return "", fmt.Errorf("token realm %s: %w: it answered %s", realm.Host, errRefused, resp.Status)
	}
	t, err := readToken(resp.Body)
	if err != nil {
		return "", fmt.Errorf("token realm %s: %w", realm.Host, err)
	}
	u.auth.setToken(key, t)
	return t.header, nil
}

func tokenRequest(ctx context.Context, realm *url.URL, q url.Values, cred credentials) (*http.Request, error) {
	if cred.identity != "" {
		q.Set("grant_type", "refresh_token")
		q.Set("refresh_token", cred.identity)
		q.Set("client_id", "edgeprep")
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(q.Encode()))
		if err != nil {
			return nil, fmt.Errorf("token request: %w", err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return req, nil
	}
	at := *realm
	all := at.Query()
	for k, v := range q {
		if v[0] != "" {
			all[k] = v
		}
	}
	at.RawQuery, at.User = all.Encode(), nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("token request: %w", err)
	}
	if cred.user != "" {
		req.Header.Set("Authorization", cred.basic())
	}
	return req, nil
}

// maxToken bounds a token answer.
const maxToken = 64 << 10

func readToken(r io.Reader) (token, error) {
	var t struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxToken)).Decode(&t); err != nil {
		return token{}, fmt.Errorf("not a token: %w", err)
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" || strings.ContainsAny(t.Token, "\r\n") {
		return token{}, errors.New("no token in the answer")
	}
	// 60 s is what the specification says for an answer that says nothing. A wrong clock here does not
	// matter: only the time that passes counts.
	life := time.Duration(min(max(t.ExpiresIn, 60), 3600)) * time.Second
	return token{header: "Bearer " + t.Token, expires: time.Now().Add(life - life/10)}, nil
}

// parseChallenge reads one WWW-Authenticate header: RFC 9110 section 11.6.1, with one challenge in it.
func parseChallenge(s string) (scheme string, params map[string]string) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	params = map[string]string{}
	for rest != "" {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		var value string
		value, rest = challengeValue(after)
		params[strings.ToLower(strings.Trim(key, " ,"))] = value
	}
	return strings.ToLower(scheme), params
}

// challengeValue reads a token or a quoted string and gives what follows it.
func challengeValue(s string) (value, rest string) {
	s = strings.TrimLeft(s, " ")
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, ",")
		return strings.TrimSpace(value), rest
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '"':
			return b.String(), strings.TrimLeft(s[i+1:], ", ")
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// credentials are what a site has for an upstream.
type credentials struct {
	user, password string
	identity       string // an OAuth2 refresh token
	helper         string // that the rest is asked from
}

func (c credentials) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password))
}

// readCredentials reads "env:NAME" or a file, each time anew, so that they can be replaced under a running
// mirror. Both hold "user:password", or a docker config with an entry for one of the hosts.
func readCredentials(where string, hosts ...string) (credentials, error) {
	if where == "" {
		return credentials{}, nil
	}
	text := ""
	if name, ok := strings.CutPrefix(where, "env:"); ok {
		text = os.Getenv(name)
	} else {
		b, err := os.ReadFile(where)
		if err != nil {
			return credentials{}, fmt.Errorf("credentials: %w", err)
		}
		text = string(b)
	}
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "{") {
		return dockerConfig(text, where, hosts)
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || strings.ContainsAny(text, "\r\n") {
		return credentials{}, fmt.Errorf("credentials %s: neither user:password nor a docker config", where)
	}
	return credentials{user: user, password: password}, nil
}

// dockerConfig finds the entry of a host. docker/cli: cli/config/types/authconfig.go
func dockerConfig(text, where string, hosts []string) (credentials, error) {
	var doc struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
		} `json:"auths"`
		CredHelpers map[string]string `json:"credHelpers"`
		CredsStore  string            `json:"credsStore"`
	}
	if json.Unmarshal([]byte(text), &doc) != nil { // its error would show a part of the content
		return credentials{}, fmt.Errorf("credentials %s: not a docker config", where)
	}
	for key, helper := range doc.CredHelpers {
		if matchesHost(key, hosts) && helper != "" {
			return credentials{helper: helper}, nil
		}
	}
	if doc.CredsStore != "" { // auths then only lists the hosts
		return credentials{helper: doc.CredsStore}, nil
	}
	for key, e := range doc.Auths {
		if !matchesHost(key, hosts) {
			continue
		}
		c := credentials{user: e.Username, password: e.Password, identity: e.IdentityToken}
		if b, err := base64.StdEncoding.DecodeString(e.Auth); err == nil && e.Auth != "" {
			c.user, c.password, _ = strings.Cut(string(b), ":")
		}
		return c, nil
	}
	return credentials{}, fmt.Errorf("credentials %s: no entry for %s", where, hosts[0])
}

// matchesHost compares a key of a docker config ("https://index.docker.io/v1/") with hosts.
func matchesHost(key string, hosts []string) bool {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	key, _, _ = strings.Cut(key, "/")
	for _, h := range hosts {
		if canonicalRegistry(key) == canonicalRegistry(h) {
			return true
		}
	}
	return false
}
