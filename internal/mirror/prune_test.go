package mirror

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func patterns(t testing.TB, list ...string) Patterns {
	t.Helper()
	ps, err := ParsePatterns(list)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func prune(t testing.TB, s *Store, o PruneOptions) PruneReport {
	t.Helper()
	r, err := s.Prune(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// names are the references of the cache.
func names(t testing.TB, s *Store) []string {
	t.Helper()
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range list {
		out = append(out, e.Reference)
	}
	return out
}

func pruned(r PruneReport) []string {
	out := []string{}
	for _, p := range r.References {
		out = append(out, p.Reference)
	}
	return out
}

const day = 24 * time.Hour

func TestPruneSelects(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	web, _ := set.Image(imagetest.WebName)
	all := names(t, s)
	now := time.Now()
	uses := []Use{{imagetest.WebName, now.Add(100 * day)}, {"ghcr.io/edgeprep/edge-sensor@" + imageOf(set, imagetest.SensorName).Platforms[0].Manifest, now.Add(150 * day)}}
	later := func() time.Time { return now.Add(200 * day) }
	without := func(gone ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return slices.Contains(gone, n) })
	}
	for name, c := range map[string]struct {
		opts PruneOptions
		stay []string
	}{
		"nothing":            {PruneOptions{}, all},
		"a tag":              {PruneOptions{Match: patterns(t, "edge-web:1.0")}, without(imagetest.WebName)},
		"a repository":       {PruneOptions{Match: patterns(t, "edge-web")}, without(imagetest.WebName, imagetest.WebAlias)},
		"by digest":          {PruneOptions{Match: patterns(t, "edge-web@"+web.Digest)}, without(imagetest.WebName, imagetest.WebAlias)},
		"kept anyway":        {PruneOptions{Match: patterns(t, "**"), Keep: patterns(t, "edge-web:1.0", "quay.io/**")}, []string{imagetest.WebName, imagetest.APIName}},
		"all but":            {PruneOptions{Only: true, Keep: patterns(t, "edge-web:stable")}, []string{imagetest.WebAlias}},
		"all":                {PruneOptions{Match: patterns(t, "**")}, []string{}},
		"unused":             {PruneOptions{UnusedFor: 90 * day, Uses: uses, Now: later}, []string{imagetest.SensorName}},
		"unused, long":       {PruneOptions{UnusedFor: 120 * day, Uses: uses, Now: later}, []string{imagetest.WebName, imagetest.SensorName}},
		"unused, clock back": {PruneOptions{UnusedFor: day, Uses: uses, Now: func() time.Time { return now.Add(-1000 * day) }}, all},
		"unused of some":     {PruneOptions{UnusedFor: 90 * day, Uses: uses, Now: later, Match: patterns(t, "edge-web")}, without(imagetest.WebName, imagetest.WebAlias)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.opts.Grace = day; c.opts.Now == nil {
				c.opts.Now = time.Now
			}
			copied := open(t, tempDir(t))
			copyCache(t, s.Dir(), copied.Dir())
			slices.Sort(c.stay)
			before := snapshot(t, copied.Dir())
			dry := prune(t, copied, c.opts)
			if !maps.Equal(before, snapshot(t, copied.Dir())) {
				t.Error("the dry run changed something")
			}
			c.opts.Apply = true
			got := prune(t, copied, c.opts)
			diff(t, "stays", c.stay, names(t, copied))
			dry.Applied = true
			diff(t, "what was said", dry, got)
			if got.Kept != len(c.stay) || len(got.References) != len(all)-len(c.stay) || got.Young != 0 {
				t.Errorf("%+v", got)
			}
			intact(t, copied)
			v, err := copied.Verify(t.Context(), true, nil)
			if err != nil || len(v.Orphans) > 0 {
				t.Errorf("%d blobs that nothing reaches are left: %v", len(v.Orphans), err)
			}
			for _, n := range c.stay {
				if ok, err := copied.Has(t.Context(), n, "linux/amd64", "linux/arm64"); !ok || err != nil {
					t.Errorf("%s is not complete any more: %v", n, err)
				}
			}
			load(t, copied, sourceOf(set))
			diff(t, "after another load", all, names(t, copied))
		})
	}
}

func imageOf(set *imagetest.Set, name string) imagetest.Image {
	img, _ := set.Image(name)
	return img
}

