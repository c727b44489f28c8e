package device

import (
	"cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

// airGradient reads what monitors of AirGradient say over their local API and
// publish as airgradient/readings/SERIAL:
// https://github.com/airgradienthq/arduino/blob/master/docs/local-server.md
var airGradient = reader{
	format: "airgradient",
	sent:   func(m *mesh.Message) bool { return matches(m, "airgradient/readings/+") },
	shaped: func(d *document, i int32) bool {
		return d.member(i, "serialno") != 0 &&
			(d.member(i, "rco2") != 0 || d.member(i, "pm02") != 0 || d.member(i, "atmp") != 0 || d.member(i, "tvocIndex") != 0)
	},
	marks: []string{"serialno"},
	own:   []string{"serialno"},
	read:  (*Parser).readAirGradient,
}

// airGradientTerms is what AirGradient says of its measures: the name here, if
// it is another one, the name to ask the dictionary for, and the unit. The
// corrected value of a sensor is no second one of the room, and has a name of
// its own.
var airGradientTerms = map[string]struct{ own, as, unit string }{
	"rco2":            {"", "co2", "ppm"},
	"pm01":            {"", "pm1", "ug/m3"},
	"pm02":            {"", "pm2_5", "ug/m3"},
	"pm10":            {"", "pm10", "ug/m3"},
	"pm02Compensated": {"pm2_5_compensated", "", "ug/m3"},
	"pm01Standard":    {"pm1_standard", "", "ug/m3"},
	"pm02Standard":    {"pm2_5_standard", "", "ug/m3"},
	"pm10Standard":    {"pm10_standard", "", "ug/m3"},
	"pm003Count":      {"", "", "/dL"},
	"pm005Count":      {"", "", "/dL"},
	"pm01Count":       {"", "", "/dL"},
	"pm02Count":       {"", "", "/dL"},
	"pm50Count":       {"", "", "/dL"},
	"pm10Count":       {"", "", "/dL"},
	"atmp":            {"", "temperature", "Cel"},
	"atmpCompensated": {"temperature_compensated", "", "Cel"},
	"rhum":            {"", "relative_humidity", "%"},
	"rhumCompensated": {"relative_humidity_compensated", "", "%"},
	"wifi":            {"device_wifi", "device_rssi", "dB{mW}"},
	"boot":            {"device_boot", "", ""},
	"bootCount":       {"device_boot_count", "", ""},
}

// readAirGradient reads the current measures of a monitor. The device is its
// serial number, else the one in the topic. It tells no time. What it says of
// its channels (monitors with two particle sensors) and satellites has their
// names and units, and never the dictionary's.
func (p *Parser) readAirGradient(i int32) error {
	d := p.doc
	p.due++
	serial := p.scalar(d.member(i, "serialno"))
	if serial == "" && matches(p.m, "airgradient/readings/+") {
		serial = cmp.Or(p.m.DeviceID, levelsOf(p.m)[2])
	}
	if err := p.device(serial); err != nil {
		return err
	}
	if err := p.untimed(); err != nil {
		return err
	}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		var err error
		switch name := p.text(d.name(c)); name {
		case "serialno":
		case "firmware", "firmwareVersion", "model", "fwMode", "ledMode", "monitorDisplayCompensatedValues":
			p.attribute(name, c)
		default:
			t := airGradientTerms[name]
			if d.kind(c) == object {
				err = p.airGradientPart(c, name)
			} else {
				err = p.put(c, cmp.Or(t.own, name), t.as, t.unit)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// airGradientPart reads an object of measures.
func (p *Parser) airGradientPart(i int32, name string) error {
	d := p.doc
	for c := i + 1; c < d.end(i); c = d.end(c) {
		last := p.text(d.name(c))
		own := p.joined(name, "_", last)
		var err error
		if d.kind(c) == object {
			err = p.airGradientPart(c, own)
		} else {
			err = p.put(c, own, "", airGradientTerms[last].unit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
