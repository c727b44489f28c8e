package microbit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/telemesh/telemesh/internal/microbit"
	"github.com/telemesh/telemesh/internal/microbit/bluetest"
)

const (
	zuvig = "C8:2E:11:22:33:44"
	gupot = "D0:5F:AA:BB:CC:DD"
)

var all = microbit.Config{Temperature: time.Second, Accelerometer: 640 * time.Millisecond, Buttons: true, UART: true}

func bluez(t *testing.T) *bluetest.BlueZ {
	t.Helper()
	z := bluetest.Start(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", z.Address)
	return z
}

// running is a Run of a test.
type running struct {
	t    *testing.T
	stop func() error // ends it and gives what it returned

	mu     sync.Mutex
	frames []microbit.Frame
	came   chan struct{}
	log    bytes.Buffer
}

func (r *running) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.tell()
	return r.log.Write(b)
}

func (r *running) tell() {
	select {
	case r.came <- struct{}{}:
	default:
	}
}

func (r *running) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// await waits for so many frames.
func (r *running) await(n int) (frames []microbit.Frame) {
	r.t.Helper()
	r.awaitThat(fmt.Sprintf("%d frames", n), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		frames = slices.Clone(r.frames)
		return len(frames) >= n
	})
	return frames
}

// awaitThat waits until something holds, which frames and the log change.
func (r *running) awaitThat(what string, holds func() bool) {
	r.t.Helper()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-r.came:
		case <-deadline:
			r.t.Fatalf("waited a minute, in vain, for %s:\n%s", what, r.logged())
		}
	}
}

type runs = func(context.Context, microbit.Config, *slog.Logger, func(microbit.Frame)) error

func start(t *testing.T, run runs, cfg microbit.Config) *running {
	t.Helper()
	r := &running{t: t, came: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var result error
	go func() {
		defer close(ended)
		result = run(ctx, cfg, slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug})), func(f microbit.Frame) {
			r.mu.Lock()
			r.frames = append(r.frames, f)
			r.mu.Unlock()
			r.tell()
		})
	}()
	r.stop = func() error {
		t.Helper()
		cancel()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatalf("Run has not ended a minute after its context:\n%s", r.logged())
		}
		return result
	}
	t.Cleanup(func() { r.stop() })
	return r
}

// untimed compares frames without their times.
var untimed = cmpopts.IgnoreFields(microbit.Frame{}, "At")

func TestRunGivesWhatServicesNotify(t *testing.T) {
	z := bluez(t)
	d := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true})
	r := start(t, microbit.Run, all)
	d.AwaitWritten(microbit.UARTWrite, 1)
	before := time.Now().Truncate(time.Microsecond)
	d.Notify(microbit.TemperatureData, 21)
	d.Notify(microbit.AccelerometerData, 0x10, 0, 0xf0, 0xff, 0, 4)
	d.Notify(microbit.ButtonA, 1)
	d.Notify(microbit.ButtonB, 2)
	d.Say("co2:1234#rh:45#")
	frames := r.await(6)
	after := time.Now()
	want := []microbit.Frame{
		{Device: zuvig, Characteristic: microbit.TemperatureData, Value: []byte{21}},
		{Device: zuvig, Characteristic: microbit.AccelerometerData, Value: []byte{0x10, 0, 0xf0, 0xff, 0, 4}},
		{Device: zuvig, Characteristic: microbit.ButtonA, Value: []byte{1}},
		{Device: zuvig, Characteristic: microbit.ButtonB, Value: []byte{2}},
		{Device: zuvig, Characteristic: microbit.UARTText, Value: []byte("co2:1234")},
		{Device: zuvig, Characteristic: microbit.UARTText, Value: []byte("rh:45")},
	}
	if diff := cmp.Diff(want, frames, untimed); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	for i, f := range frames {
		if f.At.Before(before) || f.At.After(after) || i > 0 && !f.At.After(frames[i-1].At) {
			t.Errorf("frame %d is of %s, the one before of %s, the test from %s to %s", i, f.At, frames[max(0, i-1)].At, before, after)
		}
		if f.At != f.At.Truncate(time.Microsecond) || f.At.Location() != time.UTC {
			t.Errorf("frame %d is of %s: not whole microseconds of UTC", i, f.At)
		}
	}
	if got := d.Written(microbit.TemperaturePeriod); !cmp.Equal(got, [][]byte{{0xe8, 3}}) {
		t.Errorf("period of the temperature is %v, want 1000 ms", got)
	}
	if got := d.Written(microbit.AccelerometerPeriod); !cmp.Equal(got, [][]byte{{0x80, 2}}) {
		t.Errorf("period of the accelerometer is %v, want 640 ms", got)
	}

	if err := r.stop(); err != nil {
		t.Errorf("Run = %v at the end of its context", err)
	}
	if got, want := d.Written(microbit.UARTWrite), [][]byte{[]byte("ping#"), []byte("ping#")}; !cmp.Equal(got, want) {
		t.Errorf("shown: %q, want %q", got, want)
	}
	if d.Connected() {
		t.Error("the micro:bit is connected when Run has ended")
	}
}

