package mirror

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd how the mirror is. Without NOTIFY_SOCKET it does nothing.
type notifier struct {
	url      string
	full     func() bool   // no connection can be had, so that there is no answer to expect
	interval time.Duration // 0: no watchdog
	log      *slog.Logger
	http     *http.Client
}

func (s *Server) notifier() *notifier {
	n := &notifier{url: s.URL() + "/v2/", full: s.full, log: s.log}
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("watchdog not understood", "error", err)
	}
	n.interval = limit / 3
	// It asks itself, so the certificate's names do not matter.
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // see above
	n.http = &http.Client{Transport: tr, Timeout: max(n.interval, time.Second)}
	return n
}

func (n *notifier) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("systemd not told", "state", state, "error", err)
	}
}

func (n *notifier) ready()    { n.tell(daemon.SdNotifyReady) }
func (n *notifier) stopping() { n.tell(daemon.SdNotifyStopping) }

// run feeds the watchdog until ctx ends, as long as the mirror answers.
func (n *notifier) run(ctx context.Context) {
	if n.interval <= 0 {
		<-ctx.Done()
		return
	}
	t := time.NewTicker(n.interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if n.answers(ctx) {
				n.tell(daemon.SdNotifyWatchdog)
			}
		}
	}
}

func (n *notifier) answers(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, n.url, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := n.http.Do(req)
	if err != nil && n.full() {
		return true // being overrun is no reason to be killed
	}
	if err != nil {
		n.log.Warn("the mirror does not answer itself", "error", err)
		return false
	}
	resp.Body.Close()
	return resp.StatusCode < http.StatusInternalServerError // 401 where tokens are asked for
}
