package microbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of the interfaces of BlueZ: https://github.com/bluez/bluez/tree/master/doc
const (
	bluez          = "org.bluez"
	adapter1       = "org.bluez.Adapter1"
	device1        = "org.bluez.Device1"
	characteristic = "org.bluez.GattCharacteristic1"
	agentManager1  = "org.bluez.AgentManager1"
	properties     = "org.freedesktop.DBus.Properties"
	objectManager  = "org.freedesktop.DBus.ObjectManager"
)

// callTimeout bounds the calls that BlueZ answers at once, or after one exchange
// with a device.
const callTimeout = 10 * time.Second

// bus is a connection to the system bus, on which BlueZ is. It hears the signals
// in their order, and notes when each came.
type bus struct {
	conn    *dbus.Conn
	adapter dbus.ObjectPath

	mu        sync.Mutex
	listeners map[*listener]struct{}

	discovery   sync.Mutex
	discovering int // how many want it
}

// listener is who hears of the objects under a path.
type listener struct {
	under   dbus.ObjectPath
	changes chan change
	lost    atomic.Int64 // changes that came while as many waited as may
}

// change is what a signal says of an interface of an object.
type change struct {
	at    time.Time
	path  dbus.ObjectPath // "/": all there is, where BlueZ has ended
	iface string
	props map[string]dbus.Variant // those that are new
	gone  bool                    // the object has the interface no more
}

// maxChanges bounds what waits for a listener: hours of temperature, half a
// minute of the accelerometer at the rate a connection can bear.
const maxChanges = 4096

// open connects to the system bus, and sees that the adapter is there and on.
func open(ctx context.Context, adapter string) (*bus, error) {
	if adapter == "" {
		adapter = "hci0"
	}
	b := &bus{adapter: dbus.ObjectPath("/org/bluez/" + adapter), listeners: map[*listener]struct{}{}}
	if !b.adapter.IsValid() {
		return nil, fmt.Errorf("adapter %q: a name is like hci0", adapter)
	}
	conn, err := dbus.ConnectSystemBus(dbus.WithSignalHandler(b))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus, on which BlueZ is: %w", err)
	}
	b.conn = conn
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(bluez))
	if err == nil {
		err = conn.AddMatchSignalContext(ctx, dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, bluez))
	}
	var powered bool
	if err == nil {
		err = b.get(ctx, b.adapter, adapter1, "Powered", &powered)
	}
	switch {
	case err != nil && strings.HasSuffix(errorName(err), ".UnknownObject"):
		err = fmt.Errorf("there is no Bluetooth adapter %s", adapter)
	case err != nil:
		err = fmt.Errorf("adapter %s: %w", adapter, err)
	case !powered:
		err = fmt.Errorf("adapter %s is off: bluetoothctl power on", adapter)
	default:
		return b, nil
	}
	conn.Close()
	return nil, err
}

func (b *bus) close() { b.conn.Close() }

// DeliverSignal is called by the connection for one signal after the other. It
// does not wait for who hears of it: method replies come on the same connection.
func (b *bus) DeliverSignal(iface, name string, s *dbus.Signal) {
	at := time.Now()
	switch iface + "." + name {
	case properties + ".PropertiesChanged":
		if of, props, ok := two[string, map[string]dbus.Variant](s.Body); ok {
			b.tell(change{at: at, path: s.Path, iface: of, props: props})
		}
	case objectManager + ".InterfacesAdded":
		if path, added, ok := two[dbus.ObjectPath, map[string]map[string]dbus.Variant](s.Body); ok {
			for of, props := range added {
				b.tell(change{at: at, path: path, iface: of, props: props})
			}
		}
	case objectManager + ".InterfacesRemoved":
		if path, removed, ok := two[dbus.ObjectPath, []string](s.Body); ok {
			for _, of := range removed {
				b.tell(change{at: at, path: path, iface: of, gone: true})
			}
		}
	case "org.freedesktop.DBus.NameOwnerChanged":
		if who, before, ok := two[string, string](s.Body); ok && who == bluez && before != "" {
			b.tell(change{at: at, path: "/", iface: bluez, gone: true})
		}
	}
}

// two gives the first two values of a signal.
func two[A, B any](body []any) (a A, b B, ok bool) {
	if len(body) < 2 {
		return a, b, false
	}
	a, is := body[0].(A)
	b, ok = body[1].(B)
	return a, b, is && ok
}

