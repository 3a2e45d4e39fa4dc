#!/bin/sh
# What a machine has and a container of systemd-nspawn lacks for containerd and kubelet: writable cgroups, a
# kernel log, and the kernel settings that kubelet wants and cannot write here.
for c in "" blkio memory freezer pids cpuset cpu cpuacct devices hugetlb; do
	mount -o remount,bind,rw "/sys/fs/cgroup/$c" 2>/dev/null
done
[ -e /dev/kmsg ] || ln -sf /dev/console /dev/kmsg
mkdir -p /run/sysctl
setting() {
	f=/run/sysctl/$(echo "$1" | tr / .)
	echo "$2" >"$f" && mount --bind "$f" "/proc/sys/$1"
}
setting vm/overcommit_memory 1
setting vm/panic_on_oom 0
setting kernel/panic 10
setting kernel/panic_on_oops 1
setting kernel/keys/root_maxkeys 1000000
setting kernel/keys/root_maxbytes 25000000
exit 0
