#!/bin/sh
# Prints every file of the node outside the runtime's own root and state and edgeprep's own history: type,
# mode, owner, path, link target, and the digest of its content.
set -eu
skip="/proc /sys /dev /run /tmp /var/lib/containerd /var/lib/edgeprep /var/log /var/lib/systemd"
prune=""
for d in $skip; do prune="$prune -path $d -prune -o"; done
# shellcheck disable=SC2086
find / $prune -printf '%y %m %U %G %p %l\n' | LC_ALL=C sort
# shellcheck disable=SC2086
find / $prune -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