func (b *bus) tell(c change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.listeners {
		if c.path != "/" && c.path != l.under && !strings.HasPrefix(string(c.path), string(l.under)+"/") {
			continue
		}
		select {
		case l.changes <- c:
		default:
			l.lost.Add(1)
		}
	}
}

func (b *bus) listen(under dbus.ObjectPath) *listener {
	l := &listener{under: under, changes: make(chan change, maxChanges)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners[l] = struct{}{}
	return l
}

func (b *bus) unlisten(l *listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.listeners, l)
}

// call calls a method like org.bluez.Device1.Connect.
func (b *bus) call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) error {
	return explain(b.conn.Object(bluez, path).CallWithContext(ctx, method, 0, args...).Err)
}

// ask is a call that is answered at once, or after one exchange with a device.
func (b *bus) ask(ctx context.Context, path dbus.ObjectPath, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.call(ctx, path, method, args...)
}

// get reads a property into what value points to.
func (b *bus) get(ctx context.Context, path dbus.ObjectPath, iface, name string, value any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var v dbus.Variant
	if err := b.conn.Object(bluez, path).CallWithContext(ctx, properties+".Get", 0, iface, name).Store(&v); err != nil {
		return explain(err)
	}
	if err := v.Store(value); err != nil {
		return fmt.Errorf("property %s.%s: %w", iface, name, err)
	}
	return nil
}

// objects gives the objects of BlueZ: by path and interface their properties.
func (b *bus) objects(ctx context.Context) (map[dbus.ObjectPath]map[string]map[string]dbus.Variant, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var all map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := b.conn.Object(bluez, "/").CallWithContext(ctx, objectManager+".GetManagedObjects", 0).Store(&all); err != nil {
		return nil, explain(err)
	}
	return all, nil
}

// devices gives what the adapter knows.
func (b *bus) devices(ctx context.Context) (map[dbus.ObjectPath]Found, error) {
	all, err := b.objects(ctx)
	if err != nil {
		return nil, err
	}
	found := map[dbus.ObjectPath]Found{}
	for path, of := range all {
		if props, ok := of[device1]; ok && b.has(path) {
			found[path] = Found{}.with(props)
		}
	}
	return found, nil
}

// has tells whether an object is one of the adapter.
func (b *bus) has(path dbus.ObjectPath) bool {
	return strings.HasPrefix(string(path), string(b.adapter)+"/")
}

// with gives it with the properties of a Device1 that are told.
func (f Found) with(props map[string]dbus.Variant) Found {
	for name, v := range props {
		switch value := v.Value().(type) {
		case string:
			switch name {
			case "Address":
				f.Address = value
			case "Name":
				f.Name = value
			}
		case bool:
			switch name {
			case "Paired":
				f.Paired = value
			case "Connected":
				f.Connected = value
			}
		case int16:
			if name == "RSSI" {
				f.RSSI = int(value)
			}
		}
	}
	return f
}

// discover has the adapter look for devices, until stop is called. BlueZ knows
// one such wish of a connection, so that they are counted. Each is told anew: an
// adapter that was off meanwhile, or a BlueZ that ended, has forgotten it.
func (b *bus) discover(ctx context.Context) (stop func(), err error) {
	b.discovery.Lock()
	defer b.discovery.Unlock()
	filter := map[string]dbus.Variant{"Transport": dbus.MakeVariant("le")}
	err = b.ask(ctx, b.adapter, adapter1+".SetDiscoveryFilter", filter)
	if err == nil {
		err = b.ask(ctx, b.adapter, adapter1+".StartDiscovery")
	}
	if err != nil && errorName(err) != bluez+".Error.InProgress" {
		return nil, fmt.Errorf("look for devices: %w", err)
	}
	b.discovering++
	return func() {
		b.discovery.Lock()
		defer b.discovery.Unlock()
		if b.discovering--; b.discovering == 0 {
			// Where this is refused, it has ended already.
			b.ask(context.WithoutCancel(ctx), b.adapter, adapter1+".StopDiscovery")
		}
	}, nil
}

