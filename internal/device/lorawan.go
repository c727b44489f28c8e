package device

import (
	"fmt"
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

// uplink reads what a network server's codec made of an uplink, value decoded.
// Its counter and port go into the readings' attributes; 0: not there.
func (p *Parser) uplink(decoded, counter, port int32) error {
	if k := p.doc.kind(decoded); k < object {
		return fmt.Errorf("%s is %s, not an object", quote(p.doc.name(decoded)), k)
	}
	p.due++
	b := p.scratch[:0]
	for _, a := range [...]struct {
		name string
		c    int32
	}{{`"f_cnt":`, counter}, {`"f_port":`, port}} {
		if a.c != 0 && p.doc.kind(a.c) == number {
			b = append(append(append(b, ','), a.name...), p.doc.raw(a.c)...)
		}
	}
	if p.scratch = b; len(b) > 0 {
		b[0] = '{'
		p.at.attributes = string(append(b, '}'))
	}
	return p.members(decoded)
}
