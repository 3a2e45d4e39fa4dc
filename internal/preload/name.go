package preload

import (
	"slices"
	"strings"
)

// extensions are the endings for each compression, the one to write first.
// rancher/wharfie: pkg/tarfile
func extensions(c Compression) []string {
	return map[Compression][]string{
		Plain: {".tar"},
		Gzip:  {".tar.gz", ".tgz"},
		Zstd:  {".tar.zst", ".tzst"},
		Bzip2: {".tar.bz2", ".tbz"},
	}[c]
}

// loaderName is the name for an archive in a directory whose loader decides by name, case-sensitively, and
// reads in lexical order: the sentinel must stay last. accepted are the loader's endings; ok is false when it
// has none for the compression.
func loaderName(base string, c Compression, accepted []string, sentinel string) (name string, ok bool) {
	endings := slices.DeleteFunc(slices.Clone(extensions(c)), func(e string) bool { return !slices.Contains(accepted, e) })
	if len(endings) == 0 {
		return "", false
	}
	stem, ending := strings.ToLower(base), endings[0]
	for _, e := range endings {
		if strings.HasSuffix(stem, e) {
			ending = e
		}
	}
	stem = clean(withoutExtension(stem))
	if sentinel != "" && stem+ending >= sentinel {
		stem = "edgeprep-" + stem
	}
	return stem + ending, true
}

// withoutExtension takes off what a tool or person put there to say how the file is packed.
func withoutExtension(s string) string {
	for _, e := range []string{
		".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz", ".tbz2", ".tar.lz4", ".tar.xz",
		".tar", ".gz", ".zst", ".zstd", ".bz2",
	} {
		if t := strings.TrimSuffix(s, e); t != s && t != "" {
			return t
		}
	}
	return s
}

// clean leaves what no shell, loader or unit file stumbles over. Names that begin with a dot are skipped by
// some readers.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, s)
	s = strings.TrimLeft(s, ".-")
	if len(s) > 200 { // a file name has at most 255 bytes
		s = s[:200]
	}
	if s == "" {
		return "images"
	}
	return s
}

// distinct tells two archives of one name apart by their content, so that the name does not depend on order.
func distinct(name, sha256 string) string {
	stem := withoutExtension(name)
	return stem + "-" + sha256[:min(8, len(sha256))] + strings.TrimPrefix(name, stem)
}
