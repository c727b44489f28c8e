package device

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// sparkplug reads Sparkplug B, in protobuf and as gateways that decode it show
// it in JSON: https://sparkplug.eclipse.org/specification/version/3.0/documents/sparkplug-specification-3.0.0.pdf
var sparkplug = reader{
	format: "sparkplug-b",
	sent:   func(m *mesh.Message) bool { return matches(m, sparkplugSpace+"/#") },
	shaped: func(d *document, i int32) bool {
		metrics := d.member(i, "metrics")
		if metrics == 0 || d.kind(metrics) != array || d.end(metrics) == metrics+1 || d.kind(metrics+1) != object {
			return false
		}
		first := metrics + 1
		return (d.member(first, "name") != 0 || d.member(first, "alias") != 0) && (d.member(first, "datatype") != 0 || d.member(first, "dataType") != 0)
	},
	marks: []string{"metrics"},
	own:   []string{"timestamp"},
	raw:   (*Parser).readSparkplug,
	read:  (*Parser).readSparkplugJSON,
}

// sparkplugSpace is the first level of all topics.
const sparkplugSpace = "spBv1.0"

// sparkplugNames is the attribute that says what a birth certificate told of
// the metrics of a data message. It is a JSON object; its members are by alias,
// or by the name behind a colon, arrays of name, datatype, unit and whether
// another metric of the device has the same last part of the name; what is
// empty at an array's end is left out. A JSON string says why there is none.
const sparkplugNames = "sparkplug_names"

// sparkplugTopic is spBv1.0/GROUP/KIND/NODE[/DEVICE].
type sparkplugTopic struct{ group, kind, node, device string }

// topicOfSparkplug gives the parts of a message's topic; none, where it is no
// topic of Sparkplug. Kind is empty for STATE, which is of host applications.
func topicOfSparkplug(m *mesh.Message) (t sparkplugTopic, ok bool, err error) {
	rest, ok := strings.CutPrefix(m.Attributes[topic], sparkplugSpace+"/")
	if !ok || rest == "" {
		return t, false, nil
	}
	t.group, rest, _ = strings.Cut(rest, "/")
	t.kind, rest, _ = strings.Cut(rest, "/")
	if t.group == "STATE" || t.kind == "STATE" {
		return sparkplugTopic{}, true, nil
	}
	t.node, t.device, ok = strings.Cut(rest, "/")
	if strings.Contains(t.device, "/") || ok && t.device == "" {
		t.kind = ""
	}
	ok = false
	switch t.kind {
	case "NBIRTH", "NDATA", "NDEATH", "NCMD":
		ok = t.device == "" && t.node != ""
	case "DBIRTH", "DDATA", "DDEATH", "DCMD":
		ok = t.device != "" && t.node != ""
	}
	if !ok {
		return t, true, fmt.Errorf("the topic %s is not %s/GROUP/KIND/NODE or, for a device, %[2]s/GROUP/KIND/NODE/DEVICE", quote(m.Attributes[topic]), sparkplugSpace)
	}
	return t, true, nil
}

// measures says whether messages of the topic do.
func (t sparkplugTopic) measures() bool {
	return strings.HasSuffix(t.kind, "BIRTH") || strings.HasSuffix(t.kind, "DATA")
}

// sparkplugDevice is the device as readings name it.
func (p *Parser) sparkplugDevice(t sparkplugTopic) string {
	id := p.joined(t.group, "/", t.node)
	if t.device != "" {
		id = p.joined(id, "/", t.device)
	}
	return id
}

// metricB is a metric of a payload.
type metricB struct {
	at        int    // the byte of the payload where it begins, or its JSON value
	name      string // empty: told by alias alone
	alias     uint64
	aliased   bool
	time      mesh.Instant
	timed     bool
	datatype  uint64
	transient bool
	null      bool
	unit      string // as sent
	quality   int64  // of properties: 192 is good
	kind      valueB
	bits      uint64 // of a number or a boolean
	text      []byte
	value     int32 // JSON: a value that tells its kind itself

	shared bool // another metric has the same last part of the name
}

// valueB is the field of protobuf, or what stands for it, that a value is in.
type valueB uint8

const (
	noValue valueB = iota
	intValue
	longValue
	floatValue
	doubleValue
	booleanValue
	stringValue
	otherValue // bytes, a DataSet, a Template, an extension
	jsonValue
)

