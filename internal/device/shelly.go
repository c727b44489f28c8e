package device

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// shelly reads what Shelly devices publish. Those of the second generation and
// later: notifications (PREFIX/events/rpc, or over a WebSocket) and the status
// of one component (PREFIX/status/COMPONENT):
// https://shelly-api-docs.shelly.cloud/gen2/General/Notifications
// Those of the first: one value in a message (shellies/DEVICE/…):
// https://shelly-api-docs.shelly.cloud/gen1/#mqtt-support
var shelly = reader{
	format: "shelly",
	sent: func(m *mesh.Message) bool {
		if matches(m, "shellies/+/#") {
			return true
		}
		prefix, component, kind := shellyTopic(m)
		switch kind {
		case "status":
			return isShelly(prefix) || numberedComponents[component[:max(strings.IndexByte(component, ':'), 0)]]
		case "online":
			return isShelly(prefix)
		}
		return kind == "rpc"
	},
	shaped: func(d *document, i int32) bool {
		method, src, params := d.member(i, "method"), d.member(i, "src"), d.member(i, "params")
		return method != 0 && src != 0 && params != 0 && d.kind(src) == text && d.kind(params) == object && bytes.HasPrefix(d.chars(method), []byte("Notify"))
	},
	marks: []string{"params"},
	own:   []string{},
	raw:   (*Parser).readShellyText,
	read:  (*Parser).readShelly,
}

// isShelly says whether a topic prefix is the one that Shelly devices come
// with, which is their id: shellyplusht-b8d61a8b17cc.
func isShelly(prefix string) bool {
	_, last := cutLast(prefix)
	return strings.HasPrefix(strings.ToLower(last), "shelly")
}

// numberedComponents tell the status of a component whose topic has another
// prefix than Shelly devices come with.
var numberedComponents = map[string]bool{
	"switch": true, "input": true, "cover": true, "light": true, "rgb": true, "rgbw": true, "cct": true, "temperature": true, "humidity": true,
	"illuminance": true, "devicepower": true, "voltmeter": true, "em": true, "emdata": true, "em1": true, "em1data": true, "pm1": true,
	"smoke": true, "flood": true, "presence": true, "bthomedevice": true, "bthomesensor": true, "blutrv": true,
}

// shellyTopic takes apart the topics of the second generation: kind is status,
// rpc, online or empty, for another topic.
func shellyTopic(m *mesh.Message) (prefix, component, kind string) {
	before, last := cutLast(m.Attributes[topic])
	prefix, middle := cutLast(before)
	switch {
	case last == "online" && before != "":
		return before, "", "online"
	case prefix == "":
	case middle == "events" && last == "rpc":
		return prefix, "", "rpc"
	case middle == "status" && isComponent(last):
		return prefix, last, "status"
	}
	return "", "", ""
}

// isComponent says whether a name is that of a component: switch:0, sys.
func isComponent(name string) bool {
	kind, id, numbered := strings.Cut(name, ":")
	for _, c := range []byte(kind) {
		if (c < 'a' || c > 'z') && !isDigit(c) && c != '_' {
			return false
		}
	}
	return kind != "" && (!numbered || id != "" && strings.Trim(id, "0123456789") == "")
}

