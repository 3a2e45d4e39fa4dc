package check

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

func diskChecks() []Check {
	return []Check{
		{
			ID: "HST-12", Title: "disks are sound and logs cannot fill them", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:    "writes fail months later, the node is evicted of its pods, or a file system turns read-only",
				Cause:   "flash that is worn out, an array that lost a disk, a file system that has recorded errors, or logs that nobody rotates",
				Look:    "errors that ext4 has recorded, /proc/mdstat, wear of eMMC under /sys, what smartd has saved of SMART attributes 5, 197 and 198, room and inodes under /var/log, the size of containers' logs, rotation where rsyslog writes; room for images is TAR-10",
				Fix:     "replace the disk; containerLogMaxSize and SystemMaxUse bound logs, logrotate the rest",
				Sources: []string{"linux: Documentation/ABI/testing/sysfs-fs-ext4, md(4)", "JEDEC eMMC: DEVICE_LIFE_TIME_EST, PRE_EOL_INFO", "smartd(8), --savestates"},
			},
			Run: runDisks,
		},
		{
			ID: "HST-15", Title: "the cluster's database is whole", Severity: SeverityFail, Scope: ScopeRehearsal,
			Story: Story{
				Seen:    "\"crc mismatch\", \"database disk image is malformed\": the control plane stays down after a power cut",
				Cause:   "a power cut while the database was written, on a disk that says it has written what it has not",
				Look:    "the headers of etcd's bbolt file with their checksums, or SQLite's, and whether the file is as long as they say; that it survives the next power cut is for a rehearsal with the plug pulled",
				Fix:     "restore the last snapshot; disks with power-loss protection or a UPS",
				Sources: []string{"etcd-io/etcd#6191, #11220, #12487", "k3s-io/k3s#2623, #9701, #9787", "bbolt: internal/common/meta.go", "sqlite.org/fileformat.html"},
			},
			Run: runDatabase,
		},
	}
}

// Thresholds of what is not images: TAR-10 has those.
const (
	logsFree    = 10      // percent
	logFileMost = 1 << 30 // bytes of one container's log file
)

func runDisks(ctx context.Context, e *Env) []Finding {
	out := e.logSpace(ctx)
	if !e.memo.facts.Live {
		return append(out, e.notLive("disks", "its disks are those")...)
	}
	f := e.Reader.FS()
	counts, _ := glob(f, "/sys/fs/ext4/*/errors_count")
	for _, c := range counts {
		if n, _ := readText(f, c); strings.TrimSpace(n) != "0" && strings.TrimSpace(n) != "" {
			dev := path.Base(path.Dir(c))
			out = append(out, Finding{Status: StatusFail, Subject: dev, Expected: "no errors", Observed: strings.TrimSpace(n) + " errors recorded by ext4", Source: c,
				Remedy: Remedy{Text: "check it unmounted, and the disk under it", Command: "e2fsck -f /dev/" + dev}})
		}
	}
	out = append(out, e.arrays()...)
	out = append(out, e.flash()...)
	out = append(out, e.smart()...)
	if len(out) == 0 {
		return []Finding{pass("disks", "no error is recorded, room for logs", "/sys/fs/ext4, /proc/mdstat, /sys/block, smartd")}
	}
	return out
}

// logSpace: room under /var/log, and what bounds the logs.
func (e *Env) logSpace(ctx context.Context) []Finding {
	var out []Finding
	f := Finding{Status: StatusWarn, Subject: "/var/log", Expected: fmt.Sprintf("%d %% free", logsFree), Source: "statfs", Remedy: Remedy{Command: "journalctl --vacuum-size=200M"}}
	s, err := e.Reader.FS().Space("/var/log")
	switch {
	case err != nil:
		out = append(out, couldNotRun("/var/log", err))
	case s.Total > 0 && percent(s.Free, s.Total) < logsFree:
		f.Observed = fmt.Sprintf("%d %% free", percent(s.Free, s.Total))
		out = append(out, f)
	case s.Inodes > 0 && percent(s.FreeInodes, s.Inodes) < inodesFree:
		f.Observed = fmt.Sprintf("%d of %d inodes free", s.FreeInodes, s.Inodes)
		out = append(out, f)
	}
	if c, err := e.memo.kubelet(); err == nil {
		if v, ok := c.Get("containerLogMaxSize"); ok && quantity(v.Text) > logFileMost {
			out = append(out, Finding{Status: StatusWarn, Subject: "containerLogMaxSize", Expected: "at most 1Gi", Observed: v.Text, Source: v.Source, Remedy: Remedy{Text: "set containerLogMaxSize: 10Mi"}})
		}
	}
	if e.unitOn(ctx, "rsyslog.service") && !e.unitOn(ctx, "logrotate.timer") && !e.unitOn(ctx, "cron.service") && !e.unitOn(ctx, "crond.service") {
		out = append(out, Finding{Status: StatusWarn, Subject: "rsyslog.service", Expected: "logrotate.timer enabled", Observed: "it writes files that nothing rotates", Source: "systemctl is-enabled",
			Remedy: Remedy{Command: "systemctl enable --now logrotate.timer"}})
	}
	return out
}

