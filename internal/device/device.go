// Package device reads what devices send: from a message to its readings.
//
// A message is read by one reader of the table below, chosen by the message's
// Format, by its content type, by the attributes its transport gave it, and
// last by its shape. Where two would fit, it is rejected with both named.
// Whatever reader it is, the same rules hold:
//
//   - A number, a boolean or a string is a reading. Its metric is the names on
//     the way to it, joined by _; elements of arrays are named by their index.
//     Names that are empty are left out of the way.
//   - null, a number beyond float64 and a value without any name are skipped
//     and counted.
//   - A number's Value is the nearest float64; where that is not the number
//     that was sent, ValueString has it as it was sent. A string stays a text
//     also when there is a number in it.
//   - The Dictionary gives the metrics it knows their name and unit, and
//     converts a value whose name says that it is in another one. Texts it
//     leaves alone, and booleans of metrics that have a unit. All other names
//     pass through as they are, without a unit.
//   - An object of a number "value" and a string "unit" or "displayName" is one
//     value.
//   - A unit that is told is believed: the value is converted to the unit
//     of its metric; where that cannot be, it keeps its own name and unit. A
//     number under the metric's own name that is not the metric, by its unit or
//     its size, has _raw behind the name.
//   - What a device says of itself and not of its room (signal, battery,
//     counters) has a metric that begins with device_.
//   - When two names of a message stand for the same metric, the one that is
//     the metric's own name has it, else the first one; the others pass through
//     as unknown names do.
//   - A time that cannot be read, or is not in the years 1970 to 2261, rejects the
//     message. One without an offset is UTC, unless the message's attribute
//     "timezone" names a zone of the IANA database. Without a time in the
//     payload, ObservedAt is that of the message's attribute "time", which a
//     CloudEvent has; without that one it is ReceivedAt and Quality says so.
//   - A message that should measure something and gives no reading is rejected.
//     Joins, acknowledgements and the like give none and are not.
//   - A payload is read whole or rejected with its cause: no JSON, a name twice
//     in an object, two values with the same way to them, too deep, too many.
//
// A payload that is a JSON array is read as the messages it holds; of those, one
// without a value counts as skipped if others have some.
package device

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

// reader reads the messages of one format.
type reader struct {
	format string
	media  []string // content types that are this format and no other

	// sent says whether what the transport tells is enough to know the format;
	// nil: it never is.
	sent func(m *mesh.Message) bool

	// shaped says whether JSON value i looks like it; nil: none ever does. It is
	// asked about objects that have a member named in marks, and about a payload
	// that is an array, if pack is set: then it reads the array as one message.
	shaped func(d *document, i int32) bool
	marks  []string
	pack   bool
	// own are the names that messages of the format have for their device or
	// time, of those that plain JSON has; not nil: an object that has another one
	// is plain JSON, whatever its shape.
	own []string

	// looks says whether a payload that is no JSON looks like it; nil: none ever
	// does.
	looks func(payload []byte) bool

	// raw reads the payload of p.m as it is, or says that it is JSON, for read;
	// nil: it always is. read reads JSON value i; nil: there is no JSON of it.
	raw  func(p *Parser) (isJSON bool, err error)
	read func(p *Parser, i int32) error
}

// table is the readers that recognize what they read.
func table() []*reader {
	return []*reader{
		&ttn,
		&chirpStack,
		&senML,
		&csvRows,
		&lineProtocol,
		&pubsubPush,
		&udmi,
		&azureIoTHub,
		&azureIoTCentral,
		&awsShadow,
		&ngsiLD,
		&ngsiV2,
		&sensorThings,
		&sparkplug,
		&tasmota,
		&zigbee2MQTT,
		&shelly,
		&airGradient,
		&sensorCommunity,
		&microBit,
	}
}

const (
	// maxReadings of one message bounds what a small payload can grow to: two
	// bytes of an array make a row of several hundred.
	maxReadings = 10_000
	// maxText, in bytes, of a value that is a string.
	maxText = 16 << 10
	// maxNested bounds how many messages may be packed one in another.
	maxNested = 4
	// maxName and maxDevice, in bytes: both become part of every row.
	maxName   = 256
	maxDevice = 256
	// maxIdentity, in bytes, of a message's source and of its id: every reading
	// of the message repeats them.
	maxIdentity = 1024
	// maxKnown bounds how many names and texts a Parser remembers beyond a
	// message.
	maxKnown = 4096
)

