package deploy

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

//go:embed all:chart
var chart embed.FS

// Chart is the mirror as a Helm chart: its files by path, with the image filled in.
func Chart(image string) (map[string][]byte, error) {
	out := map[string][]byte{}
	err := fs.WalkDir(chart, "chart", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := chart.ReadFile(p)
		out[strings.TrimPrefix(p, "chart/")] = bytes.ReplaceAll(data, []byte("@IMAGE@"), []byte(image))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("chart of the mirror: %w", err)
	}
	return out, nil
}