// quantity is a number of bytes as Kubernetes writes it: "10Mi", "5G".
func quantity(s string) int64 {
	for suffix, factor := range map[string]int64{"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "": 1} {
		if n, err := strconv.ParseInt(strings.TrimSuffix(s, suffix), 10, 32); err == nil && strings.HasSuffix(s, suffix) {
			return n * factor
		}
	}
	return 0
}

// arrays are those of md that lack a disk: "[2/1] [U_]" in /proc/mdstat.
func (e *Env) arrays() []Finding {
	content, _ := readText(e.Reader.FS(), "/proc/mdstat")
	var out []Finding
	name := ""
	for l := range strings.Lines(content) {
		if n, _, ok := strings.Cut(l, " : "); ok && strings.HasPrefix(n, "md") {
			name = n
		}
		_, state, ok := strings.Cut(l, "] [")
		if ok && strings.Contains(strings.TrimRight(state, " \n]"), "_") {
			out = append(out, Finding{Status: StatusFail, Subject: name, Expected: "every disk", Observed: "a disk is missing: [" + strings.TrimSpace(state), Source: "/proc/mdstat",
				Remedy: Remedy{Text: "see which one, and replace it", Command: "mdadm --detail /dev/" + name}})
		}
	}
	return out
}

// flash is what eMMC tells of its wear. linux: drivers/mmc/core/mmc.c; values by JEDEC
func (e *Env) flash() []Finding {
	f := e.Reader.FS()
	var out []Finding
	files, _ := glob(f, "/sys/block/mmcblk*/device/pre_eol_info")
	for _, p := range files {
		info, _ := readText(f, p)
		life, _ := readText(f, path.Dir(p)+"/life_time")
		x := Finding{Subject: path.Base(path.Dir(path.Dir(p))), Expected: "less than 80 % of its reserve used", Source: p, Remedy: Remedy{Text: "replace the storage"}}
		switch strings.TrimSpace(info) {
		case "0x02":
			x.Status, x.Observed = StatusWarn, "80 % of its reserve used, life time "+strings.TrimSpace(life)
		case "0x03":
			x.Status, x.Observed = StatusFail, "90 % of its reserve used, life time "+strings.TrimSpace(life)
		default:
			continue
		}
		out = append(out, x)
	}
	return out
}

// smart reads what smartd keeps: sectors that were or will be replaced. smartmontools: smartd.cpp, write_dev_state
func (e *Env) smart() []Finding {
	f := e.Reader.FS()
	var out []Finding
	files, _ := glob(f, "/var/lib/smartmontools/smartd.*.state")
	for _, p := range files {
		content, _ := readText(f, p)
		ids := map[string]string{}
		for l := range strings.Lines(content) {
			key, value, _ := strings.Cut(strings.TrimSpace(l), " = ")
			n, field, _ := strings.Cut(strings.TrimPrefix(key, "ata-smart-attribute."), ".")
			if field == "id" {
				ids[n] = value
			}
			what := map[string]string{"5": "sectors were replaced", "197": "sectors wait to be replaced", "198": "sectors cannot be read"}[ids[n]]
			if field == "raw" && what != "" && value != "0" {
				out = append(out, Finding{Status: StatusWarn, Subject: strings.TrimSuffix(strings.TrimPrefix(path.Base(p), "smartd."), ".state"), Expected: "0",
					Observed: value + " " + what, Source: p, Remedy: Remedy{Text: "replace the disk before it leaves"}})
			}
		}
	}
	return out
}

