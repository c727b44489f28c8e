package device

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// tasmota reads what devices with the firmware Tasmota publish of themselves:
// https://tasmota.github.io/docs/MQTT/
// The topic is tele/DEVICE/SENSOR, or has its parts in another order
// (FullTopic), such as tasmota/DEVICE/tele/SENSOR. Without it, sensors are
// known by the local time and a member that only Tasmota has.
var tasmota = reader{
	format: "tasmota",
	sent: func(m *mesh.Message) bool {
		_, _, ok := tasmotaTopic(m)
		return ok
	},
	shaped: func(d *document, i int32) bool {
		return localTime(d, d.member(i, "Time")) && (d.member(i, "TempUnit") != 0 || d.member(i, "PressureUnit") != 0 ||
			d.at(i, "ENERGY", "Total") != 0 || d.at(i, "Wifi", "BSSId") != 0)
	},
	marks: []string{"TempUnit", "PressureUnit", "ENERGY", "Wifi"},
	own:   []string{"Time"},
	raw:   (*Parser).readTasmotaText,
	read:  (*Parser).readTasmota,
}

// localTime says whether value c is a time as Tasmota writes it.
func localTime(d *document, c int32) bool {
	return c != 0 && d.kind(c) == text && len(d.chars(c)) == len("2006-01-02T15:04:05")
}

// tasmotaTopic gives the device, which is what the topic has besides the prefix
// and the command, and the command; ok: it is such a topic.
func tasmotaTopic(m *mesh.Message) (device, command string, ok bool) {
	before, command := cutLast(m.Attributes[topic])
	var prefix string
	switch wordOf(command) {
	case "SENSOR", "STATE", "LWT", "INFO", "UPTIME":
		prefix = "tele"
	case "STATUS", "POWER", "LOGGING":
		prefix = "stat"
	case "RESULT":
		if prefix = "stat"; !hasLevel(before, prefix) {
			prefix = "tele"
		}
	default:
		return "", command, false
	}
	if rest, ok := strings.CutPrefix(before, prefix+"/"); ok {
		return rest, command, true
	}
	if rest, ok := strings.CutSuffix(before, "/"+prefix); ok {
		return rest, command, true
	}
	first, last, ok := strings.Cut(before, "/"+prefix+"/")
	return first + "/" + last, command, ok
}

func hasLevel(t, level string) bool {
	return strings.Contains("/"+t+"/", "/"+level+"/")
}

// wordOf gives a command without its number.
func wordOf(command string) string { return strings.TrimRight(command, "0123456789") }

// readTasmotaText reads POWER, whose payload is a text, and passes over what
// measures nothing.
func (p *Parser) readTasmotaText() (isJSON bool, err error) {
	device, command, ok := tasmotaTopic(p.m)
	switch word := wordOf(command); {
	case !ok || word == "SENSOR" || word == "STATE" || word == "STATUS" || word == "RESULT":
		return len(bytes.TrimSpace(p.m.Payload)) > 0, nil
	case word != "POWER":
		return false, nil
	}
	if err := p.device(cmp.Or(p.m.DeviceID, device)); err != nil {
		return false, err
	}
	if err := p.untimed(); err != nil {
		return false, err
	}
	return false, p.single(command, "", "")
}