// gen1Terms are by the topic of a first generation device behind its id, with
// the numbers of its parts left out. Energy of relays is in watt-minutes,
// energy of meters in watt-hours. A temperature is in °C unless somebody has
// set the device to °F, which it does not tell: °C is assumed.
var gen1Terms = map[string]struct{ own, as, unit string }{
	"sensor/temperature":     {"", "temperature", "Cel"},
	"sensor/humidity":        {"", "relative_humidity", "%"},
	"sensor/lux":             {"", "illuminance", "lx"},
	"sensor/battery":         {"device_sensor_battery", "device_battery_level", "%"},
	"sensor/concentration":   {"", "", "ppm"},
	"sensor/tilt":            {"", "", "deg"},
	"temperature":            {"device_temperature", "", "Cel"}, // inside of it
	"overtemperature":        {"device_overtemperature", "", ""},
	"voltage":                {"", "", "V"},
	"relay/power":            {"", "", "W"},
	"relay/energy":           {"", "", "W.min"},
	"roller/power":           {"", "", "W"},
	"roller/energy":          {"", "", "W.min"},
	"roller/pos":             {"", "", "%"},
	"light/power":            {"", "", "W"},
	"light/energy":           {"", "", "W.min"},
	"color/power":            {"", "", "W"},
	"white/power":            {"", "", "W"},
	"emeter/power":           {"", "", "W"},
	"emeter/reactive_power":  {"", "", "V.A{reactive}"},
	"emeter/voltage":         {"", "", "V"},
	"emeter/current":         {"", "", "A"},
	"emeter/pf":              {"", "", "1"},
	"emeter/energy":          {"", "", "W.min"},
	"emeter/returned_energy": {"", "", "W.min"},
	"emeter/total":           {"", "", "W.h"},
	"emeter/total_returned":  {"", "", "W.h"},
	"ext_temperature":        {"", "", "Cel"},
	"ext_humidity":           {"", "", "%"},
	"adc":                    {"", "", "V"},
}

// readShellyText reads a value of a first generation device. What the device is
// told, announcements and whether it is online measure nothing.
func (p *Parser) readShellyText() (isJSON bool, err error) {
	_, _, gen2 := shellyTopic(p.m)
	if gen2 == "online" {
		return false, nil
	}
	if gen2 != "" || !matches(p.m, "shellies/+/#") {
		return true, nil
	}
	levels := levelsOf(p.m)[1:]
	if len(levels) == 1 || len(bytes.TrimSpace(p.m.Payload)) == 0 { // shellies/announce, shellies/command
		return false, nil
	}
	var parts []string
	for _, level := range levels[1:] {
		if strings.Trim(level, "0123456789") != "" {
			parts = append(parts, level)
		}
	}
	kind := strings.Join(parts, "/")
	switch last := levels[len(levels)-1]; {
	case kind == "" || last == "command" || last == "set" || last == "announce" || last == "online" || last == "info" || last == "settings":
		return false, nil
	case kind == "temperature_f" || kind == "temperature_status" || kind == "ext_temperature_f": // the same once more
		return false, nil
	}
	if err := p.device(cmp.Or(p.m.DeviceID, levels[0])); err != nil {
		return false, err
	}
	if err := p.untimed(); err != nil {
		return false, err
	}
	t := gen1Terms[kind]
	return false, p.single(cmp.Or(t.own, strings.Join(levels[1:], "_")), t.as, t.unit)
}

