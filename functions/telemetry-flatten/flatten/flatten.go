// Package flatten turns the messages of devices into readings, one metric at
// one instant each.
//
// It takes telemetry.received and makes one telemetry.flattened of all
// readings and one telemetry.rejected of the messages that could not be read,
// each as it was received, with the cause, the reader that was tried and the
// byte it stopped at; neither, if there is nothing to put in it, which is so for
// joins and the like alone. One bad message takes no other with it. How messages
// are read is said in package device, what names mean in the metric dictionary
// of the data product iot-telemetry.
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
	"log/slog"
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

// Start makes the function. It has no configuration: the dictionary is part of
// a contract, which is not to differ from place to place.
func Start(ports function.Ports) (*function.Function, error) {
	dictionary, err := Dictionary()
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(dictionary, ports.Log)}, nil
}

// Dictionary is the metric dictionary of the data product iot-telemetry.
func Dictionary() (*device.Dictionary, error) {
	text, err := products.FS.ReadFile("iot-telemetry/metrics.yaml")
	if err != nil {
		return nil, err
	}
	dictionary, err := device.ReadDictionary(text)
	if err != nil {
		return nil, fmt.Errorf("products/iot-telemetry/metrics.yaml: %w", err)
	}
	return dictionary, nil
}

// Reject makes the rejection of a message that a device.Parser could not read
// for err.
func Reject(m mesh.Message, err error) mesh.Rejection {
	r := mesh.Rejection{Message: m, Cause: err.Error()}
	if e, ok := errors.AsType[*device.Error](err); ok {
		r.Reader, r.Position = e.Reader, mesh.PositionAt(e.Position)
	}
	return r
}

// worker is what one call needs and the next can use again.
type worker struct {
	parser   *device.Parser
	readings []mesh.Reading
}

// New makes the handler.
func New(dictionary *device.Dictionary, log *slog.Logger) function.Handler {
	workers := sync.Pool{New: func() any { return &worker{parser: device.NewParser(dictionary)} }}
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
				rejections = append(rejections, Reject(messages[i], err))
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
