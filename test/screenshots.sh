#!/usr/bin/env bash
# The HTML report as it is printed on A4 and as a phone of 390 px shows it, into docs/images/. The record is that of
# a real run: a node of `edgeprep demo` with a placed archive cut short, a key of registries.yaml misspelt.
# Needs Debian's chromium, poppler-utils and pngquant. Part of: make screenshots
set -euo pipefail
cd "$(dirname "$0")/.."
for p in chromium pdftoppm pngquant; do
  command -v "$p" >/dev/null || { echo "screenshots need $p: apt-get install chromium poppler-utils pngquant" >&2; exit 1; }
done
work=$(mktemp -d "${TMPDIR:-/tmp}/edgeprep-screenshots.XXXXXX")
trap 'rm -rf "$work"' EXIT
go build -o "$work/edgeprep" ./cmd/edgeprep
"$work/edgeprep" demo --dir "$work/demo" >/dev/null
node=$work/demo/node
cat >>"$node/etc/edgeprep/edgeprep.toml" <<'TOML'

[[checklist.waive]]
id     = "TAR-01"
reason = "the archive is delivered with the second box"
owner  = "J. Ortiz"
until  = "2030-01-31"
TOML
sed -i 's/^name = "demo"/name = "kiosk harbour 4"/' "$node/etc/edgeprep/edgeprep.toml"
printf 'kiosk-0417\n' >"$node/etc/hostname"
printf 'stray: true\n' >>"$node/etc/rancher/k3s/registries.yaml"
truncate -s -2000 "$node/var/lib/rancher/k3s/agent/images/edge.tar.zst"
chmod 666 "$node/var/lib/rancher/k3s/agent/images/edge.tar.zst"
"$work/edgeprep" check --root "$node" --profile ship --deep --out "$work/kept" --by 'A. Nyman' >"$work/said" || [ $? = 3 ]
html=$(echo "$work"/kept/*.html)
chrome() { chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" "$@" 2>>"$work/chromium.log"; }
chrome --no-pdf-header-footer --print-to-pdf="$work/a4.pdf" "file://$html"
for n in 1 2; do pdftoppm -r 96 -f $n -l $n -png -singlefile "$work/a4.pdf" "$work/report-a4-$n"; done
# Chromium lays out no page narrower than 500 px, so the phone is a frame in one
printf '<body style="margin:0"><iframe src="%s" style="border:0;width:390px;height:3200px"></iframe>' "file://$html" >"$work/phone.html"
chrome --allow-file-access-from-files --window-size=390,3200 --screenshot="$work/report-390.png" "file://$work/phone.html"
mkdir -p docs/images
for f in report-a4-1 report-a4-2 report-390; do
  pngquant --force --strip --output "docs/images/$f.png" 64 "$work/$f.png"
done
pages=$(pdftoppm -r 20 -png "$work/a4.pdf" "$work/page" && ls "$work"/page*.png | wc -l)
echo "docs/images: two of $pages pages on A4, and the beginning on a phone"
