#!/usr/bin/env bash
# Measures edgeprep against cp, sha256sum, openssl and ctr in one run and writes the figures into
# docs/benchmarks.md, between its markers. Part of: make bench
#
#   BENCH_GB      size of the archives of the first part (default 10; twice that is needed on disk)
#   BENCH_ROUNDS  how often each is measured, alternating; medians are kept (default 5)
#   BENCH_DIR     where the files are put (default a new folder below $TMPDIR or /var/tmp)
#   BENCH_PARTS   which parts to run (default "noop place hash import"); the document is written for all only
set -euo pipefail
cd "$(dirname "$0")/.."

gb=${BENCH_GB:-10}
rounds=${BENCH_ROUNDS:-5}
parts=${BENCH_PARTS:-noop place hash import}
work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/var/tmp}}/edgeprep-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work/tmp"
mkdir "$TMPDIR"
rows="$work/rows"
started=$(date -u '+%Y-%m-%d %H:%M')
load=$(cut -d' ' -f1-3 /proc/loadavg)

say() { echo "$*" >&2; }

median() { sort -g | awk '{v[NR] = $1} END {if (NR == 0) exit 1; print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# seconds COMMAND...: a command's time by the clock, and of the processor
seconds() {
  local TIMEFORMAT='%R %U %S'
  { time "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; return 1; }; } 2>&1 | awk '{printf "%.3f %.3f\n", $1, $2 + $3}'
}

# column N: the median of a column
column() { awk -v n="$1" '{print $n}' | median; }

# row WHAT OURS THEIRS RATIO le|ge GOAL: one line of the table; a goal of "-" is none
row() {
  awk -v what="$1" -v ours="$2" -v theirs="$3" -v r="$4" -v op="$5" -v goal="$6" 'BEGIN {
    met = (op == "le") ? (r <= goal) : (r >= goal)
    printf "| %s | %s | %s | %.3f | %s | %s |\n", what, ours, theirs, r,
      (goal == "-") ? "" : ((op == "le") ? "≤ " : "≥ ") goal, (goal == "-") ? "" : (met ? "met" : "**missed**")
  }' | tee -a "$rows" >&2
}

ratio() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.4f", a / b}'; }

# A k3s node as its installer leaves it, with the archives and a mirror.
tree() {
  local root=$1
  mkdir -p "$root"/{usr/local/bin,etc/systemd/system/multi-user.target.wants,etc/edgeprep,opt/edgeprep/images,var/log}
  printf '#!/bin/sh\nexit 1\n' >"$root/usr/local/bin/k3s"
  chmod 755 "$root/usr/local/bin/k3s"
  cat >"$root/etc/systemd/system/k3s.service" <<'UNIT'
[Unit]
Description=Lightweight Kubernetes
[Install]
WantedBy=multi-user.target
[Service]
Type=notify
ExecStart=/usr/local/bin/k3s server
UNIT
  ln -s /etc/systemd/system/k3s.service "$root/etc/systemd/system/multi-user.target.wants/k3s.service"
  echo bench >"$root/etc/hostname"
  echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
  cat >"$root/etc/edgeprep/edgeprep.toml" <<'TOML'
version = 1

[site]
name = "bench"

[distro]
kind    = "k3s"
version = "v1.36.3+k3s1"

[images]
archives = ["/opt/edgeprep/images/*.tar"]

[mirror]
upstream = "never"
TOML
}

noop() {
  local free root="$work/node" i
  free=$(df --output=avail -BG "$work" | tail -1 | tr -dc 0-9)
  if [ "$free" -lt $((gb * 3)) ]; then say "skip: no-op apply: needs $((gb * 3)) GB in $work, $free are free (BENCH_GB, BENCH_DIR)"; return; fi
  CGO_ENABLED=0 go build -trimpath -o "$work/edgeprep" ./cmd/edgeprep
  tree "$root"
  say "== $gb GB of archives"
  go run ./test/archives -count "$gb" -mib 954 -out "$root/opt/edgeprep/images" >/dev/null # 954 MiB are 10^9 bytes
  chmod 644 "$root"/opt/edgeprep/images/*
  local files=("$root"/opt/edgeprep/images/*.tar) sums="$work/sums" noops="$work/noops" first verify
  first=$(seconds "$work/edgeprep" apply --yes --root "$root")
  find "$root" -type f -links +1 | grep -q . && say "placed by hard link"
  "$work/edgeprep" plan --detailed-exitcode --root "$root" >/dev/null # 2, and the end, when something is left to do
  for ((i = 0; i < rounds; i++)); do
    seconds sha256sum "${files[@]}" >>"$sums"
    seconds "$work/edgeprep" apply --yes --root "$root" >>"$noops"
  done
  verify=$(seconds "$work/edgeprep" plan --verify --root "$root")
  local ours theirs cpu
  ours=$(column 1 <"$noops") theirs=$(column 1 <"$sums") cpu=$(column 2 <"$sums")
  row "no-op apply over $gb GB of archives, with the mirror's cache" "$ours s" "sha256sum $theirs s" "$(ratio "$ours" "$theirs")" le 0.02
  ours=$(column 2 <"$noops")
  row "the same, in processor time" "$ours s" "sha256sum $cpu s" "$(ratio "$ours" "$cpu")" le 0.02
  row "first apply: inspect, place by hard link, load the cache" "${first% *} s" "sha256sum $theirs s" "$(ratio "${first% *}" "$theirs")" le -
  row "plan --verify: read all again" "${verify% *} s" "sha256sum $theirs s" "$(ratio "${verify% *}" "$theirs")" le -
  rm -rf "$root"
}

# metric FILE BENCHMARK UNIT: the median of a benchmark's metric over all rounds
metric() {
  awk -v name="$2" -v unit="$3" '{n = $1; sub(/-[0-9]+$/, "", n)} n == name {for (i = 3; i < NF; i++) if ($(i + 1) == unit) print $i}' "$1" | median
}

# bench PACKAGE PATTERN FILE ROUNDS [FLAGS]: Go benchmarks, every one once a round, so that they alternate
bench() {
  local pkg=$1 pattern=$2 out=$3 n=$4 i
  shift 4
  go test -c -o "$work/test.bin" "./$pkg"
  : >"$out"
  for ((i = 0; i < n; i++)); do
    (cd "$pkg" && "$work/test.bin" -test.run '^$' -test.bench "$pattern" "$@") >>"$out" || { cat "$out" >&2; return 1; }
  done
}

place() {
  local f="$work/place" cp way
  say "== placing a file of 256 MiB"
  bench internal/host/local '^BenchmarkPlace$' "$f" "$rounds" -test.benchtime 4x
  cp=$(metric "$f" BenchmarkPlace/cp MB/s)
  for way in plain hashed; do
    local ours
    ours=$(metric "$f" "BenchmarkPlace/$way" MB/s)
    row "placing by copy, $way" "$ours MB/s" "cp && sync $cp MB/s" "$(ratio "$ours" "$cp")" ge 0.9
  done
}

hash() {
  local f="$work/hash" n cores
  cores=$(nproc)
  n=$((cores > 2 ? cores : 2))
  if ! command -v openssl >/dev/null; then say "skip: hashing: needs openssl"; return; fi
  say "== hashing archives of 512 MiB"
  bench internal/preload '^BenchmarkHashing$' "$f" "$rounds" -test.benchtime 2x
  local openssl inspect one many
  openssl=$(metric "$f" BenchmarkHashing/openssl/files-1 digested-MB/cpu-s)
  inspect=$(metric "$f" BenchmarkHashing/sha256/files-1 digested-MB/cpu-s)
  row "hashing a file, per core" "$inspect MB/cpu-s" "openssl $openssl MB/cpu-s" "$(ratio "$inspect" "$openssl")" ge 0.9
  inspect=$(metric "$f" BenchmarkHashing/inspect/files-1 digested-MB/cpu-s)
  row "inspecting a plain archive, digested per core" "$inspect MB/cpu-s" "openssl $openssl MB/cpu-s" "$(ratio "$inspect" "$openssl")" ge 0.9
  one=$(metric "$f" BenchmarkHashing/inspect/files-1 MB/s) openssl=$(metric "$f" BenchmarkHashing/openssl/files-1 MB/s)
  row "inspecting one plain archive (two digests, two cores), by the clock" "$one MB/s" "openssl $openssl MB/s" "$(ratio "$one" "$openssl")" ge -
  many=$(metric "$f" "BenchmarkHashing/inspect/files-$n" MB/s) openssl=$(metric "$f" "BenchmarkHashing/openssl/files-$n" MB/s)
  row "inspecting $n archives at once on $cores cores, by the clock, digested" "$(awk -v m="$many" 'BEGIN {print 2 * m}') MB/s" \
    "$n × openssl $openssl MB/s" "$(awk -v a="$many" -v b="$openssl" 'BEGIN {print 2 * a / b}')" ge 0.9
}

import() {
  local f="$work/import" layers m
  if [ "$(id -u)" != 0 ]; then say "skip: import into containerd: needs root"; return; fi
  say "== import of 1 GB into containerd 2.4"
  bench internal/host/ctr '^BenchmarkImport$/.*/containerd-2\.4$' "$f" $((rounds < 3 ? rounds : 3)) -test.benchtime 1x
  grep -q '^BenchmarkImport/raw' "$f" || { say "skip: import: $(grep -m1 needs "$f" || echo 'no containerd 2.4: make real-servers')"; return; }
  for layers in raw gzip zstd; do
    [ "$layers" = raw ] && m=(0.3 0.6 0.02) || m=(- - -)
    [ "$layers" = gzip ] && layers=gz
    [ "$layers" = zstd ] && layers=zst
    local name="BenchmarkImport/$layers/containerd-2.4"
    row "import, $layers layers: content" "" "ctr import --no-unpack" "$(metric "$f" "$name" content/ctr)" le "${m[0]}"
    row "import, $layers layers: with unpacking" "" "ctr import" "$(metric "$f" "$name" unpack/ctr)" le "${m[1]}"
    row "import, $layers layers: content, the same again" "" "ctr import --no-unpack" "$(metric "$f" "$name" content-again/ctr)" le "${m[2]}"
    row "import, $layers layers: with unpacking, the same again" "" "ctr import" "$(metric "$f" "$name" again/ctr)" le "${m[2]}"
  done
}

document() {
  local doc=docs/benchmarks.md
  {
    echo "Command: \`BENCH_GB=$gb BENCH_ROUNDS=$rounds ./test/bench.sh\`, on $started UTC; edgeprep $(git describe --tags --always --dirty)."
    echo "Machine: $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo), $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GB", $2 / 1e6}' /proc/meminfo);" \
      "Linux $(uname -r); $(go env GOVERSION); $(findmnt -n -o FSTYPE -T "$work") on $(findmnt -n -o SOURCE -T "$work")."
    echo "Load average at the start $load, at the end $(cut -d' ' -f1-3 /proc/loadavg). Medians of alternating runs ($rounds; imports 3)."
    echo
    echo "| what | edgeprep | against | ratio | goal | |"
    echo "|---|---|---|---|---|---|"
    cat "$rows"
  } >"$work/table"
  awk -v table="$work/table" '
    /^<!-- measured/ {print; print ""; while ((getline line < table) > 0) print line; print ""; skip = 1; next}
    /^<!-- end/ {skip = 0}
    !skip {print}' "$doc" >"$work/doc"
  cat "$work/doc" >"$doc"
  say "written: $doc"
}

: >"$rows"
for p in $parts; do "$p"; done
if [ "$parts" = "noop place hash import" ]; then document; fi