// readShelly reads a notification or the status of a component. The device is
// src, else the topic's prefix, which is the same unless somebody changed it.
// The time is ts, where the device's clock is set; a status has none.
//
// The instance :0 of a component has the metric's name, others keep theirs.
// tC and tF are the same reading. What sys, wifi and the like say is the
// device's own: numbers and booleans are readings, texts attributes; names and
// addresses in the network are neither.
//
// A NotifyEvent is a text by the name of its component, such as single_push, and
// its data, whose names are below the component's. Data with an address is of
// a Bluetooth device that a script heard: the device is SRC/ADDRESS. What else
// a component tells for the same time has its number behind the component's
// name: input:0_event, input:0_1_event. Events without data of sys and other
// components without a number measure nothing, as do requests and responses.
// What is none of these is rejected.
func (p *Parser) readShelly(i int32) error {
	d := p.doc
	prefix, component, kind := shellyTopic(p.m)
	if d.kind(i) != object {
		return p.fault(i, "%s is %s, not an object", cmp.Or(component, "the notification"), d.kind(i))
	}
	if kind == "status" {
		if err := p.device(cmp.Or(p.m.DeviceID, prefix)); err != nil {
			return err
		}
		if err := p.untimed(); err != nil {
			return err
		}
		return p.component(i, component)
	}
	method, params := d.member(i, "method"), d.member(i, "params")
	switch {
	case d.hasPrefix(method, "Notify"):
	case d.member(i, "id") != 0 && (d.first(i, "result", "error") != 0 || method != 0 && bytes.Contains(d.chars(method), []byte("."))):
		return nil
	default:
		return p.fault(i, "no message of Shelly that is known: it has no method Notify…")
	}
	if params == 0 || d.kind(params) != object {
		return p.fault(i, "%s has no object params", d.chars(method))
	}
	source := cmp.Or(p.scalar(d.member(i, "src")), p.m.DeviceID, prefix)
	begin := func(device string, times ...int32) error {
		if err := p.device(device); err != nil {
			return err
		}
		for n, c := range times {
			if c == 0 || !isClock(d, c) {
				times[n] = 0
			}
		}
		return p.time(times...)
	}
	ts := d.member(params, "ts")
	events := d.member(params, "events")
	if string(d.chars(method)) != "NotifyEvent" {
		if err := begin(source, ts); err != nil {
			return err
		}
		for c := params + 1; c < d.end(params); c = d.end(c) {
			if string(d.name(c)) == "ts" || d.kind(c) == null {
				continue
			}
			if d.kind(c) != object {
				return p.fault(c, "%s is %s, not an object", quote(d.name(c)), d.kind(c))
			}
			if err := p.component(c, p.text(d.name(c))); err != nil {
				return err
			}
		}
		return nil
	}
	if events == 0 || d.kind(events) != array {
		return p.fault(params, "NotifyEvent has no array events")
	}
	type occasion struct {
		at
		component string // empty: any
	}
	seen := map[occasion]int{}
	for c := events + 1; c < d.end(events); c = d.end(c) {
		component, event, data := p.scalar(d.member(c, "component")), d.member(c, "event"), d.member(c, "data")
		if component == "" || event == 0 {
			p.skipped++
			continue
		}
		if data == 0 && !strings.Contains(component, ":") {
			continue
		}
		device, terms := source, map[string]term(nil)
		if address := p.scalar(d.at(c, "data", "address")); address != "" {
			device, terms = p.joined(source, "/", address), bluTerms
		}
		if err := begin(device, d.member(c, "ts"), ts); err != nil {
			return err
		}
		seen[occasion{at: p.at}]++
		first := seen[occasion{at: p.at}] == 1 // else the metrics are taken
		this := occasion{p.at, component}
		if seen[this]++; seen[this] > 1 {
			component = p.joined(component, "_", strconv.Itoa(seen[this]-1))
		}
		if err := p.put(event, p.joined(component, "_event", ""), "", ""); err != nil {
			return err
		}
		if err := p.eventData(data, component, terms, first); err != nil {
			return err
		}
		p.finish()
		p.begin()
	}
	return nil
}

// bluTerms are those of a Bluetooth device that a script heard, in the units of
// BTHome: https://bthome.io/format/
var bluTerms = map[string]term{
	"temperature": {"temperature", "Cel"},
	"humidity":    {"relative_humidity", "%"},
	"illuminance": {"illuminance", "lx"},
	"battery":     {"device_battery_level", "%"},
	"rssi":        {"device_rssi", "dB{mW}"},
	"rotation":    {"", "deg"},
}

// eventData reads what an event has besides its name; c may be 0, for none.
// first: it may have the metrics' names.
func (p *Parser) eventData(c int32, component string, terms map[string]term, first bool) error {
	d := p.doc
	switch {
	case c == 0:
		return nil
	case d.kind(c) != object:
		return p.put(c, p.joined(component, "_data", ""), "", "")
	}
	for m := c + 1; m < d.end(c); m = d.end(m) {
		name := p.text(d.name(m))
		own := p.joined(component, "_", name)
		switch name {
		case "ts", "address":
			continue
		case "event":
			own = p.joined(component, "_data_", name)
		case "battery", "rssi", "pid", "encryption", "BTHome_version":
			own = p.joined("device_", own, "")
		}
		t := terms[name]
		if !first {
			t.as = ""
		}
		if err := p.put(m, own, t.as, t.unit); err != nil {
			return err
		}
	}
	return nil
}

// isClock says whether a time is one of a clock that was set: devices count
// from 0 until it is.
func isClock(d *document, c int32) bool {
	const year2001 = 1e9
	if d.kind(c) != number {
		return true
	}
	seconds, _ := parseNumber(d.raw(c))
	return seconds >= year2001
}

