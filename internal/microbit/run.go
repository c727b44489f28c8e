package microbit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// shown is what is written to the micro:bit's UART when it is connected, and
// before it is let go: its program may show that.
const shown = "ping#"

// patience is how long is waited for what.
type patience struct {
	find     time.Duration // a device that BlueZ does not know
	connect  time.Duration
	resolve  time.Duration // its services, once it is connected
	silence  time.Duration // at least, between two values of a service that measures
	goodbye  time.Duration
	retry    time.Duration // after a failure, the first time
	maxRetry time.Duration
}

var patient = patience{
	find:     30 * time.Second,
	connect:  45 * time.Second, // the kernel gives up after 20 to 40 s
	resolve:  30 * time.Second,
	silence:  time.Minute,
	goodbye:  3 * time.Second,
	retry:    time.Second,
	maxRetry: time.Minute,
}

// Run connects to the devices, keeps them connected, and gives their frames until
// ctx ends, which is no error; then it lets them go. A device that fails is tried
// again, after a second at first and up to a minute later; others do not notice.
//
// take is called for one frame at a time, with frames of a device in their order.
// While it does not return, up to 4096 changes of each device wait; more of them
// are lost: that is logged, and the device connected anew. Frames have the time when BlueZ told of them,
// not that of take.
//
// It is an error if cfg cannot be, if no device is given and none paired, or if
// the system bus cannot be reached or is lost. A BlueZ that restarts is waited for.
func Run(ctx context.Context, cfg Config, log *slog.Logger, take func(Frame)) error {
	return run(ctx, cfg, patient, log, take)
}

func run(ctx context.Context, cfg Config, wait patience, log *slog.Logger, take func(Frame)) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	b, err := open(ctx, cfg.Adapter)
	if err != nil {
		return err
	}
	defer b.close()
	called := cfg.Devices
	if len(called) == 0 {
		paired, err := b.paired(ctx)
		if err != nil {
			return err
		}
		if len(paired) == 0 {
			return errors.New("no micro:bit is paired, and none is named")
		}
		for _, f := range paired {
			called = append(called, f.Address)
		}
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(b.conn.Context(), func() { stop(errBusLost) })()
	var running sync.WaitGroup
	var one sync.Mutex
	for _, name := range called {
		d := &device{bus: b, called: name, cfg: cfg, wait: wait, log: log.With("device", name), said: map[string]bool{}}
		if anAddress.MatchString(name) {
			d.called = strings.ToUpper(name)
		}
		d.take = func(f Frame) {
			one.Lock()
			defer one.Unlock()
			take(f)
		}
		running.Go(func() { d.run(ctx) })
	}
	running.Wait()
	if errors.Is(context.Cause(ctx), errBusLost) {
		return errBusLost
	}
	return nil
}

// device is one that is kept connected.
type device struct {
	bus    *bus
	called string
	cfg    Config
	wait   patience
	log    *slog.Logger
	take   func(Frame)

	said map[string]bool // what it lacks
	last time.Time       // of its last frame
}

func (d *device) run(ctx context.Context) {
	retry, before := d.wait.retry, ""
	for {
		connected, err := d.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if connected {
			d.log.Warn("disconnected", "error", err)
			retry, before = d.wait.retry, ""
		} else if err.Error() != before { // the same every minute says nothing
			d.log.Warn("not connected", "error", err)
			before = err.Error()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry/2 + rand.N(retry/2)):
			retry = min(2*retry, d.wait.maxRetry)
		}
	}
}

// source is a characteristic that notifies.
type source struct {
	name    string // in what is said
	data    string
	period  string // the characteristic of its period; "": it has none
	periods time.Duration
}

func (c Config) sources() []source {
	var s []source
	if c.Temperature > 0 {
		s = append(s, source{"temperature", TemperatureData, TemperaturePeriod, c.Temperature})
	}
	if c.Accelerometer > 0 {
		s = append(s, source{"accelerometer", AccelerometerData, AccelerometerPeriod, c.Accelerometer})
	}
	if c.Buttons {
		s = append(s, source{name: "button A", data: ButtonA}, source{name: "button B", data: ButtonB})
	}
	if c.UART {
		s = append(s, source{name: "UART", data: UARTText})
	}
	return s
}

// session connects to the device and gives its frames until the connection ends.
func (d *device) session(ctx context.Context) (connected bool, err error) {
	finding, cancel := context.WithTimeout(ctx, d.wait.find)
	defer cancel()
	path, _, err := d.bus.find(finding, d.called)
	if err != nil {
		return false, err
	}
	l := d.bus.listen(path)
	defer d.bus.unlisten(l)
	var write dbus.ObjectPath // what the UART is written to, if it is
	defer func() {
		// Whatever the cause: BlueZ holds no half of a connection.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.wait.goodbye)
		defer cancel()
		if write != "" {
			d.write(ctx, write, []byte(shown))
		}
		d.bus.call(ctx, path, device1+".Disconnect")
	}()

	if err := d.connect(ctx, path); err != nil {
		return false, fmt.Errorf("connect: %w", err)
	}
	// What was told before the connection says nothing of it.
	for len(l.changes) > 0 {
		<-l.changes
	}
	if err := d.resolve(ctx, path, l); err != nil {
		return false, err
	}
	all, err := d.bus.objects(ctx)
	if err != nil {
		return false, err
	}
	paths := map[string]dbus.ObjectPath{}
	for at, of := range all {
		if uuid, ok := of[characteristic]["UUID"].Value().(string); ok && strings.HasPrefix(string(at), string(path)+"/") {
			paths[strings.ToLower(uuid)] = at
		}
	}
	notifying, silence, err := d.subscribe(ctx, paths)
	if err != nil {
		return false, err
	}
	if at, ok := paths[UARTWrite]; ok && d.cfg.UART {
		if err := d.write(ctx, at, []byte(shown)); err != nil {
			d.log.Warn("the micro:bit cannot show that it is connected", "error", err)
		} else {
			write = at
		}
	}
	d.log.Info("connected")
	return true, d.listen(ctx, path, l, notifying, silence)
}