// copyCache copies as cp -r does.
func copyCache(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// What no reference reaches goes only when it is old: a copy brings blobs before references.
func TestPruneLeavesWhatJustCame(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	web := imageOf(set, imagetest.WebName)
	if err := os.RemoveAll(filepath.Join(s.Dir(), dirRefs)); err != nil {
		t.Fatal(err)
	}
	blobs := len(set.Blobs())
	r := prune(t, s, PruneOptions{Apply: true, Grace: day})
	if r.Blobs != 0 || r.Young != blobs || r.YoungBytes == 0 || r.Bytes != 0 {
		t.Errorf("%+v", r)
	}
	load(t, s, sourceOf(set)) // the references come
	age(t, file(s, web.Digest))
	if err := os.RemoveAll(filepath.Join(s.Dir(), dirRefs, "quay.io")); err != nil {
		t.Fatal(err)
	}
	r = prune(t, s, PruneOptions{Apply: true, Grace: day, Now: func() time.Time { return time.Now().Add(2 * day) }})
	if r.Blobs == 0 || r.Young != 0 || r.Bytes == 0 {
		t.Errorf("%+v", r)
	}
	intact(t, s)
}

// A manifest that is there and cannot be read is no reason to throw away what it needs.
func TestPruneKeepsAllWhenSomethingIsUnreadable(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(s *Store, web imagetest.Image) error{
		"index":    func(s *Store, web imagetest.Image) error { return os.Truncate(file(s, web.Digest), 3) },
		"manifest": func(s *Store, web imagetest.Image) error { return os.Truncate(file(s, web.Platforms[1].Manifest), 3) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, set := loaded(t)
			web := imageOf(set, imagetest.WebName)
			if err := spoil(s, web); err != nil {
				t.Fatal(err)
			}
			o := PruneOptions{Apply: true, Match: patterns(t, "ghcr.io/**")}
			r := prune(t, s, o)
			if r.Blobs != 0 || len(r.Notes) != 1 || len(pruned(r)) == 0 {
				t.Errorf("%+v", r)
			}
			for _, p := range web.Platforms {
				for _, l := range p.Layers {
					if !s.hasBlob(digest.Digest(l), int64(len(set.Blob(l)))) {
						t.Errorf("%s is gone", l)
					}
				}
			}
			o.Match = patterns(t, "edge-web")
			if r := prune(t, s, o); r.Blobs == 0 { // the unreadable one goes itself, and nothing is in doubt any more
				t.Errorf("%+v", r)
			}
		})
	}
}

// A signature goes with its image and stays with it.
func TestPruneTakesWhatIsAttached(t *testing.T) {
	t.Parallel()
	config, layer := []byte("{}"), []byte("layer")
	src := &memSource{data: map[string][]byte{}}
	src.add("r.io/a:1", ocispec.MediaTypeImageManifest, manifestOf(config, layer, ""), config, layer)
	main := src.images[0].Target
	sig := manifestOf(config, []byte("signature"), main.Digest)
	src.add("r.io/a@"+descriptorFor(sig, "").Digest, ocispec.MediaTypeImageManifest, sig, []byte("signature"))
	sig2 := manifestOf(config, []byte("signature2"), descriptorFor(sig, "").Digest)
	src.add("r.io/a@"+descriptorFor(sig2, "").Digest, ocispec.MediaTypeImageManifest, sig2, []byte("signature2"))
	s := open(t, tempDir(t))
	load(t, s, src)
	o := PruneOptions{Apply: true, Match: patterns(t, "**"), Keep: patterns(t, "r.io/a:1")}
	if r := prune(t, s, o); len(r.References) != 0 || r.Kept != 3 {
		t.Errorf("%+v", r)
	}
	o = PruneOptions{Apply: true, Match: patterns(t, "r.io/a:1")}
	if r := prune(t, s, o); len(r.References) != 3 || r.Kept != 0 || len(names(t, s)) != 0 {
		t.Errorf("%+v", r)
	}
}

// manifestOf is an image manifest with one layer, attached to a subject unless that is empty.
func manifestOf(config, layer []byte, subject string) []byte {
	d := func(b []byte, mt string) string {
		return `{"mediaType":"` + mt + `","digest":"` + digest.FromBytes(b).String() + `","size":` + strconv.Itoa(len(b)) + `}`
	}
	text := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + d(config, ocispec.MediaTypeEmptyJSON) +
		`,"layers":[` + d(layer, "application/octet-stream") + `]`
	if subject != "" {
		text += `,"subject":{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"` + subject + `","size":1}`
	}
	return []byte(text + "}")
}

