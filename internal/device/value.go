package device

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/mesh"
)

// name is what a Parser knows of a name.
type name struct {
	text    string
	role    role     // as a member of the outermost object
	asks    bits     // the readers that an object with such a member may be for
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
	own     *name // what it is called if the dictionary does not apply
	says    *name // what the dictionary is asked for
	convert func(float64) float64
	applies bool // the dictionary, to the value too
}

// term is what a name means in a format, where that is not what the dictionary
// says, or nothing.
type term struct {
	as   string // the name to ask the dictionary for; empty: the name itself
	unit string // UCUM code; empty: what the dictionary says
}

// begin starts an object: what has its device and time in common. A reader
// whose message holds several ends one by finish and begins the next.
func (p *Parser) begin() {
	p.object++
	p.path = p.path[:0]
	p.at = at{}
	p.origins = p.origins[:0]
	p.attributes = append(p.attributes[:0], p.common...)
	p.terms, p.below = nil, 0
}

// finish names the readings of the object, which are the last of out, by the
// dictionary and gives them what they have in common, and their ids.
func (p *Parser) finish() {
	for _, o := range p.origins {
		if o.own.literal {
			o.own.mapped.object, o.own.mapped.of = p.object, o.own
		}
	}
	attributes := ""
	if len(p.attributes) > 0 && len(p.origins) > 0 {
		attributes = string(append(p.attributes, '}'))
	}
	readings := p.out[len(p.out)-len(p.origins):]
	for i, o := range p.origins {
		r := &readings[i]
		if o.applies {
			m := o.says.mapped
			if m.object != p.object {
				m.object, m.of = p.object, o.own
			}
			if m.of == o.own {
				r.Metric, r.Unit = m.text, o.says.says.unit
				if o.convert != nil {
					r.Value, r.ValueString = o.convert(r.Value), ""
				}
				if r.Kind == mesh.Number && !o.says.says.plausible(r.Value) {
					r.Quality = mesh.SuspectRange
				}
			}
		}
		if r.Quality == mesh.QualityOK {
			r.Quality = p.at.quality
		}
		r.DeviceID, r.ObservedAt, r.Attributes = p.at.device, p.at.observed, attributes
		r.ReceivedAt, r.EventSource, r.EventID = p.m.ReceivedAt, p.m.Source, p.m.ID
		p.identify(r)
	}
	p.origins = p.origins[:0]
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
		if id = p.m.Attributes[deviceAttributes[i]]; isEUI([]byte(deviceAttributes[i])) {
			id = devEUI(id)
		}
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
// IoT Core and its heirs, ChirpStack, and MQTT, where a topic that nothing else
// is known of is whose it is.
var deviceAttributes = [...]string{"deviceId", "device_id", "devEui", "dev_eui", "deviceNumId", topic}

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
	outer := p.push(last)
	var err error
	if k < object {
		err = p.value(c, p.path)
	} else if value, unit := p.doc.quantity(c); value != 0 && len(p.path) > 0 {
		err = p.quantity(c, value, unit)
	} else {
		err = p.members(c)
	}
	p.path = p.path[:outer]
	return err
}

// quantity reads object c, whose value has the name of the object, and a unit.
func (p *Parser) quantity(c, value, unit int32) error {
	told := ""
	if unit != 0 {
		told = ucum(string(p.doc.chars(unit)))
	}
	if err := p.put(value, string(p.path), "", told); err != nil {
		return err
	}
	for m := c + 1; m < p.doc.end(c); m = p.doc.end(m) {
		if m == value || m == unit || string(p.doc.name(m)) == "displayName" {
			continue
		}
		if err := p.member(m, p.doc.name(m)); err != nil {
			return err
		}
	}
	return nil
}

// push appends a name to p.path and gives the length it had.
func (p *Parser) push(last []byte) int {
	outer := len(p.path)
	if outer > 0 && len(last) > 0 {
		p.path = append(p.path, '_')
	}
	p.path = append(p.path, last...)
	return outer
}

