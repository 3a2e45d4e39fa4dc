#!/usr/bin/env bash
# Runs each fuzz target for FUZZTIME (default 30s), one after another.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-30s}
grep -rln --include='*_test.go' '^func Fuzz' internal cmd | sort | while read -r file; do
  grep -o '^func Fuzz[A-Za-z0-9_]*' "$file" | awk '{print $2}' | while read -r target; do
    echo "== ./$(dirname "$file") $target"
    go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time"
  done
done
