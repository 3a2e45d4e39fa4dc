package check

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

const dial = "  dial_timeout = \"2s\"\n"

// endpointFaults are those of the way to the mirrors.
func endpointFaults() map[string]fault {
	return map[string]fault{
		"the mirror speaks https and http is configured": {check: "REG-11", says: "it speaks https", also: []string{"MIR-18", "MIR-03", "MIR-04", "REG-16"}, inject: func(s *site) {
			cert := newAuthority(s.t, "x").issue(time.Now().AddDate(1, 0, 0), "127.0.0.1")
			s.front(&cert, nil)
			s.env.Mirrors[0].URL = strings.Replace(s.env.Mirrors[0].URL, "https", "http", 1)
			s.configure()
		}},
		"the mirror speaks http and https is configured": {check: "REG-11", says: "it speaks http:", also: []string{"MIR-03", "MIR-04", "REG-16"}, inject: func(s *site) {
			s.env.Mirrors[0].URL = strings.Replace(s.env.Mirrors[0].URL, "http", "https", 1)
			s.configure()
			s.noPulls()
		}},
		"TLS settings on plain http": {check: "REG-11", says: "NOD-235", status: StatusWarn, inject: func(s *site) {
			s.rewrite(certsD+"/_default/hosts.toml", func(b []byte) []byte { return append(b, []byte("  skip_verify = true\n")...) })
		}},
		"FI-17: a CA file is missing": {make: tlsSite, check: "REG-12", says: "NOD-238", inject: func(s *site) {
			s.node.WriteFile(certsD+"/quay.io/hosts.toml", hosts(s.env.Mirrors[0].URL)+"  ca = \"/etc/gone.pem\"\n")
		}},
		"a CA file holds no certificate": {make: tlsSite, check: "REG-12", says: "holds no certificate", inject: func(s *site) {
			s.node.WriteFile("/etc/empty.pem", "nothing\n")
			s.node.WriteFile(certsD+"/quay.io/hosts.toml", hosts(s.env.Mirrors[0].URL)+"  ca = \"/etc/empty.pem\"\n")
		}},
		"a client certificate is not its key's": {make: tlsSite, check: "REG-12", says: "failed to find any PEM data", inject: func(s *site) {
			s.node.WriteFile("/etc/client.key", "nothing\n")
			s.node.WriteFile(certsD+"/quay.io/hosts.toml", hosts(s.env.Mirrors[0].URL)+"  client = [[\""+caPath+"\", \"/etc/client.key\"]]\n")
		}},
		"FI-17: the wrong CA": {make: tlsSite, check: "REG-13", says: "unknown authority", inject: func(s *site) { s.trust(otherCAPath) }},
		"FI-17: a certificate without the address of the node that takes over": {make: tlsSite, check: "REG-13", says: "10.0.0.12 (node-2)", status: StatusWarn, also: []string{"PRC-07"}, inject: func(s *site) { s.twoNodes() }},
		"FI-17: a certificate that ends before the ship date": {make: tlsSite, check: "REG-13", says: "before power-on", also: []string{"K8S-02"}, inject: func(s *site) {
			s.env.Site.Checklist.PowerOn = time.Now().AddDate(2, 0, 0).Format(time.DateOnly)
		}},
		"a certificate that ends before the mission does": {make: tlsSite, check: "REG-13", says: "before the mission's end", status: StatusWarn, also: []string{"K8S-02"},
			inject: func(s *site) { s.env.Site.Checklist.Mission = "36500d" }},
		"FI-21: an endpoint is a NodePort on loopback": {check: "REG-18", says: "nothing on this node tells", inject: func(s *site) { s.behind("http://127.0.0.1:31080", dial) }},
		"a mirror is a name that needs DNS": {check: "REG-19", says: "needs a resolver", opts: Options{IDs: []string{"REG-19"}},
			inject: func(s *site) { s.env.Mirrors = append(s.env.Mirrors, Mirror{URL: "http://mirror.site:5000"}) }},
		"another host behind the mirror is a name that needs DNS": {check: "REG-19", says: "needs a resolver", status: StatusWarn,
			inject: func(s *site) { s.behind("http://mirror.site:5000", dial) }},
		"cloud-init writes /etc/hosts anew": {check: "REG-19", says: "cloud-init writes the file anew", status: StatusWarn, inject: func(s *site) {
			s.behind("http://mirror.site:5000", dial)
			s.node.WriteFile("/etc/hosts", "127.0.0.1 localhost\n10.0.0.11\tnode-1 mirror.site # ours\n")
			s.node.WriteFile("/etc/cloud/cloud.cfg", "users: []\nmanage_etc_hosts: true\n")
		}},
		"another program has the mirror's port": {check: "REG-21", says: "somebody listens on 0.0.0.0", inject: func(s *site) {
			s.node.UnitState().Add(host.Unit{Name: deploy.UnitName, Active: "inactive", Enabled: "enabled"})
			s.node.WriteFile("/proc/net/tcp", fmt.Sprintf("  sl  local_address rem_address   st\n   0: 00000000:%04X 00000000:0000 0A\n", s.port()))
		}},
		"an outgoing connection may get the mirror's port": {check: "REG-21", says: "may give it to an outgoing connection", status: StatusWarn, inject: func(s *site) {
			s.node.WriteFile(outgoingPath, "1024\t65535\n")
			s.node.WriteFile("/proc/sys/net/ipv4/ip_local_reserved_ports", "1-2,7\n")
		}},
		"the mirror wants credentials": {check: "REG-22", says: "refuses without credentials (status 401)", status: StatusWarn, inject: func(s *site) {
			s.front(nil, func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/v2/" {
					w.WriteHeader(http.StatusUnauthorized)
				}
				return r.URL.Path == "/v2/"
			})
			s.configure()
		}},
		"FI-22: a proxy of the unit catches an endpoint": {check: "REG-23", says: "through a proxy at 10.1.1.1:3128", inject: func(s *site) {
			s.behind("http://192.0.2.10:5000", dial)
			s.node.WriteFile("/etc/default/containerd", "HTTP_PROXY=http://user:secret@10.1.1.1:3128\nNO_PROXY=10.0.0.0/8,.svc\n")
			s.unitFile("containerd.service", "[Service]\nEnvironmentFile=-/etc/default/%N\n")
		}},
		"FI-20: the mirror ignores ns": {check: "REG-24", says: "it ignores ns", inject: func(s *site) {
			s.front(nil, func(_ http.ResponseWriter, r *http.Request) bool {
				q := r.URL.Query()
				if q.Get("ns") == mirror.ProbeRegistry {
					q.Set("ns", s.env.Required[0].Host)
					r.URL.RawQuery = q.Encode()
				}
				return false
			})
			s.configure()
		}},
		"the mirror refuses ns": {check: "REG-24", says: "it refuses the ns parameter", also: []string{"MIR-18", "MIR-03", "REG-16"}, inject: func(s *site) {
			s.front(nil, func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Query().Has("ns") {
					w.WriteHeader(http.StatusBadRequest)
				}
				return r.URL.Query().Has("ns")
			})
			s.configure()
		}},
	}
}

