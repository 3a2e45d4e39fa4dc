package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/progress"
)

func newMirror(g *globals) *cobra.Command {
	return group(&cobra.Command{
		Use:               "mirror",
		Short:             "The registry mirror and its cache",
		Example:           "  edgeprep mirror load --cache /srv/cache images/*.tar\n  edgeprep mirror serve --cache /srv/cache --upstream never",
		PersistentPreRunE: func(*cobra.Command, []string) error { return errors.Join(g.check(), g.noRoot()) },
	}, newMirrorServe(g), newMirrorFill(g), newMirrorLoad(g), newMirrorLs(g), newMirrorVerify(g),
		newMirrorPrune(g), newMirrorMisses(g), newMirrorExport(g), newMirrorImage(g), newMirrorChart(g))
}

// noRoot keeps --root from being taken for what it is not: the cache of the machine that runs would be looked at, or
// pruned, in place of that of the image.
func (g *globals) noRoot() error {
	if g.root == "" {
		return nil
	}
	return &usageError{fmt.Errorf("--root is not for edgeprep mirror, which works on a directory: --cache %s", diag.Word(filepath.Join(g.root, config.DefaultCache)))}
}

func cacheFlag(cmd *cobra.Command, cache *string) {
	cmd.Flags().StringVar(cache, "cache", config.DefaultCache, "directory of the cache")
}

func newMirrorServe(g *globals) *cobra.Command {
	var c mirror.Config
	var over config.Limits
	var upstream string
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Serve the cache as a pull-only registry, and pull what is missing from its upstreams",
		Example: "  edgeprep mirror serve --cache /srv/cache --listen 127.0.0.1:5000 --upstream never\n  edgeprep mirror serve --cache /srv/cache --config site.toml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if upstream != config.UpstreamConnected && upstream != config.UpstreamNever {
				return &usageError{fmt.Errorf("--upstream %q is not one of connected, never", upstream)}
			}
			c.LogQueue = mirror.NewLogQueue(g.err)
			defer c.LogQueue.Close(time.Second)
			c.Logger, c.Version = slog.New(slog.NewTextHandler(c.LogQueue, nil)), version
			if err := checkLimits(over); err != nil {
				return err
			}
			servedFiles(&c)
			if err := g.settings(&c, upstream, over); err != nil {
				return err
			}
			g.serving.Store(true)
			collectEarly()
			return mirror.Serve(cmd.Context(), c)
		},
	}
	cacheFlag(cmd, &c.Cache)
	f := cmd.Flags()
	f.StringVar(&c.Listen, "listen", config.DefaultListen, "address to serve on")
	f.StringVar(&upstream, "upstream", config.UpstreamConnected, "connected: pull what is missing, also from the [[upstream]] tables of --config; never: no connection is opened")
	f.BoolVar(&c.Create, "create", false, "make the cache's directory when it is missing")
	f.StringVar(&c.Admin, "admin", "", "path of the admin socket (default: none)")
	f.StringVar(&c.DefaultRegistry, "default-registry", config.DefaultRegistry, "registry of names that say none")
	f.StringVar(&c.TLSCert, "tls-cert", "", "certificate file (PEM)")
	f.StringVar(&c.TLSKey, "tls-key", "", "key file (PEM)")
	f.BoolVar(&c.ReadOnly, "read-only", false, "never write to the cache: what is missing is passed on from its upstream and not kept")
	f.StringVar(&c.TLSClientCA, "tls-client-ca", "", "CA file (PEM): only who has a certificate of it may pull, or a token")
	f.StringVar(&c.Tokens, "tokens", "", "file with a token a line: only who has one may pull, or a client certificate")
	f.BoolVar(&c.AccessLog, "access-log", false, "log hits, too; misses and what is pulled are always logged")
	f.StringVar(&over.MinFree, "min-free", "", "bytes that pulling leaves free on the cache's disk (default: [mirror.limits] of --config, else "+config.DefaultMinFree+")")
	f.StringVar(&over.MaxCache, "max-cache", "", "bytes that pulling lets the cache's blobs take together (default: [mirror.limits] of --config, else no limit)")
	f.StringVar(&over.ScrubPeriod, "scrub-period", "", "within which every blob is read again, 0: never (default: [mirror.limits] of --config, else "+config.DefaultScrub+")")
	f.StringVar(&c.Metrics, "metrics", "", "address of Prometheus metrics, /healthz and /readyz (default: none)")
	f.IntVar(&c.MaxConnections, "max-connections", mirror.DefaultMaxConnections, "connections of clients at once; more are closed")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	return cmd
}