// Texts of the UART span notifications: out of their order, these make texts of
// pieces of several.
func TestRunKeepsTheOrderOfNotifications(t *testing.T) {
	z := bluez(t)
	d := z.Add(bluetest.MicroBit{Address: zuvig})
	r := start(t, microbit.Run, microbit.Config{Devices: []string{"zuvig"}, UART: true})
	d.AwaitWritten(microbit.UARTWrite, 1)
	if z.Discovering() {
		t.Error("BlueZ looks for devices when all are found")
	}
	const n = 1500
	for i := range n {
		d.Say(fmt.Sprintf("a text that spans several notifications, %d#", i))
	}
	last := time.Time{}
	for i, f := range r.await(n) {
		if want := fmt.Sprintf("a text that spans several notifications, %d", i); string(f.Value) != want || f.Device != "zuvig" {
			t.Fatalf("text %d = %q of %s, want %q of zuvig", i, f.Value, f.Device, want)
		}
		if !f.At.After(last) {
			t.Fatalf("text %d is of %s, the one before of %s", i, f.At, last)
		}
		last = f.At
	}
}

func TestRunLeavesOutWhatADeviceLacks(t *testing.T) {
	z := bluez(t)
	d := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true, Services: []string{"temperature"}})
	r := start(t, microbit.RunHastily, all)
	for range 3 {
		d.AwaitNotifying(microbit.TemperatureData)
		d.Drop()
	}
	d.AwaitNotifying(microbit.TemperatureData)
	d.Notify(microbit.TemperatureData, 20)
	r.await(1)
	r.stop()
	for _, service := range []string{"accelerometer", `"button A"`, `"button B"`, "UART"} {
		if n := strings.Count(r.logged(), "service="+service); n != 1 {
			t.Errorf("that %s is missing is said %d times, want once:\n%s", service, n, r.logged())
		}
	}
}