// Parser makes readings of messages. It remembers the names it met, so that
// one should read many messages; only one goroutine may use it at a time.
type Parser struct {
	dictionary *Dictionary
	readers    []*reader
	marks      map[string]bits

	docs    []*document // of the message that is read and of those it is packed in
	names   map[string]*name
	metrics map[string]*metric
	texts   map[string]string
	zones   map[string]*time.Location
	ids     strings.Builder // chunks of reading ids

	// Of the call of Parse:
	out     []mesh.Reading
	first   int // its first reading of out
	skipped int
	formats [maxNested]string // as which the message was read, and those packed in it

	// Of the message that is read:
	m      *mesh.Message
	doc    *document
	depth  int     // how many messages it is packed in
	reader *reader // nil: not chosen yet
	zone   *time.Location
	due    int    // how many of its objects should have readings
	common []byte // the attributes of its readings that the message has which it is packed in

	// Of the object that is read:
	at         at
	object     uint64          // counts objects, to tell what is marked with this one from older marks
	top        []*name         // of its members
	path       []byte          // the name of the value that is read
	origins    []origin        // of its readings
	attributes []byte          // which its readings will have
	terms      map[string]term // of the format, by the name without its first bytes, as many as below
	below      int
}

// bits is a set of readers: bit i is Parser.readers[i], the last one is all
// that come behind.
type bits uint64

func bitOf(i int) bits { return 1 << min(i, 63) }

// at is what the readings of an object have in common.
type at struct {
	device   string
	observed mesh.Instant
	quality  string
}

// NewParser makes a Parser that reads by the table and by mappings.
func NewParser(dictionary *Dictionary, mappings ...*Mapping) *Parser {
	p := &Parser{
		dictionary: dictionary, readers: table(), marks: map[string]bits{},
		names: map[string]*name{}, metrics: map[string]*metric{}, texts: map[string]string{}, zones: map[string]*time.Location{},
	}
	for _, m := range mappings {
		p.readers = append(p.readers, m.reader(p))
	}
	for i, r := range p.readers {
		for _, name := range r.marks {
			p.marks[name] |= bitOf(i)
		}
	}
	return p
}

// Parse appends the readings of m to out and counts the values that are none.
// An error, an *Error, is the cause for which m is rejected: then nothing is
// appended. A message that measures nothing, such as a join, has no readings
// and no error.
func (p *Parser) Parse(out []mesh.Reading, m *mesh.Message) (readings []mesh.Reading, skipped int, err error) {
	defer p.release()
	p.out, p.first, p.skipped = out, len(out), 0
	p.m, p.depth, p.reader, p.due, p.formats = m, 0, nil, 0, [maxNested]string{}
	if err := p.message(); err != nil {
		cause := &Error{Position: -1, Err: err}
		if placed := (*Error)(nil); errors.As(err, &placed) {
			cause.Position = placed.Position
		}
		if p.reader != nil {
			cause.Reader = p.reader.format
		}
		return out, 0, cause
	}
	return p.out, p.skipped, nil
}

// Formats gives the formats as which the last message was read: its own, then
// that of the message packed in it, and so on. Of an array of messages it is
// the one of the last; empty: the array was, or nothing was read.
func (p *Parser) Formats() []string {
	n := slices.Index(p.formats[:], "")
	if n < 0 {
		n = maxNested
	}
	return slices.Clone(p.formats[:n])
}

// release forgets what the next message is better without.
func (p *Parser) release() {
	if len(p.names) > maxKnown {
		p.names, p.metrics = map[string]*name{}, map[string]*metric{}
	}
	if len(p.texts) > maxKnown {
		p.texts = map[string]string{}
	}
	for _, d := range p.docs {
		d.release()
	}
	p.m = nil
}

// inner reads a message that is packed in the one that is read. Its readings
// are those of the outer one, and have the attributes that its object has so
// far.
func (p *Parser) inner(m *mesh.Message) error {
	if p.depth+1 == maxNested {
		return fmt.Errorf("more than %d messages packed one in another", maxNested)
	}
	outer, doc, reader, zone, due, common := p.m, p.doc, p.reader, p.zone, p.due, p.common
	p.m, p.reader, p.due, p.common = m, nil, 0, bytes.Clone(p.attributes)
	p.depth++
	err := p.message()
	p.depth--
	if err != nil {
		named := "message"
		if p.reader != nil {
			named = p.reader.format + " message"
		}
		err = fmt.Errorf("the %s in it: %s", named, err) // not wrapped: its position is not one of the outer payload
	}
	p.m, p.doc, p.reader, p.zone, p.due, p.common = outer, doc, reader, zone, due, common
	return err
}

