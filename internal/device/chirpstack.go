package device

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/telemesh/telemesh/internal/mesh"
)

// chirpStack reads the events of ChirpStack v4 in JSON, and of those that its
// attributes or topic make known or that are said to be of this format also
// those of v3, whose members have mostly the same names:
// https://www.chirpstack.io/docs/chirpstack/integrations/events.html
// https://www.chirpstack.io/application-server/integrations/events/
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

// readChirpStack reads an event. The metrics of an uplink are the members of its
// object (objectJSON of v3), those of a status the device's margin, in dB,
// battery level, in per cent, and whether it has external power: then it has no
// level. The device is deviceInfo.devEui (devEUI of v3) in capitals, else what
// the transport says: the attribute devEui or the topic. The time is the
// event's: that of the gateway, if it has one, else of the server.
//
// Other events (join, ack, txack, log, error, location, integration) measure
// nothing. What is none of them is rejected. What holds for uplinks that nobody
// decoded holds here as in readTTN.
func (p *Parser) readChirpStack(i int32) error {
	d := p.doc
	event, id := p.m.Attributes["event"], p.m.Attributes["devEui"]
	if matches(p.m, "application/+/device/+/event/+") {
		levels := levelsOf(p.m)
		event, id = cmp.Or(event, levels[5]), cmp.Or(id, levels[3])
	}
	decoded := d.first(i, "object", "objectJSON")
	data := d.member(i, "data")
	switch event {
	case "":
		switch {
		case d.first(i, "integrationName", "location", "queueItemId", "downlinkId", "acknowledged", "code", "description", "error") != 0:
			return nil
		case d.first(i, "margin", "batteryLevel", "batteryLevelUnavailable", "externalPowerSource") != 0:
			event = "status"
		}
	case "join", "ack", "txack", "log", "error", "location", "integration":
		return nil
	case "up", "status":
	default:
		return p.fault(i, "no event of ChirpStack that is known: %s", quote(event))
	}
	switch {
	case event == "status" || decoded != 0:
	case data != 0 && len(d.chars(data)) > 0:
		return p.fault(data, "the uplink has data and no object: the device profile has no codec in ChirpStack, or it failed")
	case d.first(i, "deduplicationId", "devAddr", "fCnt", "fPort", "dr", "rxInfo", "txInfo") != 0: // a join, or an uplink without bytes
		return nil
	default:
		return p.fault(i, "no event of ChirpStack that is known: it has neither object nor data")
	}
	device, err := p.chirpStackDevice(i, id)
	if err != nil {
		return err
	}
	if err := p.device(device); err != nil {
		return err
	}
	if err := p.time(d.first(i, "time", "publishedAt")); err != nil {
		return err
	}
	p.due++
	if event == "status" {
		return p.chirpStackStatus(i)
	}
	p.attribute("f_port", d.member(i, "fPort"))
	if string(d.name(decoded)) == "objectJSON" {
		err = p.decodedText(decoded)
	} else {
		err = p.decoded(decoded)
	}
	if err != nil || len(p.origins) == 0 {
		return err
	}
	return p.radio(d.member(i, "fCnt"), d.member(i, "rxInfo"))
}

// chirpStackDevice gives the device of event i; sent is what the transport says
// besides the message's DeviceID. A topic as such is no device.
func (p *Parser) chirpStackDevice(i int32, sent string) (string, error) {
	d := p.doc
	id := p.scalar(d.at(i, "deviceInfo", "devEui"))
	if v3 := d.member(i, "devEUI"); id == "" && v3 != 0 {
		id = p.scalar(v3)
		// Of v3's two ways to write JSON, that of protobuf has it in base64.
		if b, err := base64.StdEncoding.DecodeString(id); err == nil && len(b) == 8 {
			id = hex.EncodeToString(b)
		}
	}
	if id = cmp.Or(id, p.m.DeviceID, sent); id == "" {
		return "", p.fault(i, "no device: the event has no deviceInfo.devEui")
	}
	return devEUI(id), nil
}

func (p *Parser) chirpStackStatus(i int32) error {
	d := p.doc
	var err error
	level, external := d.member(i, "batteryLevel"), d.member(i, "externalPowerSource")
	if d.isTrue(d.member(i, "batteryLevelUnavailable")) || d.isTrue(external) {
		level = 0 // which is sent as 0
	}
	if external != 0 && d.kind(external) == boolean {
		err = p.put(external, "device_external_power", "", "")
	}
	return errors.Join(err,
		p.optional(d.member(i, "margin"), "margin", "device_margin", "dB"),
		p.optional(level, "batteryLevel", "device_battery_level", "%"),
	)
}

// isTrue says whether value c, which may be 0, for none, is true.
func (d *document) isTrue(c int32) bool { return c != 0 && string(d.raw(c)) == "true" }

// decodedText is decoded for an object that is sent as a string.
func (p *Parser) decodedText(c int32) error {
	outer := p.doc
	if outer.kind(c) != text {
		return p.fault(c, "%s is %s, not a string", quote(outer.name(c)), outer.kind(c))
	}
	if p.depth+1 == len(p.docs) {
		p.docs = append(p.docs, &document{})
	}
	p.doc = p.docs[p.depth+1]
	err := p.doc.parse(outer.chars(c))
	if err == nil && p.doc.kind(0) < object {
		err = fmt.Errorf("it is %s, not an object", p.doc.kind(0))
	}
	if err == nil {
		err = p.members(0)
	}
	p.doc = outer
	if err != nil {
		return p.fault(c, "%s: %s", quote(outer.name(c)), err) // not wrapped: its position is not one of the payload
	}
	return nil
}
