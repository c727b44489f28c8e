package device

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/mesh"
)

// role is what a member of the outermost object may be besides a metric. Of
// several members for one role the lowest rank has it; the others are metrics.
type role struct {
	of   roleOf
	rank int
}

type roleOf uint8

const (
	ofMetric roleOf = iota
	ofDevice
	ofTime
)

// roles are by folded name. Not among them are names that as often mean
// something else: device (a model), id (of a message), mac, name, date.
var roles = func() map[string]role {
	m := map[string]role{}
	for rank, name := range []string{"deviceid", "deveui", "deviceeui", "deviceuid", "sensorid", "nodeid", "serialnumber", "serialno", "serial"} {
		m[name] = role{ofDevice, rank}
	}
	for rank, name := range []string{"observedat", "timestamp", "time", "ts", "datetime", "measuredat", "eventtime"} {
		m[name] = role{ofTime, rank}
	}
	return m
}()

// maxAttributes, in bytes, since every reading of the message repeats them.
const maxAttributes = 1024

// readJSON reads an object of whatever form. Its device and time are the
// members that are named so. With a member "metrics" that is an object, the
// plain form
//
//	{"deviceId": …, "timestamp": …, "metrics": {…}}
//
// the metrics are what that one holds, and the other members go into the
// readings' attributes, as many as there is room for. Without it all other
// members are metrics.
func (p *Parser) readJSON(i int32) error {
	d := &p.doc
	p.due++
	p.top = p.top[:0]
	var device, time, metrics int32
	var deviceRank, timeRank int
	for c := i + 1; c < d.end(i); c = d.end(c) {
		k := d.kind(c)
		if k == object && string(d.name(c)) == "metrics" {
			metrics = c
		}
		n, err := p.known(d.name(c))
		if err != nil {
			return err
		}
		p.top = append(p.top, n)
		switch r := n.role; {
		case r.of == ofDevice && (k == number || k == text && len(d.chars(c)) > 0) && (device == 0 || r.rank < deviceRank):
			device, deviceRank = c, r.rank
		case r.of == ofTime && k != null && (time == 0 || r.rank < timeRank):
			time, timeRank = c, r.rank
		}
	}
	if err := p.device(p.scalar(device)); err != nil {
		return err
	}
	if err := p.time(time); err != nil {
		return err
	}
	if metrics != 0 {
		p.at.attributes = p.others(i, device, time, metrics)
		return p.members(metrics)
	}
	for c, at := i+1, 0; c < d.end(i); c, at = d.end(c), at+1 {
		var err error
		switch k := d.kind(c); {
		case c == device || c == time:
		case k == null || k == text && len(d.chars(c)) == 0 && p.top[at].role.of != ofMetric || p.top[at].text == "" && k < object:
			p.skipped++
		case k < object:
			err = p.named(c, p.top[at])
		default:
			err = p.member(c, d.name(c))
		}
		if err != nil {
			return err
		}
	}
	return nil
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
	p.at.observed, p.at.quality = p.m.ReceivedAt, mesh.QualityNoTime
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
			return fmt.Errorf("time %s is %s", quote(p.doc.name(c)), k)
		}
		at, set, err := parseTime(s)
		if err != nil {
			return fmt.Errorf("time %s: %w", quote(p.doc.name(c)), err)
		}
		if set {
			p.at.observed, p.at.quality = at, mesh.QualityOK
			return nil
		}
	}
	if s := p.m.Attributes["time"]; s != "" {
		at, set, err := parseTime([]byte(s))
		if err != nil {
			return fmt.Errorf("attribute time: %w", err)
		}
		if set {
			p.at.observed, p.at.quality = at, mesh.QualityOK
		}
	}
	return nil
}

// others gives the members of object i besides three of them as an object.
func (p *Parser) others(i, device, time, metrics int32) string {
	d := &p.doc
	b := append(p.scratch[:0], '{')
	for c := i + 1; c < d.end(i); c = d.end(c) {
		if c == device || c == time || c == metrics || d.kind(c) == null {
			continue
		}
		before := len(b)
		if before > 1 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, d.name(c)) // no error: document has checked the UTF-8
		b = append(append(b, ':'), d.raw(c)...)
		if len(b) >= maxAttributes {
			b = b[:before]
		}
	}
	p.scratch = b
	if len(b) == 1 {
		return ""
	}
	return string(append(b, '}'))
}