// Datatypes of the specification; from DataSet on they are no scalars.
const (
	typeInt8 = 1 + iota
	typeInt16
	typeInt32
	typeInt64
	typeUInt8
	typeUInt16
	typeUInt32
	typeUInt64
	typeFloat
	typeDouble
	typeBoolean
	typeString
	typeDateTime
	typeText
	typeUUID
	typeDataSet
)

const goodQuality = 192

// payloadB is a payload.
type payloadB struct {
	time    mesh.Instant
	timed   bool
	seq     int // -1: not told
	metrics []metricB
}

// isUnit says whether a property is the engineering unit; the specification
// leaves its name to vendors, who call it engUnit.
func isUnit(key []byte) bool {
	folded := fold(key)
	return folded == "engunit" || folded == "engunits" || folded == "engineeringunit" || folded == "engineeringunits"
}

// readSparkplug reads a payload in protobuf. The device is GROUP/NODE or
// GROUP/NODE/DEVICE, from the topic. Births and data measure; deaths, commands
// and STATE do not, nor do bdSeq and Node Control/…, which are for the session.
//
// A metric has its name as it was sent; the dictionary is asked for it, then
// for its last part, if that is no other metric's too: Room 1/CO2 is co2 where
// there is no Room 2/CO2. Its unit is the property engUnit; one that nobody
// knows is shown as {unit}, so that it is not taken for the dictionary's. Its
// time is its own, else the payload's. What the property Quality says, unless
// it is good, is an attribute.
//
// A float is the shortest decimal that tells it from its neighbours, as
// everybody prints it. null and transient metrics, which are not meant to be
// stored, and values that are no scalars are skipped.
//
// What data messages leave out, the names above all, has to be told by the
// attribute sparkplug_names, which Births sets; without it a message with an
// alias alone is rejected.
func (p *Parser) readSparkplug() (isJSON bool, err error) {
	t, known, err := topicOfSparkplug(p.m)
	if err != nil || known && !t.measures() {
		return false, err
	}
	if opensJSON(p.m.Payload) {
		return true, nil
	}
	payload, err := decodeB(p.m.Payload, p.text)
	if err != nil {
		return false, err
	}
	return false, p.sparkplug(t, &payload)
}

// readSparkplugJSON reads a payload that a gateway decoded. The type of its
// values is what JSON says; a number may be a string, as protobuf's own JSON
// has them.
func (p *Parser) readSparkplugJSON(i int32) error {
	t, _, err := topicOfSparkplug(p.m)
	if err != nil {
		return err
	}
	d := p.doc
	metrics := d.member(i, "metrics")
	if metrics == 0 || d.kind(metrics) != array {
		return p.fault(i, "no array metrics")
	}
	var payload payloadB
	if payload.time, payload.timed, err = p.millisJSON(d.member(i, "timestamp")); err != nil {
		return err
	}
	for c := metrics + 1; c < d.end(metrics); c = d.end(c) {
		if d.kind(c) != object {
			return p.fault(c, "a metric is %s, not an object", d.kind(c))
		}
		if len(payload.metrics) == maxReadings {
			return p.fault(c, "more than %d metrics", maxReadings)
		}
		m := metricB{at: int(d.nodes[c].raw.from), quality: goodQuality}
		if err := p.metricJSON(&m, c); err != nil {
			return err
		}
		payload.metrics = append(payload.metrics, m)
	}
	return p.sparkplug(t, &payload)
}

func (p *Parser) millisJSON(c int32) (at mesh.Instant, set bool, err error) {
	if c == 0 {
		return 0, false, nil
	}
	if k := p.doc.kind(c); k != number && k != text {
		return 0, false, p.fault(c, "timestamp is %s", k)
	}
	s := p.scalar(c)
	if ms, err := strconv.ParseUint(s, 10, 64); err == nil {
		at, set, err = millis(ms)
		if err != nil {
			return 0, false, p.fault(c, "%w", err)
		}
		return at, set, nil
	}
	if at, set, err = parseTime([]byte(s), p.zone); err != nil {
		return 0, false, p.fault(c, "timestamp: %w", err)
	}
	return at, set, nil
}

