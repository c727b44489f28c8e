package feed

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// csv makes of each row a message in plain form,
//
//	{"device_id":"925038/CO2-meter","time":"2022-10-06T13:23:00+0200","metrics":{"co2__ppm":661.0}}
//
// An empty cell is left out. A numeric cell is a JSON number with its digits as
// they are, true and false are booleans whatever their case, NaN and infinities
// are null, any other cell is a string. A column without a name is column_N, N
// counted from 1.
//
// A row that is no row (too few or too many cells, a quote out of place) is
// passed on as a JSON string that says what is wrong and where, and holds the
// text of the row: no message, so that it is rejected and kept.
func (f *Feed) csv(r *bufio.Reader, yield func(Message) bool) error {
	text := &window{r: r}
	in := csv.NewReader(text)
	in.FieldsPerRecord = -1
	in.ReuseRecord = true
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: empty: the first row must name the columns", f.name)
	}
	if err != nil {
		return fmt.Errorf("%s: header: %w", f.name, err)
	}
	row, err := f.wide(header)
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	width := len(header)
	var body []byte
	last := 1
	for {
		begin := in.InputOffset()
		text.drop(begin)
		cells, err := in.Read()
		var line int
		syntax := (*csv.ParseError)(nil)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &syntax):
			line = syntax.StartLine
			body = f.broken(body[:0], line, syntax.Err.Error(), text.first(in.InputOffset()-begin))
		case err != nil:
			return fmt.Errorf("%s: after line %d: %w", f.name, last, err)
		default:
			line, _ = in.FieldPos(0)
			if len(cells) == width {
				body = row.append(body[:0], cells)
			} else {
				body = f.broken(body[:0], line, fmt.Sprintf("%d cells, the header has %d", len(cells), width), text.first(in.InputOffset()-begin))
			}
		}
		if !yield(Message{line, body}) {
			return errLeft
		}
		last = line
	}
}

// broken appends what is passed on instead of a message: the cause comes first,
// where the one who rejects it shows it.
func (f *Feed) broken(b []byte, line int, cause, text string) []byte {
	return appendString(b, fmt.Sprintf("%s: line %d: %s: %s", f.name, line, cause, strings.TrimSpace(text)))
}

// window keeps the bytes that were read since a place in the file.
type window struct {
	r    io.Reader
	from int64 // offset of buf in the file
	gone int   // how much of buf is dropped
	buf  []byte
}

func (w *window) Read(p []byte) (int, error) {
	if len(w.buf)-w.gone > maxMessage {
		return 0, fmt.Errorf("a row is longer than %d KiB: is a quote left open?", maxMessage>>10)
	}
	n, err := w.r.Read(p)
	w.buf = append(w.buf, p[:n]...)
	return n, err
}

// drop forgets what comes before offset, but not at every row: it moves bytes.
func (w *window) drop(offset int64) {
	w.gone = int(offset - w.from)
	if w.gone > 64<<10 {
		w.buf = append(w.buf[:0], w.buf[w.gone:]...)
		w.from, w.gone = offset, 0
	}
}

// first gives the n bytes from what was dropped last.
func (w *window) first(n int64) string { return string(w.buf[w.gone:][:n]) }

// wide says what the cells of a row are.
type wide struct {
	device  []int
	time    int // -1: no time
	metrics []metric
}

type metric struct {
	cell int
	name []byte // as JSON, with the colon
}

func (f *Feed) wide(header []string) (wide, error) {
	names := slices.Clone(header)
	for i, name := range names {
		if name = strings.TrimSpace(name); name == "" {
			name = "column_" + strconv.Itoa(i+1)
		}
		if slices.Contains(names[:i], name) {
			return wide{}, fmt.Errorf("column %q is there twice", name)
		}
		names[i] = name
	}
	find := func(name, flag string) (int, error) {
		i := slices.Index(names, name)
		if i < 0 {
			return i, fmt.Errorf("no column %q for %s; the columns are %s", name, flag, strings.Join(names, ", "))
		}
		return i, nil
	}
	var row wide
	for _, name := range f.columns.Device {
		i, err := find(name, "the device")
		if err != nil {
			return row, err
		}
		row.device = append(row.device, i)
	}
	if len(row.device) == 0 {
		return row, errors.New("no column named that holds the device")
	}
	row.time = -1
	if f.columns.Time != "" {
		var err error
		if row.time, err = find(f.columns.Time, "the time"); err != nil {
			return row, err
		}
	}
	for i, name := range names {
		if i != row.time && !slices.Contains(row.device, i) {
			row.metrics = append(row.metrics, metric{i, append(appendString(nil, name), ':')})
		}
	}
	return row, nil
}

