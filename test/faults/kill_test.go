package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/test/edgeprep"
)

// kills is how often the program is killed.
func kills() int {
	switch {
	case os.Getenv("EDGEPREP_SOAK") == "1":
		return 1000
	case testing.Short():
		return 10
	}
	return 100
}

// everything asks for each manifest and blob and counts what is there; what is there is right.
func everything(t *testing.T, url string, set *imagetest.Set) (there, missed int) {
	t.Helper()
	for i, img := range set.Images {
		repo, tag := "team/app", "1"
		if i == 1 {
			repo, tag = "team/other", "2"
		}
		for path, d := range map[string]string{
			"manifests/" + tag: img.Digest, "manifests/" + img.Digest: img.Digest,
			"blobs/" + img.Platforms[0].Config:    img.Platforms[0].Config,
			"blobs/" + img.Platforms[0].Layers[0]: img.Platforms[0].Layers[0],
		} {
			switch got, n := one(t.Context(), url+"/v2/"+repo+"/"+path+"?ns=up.test", set.Blob(d)); got {
			case whole:
				there++
			case missing:
				missed++
			default:
				t.Errorf("%s %s: %s, %d bytes", repo, path, got, n)
			}
		}
	}
	return there, missed
}

// Killed at a random byte of what comes in, again and again: offline, what is served is right; online, all is
// whole; nothing is left over. Every other time it is a fill that is killed, beside the mirror.
func TestKilledWhileFilling(t *testing.T) {
	t.Parallel()
	set, _ := images(t)
	var total int64
	for _, d := range set.Blobs() {
		total += int64(len(set.Blob(d)))
	}
	dir, err := os.MkdirTemp("/dev/shm", "killed-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o := newOrigin(t, set)
	m := edgeprep.Serve(t, edgeprep.Options{Cache: dir, Upstreams: map[string]string{"up.test": "http://" + o.addr}})
	rnd := rand.New(rand.NewPCG(3, 4))
	resumed, partly := 0, 0
	for i := range kills() {
		if i%100 == 99 {
			t.Logf("%d times killed", i)
		}
		empty(t, dir)
		o.forget()
		at := o.after(rnd.Int64N(total))
		ctx, cancel := context.WithCancel(t.Context())
		killed := make(chan struct{})
		var fill *exec.Cmd
		if i%2 == 0 {
			go func() {
				defer close(killed)
				for n := range set.Images {
					pull(ctx, m.URL, set, n)
				}
			}()
		} else {
			fill = exec.CommandContext(ctx, edgeprep.Build(t), "mirror", "fill", "--cache", dir, "--config", m.Site, set.Images[0].Names[0], set.Images[1].Names[0])
			if err := fill.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { defer close(killed); fill.Wait() }()
		}
		select {
		case <-at:
		case <-killed: // it was done before
		}
		if fill != nil {
			fill.Process.Kill()
		}
		m.Kill()
		cancel()
		<-killed
		o.down()
		m.Start()
		there, missed := everything(t, m.URL, set)
		if there > 0 && missed > 0 {
			partly++
		}
		o.up(t)
		o.forget()
		for n := range set.Images {
			soon(t, m.URL, set, n)
		}
		if o.resumed() {
			resumed++
		}
		if i%2 == 1 { // the mirror that was killed with it sweeps at its start, and goes on with the rest
			nothingLeft(t, dir)
		}
		if t.Failed() {
			t.Fatalf("at round %d", i)
		}
	}
	t.Logf("%d times killed: %d times some of it was there, %d times a blob was gone on with", kills(), partly, resumed)
	if resumed == 0 || partly == 0 {
		t.Error("it was never killed in the middle")
	}
}

// nothingLeft waits until there are no temporary files: a client has all before it is durable.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		left, _ := filepath.Glob(dir + "/tmp/*")
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("left over: %v", left)
			return
		}
	}
}

// empty empties a cache under the running mirror, which may still be writing what its clients have already.
func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		err := os.RemoveAll(filepath.Join(dir, e.Name()))
		for end := time.Now().Add(20 * time.Second); errors.Is(err, syscall.ENOTEMPTY) && time.Now().Before(end); {
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (o *origin) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = nil
}

// resumed says whether the middle of a blob was asked for.
func (o *origin) resumed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, rg := range o.seen {
		if strings.HasPrefix(rg, "bytes=") && rg != "bytes=0-" {
			return true
		}
	}
	return false
}
