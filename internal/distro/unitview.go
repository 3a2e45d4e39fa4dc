package distro

import (
	"context"
	"fmt"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// UnitFile is a unit as its file and drop-ins describe it.
type UnitFile struct {
	Path       string
	unit       *unit
	directives []directive
}

// UnitValue is one assignment in a unit's files and where it stands.
type UnitValue struct {
	Value  string
	Source string // "/etc/systemd/system/x.service:7"
}

// ReadUnitFile reads the files of a unit. ok is false when there is none or it is masked.
func ReadUnitFile(ctx context.Context, r host.Reader, name string) (UnitFile, bool, error) {
	u, ok, err := readUnit(ctx, r, name)
	if err != nil || !ok {
		return UnitFile{}, ok, err
	}
	out := UnitFile{Path: u.Path, unit: u}
	for _, file := range append([]string{u.Path}, dropIns(r.FS(), name)...) {
		data, err := r.FS().ReadFile(file, 0)
		if err != nil {
			return UnitFile{}, false, unreadable(file, err)
		}
		out.directives = append(out.directives, parseUnit(file, data)...)
	}
	return out, true, nil
}

// Values are the assignments of a key that count: an empty one takes back those before it.
func (u UnitFile) Values(section, key string) []UnitValue {
	var out []UnitValue
	for _, d := range u.directives {
		switch {
		case d.Section != section || d.Key != key:
		case d.Value == "":
			out = nil
		default:
			out = append(out, UnitValue{d.Value, fmt.Sprintf("%s:%d", d.File, d.Line)})
		}
	}
	return out
}

// Last is the assignment that counts of a key that takes one value.
func (u UnitFile) Last(section, key string) (UnitValue, bool) {
	all := u.Values(section, key)
	if len(all) == 0 {
		return UnitValue{}, false
	}
	return all[len(all)-1], true
}

// Names says whether a key that lists units names one, and where.
func (u UnitFile) Names(section, key, unit string) (UnitValue, bool) {
	for _, v := range u.Values(section, key) {
		for _, w := range strings.Fields(v.Value) {
			if w == unit {
				return v, true
			}
		}
	}
	return UnitValue{}, false
}

// Flag is the value of a flag of the unit's command line, without dashes: "listen".
func (u UnitFile) Flag(name string) (UnitValue, bool) {
	w, ok := u.unit.flag([]string{name}, false)
	return UnitValue{w.Text, w.Source}, ok
}