// readTasmota reads sensors (SENSOR, and STATUS8 or STATUS10 that ask for
// them), the state (STATE, STATUS11) and a RESULT. The device is what
// the topic calls it. The time is local and says no zone: UTC, unless the
// attribute timezone names one. Temperatures and pressures are in the unit
// that the message tells, all else in those of Tasmota's documentation.
// Of a RESULT, POWER, switches, buttons and what the device received from
// others are read. LWT, INFO, a STATUS of other members Status… and a RESULT
// that answers another command (stat) measure nothing.
func (p *Parser) readTasmota(i int32) error {
	d := p.doc
	device, command, _ := tasmotaTopic(p.m)
	if d.kind(i) != object {
		return p.fault(i, "%s is %s, not an object", cmp.Or(command, "the payload"), d.kind(i))
	}
	const none = -1
	sensors, state := i, int32(none)
	word := wordOf(command)
	switch {
	case word == "STATE" || word == "" && d.at(i, "Wifi", "BSSId") != 0:
		sensors, state = none, i
	case word == "STATUS":
		sensors, state = none, none
		if c := d.member(i, "StatusSNS"); c != 0 {
			sensors = c
		}
		if c := d.member(i, "StatusSTS"); c != 0 {
			state = c
		}
		if sensors == none && state == none {
			if d.any(i, func(name []byte) bool { return !bytes.HasPrefix(name, []byte("Status")) }) {
				return p.fault(i, "no %s of Tasmota that is known: it has more than Status…", command)
			}
			return nil
		}
	case word == "RESULT":
		sensors = none
		if !d.any(i, isResult) {
			if hasLevel(p.m.Attributes[topic], "stat") {
				return nil
			}
			return p.fault(i, "no RESULT of Tasmota that is known: it answers no command and has none of POWER, Switch, Button and …Received")
		}
	}
	time := d.member(i, "Time")
	for _, part := range []int32{sensors, state} {
		if part == none {
			continue
		}
		if d.kind(part) != object {
			return p.fault(part, "%s is %s, not an object", quote(d.name(part)), d.kind(part))
		}
		if c := d.member(part, "Time"); c != 0 {
			time = c
		}
	}
	if err := p.device(cmp.Or(p.m.DeviceID, device)); err != nil {
		return err
	}
	if err := p.time(time); err != nil {
		return err
	}
	if sensors != none {
		if err := p.tasmotaSensors(sensors); err != nil {
			return err
		}
	}
	if state != none {
		p.due++
		return p.tasmotaState(state)
	}
	for c := i + 1; word == "RESULT" && c < d.end(i); c = d.end(c) {
		if isResult(d.name(c)) {
			if err := p.tasmotaMember(c, tasmotaUnits{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// isResult says whether a member of a RESULT is what a switch, a button or a
// receiver of other devices (ZbReceived, RfReceived, IrReceived…) had to tell.
func isResult(name []byte) bool {
	switch wordOf(string(name)) {
	case "POWER", "Switch", "Button":
		return true
	}
	return bytes.HasSuffix(name, []byte("Received"))
}

func isPower(name []byte) bool {
	return string(bytes.TrimRight(name, "0123456789")) == "POWER"
}

// any says whether object i has a member with such a name.
func (d *document) any(i int32, such func(name []byte) bool) bool {
	for c := i + 1; c < d.end(i); c = d.end(c) {
		if such(d.name(c)) {
			return true
		}
	}
	return false
}

// tasmotaTerms are by the name below the sensor. The eCO2 that gas sensors
// estimate is not their CO2.
var tasmotaTerms = map[string]term{
	"CarbonDioxide": {"co2", "ppm"},
	"eCO2":          {"eco2", "ppm"},
	"Humidity":      {"relative_humidity", "%"},
	"Illuminance":   {"illuminance", "lx"},
	"TVOC":          {"tvoc", "ppb"},
	"PM1":           {"pm1", "ug/m3"},
	"PM2.5":         {"pm2_5", "ug/m3"},
	"PM4":           {"pm4", "ug/m3"},
	"PM10":          {"pm10", "ug/m3"},
	"Distance":      {"", "cm"},
	"Battery":       {"", "%"},
	"RSSI":          {"", "dB{mW}"},
}

// energyTerms are those of ENERGY:
// https://tasmota.github.io/docs/Power-Monitoring-Calibration/
var energyTerms = map[string]term{
	"Total":         {"", "kW.h"},
	"Yesterday":     {"", "kW.h"},
	"Today":         {"", "kW.h"},
	"ExportActive":  {"", "kW.h"},
	"ExportTotal":   {"", "kW.h"},
	"ImportActive":  {"", "kW.h"},
	"Period":        {"", "W.h"},
	"Power":         {"", "W"},
	"ActivePower":   {"", "W"},
	"ApparentPower": {"", "V.A"},
	"ReactivePower": {"", "V.A{reactive}"},
	"Factor":        {"", "1"},
	"Frequency":     {"", "Hz"},
	"Voltage":       {"", "V"},
	"Current":       {"", "A"},
}

// tasmotaUnits are the UCUM units that a message tells.
type tasmotaUnits struct{ temperature, pressure string }

// convertedTerms are those in the unit that the message tells: TempUnit, or
// PressureUnit for a pressure.
var convertedTerms = map[string]struct {
	as       string
	pressure bool
}{
	"Temperature": {as: "temperature"},
	"DewPoint":    {as: "dew_point"},
	"ObjectTemp":  {},
	"AmbientTemp": {},
	"Pressure":    {as: "pressure", pressure: true},
	"SeaPressure": {pressure: true},
}

// tasmotaSensors reads an object of sensors.
func (p *Parser) tasmotaSensors(i int32) error {
	d := p.doc
	units := tasmotaUnits{p.unitOf(i, "TempUnit"), p.unitOf(i, "PressureUnit")}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		switch string(d.name(c)) {
		case "Time", "TempUnit", "PressureUnit", "SpeedUnit":
			continue
		}
		if err := p.tasmotaMember(c, units); err != nil {
			return err
		}
	}
	return nil
}

// tasmotaMember reads a sensor.
func (p *Parser) tasmotaMember(c int32, units tasmotaUnits) error {
	d := p.doc
	sensor := p.text(d.name(c))
	if d.kind(c) != object { // Switch1, and those of devices with one sensor built in
		return p.tasmotaSensor(c, "", sensor, units)
	}
	for m := c + 1; m < d.end(c); m = d.end(m) {
		if err := p.tasmotaSensor(m, sensor, p.text(d.name(m)), units); err != nil {
			return err
		}
	}
	return nil
}

// tasmotaSensor reads value c that a sensor has by a name. Where
// several sensors have the same metric, the first has its name, as everywhere;
// the others have the sensor's before their own. A temperature or a pressure
// whose unit the message does not tell has none.
func (p *Parser) tasmotaSensor(c int32, sensor, name string, units tasmotaUnits) error {
	own := name
	if sensor != "" {
		own = p.joined(sensor, "_", name)
	}
	t := tasmotaTerms[name]
	converted, ok := convertedTerms[name]
	if ok {
		if t.unit = units.temperature; converted.pressure {
			t.unit = units.pressure
		}
		if t.unit != "" {
			t.as = converted.as
		}
	}
	switch {
	case name == "Id" || name == "TotalStartTime" || name == "mac":
		p.attribute(own, c)
		return nil
	case sensor == "ENERGY":
		t = energyTerms[name]
	case sensor == "ESP32": // the chip
		own, t.as = p.joined("device_", own, ""), ""
	case name == "Battery" || name == "RSSI": // of a sensor that is not the device
		own = p.joined("device_", own, "")
	}
	p.due++
	if own == name && t.as == "" && ok { // the dictionary would know it
		own = p.joined("sensor_", own, "")
	}
	return p.eachOf(c, own, t.as, t.unit)
}

// unitOf gives the UCUM unit that a member names.
func (p *Parser) unitOf(i int32, name string) string {
	if c := p.doc.member(i, name); c != 0 && p.doc.kind(c) == text {
		return ucum(p.text(p.doc.chars(c)))
	}
	return ""
}

// eachOf is put, with the unit for the elements of an array too, which are the
// phases of a meter.
func (p *Parser) eachOf(c int32, own, as, unit string) error {
	d := p.doc
	if d.kind(c) != array {
		return p.put(c, own, as, unit)
	}
	n := 0
	for e := c + 1; e < d.end(c); e = d.end(e) {
		if err := p.put(e, own+"_"+strconv.Itoa(n), "", unit); err != nil {
			return err
		}
		n++
	}
	return nil
}

// stateTerms are what a STATE says of the device, by the way to it.
var stateTerms = map[string]term{
	"UptimeSec":   {"device_uptime", "s"},
	"Heap":        {"", "KiBy"},
	"Vcc":         {"", "V"},
	"LoadAvg":     {"", "%"},
	"Sleep":       {"", "ms"},
	"Wifi_RSSI":   {"", "%"}, // the quality of the signal, made of Signal
	"Wifi_Signal": {"device_rssi", "dB{mW}"},
}

// actuator says whether a member of a STATE is no metadata but what a light, a
// fan or a switch is set to.
func actuator(name []byte) bool {
	switch string(name) {
	case "Dimmer", "Color", "HSBColor", "White", "CT", "Channel", "Scheme", "Fade", "Speed", "LedTable", "FanSpeed":
		return true
	}
	return isPower(name)
}

func (p *Parser) tasmotaState(i int32) error {
	d := p.doc
	for c := i + 1; c < d.end(i); c = d.end(c) {
		name := p.text(d.name(c))
		var err error
		switch {
		case name == "Time" || name == "Uptime":
		case actuator(d.name(c)):
			err = p.put(c, name, "", "")
		default:
			err = p.tasmotaMetadata(c, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tasmotaMetadata reads what a device says of itself: numbers and booleans are
// readings, texts attributes; names and addresses in the network are neither.
func (p *Parser) tasmotaMetadata(c int32, path string) error {
	d := p.doc
	switch d.kind(c) {
	case object:
		for m := c + 1; m < d.end(c); m = d.end(m) {
			if path == "Wifi" && d.kind(m) == text {
				continue
			}
			if err := p.tasmotaMetadata(m, p.joined(path, "_", p.text(d.name(m)))); err != nil {
				return err
			}
		}
		return nil
	case text:
		p.attribute(path, c)
		return nil
	}
	t := stateTerms[path]
	return p.put(c, p.joined("device_", path, ""), t.as, t.unit)
}