// find gives a device that the adapter knows, or comes to know until ctx ends.
func (b *bus) find(ctx context.Context, called string) (dbus.ObjectPath, Found, error) {
	l := b.listen(b.adapter)
	defer b.unlisten(l)
	for discovering := false; ; {
		all, err := b.devices(ctx)
		if err != nil {
			return "", Found{}, err
		}
		for path, f := range all {
			if f.is(called) {
				return path, f, nil
			}
		}
		if !discovering {
			stop, err := b.discover(ctx)
			if err != nil {
				return "", Found{}, err
			}
			defer stop()
			discovering = true
			continue
		}
		for news := false; !news; {
			select {
			case c := <-l.changes:
				_, named := c.props["Name"]
				_, added := c.props["Address"]
				if c.path == "/" {
					return "", Found{}, errEnded
				}
				news = c.iface == device1 && (named || added)
			case <-b.conn.Context().Done():
				return "", Found{}, errBusLost
			case <-ctx.Done():
				return "", Found{}, errors.New("it is not to be seen: is it switched on, near, and not connected to another machine?")
			}
		}
	}
}

var (
	errBusLost = errors.New("the connection to the system bus is lost")
	errEnded   = errors.New("BlueZ has ended")
)

// errorName gives the D-Bus name of an error, "" where it has none.
func errorName(err error) string {
	if e := (dbus.Error{}); errors.As(err, &e) {
		return e.Name
	}
	return ""
}

// explain says what to do about an error of BlueZ, where that is known.
func explain(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, dbus.ErrClosed) {
		return fmt.Errorf("%w: %w", errBusLost, err)
	}
	name := errorName(err)
	if name == "" {
		return err
	}
	hint := map[string]string{
		"org.freedesktop.DBus.Error.ServiceUnknown": "BlueZ does not run: systemctl start bluetooth",
		"org.freedesktop.DBus.Error.NameHasNoOwner": "BlueZ does not run: systemctl start bluetooth",
		"org.freedesktop.DBus.Error.AccessDenied":   "this user may not use BlueZ: it has to be in the group bluetooth",
		"org.bluez.Error.NotReady":                  "the adapter is off: bluetoothctl power on",
		"org.bluez.Error.NotPermitted":              "the micro:bit may want to be paired",
		"org.bluez.Error.NotAuthorized":             "the micro:bit may want to be paired",
	}[name]
	switch text := err.Error(); {
	case hint != "" && text != name:
		return fmt.Errorf("%w (%s): %s", err, name, hint)
	case hint != "":
		return fmt.Errorf("%w: %s", err, hint)
	case text != name:
		return fmt.Errorf("%w (%s)", err, name)
	}
	return err
}

// Scan tells of micro:bits that are near until ctx ends: each once, and again
// when its name, pairing or connection becomes another. It is an error if BlueZ
// cannot be used, or ends.
func Scan(ctx context.Context, adapter string, found func(Found)) error {
	b, err := open(ctx, adapter)
	if err != nil {
		return err
	}
	defer b.close()
	l := b.listen(b.adapter)
	defer b.unlisten(l)
	known, err := b.devices(ctx)
	if err != nil {
		return err
	}
	// What has no signal strength is known from before, and may be far away.
	for _, f := range known {
		if f.isMicroBit() && (f.RSSI != 0 || f.Connected) {
			found(f)
		}
	}
	stop, err := b.discover(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.conn.Context().Done():
			return errBusLost
		case c := <-l.changes:
			if c.path == "/" {
				return errEnded
			}
			if on, told := c.props["Powered"].Value().(bool); told && !on && c.path == b.adapter {
				return errors.New("the adapter was switched off")
			}
			if c.iface != device1 {
				continue
			}
			if c.gone {
				delete(known, c.path)
				continue
			}
			before := known[c.path]
			now := before.with(c.props)
			known[c.path] = now
			seen := before.RSSI == 0 && now.RSSI != 0
			before.RSSI = now.RSSI
			if now.isMicroBit() && (seen || now != before) {
				found(now)
			}
		}
	}
}

// paired gives the micro:bits that are paired, by address.
func (b *bus) paired(ctx context.Context) ([]Found, error) {
	all, err := b.devices(ctx)
	if err != nil {
		return nil, err
	}
	var paired []Found
	for _, f := range all {
		if f.Paired && f.isMicroBit() {
			paired = append(paired, f)
		}
	}
	slices.SortFunc(paired, func(x, y Found) int { return strings.Compare(x.Address, y.Address) })
	return paired, nil
}
