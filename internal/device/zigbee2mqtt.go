package device

import (
	"bytes"
	"cmp"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// zigbee2MQTT reads the states that Zigbee2MQTT publishes as zigbee2mqtt/NAME,
// and by the link quality, which all of them have, those of another base topic.
// They name their device and time not as plain JSON does; what does so is that.
// https://www.zigbee2mqtt.io/guide/usage/mqtt_topics_and_messages.html
var zigbee2MQTT = reader{
	format: "zigbee2mqtt",
	sent:   func(m *mesh.Message) bool { return matches(m, zigbeeBase+"#") && m.Attributes[topic] != "zigbee2mqtt" },
	shaped: func(d *document, i int32) bool {
		c := d.member(i, "linkquality")
		return c != 0 && d.kind(c) == number
	},
	marks: []string{"linkquality"},
	own:   []string{},
	raw:   (*Parser).readZigbeeText,
	read:  (*Parser).readZigbee,
}

const zigbeeBase = "zigbee2mqtt/"

// zigbeeOwn are the members by which a device tells of itself.
var zigbeeOwn = map[string]term{
	"linkquality":        {"", "1"},
	"battery":            {"device_battery_level", "%"},
	"battery_low":        {},
	"power_outage_count": {},
	"update":             {},
	"update_available":   {},
	"elapsed":            {"", "ms"},
	"device_temperature": {"", "Cel"},
}

// zigbeeTerm gives the name here, the name to ask the dictionary for and the
// unit of a member.
func (p *Parser) zigbeeTerm(name string) (own, as, unit string) {
	t, ok := zigbeeOwn[name]
	if ok && !strings.HasPrefix(name, "device_") {
		name = p.joined("device_", name, "")
	}
	return name, t.as, t.unit
}

// friendly gives the name that the topic of a message has for the device:
// what comes behind the base topic, which is the whole topic where that is not
// known. says: the topic is one of states.
func friendly(m *mesh.Message) (name string, says bool) {
	t := m.Attributes[topic]
	name = strings.TrimPrefix(t, zigbeeBase)
	if name != t && (name == "bridge" || strings.HasPrefix(name, "bridge/")) {
		return "", false
	}
	before, last := cutLast(name)
	_, middle := cutLast(before)
	switch { // NAME/set, NAME/set/state
	case before == "":
		return name, true
	case last == "availability" || last == "set" || last == "get" || before != middle && (middle == "set" || middle == "get"):
		return "", false
	}
	return name, true
}

// readZigbeeText reads a single value, which is what Zigbee2MQTT publishes
// where its option output is attribute: NAME/temperature.
func (p *Parser) readZigbeeText() (isJSON bool, err error) {
	name, says := friendly(p.m)
	b := bytes.TrimSpace(p.m.Payload)
	if !says || len(b) == 0 {
		return false, nil
	}
	if b[0] == '{' || b[0] == '[' || !strings.Contains(name, "/") {
		return true, nil
	}
	name, metric := cutLast(name)
	if metric == "last_seen" {
		return false, nil
	}
	if err := p.device(cmp.Or(p.m.DeviceID, name)); err != nil {
		return false, err
	}
	if err := p.untimed(); err != nil {
		return false, err
	}
	return false, p.single(p.zigbeeTerm(metric))
}

// readZigbee reads the state of a device. The device is its IEEE address where
// the message has it (option include_device_information): it is the device's
// own, while a friendly name is changed at will and given to the next device.
// Else it is the friendly name, which is that address until somebody gives
// another one. The time is last_seen, if that option is set.
//
// Units are those of Zigbee2MQTT's definitions; what they define anew for each
// device (voltage in mV or V, voc) has none. Availability, what is sent to
// devices (set, get) and the bridge's own topics measure nothing.
func (p *Parser) readZigbee(i int32) error {
	d := p.doc
	if d.kind(i) != object {
		return p.fault(i, "the state of a device is %s, not an object", d.kind(i))
	}
	p.due++
	name, _ := friendly(p.m)
	device := d.member(i, "device")
	address := p.scalar(d.at(i, "device", "ieeeAddr"))
	if err := p.device(cmp.Or(address, p.m.DeviceID, name)); err != nil {
		return err
	}
	if err := p.time(d.member(i, "last_seen")); err != nil {
		return err
	}
	if address != "" {
		p.attributeText("friendly_name", cmp.Or(p.scalar(d.member(device, "friendlyName")), name))
		p.attribute("model", d.member(device, "model"))
		p.attribute("software_build", d.member(device, "softwareBuildID"))
	}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		n := p.text(d.name(c))
		if n == "last_seen" || n == "device" && d.kind(c) == object {
			continue
		}
		own, as, unit := p.zigbeeTerm(n)
		if err := p.put(c, own, as, unit); err != nil {
			return err
		}
	}
	return nil
}
