// Package flatten turns the messages of devices into readings, one metric at
// one instant each.
//
// It takes telemetry.received and makes one telemetry.flattened of all
// readings and one telemetry.rejected of the messages that could not be read,
// each as it was received, with the cause, the reader that was tried and the
// byte it stopped at; neither, if there is nothing to put in it, which is so for
// joins and the like alone. One bad message takes no other with it. How messages
// are read is said in package device and in the mappings, what names mean in the
// metric dictionary of the data product iot-telemetry.
//
// The same event gives the same events, with the same ids. Data that are no
// messages are a permanent error; there is no passing one, since the function
// asks nobody else.
//
// Values that are no readings (null, numbers beyond float64) are counted in
// the extension skipped of telemetry.flattened, so that they can be counted
// where events are kept. A message of nothing but such values is rejected.
package flatten

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/products"
)

const name = "telemetry-flatten"

// ExtSkipped counts the values of an event's messages that are no readings; it
// is set where there are some.
const ExtSkipped = "skipped"

// Config is decoded from the environment.
type Config struct {
	// Mappings is a folder with mappings of this place, besides those of
	// iot-telemetry. What a metric is called and measured in is part of a
	// contract, which is not to differ from place to place: the dictionary
	// cannot be set.
	Mappings string `envconfig:"MAPPINGS"`
}

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	config, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	formats, err := ReadFormats(config.Mappings)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(formats, ports.Log)}, nil
}

// Formats is how messages are read.
type Formats struct {
	dictionary *device.Dictionary
	mappings   []*device.Mapping
}

// ReadFormats reads the dictionary and the mappings of the data product
// iot-telemetry, and the mappings of a folder; "": there is none. Those of the
// folder nobody has checked before this was built: their expressions are
// compiled now.
func ReadFormats(folder string) (*Formats, error) {
	const dictionary, mappings = "iot-telemetry/metrics.yaml", "iot-telemetry/mappings"
	text, err := products.FS.ReadFile(dictionary)
	if err != nil {
		return nil, err
	}
	f := &Formats{}
	if f.dictionary, err = device.ReadDictionary(text); err != nil {
		return nil, fmt.Errorf("products/%s: %w", dictionary, err)
	}
	own, err := fs.Sub(products.FS, mappings)
	if err != nil {
		return nil, err
	}
	if f.mappings, err = device.ReadMappings(own, "products/"+mappings); err != nil || folder == "" {
		return f, err
	}
	more, err := device.ReadMappings(os.DirFS(folder), folder)
	if err != nil {
		return nil, err
	}
	f.mappings = append(f.mappings, more...)
	errs := []error{device.Distinct(f.mappings)}
	for _, m := range more {
		errs = append(errs, m.Compile())
	}
	return f, errors.Join(errs...)
}

// Parser makes a Parser.
func (f *Formats) Parser() *device.Parser {
	return device.NewParser(f.dictionary, f.mappings...)
}

// Check says which mappings do not do what their examples say.
func (f *Formats) Check() []error { return device.CheckMappings(f.dictionary, f.mappings) }

// Mappings is how many there are.
func (f *Formats) Mappings() int { return len(f.mappings) }

// worker is what one call needs and the next can use again.
type worker struct {
	parser   *device.Parser
	readings []mesh.Reading
}

// New makes the handler.
func New(formats *Formats, log *slog.Logger) function.Handler {
	workers := sync.Pool{New: func() any { return &worker{parser: formats.Parser()} }}
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		if in.Type() != mesh.TelemetryReceived {
			return nil, mesh.Permanentf("%s cannot flatten an event of type %q: its trigger has to filter on %s", name, in.Type(), mesh.TelemetryReceived)
		}
		messages, err := mesh.DecodeMessages(in.Data())
		if err != nil {
			return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
		}
		w := workers.Get().(*worker)
		defer workers.Put(w)
		w.readings = w.readings[:0]
		var rejections []mesh.Rejection
		skipped := 0
		for i := range messages {
			var n int
			w.readings, n, err = w.parser.Parse(w.readings, &messages[i])
			if err != nil {
				rejections = append(rejections, device.Reject(messages[i], err))
			}
			skipped += n
		}
		log.DebugContext(ctx, "flattened", "event.id", in.ID(), "messages", len(messages),
			"readings", len(w.readings), "rejected", len(rejections), "skipped", skipped)

		var out []event.Event
		if len(w.readings) > 0 {
			e := mesh.Derive(in, name, mesh.TelemetryFlattened, "", mesh.EncodeReadings(w.readings))
			if skipped > 0 {
				e.SetExtension(ExtSkipped, skipped)
			}
			out = append(out, e)
		}
		if len(rejections) > 0 {
			out = append(out, mesh.Derive(in, name, mesh.TelemetryRejected, "", mesh.EncodeRejections(rejections)))
		}
		return out, nil
	}
}
