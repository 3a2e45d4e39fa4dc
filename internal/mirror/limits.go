package mirror

import (
	"net"
	"net/http"
)

// DefaultMaxConnections is how many clients may be connected unless Config says otherwise. containerd opens up
// to four connections per pull.
const DefaultMaxConnections = 1024

func (s *Server) maxConnections() int64 {
	if s.cfg.MaxConnections > 0 {
		return int64(s.cfg.MaxConnections)
	}
	return DefaultMaxConnections
}

// connState counts connections and closes those over the limit at once: their clients go on to their next
// endpoint, while one that waits in a queue would wait for its time-out. The listener is not wrapped for it,
// or the kernel could not send files.
func (s *Server) connState(c net.Conn, state http.ConnState) {
	n := s.store.counters
	switch state {
	case http.StateNew:
		if n.connections.Add(1) > s.maxConnections() {
			n.turnedAway.Add(1)
			c.Close() //nolint:errcheck // it was never used
		}
	case http.StateClosed, http.StateHijacked:
		n.connections.Add(-1)
	case http.StateActive, http.StateIdle:
	}
}

// full says whether another connection would be closed.
func (s *Server) full() bool { return s.store.counters.connections.Load() >= s.maxConnections() }