func (p *Parser) metricJSON(m *metricB, i int32) (err error) {
	d := p.doc
	for c := i + 1; c < d.end(i); c = d.end(c) {
		is := d.kind(c) == boolean && d.raw(c)[0] == 't'
		switch name := string(d.name(c)); name {
		case "name":
			m.name = p.scalar(c)
		case "alias":
			if m.alias, err = strconv.ParseUint(p.scalar(c), 10, 64); err != nil && d.kind(c) != null {
				return p.fault(c, "alias %s is no whole number", quote(d.raw(c)))
			}
			m.aliased = d.kind(c) != null
		case "timestamp":
			if d.kind(c) != null {
				if m.time, m.timed, err = p.millisJSON(c); err != nil {
					return err
				}
			}
		case "datatype", "dataType":
			m.datatype = datatypeOf(p.scalar(c))
		case "is_transient", "isTransient":
			m.transient = is
		case "is_null", "isNull":
			m.null = is
		case "properties":
			p.propertiesJSON(m, c)
		case "int_value", "intValue", "long_value", "longValue":
			if m.bits, err = strconv.ParseUint(p.scalar(c), 10, 64); err != nil {
				m.kind, m.value = jsonValue, c // negative, then: as it is meant
			} else if m.kind = longValue; strings.HasPrefix(name, "int") {
				m.kind = intValue
			}
		case "value", "float_value", "floatValue", "double_value", "doubleValue", "boolean_value", "booleanValue", "string_value", "stringValue":
			m.kind, m.value = jsonValue, c
			switch k := d.kind(c); {
			case k == null:
				m.null = true
			case k >= object:
				m.kind = otherValue
			}
		case "bytes_value", "bytesValue", "dataset_value", "datasetValue", "template_value", "templateValue":
			m.kind = otherValue
		}
	}
	return nil
}

func (p *Parser) propertiesJSON(m *metricB, i int32) {
	d := p.doc
	if d.kind(i) != object {
		return
	}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		value := c
		if d.kind(c) == object {
			if value = d.member(c, "value"); value == 0 {
				continue
			}
		}
		switch name := d.name(c); {
		case isUnit(name) && d.kind(value) == text:
			m.unit = string(d.chars(value))
		case string(name) == "Quality" && d.kind(value) == number:
			q, _ := parseNumber(d.raw(value))
			m.quality = int64(max(-1, min(q, math.MaxInt32)))
		}
	}
}

// datatypeOf gives a datatype by its number or a name of it, 0 for others.
func datatypeOf(s string) uint64 {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return n
	}
	s = strings.ToLower(s)
	switch {
	case s == "integer":
		return typeInt64
	case s == "dataset" || s == "bytes" || s == "file" || s == "template" || strings.HasPrefix(s, "propertyset") || strings.HasSuffix(s, "array"):
		return typeDataSet
	}
	return uint64(slices.Index([]string{"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double", "boolean", "string", "datetime", "text", "uuid"}, s) + 1)
}

// sparkplug makes readings of a payload.
func (p *Parser) sparkplug(t sparkplugTopic, payload *payloadB) error {
	told, none, err := definitions(p.m.Attributes[sparkplugNames])
	if err != nil {
		return err
	}
	device := ""
	if t != (sparkplugTopic{}) {
		device = cmp.Or(p.m.DeviceID, p.sparkplugDevice(t))
	}
	begin := func(m *metricB) error {
		if err := p.device(device); err != nil {
			return err
		}
		if m.quality != goodQuality {
			p.attributeJSON([]byte("quality"), strconv.AppendInt(nil, m.quality, 10))
		}
		switch {
		case m.timed:
			p.observed(m.time)
		case payload.timed:
			p.observed(payload.time)
		default:
			return p.untimed()
		}
		return nil
	}
	// First the names: whether the last part is another's too depends on all.
	shared := map[*metric]*metricB{}
	for i := range payload.metrics {
		m := &payload.metrics[i]
		d, ok := definition{}, false
		switch {
		case m.name != "":
			if d, ok = told[":"+m.name]; !ok {
				d.name = m.name
			}
		case !m.aliased:
			return fault(m.at, "metric %d has neither name nor alias", i)
		default:
			if d, ok = told[strconv.FormatUint(m.alias, 10)]; !ok && !m.null {
				if none != "" {
					return fault(m.at, "alias %d: %s", m.alias, none)
				}
				return fault(m.at, "alias %d: no birth certificate seen of the metric: only who is subscribed to the births of %s knows its name", m.alias, quote(device))
			}
			m.name = d.name
		}
		m.datatype, m.unit = cmp.Or(m.datatype, d.datatype), cmp.Or(m.unit, d.unit)
		m.shared = d.shared
		if m.name == "" { // null
			continue
		}
		last, err := p.called(lastPart(m.name))
		if err != nil {
			return fault(m.at, "%w", err)
		}
		if other := shared[last.mapped]; last.mapped != nil && other == nil {
			shared[last.mapped] = m
		} else if last.mapped != nil && other.name != m.name {
			other.shared = true
		}
	}
	var last *metricB
	for i := range payload.metrics {
		m := &payload.metrics[i]
		if ofSession(m.name) {
			continue
		}
		if m.null || m.transient || m.kind == noValue {
			p.skipped++
			continue
		}
		p.due++
		if m.kind == otherValue || m.datatype >= typeDataSet {
			p.skipped++
			continue
		}
		if last == nil || last.time != m.time || last.timed != m.timed || last.quality != m.quality {
			if last != nil {
				p.finish()
				p.begin()
			}
			if err := begin(m); err != nil {
				return err
			}
			last = m
		}
		if err := p.metricB(m, shared); err != nil {
			return err
		}
	}
	return nil
}

