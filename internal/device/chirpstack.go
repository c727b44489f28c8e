package device

import (
	"errors"

	"github.com/telemesh/telemesh/internal/mesh"
)

// chirpStack reads the events of ChirpStack v4 in JSON:
// https://www.chirpstack.io/docs/chirpstack/integrations/events.html
// Over Pub/Sub and AMQP they have the attributes event and devEui, over HTTP
// the event stands in the query, over MQTT in the topic.
var chirpStack = reader{
	format: "chirpstack-v4",
	sent: func(m *mesh.Message) bool {
		return m.Attributes["event"] != "" && m.Attributes["devEui"] != "" || matches(m, "application/+/device/+/event/+")
	},
	shaped: func(d *document, i int32) bool { return d.at(i, "deviceInfo", "devEui") != 0 },
	marks:  []string{"deviceInfo"},
	own:    []string{"time"},
	read:   (*Parser).readChirpStack,
}

// readChirpStack reads an event of ChirpStack v4. The metrics of an uplink are
// the members of its object, those of a status the device's battery level, in
// per cent, and margin, in dB. The device is deviceInfo.devEui in capitals, the
// time is the event's: that of the gateway, if it has one, else of the server.
//
// Other events (join, ack, txack, log, location, integration) measure nothing.
// What holds for uplinks that nobody decoded holds here as in readTTN.
func (p *Parser) readChirpStack(i int32) error {
	d := p.doc
	event := p.m.Attributes["event"]
	if levels := levelsOf(p.m); event == "" && len(levels) > 5 {
		event = levels[5]
	}
	if d.member(i, "integrationName") != 0 {
		return nil
	}
	status := event == "status" || event == "" && d.member(i, "margin") != 0
	decoded := d.member(i, "object")
	switch {
	case status:
	case event != "" && event != "up":
		return nil
	case decoded == 0:
		if b := d.member(i, "data"); b != 0 && len(d.chars(b)) > 0 {
			return p.fault(b, "the uplink has data and no object: the device profile has no codec in ChirpStack, or it failed")
		}
		return nil
	}
	if err := p.device(devEUI(p.scalar(d.at(i, "deviceInfo", "devEui")))); err != nil {
		return err
	}
	if err := p.time(d.member(i, "time")); err != nil {
		return err
	}
	if status {
		p.due++
		level := d.member(i, "batteryLevel")
		if c := d.member(i, "batteryLevelUnavailable"); c != 0 && string(d.raw(c)) == "true" {
			level = 0
		}
		return errors.Join(
			p.optional(d.member(i, "margin"), "margin", "device_margin", "dB"),
			p.optional(level, "batteryLevel", "device_battery_level", "%"),
		)
	}
	p.due++
	p.attribute("f_port", d.member(i, "fPort"))
	if err := p.decoded(decoded); err != nil || len(p.origins) == 0 {
		return err
	}
	return p.radio(d.member(i, "fCnt"), d.member(i, "rxInfo"))
}
