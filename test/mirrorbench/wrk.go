package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// wrk sends the same small request over many connections, as hammer does, at a fraction of what that costs the cores
// that the servers need, too.
func wrk(ctx context.Context, program, addr, path string, clients int, d time.Duration) (rate, error) {
	seconds := max(1, int(d.Round(time.Second).Seconds())) // it knows nothing shorter
	out, err := exec.CommandContext(ctx, program, "--threads", "1", "--connections", strconv.Itoa(clients), "--duration", fmt.Sprintf("%ds", seconds),
		"--latency", "--header", "Accept: application/vnd.oci.image.manifest.v1+json, */*", "http://"+addr+path).CombinedOutput()
	if err != nil {
		return rate{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	r, err := parseWrk(string(out))
	r.took = time.Duration(seconds) * time.Second
	return r, err
}

// parseWrk reads what wrk prints: wrk 4.1, src/wrk.c.
func parseWrk(out string) (r rate, err error) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "99%":
			if r.p99, err = time.ParseDuration(f[1]); err != nil { // 844.00us, 1.05ms, 1.00s
				return r, fmt.Errorf("wrk: %q: %w", line, err)
			}
		case len(f) == 2 && f[0] == "Requests/sec:":
			if r.perSecond, err = strconv.ParseFloat(f[1], 64); err != nil {
				return r, fmt.Errorf("wrk: %q: %w", line, err)
			}
		case strings.HasPrefix(strings.TrimSpace(line), "Non-2xx"), strings.HasPrefix(strings.TrimSpace(line), "Socket errors"):
			return r, fmt.Errorf("wrk: %s", strings.TrimSpace(line))
		}
	}
	if r.perSecond == 0 || r.p99 == 0 {
		return r, errors.New("wrk: it printed no figures")
	}
	return r, nil
}
