package feed

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// json splits at the brackets, commas and quotes alone, so that an element
// that is no JSON is passed on and the next ones are found.
func (f *Feed) json(r *bufio.Reader, yield func(Message) bool) error {
	s := splitter{r: r, line: 1}
	var compact bytes.Buffer
	pass := func() error {
		begin, body, err := s.value()
		if err == nil || errors.Is(err, io.EOF) {
			compact.Reset()
			if json.Compact(&compact, body) == nil {
				body = compact.Bytes()
			}
			if len(body) > 0 && !yield(Message{begin, oneLine(body)}) {
				return errLeft
			}
		}
		return err
	}
	for {
		c, err := s.peek()
		switch {
		case err != nil:
		case c == '[' && !s.array:
			s.array = true
			_, err = s.byte()
		case c == ']' && s.array:
			s.array = false
			_, err = s.byte()
		case c == ',' && s.array:
			_, err = s.byte()
		default:
			err = pass()
		}
		switch {
		case errors.Is(err, errLeft):
			return err
		case errors.Is(err, io.EOF) && s.array:
			return fmt.Errorf("%s: line %d: the file ends within the array: is it whole?", f.name, s.line)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: line %d: %w", f.name, s.line, err)
		}
	}
}

// splitter finds where values end.
type splitter struct {
	r     *bufio.Reader
	line  int
	array bool // values stand in an array; else after each other
	buf   []byte
}

// peek gives the next byte that is no white space.
func (s *splitter) peek() (byte, error) {
	for {
		c, err := s.byte()
		if err != nil {
			return 0, err
		}
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c, s.r.UnreadByte()
		}
	}
}

func (s *splitter) byte() (byte, error) {
	c, err := s.r.ReadByte()
	if c == '\n' {
		s.line++
	}
	return c, err
}

// value gives the text of a value, without what ends it, and the line it
// begins in. The text is valid until the next call; with io.EOF it is what the
// file ended in.
func (s *splitter) value() (line int, text []byte, err error) {
	line, s.buf = s.line, s.buf[:0]
	depth, quoted, escaped := 0, false, false
	for {
		c, err := s.byte()
		if err != nil {
			return line, bytes.TrimSpace(s.buf), err
		}
		switch {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case depth == 0 && (s.array && (c == ',' || c == ']') || !s.array && c == '\n'):
			if c == '\n' {
				s.line--
			}
			return line, bytes.TrimSpace(s.buf), s.r.UnreadByte()
		case (c == '}' || c == ']') && depth > 0:
			depth--
			if depth == 0 && !s.array {
				return line, append(s.buf, c), nil
			}
		}
		if len(s.buf) == maxMessage {
			return line, nil, fmt.Errorf("a message from line %d on is longer than %d KiB", line, maxMessage>>10)
		}
		s.buf = append(s.buf, c)
	}
}