func TestRunConnectsAgain(t *testing.T) {
	drop := func(z *bluetest.BlueZ, d *bluetest.Device) { d.Drop() }
	for name, test := range map[string]struct {
		microBit bluetest.MicroBit
		fail     func(*bluetest.BlueZ, *bluetest.Device)
		want     string // in the log
	}{
		"lost":                          {bluetest.MicroBit{Paired: true}, drop, "the connection is lost"},
		"lost, not paired":              {bluetest.MicroBit{}, drop, "the connection is lost"},
		"vanishes":                      {bluetest.MicroBit{}, func(_ *bluetest.BlueZ, d *bluetest.Device) { d.Vanish() }, "BlueZ knows it no more"},
		"switched off and on":           {bluetest.MicroBit{}, func(_ *bluetest.BlueZ, d *bluetest.Device) { d.Off(); d.On() }, "disconnected"},
		"connections fail":              {bluetest.MicroBit{Paired: true, Refuses: 3}, drop, "le-connection-abort-by-local"},
		"lost at once":                  {bluetest.MicroBit{Paired: true, Flees: 3}, drop, `error="the connection is lost"`},
		"BlueZ restarts":                {bluetest.MicroBit{Paired: true}, func(z *bluetest.BlueZ, _ *bluetest.Device) { z.Stop(); z.Restart() }, "BlueZ has ended"},
		"the adapter is off for a time": {bluetest.MicroBit{Paired: true}, func(z *bluetest.BlueZ, _ *bluetest.Device) { z.Power(false); z.Power(true) }, "the connection is lost"},
		"a text begun":                  {bluetest.MicroBit{Paired: true}, func(_ *bluetest.BlueZ, d *bluetest.Device) { d.Say("half a te"); d.Drop() }, "the connection is lost"},
	} {
		t.Run(name, func(t *testing.T) {
			z := bluez(t)
			test.microBit.Address = zuvig
			d := z.Add(test.microBit)
			r := start(t, microbit.RunHastily, microbit.Config{Devices: []string{strings.ToLower(zuvig)}, Temperature: time.Minute, UART: true})
			d.AwaitWritten(microbit.UARTWrite, 1)
			d.Notify(microbit.TemperatureData, 1)
			r.await(1)
			connects := d.Connects()
			test.fail(z, d)
			z.Await("another connection", func() bool { return d.Connects() > connects && d.Notifying(microbit.UARTText) })
			d.Notify(microbit.TemperatureData, 2)
			d.Say("whole#")
			want := []microbit.Frame{
				{Device: zuvig, Characteristic: microbit.TemperatureData, Value: []byte{1}},
				{Device: zuvig, Characteristic: microbit.TemperatureData, Value: []byte{2}},
				{Device: zuvig, Characteristic: microbit.UARTText, Value: []byte("whole")},
			}
			if diff := cmp.Diff(want, r.await(3), untimed); diff != "" {
				t.Errorf("frames (-want +got):\n%s", diff)
			}
			if err := r.stop(); err != nil {
				t.Errorf("Run = %v", err)
			}
			if strings.Contains(r.logged(), "services are not known") {
				t.Errorf("a connection that was lost was waited for:\n%s", r.logged())
			}
			if !strings.Contains(r.logged(), test.want) {
				t.Errorf("log has no %q:\n%s", test.want, r.logged())
			}
		})
	}
}

// One that hangs in whatever way is nothing to the others.
func TestRunIsNotHeldUpByADevice(t *testing.T) {
	never := make(chan struct{})
	for name, ill := range map[string]bluetest.MicroBit{
		"connects never":            {Paired: true, ConnectWhen: never},
		"resolves never":            {Paired: true, NeverResolves: true},
		"starts no service":         {Paired: true, Services: []string{}},
		"wants to be paired":        {NeedsPairing: true},
		"refuses every connection":  {Paired: true, Refuses: 1 << 30},
		"is another than was named": {Address: "C0:00:00:00:00:01"},
	} {
		t.Run(name, func(t *testing.T) {
			z := bluez(t)
			if ill.Address == "" {
				ill.Address = gupot
			}
			ill.Name = "BBC micro:bit [gupot]"
			z.Add(ill)
			well := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true})
			r := start(t, microbit.RunHastily, microbit.Config{Devices: []string{gupot, zuvig}, Buttons: true})
			for i := range 20 {
				for !well.Notify(microbit.ButtonA, byte(i)) {
					well.AwaitNotifying(microbit.ButtonA)
				}
				r.await(i + 1)
			}
			r.awaitThat("a word about the other", func() bool { return strings.Contains(r.logged(), "device="+gupot) })
			if well.Connects() != 1 {
				t.Errorf("the one that is well was connected %d times", well.Connects())
			}
			if err := r.stop(); err != nil {
				t.Errorf("Run = %v", err)
			}
		})
	}
}

