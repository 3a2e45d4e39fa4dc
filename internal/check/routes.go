package check

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// routeState is the routes and links that a way out could use, as text to be compared. Host routes and links
// without a wider route are left out: pods come and go while a node is checked, and each brings one.
func routeState(f host.FS) (string, error) {
	v4, err := f.ReadFile("/proc/net/route", 0)
	if err != nil {
		return "", err
	}
	lines, links := routes4(string(v4))
	v6, err := f.ReadFile("/proc/net/ipv6_route", 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6 has no such file
		return "", err
	}
	more, links6 := routes6(string(v6))
	lines = append(lines, more...)
	states, err := linkStates(f, append(links, links6...))
	if err != nil {
		return "", err
	}
	lines = append(lines, states...)
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n"), nil
}

// routes4 reads /proc/net/route: Iface Destination Gateway Flags RefCnt Use Metric Mask …. The counters are
// left out. Linux: net/ipv4/fib_trie.c, fib_route_seq_show.
func routes4(text string) (lines, links []string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] == "Iface" || f[7] == "FFFFFFFF" {
			continue
		}
		lines = append(lines, fmt.Sprintf("4 %s %s %s %s %s %s", f[0], f[1], f[2], f[3], f[6], f[7]))
		links = append(links, f[0])
	}
	return lines, links
}

// routes6 reads /proc/net/ipv6_route: destination, its prefix length, source, its length, next hop, metric,
// two counters, flags, interface. Link-local and multicast prefixes lead nowhere. Linux: net/ipv6/route.c.
func routes6(text string) (lines, links []string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 10 || f[1] == "80" || strings.HasPrefix(f[0], "fe80") || strings.HasPrefix(f[0], "ff") || f[9] == "lo" {
			continue
		}
		lines = append(lines, fmt.Sprintf("6 %s/%s %s %s %s %s", f[0], f[1], f[4], f[5], f[8], f[9]))
		links = append(links, f[9])
	}
	return lines, links
}

// linkStates gives the state of the links that carry routes and of the physical ones (they have a device).
func linkStates(f host.FS, routed []string) ([]string, error) {
	all, err := f.ReadDir("/sys/class/net")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range all {
		name := e.Path[strings.LastIndexByte(e.Path, '/')+1:]
		_, noDevice := f.Lstat("/sys/class/net/" + name + "/device")
		if noDevice != nil && !slices.Contains(routed, name) {
			continue
		}
		state, err := f.ReadFile("/sys/class/net/"+name+"/operstate", 0)
		if err != nil {
			state = []byte("gone")
		}
		out = append(out, "link "+name+" "+strings.TrimSpace(string(state)))
	}
	return out, nil
}

// sameNetwork says whether this process looks out of the node's own network namespace.
func sameNetwork(f host.FS) error {
	node, err := f.Lstat("/proc/1/ns/net")
	if err != nil {
		return fmt.Errorf("the node's network namespace cannot be read (run as root): %w", err)
	}
	own, err := f.Lstat("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("this process's network namespace cannot be read: %w", err)
	}
	if own.Target != node.Target {
		return errors.New("edgeprep runs in another network namespace than the node")
	}
	return nil
}
