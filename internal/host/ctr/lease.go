package ctr

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

const (
	// leasePrefix begins the id of each lease and of each unfinished blob of an import.
	leasePrefix = "edgeprep-import-"
	// ownerLabel says which process an import belongs to.
	ownerLabel = "edgeprep.io/process"
)

// process names this process across the machine's life: a pid alone comes back.
func process() string { return describe(os.Getpid()) }

// describe is boot, pid and start time of a process; empty when there is none.
func describe(pid int) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// proc(5): the second field is the program's name in parentheses and may hold anything; the start time
	// is the 20th field after it.
	_, rest, ok := cutLast(string(stat), ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return ""
	}
	return strings.TrimSpace(string(boot)) + "/" + strconv.Itoa(pid) + "/" + fields[19]
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// alive says whether the process that an import belongs to still runs.
func alive(owner string) bool {
	parts := strings.Split(owner, "/")
	if len(parts) != 3 {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	return err == nil && describe(pid) == owner
}

// openLease makes a lease, so that nothing of an unfinished import is collected. It has no expiry: a node
// without a clock battery sees its time jump by years while it works. The next import removes what a killed
// one left.
func (s *services) openLease(ctx context.Context) (leases.Lease, error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, says crypto/rand
	return s.leases.Create(ctx, leases.WithID(leasePrefix+hex.EncodeToString(b[:])), leases.WithLabel(ownerLabel, process()))
}

// removeStale deletes the leases and the unfinished blobs of imports that no longer run, and waits until
// their content is collected.
func (s *services) removeStale(ctx context.Context) error {
	list, err := s.leases.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	live := map[string]bool{}
	for _, l := range list {
		switch {
		case !strings.HasPrefix(l.ID, leasePrefix):
		case alive(l.Labels[ownerLabel]):
			live[l.ID] = true
		default:
			if err := s.leases.Delete(ctx, l, leases.SynchronousDelete); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("delete lease %s: %w", l.ID, err)
			}
		}
	}
	return s.abortIngests(ctx, func(ref string) bool { return !live[leaseOf(ref)] })
}

// ingestRef names an unfinished blob. It is not the name that a pull would use: a pull of the same image at
// the same time goes on undisturbed, and who commits second finds the blob there.
func ingestRef(lease, blob string) string { return lease + "/" + blob }

func leaseOf(ref string) string {
	lease, _, _ := strings.Cut(ref, "/")
	return lease
}

// abortIngests removes unfinished blobs of imports.
func (s *services) abortIngests(ctx context.Context, stale func(ref string) bool) error {
	list, err := s.content.ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("list unfinished blobs: %w", err)
	}
	var errs []error
	for _, st := range list {
		if !strings.HasPrefix(st.Ref, leasePrefix) || !stale(st.Ref) {
			continue
		}
		if err := s.content.Abort(ctx, st.Ref); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("abort unfinished blob %s: %w", st.Ref, err))
		}
	}
	return errors.Join(errs...)
}
