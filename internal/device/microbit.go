package device

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// microBit reads values of the BBC micro:bit's Bluetooth services as a gateway
// passes them on, byte for byte:
// https://lancaster-university.github.io/microbit-docs/resources/bluetooth/bluetooth_profile.html
// The characteristic is the attribute of that name, else the last level of the
// topic: its UUID in any case, with or without dashes.
//
// What the UART sends is text, and what it means is up to the program on the
// micro:bit: here it is a number with its name, as MakeCode's "uart write value"
// sends it, or a JSON object of them. A text has neither device nor time of its
// own: a micro:bit knows neither.
var microBit = reader{
	format: "microbit",
	sent: func(m *mesh.Message) bool {
		_, said, _ := characteristic(m)
		return strings.HasSuffix(said, microBitBase) || said == uartText
	},
	raw:  (*Parser).readMicroBit,
	read: (*Parser).readMicroBitJSON,
}

// microBitBase ends the UUIDs of the micro:bit's own services. Its UART is Nordic
// Semiconductor's, of which this is the characteristic that notifies.
const (
	microBitBase = "251d470aa062fa1922dfa9a8"
	uartText     = "6e400002b5a3f393e0a9e50e24dcca9e"
)

// frame is what a characteristic holds: numbers of that many bytes each, least
// significant byte first.
type frame struct {
	name    string
	width   int
	signed  bool
	unit    string
	metrics []string // none: it is no measurement
}

// frames are by the first bytes of the characteristic's UUID. The profile says
// in which unit they are; of the magnetometer's axes it does not.
var frames = map[string]frame{
	"e95d9250": {"temperature", 1, true, "Cel", []string{"temperature"}},
	"e95dca4b": {"accelerometer", 2, true, "m[g]", []string{"acceleration_x", "acceleration_y", "acceleration_z"}},
	"e95dfb11": {"magnetometer", 2, true, "", []string{"magnetometer_x", "magnetometer_y", "magnetometer_z"}},
	"e95d9715": {"magnetometer bearing", 2, false, "deg", []string{"bearing"}},
	// 0 is not pressed, 1 pressed, 2 pressed for long.
	"e95dda90": {"button a", 1, false, "", []string{"button_a"}},
	"e95dda91": {"button b", 1, false, "", []string{"button_b"}},

	"e95d1b25": {name: "temperature period"},
	"e95dfb24": {name: "accelerometer period"},
	"e95d386c": {name: "magnetometer period"},
	"e95db358": {name: "magnetometer calibration"},
	"e95d7b77": {name: "LED matrix state"},
	"e95d93ee": {name: "LED text"},
	"e95d0d2d": {name: "scrolling delay"},
	"e95d8d00": {name: "pin data"},
	"e95d5899": {name: "pin AD configuration"},
	"e95db9fe": {name: "pin IO configuration"},
	"e95dd822": {name: "PWM control"},
	"e95db84c": {name: "micro:bit requirements"},
	"e95d9775": {name: "micro:bit event"},
	"e95d23c4": {name: "client requirements"},
	"e95d5404": {name: "client event"},
	"e95d93b1": {name: "DFU control"},
}

// characteristic gives the characteristic that a message is of, folded: lower
// case, no dashes. inTopic: the topic's last level is what names it.
func characteristic(m *mesh.Message) (said, folded string, inTopic bool) {
	if said = m.Attributes["characteristic"]; said == "" {
		t := m.Attributes[topic]
		said, inTopic = t[strings.LastIndexByte(t, '/')+1:], true
	}
	return said, strings.ToLower(strings.ReplaceAll(said, "-", "")), inTopic
}

