package preload

import (
	"encoding/binary"

	"github.com/klauspost/compress/zstd"
)

// windowScanner finds the largest window of the frames in a zstd file: a loader with a memory limit fails at
// the first one above it, which need not be the first frame (pzstd, appended files). It only looks at headers
// and skips blocks by the length they say. RFC 8878, 3.1.1
type windowScanner struct {
	window int64
	step   func(*windowScanner, []byte)
	need   int    // bytes that step wants
	have   []byte // of them, when they span writes
	skip   int64
	check  bool // the frame ends with a check sum
	broken bool // no zstd from here on; the decoder says so
}

func newWindowScanner() *windowScanner {
	w := &windowScanner{}
	w.expect(5, (*windowScanner).magic)
	return w
}

func (w *windowScanner) expect(n int, step func(*windowScanner, []byte)) {
	w.need, w.step, w.have = n, step, w.have[:0]
}

// Write never fails.
func (w *windowScanner) Write(p []byte) (int, error) {
	all := len(p)
	for len(p) > 0 && !w.broken {
		if w.skip > 0 {
			n := min(w.skip, int64(len(p)))
			w.skip -= n
			p = p[n:]
			continue
		}
		n := min(w.need-len(w.have), len(p))
		w.have = append(w.have, p[:n]...)
		p = p[n:]
		if len(w.have) == w.need {
			w.step(w, w.have)
		}
	}
	return all, nil
}

// magic sees the magic number and the byte after it.
func (w *windowScanner) magic(b []byte) {
	if b[0]&0xf0 == 0x50 { // a skippable frame: magic, four bytes of length
		w.need, w.step = 8, (*windowScanner).skippable
		return
	}
	// Frame_Header_Descriptor: content size flag (2 bits), single segment, unused, reserved, check sum,
	// dictionary id flag (2 bits)
	d := b[4]
	single := d>>5&1 == 1
	w.check = d>>2&1 == 1
	size := map[byte]int{0: 0, 1: 2, 2: 4, 3: 8}[d>>6]
	if single {
		size = max(size, 1)
	} else {
		size++ // Window_Descriptor
	}
	size += map[byte]int{0: 0, 1: 1, 2: 2, 3: 4}[d&3]
	w.need, w.step = 5+size, (*windowScanner).header
}

func (w *windowScanner) skippable(b []byte) {
	w.skip = int64(binary.LittleEndian.Uint32(b[4:]))
	w.expect(5, (*windowScanner).magic)
}

func (w *windowScanner) header(b []byte) {
	var h zstd.Header
	if err := h.Decode(append(b, 0, 0, 0)); err != nil { // it wants to see a block header too
		w.broken = true
		return
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	w.window = max(w.window, int64(min(window, 1<<62)))
	w.expect(3, (*windowScanner).block)
}

func (w *windowScanner) block(b []byte) {
	v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
	last, kind, size := v&1 == 1, v>>1&3, int64(v>>3)
	if kind == 1 { // RLE: one byte, repeated
		size = 1
	}
	w.skip = size
	w.expect(3, (*windowScanner).block)
	if last {
		if w.check {
			w.skip += 4
		}
		w.expect(5, (*windowScanner).magic)
	}
}
