// Package bluetest is a BlueZ for tests, with micro:bits, on a D-Bus daemon of its
// own: what talks to BlueZ talks to it unchanged when the environment has
// DBUS_SYSTEM_BUS_ADDRESS, a command that a test starts as well as the test itself.
//
// It behaves as BlueZ does to a GATT client: objects come and go with signals,
// calls take their time and fail with BlueZ's errors, notifications go to whoever
// asked for them. The micro:bits do what a test says. It has no radio: what it
// advertises and how strong the signal is are told, nothing is encrypted.
//
// It needs the program dbus-daemon (Debian's package dbus).
package bluetest

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	adapterPath = dbus.ObjectPath("/org/bluez/hci0")

	adapter1       = "org.bluez.Adapter1"
	device1        = "org.bluez.Device1"
	service1       = "org.bluez.GattService1"
	characteristic = "org.bluez.GattCharacteristic1"
	properties     = "org.freedesktop.DBus.Properties"
	objectManager  = "org.freedesktop.DBus.ObjectManager"
)

// BlueZ is one with the adapter hci0.
type BlueZ struct {
	// Address is that of its bus, for DBUS_SYSTEM_BUS_ADDRESS.
	Address string

	t      testing.TB
	daemon io.Closer

	mu          sync.Mutex
	changed     chan struct{} // closed at a change of what follows, and made anew
	conn        *dbus.Conn
	objects     map[dbus.ObjectPath]object
	devices     []*Device
	discovering map[string]bool // by who asked for it
	agents      map[string]dbus.ObjectPath
	calls       map[string]int
}

// object is what BlueZ tells of one: by interface its properties.
type object map[string]map[string]dbus.Variant

// Start starts a bus and a BlueZ, which end with the test. It skips the test where
// there is no dbus-daemon.
func Start(t testing.TB) *BlueZ {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skipf("BlueZ's bus needs dbus-daemon: %v", err)
	}
	// Not the test's folder: a socket's path must be short.
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, filepath.Join(dir, "bus")), 0o600); err != nil {
		t.Fatal(err)
	}
	// Its shell ends it when nobody holds the other end of its standard input: a test
	// that is killed leaves none behind.
	daemon := exec.Command("sh", "-c", `"$0" "$@" & read -r _; kill -KILL $!; wait`,
		program, "--config-file="+config, "--nofork", "--nopidfile", "--nosyslog", "--print-address=1")
	held, err := daemon.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	daemon.Stderr = &said
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		held.Close()
		daemon.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		held.Close()
		daemon.Wait()
		t.Fatalf("dbus-daemon says no address: %v: %s", err, &said)
	}
	z := &BlueZ{Address: strings.TrimSpace(address), t: t, daemon: held, changed: make(chan struct{}), objects: map[dbus.ObjectPath]object{
		adapterPath: {adapter1: {
			"Address":     dbus.MakeVariant("00:11:22:33:44:55"),
			"Powered":     dbus.MakeVariant(true),
			"Discovering": dbus.MakeVariant(false),
		}},
	}, calls: map[string]int{}}
	z.Restart()
	t.Cleanup(z.Stop)
	return z
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

// Stop ends BlueZ, as systemctl stop bluetooth does. Devices are disconnected, and
// those that are not paired forgotten.
func (z *BlueZ) Stop() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.conn == nil {
		return
	}
	z.conn.Close()
	z.conn = nil
	for _, d := range z.devices {
		d.drop()
		if !d.paired() {
			d.remove()
		}
	}
	z.change()
}

