package device

import (
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// udmi reads the messages of the Universal Device Management Interface, which
// devices of buildings send through Cloud IoT Core's heirs or an MQTT broker:
// https://faucetsdn.github.io/udmi/docs/messages/
// They are told by the attributes of their envelope (subFolder, subType), by
// the topic, or by a version and a timestamp beside what only UDMI has.
var udmi = reader{
	format: "udmi",
	sent: func(m *mesh.Message) bool {
		folder := m.Attributes["subFolder"]
		return folder == "pointset" || folder != "" && m.Attributes["subType"] != "" ||
			matches(m, "/devices/+/events/pointset") || matches(m, "/r/+/d/+/#")
	},
	shaped: func(d *document, i int32) bool {
		if !d.is(text, i, "version") || !d.is(text, i, "timestamp") {
			return false
		}
		if points := d.member(i, "points"); points != 0 {
			for c := points + 1; c < d.end(points); c = d.end(c) {
				if d.member(c, "present_value") != 0 || d.member(c, "set_value") != 0 {
					return true
				}
			}
			return false
		}
		return d.at(i, "metrics", "mem_total_mb") != 0 || d.is(array, i, "logentries") || d.is(object, i, "pointset") ||
			d.at(i, "system", "last_config") != 0 || d.at(i, "system", "operation") != 0 || d.at(i, "system", "min_loglevel") != 0
	},
	marks: []string{"points", "metrics", "logentries", "pointset", "system"},
	own:   []string{"timestamp"},
	read:  (*Parser).readUDMI,
}

// readUDMI reads an event. A pointset event has a metric per point, named as
// the point; which unit a point has stands in the device's metadata and not in
// its events, so that only the dictionary can tell. A system event has the
// metrics of the device itself. All other messages of UDMI measure nothing: log
// entries, discovery, state, config, metadata. What is none of them is rejected.
//
// The device is the one that the transport names, by the attribute deviceId or
// the topic (/devices/DEVICE/events/FOLDER, /r/REGISTRY/d/DEVICE/events/FOLDER);
// the gateway that speaks for it does not count. The time is the timestamp.
func (p *Parser) readUDMI(i int32) error {
	d := p.doc
	device, kind, folder := "", p.m.Attributes["subType"], p.m.Attributes["subFolder"]
	levels := levelsOf(p.m)
	switch {
	case matches(p.m, "/devices/+/+/#"):
		device, levels = levels[2], levels[3:]
	case matches(p.m, "/r/+/d/+/+/#"):
		device, levels = levels[4], levels[5:]
	default:
		levels = nil
	}
	if len(levels) > 0 {
		kind, folder = levels[0], ""
	}
	if len(levels) > 1 {
		folder = levels[1]
	}
	switch kind {
	case "", "event", "events":
	case "state", "config", "command", "commands", "query", "reply", "model", "metadata":
		return nil
	default:
		return p.fault(i, "%s is no kind of UDMI's messages", quote(kind))
	}
	switch folder {
	case "", "pointset", "system":
	case "update", "error", "cloud", "discovery", "gateway", "mapping", "swarm", "localnet", "validation", "blobset", "alarmset", "testing", "udmi":
		return nil
	default:
		return p.fault(i, "%s is no folder of UDMI's messages", quote(folder))
	}
	points, metrics := d.member(i, "points"), d.member(i, "metrics")
	if points == 0 && metrics == 0 {
		if folder == "pointset" {
			return p.fault(i, `a pointset event without "points"`)
		}
		if d.first(i, "logentries", "last_config", "event_no", "event_count", "pointset", "system") == 0 {
			return p.fault(i, "no message of UDMI that is known: it has neither points nor metrics nor log entries")
		}
		return nil
	}
	if err := p.deviceIn(device); err != nil {
		return err
	}
	if err := p.time(d.member(i, "timestamp")); err != nil {
		return err
	}
	if points == 0 {
		return p.systemMetrics(metrics)
	}
	if d.kind(points) != object {
		return p.fault(points, `"points" is %s, not an object`, d.kind(points))
	}
	for c := points + 1; c < d.end(points); c = d.end(c) {
		value, set := d.find(c, "present_value")
		if !set { // what has none is a command or the point's error alone
			if d.member(c, "set_value") == 0 {
				p.due++
				p.skipped++
			}
			continue
		}
		p.due++
		if err := p.put(value, p.text(d.name(c)), "", ""); err != nil {
			return err
		}
	}
	return nil
}

// systemMetrics reads the numbers of a system event, whose names say when they
// are in MB.
func (p *Parser) systemMetrics(metrics int32) error {
	d := p.doc
	for c := metrics + 1; c < d.end(metrics); c = d.end(c) {
		if d.kind(metrics) != object || d.kind(c) != number {
			continue
		}
		p.due++
		name, unit := p.text(d.name(c)), ""
		if strings.HasSuffix(name, "_mb") {
			unit = "MBy"
		}
		if err := p.put(c, "device_"+name, "", unit); err != nil {
			return err
		}
	}
	return nil
}
