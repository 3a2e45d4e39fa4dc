package distro

import (
	"context"
	"strings"
)

// images says how the distribution's own images are known on this node.
func (b *builder) images(context.Context) error {
	rule, out := b.d.Images, &b.n.Images
	*out = Images{Lists: rule.Lists, Archives: rule.Archives, Like: rule.Like}
	for _, o := range rule.Own {
		if strings.Contains(o, versionPlaceholder) && b.n.Version == "" {
			o, _, _ = strings.Cut(o, ":") // some tag
		}
		out.Own = append(out.Own, strings.ReplaceAll(o, versionPlaceholder, b.n.Version))
	}
	if rule.Prefix != "" {
		s, err := b.x.get(rule.Prefix)
		if err != nil {
			return err
		}
		if s.Value != "" {
			out.Prefix, out.PrefixSource = strings.TrimSuffix(s.Value, "/"), s.Source
		}
	}
	for _, o := range rule.Optional {
		s, err := b.x.get(o.Setting)
		if err != nil {
			return err
		}
		if s.Set && strings.Contains(s.Value, o.Contains) {
			out.NotNeeded = append(out.NotNeeded, o.Image)
		}
	}
	return nil
}

// versionPlaceholder is the distribution's version in images.own.
const versionPlaceholder = "{version}"