// Restart starts BlueZ after Stop.
func (z *BlueZ) Restart() {
	z.t.Helper()
	conn, err := dbus.Connect(z.Address)
	if err != nil {
		z.t.Fatal(err)
	}
	z.mu.Lock()
	z.conn, z.discovering, z.agents = conn, map[string]bool{}, map[string]dbus.ObjectPath{}
	z.mu.Unlock()
	for _, e := range []struct {
		path    dbus.ObjectPath
		iface   string
		subtree bool
		methods map[string]any
	}{
		{"/", objectManager, false, map[string]any{"GetManagedObjects": z.managedObjects}},
		{"/org/bluez", "org.bluez.AgentManager1", false, map[string]any{"RegisterAgent": z.registerAgent, "UnregisterAgent": z.unregisterAgent, "RequestDefaultAgent": z.requestDefaultAgent}},
		{"/org/bluez", properties, true, map[string]any{"Get": z.get, "GetAll": z.getAll, "Set": z.set}},
		{"/org/bluez", adapter1, true, map[string]any{"SetDiscoveryFilter": z.setDiscoveryFilter, "StartDiscovery": z.startDiscovery, "StopDiscovery": z.stopDiscovery, "RemoveDevice": z.removeDevice}},
		{"/org/bluez", device1, true, map[string]any{"Connect": z.connect, "Disconnect": z.disconnect, "Pair": z.pair, "CancelPairing": z.cancelPairing}},
		{"/org/bluez", characteristic, true, map[string]any{"StartNotify": z.startNotify, "StopNotify": z.stopNotify, "WriteValue": z.writeValue, "ReadValue": z.readValue}},
	} {
		export := conn.ExportMethodTable
		if e.subtree {
			export = conn.ExportSubtreeMethodTable
		}
		if err := export(e.methods, e.path, e.iface); err != nil {
			z.t.Fatal(err)
		}
	}
	// Who leaves the bus wants nothing any more.
	left := make(chan *dbus.Signal, 64)
	conn.Signal(left)
	if err := conn.AddMatchSignal(dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged")); err != nil {
		z.t.Fatal(err)
	}
	go func() {
		for s := range left {
			if s.Name == "org.freedesktop.DBus.NameOwnerChanged" && s.Body[2] == "" {
				z.left(s.Body[0].(string))
			}
		}
	}()
	if reply, err := conn.RequestName("org.bluez", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		z.t.Fatalf("own org.bluez: %v %v", reply, err)
	}
}

// EndBus ends the bus itself, for good.
func (z *BlueZ) EndBus() { z.daemon.Close() }

// left: a client is on the bus no more.
func (z *BlueZ) left(name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.discovering, name)
	delete(z.agents, name)
	for _, d := range z.devices {
		for _, c := range d.characteristics {
			delete(c.notifying, name)
			delete(c.remembers, name)
		}
	}
	z.change()
}

// Power switches the adapter on or off.
func (z *BlueZ) Power(on bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !on {
		for _, d := range z.devices {
			d.drop()
		}
	}
	z.put(adapterPath, adapter1, map[string]any{"Powered": on})
	z.change()
}

// Discovering tells whether someone has it look for devices.
func (z *BlueZ) Discovering() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return len(z.discovering) > 0
}

// Calls counts the calls of a method like Device1.Connect, of all objects.
func (z *BlueZ) Calls(method string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.calls[method]
}

// Await waits until something holds, which is looked at after each change here.
// what completes "waited a minute, in vain, for".
func (z *BlueZ) Await(what string, holds func() bool) {
	z.t.Helper()
	deadline := time.After(time.Minute)
	for {
		z.mu.Lock()
		changed := z.changed
		z.mu.Unlock()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			z.t.Fatalf("waited a minute, in vain, for %s", what)
		}
	}
}

// change tells those who wait. It is called with the lock held, as all below that
// have no capital.
func (z *BlueZ) change() {
	close(z.changed)
	z.changed = make(chan struct{})
}

// put sets properties, and tells of them.
func (z *BlueZ) put(path dbus.ObjectPath, iface string, props map[string]any) {
	told := map[string]dbus.Variant{}
	for name, value := range props {
		told[name] = dbus.MakeVariant(value)
	}
	if o, ok := z.objects[path]; ok {
		maps.Copy(o[iface], told)
		z.emit(path, properties+".PropertiesChanged", iface, told, []string{})
	}
}

func (z *BlueZ) add(path dbus.ObjectPath, o object) {
	z.objects[path] = o
	z.emit("/", objectManager+".InterfacesAdded", path, map[string]map[string]dbus.Variant(o))
}

func (z *BlueZ) take(path dbus.ObjectPath) {
	if o, ok := z.objects[path]; ok {
		delete(z.objects, path)
		z.emit("/", objectManager+".InterfacesRemoved", path, slices.Sorted(maps.Keys(o)))
	}
}

func (z *BlueZ) emit(path dbus.ObjectPath, signal string, values ...any) {
	if z.conn != nil {
		z.conn.Emit(path, signal, values...)
	}
}

// What follows is called over the bus, each call in a goroutine of its own.

var (
	errUnknown   = dbus.NewError("org.freedesktop.DBus.Error.UnknownObject", []any{"Method called on an object that does not exist"})
	errNotReady  = bluezError("NotReady", "Resource Not Ready")
	errFailed    = bluezError("Failed", "le-connection-abort-by-local")
	errNotPaired = bluezError("NotPermitted", "Not paired")
)

