package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// family is a process and its children: nginx serves with several.
func family(pid int) []int {
	pids := []int{pid}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return pids
	}
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				pids = append(pids, family(child)...)
			}
		}
	}
	return pids
}

// clockTick is USER_HZ, which is 100 on every architecture that Go runs Linux on.
const clockTick = 10 * time.Millisecond

// cpu is the processor time of a process and its children so far.
func cpu(pid int) (time.Duration, error) {
	var ticks int64
	for _, p := range family(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 {
			return 0, errors.New("short /proc/PID/stat")
		}
		for _, s := range f[11:13] { // utime, stime: proc(5), fields 14 and 15
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * clockTick, nil
}

// field reads a "Name: value" of a /proc file, summed over the children.
func field(pid int, name, key string) (int64, error) {
	var sum int64
	for _, p := range family(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p, name))
		if err != nil {
			return 0, err
		}
		_, rest, ok := strings.Cut(string(b), key+":")
		f := strings.Fields(rest)
		if !ok || len(f) == 0 {
			return 0, fmt.Errorf("%s of /proc/PID/%s: %w", key, name, fs.ErrNotExist)
		}
		n, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// peak is the largest resident size in MB since forgetPeak.
func peak(pid int) (float64, error) {
	kb, err := field(pid, "status", "VmHWM")
	return float64(kb) / 1000, err
}

func forgetPeak(pid int) error {
	for _, p := range family(pid) {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p), []byte("5"), 0); err != nil { // proc(5): reset the peak
			return err
		}
	}
	return nil
}

// written is what a process caused to be written to disk, in bytes.
func written(pid int) (int64, error) { return field(pid, "io", "write_bytes") }

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
