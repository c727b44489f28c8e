package device

import (
	"bytes"
	"cmp"
	"net/textproto"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/mesh"
)

// sensorCommunity reads what airRohr stations of sensor.community send: to
// one's own API all they have, to the community's API what one sensor has:
// https://github.com/opendata-stuttgart/meta/wiki/APIs
var sensorCommunity = reader{
	format: "sensor-community",
	shaped: func(d *document, i int32) bool {
		values := d.member(i, "sensordatavalues")
		return values != 0 && d.kind(values) == array
	},
	marks: []string{"sensordatavalues"},
	own:   []string{},
	read:  (*Parser).readSensorCommunity,
}

// sensorCommunityTerms are what a sensor measures, by what comes behind the
// sensor in a value type, as in BME280_pressure; the sensor says which of
// several it was, and is no part of what is measured.
var sensorCommunityTerms = map[string]term{
	"P0":             {"pm1", "ug/m3"},
	"P1":             {"pm10", "ug/m3"},
	"P2":             {"pm2_5", "ug/m3"},
	"P4":             {"pm4", "ug/m3"},
	"temperature":    {"temperature", "Cel"},
	"humidity":       {"relative_humidity", "%"},
	"pressure":       {"pressure", "Pa"},
	"co2_ppm":        {"co2", "ppm"},
	"noise_LAeq":     {"sound_level", "dB"},
	"noise_LA_min":   {"", "dB"},
	"noise_LA_max":   {"", "dB"},
	"lat":            {"", "deg"},
	"lon":            {"", "deg"},
	"height":         {"", "m"},
	"N05":            {"", "/cm3"},
	"N1":             {"", "/cm3"},
	"N25":            {"", "/cm3"},
	"N4":             {"", "/cm3"},
	"N10":            {"", "/cm3"},
	"TS":             {"", "um"},
	"counts_per_min": {"", "/min"},
}

// sensorCommunityOwn are the value types by which a station tells of itself.
var sensorCommunityOwn = map[string]term{
	"signal":    {"device_rssi", "dB{mW}"},
	"samples":   {},
	"min_micro": {"", "us"},
	"max_micro": {"", "us"},
	"interval":  {"", "ms"},
}

// readSensorCommunity reads the values of a station, which are numbers written
// as strings; what else a string holds is a text, and nan is skipped. The
// device is esp8266-ID, as the community knows it, from the payload or from
// the header X-Sensor of a push. A station tells no time.
func (p *Parser) readSensorCommunity(i int32) error {
	d := p.doc
	p.due++
	values := d.member(i, "sensordatavalues")
	if values == 0 || d.kind(values) != array {
		return p.fault(i, "no array sensordatavalues")
	}
	id := p.scalar(d.member(i, "esp8266id"))
	if id != "" && !strings.HasPrefix(id, "esp") {
		id = p.joined("esp8266-", id, "")
	}
	if id == "" {
		id = header(p.m, "x-sensor")
	}
	if err := p.device(id); err != nil {
		return err
	}
	if err := p.untimed(); err != nil {
		return err
	}
	p.attribute("software_version", d.member(i, "software_version"))
	p.attributeText("pin", header(p.m, "x-pin"))
	index := 0
	for c := values + 1; c < d.end(values); c = d.end(c) {
		kind, value := d.member(c, "value_type"), d.member(c, "value")
		switch {
		case kind == 0 || d.kind(kind) != text:
			return p.fault(c, "element %d of sensordatavalues has no value_type", index)
		case value == 0:
			p.skipped++
		case d.kind(value) >= object:
			return p.fault(value, "the value of %s is %s", quote(d.chars(kind)), d.kind(value))
		default:
			if err := p.sensorValue(p.text(d.chars(kind)), value); err != nil {
				return p.fault(c, "%w", err)
			}
		}
		index++
	}
	return nil
}

func (p *Parser) sensorValue(kind string, value int32) error {
	own := kind
	t, ok := sensorCommunityOwn[kind]
	if ok {
		own = p.joined("device_", kind, "")
	} else if t, ok = sensorCommunityTerms[kind]; !ok {
		_, last, _ := strings.Cut(kind, "_")
		t = sensorCommunityTerms[last]
	}
	chars := p.doc.chars(value)
	if p.doc.kind(value) != text {
		return p.put(value, own, t.as, t.unit)
	}
	var r mesh.Reading
	switch s := bytes.TrimSpace(chars); {
	case isLiteral(s):
		if !setNumber(&r, s) {
			p.skipped++
			return nil
		}
	case len(s) == 0 || bytes.EqualFold(s, []byte("nan")) || bytes.EqualFold(s, []byte("inf")) || bytes.EqualFold(s, []byte("null")):
		p.skipped++
		return nil
	default:
		r.Kind, r.ValueString = mesh.Text, p.text(chars)
	}
	return p.putReading(r, own, t.as, t.unit)
}

// isLiteral says whether a string is a number as JSON writes it.
func isLiteral(s []byte) bool {
	return jsontext.Value(s).Kind() == '0' && jsontext.Value(s).IsValid()
}

// header gives a header of the request that brought a message, which transports
// name in several ways.
func header(m *mesh.Message, name string) string {
	return cmp.Or(m.Attributes[name], m.Attributes[textproto.CanonicalMIMEHeaderKey(name)], m.Attributes[strings.ReplaceAll(name, "-", "_")])
}