func bluezError(name, text string) *dbus.Error {
	return dbus.NewError("org.bluez.Error."+name, []any{text})
}

func pathOf(m dbus.Message) dbus.ObjectPath {
	return m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
}

func (z *BlueZ) lock(method string) (unlock func()) {
	z.mu.Lock()
	z.calls[method]++
	return func() {
		z.change()
		z.mu.Unlock()
	}
}

func (z *BlueZ) managedObjects() (map[dbus.ObjectPath]map[string]map[string]dbus.Variant, *dbus.Error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	all := map[dbus.ObjectPath]map[string]map[string]dbus.Variant{}
	for path, o := range z.objects {
		all[path] = map[string]map[string]dbus.Variant{}
		for iface, props := range o {
			all[path][iface] = maps.Clone(props)
		}
	}
	return all, nil
}

func (z *BlueZ) get(m dbus.Message, iface, name string) (dbus.Variant, *dbus.Error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	o, ok := z.objects[pathOf(m)]
	if !ok {
		return dbus.Variant{}, errUnknown
	}
	v, ok := o[iface][name]
	if !ok {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.InvalidArgs", []any{"No such property '" + name + "'"})
	}
	return v, nil
}

func (z *BlueZ) getAll(m dbus.Message, iface string) (map[string]dbus.Variant, *dbus.Error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	o, ok := z.objects[pathOf(m)]
	if !ok {
		return nil, errUnknown
	}
	return maps.Clone(o[iface]), nil
}

func (z *BlueZ) set(m dbus.Message, iface, name string, value dbus.Variant) *dbus.Error {
	defer z.lock("Properties.Set")()
	if _, ok := z.objects[pathOf(m)]; !ok {
		return errUnknown
	}
	z.put(pathOf(m), iface, map[string]any{name: value.Value()})
	return nil
}

func (z *BlueZ) setDiscoveryFilter(map[string]dbus.Variant) *dbus.Error {
	return nil
}

func (z *BlueZ) startDiscovery(sender dbus.Sender) *dbus.Error {
	defer z.lock("Adapter1.StartDiscovery")()
	if on, _ := z.objects[adapterPath][adapter1]["Powered"].Value().(bool); !on {
		return errNotReady
	}
	if z.discovering[string(sender)] {
		return bluezError("InProgress", "Operation already in progress")
	}
	z.discovering[string(sender)] = true
	z.put(adapterPath, adapter1, map[string]any{"Discovering": true})
	for _, d := range z.devices {
		d.advertise()
	}
	return nil
}

func (z *BlueZ) stopDiscovery(sender dbus.Sender) *dbus.Error {
	defer z.lock("Adapter1.StopDiscovery")()
	if !z.discovering[string(sender)] {
		return bluezError("Failed", "No discovery started")
	}
	delete(z.discovering, string(sender))
	if len(z.discovering) == 0 {
		z.put(adapterPath, adapter1, map[string]any{"Discovering": false})
	}
	return nil
}

func (z *BlueZ) removeDevice(path dbus.ObjectPath) *dbus.Error {
	defer z.lock("Adapter1.RemoveDevice")()
	d := z.device(path)
	if d == nil {
		return bluezError("DoesNotExist", "Does Not Exist")
	}
	d.drop()
	d.known = false
	d.remove()
	return nil
}

func (z *BlueZ) registerAgent(sender dbus.Sender, path dbus.ObjectPath, capability string) *dbus.Error {
	defer z.lock("AgentManager1.RegisterAgent")()
	if _, ok := z.agents[string(sender)]; ok {
		return bluezError("AlreadyExists", "Already Exists")
	}
	z.agents[string(sender)] = path
	return nil
}

func (z *BlueZ) unregisterAgent(sender dbus.Sender, path dbus.ObjectPath) *dbus.Error {
	defer z.lock("AgentManager1.UnregisterAgent")()
	if z.agents[string(sender)] != path {
		return bluezError("DoesNotExist", "Does Not Exist")
	}
	delete(z.agents, string(sender))
	return nil
}

func (z *BlueZ) requestDefaultAgent(dbus.ObjectPath) *dbus.Error { return nil }

// device gives that of an object, nil where there is none.
func (z *BlueZ) device(path dbus.ObjectPath) *Device {
	if _, ok := z.objects[path]; !ok {
		return nil
	}
	for _, d := range z.devices {
		if path == d.path || strings.HasPrefix(string(path), string(d.path)+"/") {
			return d
		}
	}
	return nil
}
