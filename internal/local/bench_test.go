package local

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// readings is data as telemetry-flatten makes it.
func readings(n int) []byte {
	b := []byte(`{"readings":[` + "\n")
	for i := range n {
		if i > 0 {
			b = append(b, ",\n"...)
		}
		b = fmt.Appendf(b, `{"reading_id":"%s","device_id":"925038/%d","metric":"co2","value":%d,"unit":"ppm","observed_at":"2024-03-05T10:%02d:00Z","received_at":"2024-03-05T10:%02d:03.120Z","event_source":"/telemesh/telemetry-ingest","event_id":"%s"}`,
			mesh.Hash(strconv.Itoa(i)), i%24, 400+i*7%900, i%60, i%60, mesh.Hash("event", strconv.Itoa(i/10)))
	}
	return append(b, "\n]}"...)
}

// BenchmarkChain brings events through the hops of the reading path: a source,
// three functions that reply, and at the end of each of two branches one that
// does not. The functions do nothing, so that what is measured is the mesh.
func BenchmarkChain(b *testing.B) {
	for _, size := range []int{1, 500} {
		b.Run(fmt.Sprintf("readings=%d", size), func(b *testing.B) {
			pass := func(eventType string) function.Handler {
				return func(_ context.Context, in event.Event) ([]event.Event, error) {
					return []event.Event{mesh.Derive(in, "bench", eventType, "", in.Data())}, nil
				}
			}
			var stored atomic.Int64
			sink := func(context.Context, event.Event) ([]event.Event, error) { stored.Add(1); return nil, nil }
			m := open(b, Config{
				Manifests: manifests(b, brokerYAML+
					serviceYAML("flatten")+triggerYAML("flatten", "received", toService("flatten"), "")+
					serviceYAML("enrich")+triggerYAML("enrich", "flattened", toService("enrich"), "")+
					serviceYAML("sink")+triggerYAML("sink", "enriched", toService("sink"), "")+
					serviceYAML("join")+triggerYAML("join", "enriched", toService("join"), "")+
					serviceYAML("joined")+triggerYAML("joined", "joined", toService("joined"), "")),
				Functions: handlers(map[string]function.Handler{
					"flatten": pass("flattened"), "enrich": pass("enriched"), "sink": sink, "join": pass("joined"), "joined": sink,
				}),
			})
			data := readings(size)
			b.ResetTimer()
			b.SetBytes(int64(len(data)))
			client := m.Client()
			slots := make(chan struct{}, inFlight)
			b.ReportAllocs()
			for i := range b.N { // not b.Loop, which does not measure the waiting after it
				e := mesh.NewEvent("received", "/bench", data, strconv.Itoa(i))
				slots <- struct{}{}
				go func() {
					if status := post(b, client, e); status != http.StatusAccepted {
						b.Errorf("ingress answers %d", status)
					}
					<-slots
				}()
			}
			for range inFlight {
				slots <- struct{}{}
			}
			idle(b, m)
			if got := stored.Load(); got != int64(2*b.N) {
				b.Errorf("%d events arrived, want %d", got, 2*b.N)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "readings/s")
		})
	}
}
