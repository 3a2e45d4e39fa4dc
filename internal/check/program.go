package check

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what is read of layers, whose content is anybody's.
const (
	maxLayerEntries = 5_000_000
	maxLayerFiles   = 300_000 // that are kept
	maxLayerBytes   = 256 << 30
	maxLayerWindow  = 128 << 20
	maxLinks        = 40
)

// file is what matters of a file in a layer.
type file struct {
	link    string // of a symlink, as stored; of a hard link, absolute
	machine elf.Machine
	isELF   bool
	interp  string // of a script: the program that runs it
}

// layerFiles are the links and programs of one layer, by absolute path, and what it takes away.
type layerFiles struct {
	files   map[string]file
	gone    map[string]bool // removed from the layers below
	emptied map[string]bool // directories of which nothing below is seen
}

// readLayer lists the links and programs of a layer, packed or not.
func readLayer(ctx context.Context, r io.Reader) (layerFiles, error) {
	out := layerFiles{files: map[string]file{}, gone: map[string]bool{}, emptied: map[string]bool{}}
	plain, done, err := unpacked(bufio.NewReaderSize(interruptible{ctx, r}, 64<<10))
	if err != nil {
		return out, err
	}
	defer done()
	t := tar.NewReader(io.LimitReader(plain, maxLayerBytes))
	for range maxLayerEntries {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return out, fmt.Errorf("read the layer: %w", err)
		}
		if err := out.add(h, t); err != nil {
			return out, err
		}
	}
	return out, fmt.Errorf("the layer has more than %d entries", maxLayerEntries)
}

// unpacked tells by the first bytes how a layer is packed.
func unpacked(r *bufio.Reader) (plain io.Reader, done func(), err error) {
	head, _ := r.Peek(4) // a shorter one is no layer, which tar says
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxLayerWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}

// add takes one entry in. Names that begin with .wh. take away what layers below have.
// opencontainers/image-spec: layer.md, Whiteouts
func (l *layerFiles) add(h *tar.Header, content io.Reader) error {
	name := path.Join("/", h.Name)
	dir, base := path.Split(name)
	if len(l.files)+len(l.gone) > maxLayerFiles {
		return fmt.Errorf("the layer has more than %d programs and links", maxLayerFiles)
	}
	switch {
	case base == ".wh..wh..opq":
		l.emptied[path.Clean(dir)] = true
	case strings.HasPrefix(base, ".wh."):
		l.gone[path.Join(dir, strings.TrimPrefix(base, ".wh."))] = true
	case h.Typeflag == tar.TypeSymlink:
		l.files[name] = file{link: h.Linkname}
	case h.Typeflag == tar.TypeLink:
		l.files[name] = file{link: path.Join("/", h.Linkname)}
	case h.Typeflag == tar.TypeReg && h.Mode&0o111 != 0:
		head := make([]byte, 256)
		n, err := io.ReadFull(content, head)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("read %s in the layer: %w", name, err)
		}
		l.files[name] = readHead(head[:n])
	}
	return nil
}

// readHead looks at the first bytes of one.
func readHead(head []byte) file {
	if rest, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if f := strings.Fields(string(line)); len(f) > 0 {
			return file{interp: f[0]}
		}
	}
	if len(head) < 20 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return file{}
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		order = binary.BigEndian
	}
	return file{isELF: true, machine: elf.Machine(order.Uint16(head[18:]))}
}

// over puts a layer on what the layers below gave.
func (l *layerFiles) over(below map[string]file) {
	for name := range below {
		if l.hides(name) {
			delete(below, name)
		}
	}
	for name, f := range l.files {
		below[name] = f
	}
}

// hides says whether the layer takes a path away, or a directory above it.
func (l *layerFiles) hides(name string) bool {
	if l.gone[name] {
		return true
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if l.gone[dir] || l.emptied[dir] {
			return true
		}
		if dir == "/" {
			return false
		}
	}
}

// find follows links to a file.
func find(files map[string]file, name string) (file, bool) {
	for range maxLinks {
		at, ok := firstLink(files, path.Join("/", name))
		if !ok {
			f, ok := files[path.Join("/", name)]
			return f, ok
		}
		target := files[at].link
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(at), target)
		}
		name = target + strings.TrimPrefix(path.Join("/", name), at)
	}
	return file{}, false
}

// firstLink is the first part of a path that is a link.
func firstLink(files map[string]file, name string) (string, bool) {
	for i := 1; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if files[name[:i]].link != "" {
			return name[:i], true
		}
	}
	return "", false
}

// defaultPath is where runc looks for a program when the image does not say.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// entrypoint finds the program that an image starts; of a script, the one that runs it.
func entrypoint(files map[string]file, c ocispec.ImageConfig) (name string, f file, ok bool) {
	argv := slices.Concat(c.Entrypoint, c.Cmd)
	if len(argv) == 0 {
		return "", file{}, false
	}
	name = argv[0]
	for range 3 {
		name, f, ok = lookup(files, name, c)
		if !ok || f.isELF || f.interp == "" {
			return name, f, ok
		}
		name = f.interp
	}
	return name, f, false
}

// lookup finds a program as a container runtime does.
func lookup(files map[string]file, name string, c ocispec.ImageConfig) (string, file, bool) {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join("/", c.WorkingDir, name)
		}
		f, ok := find(files, name)
		return name, f, ok
	}
	dirs := defaultPath
	for _, e := range c.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			dirs = v
		}
	}
	for _, d := range strings.Split(dirs, ":") {
		if f, ok := find(files, path.Join(d, name)); ok {
			return path.Join(d, name), f, true
		}
	}
	return name, file{}, false
}

// machines are those of programs that run on an architecture as Go calls it, the 32-bit ones with it that the
// platform's own images may hold.
func machines(arch string) []elf.Machine {
	return map[string][]elf.Machine{
		"amd64": {elf.EM_X86_64, elf.EM_386}, "386": {elf.EM_386}, "arm64": {elf.EM_AARCH64, elf.EM_ARM}, "arm": {elf.EM_ARM},
		"riscv64": {elf.EM_RISCV}, "ppc64le": {elf.EM_PPC64}, "s390x": {elf.EM_S390}, "loong64": {elf.EM_LOONGARCH}, "mips64le": {elf.EM_MIPS},
	}[arch]
}
