#!/usr/bin/env bash
# Runs each fuzz target for FUZZTIME (default 30s), one after another. Arguments choose targets: fuzz.sh FuzzRange
#
# Go would minimise every interesting input for up to a minute, in which a short run tries nothing new.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-30s}
grep -rln --include='*_test.go' '^func Fuzz' internal cmd | sort | while read -r file; do
  grep -o '^func Fuzz[A-Za-z0-9_]*' "$file" | awk '{print $2}' | while read -r target; do
    if [ $# -gt 0 ] && [[ " $* " != *" $target "* ]]; then continue; fi
    echo "== ./$(dirname "$file") $target"
    go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x
  done
done
