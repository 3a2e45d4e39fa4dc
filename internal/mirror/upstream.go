package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Upstream is a registry that images come from when they are not in the cache.
type Upstream struct {
	Host        string   // the registry as references name it: "docker.io", "registry.example:5000"
	URL         string   // where it answers; empty: https://Host. A path is put before each repository
	CA          string   // PEM file, trusted besides the system's roots
	ClientCert  string   // PEM file
	ClientKey   string   // PEM file
	Insecure    bool     // certificates are not verified
	Credentials string   // file, or "env:NAME"; see credentials
	Helper      string   // credential helper that is asked instead: "ecr-login"
	Allow, Deny []string // repositories: "team/*", "team/**"; deny wins; without allow every one is allowed
	Rate        int64    // bytes per second of all its blobs together; 0: no limit
}

// limits are the times that an upstream is given.
type limits struct {
	dial    time.Duration // DNS and TCP
	contact time.Duration // the first sign of life, else it counts as not there
	open    time.Duration // what a request waits once it counts as not there
	probe   time.Duration // how long a sign of life is waited for in the background
	header  time.Duration // the header of an answer
	stall   time.Duration // the next bytes of a body
	answer  time.Duration // what a client waits whose answer is cached
	retry   time.Duration // pause before a request is repeated
	nudge   time.Duration // silence after which a newcomer has it asked again
}

// defaultLimits hold a miss of an upstream that swallows everything below 2 s, the next one below 50 ms.
func defaultLimits() limits {
	return limits{
		dial: 1700 * time.Millisecond, contact: 1800 * time.Millisecond, open: 30 * time.Millisecond, probe: 10 * time.Second,
		header: 15 * time.Second, stall: 30 * time.Second, answer: 2 * time.Second, retry: 200 * time.Millisecond, nudge: time.Second,
	}
}

// errUnavailable says that an upstream gave no usable answer; whether it has the content is not known.
var errUnavailable = errors.New("the upstream does not answer")

// errRefused says that an upstream, or the site's own rules, do not let a repository be pulled.
var errRefused = errors.New("not allowed")

// errRange says that an upstream's blob is not as long as what is asked for of it.
var errRange = errors.New("it has no such range")

// upstream is a registry as it is talked to.
type upstream struct {
	cfg     Upstream
	base    *url.URL // scheme and host
	prefix  string   // before each repository, with a slash at its end, or empty
	tr      http.RoundTripper
	auth    authorizer
	breaker breaker
	pace    pace
	slots   chan struct{} // blob transfers into the cache
	direct  chan struct{} // and past it
	lim     limits
	count   *counters
	ask     HelperFunc // nil: none can be asked
	helped  helped
}

// hubHost is where Docker Hub's API is. distribution/reference knows the registry as docker.io.
const hubHost = "registry-1.docker.io"

func newUpstream(cfg Upstream, tr http.RoundTripper, lim limits) (*upstream, error) {
	raw := cfg.URL
	if raw == "" {
		raw = "https://" + cfg.Host
		if cfg.Host == DefaultRegistry {
			raw = "https://" + hubHost
		}
	}
	base, err := url.Parse(raw)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, fail("MER-020", "", fmt.Sprintf("the URL %q of the upstream %s cannot be used", raw, cfg.Host), "",
			"write it as https://registry.example.com", err)
	}
	prefix := strings.Trim(base.Path, "/")
	if prefix = strings.TrimPrefix(strings.TrimPrefix(prefix, "v2"), "/"); prefix != "" {
		prefix += "/"
	}
	u := &upstream{cfg: cfg, base: &url.URL{Scheme: base.Scheme, Host: base.Host}, prefix: prefix, tr: tr, lim: lim,
		slots: make(chan struct{}, maxFills), direct: make(chan struct{}, maxDirect), count: &counters{}}
	u.pace.rate = cfg.Rate
	u.breaker = breaker{lim: lim, now: time.Now}
	return u, nil
}

// allows applies the site's lists.
func (u *upstream) allows(repository string) bool {
	if matchesAny(u.cfg.Deny, repository) {
		return false
	}
	return len(u.cfg.Allow) == 0 || matchesAny(u.cfg.Allow, repository)
}