// One that is looked for does not end the search for another.
func TestRunLooksForSeveral(t *testing.T) {
	z := bluez(t)
	a := z.Add(bluetest.MicroBit{Address: zuvig})
	b := z.Add(bluetest.MicroBit{Address: gupot, Name: "BBC micro:bit [gupot]"})
	r := start(t, microbit.Run, microbit.Config{Devices: []string{zuvig, gupot, "C0:00:00:00:00:01"}, Buttons: true})
	a.Off()
	b.Off()
	z.Await("three that look", func() bool { return z.Calls("Adapter1.StartDiscovery") >= 3 })
	a.On()
	a.AwaitNotifying(microbit.ButtonB)
	b.On()
	b.AwaitNotifying(microbit.ButtonB)
	if strings.Contains(r.logged(), "not connected") {
		t.Errorf("a search has failed:\n%s", r.logged())
	}
}

// That it is connected says nothing: it may hang.
func TestRunConnectsWhatIsSilentAgain(t *testing.T) {
	z := bluez(t)
	d := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true})
	r := start(t, microbit.RunHastily, microbit.Config{Temperature: time.Millisecond})
	z.Await("two connections more", func() bool { return d.Connects() >= 3 })
	if want := "nothing came for " + microbit.HastySilence.String(); !strings.Contains(r.logged(), want) {
		t.Errorf("log has no %q:\n%s", want, r.logged())
	}
}

// One that tells something now and then is not silent.
func TestRunKeepsWhatIsNotSilent(t *testing.T) {
	z := bluez(t)
	d := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true})
	r := start(t, microbit.RunHastily, microbit.Config{Temperature: time.Millisecond})
	d.AwaitNotifying(microbit.TemperatureData)
	begin, last, longest := time.Now(), time.Now(), time.Duration(0)
	for n := 1; time.Since(begin) < 2*microbit.HastySilence; n++ {
		if d.Notify(microbit.TemperatureData, 20) {
			r.await(n)
		}
		longest, last = max(longest, time.Since(last)), time.Now()
	}
	if longest < microbit.HastySilence/2 && d.Connects() != 1 {
		t.Errorf("it was connected %d times, and silent for %s at most", d.Connects(), longest)
	}
}

// Whoever waits learns that the bus is gone, and the gateway is started anew.
func TestTheEndOfTheBusIsAnError(t *testing.T) {
	never := make(chan struct{})
	told := make(chan struct{}, 64)
	for name, wait := range map[string]func(context.Context) error{
		"Run": func(ctx context.Context) error {
			return microbit.Run(ctx, microbit.Config{Devices: []string{zuvig, gupot, "C0:00:00:00:00:01"}, UART: true}, slog.New(slog.DiscardHandler), func(microbit.Frame) {})
		},
		"Scan": func(ctx context.Context) error {
			return microbit.Scan(ctx, "", func(microbit.Found) { told <- struct{}{} })
		},
		"Pair": func(ctx context.Context) error { return microbit.Pair(ctx, "", "C0:00:00:00:00:01", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			z := bluez(t)
			d := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true})
			z.Add(bluetest.MicroBit{Address: gupot, Paired: true, Name: "BBC micro:bit [gupot]", ConnectWhen: never})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- wait(ctx) }()
			z.Await("someone who looks", z.Discovering)
			switch name {
			case "Scan": // of both, once it waits
				<-told
				<-told
			case "Run":
				d.AwaitNotifying(microbit.UARTText)
				z.Await("a connection that is made", func() bool { return z.Calls("Device1.Connect") >= 2 })
			}
			z.EndBus()
			if err := <-ended; err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "the connection to the system bus is lost") {
				t.Errorf("%s = %v, want that the bus is lost", name, err)
			}
		})
	}
}

