// Package feed reads messages from files: one by one, in the order of the
// file, without holding the file in memory.
//
//	.ndjson, .jsonl  a message a line
//	.json            an array of messages, one message, or several after each other
//	.csv             a message a row, wide: every column a metric
//
// Nothing is dropped silently. What stands in a file where a message should is
// passed on, whether or not it can be read: the function that reads messages
// rejects it with its cause, and it is kept. Only a file that cannot be read
// further ends in an error.
package feed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// Columns says which columns of a CSV file are no metrics.
type Columns struct {
	Device []string // the device id is their cells joined with "/"
	Time   string
}

// Message is one message of a file.
type Message struct {
	Line int    // where it begins; the first line is 1
	Body []byte // without line breaks, so that bodies can be sent as NDJSON; valid until the next message
}

// Feed is an open file.
type Feed struct {
	name    string
	file    *os.File
	size    int64
	read    atomic.Int64
	columns Columns
	all     func(*Feed, *bufio.Reader, func(Message) bool) error
}

// Open opens the file at path; its name says which form it has. columns counts
// for CSV only.
func Open(path string, columns Columns) (*Feed, error) {
	f := &Feed{name: filepath.Base(path), columns: columns}
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".ndjson", ".jsonl":
		f.all = (*Feed).ndjson
	case ".json":
		f.all = (*Feed).json
	case ".csv":
		f.all = (*Feed).csv
	default:
		return nil, fmt.Errorf("%s: the name ends in none of .ndjson, .jsonl, .json, .csv", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s: is a folder, not a file", path)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	f.file, f.size = file, info.Size()
	return f, nil
}

// All yields each message once, or the error that ends the file. It can be
// ranged over once.
func (f *Feed) All() iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		err := f.all(f, f.open(), func(m Message) bool { return yield(m, nil) })
		if err != nil && !errors.Is(err, errLeft) {
			yield(Message{}, err)
		}
	}
}

// errLeft says that the loop over All was left.
var errLeft = errors.New("left")

// Size is the size of the file in bytes.
func (f *Feed) Size() int64 { return f.size }

// BytesRead is how much of the file was read so far, a little ahead of the
// messages. It may be called from another goroutine.
func (f *Feed) BytesRead() int64 { return f.read.Load() }

// Close closes the file.
func (f *Feed) Close() error { return f.file.Close() }

// counter counts what is read of a feed's file.
type counter struct{ *Feed }

func (c counter) Read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// open gives a reader of the file without the byte order mark that Windows
// programs begin UTF-8 with.
func (f *Feed) open() *bufio.Reader {
	r := bufio.NewReaderSize(counter{f}, 64<<10)
	if mark, _ := r.Peek(3); string(mark) == "\ufeff" {
		r.Discard(3)
	}
	return r
}

// maxMessage bounds the memory that a file without line breaks or with a quote
// left open takes. Brokers take no event much larger than 1 MiB.
const maxMessage = 1 << 20

// shownOfLine is how much of a line that is too long is passed on, in bytes: to
// tell what it is, not to keep it.
const shownOfLine = 4 << 10

// ndjson passes on the lines of the file. Of one that is longer than a message
// may be it passes on the beginning, as a JSON string that says so: no message,
// so that it is rejected and kept.
func (f *Feed) ndjson(r *bufio.Reader, yield func(Message) bool) error {
	var buf []byte
	for line := 1; ; line++ {
		buf = buf[:0]
		length := 0
		var part []byte
		err := bufio.ErrBufferFull
		for errors.Is(err, bufio.ErrBufferFull) {
			part, err = r.ReadSlice('\n')
			length += len(part)
			buf = append(buf, part[:min(len(part), maxMessage-len(buf))]...)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: line %d: %w", f.name, line, err)
		}
		body := bytes.TrimSpace(buf)
		if length > maxMessage {
			body = f.broken(nil, line, fmt.Sprintf("longer than %d KiB: is it NDJSON, with a message a line? It begins", maxMessage>>10), string(buf[:shownOfLine]))
		}
		if len(body) > 0 && !yield(Message{line, oneLine(body)}) {
			return errLeft
		}
		if err != nil {
			return nil
		}
	}
}

// oneLine replaces the line breaks in b, which has some only where it is no
// message anyway: within JSON, breaks between tokens are gone by then.
func oneLine(b []byte) []byte {
	for i, c := range b {
		if c == '\n' || c == '\r' {
			b[i] = ' '
		}
	}
	return b
}