// matchesAny compares a repository with patterns; see matchGlob.
func matchesAny(patterns []string, repository string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matchGlob(p, repository) })
}

// call is one request to an upstream.
type call struct {
	method     string
	repository string
	verb       string // "manifests", "blobs", "tags" or "referrers"
	ref        string
	query      string
	from       int64 // first byte that is wanted
	patience   *patience
}

func (c call) accept() []string {
	switch c.verb {
	case "manifests":
		return append(manifestTypes(), "*/*")
	case "referrers":
		return []string{ocispec.MediaTypeImageIndex}
	}
	return nil
}

// tries is how often a request is sent at most.
const tries = 3

// do sends a request until it has an answer that means something. The response is 200 or 206; errors wrap
// ErrNotFound, errRefused or errUnavailable.
func (u *upstream) do(ctx context.Context, c call) (*http.Response, error) {
	if !u.allows(c.repository) {
		return nil, fmt.Errorf("%s/%s: %w by the allow and deny lists", u.cfg.Host, c.repository, errRefused)
	}
	for n := 1; ; n++ {
		if err := u.breaker.ready(ctx, u.probe); err != nil {
			return nil, fmt.Errorf("%s: %w", u.shown(), err)
		}
		resp, err := u.authorized(ctx, c)
		u.tally().asked[resultOf(resp, err)].Add(1)
		if err == nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) {
			u.breaker.answered()
			return resp, nil
		}
		if errors.Is(err, errNudged) && ctx.Err() == nil {
			n--
			continue
		}
		wait, err := u.judge(ctx, resp, err)
		if wait < 0 || n == tries {
			return nil, fmt.Errorf("%s %s/%s %s: %w", u.shown(), c.repository, c.verb, c.ref, err)
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// shown is the upstream for people: the registry, and where it is asked when that is elsewhere.
func (u *upstream) shown() string {
	if at := u.cfg.URL; at != "" && at != "https://"+u.cfg.Host {
		return u.cfg.Host + " (" + at + ")"
	}
	return u.cfg.Host
}

// tally is where what is asked of the upstream is counted.
func (u *upstream) tally() *tally { return u.count.of(canonicalRegistry(u.cfg.Host)) }

// resultOf says what an answer counts as.
func resultOf(resp *http.Response, err error) result {
	switch {
	case err != nil && errors.Is(err, errRefused):
		return resultRefused
	case err != nil && isDown(err):
		return resultUnreachable
	case err != nil:
		return resultBroken
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return resultOK
	case http.StatusNotFound:
		return resultNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return resultRefused
	case http.StatusTooManyRequests:
		return resultThrottled
	}
	return resultError
}

// judge says what an answer that is no content means, and how long to wait for another try; less than 0: none.
func (u *upstream) judge(ctx context.Context, resp *http.Response, err error) (time.Duration, error) {
	if err != nil {
		if ctx.Err() != nil {
			return -1, ctx.Err()
		}
		if errors.Is(err, errRefused) {
			return -1, err
		}
		if isDown(err) {
			u.breaker.trip()
			return -1, fmt.Errorf("%w: %w", errUnavailable, err)
		}
		return u.lim.retry, fmt.Errorf("%w: %w", errUnavailable, err)
	}
	resp.Body.Close()
	u.breaker.answered()
	switch s := resp.StatusCode; {
	case s == http.StatusNotFound:
		return -1, errLacking
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		return -1, fmt.Errorf("%w: it answered %s", errRefused, resp.Status)
	case s == http.StatusRequestedRangeNotSatisfiable:
		return -1, fmt.Errorf("%w: %w", errUnavailable, errRange)
	case s == http.StatusTooManyRequests:
		return u.later(resp.Header.Get("Retry-After")), fmt.Errorf("%w: it answered %s", errUnavailable, resp.Status)
	case s >= http.StatusInternalServerError:
		return u.lim.retry, fmt.Errorf("%w: it answered %s", errUnavailable, resp.Status)
	}
	return -1, fmt.Errorf("%w: it answered %s", errUnavailable, resp.Status)
}

// Bounds on what an upstream may ask for with Retry-After.
const (
	maxWait  = 3 * time.Second // waited for while clients wait
	maxPause = 5 * time.Minute // during which nobody asks again
)

// later obeys a Retry-After: short ones are waited for, during longer ones nothing is asked.
func (u *upstream) later(header string) time.Duration {
	wait := u.lim.retry
	if n, err := strconv.Atoi(header); err == nil && n >= 0 {
		wait = time.Duration(min(n, int(maxPause/time.Second))) * time.Second
	}
	if wait <= maxWait {
		return wait
	}
	u.breaker.pause(wait)
	return -1
}

// authorized sends a request, and again with what the upstream asks for when that is new.
func (u *upstream) authorized(ctx context.Context, c call) (*http.Response, error) {
	scope := "repository:" + u.prefix + c.repository + ":pull"
	auth := u.auth.known(scope)
	resp, err := u.send(ctx, c, auth)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !u.own(resp.Request.URL) {
		return resp, err
	}
	next, err := u.authorize(ctx, resp.Header.Values("WWW-Authenticate"), scope, auth)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	if next == "" {
		return resp, nil
	}
	resp.Body.Close()
	return u.send(ctx, c, next)
}

// maxHops bounds redirects.
const maxHops = 5

// send sends a request and follows redirects. The Authorization header goes to the upstream's own origin and
// nowhere else: a blob store that the upstream redirects to must not see it.
func (u *upstream) send(ctx context.Context, c call, auth string) (*http.Response, error) {
	at := u.base.JoinPath("v2", u.prefix+c.repository, c.verb, c.ref)
	at.RawQuery = c.query
	for range maxHops {
		req, err := http.NewRequestWithContext(ctx, c.method, at.String(), http.NoBody)
		if err != nil {
			return nil, fmt.Errorf("request to %s: %w", u.cfg.Host, err)
		}
		req.Header["Accept"] = c.accept()
		if c.from > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", c.from))
		}
		if auth != "" && u.own(at) {
			req.Header.Set("Authorization", auth)
		}
		resp, err := u.roundTrip(req, c.patience)
		if err != nil || !isRedirect(resp.StatusCode) {
			return resp, err
		}
		resp.Body.Close()
		if at, err = u.follow(at, resp.Header.Get("Location")); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("more than %d redirects", maxHops)
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// follow resolves a redirect; one from https to http is not followed.
func (u *upstream) follow(at *url.URL, location string) (*url.URL, error) {
	next, err := at.Parse(location)
	if err != nil || location == "" {
		return nil, fmt.Errorf("redirect to %q: not a URL", clip(location))
	}
	if next.Scheme != "https" && (next.Scheme != "http" || at.Scheme == "https") {
		return nil, fmt.Errorf("redirect to %q: %w", clip(next.Scheme+"://"+next.Host), errRefused)
	}
	next.User = nil
	return next, nil
}

// own says whether a URL is on the upstream's own origin.
func (u *upstream) own(at *url.URL) bool { return at.Scheme == u.base.Scheme && at.Host == u.base.Host }

// mirrorAgent is how a mirror calls itself at its upstreams.
const mirrorAgent = "edgeprep-mirror"

// roundTrip sends one request. Its body ends with an error when nothing comes for a while.
func (u *upstream) roundTrip(req *http.Request, p *patience) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	req = req.WithContext(ctx)
	req.Header.Set("User-Agent", mirrorAgent)
	p.waiting(cancel)
	resp, err := u.tr.RoundTrip(req)
	p.done(err == nil)
	if err != nil {
		if errors.Is(context.Cause(ctx), errNudged) {
			err = errNudged
		}
		cancel(nil)
		return nil, err
	}
	resp.Request = req
	resp.Body = watch(resp.Body, u.lim.stall, ctx, cancel, p)
	return resp, nil
}

// probe looks for a sign of life: any answer is one.
func (u *upstream) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, u.lim.probe)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.base.JoinPath("v2/").String(), http.NoBody)
	if err != nil {
		return fmt.Errorf("request to %s: %w", u.cfg.Host, err)
	}
	resp, err := u.roundTrip(req, nil)
	if err != nil {
		u.tally().asked[resultOf(nil, err)].Add(1)
		return err
	}
	u.tally().asked[resultOK].Add(1)       // any answer
	io.CopyN(io.Discard, resp.Body, 4<<10) //nolint:errcheck // read so that the connection can be used again
	return resp.Body.Close()
}

// sleep waits unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