// readMicroBit reads a frame. Where the format is told, temperature and
// accelerometer may be called so, and without a characteristic they are told
// by their length. The device is what the transport says, the levels of the
// topic before the characteristic among it; a frame has no time.
func (p *Parser) readMicroBit() (isJSON bool, err error) {
	b := p.m.Payload
	said, folded, inTopic := characteristic(p.m)
	if folded == uartText {
		return p.readMicroBitText()
	}
	p.due++
	f, known := frame{}, false
	if uuid, ok := strings.CutSuffix(folded, microBitBase); ok {
		if f, known = frames[uuid]; !known {
			return false, fault(-1, "the characteristic %s is none of the micro:bit's Bluetooth profile", quote(said))
		}
	}
	for _, uuid := range []string{"e95d9250", "e95dca4b"} {
		if !known && folded == frames[uuid].name {
			f, known = frames[uuid], true
		}
	}
	switch {
	case known:
	case said != "" && !inTopic:
		return false, fault(-1, "the characteristic %s is none of the micro:bit's Bluetooth profile", quote(said))
	case len(b) == 1:
		f, inTopic = frames["e95d9250"], false
	case len(b) == 6:
		f, inTopic = frames["e95dca4b"], false
	default:
		return false, fault(-1, "a frame of %d bytes: temperature has 1, accelerometer 6; another characteristic has to be told by its UUID", len(b))
	}
	want := f.width * len(f.metrics)
	switch {
	case want == 0:
		return false, fault(-1, "%s of the micro:bit is no measurement", f.name)
	case len(b) != want:
		return false, fault(-1, "%s of the micro:bit: a frame of %d bytes, it should have %d", f.name, len(b), want)
	}
	if err := p.microBitDevice(said, inTopic); err != nil {
		return false, err
	}
	for i, metric := range f.metrics {
		var v int
		switch at := b[i*f.width:]; {
		case f.width == 1 && f.signed:
			v = int(int8(at[0]))
		case f.width == 1:
			v = int(at[0])
		case f.signed:
			v = int(int16(binary.LittleEndian.Uint16(at)))
		default:
			v = int(binary.LittleEndian.Uint16(at))
		}
		if err := p.putReading(mesh.Reading{Value: float64(v)}, metric, "", f.unit); err != nil {
			return false, err
		}
	}
	return false, nil
}

// microBitDevice takes device and time from what the transport says.
func (p *Parser) microBitDevice(said string, inTopic bool) error {
	device := ""
	if inTopic {
		device = cmp.Or(p.m.DeviceID, strings.TrimSuffix(strings.TrimSuffix(p.m.Attributes[topic], said), "/"))
	}
	if err := p.device(device); err != nil {
		return err
	}
	return p.untimed()
}

// readMicroBitText reads a text of the UART, with or without the '#' or the end
// of the line that ends it. One that is empty measures nothing.
func (p *Parser) readMicroBitText() (isJSON bool, err error) {
	text := bytes.TrimSpace(p.m.Payload)
	text = bytes.TrimSpace(bytes.TrimSuffix(text, []byte("#")))
	if len(text) == 0 {
		return false, nil
	}
	if opensJSON(text) {
		return true, nil
	}
	p.due++
	name, number, _ := strings.Cut(string(text), ":")
	metric, value := strings.TrimSpace(name), strings.TrimSpace(number)
	if metric == "" || !isCSVNumber(value) {
		return false, fault(-1, "a text of the UART is NAME:NUMBER or a JSON object, not %s", quote(string(text)))
	}
	said, _, inTopic := characteristic(p.m)
	if err := p.microBitDevice(said, inTopic); err != nil {
		return false, err
	}
	var r mesh.Reading
	if !setNumber(&r, []byte(strings.TrimPrefix(value, "+"))) {
		p.skipped++
		return false, nil
	}
	return false, p.putReading(r, metric, "", "")
}

// readMicroBitJSON reads an object that the UART sent: each member is a metric.
func (p *Parser) readMicroBitJSON(i int32) error {
	p.due++
	said, _, inTopic := characteristic(p.m)
	if err := p.microBitDevice(said, inTopic); err != nil {
		return err
	}
	return p.members(i)
}
