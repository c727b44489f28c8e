package device

import (
	"bytes"
	"strconv"

	"github.com/telemesh/telemesh/internal/mesh"
)

// awsShadow reads the documents of a thing's shadow in AWS IoT, classic and
// named: updates that a device sends, what the service accepts and returns
// (/accepted), and what it publishes about a change (/documents):
// https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-document.html
// They are told by their topic, $aws/things/THING/shadow/…, or by a state that
// holds reported, desired and delta, and nothing else; where it is the current
// one, by what else such a document has, too.
var awsShadow = reader{
	format: "aws-iot-shadow",
	sent:   func(m *mesh.Message) bool { return matches(m, "$aws/things/+/shadow/#") },
	shaped: func(d *document, i int32) bool {
		if current := d.member(i, "current"); current != 0 {
			for c := i + 1; c < d.end(i); c = d.end(c) {
				switch string(d.name(c)) {
				case "previous", "current", "timestamp", "clientToken":
				default:
					return false
				}
			}
			i = current
		}
		state := d.member(i, "state")
		if state == 0 || d.kind(state) != object || d.end(state) == state+1 {
			return false
		}
		for c := state + 1; c < d.end(state); c = d.end(c) {
			switch {
			case !ofShadow(d.name(c)):
				return false
			case d.kind(c) != object && d.kind(c) != null:
				return false
			}
		}
		return true
	},
	marks: []string{"state", "current"},
	own:   []string{"timestamp"},
	raw: func(p *Parser) (isJSON bool, err error) {
		return len(bytes.TrimSpace(p.m.Payload)) > 0, nil // empty: a request to get or to delete
	},
	read: (*Parser).readShadow,
}

// ofShadow says whether a state may have a member of that name.
func ofShadow(name []byte) bool {
	return string(name) == "reported" || string(name) == "desired" || string(name) == "delta"
}

// shadowTerms are of values that tell their time, as devices with Nordic's
// asset tracker write them:
// https://github.com/NordicSemiconductor/asset-tracker-cloud-docs
var shadowTerms = map[string]term{
	"env_temp": {"temperature", "Cel"},
	"env_hum":  {"relative_humidity", "%"},
}

// readShadow reads the reported state of a document. The metrics are the names
// on the way to a value. The device is the thing, which the topic names, else
// the one the transport gives. The name of a named shadow is an attribute.
//
// The time of a value is that of its metadata, which is when the service
// stored it, so that a document which repeats what it said before gives the
// same readings again. A value that the device reports as {"v": VALUE, "ts": MS}
// has the time it tells. Others have the document's timestamp, if it has one.
//
// Desired state, deltas, deletions, refusals and requests measure nothing. What
// is no document is rejected.
func (p *Parser) readShadow(i int32) error {
	d := p.doc
	thing, shadow := "", ""
	if matches(p.m, "$aws/things/+/shadow/#") {
		levels := levelsOf(p.m)
		thing = levels[2]
		if len(levels) > 5 && levels[4] == "name" {
			shadow = levels[5]
		}
		switch last := levels[len(levels)-1]; {
		case last == "delta" || last == "rejected" || last == "get" || last == "delete":
			return nil
		case last == "accepted" && levels[len(levels)-2] == "delete":
			return nil
		}
	}
	timestamp := d.member(i, "timestamp")
	if current := d.member(i, "current"); current != 0 {
		i = current
	}
	state := d.member(i, "state")
	switch {
	case state == 0:
		return p.fault(i, "no document of a shadow: it has no state")
	case d.kind(state) == null:
		return nil
	case d.kind(state) != object:
		return p.fault(state, "the state is %s, not an object", d.kind(state))
	}
	for c := state + 1; c < d.end(state); c = d.end(c) {
		if !ofShadow(d.name(c)) {
			return p.fault(c, "no state of a shadow: %s is neither reported nor desired nor delta", quote(d.name(c)))
		}
	}
	reported := d.member(state, "reported")
	if reported == 0 || d.kind(reported) == null { // deleted
		return nil
	}
	if d.kind(reported) != object {
		return p.fault(reported, "the reported state is %s, not an object", d.kind(reported))
	}
	s := series{p: p}
	if err := s.shadow(reported, d.at(i, "metadata", "reported"), untold); err != nil {
		return err
	}
	if len(s.values) > 0 { // null deletes a value
		p.due++
	}
	return s.put(func() error {
		p.attributeText("shadow", shadow)
		return p.deviceIn(thing)
	}, func() error { return p.time(timestamp) })
}

// shadow adds the values of state c, with the metadata of it; 0 is none.
func (s *series) shadow(c, metadata int32, at mesh.Instant) error {
	p, d := s.p, s.p.doc
	told, terms := c, at != untold
	if value, time, ok := d.stamped(c); ok && len(p.path) > 0 {
		var err error
		if at, err = p.instant(time); err != nil {
			return err
		}
		told, metadata, terms = value, 0, true
	}
	if k := d.kind(told); k < object {
		if _, err := p.known(p.path); err != nil { // before it is copied
			return p.fault(told, "%w", err)
		}
		if metadata != 0 && d.is(number, metadata, "timestamp") {
			var err error
			if at, err = p.instant(d.member(metadata, "timestamp")); err != nil {
				return err
			}
		}
		v := value{node: told, own: p.text(p.path), at: at}
		if terms {
			v.as, v.unit = shadowTerms[v.own].as, shadowTerms[v.own].unit
		}
		return s.add(v)
	}
	along := beside{d: d, i: metadata, next: metadata + 1}
	var index int64
	for e := told + 1; e < d.end(told); e = d.end(e) {
		last := d.name(e)
		if d.kind(told) == array {
			last = strconv.AppendInt(nil, index, 10)
			index++
		}
		outer := p.push(last)
		if err := s.shadow(e, along.of(d.name(e)), at); err != nil {
			return err
		}
		p.path = p.path[:outer]
	}
	return nil
}

// beside finds the parts of container i, 0 is none, which has the form of
// another one, while that is read: mostly they stand in the same order.
type beside struct {
	d      *document
	i      int32
	next   int32
	byName map[string]int32 // nil: not needed so far
}

// of gives the member of that name, the next element of an array; 0 is none.
func (b *beside) of(name []byte) int32 {
	d := b.d
	if b.i == 0 || d.kind(b.i) < object {
		return 0
	}
	if b.next < d.end(b.i) && string(d.name(b.next)) == string(name) {
		c := b.next
		b.next = d.end(c)
		return c
	}
	if b.byName == nil {
		b.byName = map[string]int32{}
		for c := b.i + 1; d.kind(b.i) == object && c < d.end(b.i); c = d.end(c) {
			b.byName[string(d.name(c))] = c
		}
	}
	return b.byName[string(name)]
}

// stamped tells an object that is a value and the time it was measured,
// {"v": …, "ts": ms}, and nothing else.
func (d *document) stamped(i int32) (v, ts int32, ok bool) {
	if d.kind(i) != object {
		return 0, 0, false
	}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		switch name := string(d.name(c)); {
		case name == "v":
			v = c
		case name == "ts" && d.kind(c) == number:
			ts = c
		default:
			return 0, 0, false
		}
	}
	return v, ts, v != 0 && ts != 0
}
