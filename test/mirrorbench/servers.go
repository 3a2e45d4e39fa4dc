package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// kind is a server that can be measured.
type kind string

// The servers. Each is a child process, so that its processor time and memory are its own.
const (
	ours         kind = "edgeprep"
	nginx        kind = "nginx"
	distribution kind = "distribution"
)

// server is one that runs.
type server struct {
	kind  kind
	addr  string
	cmd   *exec.Cmd
	log   *bytes.Buffer
	ready time.Duration // from its start to its first answer
}

func (s *server) pid() int { return s.cmd.Process.Pid }

func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM) // it is killed below if that did nothing
	done := make(chan struct{})
	go func() {
		s.cmd.Wait() // how it ends is not what is measured
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		s.cmd.Process.Kill() // it may have ended meanwhile
		<-done
	}
}

// programs are where the servers are. Those that are not there are left out.
type programs struct {
	edgeprep     []string // with the arguments that come before --cache
	nginx        string
	distribution string
	wrk          string // client of manifests; empty: this program is
}

func (p programs) has(k kind) bool {
	switch k {
	case nginx:
		return p.nginx != ""
	case distribution:
		return p.distribution != ""
	}
	return true
}

// setup is what a server is started with.
type setup struct {
	kind     kind
	root     string // its files
	upstream string // host:port; empty: it serves what it has
	probe    string // path that is asked until it answers 200
}

// start starts a server and waits for its first answer.
func (p programs) start(ctx context.Context, s setup) (*server, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.root, 0o755); err != nil {
		return nil, err
	}
	args, err := p.command(s, addr)
	if err != nil {
		return nil, err
	}
	srv := &server{kind: s.kind, addr: addr, log: &bytes.Buffer{}}
	srv.cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	srv.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none") // distribution's default is a collector that is not there
	srv.cmd.Stdout, srv.cmd.Stderr = srv.log, srv.log
	srv.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	begin := time.Now()
	if err := srv.cmd.Start(); err != nil {
		return nil, err
	}
	if err := srv.await(ctx, s.probe); err != nil {
		srv.stop()
		return nil, fmt.Errorf("%s: %w\n%s", s.kind, err, srv.log)
	}
	srv.ready = time.Since(begin)
	return srv, nil
}

// await asks until there is an answer.
func (s *server) await(ctx context.Context, path string) error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		c, err := dial(ctx, s.addr)
		if err == nil {
			var r reply
			r, err = c.small("GET", path)
			c.close()
			if err == nil && r.status == 200 {
				return nil
			}
			if err == nil {
				err = fmt.Errorf("%s: status %d", path, r.status)
			}
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

func freeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (p programs) command(s setup, addr string) ([]string, error) {
	file := s.root + ".conf"
	var text string
	var args []string
	switch s.kind {
	case nginx:
		text = nginxConfig(s, addr)
		args = []string{p.nginx, "-c", file, "-e", s.root + ".log"}
	case distribution:
		text = distributionConfig(s, addr)
		args = []string{p.distribution, "serve", file}
	default:
		args = append(args, p.edgeprep...)
		args = append(args, "--cache", s.root, "--listen", addr)
		if s.upstream == "" {
			return append(args, "--upstream", "never"), nil
		}
		text = "version = 1\n[site]\nname = \"bench\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"http://" + s.upstream + "\"\n"
		args = append(args, "--config", file)
	}
	return args, os.WriteFile(file, []byte(text), 0o644)
}

// nginxConfig is Debian's default (worker_processes auto, sendfile, tcp_nopush) without its log; as a cache,
// one transfer per file and no bad answer kept.
func nginxConfig(s setup, addr string) string {
	location := "root " + s.root + "; default_type application/octet-stream;"
	cache := ""
	if s.upstream != "" {
		cache = "proxy_cache_path " + s.root + "/cache levels=1:2 keys_zone=c:10m max_size=20g inactive=1d use_temp_path=off;"
		location = "proxy_pass http://" + s.upstream + "; proxy_cache c; proxy_cache_key $uri; proxy_cache_valid 200 1d;" +
			"proxy_cache_lock on; proxy_cache_lock_age 120s; proxy_cache_lock_timeout 120s; proxy_http_version 1.1; proxy_set_header Connection \"\";" +
			"proxy_max_temp_file_size 4096m;"
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	return user + "worker_processes auto; daemon off; pid " + s.root + ".pid; events { worker_connections 768; }\n" +
		"http { sendfile on; tcp_nopush on; access_log off; keepalive_requests 1000000000; " +
		"client_body_temp_path " + s.root + "/b; proxy_temp_path " + s.root + "/p; fastcgi_temp_path " + s.root + "/f; uwsgi_temp_path " + s.root + "/u; scgi_temp_path " + s.root + "/s;\n" +
		cache + "\nserver { listen " + addr + "; location / { " + location + " } } }\n"
}

func distributionConfig(s setup, addr string) string {
	proxy := ""
	if s.upstream != "" {
		proxy = "proxy:\n  remoteurl: http://" + s.upstream + "\n"
	}
	return "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: " + s.root +
		"\nhttp:\n  addr: " + addr + "\n" + proxy
}

// find looks for the programs. distribution is built by go run ./test/build.
func find(edgeprep, registry string) (programs, error) {
	p := programs{distribution: registry}
	abs, err := filepath.Abs(edgeprep)
	if err != nil {
		return p, err
	}
	if _, err := os.Stat(abs); err != nil {
		return p, fmt.Errorf("%w: make build makes it", err)
	}
	p.edgeprep = []string{abs, "mirror", "serve"}
	for _, dir := range []string{"/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if _, err := os.Stat(dir); err == nil {
			p.nginx = dir
			break
		}
	}
	if p.wrk, err = exec.LookPath("wrk"); err != nil {
		p.wrk = ""
	}
	return p, nil
}