func runDatabase(_ context.Context, e *Env) []Finding {
	d := e.Node.Datastore
	var out []Finding
	for file, look := range map[string]func(io.ReaderAt, int64) (string, error){databaseOf(d.Etcd): wholeBolt, d.SQLite: wholeSQLite} {
		if file == "" {
			continue
		}
		info, err := e.Reader.FS().Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, fs.ErrPermission) {
			out = append(out, deferred(file, "it is readable by root only; run as root"))
			continue
		}
		h, err := e.Reader.FS().Open(file)
		if err != nil {
			out = append(out, couldNotRun(file, err))
			continue
		}
		observed, err := look(h, info.Size)
		h.Close()
		if err != nil {
			out = append(out, Finding{Status: StatusFail, Subject: file, Expected: "a whole database", Observed: err.Error(), Source: file, Remedy: Remedy{Text: "stop the distribution, keep a copy, restore the last snapshot"}})
			continue
		}
		out = append(out, pass(file, observed, file))
	}
	if len(out) == 0 {
		return []Finding{skip("datastore", "this node has none, or none yet")}
	}
	return out
}

func databaseOf(etcd string) string {
	if etcd == "" {
		return ""
	}
	return etcd + "/member/snap/db"
}

// The meta page of bbolt, of which there are two: one may be half written. bbolt: internal/common/page.go, meta.go
const (
	boltMagic  = 0xED0CDAED
	boltHeader = 16
	boltMeta   = 64
)

// wholeBolt says whether one of bbolt's meta pages is good and the file holds the pages that it counts.
func wholeBolt(r io.ReaderAt, size int64) (string, error) {
	var best, pages uint64
	found := false
	first := make([]byte, boltHeader+boltMeta)
	if _, err := r.ReadAt(first, 0); err != nil {
		return "", errors.New("too short for a bbolt file")
	}
	pageSize := uint64(binary.LittleEndian.Uint32(first[boltHeader+8:]))
	for _, at := range []uint64{0, pageSize, 4096} {
		m := make([]byte, boltMeta)
		if _, err := r.ReadAt(m, int64(at&0xfffff)+boltHeader); err != nil || binary.LittleEndian.Uint32(m) != boltMagic {
			continue
		}
		h := fnv.New64a()
		h.Write(m[:boltMeta-8])
		if h.Sum64() != binary.LittleEndian.Uint64(m[boltMeta-8:]) {
			continue
		}
		if tx := binary.LittleEndian.Uint64(m[48:]); !found || tx > best {
			found, best, pages, pageSize = true, tx, binary.LittleEndian.Uint64(m[40:]), uint64(binary.LittleEndian.Uint32(m[8:]))
		}
	}
	switch {
	case !found:
		return "", errors.New("neither of its two headers is good (bbolt)")
	case pageSize == 0 || pages > uint64(size)/pageSize: // it grows in steps: longer is right
		return "", fmt.Errorf("cut short: %d bytes, %d pages of %d are counted", size, pages, pageSize)
	}
	return "a good header, and as long as it says (bbolt)", nil
}

// wholeSQLite says whether a SQLite database has its header and the pages that it counts.
func wholeSQLite(r io.ReaderAt, size int64) (string, error) {
	h := make([]byte, 100)
	if size == 0 {
		return "empty, not begun", nil
	}
	if _, err := r.ReadAt(h, 0); err != nil || string(h[:16]) != "SQLite format 3\x00" {
		return "", errors.New("it does not begin as a SQLite database does")
	}
	page := int64(binary.BigEndian.Uint16(h[16:]))
	if page == 1 {
		page = 65536
	}
	pages := int64(binary.BigEndian.Uint32(h[28:]))
	// the count holds when the last writer knew of it (file format, 1.3.7)
	if counted := string(h[24:28]) == string(h[92:96]); counted && pages*page > size {
		return "", fmt.Errorf("cut short: %d bytes, %d pages of %d are counted", size, pages, page)
	}
	return "a good header, and as long as it says (SQLite)", nil
}
