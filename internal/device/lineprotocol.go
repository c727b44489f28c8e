package device

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/influxdata/line-protocol/v2/lineprotocol"

	"github.com/telemesh/telemesh/internal/mesh"
)

// lineProtocol reads InfluxDB's line protocol, which Telegraf and many small
// devices send
// (https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/). It
// has no media type of its own: it is recognized where every line is one.
var lineProtocol = reader{
	format: "line-protocol",
	looks:  isLineProtocol,
	raw:    (*Parser).readLines,
}

func isLineProtocol(payload []byte) bool {
	if bytes.IndexByte(payload, '=') < 0 {
		return false
	}
	lines := lineprotocol.NewDecoderWithBytes(payload[:len(payload):len(payload)])
	n := 0
	for ; lines.Next(); n++ {
		if _, err := lines.Measurement(); err != nil {
			return false
		}
		fields := 0
		for ; ; fields++ {
			key, _, err := lines.NextField()
			if err != nil && !errors.Is(err, lineprotocol.ErrValueOutOfRange) {
				return false
			}
			if key == nil {
				break
			}
		}
		if _, err := lines.TimeBytes(); err != nil || fields == 0 {
			return false
		}
	}
	return n > 0
}

// precisions are how many ns the units of a line's time have, by the names that
// both versions of InfluxDB's interface have for them.
var precisions = map[string]int64{
	"ns": 1, "n": 1, "us": 1e3, "u": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9,
}

// readLines reads lines. Each is an object:
//
//	MEASUREMENT,TAG=VALUE,… FIELD=VALUE,… TIME
//
// The device is the tag named so in plain JSON (device_id, …), else whom the
// transport names, else the tag device, else the tag host, Telegraf's, else the
// topic. The other tags are attributes. A field is called MEASUREMENT_FIELD; the
// dictionary is asked for FIELD, and if it does not know that for the whole. A
// field "value" is what the measurement is.
//
// Two lines that only tags tell apart, of one device, time and name, are
// rejected: they would be one row.
//
// The time is in the unit of the message's attribute precision: ns, us, ms, s.
// Without one it is in ns; then one before 1973 is rejected, which is what a time
// of today in another unit looks like.
func (p *Parser) readLines() (isJSON bool, err error) {
	payload := p.m.Payload[:len(p.m.Payload):len(p.m.Payload)]
	precision, ok := p.m.Attributes["precision"], false
	unit := int64(1)
	if precision != "" {
		if unit, ok = precisions[precision]; !ok {
			return false, fmt.Errorf("attribute precision: %s is none of ns, us, ms and s", quote(precision))
		}
	}
	lines := lineprotocol.NewDecoderWithBytes(payload)
	found := several{from: len(p.out)}
	p.due++
	for n := 1; lines.Next(); n++ {
		p.begin()
		from := -1
		err := p.line(lines, unit, precision == "", &from)
		if err == nil {
			p.finish()
			err = found.check(p)
		}
		if err == nil {
			continue
		}
		if syntax := (*lineprotocol.DecodeError)(nil); errors.As(err, &syntax) {
			return false, fault(lineOffset(payload, syntax), "line %d: %s", syntax.Line, brief(syntax.Err))
		}
		if from < 0 {
			return false, fault(from, "entry %d: %w", n, err)
		}
		return false, fault(from, "line %d: %w", 1+bytes.Count(payload[:from], []byte("\n")), err)
	}
	return false, nil
}

// lineOffset gives the byte of a syntax error.
func lineOffset(payload []byte, err *lineprotocol.DecodeError) int {
	offset := 0
	for range err.Line - 1 {
		offset += bytes.IndexByte(payload[offset:], '\n') + 1
	}
	return min(offset+err.Column-1, len(payload))
}

// partOffset gives the byte at which a part of payload begins, -1 if it is none:
// what had escapes is a copy.
func partOffset(payload, part []byte) int {
	if at := cap(payload) - cap(part); len(part) > 0 && at >= 0 && at < len(payload) && &payload[at] == &part[0] {
		return at
	}
	return -1
}

