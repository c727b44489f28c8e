package rejected

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Place says in words where the byte at an offset is; -1 is nowhere.
func Place(payload []byte, offset int) string {
	switch {
	case offset < 0:
		return ""
	case !IsText(payload):
		return fmt.Sprintf("; the cause is at byte %d", offset)
	}
	before := payload[:min(offset, len(payload))]
	line := bytes.LastIndexByte(before, '\n') + 1
	return fmt.Sprintf("; the cause is at byte %d: line %d, column %d", offset, bytes.Count(before, []byte("\n"))+1, utf8.RuneCount(before[line:])+1)
}

// IsText says whether bytes are text that a terminal shows and does not obey.
func IsText(payload []byte) bool {
	return utf8.Valid(payload) && bytes.IndexFunc(payload, func(r rune) bool {
		return !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' || r == unicode.ReplacementChar
	}) < 0
}

// Marked gives the bytes, text as it is and other bytes in hexadecimal, with a
// mark under the one at an offset; -1: none.
func Marked(payload []byte, offset int) string {
	var out strings.Builder
	dump, atByte, mark := string(payload), offset, "^"
	if !IsText(payload) {
		dump, mark = hex.Dump(payload), "^^"
		if offset >= 0 {
			atByte = dumpOffset(payload, offset)
		}
	}
	atByte = min(atByte, len(dump))
	for from, line := range lines(dump) {
		out.WriteString(strings.TrimRight(line, "\r\n"))
		out.WriteByte('\n')
		// The end of a line belongs to it; the end of all to the last one.
		if atByte < from || atByte >= from+len(line) && from+len(line) < len(dump) {
			continue
		}
		// A terminal breaks a line that is longer: the mark stands under its piece.
		before := line[:atByte-from]
		if n := utf8.RuneCountInString(before); n > widest {
			fmt.Fprintf(&out, "%s column %d, after …%s\n", mark, n+1, string([]rune(before)[n-widest/2:]))
			continue
		}
		for _, r := range before {
			if r != '\t' {
				r = ' '
			}
			out.WriteRune(r)
		}
		out.WriteString(mark + "\n")
	}
	return out.String()
}

// widest is how far to the right a mark is seen for what it marks.
const widest = 100

// lines yields the lines of s with their offsets, at least one.
func lines(s string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		from := 0
		for line := range strings.Lines(s) {
			if !yield(from, line) {
				return
			}
			from += len(line)
		}
		if from == 0 {
			yield(0, "")
		}
	}
}

// dumpOffset is where hex.Dump puts a byte: 16 a line of "00000000  ", three
// characters for each with a space after the eighth, and the text.
func dumpOffset(payload []byte, offset int) int {
	offset = min(offset, len(payload))
	line := offset / 16
	if offset == len(payload) && offset%16 == 0 && offset > 0 {
		line-- // the byte after a full last line
	}
	const width = 10 + 16*3 + 2 + 18 + 1
	i := offset - line*16
	return line*width + 10 + i*3 + i/8
}
