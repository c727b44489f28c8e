// Package microbit reads BBC micro:bits over Bluetooth Low Energy, through the
// BlueZ of a Linux machine: it finds and pairs them, keeps connections to several
// of them, and gives what their services notify as frames.
//
// The services are the micro:bit's own: temperature, accelerometer, buttons and
// UART (https://lancaster-university.github.io/microbit-docs/resources/bluetooth/bluetooth_profile.html).
// A program on the micro:bit has to start them; one that it lacks is said once,
// and left out.
//
// It does not know what a frame means, keeps none and sends none:
// internal/device reads them.
package microbit

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Characteristics that are read: the UUIDs a Frame may have.
const (
	TemperatureData   = "e95d9250-251d-470a-a062-fa1922dfa9a8" // int8, degrees Celsius
	AccelerometerData = "e95dca4b-251d-470a-a062-fa1922dfa9a8" // 3 × int16 least significant byte first, milli-g
	ButtonA           = "e95dda90-251d-470a-a062-fa1922dfa9a8" // 0 not pressed, 1 pressed, 2 pressed for long
	ButtonB           = "e95dda91-251d-470a-a062-fa1922dfa9a8"
	UARTText          = "6e400002-b5a3-f393-e0a9-e50e24dcca9e" // a whole text of it, without its end
)

// Characteristics that are written.
const (
	TemperaturePeriod   = "e95d1b25-251d-470a-a062-fa1922dfa9a8" // uint16, ms
	AccelerometerPeriod = "e95dfb24-251d-470a-a062-fa1922dfa9a8" // uint16, ms
	UARTWrite           = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"
)

// accelerometerPeriods are those the profile allows, in milliseconds.
var accelerometerPeriods = []int64{1, 2, 5, 10, 20, 80, 160, 640}

// Frame is a value that a characteristic notified; of the UART it is a text.
type Frame struct {
	Device         string    // as Config.Devices calls it, else its address
	Characteristic string    // one of the UUIDs above, lower case with dashes
	At             time.Time // when its notification came, µs; no two frames of a device have the same
	Value          []byte
}

// Found is a micro:bit that was seen.
type Found struct {
	Address   string // like C8:2E:11:22:33:44
	Name      string // like "BBC micro:bit [zuvig]"; "" where it is not known
	RSSI      int    // dBm; 0 where it is not known
	Paired    bool
	Connected bool
}

// Config says what is read of which devices.
type Config struct {
	Adapter string   // "" is hci0
	Devices []string // addresses, or names: all of one, or the five letters in its brackets. None: all that are paired when it begins.

	// Periods of measuring. 0 leaves the service out. That of the temperature is up
	// to 65.535 s; that of the accelerometer is 1, 2, 5, 10, 20, 80, 160 or 640 ms.
	Temperature   time.Duration
	Accelerometer time.Duration

	Buttons bool
	UART    bool // texts; also what shows on the micro:bit that it is connected
}

// Validate says what of it cannot be.
func (c Config) Validate() error {
	ms := c.Temperature.Milliseconds()
	if c.Temperature != time.Duration(ms)*time.Millisecond || ms < 0 || ms > 65535 {
		return fmt.Errorf("the period of the temperature is %s: it has to be whole milliseconds, at most 65.535s", c.Temperature)
	}
	ms = c.Accelerometer.Milliseconds()
	if c.Accelerometer != 0 && (c.Accelerometer != time.Duration(ms)*time.Millisecond || !slices.Contains(accelerometerPeriods, ms)) {
		return fmt.Errorf("the period of the accelerometer is %s: a micro:bit knows 1, 2, 5, 10, 20, 80, 160 and 640 ms", c.Accelerometer)
	}
	if c.Temperature == 0 && c.Accelerometer == 0 && !c.Buttons && !c.UART {
		return fmt.Errorf("nothing is to be read: no temperature, accelerometer, buttons or UART")
	}
	for i, d := range c.Devices {
		if strings.TrimSpace(d) == "" {
			return fmt.Errorf("device %d has neither address nor name", i+1)
		}
		if slices.ContainsFunc(c.Devices[:i], func(other string) bool { return strings.EqualFold(d, other) }) {
			return fmt.Errorf("device %s is there twice", d)
		}
	}
	return nil
}

var anAddress = regexp.MustCompile(`^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$`)

// is tells whether a device is the one that someone calls so.
func (f Found) is(called string) bool {
	if anAddress.MatchString(called) {
		return strings.EqualFold(called, f.Address)
	}
	return f.Name != "" && (strings.EqualFold(called, f.Name) || strings.EqualFold("BBC micro:bit ["+called+"]", f.Name))
}

// isMicroBit tells by its name whether it is one.
func (f Found) isMicroBit() bool { return strings.HasPrefix(f.Name, "BBC micro:bit") }