// fallbackFaults are those of what is asked besides this node's mirror.
func fallbackFaults() map[string]fault {
	return map[string]fault{
		"the registry itself is asked last": {make: k3sStarted, check: "REG-09", says: "then the registry itself", status: StatusWarn, inject: func(s *site) { s.fallBack() }},
		"the registry itself is an endpoint": {check: "REG-09", says: "https://quay.io, then the registry itself", status: StatusWarn, inject: func(s *site) {
			s.node.WriteFile(certsD+"/quay.io/hosts.toml", hosts(s.env.Mirrors[0].URL, "https://quay.io"))
			s.way = near{s.way}
		}},
		"FI-19: a host that may be off has no dial_timeout": {check: "REG-25", says: "none: 30 s", status: StatusWarn,
			inject: func(s *site) { s.behind("http://192.0.2.10:5000", "") }},
		"a containerd that does not know dial_timeout": {check: "REG-25", says: "does not know dial_timeout", status: StatusWarn, also: []string{"CRI-13"}, inject: func(s *site) {
			s.env.Node.Runtime.Version = "1.7.35"
			s.rewrite("/etc/containerd/config.toml", func([]byte) []byte {
				return []byte("version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '" + certsD + "'\n")
			})
			s.behind("http://192.0.2.10:5000", dial)
		}},
		"one node says nothing of the others": {check: "REG-17", says: "compare this digest", status: StatusSkip, also: []string{"PRC-07"}, inject: func(s *site) { s.twoNodes() }},
		"the pod network's image is not on the node": {check: "REG-20", says: "quay.io/absent/cni:1", also: []string{"MIR-02", "MIR-15", "COLD-02", "COLD-04"}, inject: func(s *site) {
			s.mirrorPod(imagetest.WebName)
			s.env.Site.Mirror.Workload.Form = config.FormDeployment
			s.env.Site.Mirror.Workload.Bootstrap = []string{"quay.io/absent/cni:1"}
		}},
		"this node pulls from one other machine": {check: "REG-29", says: "192.0.2.7", status: StatusWarn, opts: Options{IDs: []string{"REG-29"}}, inject: func(s *site) {
			s.twoNodes()
			s.env.Mirrors = []Mirror{{URL: "http://192.0.2.7:5000"}}
		}},
	}
}

func (s *site) twoNodes() {
	s.env.Site.Nodes = []config.Node{{Name: "node-1", Address: "10.0.0.11", Mirror: "primary"}, {Name: "node-2", Address: "10.0.0.12", Mirror: "replica"}}
}

// port is the mirror's.
func (s *site) port() int {
	var n int
	_, rest, _ := strings.Cut(s.env.Mirrors[0].URL, "://127.0.0.1:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// unitFile gives a running unit a drop-in more.
func (s *site) unitFile(unit, text string) {
	file := "/etc/systemd/system/" + unit + ".d/20-test.conf"
	s.node.WriteFile(file, text)
	u, err := s.node.Units().Unit(s.t.Context(), unit)
	if err != nil {
		s.t.Fatal(err)
	}
	if !slices.Contains(u.DropIns, file) {
		u.DropIns = append(u.DropIns, file)
		s.node.UnitState().Add(u)
	}
}
