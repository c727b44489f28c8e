package mesh

import (
	"strconv"
	"strings"
)

// scan reads JSON in the form that this package writes: known members in a
// known order, no white space but a newline after each element. It is the
// fast path of the decoders, an order of magnitude faster than a general
// parser; whatever is not in that form makes it stop with ok false, and the
// decoder reads the same bytes again with a general parser.
type scan struct {
	s  string
	ok bool
}

// lit consumes l if it comes next.
func (p *scan) lit(l string) bool {
	if strings.HasPrefix(p.s, l) {
		p.s = p.s[len(l):]
		return true
	}
	return false
}

// must consumes l, which has to come next.
func (p *scan) must(l string) {
	if !p.lit(l) {
		p.ok = false
	}
}

// str consumes a string without escapes; the opening quote is consumed.
func (p *scan) str() string {
	n := strings.IndexByte(p.s, '"')
	if n < 0 || strings.IndexByte(p.s[:n], '\\') >= 0 {
		p.ok = false
		return ""
	}
	s := p.s[:n]
	p.s = p.s[n+1:]
	return s
}

// instant consumes a string that holds a time; same is the text and value of
// the last one read, since neighbours mostly share theirs.
func (p *scan) instant(same *sameInstant) Instant {
	s := p.str()
	if s != same.text {
		at, ok := parseUTC(s)
		if !ok {
			p.ok = false
			return 0
		}
		same.text, same.at = s, at
	}
	return same.at
}

type sameInstant struct {
	text string
	at   Instant
}

// number consumes the text of a number.
func (p *scan) number() string {
	n := 0
	for n < len(p.s) {
		if c := p.s[n]; c-'0' > 9 && c != '-' && c != '.' && c != '+' && c|0x20 != 'e' {
			break
		}
		n++
	}
	s := p.s[:n]
	p.s = p.s[n:]
	return s
}

func (p *scan) int() int64 {
	i, err := strconv.ParseInt(p.number(), 10, 64)
	if err != nil {
		p.ok = false
	}
	return i
}

func (p *scan) float() float64 {
	s := p.number()
	if len(s) < 16 {
		if i, ok := digits(s); ok && s != "" {
			return float64(i)
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		p.ok = false
	}
	return f
}

// value consumes one JSON value whole and gives its text. It finds the end
// only; who uses the text validates it.
func (p *scan) value() string {
	depth := 0
	for n := 0; n < len(p.s); n++ {
		switch p.s[n] {
		case '"':
			for n++; n < len(p.s) && p.s[n] != '"'; n++ {
				if p.s[n] == '\\' {
					n++
				}
			}
			if n >= len(p.s) { // the string has no end
				p.ok = false
				return ""
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth < 0 { // the end of what holds a bare number, true, false or null
				v := p.s[:n]
				p.s = p.s[n:]
				return v
			}
		case ',':
			if depth == 0 {
				v := p.s[:n]
				p.s = p.s[n:]
				return v
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			v := p.s[:n+1]
			p.s = p.s[n+1:]
			return v
		}
	}
	p.ok = false
	return ""
}

// list consumes `{"name":[element, element …]}` and nothing after it. name
// includes the quotes.
func (p *scan) list(name string, element func()) {
	p.ok = true
	p.must("{")
	p.must(name)
	p.must(":[")
	p.lit("\n")
	if !p.lit("]") {
		for p.ok {
			element()
			if p.lit(",\n") {
				continue
			}
			p.lit("\n")
			p.must("]")
			break
		}
	}
	p.must("}")
	if p.s != "" {
		p.ok = false
	}
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	if plain(s) {
		return append(append(b, s...), '"')
	}
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < 0x80 {
			continue
		}
		if c >= 0x80 {
			return appendEscaped(append(b, s[from:i]...), s[i:])
		}
		b = append(b, s[from:i]...)
		b = appendEscape(b, c)
		from = i + 1
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// plain says whether s is ASCII without anything to escape, eight bytes at a
// time.
func plain(s string) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		// Where all bytes are below 0x80, x-ones*n sets a high bit if a byte of
		// x is below n.
		if (w|(w-ones*0x20)|((w^ones*'"')-ones)|((w^ones*'\\')-ones))&high != 0 {
			return false
		}
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x80 {
			return false
		}
	}
	return true
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendEscaped is appendString for the rest of a string that is not ASCII:
// bytes that are no UTF-8 become U+FFFD, as encoding/json has it.
func appendEscaped(b []byte, s string) []byte {
	for _, r := range s {
		switch {
		case r < 0x20 || r == '"' || r == '\\':
			b = appendEscape(b, byte(r))
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}

// appendMember appends ,"name":"s" unless s is empty. name includes comma,
// quotes and colon.
func appendMember(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, name...), s)
}

func appendInstant(b []byte, name string, at Instant) []byte {
	b = append(append(b, name...), '"')
	return append(at.AppendText(b), '"')
}

// appendFloat appends the shortest text that reads back as f, which is finite.
func appendFloat(b []byte, f float64) []byte {
	if i := int64(f); float64(i) == f && i > -1e15 && i < 1e15 && (i != 0 || 1/f > 0) {
		return strconv.AppendInt(b, i, 10)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

func appendInt(b []byte, name string, i int64) []byte {
	return strconv.AppendInt(append(b, name...), i, 10)
}
