package deploy

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

func fsMode(m uint32) fs.FileMode { return fs.FileMode(m) }

// unit renders the service. What it may do is cut down to serving files from one directory
// (systemd-analyze security: at most 2.5, held by a test).
func (s Service) unit(before []string) string {
	var b strings.Builder
	w := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	w("# Written by edgeprep.")
	if s.Upstreams.Sum != "" {
		w("# Upstreams: %s", s.Upstreams.Sum)
	}
	w("[Unit]")
	w("Description=edgeprep image mirror")
	w("Documentation=https://github.com/edgeprep/edgeprep")
	// No network target: the mirror answers on a node whose cable is out.
	w("After=local-fs.target systemd-sysusers.service")
	if len(before) > 0 {
		w("Before=%s", strings.Join(before, " "))
	}
	w("RequiresMountsFor=%s", s.Cache)
	// A mirror that stops trying leaves the node without images; it never gives up.
	w("StartLimitIntervalSec=0")
	w("")
	w("[Service]")
	w("Type=notify")
	w("ExecStart=%s", strings.Join(s.command(), " "))
	w("User=%s", Account)
	w("Group=%s", Account)
	w("Restart=always")
	w("RestartSec=1s")
	w("TimeoutStartSec=30s")
	w("TimeoutStopSec=30s") // running transfers have 20 s
	w("WatchdogSec=60s")
	w("RuntimeDirectory=%s", strings.TrimPrefix(path.Dir(AdminPath), "/run/"))
	w("RuntimeDirectoryMode=0750")
	w("UMask=0027")
	w("LimitNOFILE=65536")
	w("OOMScoreAdjust=-900")
	// Twenty times what 64 clients were seen to take: what goes beyond it is a mistake, and must not take the
	// node along. The kernel gives its page cache up first.
	w("MemoryMax=1G")
	for _, c := range s.credentials() {
		w("LoadCredential=%s", c)
	}
	for _, c := range s.upstreamFiles() {
		// The empty one is for a file that is gone: a service with no such fallback does not start.
		// systemd: src/core/exec-credential.c, load_credential
		w("SetCredential=%s:", c[0])
		w("LoadCredential=%s:%s", c[0], strings.ReplaceAll(c[1], "%", "%%"))
	}
	w("ReadWritePaths=-%s", s.Cache)
	b.WriteString(hardening(s.privilegedPort()))
	w("")
	w("[Install]")
	w("WantedBy=multi-user.target")
	return b.String()
}

func (s Service) command() []string {
	config := s.Upstreams.Config
	if config != "" {
		config = quoted(config)
	}
	return append([]string{Binary}, s.arguments(AdminPath, config, func(f servedFile) string { return quoted(f.path) })...)
}

// arguments of the mirror's program: its admin socket, its copy of edgeprep.toml (empty: none), and where it has the
// files of its data port.
func (s Service) arguments(admin, config string, place func(servedFile) string) []string {
	args := []string{"mirror", "serve", "--cache", s.Cache, "--listen", s.Listen, "--upstream", s.Upstream}
	if admin != "" {
		args = append(args, "--admin", admin)
	}
	if config != "" {
		args = append(args, "--config", config)
	}
	if s.DefaultRegistry != "" && s.DefaultRegistry != "docker.io" {
		args = append(args, "--default-registry", s.DefaultRegistry)
	}
	if s.AccessLog {
		args = append(args, "--access-log")
	}
	args = append(args, s.Limits.flags()...)
	if s.Metrics != "" {
		args = append(args, "--metrics", s.Metrics)
	}
	if s.MaxConnections > 0 {
		args = append(args, "--max-connections", strconv.Itoa(s.MaxConnections))
	}
	for _, f := range s.files() {
		args = append(args, "--"+f.flag, place(f))
	}
	return args
}

// Names of the copies of the data port's files that are handed over to a mirror that may not read them.
const (
	TLSCertName  = "tls.crt"
	TLSKeyName   = "tls.key"
	ClientCAName = "client-ca.crt"
	TokensName   = "tokens"
)

// servedFile is a file of the data port, by its flag, and the name of its copy: see app.ServedFile.
type servedFile struct{ flag, path, copied string }

func (s Service) files() []servedFile {
	return slices.DeleteFunc([]servedFile{{"tls-cert", s.TLSCert, TLSCertName}, {"tls-key", s.TLSKey, TLSKeyName},
		{"tls-client-ca", s.ClientCA, ClientCAName}, {"tokens", s.Tokens, TokensName}},
		func(f servedFile) bool { return f.path == "" })
}

// Guarded says whether the mirror answers only to who has a certificate or a token, as kubelet's probes have not.
func (s Service) Guarded() bool { return s.ClientCA != "" || s.Tokens != "" }

// credentials hand the files over without making them readable for the mirror's account. A service whose key is
// gone does not start: it must not serve in clear what was to be encrypted.
func (s Service) credentials() []string {
	var out []string
	for _, f := range s.files() {
		out = append(out, f.copied+":"+strings.ReplaceAll(f.path, "%", "%%"))
	}
	return out
}

// quoted is a path as one argument of a command line. systemd.service(5), Command lines
func quoted(p string) string {
	p = strings.NewReplacer("%", "%%", "$", "$$").Replace(p)
	if strings.ContainsAny(p, " \t\"'\\;") {
		return strconv.Quote(p)
	}
	return p
}

// upstreamFiles are name and path of what is handed over for upstreams.
func (s Service) upstreamFiles() [][2]string {
	if s.Upstreams.Config == "" {
		return nil
	}
	out := [][2]string{{ConfigName, s.Upstreams.Config}}
	for _, f := range s.Upstreams.Files {
		if f.Credentials != "" {
			out = append(out, [2]string{SecretName("credentials", f.Host), f.Credentials})
		}
		if f.Key != "" {
			out = append(out, [2]string{SecretName("key", f.Host), f.Key})
		}
	}
	return out
}

func (s Service) privilegedPort() bool {
	i := strings.LastIndexByte(s.Listen, ':')
	port := s.Listen[i+1:]
	return len(port) < 4 && port != ""
}

// hardening are the sandbox settings. An account namespace (PrivateUsers) and a bound on capabilities are
// left out where a port below 1024 needs one.
func hardening(privilegedPort bool) string {
	caps := "CapabilityBoundingSet=\nPrivateUsers=yes\n"
	if privilegedPort {
		caps = "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
	}
	return caps + `NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
RemoveIPC=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources @obsolete
SystemCallErrorNumber=EPERM
`
}
