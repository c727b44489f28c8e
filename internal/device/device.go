// Package device reads what devices send: from a message to its readings.
//
// A message is read by one reader of the table below, chosen by the message's
// Format, by its content type, by the attributes its transport gave it, and
// last by its shape. Whatever reader it is, the same rules hold:
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
//   - When two names of a message stand for the same metric, the one that is
//     the metric's own name has it, else the first one; the others pass through
//     as unknown names do.
//   - A time that cannot be read rejects the message. Without a time in the
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
	"errors"
	"fmt"
	"math"
	"mime"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// reader reads the messages of one format.
type reader struct {
	format string
	sent   func(attributes map[string]string) bool // whether the transport says so; nil: it never does
	shaped func(d *document, i int32) bool         // whether object i looks like it
	read   func(p *Parser, i int32) error
}

// readers is the table. Of several that recognize a message the first one
// reads it; the last one recognizes every object.
var readers = [...]reader{
	{"ttn-v3", nil, ttnShaped, (*Parser).readTTN},
	{"chirpstack-v4", chirpStackSent, chirpStackShaped, (*Parser).readChirpStack},
	{"json", nil, func(*document, int32) bool { return true }, (*Parser).readJSON},
}

const (
	// maxReadings of one message bounds what a small payload can grow to: two
	// bytes of an array make a row of several hundred.
	maxReadings = 4096
	// maxName and maxDevice, in bytes: both become part of every row.
	maxName   = 256
	maxDevice = 256
	// maxIdentity, in bytes, of a message's source and of its id: every reading
	// of the message repeats them.
	maxIdentity = 1024
	// maxKnown bounds how many names and texts a Parser remembers.
	maxKnown = 4096
)

// Parser makes readings of messages. It remembers the names it met, so that
// one should read many messages; only one goroutine may use it at a time.
type Parser struct {
	dictionary *Dictionary
	doc        document
	names      map[string]*name
	metrics    map[string]*metric
	texts      map[string]string
	path       []byte   // the name of the value that is read
	origins    []origin // of the readings of the object that is read
	top        []*name  // scratch of readJSON
	scratch    []byte
	ids        strings.Builder // chunks of reading ids

	// Of the message that is read:
	m       *mesh.Message
	at      at
	out     []mesh.Reading
	first   int    // its first reading of out
	object  uint64 // counts objects, to tell what is marked with this one from older marks
	skipped int
	due     int // how many of its objects should have readings
}

// at is what the readings of an object have in common.
type at struct {
	device     string
	observed   mesh.Instant
	quality    string
	attributes string
}

// name is what a Parser knows of a name.
type name struct {
	text    string
	role    role     // as a member of the outermost object
	mapped  *metric  // the metric the dictionary has for it; nil: none
	says    spelling // what the dictionary says besides
	literal bool     // it is the metric's own name
	object  uint64   // the last object that had it
}

// metric is one of the dictionary's.
type metric struct {
	text   string
	object uint64 // the last object that has a reading of it
	of     *name  // and which of its names has it there
}

// origin is where a reading comes from.
type origin struct {
	*name
	mappable bool // the dictionary applies to the value, too
}

// NewParser makes a Parser.
func NewParser(dictionary *Dictionary) *Parser {
	return &Parser{
		dictionary: dictionary,
		names:      map[string]*name{}, metrics: map[string]*metric{}, texts: map[string]string{},
	}
}

// Parse appends the readings of m to out and counts the values that are none.
// An error is the cause for which m is rejected: then nothing is appended. A
// message that measures nothing, such as a join, has no readings and no error.
func (p *Parser) Parse(out []mesh.Reading, m *mesh.Message) (readings []mesh.Reading, skipped int, err error) {
	if len(p.names) > maxKnown {
		p.names, p.metrics = map[string]*name{}, map[string]*metric{}
	}
	if len(p.texts) > maxKnown {
		p.texts = map[string]string{}
	}
	p.m, p.out, p.first, p.skipped, p.due = m, out, len(out), 0, 0
	if err := p.message(); err != nil {
		return out, 0, err
	}
	return p.out, p.skipped, nil
}