// shellyTerms are by the component's kind and the way to the value in it, or by
// the last name of it for all components.
var shellyTerms = map[string]term{
	"temperature_tC":      {"temperature", "Cel"},
	"temperature_tF":      {"temperature", "[degF]"},
	"humidity_rh":         {"relative_humidity", "%"},
	"illuminance_lux":     {"illuminance", "lx"},
	"devicepower_V":       {"device_battery_voltage", "V"},
	"devicepower_percent": {"device_battery_level", "%"},
	"wifi_rssi":           {"device_rssi", "dB{mW}"},
	"sys_uptime":          {"device_uptime", "s"},
	"sys_wakeup_period":   {"", "s"},
	"sys_ram_size":        {"", "By"},
	"sys_ram_free":        {"", "By"},
	"sys_fs_size":         {"", "By"},
	"sys_fs_free":         {"", "By"},

	"tC": {"", "Cel"}, "tF": {"", "[degF]"},
	"rh": {"", "%"}, "lux": {"", "lx"}, "rssi": {"", "dB{mW}"},
	"apower": {"", "W"}, "act_power": {"", "W"}, "aprt_power": {"", "V.A"},
	"voltage": {"", "V"}, "current": {"", "A"}, "freq": {"", "Hz"}, "pf": {"", "1"},
	"total": {"", "W.h"}, "total_act": {"", "W.h"}, "total_act_ret": {"", "W.h"},
	"total_act_energy": {"", "W.h"}, "total_act_ret_energy": {"", "W.h"},
	"percent": {"", "%"}, "brightness": {"", "%"}, "current_pos": {"", "%"}, "target_pos": {"", "%"},
	"current_C": {"", "Cel"}, "target_C": {"", "Cel"},
}

// component reads the status of a component.
func (p *Parser) component(i int32, name string) error {
	kind, id, numbered := strings.Cut(name, ":")
	own := !numbered || kind == "devicepower" || kind == "script" || kind == "bthomedevice" || kind == "service"
	if numbered && kind != "input" { // a button has no state
		p.due++
	}
	return p.shellyMembers(i, shellyPart{kind: kind, path: name, zero: !numbered || id == "0", own: own})
}

// shellyPart is an object in the status of a component.
type shellyPart struct {
	kind, path string
	zero       bool // the first of its kind, which has the metric's name
	own        bool // the device tells of itself
	deep       bool
}

func (p *Parser) shellyMembers(i int32, at shellyPart) error {
	d := p.doc
	for c := i + 1; c < d.end(i); c = d.end(c) {
		last := p.text(d.name(c))
		switch {
		case !at.deep && last == "id", last == "by_minute", last == "minute_ts", // total has them
			last == "ts", last == "last_updated_ts", last == "last_update_ts", last == "unixtime", last == "time",
			last == "tF" && d.member(i, "tC") != 0,
			d.kind(c) == text && (at.kind == "wifi" || at.kind == "eth" || last == "mac"):
			continue
		}
		below := at
		below.path = p.joined(at.path, "_", last)
		below.deep = true
		below.own = at.own || last == "errors" || last == "temperature" && !at.deep // of the part's electronics
		if d.kind(c) == object {
			if err := p.shellyMembers(c, below); err != nil {
				return err
			}
			continue
		}
		if below.own && d.kind(c) == text {
			p.attribute(below.path, c)
			continue
		}
		name := below.path
		if below.own {
			name = p.joined("device_", strings.TrimPrefix(name, "device"), "")
		}
		t, ok := shellyTerms[p.joined(at.kind, "_", last)]
		if !ok {
			t = shellyTerms[last]
		}
		if len(last) > 2 && last[1] == '_' { // a_voltage: a phase
			t = shellyTerms[last[2:]]
		} else if rest, cut := strings.CutPrefix(last, "total_"); cut && t.unit == "" {
			t = shellyTerms[rest]
		}
		if last == "total" && !strings.HasSuffix(at.path, "aenergy") { // counts of an input
			t = term{}
		}
		if !at.zero {
			t.as = ""
		}
		if err := p.put(c, name, t.as, t.unit); err != nil {
			return err
		}
	}
	return nil
}
