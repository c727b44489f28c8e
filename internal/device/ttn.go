package device

import "errors"

// ttnShaped recognizes what The Things Stack v3 sends to its integrations
// (webhook, MQTT, Pub/Sub) and what its storage integration gives, each entry
// in a "result": https://www.thethingsindustries.com/docs/integrations/data-formats/
func ttnShaped(d *document, i int32) bool {
	return d.at(i, "end_device_ids", "device_id") != 0 || d.at(i, "result", "end_device_ids", "device_id") != 0
}

// readTTN reads an uplink of The Things Stack v3. The metrics are the members
// of its decoded_payload. The device is the DevEUI, which is its own in all
// the world, in capitals; a device_id is so within its application only, and
// is taken where there is no DevEUI.
//
// The time is when the network server received the uplink, a LoRaWAN device
// sends what it has just measured, and where that is not set when the
// application server did. The gateway's own time (settings.time, rx_metadata)
// is not used: many gateways have no clock they could trust.
//
// Joins, acknowledgements and the like measure nothing. An uplink without
// bytes measures nothing either; one with bytes that nobody decoded is
// rejected, so that it can be read when the device has a payload formatter.
func (p *Parser) readTTN(i int32) error {
	d := &p.doc
	if result := d.member(i, "result"); result != 0 {
		i = result
	}
	uplink := d.member(i, "uplink_message")
	if uplink == 0 {
		return nil
	}
	decoded := d.member(uplink, "decoded_payload")
	if decoded == 0 {
		if b := d.member(uplink, "frm_payload"); b != 0 && len(d.chars(b)) > 0 {
			return errors.New("uplink_message has a frm_payload and no decoded_payload: the device has no payload formatter in The Things Stack")
		}
		return nil
	}
	id := d.at(i, "end_device_ids", "dev_eui")
	if id == 0 {
		id = d.at(i, "end_device_ids", "device_id")
	}
	if err := p.device(devEUI(p.scalar(id))); err != nil {
		return err
	}
	if err := p.time(d.member(uplink, "received_at"), d.member(i, "received_at")); err != nil {
		return err
	}
	return p.uplink(decoded, d.member(uplink, "f_cnt"), d.member(uplink, "f_port"))
}
