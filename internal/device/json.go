package device

import "strings"

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
	ofAttribute // where it is a string
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
	for rank, name := range []string{"firmware", "firmwareversion", "fw", "fwversion", "swversion", "softwareversion", "hwversion", "hardwareversion"} {
		m[name] = role{ofAttribute, rank}
	}
	return m
}()

// isEUI says whether a name is one of a DevEUI.
func isEUI(name []byte) bool { return strings.HasSuffix(fold(name), "eui") }

// plain reads what no other reader recognizes.
var plain = reader{format: "json", read: (*Parser).readJSON}

// readJSON reads an object of whatever form. Its device and time are the
// members that are named so. With a member "metrics" that is an object, the
// plain form
//
//	{"deviceId": …, "timestamp": …, "metrics": {…}}
//
// the metrics are what that one holds, and the other members go into the
// readings' attributes, as many as there is room for. Without it all other
// members are metrics, but for a firmware's version in words.
func (p *Parser) readJSON(i int32) error {
	d := p.doc
	p.due++
	var device, time, metrics int32
	var deviceRank, timeRank int
	for c, at := i+1, 0; c < d.end(i); c, at = d.end(c), at+1 {
		k := d.kind(c)
		if k == object && string(d.name(c)) == "metrics" {
			metrics = c
		}
		switch r := p.top[at].role; {
		case r.of == ofDevice && (k == number || k == text && len(d.chars(c)) > 0) && (device == 0 || r.rank < deviceRank):
			device, deviceRank = c, r.rank
		case r.of == ofTime && k != null && (time == 0 || r.rank < timeRank):
			time, timeRank = c, r.rank
		}
	}
	id := p.scalar(device)
	if device != 0 && isEUI(d.name(device)) {
		id = devEUI(id)
	}
	if err := p.device(id); err != nil {
		return err
	}
	if err := p.time(time); err != nil {
		return err
	}
	if metrics != 0 {
		for c := i + 1; c < d.end(i); c = d.end(c) {
			if c != device && c != time && c != metrics && d.kind(c) != null {
				p.attributeJSON(d.name(c), d.raw(c))
			}
		}
		return p.members(metrics)
	}
	for c, at := i+1, 0; c < d.end(i); c, at = d.end(c), at+1 {
		var err error
		switch k := d.kind(c); {
		case c == device || c == time:
		case k == text && p.top[at].role.of == ofAttribute:
			p.attributeJSON(d.name(c), d.raw(c))
		case k == null || k == text && len(d.chars(c)) == 0 && p.top[at].role.of != ofMetric || p.top[at].text == "" && k < object:
			p.skipped++
		case k < object:
			err = p.named(c, p.top[at], p.top[at], "")
		default:
			err = p.member(c, d.name(c))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