// value reads value c, which is no container.
func (p *Parser) value(c int32, path []byte) error {
	if p.doc.kind(c) == null || len(path) == 0 {
		p.skipped++
		return nil
	}
	if t, ok := p.terms[string(path[min(p.below, len(path)):])]; ok {
		return p.put(c, string(path), t.as, t.unit)
	}
	n, err := p.known(path)
	if err != nil {
		return p.fault(c, "%w", err)
	}
	return p.named(c, n, n, "")
}

// put reads value c, which may be a container or null, by the name that a
// reader has for it. The dictionary is asked for the name as, own if that is
// empty; unit is the UCUM unit that the message tells, empty if it does not.
func (p *Parser) put(c int32, own, as, unit string) error {
	switch k := p.doc.kind(c); {
	case k == null || k < object && own == "":
		p.skipped++
		return nil
	case k >= object:
		outer := p.push([]byte(own))
		err := p.members(c)
		p.path = p.path[:outer]
		return err
	}
	n, says, err := p.pair(own, as)
	if err != nil {
		return p.fault(c, "%w", err)
	}
	return p.named(c, n, says, unit)
}

func (p *Parser) pair(own, as string) (n, says *name, err error) {
	if n, err = p.called(own); err != nil || as == "" {
		return n, n, err
	}
	says, err = p.called(as)
	return n, says, err
}

// named reads value c, which is not null and no container.
func (p *Parser) named(c int32, n, says *name, unit string) error {
	var r mesh.Reading
	switch p.doc.kind(c) {
	case number:
		if !setNumber(&r, p.doc.raw(c)) {
			p.skipped++
			return nil
		}
	case boolean:
		r.Kind = mesh.Boolean
		if p.doc.raw(c)[0] == 't' {
			r.Value = 1
		}
	case text:
		r.Kind, r.ValueString = mesh.Text, p.text(p.doc.chars(c))
	}
	if err := p.add(r, n, says, unit); err != nil {
		return p.fault(c, "%w", err)
	}
	return nil
}

// setNumber sets the value of r from a number in JSON's notation; false: it is
// beyond float64.
func setNumber(r *mesh.Reading, literal []byte) bool {
	var exact bool
	if r.Value, exact = parseNumber(literal); math.IsInf(r.Value, 0) {
		return false
	} else if !exact {
		r.ValueString = string(literal)
	}
	return true
}

// putReading adds a reading of a payload that is no JSON, of which kind and
// value are set; a NaN and an infinity are skipped. Names and unit are as in
// put.
func (p *Parser) putReading(r mesh.Reading, own, as, unit string) error {
	if own == "" || r.Kind == mesh.Number && (math.IsNaN(r.Value) || math.IsInf(r.Value, 0)) {
		p.skipped++
		return nil
	}
	n, says, err := p.pair(own, as)
	if err != nil {
		return err
	}
	return p.add(r, n, says, unit)
}

// raw is put behind a metric's own name where the number that has it cannot be
// the metric: no average is to mix the two.
const raw = "_raw"

// add adds a reading.
func (p *Parser) add(r mesh.Reading, n, says *name, unit string) error {
	r.Metric = n.text
	o := origin{own: n, says: says, convert: says.says.convert, applies: says.mapped != nil}
	switch r.Kind {
	case mesh.Number:
		if unit != "" {
			r.Unit = unit
			if o.applies {
				o.convert, o.applies = conversion(unit, says.says.unit)
				if !o.applies && says.says.unit != "" {
					r.Quality = mesh.SuspectUnit
				}
			}
		}
		o.applies = o.applies && says.says.believed(r.Value, o.convert)
		if n.literal && !o.applies {
			var err error
			if n, err = p.called(n.text + raw); err != nil {
				return err
			}
			r.Metric, o.own = n.text, n
		}
	case mesh.Boolean:
		o.applies = o.applies && says.says.unit == ""
	case mesh.Text:
		o.applies = false
	}
	switch {
	case n.object == p.object:
		return fmt.Errorf("two values have the name %s", quote(n.text))
	case len(p.out)-p.first >= maxReadings:
		return fmt.Errorf("more than %d readings", maxReadings)
	case len(r.ValueString) > maxText:
		return fmt.Errorf("the text %s has %d bytes, at most %d are read", quote(n.text), len(r.ValueString), maxText)
	}
	n.object = p.object
	p.out = append(p.out, r)
	p.origins = append(p.origins, o)
	return nil
}

