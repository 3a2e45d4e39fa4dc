package check

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// TestAMirrorThatServesWrongBytes puts something in front of the real mirror, which itself never would.
func TestAMirrorThatServesWrongBytes(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, tc := range map[string]struct {
		alter  func([]byte) []byte
		deep   bool
		status Status
	}{
		"short layer":             {alter: func(b []byte) []byte { return b[:len(b)-1] }, status: StatusFail},
		"flipped bit, not hashed": {alter: flip, status: StatusPass},
		"flipped bit, hashed":     {alter: flip, deep: true, status: StatusFail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kubeadmSite(t, tpl)
			s.env.Mirrors[0].URL = alterBlob(t, s.env.Mirrors[0].URL, s.layer(imagetest.APIName), tc.alter)
			r := s.run(Options{IDs: []string{"MIR-03", "MIR-04"}, Deep: tc.deep})
			complete, _ := r.Result("MIR-03")
			bytesRight, _ := r.Result("MIR-04")
			if complete.Status != StatusPass || bytesRight.Status != tc.status {
				t.Errorf("MIR-03 %s, MIR-04 %s: %+v", complete.Status, bytesRight.Status, bytesRight.Findings)
			}
			if tc.status == StatusFail && !said(bytesRight, imagetest.APIName) {
				t.Errorf("it does not say which image: %+v", bytesRight.Findings)
			}
		})
	}
}

func flip(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

// alterBlob is a proxy that changes the body, or the length, of one blob.
func alterBlob(t *testing.T, upstream, digest string, alter func([]byte) []byte) string {
	t.Helper()
	u, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport: tr,
		ModifyResponse: func(r *http.Response) error {
			if !strings.HasSuffix(r.Request.URL.Path, "/blobs/"+digest) {
				return nil
			}
			n, _ := strconv.Atoi(r.Header.Get("Content-Length"))
			body := make([]byte, n)
			if r.Request.Method == http.MethodGet {
				if _, err := io.ReadFull(r.Body, body); err != nil {
					return err
				}
			}
			body = alter(body)
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
			r.ContentLength = int64(len(body))
			if r.Request.Method == http.MethodGet {
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			return nil
		},
	}
	srv := httptest.NewServer(proxy)
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestAPullThatArrivesWithAnotherNS: the pull arrives, and not as what it was.
func TestAPullThatArrivesWithAnotherNS(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	cri := s.containerd().CRI()
	plain := cri.OnPull
	cri.OnPull = func(ref string) error { return plain("wrong.example" + ref[strings.IndexByte(ref, '/'):]) }
	r := s.run(Options{IDs: []string{"REG-16"}}).Results[0]
	if r.Status != StatusFail || !said(r, `it arrived with ns="wrong.example"`) {
		t.Errorf("%s: %+v", r.Status, r.Findings)
	}
}

// TestTheProbeIsNotRemembered: a pull of an earlier run proves nothing about this one.
func TestTheProbeIsNotRemembered(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	if r := s.run(Options{IDs: []string{"REG-16"}}).Results[0]; r.Status != StatusPass {
		t.Fatalf("%+v", r.Findings)
	}
	s.containerd().CRI().OnPull = func(string) error { return io.ErrUnexpectedEOF }
	if r := s.run(Options{IDs: []string{"REG-16"}}).Results[0]; r.Status != StatusFail {
		t.Errorf("%s: %+v", r.Status, r.Findings)
	}
}