// servedFiles takes the copies that systemd handed over, where the files themselves cannot be read.
func servedFiles(c *mirror.Config) {
	secrets := os.Getenv("CREDENTIALS_DIRECTORY")
	for name, file := range map[string]*string{deploy.TLSCertName: &c.TLSCert, deploy.TLSKeyName: &c.TLSKey,
		deploy.ClientCAName: &c.TLSClientCA, deploy.TokensName: &c.Tokens} {
		*file = app.ServedFile(name, *file, secrets)
	}
}

// checkLimits finds what is wrong with limits of the command line.
func checkLimits(l config.Limits) error {
	for flag, v := range map[string]string{"--min-free": l.MinFree, "--max-cache": l.MaxCache} {
		if _, err := config.ParseSize(v); v != "" && err != nil {
			return &usageError{fmt.Errorf("%s: %w", flag, err)}
		}
	}
	if d, err := time.ParseDuration(l.ScrubPeriod); l.ScrubPeriod != "" && (err != nil || d < 0) {
		return &usageError{fmt.Errorf("--scrub-period %q is not a duration: write it like 168h, or 0", l.ScrubPeriod)}
	}
	return nil
}

// settings are those of the site file, if one is named. One that cannot be used does not keep the mirror from
// serving what it has.
func (g *globals) settings(c *mirror.Config, upstream string, over config.Limits) error {
	s, err := app.ReadMirror(g.siteFile(), os.Getenv("CREDENTIALS_DIRECTORY"), over)
	if err != nil {
		c.Logger.Error("no upstream is asked; what is in the cache is served", "error", err)
		if s, err = app.ReadMirror("", "", over); err != nil {
			return err
		}
		upstream = config.UpstreamNever
	}
	c.ScrubPeriod = s.ScrubPeriod
	if upstream == config.UpstreamConnected {
		c.Upstream = &s.Upstreams
	}
	return nil
}

// collectEarly keeps the mirror small on nodes that have little memory: with 64 clients it takes 3 MB less, and requests
// for manifests cost a few percent more. GOGC of the environment wins.
func collectEarly() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// siteFile is the site file that was named; a mirror can do without.
func (g *globals) siteFile() string {
	if g.config != "" {
		return g.config
	}
	return os.Getenv("EDGEPREP_CONFIG")
}

func newMirrorVerify(g *globals) *cobra.Command {
	var cache string
	var shallow bool
	cmd := &cobra.Command{
		Use:     "verify",
		Short:   "Read the whole cache again and say what cannot be pulled from it",
		Example: "  edgeprep mirror verify --cache /srv/cache",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := g.verify(cmd.Context(), cache, !shallow)
			if err != nil {
				return err
			}
			if g.json() {
				err = writeJSON(g.out, r)
			} else {
				writeVerify(g.out, r)
			}
			if err == nil && !r.OK() {
				err = &exitError{exitCheck}
			}
			return err
		},
	}
	cacheFlag(cmd, &cache)
	cmd.Flags().BoolVar(&shallow, "shallow", false, "look at presence and sizes only, hash nothing")
	return cmd
}

func (g *globals) verify(ctx context.Context, cache string, deep bool) (mirror.VerifyReport, error) {
	s, err := mirror.Open(cache, mirror.Options{ReadOnly: true})
	if err != nil {
		return mirror.VerifyReport{}, err
	}
	defer s.Close()
	if err := readable(cache); err != nil {
		return mirror.VerifyReport{}, err
	}
	sinks, closeAll, err := g.sinks()
	if err != nil {
		return mirror.VerifyReport{}, err
	}
	stream := progress.NewStream("", "", nil, sinks...)
	const step = "verify"
	stream.Emit(progress.Event{Type: progress.StepStart, Step: step, Msg: "verify " + cache, Time: time.Now()})
	r, err := s.Verify(ctx, deep, func(p mirror.Progress) {
		stream.Emit(progress.Event{Type: progress.StepProgress, Step: step, Done: p.Done, Total: p.Total})
	})
	stream.Emit(progress.Event{Type: progress.StepEnd, Step: step, Status: "ok", Msg: "verify " + cache})
	if cerr := closeAll(); err == nil {
		err = cerr
	}
	return r, err
}

func writeVerify(w io.Writer, r mirror.VerifyReport) {
	for _, p := range r.Problems {
		fmt.Fprintf(w, "%-8s %s %s: %s\n", p.Kind, p.Reference, p.Platform, p.Detail)
	}
	for _, f := range r.Foreign {
		fmt.Fprintf(w, "foreign  %s (%s)\n", f.Path, f.Kind)
	}
	fmt.Fprintf(w, "%d references, %d blobs, %s: %d problems, %d foreign files, %d blobs that no reference reaches\n",
		len(r.Entries), r.Blobs, progress.Bytes(r.Bytes), len(r.Problems), len(r.Foreign), len(r.Orphans))
}
