package device

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxDepth bounds the nesting of a payload. What devices send is 2 to 6
	// deep, and a metric's name holds the name of every level.
	maxDepth = 32
	// maxNodes bounds the memory of a payload of very many values.
	maxNodes = 1 << 18
	// keptNodes bounds what is kept for the next one.
	keptNodes = 1 << 16
	// maxPayload keeps offsets within 32 bits.
	maxPayload = 64 << 20
)

// document is one JSON value as a flat list of nodes in the order of the text,
// a container before what it holds: the readers need the whole value before
// they can tell what they look at. It is as strict as jsontext: UTF-8
// throughout, surrogates in pairs, no object has a name twice (RFC 7493).
type document struct {
	text  []byte // the payload and, after it, what had escapes, without them
	nodes []node

	decoder jsontext.Decoder
	input   bytes.Buffer
}

// node is one value.
type node struct {
	kind kind
	name span  // of a member of an object
	raw  span  // its JSON
	text span  // the characters of a string
	end  int32 // the index of the first node after it that it does not hold
}

// span is a part of document.text.
type span struct{ from, to uint32 }

type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	object
	array
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an object", "an array"}[k]
}

func (d *document) bytes(s span) []byte  { return d.text[s.from:s.to] }
func (d *document) name(i int32) []byte  { return d.bytes(d.nodes[i].name) }
func (d *document) raw(i int32) []byte   { return d.bytes(d.nodes[i].raw) }
func (d *document) chars(i int32) []byte { return d.bytes(d.nodes[i].text) }
func (d *document) kind(i int32) kind    { return d.nodes[i].kind }
func (d *document) end(i int32) int32    { return d.nodes[i].end }

// member gives the member of object i that has a name, 0 if there is none (the
// root is nobody's member) or it is null.
func (d *document) member(i int32, name string) int32 {
	if d.kind(i) != object {
		return 0
	}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		if string(d.name(c)) == name {
			if d.kind(c) == null {
				return 0
			}
			return c
		}
	}
	return 0
}

// find is member, but tells null from none.
func (d *document) find(i int32, name string) (c int32, ok bool) {
	if d.kind(i) != object {
		return 0, false
	}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		if string(d.name(c)) == name {
			return c, true
		}
	}
	return 0, false
}

// first gives the first member of object i that has one of some names, 0 if
// there is none.
func (d *document) first(i int32, names ...string) int32 {
	for _, name := range names {
		if c := d.member(i, name); c != 0 {
			return c
		}
	}
	return 0
}

// is says whether object i has a member of that kind.
func (d *document) is(k kind, i int32, name string) bool {
	c := d.member(i, name)
	return c != 0 && d.kind(c) == k
}

// hasPrefix says whether value c, which may be 0, for none, is a string that
// begins so.
func (d *document) hasPrefix(c int32, prefix string) bool {
	return d.kind(c) == text && bytes.HasPrefix(d.chars(c), []byte(prefix))
}

// at follows names from object i, 0 if one is missing.
func (d *document) at(i int32, names ...string) int32 {
	for _, name := range names {
		if i = d.member(i, name); i == 0 {
			return 0
		}
	}
	return i
}

// parse reads payload, which has to stay as it is for as long as d is used.
func (d *document) parse(payload []byte) error {
	if len(payload) > maxPayload {
		return fmt.Errorf("the payload has %d bytes, at most %d are read", len(payload), maxPayload)
	}
	d.text = payload[:len(payload):len(payload)] // full: an append must not write behind the payload
	d.nodes = d.nodes[:0]
	d.input = *bytes.NewBuffer(payload) // which the decoder reads in place
	d.decoder.Reset(&d.input)
	err := d.value(span{})
	if err == nil {
		if _, err = d.decoder.ReadToken(); err == nil {
			return fault(int(d.decoder.InputOffset())-1, "not JSON: more than one value")
		} else if errors.Is(err, io.EOF) {
			return nil
		}
	}
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("not JSON: the payload is empty")
	case !errors.As(err, &syntax):
		return err
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fault(int(syntax.ByteOffset), "an object has the name %s twice", quote(syntax.JSONPointer.LastToken()))
	}
	return fault(int(syntax.ByteOffset), "not JSON: %s", strings.TrimPrefix(err.Error(), "jsontext: "))
}

// release forgets the payload.
func (d *document) release() {
	d.text, d.input = nil, bytes.Buffer{}
	if cap(d.nodes) > keptNodes {
		d.nodes = nil
	}
}

// value reads the next value, a member of that name.
func (d *document) value(name span) error {
	i := len(d.nodes)
	if i == maxNodes {
		return fault(int(d.decoder.InputOffset()), "more than %d values", maxNodes)
	}
	d.nodes = append(d.nodes, node{name: name})
	var kind kind
	switch k := d.decoder.PeekKind(); k {
	case '{', '[':
		if d.decoder.StackDepth() == maxDepth {
			return fault(int(d.decoder.InputOffset()), "nested deeper than %d levels", maxDepth)
		}
		if _, err := d.decoder.ReadToken(); err != nil {
			return err
		}
		from := uint32(d.decoder.InputOffset()) - 1
		kind = object
		if k == '[' {
			kind = array
		}
		for {
			if k := d.decoder.PeekKind(); k == '}' || k == ']' {
				break
			}
			var name span
			if kind == object {
				var err error
				if _, name, err = d.str(); err != nil {
					return err
				}
			}
			if err := d.value(name); err != nil {
				return err
			}
		}
		if _, err := d.decoder.ReadToken(); err != nil {
			return err
		}
		d.nodes[i].raw = span{from, uint32(d.decoder.InputOffset())}
	case '"':
		kind = text
		var err error
		n := &d.nodes[i]
		if n.raw, n.text, err = d.str(); err != nil {
			return err
		}
	default:
		kind = null
		switch k {
		case '0':
			kind = number
		case 't', 'f':
			kind = boolean
		}
		raw, err := d.decoder.ReadValue()
		if err != nil {
			return err
		}
		to := uint32(d.decoder.InputOffset())
		d.nodes[i].raw = span{to - uint32(len(raw)), to}
	}
	d.nodes[i].kind, d.nodes[i].end = kind, int32(len(d.nodes))
	return nil
}

// str reads a string.
func (d *document) str() (raw, chars span, err error) {
	s, err := d.decoder.ReadValue()
	if err != nil {
		return span{}, span{}, err
	}
	to := uint32(d.decoder.InputOffset())
	raw = span{to - uint32(len(s)), to}
	if bytes.IndexByte(s, '\\') < 0 {
		return raw, span{raw.from + 1, raw.to - 1}, nil
	}
	from := uint32(len(d.text))
	d.text, err = jsontext.AppendUnquote(d.text, s)
	return raw, span{from, uint32(len(d.text))}, err
}

// quote shows foreign text in a cause, cut to a length that can be read.
func quote[T string | []byte](s T) string { return cut(s, 80) }

func cut[T string | []byte](s T, most int) string {
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
