package bluetest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// MicroBit is how a micro:bit is when it is added.
type MicroBit struct {
	Address string // like C8:2E:11:22:33:44
	Name    string // "" is "BBC micro:bit [zuvig]"

	Paired       bool   // BlueZ knows it from before
	NeedsPairing bool   // it tells nothing to who has not paired
	Passkey      uint32 // that it shows when it is paired; 0: it asks for none

	Services []string // of those in Services; nil: all

	ConnectWhen   <-chan struct{} // closed: BlueZ is done with connecting to it. nil: at once
	NeverResolves bool            // BlueZ never comes to know its services
	Refuses       int             // so many connections fail before one is made
	Flees         int             // so many connections are lost as soon as they are made
}

// Services are those a program on a micro:bit may start, with the characteristics
// that BlueZ shows of each.
var Services = map[string]Service{
	"temperature":   {"e95d6100-251d-470a-a062-fa1922dfa9a8", []string{"e95d9250-251d-470a-a062-fa1922dfa9a8", "e95d1b25-251d-470a-a062-fa1922dfa9a8"}},
	"accelerometer": {"e95d0753-251d-470a-a062-fa1922dfa9a8", []string{"e95dca4b-251d-470a-a062-fa1922dfa9a8", "e95dfb24-251d-470a-a062-fa1922dfa9a8"}},
	"buttons":       {"e95d9882-251d-470a-a062-fa1922dfa9a8", []string{"e95dda90-251d-470a-a062-fa1922dfa9a8", "e95dda91-251d-470a-a062-fa1922dfa9a8"}},
	"uart":          {"6e400001-b5a3-f393-e0a9-e50e24dcca9e", []string{"6e400002-b5a3-f393-e0a9-e50e24dcca9e", "6e400003-b5a3-f393-e0a9-e50e24dcca9e"}},
}

// Service is one by its UUID, with those of its characteristics.
type Service struct {
	UUID            string
	Characteristics []string
}

// notifies tells which characteristics can: the others are written.
func notifies(uuid string) bool {
	return !slices.Contains([]string{"e95d1b25", "e95dfb24", "6e400003"}, uuid[:8])
}

// Device is a micro:bit that is switched on and near. A test says what it does.
type Device struct {
	z    *BlueZ
	is   MicroBit
	path dbus.ObjectPath

	rssi            int16
	known           bool // paired
	off             bool
	connecting      chan struct{} // closed: the connection that is made is given up. nil: none is made
	connected       bool
	connects        int
	characteristics map[string]*characteristicOf // by UUID
}

type characteristicOf struct {
	path      dbus.ObjectPath
	notifying map[string]bool // who is told
	remembers map[string]bool // who was, when the connection was lost
	written   [][]byte
}