func (p *Parser) message() error {
	chosen, err := choose(p.m)
	if err != nil {
		return err
	}
	switch {
	case p.m.ReceivedAt == 0:
		return errors.New("the message has no received_at")
	case len(p.m.Source) > maxIdentity:
		return fmt.Errorf("the message's source has %d bytes, at most %d are read", len(p.m.Source), maxIdentity)
	case len(p.m.ID) > maxIdentity:
		return fmt.Errorf("the message's id has %d bytes, at most %d are read", len(p.m.ID), maxIdentity)
	}
	if err := p.doc.parse(p.m.Payload); err != nil {
		return err
	}
	switch p.doc.kind(0) {
	case object:
		if err := p.outermost(0, chosen); err != nil {
			return err
		}
	case array:
		if err := p.elements(chosen); err != nil {
			return err
		}
	default:
		return p.noObject("the payload", 0)
	}
	if len(p.out) == p.first && (p.due > 0 || p.doc.end(0) == 1) {
		return fmt.Errorf("no value: nothing in the payload makes a reading, %d skipped (null, beyond float64 or without a name)", p.skipped)
	}
	return nil
}

// elements reads the messages in the array that the payload is.
func (p *Parser) elements(chosen *reader) error {
	i := 0
	for c := int32(1); c < p.doc.end(0); c = p.doc.end(c) {
		if p.doc.kind(c) != object {
			return p.noObject(fmt.Sprintf("element %d", i), c)
		}
		readings, skipped, due := len(p.out), p.skipped, p.due
		if err := p.outermost(c, chosen); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if len(p.out) == readings && p.skipped == skipped && p.due > due {
			p.skipped++
		}
		i++
	}
	return nil
}

// noObject is the cause for value i, which should be an object. A string is
// shown: where messages are read from, what cannot be read is passed on as a
// string that says why.
func (p *Parser) noObject(what string, i int32) error {
	if p.doc.kind(i) == text {
		return fmt.Errorf("%s is a string, not an object: %s", what, cut(p.doc.chars(i), 200))
	}
	return fmt.Errorf("%s is %s, not an object", what, p.doc.kind(i))
}

// choose finds the reader by what is said about the payload; nil: it has to be
// told by the shape.
func choose(m *mesh.Message) (*reader, error) {
	if m.Format != "" {
		for i := range readers {
			if readers[i].format == m.Format {
				return &readers[i], nil
			}
		}
		return nil, fmt.Errorf("no reader for the format %s", quote(m.Format))
	}
	if !isJSON(m.ContentType) {
		return nil, fmt.Errorf("no reader for the content type %s", quote(m.ContentType))
	}
	if len(m.Attributes) > 0 {
		for i := range readers {
			if readers[i].sent != nil && readers[i].sent(m.Attributes) {
				return &readers[i], nil
			}
		}
	}
	return nil, nil
}