// line reads the line that lines stands at the start of, and sets from to where
// that is.
func (p *Parser) line(lines *lineprotocol.Decoder, unit int64, assumed bool, from *int) error {
	part, err := lines.Measurement()
	if err != nil {
		return err
	}
	*from = partOffset(p.m.Payload[:len(p.m.Payload):len(p.m.Payload)], part)
	measurement := p.text(part)
	if err := p.tags(lines); err != nil {
		return err
	}
	for {
		key, kind, data, err := lines.NextFieldBytes()
		if err != nil {
			return err
		}
		if key == nil {
			break
		}
		if err := p.field(measurement, p.text(key), kind, data); err != nil {
			return err
		}
	}
	stamp, err := lines.TimeBytes()
	if err != nil {
		return err
	}
	if len(stamp) == 0 {
		return p.untimed()
	}
	t, err := strconv.ParseInt(string(stamp), 10, 64)
	if err != nil || t > math.MaxInt64/unit || t < math.MinInt64/unit {
		return fmt.Errorf("time %s is no number of 64 bits in ns", quote(stamp))
	}
	at := mesh.Instant(t * unit / 1000)
	switch {
	case t < 0 || !InRange(at):
		return fmt.Errorf("time %s is not in the years 1970 to 2261", quote(stamp))
	case assumed && t < 1e17:
		return fmt.Errorf("time %s is %s if it is in ns: say its unit in the attribute precision", quote(stamp), at)
	}
	p.observed(at)
	return nil
}

// tags takes the device and the attributes of a line.
func (p *Parser) tags(lines *lineprotocol.Decoder) error {
	type tag struct{ key, value string }
	var buf [16]tag
	tags := buf[:0]
	device, rank, sure := -1, 0, false
	for {
		key, value, err := lines.NextTag()
		if err != nil {
			return err
		}
		if key == nil {
			break
		}
		t := tag{p.text(key), p.text(value)}
		switch r := roles[fold(key)]; {
		case r.of == ofDevice && (!sure || r.rank < rank):
			device, rank, sure = len(tags), r.rank, true
		case sure:
		case t.key == "device", t.key == "host" && device < 0:
			device = len(tags)
		}
		tags = append(tags, t)
	}
	if !sure && p.told() {
		device = -1
	}
	id := ""
	if device >= 0 {
		id = tags[device].value
	}
	for i, t := range tags {
		if i != device {
			p.attributeText(t.key, t.value)
		}
	}
	return p.device(id)
}

// told says whether the transport names the device, not counting its topic.
func (p *Parser) told() bool {
	if p.m.DeviceID != "" {
		return true
	}
	for _, name := range deviceAttributes {
		if name != topic && p.m.Attributes[name] != "" {
			return true
		}
	}
	return false
}

// field reads a field.
func (p *Parser) field(measurement, key string, kind lineprotocol.ValueKind, data []byte) error {
	value, err := lineprotocol.NewValueFromBytes(kind, data)
	if kind == lineprotocol.Float && errors.Is(err, lineprotocol.ErrValueOutOfRange) {
		p.skipped++
		return nil
	}
	if err != nil {
		return fmt.Errorf("field %s: %s", quote(key), brief(err))
	}
	own := measurement
	if key != "value" {
		own += "_" + key
	}
	as := ""
	if n, err := p.called(key); err != nil {
		return err
	} else if n.mapped != nil {
		as = key
	}
	var r mesh.Reading
	switch kind {
	case lineprotocol.Bool:
		r.Kind = mesh.Boolean
		if value.BoolV() {
			r.Value = 1
		}
	case lineprotocol.String:
		r.Kind, r.ValueString = mesh.Text, p.text(data)
	case lineprotocol.Float:
		if r.Value = value.FloatV(); isJSONNumber(string(data)) {
			setNumber(&r, data)
		}
	default: // the digits of an integer
		setNumber(&r, data)
	}
	return p.putReading(r, own, as, "")
}