// message reads p.m.
func (p *Parser) message() error {
	if p.depth == len(p.docs) {
		p.docs = append(p.docs, &document{})
	}
	p.doc = p.docs[p.depth]
	switch {
	case p.m.ReceivedAt == 0:
		return errors.New("the message has no received_at")
	case !InRange(p.m.ReceivedAt):
		return fmt.Errorf("received_at %s is not in the years 1970 to 2261", p.m.ReceivedAt)
	case len(p.m.Source) > maxIdentity:
		return fmt.Errorf("the message's source has %d bytes, at most %d are read", len(p.m.Source), maxIdentity)
	case len(p.m.ID) > maxIdentity:
		return fmt.Errorf("the message's id has %d bytes, at most %d are read", len(p.m.ID), maxIdentity)
	}
	jsonOnly, err := p.choose()
	if err != nil {
		return err
	}
	if err := p.setZone(); err != nil {
		return err
	}
	before := len(p.out)
	if p.reader == nil && !jsonOnly && !opensJSON(p.m.Payload) {
		if err := p.lookAt(); err != nil {
			return err
		}
	}
	empty := false // an array of no messages
	isJSON := true
	if p.reader != nil && p.reader.raw != nil {
		p.begin()
		if isJSON, err = p.reader.raw(p); err != nil {
			return err
		}
		p.finish()
	}
	if isJSON {
		if err := p.doc.parse(p.m.Payload); err != nil {
			return err
		}
		if err := p.root(); err != nil {
			return err
		}
		empty = p.doc.end(0) == 1
	}
	if p.reader != nil {
		p.formats[p.depth] = p.reader.format
	}
	if len(p.out) == before && (p.due > 0 || empty) {
		return fmt.Errorf("no value: nothing in the payload makes a reading, %d skipped (null, beyond float64 or without a name)", p.skipped)
	}
	return nil
}

// root reads the JSON value that the payload is.
func (p *Parser) root() error {
	k := p.doc.kind(0)
	switch {
	case k == object:
		return p.outermost(0)
	case k == array:
		pack, err := p.pack()
		if err != nil || !pack {
			return cmp.Or(err, p.elements())
		}
		p.begin()
		if err := p.reader.read(p, 0); err != nil {
			return err
		}
		p.finish()
		return nil
	case p.reader == nil && p.m.Attributes[topic] != "":
		p.reader = &topicValue
	}
	if p.reader == &topicValue {
		p.begin()
		if err := p.reader.read(p, 0); err != nil {
			return err
		}
		p.finish()
		return nil
	}
	return p.noObject("the payload", 0)
}

// pack says whether the array that the payload is is one message, and finds its
// reader.
func (p *Parser) pack() (bool, error) {
	if p.reader == nil {
		var err error
		if p.reader, err = p.only(func(r *reader) bool { return r.pack && r.shaped(p.doc, 0) }); err != nil {
			return false, err
		}
	}
	return p.reader != nil && p.reader.pack, nil
}

// elements reads the messages in the array that the payload is.
func (p *Parser) elements() error {
	chosen := p.reader
	i := 0
	for c := int32(1); c < p.doc.end(0); c = p.doc.end(c) {
		if p.doc.kind(c) != object {
			return p.noObject(fmt.Sprintf("element %d", i), c)
		}
		readings, skipped, due := len(p.out), p.skipped, p.due
		p.reader = chosen
		if err := p.outermost(c); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if len(p.out) == readings && p.skipped == skipped && p.due > due {
			p.skipped++
		}
		i++
	}
	return nil
}

// foreign says whether the object that is read names its device or time in a
// way that the format has not.
func (p *Parser) foreign(r *reader) bool {
	return r.own != nil && slices.ContainsFunc(p.top, func(n *name) bool {
		return (n.role.of == ofDevice || n.role.of == ofTime) && !slices.Contains(r.own, n.text)
	})
}

// noObject is the cause for value i, which should be an object. A string is
// shown: where messages are read from, what cannot be read is passed on as a
// string that says why.
func (p *Parser) noObject(what string, i int32) error {
	if p.doc.kind(i) == text {
		return p.fault(i, "%s is a string, not an object: %s", what, cut(p.doc.chars(i), 200))
	}
	return p.fault(i, "%s is %s, not an object", what, p.doc.kind(i))
}

// fault says that an error is at value i.
func (p *Parser) fault(i int32, format string, args ...any) error {
	return fault(int(p.doc.nodes[i].raw.from), format, args...)
}

// outermost reads object i, which is a message of its own.
func (p *Parser) outermost(i int32) error {
	var asks bits
	p.top = p.top[:0]
	for c := i + 1; c < p.doc.end(i); c = p.doc.end(c) {
		n, err := p.known(p.doc.name(c))
		if err != nil {
			return p.fault(c, "%w", err)
		}
		p.top = append(p.top, n)
		asks |= n.asks
	}
	if p.reader == nil && asks != 0 {
		var err error
		at := -1
		if p.reader, err = p.only(func(r *reader) bool {
			at++
			return asks&bitOf(at) != 0 && r.shaped != nil && r.shaped(p.doc, i) && !p.foreign(r)
		}); err != nil {
			return p.fault(i, "%w", err)
		}
	}
	if p.reader == nil {
		p.reader = &plain
	}
	if p.reader.read == nil {
		return p.fault(i, "%s is no JSON", p.reader.format)
	}
	p.begin()
	if err := p.reader.read(p, i); err != nil {
		return err
	}
	p.finish()
	return nil
}