func (w wide) append(b []byte, cells []string) []byte {
	b = append(b, `{"device_id":`...)
	if len(w.device) == 1 {
		b = appendString(b, strings.TrimSpace(cells[w.device[0]]))
	} else {
		parts := make([]string, len(w.device))
		named := false
		for i, cell := range w.device {
			parts[i] = strings.TrimSpace(cells[cell])
			named = named || parts[i] != ""
		}
		if !named {
			parts = nil // no device, instead of one named "/"
		}
		b = appendString(b, strings.Join(parts, "/"))
	}
	if w.time >= 0 {
		if cell := strings.TrimSpace(cells[w.time]); cell != "" {
			b = append(b, `,"time":`...)
			if isNumber(cell) {
				b = append(b, cell...)
			} else {
				b = appendString(b, cell)
			}
		}
	}
	b = append(b, `,"metrics":{`...)
	some := false
	for _, m := range w.metrics {
		if cell := strings.TrimSpace(cells[m.cell]); cell != "" {
			b = appendValue(append(b, m.name...), cell)
			b = append(b, ',')
			some = true
		}
	}
	if some {
		b = b[:len(b)-1]
	}
	return append(b, "}}"...)
}

// appendValue appends a cell that is not empty as JSON.
func appendValue(b []byte, cell string) []byte {
	if isNumber(cell) {
		return append(b, cell...)
	}
	switch strings.ToLower(cell) {
	case "true":
		return append(b, "true"...)
	case "false":
		return append(b, "false"...)
	case "nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity":
		return append(b, "null"...)
	}
	if n := normal(cell); isNumber(n) {
		return append(b, n...)
	}
	return appendString(b, cell)
}

// normal takes from a number what JSON does not have and its value does not
// need: a plus, zeros in front, a point without digits before or after it.
func normal(cell string) string {
	digits := strings.TrimPrefix(cell, "+")
	sign := ""
	if digits == cell && strings.HasPrefix(cell, "-") {
		sign, digits = "-", cell[1:]
	}
	mantissa, exponent := digits, ""
	if e := strings.IndexAny(digits, "eE"); e >= 0 {
		mantissa, exponent = digits[:e], digits[e:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	if whole == "" && fraction == "" {
		return cell
	}
	if whole = strings.TrimLeft(whole, "0"); whole == "" || whole[0]-'0' > 9 {
		whole = "0" + whole
	}
	if fraction != "" {
		fraction = "." + fraction
	}
	return sign + whole + fraction + exponent
}

// isNumber says whether s is a number of JSON (RFC 8259 section 6).
func isNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	whole := leadingDigits(s)
	if whole == 0 || whole > 1 && s[0] == '0' {
		return false
	}
	s = s[whole:]
	if strings.HasPrefix(s, ".") {
		n := leadingDigits(s[1:])
		if n == 0 {
			return false
		}
		s = s[1+n:]
	}
	if s == "" || s[0] != 'e' && s[0] != 'E' {
		return s == ""
	}
	s = s[1:]
	if s != "" && (s[0] == '+' || s[0] == '-') {
		s = s[1:]
	}
	n := leadingDigits(s)
	return n > 0 && n == len(s)
}

func leadingDigits(s string) int {
	n := 0
	for n < len(s) && s[n]-'0' <= 9 {
		n++
	}
	return n
}

// appendString appends s as a JSON string; bytes that are no UTF-8 become
// U+FFFD.
func appendString(b []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		return append(append(append(b, '"'), s...), '"')
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		panic("quote: " + err.Error()) // a string has a JSON form always
	}
	return append(b, quoted...)
}
