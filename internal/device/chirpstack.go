package device

import "errors"

// chirpStackSent recognizes ChirpStack's attributes of Pub/Sub and AMQP
// messages: event and devEui.
func chirpStackSent(attributes map[string]string) bool {
	return attributes["event"] != "" && attributes["devEui"] != ""
}

// chirpStackShaped recognizes the events of ChirpStack v4 in JSON:
// https://www.chirpstack.io/docs/chirpstack/integrations/events.html
func chirpStackShaped(d *document, i int32) bool {
	return d.at(i, "deviceInfo", "devEui") != 0
}

// readChirpStack reads an uplink event of ChirpStack v4. The metrics are the
// members of its object, the device is deviceInfo.devEui in capitals, the time
// is the event's: that of the gateway, if it has one, else of the server.
//
// Other events (join, ack, txack, status, log, location, integration) measure
// nothing. What holds for uplinks that nobody decoded holds here as in readTTN.
func (p *Parser) readChirpStack(i int32) error {
	d := &p.doc
	if event := p.m.Attributes["event"]; event != "" && event != "up" || d.member(i, "integrationName") != 0 {
		return nil
	}
	decoded := d.member(i, "object")
	if decoded == 0 {
		if b := d.member(i, "data"); b != 0 && len(d.chars(b)) > 0 {
			return errors.New("the uplink has data and no object: the device profile has no codec in ChirpStack")
		}
		return nil
	}
	if err := p.device(devEUI(p.scalar(d.at(i, "deviceInfo", "devEui")))); err != nil {
		return err
	}
	if err := p.time(d.member(i, "time")); err != nil {
		return err
	}
	return p.uplink(decoded, d.member(i, "fCnt"), d.member(i, "fPort"))
}
