// Command bench flattens the same messages by Telemesh, by Benthos and by
// plain encoding/json, in one run, and prints how many readings each makes in
// a second of CPU time: what one core has to give.
//
//	cd hack/bench && go run . [-messages 500] [-rounds 7] [-seconds 1]
//
// Each is given the data of the same telemetry.received events and makes JSON
// of every reading: device, metric and unit, value, both times, source and id
// of the message. The first output of each is compared, reading by reading.
//
//   - Telemesh is the handler of telemetry-flatten. It reads messages of any
//     form, checks them strictly and hashes an id for each reading, which the
//     others do not.
//   - Benthos is a stream of two threads with the processors it has for this,
//     mapping and unarchive, a message for each reading; and, as "array", a
//     single mapping that leaves all readings of an event in one message, which
//     is the least work it can do.
//   - Structs are Go structs that fit this one form of message and no other.
//
// CPU time and not the clock on the wall, since other work on the machine then
// counts less. The rounds go in turn, so that what is left of it meets all.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/mesh"
)

// row is what is compared of a reading.
type row struct {
	DeviceID    string       `json:"device_id"`
	Metric      string       `json:"metric"`
	Value       float64      `json:"value"`
	Unit        string       `json:"unit,omitempty"`
	ObservedAt  mesh.Instant `json:"observed_at"`
	ReceivedAt  mesh.Instant `json:"received_at"`
	EventSource string       `json:"event_source"`
	EventID     string       `json:"event_id"`
}

// peer flattens events. flatten may be called from several goroutines; it
// hands the JSON of the readings it made, one or many, to out.
type peer struct {
	name    string
	callers int // goroutines that keep two threads busy
	flatten func(ctx context.Context, in event.Event) error
	out     func(text []byte)
}

func main() {
	messages := flag.Int("messages", 500, "messages of an event")
	rounds := flag.Int("rounds", 7, "rounds of each peer")
	seconds := flag.Float64("seconds", 1, "length of a round")
	flag.Parse()
	if err := run(*messages, *rounds, time.Duration(*seconds*float64(time.Second))); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(messages, rounds int, length time.Duration) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in := received(messages)
	var peers []*peer
	for _, start := range []func(context.Context) (*peer, error){startTelemesh, startBenthos, startBenthosArray, startStructs} {
		p, err := start(ctx)
		if err != nil {
			return err
		}
		peers = append(peers, p)
	}
	var want []row
	for _, p := range peers {
		got, err := sample(ctx, p, in)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if want == nil {
			want = got
		}
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("%s makes %d readings that are not the %d of %s", p.name, len(got), len(want), peers[0].name)
		}
	}
	fmt.Printf("%s, GOMAXPROCS %d, events of %d messages and %d readings, %d rounds of %v\n",
		runtime.Version(), runtime.GOMAXPROCS(0), messages, len(want), rounds, length)

	rates := make([][]float64, len(peers))
	for range rounds {
		for i, p := range peers {
			rate, err := measure(ctx, p, in, len(want), length)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			rates[i] = append(rates[i], rate)
		}
	}
	fmt.Printf("%-16s %18s %28s %10s\n", "", "readings/s/core", "lowest–highest", "ratio")
	for i, p := range peers {
		slices.Sort(rates[i])
		fmt.Printf("%-16s %18.0f %28s %9.1f×\n", p.name, rates[i][rounds/2],
			fmt.Sprintf("%.0f–%.0f", rates[i][0], rates[i][rounds-1]), rates[0][rounds/2]/rates[i][rounds/2])
	}
	return nil
}

// received makes an event of n messages of five metrics each, from 50 devices.
func received(n int) event.Event {
	start, err := mesh.ParseInstant("2022-10-06T11:23:00Z")
	if err != nil {
		panic(err)
	}
	messages := make([]mesh.Message, n)
	for i := range messages {
		messages[i] = mesh.Message{
			ID: mesh.Hash("bench", fmt.Sprint(i)), Source: "/telemesh/bench", ReceivedAt: start + mesh.Instant(i/50)*60e6,
			Payload: fmt.Appendf(nil, `{"device_id":"room-%d/scd41","time":"2022-10-06T%02d:%02d:00+0200","metrics":{"co2__ppm":%d,"occupancy__p":%d,"rel_humidity__0":0.%d,"temp_in__degC":%d.%d,"battery_mv":%d}}`,
				i%50, 10+i/3000, i/50%60, 420+i%900, i%4, 300+i%300, 19+i%6, i%10, 2900+i%100),
		}
	}
	return mesh.NewEvent(mesh.TelemetryReceived, "/telemesh/bench", mesh.EncodeMessages(messages), "bench", fmt.Sprint(n))
}

// sample gives the readings of one event, sorted.
func sample(ctx context.Context, p *peer, in event.Event) ([]row, error) {
	var rows []row
	var failed error
	var mu sync.Mutex
	p.out = func(text []byte) {
		mu.Lock()
		defer mu.Unlock()
		some, err := decode(text)
		if err != nil {
			failed = err
		}
		rows = append(rows, some...)
	}
	if err := p.flatten(ctx, in); err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b row) int {
		return slices.Compare([]string{a.EventID, a.Metric}, []string{b.EventID, b.Metric})
	})
	return rows, failed
}

// decode reads one reading, an array of them, or the data of an event.
func decode(text []byte) ([]row, error) {
	var one struct {
		row
		Readings []row `json:"readings"`
	}
	if text[0] == '[' {
		return one.Readings, json.Unmarshal(text, &one.Readings)
	}
	if err := json.Unmarshal(text, &one); err != nil {
		return nil, err
	}
	if one.Readings != nil {
		return one.Readings, nil
	}
	return []row{one.row}, nil
}

// measure gives how many readings p makes in a second of CPU time.
func measure(ctx context.Context, p *peer, in event.Event, readings int, length time.Duration) (float64, error) {
	p.out = func([]byte) {}
	runtime.GC()
	var events atomic.Int64
	var failed atomic.Pointer[error]
	var callers sync.WaitGroup
	before, end := cpu(), time.Now().Add(length)
	for range p.callers {
		callers.Go(func() {
			for time.Now().Before(end) {
				if err := p.flatten(ctx, in); err != nil {
					failed.Store(&err)
					return
				}
				events.Add(1)
			}
		})
	}
	callers.Wait()
	used := cpu() - before
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(events.Load()) * float64(readings) / used.Seconds(), nil
}

// cpu is the time that all threads of this process have computed.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func startTelemesh(context.Context) (*peer, error) {
	formats, err := flatten.ReadFormats("")
	if err != nil {
		return nil, err
	}
	handle := flatten.New(formats, slog.New(slog.DiscardHandler))
	p := &peer{name: "Telemesh", callers: 2}
	p.flatten = func(ctx context.Context, in event.Event) error {
		out, err := handle(ctx, in)
		if err != nil {
			return err
		}
		for _, e := range out {
			p.out(e.Data())
		}
		return nil
	}
	return p, nil
}