// Its times are those of the notifications, and what is lost is told. The end of
// the connection is among it.
func TestRunOutlivesWhatIsSlowToTake(t *testing.T) {
	z := bluez(t)
	a := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true})
	b := z.Add(bluetest.MicroBit{Address: gupot, Paired: true, Name: "BBC micro:bit [gupot]"})
	goOn := make(chan struct{})
	r := start(t, func(ctx context.Context, cfg microbit.Config, log *slog.Logger, take func(microbit.Frame)) error {
		return microbit.RunHastily(ctx, cfg, log, func(f microbit.Frame) {
			<-goOn
			take(f)
		})
	}, microbit.Config{Buttons: true})
	a.AwaitNotifying(microbit.ButtonB)
	b.AwaitNotifying(microbit.ButtonB)
	const n = microbit.MaxChanges + 100
	for range n {
		if !a.Notify(microbit.ButtonA, 1) {
			t.Fatal("nobody is told")
		}
	}
	connects := a.Connects()
	a.Drop()
	b.Drop()
	// Signals come in their order: by then all of the first have come.
	r.awaitThat("the end of the other connection", func() bool {
		return strings.Contains(r.logged(), "msg=disconnected device="+gupot)
	})
	held := time.Now()
	close(goOn)
	z.Await("another connection", func() bool { return a.Connects() > connects && a.Notifying(microbit.ButtonB) })
	if !strings.Contains(r.logged(), "frames are lost") {
		t.Errorf("it is not said that frames are lost:\n%s", r.logged())
	}
	frames := r.await(microbit.MaxChanges)
	for i, f := range frames {
		if f.At.After(held) {
			t.Fatalf("frame %d is of %s, when it was taken; its notification came before %s", i, f.At, held)
		}
	}
	a.Notify(microbit.ButtonB, 1)
	if got := r.await(len(frames) + 1); got[len(frames)].Characteristic != microbit.ButtonB {
		t.Errorf("after what was lost comes %+v, want button B", got[len(frames)])
	}
}

func TestRunTakesAConnectionThatIsThere(t *testing.T) {
	z := bluez(t)
	d := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true})
	killed, kill := context.WithCancel(context.Background())
	first := start(t, func(ctx context.Context, cfg microbit.Config, log *slog.Logger, take func(microbit.Frame)) error {
		return microbit.Run(killed, cfg, log, take)
	}, all)
	defer kill()
	d.AwaitNotifying(microbit.UARTText)
	// The first holds the connection, as one that was killed leaves it behind.
	r := start(t, microbit.Run, all)
	d.AwaitWritten(microbit.UARTWrite, 2)
	d.Notify(microbit.TemperatureData, 7)
	r.await(1)
	first.await(1)
	kill()
}

