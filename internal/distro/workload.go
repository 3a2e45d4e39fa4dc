package distro

import (
	"context"
	"strings"
)

func (b *builder) workload(context.Context) error {
	rule, w := b.d.Workload, &b.n.Workload
	if err := b.fill(map[*string]string{&w.Manifests: rule.Manifests, &w.StaticPods: rule.StaticPods}); err != nil {
		return err
	}
	if b.n.Role != RoleServer {
		w.Manifests = ""
	}
	for _, r := range rule.Brings {
		ok, err := b.brings(r)
		if err != nil {
			return err
		}
		if ok {
			w.Brings = append(w.Brings, r.Part)
		}
	}
	w.LoopbackNodePort = rule.NodePortLoopback
	for _, r := range rule.NotLoopback {
		s, err := b.x.get(r.Setting)
		if err != nil {
			return err
		}
		w.LoopbackNodePort = w.LoopbackNodePort && !strings.Contains(s.Value, r.Contains)
	}
	if rule.APIArgs != "" && b.n.Role == RoleServer {
		s, err := b.x.get(rule.APIArgs)
		if err != nil {
			return err
		}
		if s.Set {
			w.APIArgs, w.APIArgsSource = s.Value, s.Source
		}
	}
	if rule.StaticPodsAfter == "" {
		return nil
	}
	after, err := b.x.text(rule.StaticPodsAfter)
	if err != nil {
		return err
	}
	if _, ok, err := b.x.anyExists([]string{after}); err != nil || ok {
		return err
	}
	w.StaticPodsWait = after
	return nil
}