// Add adds a micro:bit.
func (z *BlueZ) Add(m MicroBit) *Device {
	if m.Name == "" {
		m.Name = "BBC micro:bit [zuvig]"
	}
	if m.Services == nil {
		m.Services = slices.Sorted(maps.Keys(Services))
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	d := &Device{z: z, is: m, rssi: -60, known: m.Paired, path: adapterPath + dbus.ObjectPath("/dev_"+strings.ReplaceAll(m.Address, ":", "_")), characteristics: map[string]*characteristicOf{}}
	for i, name := range m.Services {
		for j, uuid := range Services[name].Characteristics {
			d.characteristics[uuid] = &characteristicOf{path: d.service(i) + dbus.ObjectPath(fmt.Sprintf("/char%04x", 16*i+2*j+1)), notifying: map[string]bool{}, remembers: map[string]bool{}}
		}
	}
	z.devices = append(z.devices, d)
	if m.Paired {
		z.add(d.path, d.object())
	}
	d.advertise()
	z.change()
	return d
}

func (d *Device) service(i int) dbus.ObjectPath {
	return d.path + dbus.ObjectPath(fmt.Sprintf("/service%04x", 16*i))
}

func (d *Device) object() object {
	uuids := []string{}
	for _, name := range d.is.Services {
		uuids = append(uuids, Services[name].UUID)
	}
	return object{device1: {
		"Adapter":          dbus.MakeVariant(adapterPath),
		"Address":          dbus.MakeVariant(d.is.Address),
		"AddressType":      dbus.MakeVariant("random"),
		"Name":             dbus.MakeVariant(d.is.Name),
		"Alias":            dbus.MakeVariant(d.is.Name),
		"Paired":           dbus.MakeVariant(d.known),
		"Trusted":          dbus.MakeVariant(false),
		"Connected":        dbus.MakeVariant(false),
		"ServicesResolved": dbus.MakeVariant(false),
		"UUIDs":            dbus.MakeVariant(uuids),
	}}
}

// advertise: who looks for devices sees it.
func (d *Device) advertise() {
	if d.off || d.connected || len(d.z.discovering) == 0 {
		return
	}
	if _, ok := d.z.objects[d.path]; ok {
		d.z.put(d.path, device1, map[string]any{"RSSI": d.rssi})
		return
	}
	o := d.object()
	o[device1]["RSSI"] = dbus.MakeVariant(d.rssi)
	d.z.add(d.path, o)
}

// remove: BlueZ knows it no more.
func (d *Device) remove() {
	d.hideServices()
	d.z.take(d.path)
}

func (d *Device) hideServices() {
	for _, c := range d.characteristics {
		d.z.take(c.path)
		if d.known {
			maps.Copy(c.remembers, c.notifying)
		}
		clear(c.notifying)
	}
	for i := range d.is.Services {
		d.z.take(d.service(i))
	}
}

// drop ends its connection, with what BlueZ tells of that.
func (d *Device) drop() {
	if !d.connected {
		return
	}
	d.connected = false
	d.hideServices()
	d.z.put(d.path, device1, map[string]any{"ServicesResolved": false})
	d.z.put(d.path, device1, map[string]any{"Connected": false})
}

func (d *Device) paired() bool { return d.known }

// Drop ends its connection, as when it goes out of reach. It can be connected anew.
func (d *Device) Drop() {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.drop()
	d.z.change()
}

// Vanish is what BlueZ does with a device that is not paired and gone: its objects
// go without another word of its connection. It is seen anew by who looks for it.
func (d *Device) Vanish() {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.connected = false
	d.remove()
	d.advertise()
	d.z.change()
}

// Off switches it off: its connection ends, and nobody sees it until On.
func (d *Device) Off() {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.off = true
	d.drop()
	if !d.known {
		d.remove()
	}
	d.z.change()
}

// On switches it on after Off.
func (d *Device) On() {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.off = false
	d.advertise()
	d.z.change()
}

// Connected tells whether it is.
func (d *Device) Connected() bool {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	return d.connected
}

// Connects counts the connections that were made to it.
func (d *Device) Connects() int {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	return d.connects
}

// Move changes the signal strength, in dBm, that who looks for it sees.
func (d *Device) Move(rssi int16) {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	d.rssi = rssi
	d.advertise()
}

// Property gives one of its Device1, such as Trusted.
func (d *Device) Property(name string) any {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	return d.z.objects[d.path][device1][name].Value()
}

// Notifying tells whether someone is told of a characteristic.
func (d *Device) Notifying(uuid string) bool {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	c := d.characteristics[uuid]
	return c != nil && len(c.notifying) > 0
}

// AwaitNotifying waits until someone is told of a characteristic.
func (d *Device) AwaitNotifying(uuid string) {
	d.z.t.Helper()
	d.z.Await("a client of "+uuid+" of "+d.is.Address, func() bool { return d.Notifying(uuid) })
}

// Notify sends a value of a characteristic, to who is told of it. It tells whether
// someone is.
func (d *Device) Notify(uuid string, value ...byte) bool {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	c := d.characteristics[uuid]
	if c == nil || !d.connected || len(c.notifying) == 0 {
		return false
	}
	d.z.put(c.path, characteristic, map[string]any{"Value": value})
	return true
}

// Say sends a text by the UART, in notifications of 20 bytes as a micro:bit does.
func (d *Device) Say(text string) bool {
	for part := range slices.Chunk([]byte(text), 20) {
		if !d.Notify("6e400002-b5a3-f393-e0a9-e50e24dcca9e", part...) {
			return false
		}
	}
	return true
}

// Written gives what was written to a characteristic.
func (d *Device) Written(uuid string) [][]byte {
	d.z.mu.Lock()
	defer d.z.mu.Unlock()
	if c := d.characteristics[uuid]; c != nil {
		return slices.Clone(c.written)
	}
	return nil
}

// AwaitWritten waits until so many values were written to a characteristic.
func (d *Device) AwaitWritten(uuid string, n int) {
	d.z.t.Helper()
	d.z.Await(fmt.Sprintf("value %d written to %s of %s", n, uuid, d.is.Address), func() bool { return len(d.Written(uuid)) >= n })
}

func (z *BlueZ) connect(m dbus.Message) *dbus.Error {
	d, giveUp, err := func() (*Device, <-chan struct{}, *dbus.Error) {
		defer z.lock("Device1.Connect")()
		d := z.device(pathOf(m))
		switch {
		case d == nil:
			return nil, nil, errUnknown
		case d.connected:
			return nil, nil, bluezError("AlreadyConnected", "Already Connected")
		case d.connecting != nil:
			return nil, nil, bluezError("InProgress", "In Progress")
		}
		d.connecting = make(chan struct{})
		return d, d.connecting, nil
	}()
	if err != nil {
		return err
	}
	if d.is.ConnectWhen != nil {
		select {
		case <-d.is.ConnectWhen:
		case <-giveUp:
			return errFailed
		}
	}
	defer z.lock("Device1.Connect, its end")()
	if d.connecting == nil {
		return errFailed
	}
	d.connecting = nil
	on, _ := z.objects[adapterPath][adapter1]["Powered"].Value().(bool)
	switch {
	case !on:
		return errNotReady
	case z.device(d.path) == nil:
		return errUnknown
	case d.off:
		return errFailed
	case d.is.Refuses > 0:
		d.is.Refuses--
		return errFailed
	}
	d.connected = true
	d.connects++
	z.put(d.path, device1, map[string]any{"Connected": true})
	switch {
	case d.is.Flees > 0:
		d.is.Flees--
		d.drop()
		return nil
	case d.is.NeverResolves:
		return nil
	}
	for i, name := range d.is.Services {
		s := Services[name]
		z.add(d.service(i), object{service1: {"UUID": dbus.MakeVariant(s.UUID), "Device": dbus.MakeVariant(d.path), "Primary": dbus.MakeVariant(true)}})
		for _, uuid := range s.Characteristics {
			flags := []string{"read", "write"}
			if notifies(uuid) {
				flags = []string{"read", "notify"}
			}
			z.add(d.characteristics[uuid].path, object{characteristic: {
				"UUID": dbus.MakeVariant(uuid), "Service": dbus.MakeVariant(d.service(i)),
				"Flags": dbus.MakeVariant(flags), "Notifying": dbus.MakeVariant(false), "Value": dbus.MakeVariant([]byte{}),
			}})
		}
	}
	z.put(d.path, device1, map[string]any{"ServicesResolved": true})
	return nil
}

func (z *BlueZ) disconnect(m dbus.Message) *dbus.Error {
	defer z.lock("Device1.Disconnect")()
	d := z.device(pathOf(m))
	switch {
	case d == nil:
		return errUnknown
	case d.connecting != nil:
		close(d.connecting)
		d.connecting = nil
		return nil
	case !d.connected:
		return bluezError("NotConnected", "Not Connected")
	}
	d.drop()
	return nil
}

func (z *BlueZ) pair(m dbus.Message, sender dbus.Sender) *dbus.Error {
	d, agent, err := func() (*Device, dbus.ObjectPath, *dbus.Error) {
		defer z.lock("Device1.Pair")()
		d := z.device(pathOf(m))
		switch {
		case d == nil:
			return nil, "", errUnknown
		case d.known:
			return nil, "", bluezError("AlreadyExists", "Already Exists")
		case d.off:
			return nil, "", bluezError("ConnectionAttemptFailed", "Page Timeout")
		}
		return d, z.agents[string(sender)], nil
	}()
	if err != nil {
		return err
	}
	if d.is.Passkey != 0 {
		var key uint32
		if err := z.conn.Object(string(sender), agent).Call("org.bluez.Agent1.RequestPasskey", 0, d.path).Store(&key); err != nil || key != d.is.Passkey {
			return bluezError("AuthenticationFailed", "Authentication Failed")
		}
	}
	defer z.lock("Device1.Pair after its passkey")()
	d.known = true
	d.connected = true
	d.connects++
	z.put(d.path, device1, map[string]any{"Connected": true})
	z.put(d.path, device1, map[string]any{"Paired": true})
	return nil
}

func (z *BlueZ) cancelPairing() *dbus.Error {
	defer z.lock("Device1.CancelPairing")()
	return nil
}

// characteristic gives one of a connected device.
func (z *BlueZ) characteristic(path dbus.ObjectPath) (*Device, *characteristicOf, *dbus.Error) {
	d := z.device(path)
	if d == nil {
		return nil, nil, errUnknown
	}
	for _, c := range d.characteristics {
		if c.path != path {
			continue
		}
		if d.is.NeedsPairing && !d.known {
			return nil, nil, errNotPaired
		}
		return d, c, nil
	}
	return nil, nil, errUnknown
}

func (z *BlueZ) startNotify(m dbus.Message, sender dbus.Sender) *dbus.Error {
	defer z.lock("GattCharacteristic1.StartNotify")()
	_, c, err := z.characteristic(pathOf(m))
	if err != nil {
		return err
	}
	if c.notifying[string(sender)] {
		return bluezError("InProgress", "In Progress")
	}
	c.notifying[string(sender)] = true
	z.put(c.path, characteristic, map[string]any{"Notifying": true})
	// BlueZ has devices that are paired notify again on its own accord.
	if c.remembers[string(sender)] {
		return bluezError("InProgress", "In Progress")
	}
	return nil
}

func (z *BlueZ) stopNotify(m dbus.Message, sender dbus.Sender) *dbus.Error {
	defer z.lock("GattCharacteristic1.StopNotify")()
	_, c, err := z.characteristic(pathOf(m))
	if err != nil {
		return err
	}
	delete(c.notifying, string(sender))
	if len(c.notifying) == 0 {
		z.put(c.path, characteristic, map[string]any{"Notifying": false})
	}
	return nil
}

func (z *BlueZ) writeValue(m dbus.Message, value []byte, _ map[string]dbus.Variant) *dbus.Error {
	defer z.lock("GattCharacteristic1.WriteValue")()
	_, c, err := z.characteristic(pathOf(m))
	if err != nil {
		return err
	}
	c.written = append(c.written, bytes.Clone(value))
	return nil
}

func (z *BlueZ) readValue(m dbus.Message, _ map[string]dbus.Variant) ([]byte, *dbus.Error) {
	defer z.lock("GattCharacteristic1.ReadValue")()
	_, c, err := z.characteristic(pathOf(m))
	if err != nil {
		return nil, err
	}
	value, _ := z.objects[c.path][characteristic]["Value"].Value().([]byte)
	return value, nil
}
