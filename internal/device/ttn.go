package device

import (
	"errors"
	"strconv"

	"github.com/telemesh/telemesh/internal/mesh"
)

// ttn reads what The Things Stack v3 sends to its integrations (webhook, MQTT,
// Pub/Sub) and what its storage integration gives, each entry in a "result":
// https://www.thethingsindustries.com/docs/integrations/data-formats/
var ttn = reader{
	format: "ttn-v3",
	// v3/APPLICATION@TENANT/devices/DEVICE/up
	sent: func(m *mesh.Message) bool { return matches(m, "v3/+/devices/+/#") },
	shaped: func(d *document, i int32) bool {
		return d.at(i, "end_device_ids", "device_id") != 0 || d.at(i, "result", "end_device_ids", "device_id") != 0
	},
	marks: []string{"end_device_ids", "result"},
	read:  (*Parser).readTTN,
}

// measuresNothing are the messages that are no uplink, those to a device among
// them (downlinks).
var measuresNothing = []string{
	"join_accept", "downlink_ack", "downlink_nack", "downlink_sent", "downlink_failed", "downlink_queued", "downlink_queue_invalidated",
	"downlinks", "location_solved", "service_data",
}

// normalizedTerms is what The Things Stack says of normalized payloads:
// https://www.thethingsindustries.com/docs/integrations/payload-formatters/javascript/uplink-normalizer/
var normalizedTerms = map[string]term{
	"air_temperature":      {"temperature", "Cel"},
	"air_relativeHumidity": {"relative_humidity", "%"},
	"air_pressure":         {"pressure", "hPa"},
	"air_co2":              {"co2", "ppm"},
	"air_lightIntensity":   {"illuminance", "lx"},
	"battery":              {"device_battery_voltage", "V"},
	"soil_temperature":     {"", "Cel"},
	"soil_moisture":        {"", "%"},
	"soil_ec":              {"", "dS/m"},
	"soil_pH":              {"", "[pH]"},
	"water_temperature":    {"", "Cel"},
	"wind_speed":           {"", "m/s"},
	"wind_direction":       {"", "deg"},
}

// readTTN reads an uplink of The Things Stack v3. The metrics are those of its
// normalized_payload, whose names and units are the network's own, and of its
// decoded_payload what is not the same metric. The device is the DevEUI, which
// is its own in all the world, in capitals; a device_id is so within its
// application only, and is taken where there is no DevEUI.
//
// The time is when the network server received the uplink, a LoRaWAN device
// sends what it has just measured, and where that is not set when the
// application server did. The gateway's own time (settings.time, rx_metadata)
// is not used: many gateways have no clock they could trust. A normalized
// measurement may tell a time of its own.
//
// An uplink_normalized is one measurement of an uplink, with a
// normalized_payload alone.
//
// Joins, acknowledgements and the like measure nothing; what is neither an
// uplink nor one of those is rejected. An uplink without
// bytes measures nothing either; one with bytes that nobody decoded is
// rejected, so that it can be read when the device has a payload formatter.
func (p *Parser) readTTN(i int32) error {
	d := p.doc
	if result := d.member(i, "result"); result != 0 {
		i = result
	}
	message := d.first(i, "uplink_message", "uplink_normalized")
	switch {
	case message == 0 && d.first(i, measuresNothing...) != 0:
		return nil
	case message == 0:
		return p.fault(i, "no message of The Things Stack that is known: it has no uplink_message")
	case d.kind(message) != object:
		return p.fault(message, "%s is %s, not an object", quote(d.name(message)), d.kind(message))
	}
	decoded, normalized := d.member(message, "decoded_payload"), d.member(message, "normalized_payload")
	if decoded == 0 && normalized == 0 {
		if b := d.member(message, "frm_payload"); b != 0 && len(d.chars(b)) > 0 {
			return p.fault(b, "%s has a frm_payload and no decoded_payload: the device has no payload formatter in The Things Stack, or it failed", d.name(message))
		}
		return nil
	}
	id := d.at(i, "end_device_ids", "dev_eui")
	if id == 0 {
		id = d.at(i, "end_device_ids", "device_id")
	}
	device := devEUI(p.scalar(id))
	// Measurements with a time of their own are objects of their own.
	begin := func(time int32) error {
		if err := p.device(device); err != nil {
			return err
		}
		p.attribute("f_port", d.member(message, "f_port"))
		p.attribute("firmware_version", d.at(message, "version_ids", "firmware_version"))
		return p.time(time, d.member(message, "received_at"), d.member(i, "received_at"))
	}
	p.due++
	given := map[*metric]bool{} // by the normalizer, at whatever time
	start := len(p.out)
	for c, end := p.measurements(normalized); c < end; c = d.end(c) {
		time := d.member(c, "time")
		if time == 0 {
			continue
		}
		if err := begin(time); err != nil {
			return err
		}
		if err := p.measurement(c, ""); err != nil {
			return err
		}
		p.given(given)
		p.finish()
		p.begin()
	}
	if err := begin(0); err != nil {
		return err
	}
	if err := p.normalized(normalized); err != nil {
		return err
	}
	if decoded != 0 {
		p.given(given)
		before := len(p.origins)
		if err := p.decoded(decoded); err != nil {
			return err
		}
		p.supersede(before, given)
	}
	if len(p.out) == start { // the codec failed; what follows should not hide it
		return nil
	}
	return errors.Join(
		p.radio(d.member(message, "f_cnt"), d.member(message, "rx_metadata")),
		p.optional(d.at(message, "last_battery_percentage", "value"), "last_battery_percentage", "device_battery_level", "%"),
	)
}