func (d *device) connect(ctx context.Context, path dbus.ObjectPath) error {
	connecting, cancel := context.WithTimeout(ctx, d.wait.connect)
	defer cancel()
	err := d.bus.call(connecting, path, device1+".Connect")
	switch {
	case err != nil && connecting.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("no connection within %s", d.wait.connect)
	case errorName(err) == bluez+".Error.AlreadyConnected":
		return nil
	}
	return err
}

// resolve waits until BlueZ knows the services of a connected device.
func (d *device) resolve(ctx context.Context, path dbus.ObjectPath, l *listener) error {
	var connected, resolved bool
	if err := d.bus.get(ctx, path, device1, "Connected", &connected); err != nil {
		return err
	}
	if !connected {
		return errLost
	}
	if err := d.bus.get(ctx, path, device1, "ServicesResolved", &resolved); err != nil {
		return err
	}
	timeout := time.NewTimer(d.wait.resolve)
	defer timeout.Stop()
	for !resolved {
		select {
		case c := <-l.changes:
			if err := c.ends(path); err != nil {
				return err
			}
			if c.iface == device1 {
				resolved, _ = c.props["ServicesResolved"].Value().(bool)
			}
		case <-timeout.C:
			return fmt.Errorf("its services are not known after %s", d.wait.resolve)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ends tells whether a change is the end of the connection to a device.
func (c change) ends(path dbus.ObjectPath) error {
	switch connected, told := c.props["Connected"].Value().(bool); {
	case c.path == "/":
		return errEnded
	case c.path == path && c.iface == device1 && c.gone:
		return errors.New("BlueZ knows it no more")
	case c.path == path && c.iface == device1 && told && !connected:
		return errLost
	}
	return nil
}

var errLost = errors.New("the connection is lost")

// subscribe sets the periods and has the characteristics notify. silence is how
// long nothing may come; 0: any time.
func (d *device) subscribe(ctx context.Context, paths map[string]dbus.ObjectPath) (notifying map[dbus.ObjectPath]string, silence time.Duration, err error) {
	notifying = map[dbus.ObjectPath]string{}
	var failed error
	for _, s := range d.cfg.sources() {
		at, ok := paths[s.data]
		if !ok {
			if !d.said[s.name] {
				d.said[s.name] = true
				d.log.Warn("the program of the micro:bit does not start this service; it is left out", "service", s.name)
			}
			continue
		}
		if period, ok := paths[s.period]; ok {
			ms := binary.LittleEndian.AppendUint16(nil, uint16(s.periods.Milliseconds()))
			if err := d.write(ctx, period, ms); err != nil {
				d.log.Warn("its period is not set", "service", s.name, "error", err)
			}
		}
		// It is in progress where BlueZ does it on its own accord, since a device that
		// is paired did so before it was lost.
		if err := d.bus.ask(ctx, at, characteristic+".StartNotify"); err != nil && errorName(err) != bluez+".Error.InProgress" {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		notifying[at] = s.data
		if s.periods > 0 {
			silence = max(silence, d.wait.silence, 10*s.periods)
		}
	}
	switch {
	case len(notifying) > 0 && failed != nil:
		d.log.Warn("left out until it is connected again", "error", failed)
	case failed != nil:
		return nil, 0, failed
	case len(notifying) == 0:
		return nil, 0, errors.New("the program of the micro:bit starts none of the services that are to be read")
	}
	return notifying, silence, nil
}

// listen gives frames until the connection or ctx ends.
func (d *device) listen(ctx context.Context, path dbus.ObjectPath, l *listener, notifying map[dbus.ObjectPath]string, silence time.Duration) error {
	var silent <-chan time.Time
	timer := time.NewTimer(silence)
	defer timer.Stop()
	if silence > 0 {
		silent = timer.C
	}
	var uart texts
	for {
		// The end of the connection may be among what is lost.
		if n := l.lost.Load(); n > 0 && len(l.changes) == 0 {
			return fmt.Errorf("frames are lost, up to %d: what takes them is too slow", n)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-silent:
			return fmt.Errorf("nothing came for %s", silence)
		case c := <-l.changes:
			if err := c.ends(path); err != nil {
				return err
			}
			uuid, ok := notifying[c.path]
			value, is := c.props["Value"].Value().([]byte)
			if !ok || !is || c.iface != characteristic {
				continue
			}
			timer.Reset(silence)
			if uuid != UARTText {
				d.give(uuid, c.at, value)
				continue
			}
			if lost := uart.add(value, func(text []byte) { d.give(uuid, c.at, text) }); lost > 0 {
				d.log.Warn("texts of the UART are too long and left out", "texts", lost, "max_bytes", maxText)
			}
		}
	}
}

// give hands a frame over, at a time that none of the device had before: two
// readings at one instant are one to who stores them. A clock that was set back
// by more than a second is believed.
func (d *device) give(uuid string, at time.Time, value []byte) {
	at = at.UTC().Truncate(time.Microsecond)
	if !at.After(d.last) && d.last.Sub(at) < time.Second {
		at = d.last.Add(time.Microsecond)
	}
	d.last = at
	d.take(Frame{d.called, uuid, at, value})
}

// write writes a characteristic, and waits until the device has it.
func (d *device) write(ctx context.Context, at dbus.ObjectPath, value []byte) error {
	return d.bus.ask(ctx, at, characteristic+".WriteValue", value, map[string]dbus.Variant{"type": dbus.MakeVariant("request")})
}
