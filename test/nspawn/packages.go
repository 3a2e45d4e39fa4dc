package nspawn

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// With is New with further packages of Debian on the node. Their tree is made once and kept.
func With(t testing.TB, name string, more ...string) *Node {
	t.Helper()
	Need(t)
	base := Base(t)
	return from(t, name, once(t, packages+"+"+strings.Join(more, ","), func(dir string) ([]byte, error) {
		// Nothing may start in a tree that is being made.
		line := fmt.Sprintf(`set -e
cp -a %q %q
printf '#!/bin/sh\nexit 101\n' >%q/usr/sbin/policy-rc.d
chmod +x %q/usr/sbin/policy-rc.d
cp -L /etc/resolv.conf %q/etc/resolv.conf
export DEBIAN_FRONTEND=noninteractive
chroot %q apt-get update -q
chroot %q apt-get install -q -y --no-install-recommends %s
chroot %q apt-get clean
rm %q/usr/sbin/policy-rc.d`, base, dir, dir, dir, dir, dir, dir, strings.Join(more, " "), dir, dir)
		return exec.Command("sh", "-c", line).CombinedOutput()
	}))
}
