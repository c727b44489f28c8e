// Package jsonsplit finds where JSON values end that stand in an array or
// after each other.
//
// It looks at brackets, commas and quotes alone, so that a value that is no
// JSON is given as it is and the next ones are found: a broken value costs
// itself, and others only where its own brackets or quotes do not tell its end.
// The time is linear in the input, however deep it is nested.
package jsonsplit

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// Splitter reads values.
type Splitter struct {
	r     *bufio.Reader
	most  int
	line  int
	array bool // values stand in an array; else after each other
	buf   []byte
}

// New makes a splitter of what r reads. A value has at most so many bytes.
func New(r *bufio.Reader, most int) *Splitter { return &Splitter{r: r, most: most, line: 1} }

// Next gives the text of the next value, whether or not it is JSON, and the
// line it begins in; the first line is 1. The text is never empty, and valid
// until the next call. With an error, line is where reading ended: io.EOF after
// the last value, io.ErrUnexpectedEOF if it stands in an array without an end.
func (s *Splitter) Next() (line int, text []byte, err error) {
	for {
		c, err := s.peek()
		switch {
		case err == io.EOF && s.array:
			return s.line, nil, io.ErrUnexpectedEOF
		case err != nil:
			return s.line, nil, err
		case c == '[' && !s.array:
			s.array = true
			_, err = s.byte()
		case c == ']' && s.array:
			s.array = false
			_, err = s.byte()
		case c == ',' && s.array:
			_, err = s.byte()
		default:
			line, text, err := s.value()
			if err != nil && err != io.EOF {
				return s.line, nil, err
			}
			return line, text, nil // the next call says that the input has ended
		}
		if err != nil {
			return s.line, nil, err
		}
	}
}

// peek gives the next byte that is no white space.
func (s *Splitter) peek() (byte, error) {
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

func (s *Splitter) byte() (byte, error) {
	c, err := s.r.ReadByte()
	if c == '\n' {
		s.line++
	}
	return c, err
}

// value gives the text of a value, without what ends it. With io.EOF it is what
// the input ended in.
func (s *Splitter) value() (line int, text []byte, err error) {
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
		if len(s.buf) == s.most {
			return line, nil, fmt.Errorf("a message from line %d on is longer than %d KiB", line, s.most>>10)
		}
		s.buf = append(s.buf, c)
	}
}