// known gives what is known of a name.
func (p *Parser) known(path []byte) (*name, error) {
	if n := p.names[string(path)]; n != nil {
		return n, nil
	}
	return p.learn(string(path))
}

// called is known for those who have the name as a string.
func (p *Parser) called(path string) (*name, error) {
	if n := p.names[path]; n != nil {
		return n, nil
	}
	return p.learn(path)
}

func (p *Parser) learn(path string) (*name, error) {
	if len(path) > maxName {
		return nil, fmt.Errorf("the name %s has %d bytes, at most %d are read", quote(path), len(path), maxName)
	}
	n := &name{text: path, asks: p.marks[path]}
	folded := fold([]byte(path))
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

// scalar gives the string or the number of value c as text; c may be 0, for
// none.
func (p *Parser) scalar(c int32) string {
	switch p.doc.kind(c) {
	case text:
		return p.text(p.doc.chars(c))
	case number:
		return p.text(p.doc.raw(c))
	}
	return "" // the root among them, which is an object or an array
}

// time takes the time of the object from the first of some values that says
// one, 0 is none, else from what the transport says.
func (p *Parser) time(values ...int32) error {
	for _, c := range values {
		if c == 0 {
			continue
		}
		var s []byte
		switch k := p.doc.kind(c); k {
		case text:
			s = p.doc.chars(c)
		case number:
			s = p.doc.raw(c)
		default:
			return p.fault(c, "time %s is %s", quote(p.doc.name(c)), k)
		}
		at, set, err := parseTime(s, p.zone)
		if err != nil {
			return p.fault(c, "time %s: %w", quote(p.doc.name(c)), err)
		}
		if set {
			p.observed(at)
			return nil
		}
	}
	return p.untimed()
}

// maxAhead is how far a device's clock may be ahead of the one that received it, in
// µs: five minutes, which RFC 4120 (Kerberos) allows by default.
const maxAhead = 5 * 60e6

// observed takes a time that the payload tells.
func (p *Parser) observed(at mesh.Instant) {
	p.at.observed, p.at.quality = at, mesh.QualityOK
	if at > p.m.ReceivedAt+maxAhead {
		p.at.quality = mesh.SuspectClock
	}
}

// untimed takes the time of the object from what the transport says.
func (p *Parser) untimed() error {
	p.at.observed, p.at.quality = p.m.ReceivedAt, mesh.QualityNoTime
	s := p.m.Attributes["time"]
	if s == "" && p.m.Attributes["retain"] == "true" {
		return errors.New("a retained message without a time: it was measured before it was received, and nobody knows when")
	}
	if s != "" {
		at, set, err := parseTime([]byte(s), nil)
		if err != nil {
			return fmt.Errorf("attribute time: %w", err)
		}
		if set {
			p.observed(at)
		}
	}
	return nil
}

// maxAttributes, in bytes, since every reading of the object repeats them.
const maxAttributes = 1024

// attribute gives the readings of the object an attribute, if there is room for
// it: JSON value c, which may be 0, for none.
func (p *Parser) attribute(name string, c int32) {
	if c != 0 && p.doc.kind(c) != null {
		p.attributeJSON([]byte(name), p.doc.raw(c))
	}
}

// attributeText is attribute for a string from elsewhere.
func (p *Parser) attributeText(name, value string) {
	if quoted, err := jsontext.AppendQuote(nil, value); err == nil && value != "" {
		p.attributeJSON([]byte(name), quoted)
	}
}

func (p *Parser) attributeJSON(name, raw []byte) {
	before := len(p.attributes)
	if before+len(name)+len(raw) >= maxAttributes {
		p.skipped++
		return
	}
	b := append(p.attributes, ',')
	b[0] = '{'
	b, err := jsontext.AppendQuote(b, name)
	b = append(b, ':')
	again := before > 0 && bytes.Contains(b[:before], b[before+1:]) // one that the outer message has
	b = append(b, raw...)
	if len(b) >= maxAttributes || err != nil || again {
		b = b[:before]
	}
	p.attributes = b
}