// isJSON says whether a content type leaves it open that the payload is JSON
// with names of the device's own. The types that say nothing are what MQTT
// bridges and HTTP clients put when nobody told them.
func isJSON(contentType string) bool {
	switch contentType {
	case "", "application/json":
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch media {
	case "application/json", "text/json", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded":
		return true
	case "application/senml+json", "application/sensml+json": // names and times stand in base fields (RFC 8428)
		return false
	}
	return strings.HasSuffix(media, "+json")
}

// outermost reads object i, which is a message of its own.
func (p *Parser) outermost(i int32, chosen *reader) error {
	for r := range readers {
		if chosen == nil && readers[r].shaped(&p.doc, i) {
			chosen = &readers[r]
		}
	}
	p.object++
	p.path = p.path[:0]
	p.at = at{}
	p.origins = p.origins[:0]
	if err := chosen.read(p, i); err != nil {
		return err
	}
	p.finish()
	return nil
}

// identify gives r its id.
func (p *Parser) identify(r *mesh.Reading) {
	const size, chunk = 32, 4096
	if p.ids.Cap()-p.ids.Len() < size {
		p.ids = strings.Builder{}
		p.ids.Grow(chunk)
	}
	from := p.ids.Len()
	var buf [size]byte
	p.ids.Write(mesh.AppendReadingID(buf[:0], r.DeviceID, r.Metric, r.ObservedAt))
	r.ReadingID = p.ids.String()[from:]
}

// device takes the device of the object: the id that stands in it, else the
// one its transport gave.
func (p *Parser) device(id string) error {
	if id == "" {
		id = p.m.DeviceID
	}
	for i := 0; id == "" && i < len(deviceAttributes) && p.m.Attributes != nil; i++ {
		id = p.m.Attributes[deviceAttributes[i]]
	}
	switch {
	case id == "":
		return errors.New("no device: the payload has to name it (deviceId, device_id, devEui, …), or its transport")
	case len(id) > maxDevice:
		return fmt.Errorf("the device %s has %d bytes, at most %d are read", quote(id), len(id), maxDevice)
	}
	p.at.device = id
	return nil
}

// deviceAttributes are the names by which transports give the device: Cloud
// IoT Core and its heirs, then ChirpStack.
var deviceAttributes = [...]string{"deviceId", "device_id", "devEui", "dev_eui"}

// members reads the members or elements of container i.
func (p *Parser) members(i int32) error {
	var index int64
	for c := i + 1; c < p.doc.end(i); c = p.doc.end(c) {
		var err error
		if p.doc.kind(i) == object {
			err = p.member(c, p.doc.name(c))
		} else {
			var buf [20]byte
			err = p.member(c, strconv.AppendInt(buf[:0], index, 10))
			index++
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// member reads value c, which has a name below p.path.
func (p *Parser) member(c int32, last []byte) error {
	k := p.doc.kind(c)
	if k < object && len(p.path) == 0 {
		return p.value(c, last)
	}
	outer := len(p.path)
	if outer > 0 && len(last) > 0 {
		p.path = append(p.path, '_')
	}
	p.path = append(p.path, last...)
	var err error
	if k < object {
		err = p.value(c, p.path)
	} else {
		err = p.members(c)
	}
	p.path = p.path[:outer]
	return err
}

// value reads value c, which is no container.
func (p *Parser) value(c int32, path []byte) error {
	if p.doc.kind(c) == null || len(path) == 0 {
		p.skipped++
		return nil
	}
	n, err := p.known(path)
	if err != nil {
		return err
	}
	return p.named(c, n)
}

// named reads value c, which is not null and no container, by its name.
func (p *Parser) named(c int32, n *name) error {
	if n.object == p.object {
		return fmt.Errorf("two values have the name %s", quote(n.text))
	}
	n.object = p.object
	if len(p.out)-p.first >= maxReadings {
		return fmt.Errorf("more than %d readings", maxReadings)
	}
	var r mesh.Reading
	r.Metric = n.text
	mappable := n.mapped != nil
	switch p.doc.kind(c) {
	case number:
		var exact bool
		if r.Value, exact = parseNumber(p.doc.raw(c)); math.IsInf(r.Value, 0) {
			p.skipped++
			return nil
		} else if !exact {
			r.ValueString = string(p.doc.raw(c))
		}
		mappable = mappable && n.says.plausible(r.Value)
	case boolean:
		r.Kind = mesh.Boolean
		if p.doc.raw(c)[0] == 't' {
			r.Value = 1
		}
		mappable = mappable && n.says.unit == ""
	case text:
		r.Kind, r.ValueString = mesh.Text, p.text(p.doc.chars(c))
		mappable = false
	}
	p.out = append(p.out, r)
	p.origins = append(p.origins, origin{n, mappable})
	return nil
}

// finish names the readings of the object, which are the last of out, by the
// dictionary and gives them what they have in common, and their ids.
func (p *Parser) finish() {
	for _, o := range p.origins {
		if o.name.literal {
			o.mapped.object, o.mapped.of = p.object, o.name
		}
	}
	readings := p.out[len(p.out)-len(p.origins):]
	for i, o := range p.origins {
		r := &readings[i]
		if o.mappable {
			if o.mapped.object != p.object {
				o.mapped.object, o.mapped.of = p.object, o.name
			}
			if o.mapped.of == o.name {
				r.Metric, r.Unit = o.mapped.text, o.says.unit
				if o.says.convert != nil {
					r.Value, r.ValueString = o.says.convert(r.Value), ""
				}
			}
		}
		r.DeviceID, r.ObservedAt, r.Quality, r.Attributes = p.at.device, p.at.observed, p.at.quality, p.at.attributes
		r.ReceivedAt, r.EventSource, r.EventID = p.m.ReceivedAt, p.m.Source, p.m.ID
		p.identify(r)
	}
	p.origins = p.origins[:0]
}

// known gives what is known of a name.
func (p *Parser) known(path []byte) (*name, error) {
	if n := p.names[string(path)]; n != nil {
		return n, nil
	}
	if len(path) > maxName {
		return nil, fmt.Errorf("the name %s has %d bytes, at most %d are read", quote(path), len(path), maxName)
	}
	n := &name{text: string(path)}
	folded := fold(path)
	n.role = roles[folded]
	if says, ok := p.dictionary.spellings[folded]; ok {
		m := p.metrics[says.metric]
		if m == nil {
			m = &metric{text: says.metric}
			p.metrics[says.metric] = m
		}
		n.says, n.mapped, n.literal = says, m, n.text == m.text
	}
	p.names[n.text] = n
	return n, nil
}

// text gives a string of a payload, one copy for all that are equal: devices
// send the same few over and over.
func (p *Parser) text(chars []byte) string {
	if s, ok := p.texts[string(chars)]; ok {
		return s
	}
	s := string(chars)
	if len(s) <= 64 {
		p.texts[s] = s
	}
	return s
}