// Who writes references and who removes keep off each other.
func TestPruneLocksWritersOut(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	release, err := s.lock(t.Context(), unix.LOCK_SH, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.lock(t.Context(), unix.LOCK_EX, 0); !isLocked(err) || !strings.Contains(err.Error(), "MER-060") {
		t.Errorf("a writer is at work: %v", err)
	}
	if _, err := s.Prune(t.Context(), PruneOptions{}); err != nil { // looking is no removing
		t.Error(err)
	}
	release()
	if release, err = s.lock(t.Context(), unix.LOCK_EX, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Load(ctx, sourceOf(set), LoadOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a load does not wait: %v", err)
	}
	release()
	load(t, s, sourceOf(set))
}

func isLocked(err error) bool {
	_, ok := errors.AsType[*host.LockedError](err)
	return ok
}

// Loads and prunes at the same time, by several stores as if by several processes: whatever a load said is
// there, is there and complete until somebody prunes it.
func TestPruneBesideLoads(t *testing.T) {
	t.Parallel()
	set := killSet()
	dir := tempDir(t)
	first := open(t, dir)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		s := open(t, dir)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Prune(t.Context(), PruneOptions{Match: patterns(t, "**"), Apply: true}); err != nil && !isLocked(err) {
				t.Error(err)
			}
		}
	})
	for range 20 {
		load(t, first, sourceOf(set))
		release, err := first.lock(t.Context(), unix.LOCK_SH, lockForever)
		if err != nil {
			t.Fatal(err)
		}
		intact(t, first)
		release()
	}
	close(stop)
	wg.Wait()
	load(t, first, sourceOf(set))
	intact(t, first)
}

// pruneAndDie is the process that the kill test starts: it prunes and kills itself before the n-th step.
func pruneAndDie(dir string) int {
	limit, err := strconv.Atoi(os.Getenv("EDGEPREP_MIRROR_KILL"))
	if err != nil {
		return 3
	}
	s, err := Open(dir, Options{})
	if err != nil {
		return 3
	}
	defer s.Close()
	steps := 0
	s.hook = func(string) {
		if steps++; steps == limit {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if _, err := s.Prune(context.Background(), killPrune()); err != nil {
		return 3
	}
	return 0
}

func killPrune() PruneOptions {
	ps, err := ParsePatterns([]string{"edge-web", "ghcr.io/**"})
	if err != nil {
		panic(err)
	}
	return PruneOptions{Match: ps, Apply: true}
}

// Killed before any step, no reference leads to what is gone, and the next prune ends where an undisturbed one
// does.
func TestKillDuringPrune(t *testing.T) {
	t.Parallel()
	full, err := imagetest.Standard(imagetest.Options{LayerSize: 2048})
	if err != nil {
		t.Fatal(err)
	}
	from := open(t, tempDir(t))
	load(t, from, sourceOf(full))
	whole := open(t, tempDir(t))
	copyCache(t, from.Dir(), whole.Dir())
	steps := 0
	whole.hook = func(string) { steps++ }
	prune(t, whole, killPrune())
	want := contents(t, whole.Dir())
	stride := max(1, steps/15)
	if os.Getenv("EDGEPREP_SOAK") != "" {
		stride = 1
	}
	for k := 1; k <= steps; k += stride {
		s := open(t, tempDir(t))
		copyCache(t, from.Dir(), s.Dir())
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "EDGEPREP_MIRROR_PRUNE="+s.Dir(), "EDGEPREP_MIRROR_KILL="+strconv.Itoa(k))
		err := cmd.Run()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: it was not killed: %v", k, err)
		}
		v, err := s.Verify(t.Context(), true, nil)
		if err != nil || len(v.Problems) > 0 || len(v.Foreign) > 0 {
			t.Errorf("step %d: torn: %+v %+v %v", k, v.Problems, v.Foreign, err)
		}
		prune(t, s, killPrune())
		got := contents(t, s.Dir())
		diff(t, "files after step "+strconv.Itoa(k), slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
	}
}
