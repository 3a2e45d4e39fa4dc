package selfimage

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// mainPackage is what build information calls edgeprep.
const mainPackage = "github.com/edgeprep/edgeprep/cmd/edgeprep"

// program is what its file says of itself.
type program struct {
	platform string
	sum      string // hex sha256
	revision string // of the source; empty: not known
}

func problem(id, file, what, why, fix string) error {
	return &diag.Diagnostic{ID: id, Severity: diag.Error, What: what, Where: diag.Where{File: file}, Why: why, Fix: fix}
}

// inspect refuses a program that could not run alone in an image for the platform.
func inspect(file string, data []byte, platform string) (program, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return program{}, problem("MER-080", file, "it is not a Linux program: "+err.Error(), "", "name a static edgeprep for Linux with --binary")
	}
	arch, ok := architectures()[f.Machine]
	if !ok {
		return program{}, problem("MER-080", file, fmt.Sprintf("it is for the machine %s, which no image platform stands for", f.Machine), "", buildCommand("amd64"))
	}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil || info.Path != mainPackage {
		return program{}, problem("MER-080", file, "it is not edgeprep", "the image runs `edgeprep mirror serve`", "name an edgeprep with --binary")
	}
	sum := sha256.Sum256(data)
	p := program{platform: "linux/" + arch, sum: hex.EncodeToString(sum[:])}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			p.revision = s.Value
		}
	}
	if platform != "" && !sameMachine(platform, p.platform) {
		return program{}, problem("MER-082", file, "it is a program for "+p.platform+", not for "+platform,
			"a container from that image would end with \"exec format error\"", fmt.Sprintf("%s; then --platform %s --binary FILE", buildCommand(goarch(platform)), platform))
	}
	if platform != "" {
		p.platform = platform
	}
	if err := static(f); err != nil {
		return program{}, problem("MER-081", file, "it is dynamically linked: "+err.Error(), "the image holds this one program and no library", buildCommand(arch))
	}
	return p, nil
}

// static says what a program needs besides itself.
func static(f *elf.File) error {
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			loader := make([]byte, p.Filesz)
			if _, err := p.ReadAt(loader, 0); err != nil {
				return errors.New("it needs a loader")
			}
			return fmt.Errorf("it needs %q", bytes.TrimRight(loader, "\x00"))
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		return fmt.Errorf("it needs %s", strings.Join(libs, ", "))
	}
	return nil
}

// architectures are Go's names of machines; big and little endian are not told apart where Go builds only one.
func architectures() map[elf.Machine]string {
	return map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm", elf.EM_386: "386",
		elf.EM_PPC64: "ppc64le", elf.EM_S390: "s390x", elf.EM_RISCV: "riscv64"}
}

// sameMachine compares platforms; a variant is the caller's word.
func sameMachine(a, b string) bool { return goarch(a) == goarch(b) && strings.HasPrefix(a, "linux/") }

func goarch(platform string) string {
	arch, _, _ := strings.Cut(strings.TrimPrefix(platform, "linux/"), "/")
	return arch
}

func buildCommand(arch string) string {
	return "CGO_ENABLED=0 GOOS=linux GOARCH=" + arch + " go build -trimpath -o edgeprep ./cmd/edgeprep"
}

func (p program) labels() map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":       "edgeprep mirror",
		"org.opencontainers.image.description": "pull-only OCI registry mirror for sites without a network",
		"org.opencontainers.image.source":      "https://github.com/edgeprep/edgeprep",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"dev.edgeprep.program.sha256":          p.sum,
	}
	if p.revision != "" {
		l["org.opencontainers.image.revision"] = p.revision
	}
	return l
}
