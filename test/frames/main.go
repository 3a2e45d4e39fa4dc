// Command frames makes pictures of the TUI's golden frames: what the documents show is what the tests compare.
package main

import (
	"context"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// shown are the frames that the documents show, by the name of their picture.
func shown() map[string]string {
	return map[string]string{"1-detect": "1-detect", "2-nodes": "2-nodes-three", "3-images": "3-images", "3-pulling": "3-images-pulling", "4-mirror": "4-mirror", "5-copies": "5-copies-three",
		"6-review": "6-review-open", "6-start": "6-review-start", "7-apply": "7-apply-going", "7-failed": "7-apply-failed", "8-check": "8-check", "9-report": "9-report-kept"}
}

func main() {
	if err := run(context.Background(), "internal/tui/testdata/frames", "docs/tui"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, from, to string) error {
	tmp, err := os.MkdirTemp("", "frames-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for name, frame := range shown() {
		text, err := os.ReadFile(filepath.Join(from, frame+".80x24.rich.txt"))
		if err != nil {
			return err
		}
		page := filepath.Join(tmp, name+".html")
		if err := os.WriteFile(page, []byte(document(string(text))), 0o600); err != nil {
			return err
		}
		out, err := filepath.Abs(filepath.Join(to, name+".png"))
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir="+tmp,
			"--window-size=720,470", "--screenshot="+out, "file://"+page)
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("chromium draws %s: %w\n%s", name, err, b)
		}
	}
	return nil
}

// document is a frame on a terminal's background.
func document(frame string) string {
	return `<!doctype html><meta charset="utf-8"><style>body{margin:0;background:#1b1f24}pre{margin:14px;color:#d7dce2;font:14px/18px "DejaVu Sans Mono","Liberation Mono",monospace}</style><pre>` +
		spans(frame) + "</pre>"
}

// spans turns SGR sequences into spans; the TUI writes no others.
func spans(s string) string {
	colours := map[string]string{"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff", "90": "#8b949e"}
	var b strings.Builder
	open := false
	for part := range strings.SplitSeq(s, "\x1b[") {
		codes, text, found := strings.Cut(part, "m")
		if !found || strings.Trim(codes, "0123456789;") != "" {
			b.WriteString(html.EscapeString(part))
			continue
		}
		if open {
			b.WriteString("</span>")
		}
		style := ""
		for c := range strings.SplitSeq(codes, ";") {
			if c == "1" {
				style += "font-weight:bold;"
			}
			if hex := colours[c]; hex != "" {
				style += "color:" + hex + ";"
			}
		}
		open = style != ""
		if open {
			b.WriteString(`<span style="` + style + `">`)
		}
		b.WriteString(html.EscapeString(text))
	}
	if open {
		b.WriteString("</span>")
	}
	return b.String()
}
