package registries

import (
	"errors"
	"slices"
)

// expectMerge changes plain values as MergeYAML must change the file: by other means than it, so that the
// comparison finds mistakes of either.
func expectMerge(doc map[string]any, names []string, endpoints []Endpoint) error {
	mirrors, err := table(doc, "mirrors")
	if err != nil {
		return err
	}
	for _, h := range names {
		entry, err := table(mirrors, h)
		if err != nil {
			return err
		}
		old, _ := entry["endpoint"].([]any)
		list := make([]any, 0, len(old)+len(endpoints))
		for _, e := range endpoints {
			list = append(list, spelling(&old, e))
		}
		entry["endpoint"] = append(list, old...)
	}
	return expectCA(doc, endpoints)
}

// spelling is the endpoint as it is written in old, taken out of it, or else its URL.
func spelling(old *[]any, e Endpoint) any {
	i := slices.IndexFunc(*old, func(v any) bool {
		s, ok := v.(string)
		have, valid := k3sEndpoint(s)
		return ok && valid && have.Same(e)
	})
	if i < 0 {
		return e.URL
	}
	v := (*old)[i]
	*old = slices.Concat((*old)[:i], (*old)[i+1:])
	return v
}

func expectCA(doc map[string]any, endpoints []Endpoint) error {
	for _, e := range endpoints {
		files := e.tlsFiles()
		if len(files) == 0 {
			continue
		}
		configs, err := table(doc, "configs")
		if err != nil {
			return err
		}
		entry, err := table(configs, e.Host())
		if err != nil {
			return err
		}
		tls, err := table(entry, "tls")
		if err != nil {
			return err
		}
		for _, f := range files {
			if _, there := tls[f[0]]; !there {
				tls[f[0]] = f[1]
			}
		}
	}
	return nil
}

// table is the map below key, made if it is missing or null.
func table(m map[string]any, key string) (map[string]any, error) {
	if v := m[key]; v != nil {
		t, ok := v.(map[string]any)
		if !ok {
			return nil, errors.New(quoted(key) + " is not a mapping")
		}
		return t, nil
	}
	t := map[string]any{}
	m[key] = t
	return t, nil
}

// cloneValue copies plain values.
func cloneValue(v any) any {
	switch t := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, x := range t {
			out[k] = cloneValue(x)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, x := range t {
			out[i] = cloneValue(x)
		}
		return out
	}
	return v
}