// ofSession says whether a metric is of the session and not of the device.
func ofSession(name string) bool {
	return name == "bdSeq" || strings.HasPrefix(name, "Node Control/") || strings.HasPrefix(name, "Device Control/")
}

// lastPart gives what stands behind the last slash of a metric's name.
func lastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// metricB adds the reading of a metric.
func (p *Parser) metricB(m *metricB, shared map[*metric]*metricB) error {
	as := ""
	n, err := p.called(m.name)
	if err != nil {
		return fault(m.at, "%w", err)
	}
	last, err := p.called(lastPart(m.name))
	if err != nil {
		return fault(m.at, "%w", err)
	}
	if first := shared[last.mapped]; n.mapped == nil && !m.shared && first != nil && !first.shared {
		as = last.text
	}
	unit := toldUnit(m.unit)
	var r mesh.Reading
	literal := [32]byte{}
	switch m.kind {
	case jsonValue:
		if s := p.doc.chars(m.value); p.doc.kind(m.value) == text && (m.datatype >= typeInt8 && m.datatype <= typeDouble || m.datatype == typeDateTime) {
			if !isLiteral(s) {
				return p.fault(m.value, "%s: the value %s is no number, though its datatype is one", quote(m.name), quote(s))
			}
			if !setNumber(&r, s) {
				p.skipped++
				return nil
			}
			break
		}
		return p.put(m.value, m.name, as, unit)
	case intValue, longValue:
		b, err := integer(literal[:0], m)
		if err != nil {
			return fault(m.at, "%s: %w", quote(m.name), err)
		}
		if m.datatype == typeBoolean {
			r.Kind, r.Value = mesh.Boolean, float64(min(m.bits, 1))
			break
		}
		setNumber(&r, b)
	case floatValue, doubleValue:
		v, size := math.Float64frombits(m.bits), 64
		if m.kind == floatValue {
			v, size = float64(math.Float32frombits(uint32(m.bits))), 32
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			p.skipped++
			return nil
		}
		setNumber(&r, strconv.AppendFloat(literal[:0], v, 'g', -1, size))
	case booleanValue:
		r.Kind, r.Value = mesh.Boolean, float64(min(m.bits, 1))
	default:
		r.Kind, r.ValueString = mesh.Text, p.text(m.text)
	}
	if err := p.putReading(r, m.name, as, unit); err != nil {
		return fault(m.at, "%w", err)
	}
	return nil
}

// integer appends a whole number as its datatype has it: the fields are
// unsigned, negative numbers stand in them as two's complement. Some senders
// fill all the field's bits, some those of the datatype.
func integer(b []byte, m *metricB) ([]byte, error) {
	switch m.datatype {
	case typeInt8:
		return strconv.AppendInt(b, int64(int8(m.bits)), 10), nil
	case typeInt16:
		return strconv.AppendInt(b, int64(int16(m.bits)), 10), nil
	case typeInt32:
		return strconv.AppendInt(b, int64(int32(m.bits)), 10), nil
	case typeInt64:
		return strconv.AppendInt(b, int64(m.bits), 10), nil
	case typeUInt8, typeUInt16, typeUInt32, typeUInt64, typeDateTime, typeBoolean:
		return strconv.AppendUint(b, m.bits, 10), nil
	}
	if ambiguous(m) {
		return nil, fmt.Errorf("%d may be a negative number: no datatype, and no birth certificate seen of the metric", m.bits)
	}
	return strconv.AppendUint(b, m.bits, 10), nil
}

// ambiguous says whether only the datatype can tell a number: from 128 on it
// may be a negative Int8.
func ambiguous(m *metricB) bool {
	return (m.kind == intValue || m.kind == longValue) && m.bits > math.MaxInt8 && m.datatype == 0
}
