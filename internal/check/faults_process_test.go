package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// healthyProcess is a node that edgeprep prepared.
func healthyProcess(s *site) {
	s.node.WriteFile(plan.LedgerPath, `{"schema":1,"records":{},"runs":[{"id":"r1"}]}`)
	s.node.WriteFile(config.DefaultPath, "version = 1\n")
	s.node.WriteMode(deploy.Binary, "#!/bin/sh\n", 0o755)
}

// keep puts the record of a run of now on the node, changed by alter.
func (s *site) keep(alter func(*Report)) {
	s.t.Helper()
	r := s.run(Options{Profile: ProfileShip})
	r.Inputs = []Input{{Name: "configuration", Path: config.DefaultPath, Size: 12, SHA256: hexSum("version = 1\n")}}
	alter(&r)
	data, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	const file = defaultReports + "/check-20261120T100000Z-node1-PASS.json"
	s.node.WriteFile(file, string(data))
	s.node.WriteFile(file+".sha256", hexSum(string(data))+"  check.json\n")
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// ownCertificate writes a self-signed certificate and its key onto the node.
func (s *site) ownCertificate(from, until time.Time) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mirror"}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.node.WriteFile("/etc/edgeprep/tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s.node.WriteFile("/etc/edgeprep/tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})))
	s.env.Site.Mirror.TLS = config.TLS{Cert: "/etc/edgeprep/tls.crt", Key: "/etc/edgeprep/tls.key"}
	s.env.Site.Checklist.PowerOn, s.env.Site.Checklist.Mission = "2027-01-01", "180d"
}

func processFaults() map[string]fault {
	day := 24 * time.Hour
	upstream := func(u config.Upstream) func(*site) {
		return func(s *site) {
			s.env.Site.Mirror.Upstream, s.env.Site.Upstreams = config.UpstreamConnected, []config.Upstream{u}
		}
	}
	sums := func(s *site, sum string) { s.node.WriteFile("/opt/edgeprep/images/SHA256SUMS", sum+"  edge.tar\n") }
	return map[string]fault{
		"the mirror's token file is gone": {check: "MIR-11", says: "it is not there", opts: only("MIR-11"), inject: func(s *site) { s.env.Site.Mirror.TokensFile = "/etc/edgeprep/tokens" }},
		"FI-28: an upstream's credentials file is gone": {check: "MIR-11", says: "it is not there", status: StatusWarn, opts: only("MIR-11"),
			inject: upstream(config.Upstream{Host: "registry.example", CredentialsFile: "/etc/edgeprep/pull"})},
		"an upstream's credentials are a helper's": {check: "MIR-11", says: "end within hours", status: StatusWarn, opts: only("MIR-11"),
			inject: upstream(config.Upstream{Host: "1.dkr.ecr.eu-west-1.amazonaws.com", CredentialsHelper: "ecr-login"})},
		"an upstream's password lasts for hours": {check: "MIR-11", says: "tokens of hours", status: StatusWarn, opts: only("MIR-11"), inject: func(s *site) {
			s.node.WriteMode("/etc/edgeprep/pull", "AWS:planted-password\n", 0o600)
			upstream(config.Upstream{Host: "registry.example", CredentialsFile: "/etc/edgeprep/pull"})(s)
		}},
		"FI-17: the mirror's certificate ends before power-on": {check: "MIR-12", says: "before power-on", opts: only("MIR-12"), inject: func(s *site) { s.ownCertificate(clock().Add(-day), clock().Add(10*day)) }},
		"the mirror's certificate ends during the mission": {check: "MIR-12", says: "before the mission's end", status: StatusWarn, opts: only("MIR-12"), inject: func(s *site) {
			s.ownCertificate(clock().Add(-day), clock().Add(100*day))
		}},
		"the mirror's certificate is not valid yet": {check: "MIR-12", says: "not valid before", opts: only("MIR-12"), inject: func(s *site) { s.ownCertificate(clock().Add(day), clock().Add(900*day)) }},
		"the mirror's key is another certificate's": {check: "MIR-12", says: "do not belong together", opts: only("MIR-12"), inject: func(s *site) {
			s.ownCertificate(clock().Add(-day), clock().Add(900*day))
			old := s.node.ReadFile("/etc/edgeprep/tls.crt")
			s.ownCertificate(clock().Add(-day), clock().Add(900*day))
			s.node.WriteFile("/etc/edgeprep/tls.crt", old)
		}},
		"there is no ledger at shipping":        {check: "PRC-01", says: "there is none", opts: Options{Profile: ProfileShip}, inject: func(s *site) { s.remove(plan.LedgerPath) }},
		"nothing was kept before the node left": {check: "PRC-01", says: "no kept record", opts: Options{Profile: ProfileArrival}, inject: func(*site) {}},
		"a kept record was changed": {check: "PRC-01", says: "not what its .sha256 says", inject: func(s *site) {
			s.keep(func(*Report) {})
			s.rewrite(defaultReports+"/check-20261120T100000Z-node1-PASS.json", func(b []byte) []byte { return append(b, ' ') })
		}},
		"images of another Kubernetes are shipped": {check: "PRC-02", says: "v1.35.1", opts: only("PRC-02"), inject: func(s *site) {
			s.env.Required = append(s.env.Required, preload.Ref{Name: "registry.k8s.io/kube-apiserver:v1.35.1", Host: "registry.k8s.io", Repository: "kube-apiserver", Tag: "v1.35.1"})
		}},
		"FI-36: an image was removed after the check": {check: "PRC-04", says: imagetest.WebAlias, status: StatusWarn, opts: Options{IDs: []string{"PRC-04"}, Profile: ProfileArrival}, inject: func(s *site) {
			s.keep(func(*Report) {})
			s.removeImage(imagetest.WebAlias)
		}},
		"the clock is before the last record": {check: "PRC-04", says: "ran backwards", status: StatusWarn, opts: Options{IDs: []string{"PRC-04"}, Profile: ProfileArrival}, inject: func(s *site) {
			s.keep(func(*Report) {})
			s.clockAt(clock().AddDate(0, 0, -10))
		}},
		"the configuration was edited after the check": {check: "PRC-04", says: config.DefaultPath, status: StatusWarn, opts: Options{Profile: ProfileRunning}, inject: func(s *site) {
			s.keep(func(*Report) {})
			s.node.WriteFile(config.DefaultPath, "version = 1 \n")
		}},
		"a required image is in nothing that travels": {check: "PRC-05", says: "in neither", status: StatusWarn, opts: only("PRC-05"), inject: func(s *site) { s.require("quay.io/staging/pulled:1") }},
		"the site file is not on the node":            {check: "PRC-06", says: "not on this node", status: StatusWarn, inject: func(s *site) { s.remove(config.DefaultPath) }},
		"nobody rehearsed the loss of a node": {check: "PRC-07", says: "nothing on this node shows", status: StatusWarn, opts: only("PRC-07"), inject: func(s *site) {
			s.env.Site.Nodes = []config.Node{{Name: "node1", Mirror: "primary"}, {Name: "box-2", Mirror: "replica"}}
		}},
		"an archive is not what the list beside it says": {check: "PRC-08", says: "sha256", status: StatusWarn, inject: func(s *site) { sums(s, strings.Repeat("0", 64)) }},
		"an archive has a twin that differs in case": {check: "PRC-08", says: "case alone", status: StatusWarn, opts: only("PRC-08"), inject: func(s *site) {
			s.node.WriteFile("/opt/edgeprep/images/Edge.tar", s.node.ReadFile(archivePath))
			s.env.Archives = append(s.env.Archives, "/opt/edgeprep/images/Edge.tar")
		}},
	}
}

func TestProcessThatIsInOrder(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, tc := range map[string]struct {
		id      string
		profile Profile
		prepare func(*site)
	}{
		"a certificate beyond the mission": {id: "MIR-12", prepare: func(s *site) { s.ownCertificate(clock().Add(-time.Hour), clock().Add(900*24*time.Hour)) }},
		"files that are there":             {id: "MIR-11", prepare: func(s *site) { s.ownCertificate(clock(), clock().Add(time.Hour)) }},
		"as it left":                       {id: "PRC-04", profile: ProfileArrival, prepare: func(s *site) { s.keep(func(*Report) {}) }},
		"a record was kept":                {id: "PRC-01", profile: ProfileArrival, prepare: func(s *site) { s.keep(func(*Report) {}) }},
		"images of this version": {id: "PRC-02", prepare: func(s *site) {
			s.env.Required = append(s.env.Required, preload.Ref{Name: "registry.k8s.io/kube-proxy:v1.37.2", Host: "registry.k8s.io", Repository: "kube-proxy", Tag: "v1.37.2"})
		}},
		"the list beside the archive is right": {id: "PRC-08", prepare: func(s *site) { s.node.WriteFile(archivePath+".sha256", hexSum(s.node.ReadFile(archivePath))+"\n") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kubeadmSite(t, tpl)
			tc.prepare(s)
			if r := s.run(Options{IDs: []string{tc.id}, Profile: tc.profile}).Results[0]; r.Status != StatusPass {
				t.Errorf("%s: %+v", r.Status, r.Findings)
			}
		})
	}
}

// TestAFileCutByFAT32: the size alone tells.
func TestAFileCutByFAT32(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	s.env.Reader = cutByFAT{s.node}
	r := s.run(only("PRC-08")).Results[0]
	if r.Status != StatusWarn || !said(r, "as FAT32 cuts") {
		t.Errorf("%s: %+v", r.Status, r.Findings)
	}
}

type cutByFAT struct{ host.Reader }

func (c cutByFAT) FS() host.FS { return cutFS{c.Reader.FS()} }

type cutFS struct{ host.FS }

func (f cutFS) Stat(p string) (host.FileInfo, error) {
	fi, err := f.FS.Stat(p)
	if p == archivePath {
		fi.Size = fatLimit
	}
	return fi, err
}

// TestSecretsAreNotSaid: what a credentials file holds is in no finding.
func TestSecretsAreNotSaid(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	processFaults()["an upstream's password lasts for hours"].inject(s)
	data, err := json.Marshal(s.run(only("MIR-11")))
	if err != nil || strings.Contains(string(data), "planted-password") {
		t.Errorf("%v: %s", err, data)
	}
}
