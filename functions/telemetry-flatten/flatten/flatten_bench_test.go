package flatten_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// rooms makes an event of n messages of five metrics each, in the form that
// a wide CSV gives: 50 devices, each a minute after the last.
func rooms(n int) event.Event {
	messages := make([]mesh.Message, n)
	for i := range messages {
		messages[i] = mesh.Message{
			ID: mesh.Hash("bench", fmt.Sprint(i)), Source: "/telemesh/bench", ReceivedAt: mesh.Instant(1665055380+i/50*60) * 1e6,
			Payload: fmt.Appendf(nil, `{"device_id":"room-%d/scd41","time":"2022-10-06T%02d:%02d:00+0200","metrics":{"co2__ppm":%d,"occupancy__p":%d,"rel_humidity__0":0.%d,"temp_in__degC":%d.%d,"battery_mv":%d}}`,
				i%50, 10+i/3000, i/50%60, 420+i%900, i%4, 300+i%300, 19+i%6, i%10, 2900+i%100),
		}
	}
	return mesh.NewEvent(mesh.TelemetryReceived, "/telemesh/bench", mesh.EncodeMessages(messages), "bench", fmt.Sprint(n))
}

// BenchmarkFlatten is the whole handler: from the data of an event to the data
// of the one it makes.
func BenchmarkFlatten(b *testing.B) {
	for _, messages := range []int{500, 1} {
		b.Run(fmt.Sprintf("messages=%d", messages), func(b *testing.B) {
			handle, in := handler(b), rooms(messages)
			b.SetBytes(int64(len(in.Data())))
			b.ReportAllocs()
			var out []event.Event
			var err error
			for b.Loop() {
				if out, err = handle(context.Background(), in); err != nil {
					b.Fatal(err)
				}
			}
			if len(out) != 1 {
				b.Fatalf("%d events, want 1", len(out))
			}
			readings, err := mesh.DecodeReadings(out[0].Data())
			if err != nil || len(readings) != 5*messages {
				b.Fatalf("%d readings, %v, want %d", len(readings), err, 5*messages)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*5*messages), "ns/reading")
		})
	}
}
