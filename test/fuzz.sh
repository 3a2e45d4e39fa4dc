#!/usr/bin/env bash
# Runs each fuzz target of the repository for FUZZTIME (default 30s), one after another, and says a line for each at
# the end. Arguments choose targets: fuzz.sh FuzzRange. A finding does not keep the other targets from running.
#
# Go would minimise every interesting input for up to a minute, in which a short run tries nothing new.
set -uo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-30s}
summary=$(mktemp) output=$(mktemp)
trap 'rm -f "$summary" "$output"' EXIT
failed=0
while read -r file target; do
  if [ $# -gt 0 ] && [[ " $* " != *" $target "* ]]; then continue; fi
  dir=./$(dirname "$file")
  echo "== $dir $target"
  go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x 2>&1 | tee "$output"
  verdict=ok
  if [ "${PIPESTATUS[0]}" != 0 ]; then verdict=FAILED failed=1; fi
  # fuzz: elapsed: 30s, execs: 37116 (1237/sec), new interesting: 12 (total: 71)
  execs=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$output" | tail -1)
  inputs=$(sed -n 's/.*(total: \([0-9]*\)).*/\1/p' "$output" | tail -1)
  printf '%-6s  %-24s %-22s execs: %-8s inputs kept: %s\n' "$verdict" "$dir" "$target" "${execs:-0}" "${inputs:-0}" >>"$summary"
done < <(grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' internal cmd test | sed 's/:func / /' | sort)
echo "== each for $time"
cat "$summary"
if [ ! -s "$summary" ]; then echo "no fuzz target is called: $*" >&2; exit 1; fi
exit $failed
