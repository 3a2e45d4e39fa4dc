package app

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
)

// MirrorSettings are what a mirror takes from a site file.
type MirrorSettings struct {
	Upstreams   mirror.Upstreams
	ScrubPeriod time.Duration // 0: no scrub
}

// ReadMirror reads what a mirror takes from a site file, or with "" the defaults. The limits of over that are
// not empty count instead of the file's. A service has copies of files that its account may not read in the
// directory secrets, if that is not empty.
func ReadMirror(file, secrets string, over config.Limits) (MirrorSettings, error) {
	site, found := config.Parse("the defaults", []byte("version = 1\n"))
	if file != "" {
		data, err := os.ReadFile(handedOver(secrets, deploy.ConfigName, file))
		if err != nil {
			return MirrorSettings{}, &InvalidConfig{diag.Report{{ID: "CFG-005", Severity: diag.Error,
				What: "the configuration cannot be read: " + cause(err), Where: diag.Where{File: file}, Fix: "ls -l " + diag.Word(file)}}}
		}
		site, found = config.Parse(file, data)
	}
	if found.HasErrors() {
		return MirrorSettings{}, &InvalidConfig{found}
	}
	l := &site.Mirror.Limits
	l.MinFree, l.ScrubPeriod = cmp.Or(over.MinFree, l.MinFree), cmp.Or(over.ScrubPeriod, l.ScrubPeriod)
	l.MaxCache = cmp.Or(over.MaxCache, l.MaxCache)
	return settings(site, secrets)
}

func settings(s config.Site, secrets string) (MirrorSettings, error) {
	out := MirrorSettings{}
	var err error
	if out.ScrubPeriod, err = time.ParseDuration(cmp.Or(s.Mirror.Limits.ScrubPeriod, config.NoScrub)); err != nil {
		return out, fmt.Errorf("mirror.limits.scrub_period: %w", err)
	}
	out.Upstreams, err = upstreams(s, secrets)
	return out, err
}

// MirrorUpstreams are the upstreams that a site file names; see ReadMirror.
func MirrorUpstreams(file, secrets string) (mirror.Upstreams, error) {
	s, err := ReadMirror(file, secrets, config.Limits{})
	return s.Upstreams, err
}

// serviceLimits are the limits that the mirror's unit has to be told: those that are not the default.
func serviceLimits(l config.Limits) deploy.Limits {
	out := deploy.Limits{MaxCache: l.MaxCache}
	if l.MinFree != config.DefaultMinFree {
		out.MinFree = cmp.Or(l.MinFree, "0")
	}
	if l.ScrubPeriod != config.DefaultScrub {
		out.ScrubPeriod = cmp.Or(l.ScrubPeriod, config.NoScrub)
	}
	return out
}

func upstreams(s config.Site, secrets string) (mirror.Upstreams, error) {
	var out mirror.Upstreams
	var err error
	if out.MinFree, err = sizeOf(s.Mirror.Limits.MinFree); err != nil {
		return out, fmt.Errorf("mirror.limits.min_free: %w", err)
	}
	if out.MaxCache, err = sizeOf(s.Mirror.Limits.MaxCache); err != nil {
		return out, fmt.Errorf("mirror.limits.max_cache: %w", err)
	}
	out.AllowRegistries, out.DenyRegistries, out.Ask = s.Mirror.AllowRegistries, s.Mirror.DenyRegistries, credentialHelper
	for _, u := range s.Upstreams {
		rate, err := sizeOf(strings.TrimSuffix(u.Rate, "/s"))
		if err != nil {
			return out, fmt.Errorf("upstream %s: rate: %w", u.Host, err)
		}
		m := mirror.Upstream{Host: u.Host, URL: u.URL, ClientKey: u.ClientKey,
			Insecure: u.Insecure, Credentials: u.CredentialsFile, Helper: u.CredentialsHelper, Allow: u.Allow, Deny: u.Deny, Rate: rate}
		if u.CA != "" {
			m.CA = handedOver(secrets, deploy.SecretName("ca", u.Host), u.CA)
		}
		if u.ClientCert != "" {
			m.ClientCert = handedOver(secrets, deploy.SecretName("cert", u.Host), u.ClientCert)
		}
		if u.ClientKey != "" {
			m.ClientKey = handedOver(secrets, deploy.SecretName("key", u.Host), u.ClientKey)
		}
		if u.CredentialsFile != "" && !strings.HasPrefix(u.CredentialsFile, "env:") {
			m.Credentials = handedOver(secrets, deploy.SecretName("credentials", u.Host), u.CredentialsFile)
		}
		out.Named = append(out.Named, m)
	}
	return out, nil
}

func sizeOf(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	return config.ParseSize(s)
}

// handedOver is the copy of a file that systemd handed over, if it did.
func handedOver(secrets, name, file string) string {
	if secrets == "" {
		return file
	}
	if fi, err := os.Stat(filepath.Join(secrets, name)); err == nil && fi.Size() > 0 {
		return filepath.Join(secrets, name)
	}
	return file
}

// ServedFile is a file of the data port as a flag of mirror serve names it. A service whose account may not read it
// has a copy from systemd, which is as old as the service; the file itself is read again when it changes.
func ServedFile(name, file, secrets string) string {
	if file == "" || secrets == "" {
		return file
	}
	f, err := os.Open(file)
	if err != nil {
		return handedOver(secrets, name, file)
	}
	f.Close()
	return file
}

// serviceUpstreams is what the mirror's service needs for its upstreams; nothing for a site that names none.
func (a *App) serviceUpstreams(s config.Site) (deploy.Upstreams, error) {
	var out deploy.Upstreams
	lists := [][]string{s.Mirror.AllowRegistries, s.Mirror.DenyRegistries}
	if s.Mirror.Upstream != config.UpstreamConnected || len(s.Upstreams) == 0 && len(slices.Concat(lists...)) == 0 {
		return out, nil
	}
	out.Config = config.DefaultPath
	if f := a.ConfigName(); f != "stdin" && a.opts.Root == "" {
		abs, err := filepath.Abs(f)
		if err != nil {
			return out, fmt.Errorf("path of the configuration: %w", err)
		}
		out.Config = abs
	}
	for _, u := range s.Upstreams {
		f := deploy.UpstreamFiles{Host: u.Host, Key: u.ClientKey}
		if !strings.HasPrefix(u.CredentialsFile, "env:") {
			f.Credentials = u.CredentialsFile
		}
		out.Files = append(out.Files, f)
	}
	b, err := json.Marshal([]any{s.Upstreams, lists})
	if err != nil {
		return out, errors.Join(errors.New("sum of the upstreams"), err)
	}
	sum := sha256.Sum256(b)
	out.Sum = hex.EncodeToString(sum[:8])
	return out, nil
}