// measurements gives the first of the values in a normalized_payload and where
// they end: uplink_message has an array of them, uplink_normalized one; c may be
// 0, for none.
func (p *Parser) measurements(c int32) (first, end int32) {
	switch {
	case c == 0:
		return 0, 0
	case p.doc.kind(c) == array:
		return c + 1, p.doc.end(c)
	}
	return c, p.doc.end(c)
}

// normalized reads the measurements without a time of their own. The first has
// the names of The Things Stack, which those behind it would take again.
func (p *Parser) normalized(c int32) error {
	d := p.doc
	n := 0
	for e, end := p.measurements(c); e < end; e = d.end(e) {
		if d.member(e, "time") != 0 {
			continue
		}
		prefix := ""
		if n > 0 {
			prefix = strconv.Itoa(n)
		}
		if err := p.measurement(e, prefix); err != nil {
			return err
		}
		n++
	}
	return nil
}

func (p *Parser) measurement(c int32, prefix string) error {
	if p.doc.kind(c) != object {
		return p.fault(c, "a normalized measurement is %s, not an object", p.doc.kind(c))
	}
	outer := p.push([]byte(prefix))
	if p.terms = normalizedTerms; prefix != "" {
		p.below = len(prefix) + len("_")
	}
	for m := c + 1; m < p.doc.end(c); m = p.doc.end(m) {
		if string(p.doc.name(m)) == "time" {
			continue
		}
		if err := p.member(m, p.doc.name(m)); err != nil {
			return err
		}
	}
	p.path, p.terms, p.below = p.path[:outer], nil, 0
	return nil
}

// given adds the metrics that the object has so far.
func (p *Parser) given(metrics map[*metric]bool) {
	for _, o := range p.origins {
		if o.applies {
			metrics[o.says.mapped] = true
		}
	}
}

// supersede leaves out the readings from the nth of the object on whose metric
// is given: what a codec and its normalizer both say.
func (p *Parser) supersede(n int, given map[*metric]bool) {
	if len(given) == 0 {
		return
	}
	first := len(p.out) - len(p.origins)
	kept := n
	for i := n; i < len(p.origins); i++ {
		if o := p.origins[i]; o.applies && given[o.says.mapped] {
			continue
		}
		p.origins[kept], p.out[first+kept] = p.origins[i], p.out[first+i]
		kept++
	}
	p.origins, p.out = p.origins[:kept], p.out[:first+kept]
}
