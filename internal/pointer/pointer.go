// Package pointer finds values in JSON documents by JSON Pointers (RFC 6901),
// several in one pass, and reads those that are instants.
package pointer

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Valid says whether s is a JSON Pointer to a part of a document, which the empty
// one is not.
func Valid(s string) bool {
	rest := strings.NewReplacer("~0", "", "~1", "").Replace(s)
	return strings.HasPrefix(s, "/") && !strings.Contains(rest, "~")
}

// Places are parts of a document that are looked for. The zero value is none.
type Places struct {
	found  []int // whose values stand here
	inside map[string]*Places
}

// Add looks for the value at a pointer: it becomes the value of that number.
func (p *Places) Add(pointer string, number int) {
	for token := range jsontext.Pointer(pointer).Tokens() {
		if p.inside == nil {
			p.inside = map[string]*Places{}
		}
		next := p.inside[token]
		if next == nil {
			next = &Places{}
			p.inside[token] = next
		}
		p = next
	}
	p.found = append(p.found, number)
}

// Find sets those of values that stand in a document that is JSON, as parts of it.
// Members of the outermost object that lead to none are handed to unknown, unless
// that is nil.
func (p *Places) Find(value jsontext.Value, values []jsontext.Value, unknown func(name string) error) error {
	for _, number := range p.found {
		values[number] = value
	}
	if p.inside == nil {
		return nil
	}
	kind := value.Kind()
	if kind != '{' && kind != '[' {
		return nil
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(value))
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for i := 0; d.PeekKind() != '}' && d.PeekKind() != ']'; i++ {
		name := strconv.Itoa(i)
		if kind == '{' {
			token, err := d.ReadToken()
			if err != nil {
				return err
			}
			name = token.String()
		}
		next := p.inside[name]
		if next == nil {
			if unknown != nil {
				if err := unknown(name); err != nil {
					return err
				}
			}
			if err := d.SkipValue(); err != nil {
				return err
			}
			continue
		}
		part, err := d.ReadValue()
		if err != nil {
			return err
		}
		if err := next.Find(part.Clone(), values, nil); err != nil {
			return err
		}
	}
	return nil
}

// Text is a JSON value as text: a string without its quotes and escapes, any other
// as it stands.
func Text(value jsontext.Value) string {
	if value.Kind() != '"' {
		return string(value)
	}
	text, _ := jsontext.AppendUnquote([]byte(nil), value)
	return string(text)
}

// Units are those of numbers that are instants.
var Units = []string{"s", "ms", "us", "ns"}

var perSecond = map[string]float64{"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}

// Instant reads a JSON number of units since 1970, up to the year 10000. What is
// finer than a microsecond is dropped, as it is of a text.
func Instant(text, unit string) (mesh.Instant, bool) {
	const year10000 = 253402300800 // in seconds
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.Abs(f) >= year10000*perSecond[unit] {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return mesh.Instant(math.Round(f * (1e6 / perSecond[unit]))), true
	}
	switch unit {
	case "s":
		return mesh.Instant(n * 1e6), true
	case "ms":
		return mesh.Instant(n * 1e3), true
	case "us":
		return mesh.Instant(n), true
	}
	return mesh.At(time.Unix(0, n)), true
}
