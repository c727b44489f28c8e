package microbit

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// line is how a frame stands in a file, one a line.
type line struct {
	Device         string    `json:"device"`
	Characteristic string    `json:"characteristic"`
	At             time.Time `json:"at"`
	Value          string    `json:"value"` // hexadecimal
}

// maxLine bounds a line. The longest text of the UART takes twice its bytes.
const maxLine = 16 << 10

// Record writes a frame as a line, in one write:
//
//	{"device":"zuvig","characteristic":"e95d9250-…","at":"2026-03-02T09:00:00.000001Z","value":"15"}
func Record(w io.Writer, f Frame) error {
	b, err := json.Marshal(line{f.Device, f.Characteristic, f.At.UTC(), hex.EncodeToString(f.Value)})
	if err != nil {
		return fmt.Errorf("record a frame of %s: %w", f.Device, err)
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("record a frame of %s: %w", f.Device, err)
	}
	return nil
}

// Recorded gives the frames that Record wrote, in their order. A line that is
// none, such as one that a power cut ended, gives an error with its number, and
// what comes after it is read; an error of reading is the last that it gives.
// Empty lines are passed over.
func Recorded(r io.Reader) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		in := bufio.NewReaderSize(r, maxLine)
		for n := 1; ; n++ {
			b, err := in.ReadSlice('\n')
			long := errors.Is(err, bufio.ErrBufferFull)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = in.ReadSlice('\n')
			}
			if err != nil && err != io.EOF {
				yield(Frame{}, fmt.Errorf("line %d: %w", n, err))
				return
			}
			f, bad := Frame{}, error(nil)
			switch {
			case long:
				bad = fmt.Errorf("longer than %d bytes", maxLine)
			case len(b) > 0 && string(b) != "\n" && string(b) != "\r\n":
				f, bad = read(b)
			default:
				if err == io.EOF {
					return
				}
				continue
			}
			if bad != nil {
				bad = fmt.Errorf("line %d: %w", n, bad)
			}
			if !yield(f, bad) || err == io.EOF {
				return
			}
		}
	}
}

// read reads a line that is not empty.
func read(b []byte) (Frame, error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return Frame{}, fmt.Errorf("no frame: %w", err)
	}
	switch {
	case l.Device == "":
		return Frame{}, errors.New("a frame without device")
	case l.Characteristic == "":
		return Frame{}, errors.New("a frame without characteristic")
	case l.At.IsZero():
		return Frame{}, errors.New(`a frame without time: "at" is missing`)
	}
	value, err := hex.DecodeString(l.Value)
	if err != nil {
		return Frame{}, fmt.Errorf(`"value" is not hexadecimal: %w`, err)
	}
	return Frame{l.Device, l.Characteristic, l.At.UTC(), value}, nil
}
