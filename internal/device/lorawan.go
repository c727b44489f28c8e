package device

import (
	"errors"
	"strings"
)

// devEUI gives a DevEUI the way it is printed on devices, in capitals, so that
// a device keeps its id when it moves from one network server to another. What
// is no EUI-64 stays as it is.
func devEUI(id string) string {
	if len(id) != 16 {
		return id
	}
	for i := range len(id) {
		if c := id[i]; !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
			return id
		}
	}
	return strings.ToUpper(id)
}

// decoded reads what a network server's codec made of an uplink.
func (p *Parser) decoded(c int32) error {
	if k := p.doc.kind(c); k < object {
		return p.fault(c, "%s is %s, not an object", quote(p.doc.name(c)), k)
	}
	return p.members(c)
}

// radio reads what a network server knows of an uplink besides: the counter of
// its frame, and of the gateways that heard it the strongest signal; 0 is none.
func (p *Parser) radio(counter, gateways int32) error {
	rssi, snr := p.best(gateways)
	return errors.Join(
		p.optional(counter, "f_cnt", "device_f_cnt", ""),
		p.optional(rssi, "rx_metadata_rssi", "device_rssi", "dB{mW}"),
		p.optional(snr, "rx_metadata_snr", "device_snr", "dB"),
	)
}

// optional is put for a number that may not be there: c is 0, then.
func (p *Parser) optional(c int32, own, as, unit string) error {
	if c == 0 || p.doc.kind(c) != number {
		return nil
	}
	return p.put(c, own, as, unit)
}

// best gives the signal of the gateway with the strongest one; loRaSNR is that of
// ChirpStack v3.
func (p *Parser) best(gateways int32) (rssi, snr int32) {
	d := p.doc
	if gateways == 0 || d.kind(gateways) != array {
		return 0, 0
	}
	var strongest float64
	for c := gateways + 1; c < d.end(gateways); c = d.end(c) {
		at := d.member(c, "rssi")
		if at == 0 || d.kind(at) != number {
			continue
		}
		if v, _ := parseNumber(d.raw(at)); rssi == 0 || v > strongest {
			strongest, rssi, snr = v, at, d.first(c, "snr", "loRaSNR")
		}
	}
	return rssi, snr
}