func TestRunConnectsSeveral(t *testing.T) {
	z := bluez(t)
	slow := make(chan struct{})
	a := z.Add(bluetest.MicroBit{Address: zuvig, Paired: true, ConnectWhen: slow})
	b := z.Add(bluetest.MicroBit{Address: gupot, Name: "BBC micro:bit [gupot]", Paired: true})
	z.Add(bluetest.MicroBit{Address: "00:00:00:00:00:01", Name: "a mouse", Paired: true})
	r := start(t, microbit.Run, all)
	b.AwaitWritten(microbit.UARTWrite, 1)
	b.Say("first#")
	r.await(1)
	close(slow)
	a.AwaitWritten(microbit.UARTWrite, 1)
	a.Say("second#")
	r.await(2)
	b.Say("third#")
	want := []microbit.Frame{
		{Device: gupot, Characteristic: microbit.UARTText, Value: []byte("first")},
		{Device: zuvig, Characteristic: microbit.UARTText, Value: []byte("second")},
		{Device: gupot, Characteristic: microbit.UARTText, Value: []byte("third")},
	}
	if diff := cmp.Diff(want, r.await(3), untimed); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestRunEndsWhateverADeviceDoes(t *testing.T) {
	z := bluez(t)
	z.Add(bluetest.MicroBit{Address: gupot, Paired: true, ConnectWhen: make(chan struct{})})
	r := start(t, microbit.Run, microbit.Config{Devices: []string{gupot, zuvig}, Temperature: time.Second})
	z.Await("a connection that is made, and a search", func() bool { return z.Calls("Device1.Connect") > 0 && z.Discovering() })
	if err := r.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	z.Await("nobody who looks for devices", func() bool { return !z.Discovering() })
}

func TestRunSaysWhatCannotBe(t *testing.T) {
	devices := func(names ...string) microbit.Config { return microbit.Config{Devices: names, UART: true} }
	for name, test := range map[string]struct {
		cfg  microbit.Config
		want string
	}{
		"nothing":           {microbit.Config{}, "nothing is to be read"},
		"a temperature too": {microbit.Config{Temperature: 66 * time.Second}, "at most 65.535s"},
		"part of a ms":      {microbit.Config{Temperature: 1500 * time.Microsecond}, "whole milliseconds"},
		"an accelerometer":  {microbit.Config{Accelerometer: time.Second}, "1, 2, 5, 10, 20, 80, 160 and 640 ms"},
		"twice":             {devices("zuvig", "ZUVIG"), "device ZUVIG is there twice"},
		"blank":             {devices(" "), "device 1 has neither"},
		"none is paired":    {microbit.Config{UART: true}, "no micro:bit is paired"},
		"no adapter":        {microbit.Config{Adapter: "hci7", Devices: []string{"zuvig"}, UART: true}, "there is no Bluetooth adapter hci7"},
		"no adapter's name": {microbit.Config{Adapter: "../", Devices: []string{"zuvig"}, UART: true}, `adapter "../"`},
	} {
		t.Run(name, func(t *testing.T) {
			bluez(t)
			err := microbit.Run(t.Context(), test.cfg, slog.New(slog.DiscardHandler), func(microbit.Frame) {})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Run = %v, want %q", err, test.want)
			}
		})
	}
	t.Run("BlueZ does not run", func(t *testing.T) {
		bluez(t).Stop()
		err := microbit.Run(t.Context(), all, slog.New(slog.DiscardHandler), func(microbit.Frame) {})
		if err == nil || !strings.Contains(err.Error(), "systemctl start bluetooth") {
			t.Errorf("Run = %v", err)
		}
	})
	t.Run("off", func(t *testing.T) {
		bluez(t).Power(false)
		err := microbit.Run(t.Context(), all, slog.New(slog.DiscardHandler), func(microbit.Frame) {})
		if err == nil || !strings.Contains(err.Error(), "bluetoothctl power on") {
			t.Errorf("Run = %v", err)
		}
	})
	t.Run("no bus", func(t *testing.T) {
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
		err := microbit.Run(t.Context(), all, slog.New(slog.DiscardHandler), func(microbit.Frame) {})
		if err == nil || !strings.Contains(err.Error(), "system bus") {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestScanTellsOfMicroBits(t *testing.T) {
	z := bluez(t)
	z.Add(bluetest.MicroBit{Address: zuvig})
	z.Add(bluetest.MicroBit{Address: "00:00:00:00:00:01", Name: "a mouse"})
	z.Add(bluetest.MicroBit{Address: gupot, Name: "BBC micro:bit [gupot]", Paired: true})
	// The second time BlueZ knows them from the first.
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		seen := map[string]microbit.Found{}
		if err := microbit.Scan(ctx, "", func(f microbit.Found) {
			if _, again := seen[f.Address]; again {
				t.Errorf("told again of %+v", f)
			}
			if seen[f.Address] = f; len(seen) == 2 {
				cancel()
			}
		}); err != nil {
			t.Fatal(err)
		}
		want := map[string]microbit.Found{
			zuvig: {Address: zuvig, Name: "BBC micro:bit [zuvig]", RSSI: -60},
			gupot: {Address: gupot, Name: "BBC micro:bit [gupot]", RSSI: -60, Paired: true},
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("seen (-want +got):\n%s", diff)
		}
	}
}

// A signal strength that changes is no news, a device that comes is.
func TestScanTellsOnce(t *testing.T) {
	z := bluez(t)
	d := z.Add(bluetest.MicroBit{Address: zuvig})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var seen []string
	if err := microbit.Scan(ctx, "", func(f microbit.Found) {
		if seen = append(seen, f.Address); f.Address != zuvig {
			cancel()
			return
		}
		d.Move(-70)
		d.Move(-65)
		z.Add(bluetest.MicroBit{Address: gupot, Name: "BBC micro:bit [gupot]"})
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{zuvig, gupot}; !slices.Equal(seen, want) {
		t.Errorf("told of %v, want %v", seen, want)
	}
}

func TestScanEndsWhenTheAdapterIsOff(t *testing.T) {
	z := bluez(t)
	ended := make(chan error)
	go func() { ended <- microbit.Scan(t.Context(), "", func(microbit.Found) {}) }()
	z.Await("someone who looks", z.Discovering)
	z.Power(false)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "switched off") {
		t.Errorf("Scan = %v", err)
	}
}

func TestPairIsGivenUp(t *testing.T) {
	z := bluez(t)
	d := z.Add(bluetest.MicroBit{Address: zuvig, Passkey: 12345})
	ctx, cancel := context.WithCancel(t.Context())
	err := microbit.Pair(ctx, "", zuvig, func(ctx context.Context) (uint32, error) {
		cancel()
		<-ctx.Done()
		return 0, ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || z.Calls("Device1.CancelPairing") != 1 || d.Property("Paired") == true {
		t.Errorf("Pair = %v, CancelPairing was called %d times, paired %v", err, z.Calls("Device1.CancelPairing"), d.Property("Paired"))
	}
}

func TestPairAnswersForNoOtherDevice(t *testing.T) {
	if !microbit.AgentRefuses("/org/bluez/hci0/dev_1", "/org/bluez/hci0/dev_2") {
		t.Error("a device that nobody wanted is paired")
	}
}

func TestPair(t *testing.T) {
	reads := func(key uint32) func(context.Context) (uint32, error) {
		return func(context.Context) (uint32, error) { return key, nil }
	}
	for name, test := range map[string]struct {
		microBit bluetest.MicroBit
		passkey  func(context.Context) (uint32, error)
		want     string // of the error; "": none
	}{
		"asks for nothing":        {microBit: bluetest.MicroBit{}},
		"is paired already":       {microBit: bluetest.MicroBit{Paired: true}},
		"asks for a passkey":      {microBit: bluetest.MicroBit{Passkey: 12345}, passkey: reads(12345)},
		"the wrong passkey":       {microBit: bluetest.MicroBit{Passkey: 12345}, passkey: reads(12346), want: "Authentication"},
		"too long a passkey":      {microBit: bluetest.MicroBit{Passkey: 1234567}, passkey: reads(1234567), want: "Authentication"},
		"a passkey nobody reads":  {microBit: bluetest.MicroBit{Passkey: 12345}, want: "it may ask for a passkey"},
		"a reader who does not":   {microBit: bluetest.MicroBit{Passkey: 12345}, passkey: func(context.Context) (uint32, error) { return 0, errors.New("no") }, want: "Authentication"},
		"another than was wanted": {microBit: bluetest.MicroBit{Address: gupot}, want: "it is not to be seen"},
	} {
		t.Run(name, func(t *testing.T) {
			z := bluez(t)
			if test.microBit.Address == "" {
				test.microBit.Address = zuvig
			}
			d := z.Add(test.microBit)
			patience := time.Minute
			if test.microBit.Address != zuvig {
				patience = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := microbit.Pair(ctx, "", strings.ToLower(zuvig), test.passkey)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("Pair = %v, want %q", err, test.want)
				}
				if paired, _ := d.Property("Paired").(bool); paired {
					t.Error("it is paired")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d.Property("Trusted") != true || d.Connected() {
				t.Errorf("trusted %v, connected %v; want trusted and let go", d.Property("Trusted"), d.Connected())
			}
			got, err := microbit.Paired(t.Context(), "")
			if err != nil || len(got) != 1 || got[0].Address != zuvig || !got[0].Paired {
				t.Errorf("Paired = %+v, %v", got, err)
			}
			if err := microbit.Remove(t.Context(), "", "zuvig"); err != nil {
				t.Error(err)
			}
			if got, err := microbit.Paired(t.Context(), ""); err != nil || len(got) != 0 {
				t.Errorf("after Remove, Paired = %+v, %v", got, err)
			}
			if err := microbit.Remove(t.Context(), "", "zuvig"); err != nil {
				t.Errorf("Remove of what is forgotten = %v", err)
			}
			z.Await("nobody who looks for devices", func() bool { return !z.Discovering() })
		})
	}
}
