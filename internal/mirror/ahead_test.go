package mirror

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func references(t testing.TB, set *imagetest.Set) []Reference {
	t.Helper()
	var out []Reference
	for _, img := range set.Images {
		for _, n := range img.Names {
			r, err := ParseReference(n)
			must(t, err)
			out = append(out, r)
		}
	}
	return out
}

func statuses(r FillReport) map[FillStatus]int {
	out := map[FillStatus]int{}
	for _, i := range r.Images {
		out[i.Status]++
	}
	return out
}

// All is brought in, each blob once, and the second run makes no request: the upstream is gone by then.
func TestFill(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	s := open(t, tempDir(t))
	p, srv := pullerOf(t, s, o.URL, testLimits(), nil)
	refs := references(t, set)
	var last Progress
	r, err := p.fillAll(t.Context(), refs, FillOptions{Progress: func(p Progress) {
		if p.Done < last.Done {
			t.Errorf("progress goes back: %+v after %+v", p, last)
		}
		last = p
	}})
	if err != nil || statuses(r)[FillPulled] == 0 || statuses(r)[FillFailed] != 0 || last.Done != last.Total || last.Done == 0 {
		t.Fatalf("%v %+v %+v", err, r, last)
	}
	for k, n := range o.gets {
		if strings.HasPrefix(k, "GET blob") && n != 1 {
			t.Errorf("%s: %d times", k, n)
		}
	}
	n := o.count("")
	r, err = p.fillAll(t.Context(), refs, FillOptions{})
	if err != nil || statuses(r)[FillPresent] != len(refs) || r.Bytes != 0 || o.count("") != n {
		t.Errorf("again: %v %+v, %d requests", err, r, o.count("")-n)
	}
	o.Close()
	pullAll(t, srv.URL, set)
	if v, err := s.Verify(t.Context(), true, nil); err != nil || !v.OK() || len(v.Foreign) > 0 {
		t.Errorf("%+v %v", v.Problems, err)
	}
}

// One platform is brought in and no blob of another.
func TestFillOnePlatform(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	s := open(t, tempDir(t))
	p, _ := pullerOf(t, s, o.URL, testLimits(), nil)
	web, _ := set.Image(imagetest.WebName)
	refs := references(t, set.Select(imagetest.WebName))
	if r, err := p.fillAll(t.Context(), refs[:1], FillOptions{Platforms: []string{"linux/arm64"}}); err != nil {
		t.Fatalf("%v %+v", err, r)
	}
	for _, pl := range web.Platforms {
		if got := s.hasBlob(digest.Digest(pl.Config), int64(len(set.Blob(pl.Config)))); got != (pl.Platform == "linux/arm64") {
			t.Errorf("%s: there %v", pl.Platform, got)
		}
	}
	_, err := p.fillAll(t.Context(), refs[:1], FillOptions{Platforms: []string{"linux/s390x"}})
	if err == nil || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("a platform that it has not: %v", err)
	}
}

// What cannot be had is named, the rest is kept, and the next run brings in only what is missing.
func TestFillNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	web, _ := set.Image(imagetest.WebName)
	layer := web.Platforms[0].Layers[0]
	o.setFault(func(w http.ResponseWriter, _ *http.Request, ref string) bool {
		if ref == layer {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return ref == layer
	})
	lim := testLimits()
	lim.retry = time.Millisecond
	s := open(t, tempDir(t))
	p, _ := pullerOf(t, s, o.URL, lim, nil)
	none, err := ParseReference("quay.io/none/none:1")
	must(t, err)
	refs := append(references(t, set), none)
	r, err := p.fillAll(t.Context(), refs, FillOptions{})
	if err == nil || !strings.Contains(err.Error(), layer) || !strings.Contains(err.Error(), "quay.io/none/none:1") || len(diag.Of(err)) == 0 {
		t.Errorf("%v", err)
	}
	if st := statuses(r); st[FillFailed] < 2 || st[FillPulled] == 0 {
		t.Errorf("%+v", r)
	}
	o.setFault(nil)
	must(t, writeFile(s.path(dirTmp)+"/"+tmpPrefix+"KILLED", "half")) // of a run that was killed
	before := o.count("GET blob")
	r, err = p.fillAll(t.Context(), refs[:len(refs)-1], FillOptions{})
	if err != nil || o.count("GET blob")-before != 1 {
		t.Errorf("%v, %d blobs %+v", err, o.count("GET blob")-before, r)
	}
	noTemp(t, s)
	if _, err := Fill(t.Context(), s, Upstreams{Named: []Upstream{{Host: "x", CA: "/nowhere.pem"}}}, refs, FillOptions{}); err == nil {
		t.Error("an upstream that cannot be used is no error")
	}
	var d *diag.Diagnostic
	if _, err := Fill(t.Context(), s, Upstreams{Named: []Upstream{{Host: "x", URL: "ftp://x"}}}, refs, FillOptions{}); !errors.As(err, &d) || d.ID != "MER-020" {
		t.Errorf("%v", err)
	}
}
