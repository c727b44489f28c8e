package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gcp "cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/pubsub/pubsubtest"
)

// BenchmarkPull pulls messages of 100 bytes from pubsubtest over loopback: the
// source until a broker over loopback, which only reads, has accepted all of
// them; bare is the client library alone, which acknowledges at once. Server,
// client and broker share the processor.
func BenchmarkPull(b *testing.B) {
	for _, outstanding := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("outstanding=%d/source", outstanding), func(b *testing.B) {
			address := published(b)
			var accepted atomic.Int64
			done := make(chan struct{})
			sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				data, err := io.ReadAll(r.Body)
				if err != nil {
					b.Error(err)
				}
				w.WriteHeader(http.StatusAccepted)
				n := int64(strings.Count(string(data), `"payload":`))
				if now := accepted.Add(n); now >= int64(b.N) && now-n < int64(b.N) {
					close(done)
				}
			}))
			b.Cleanup(sink.Close)
			s := newSource(b, address, sink.URL)
			s.batcher = batch.New(batch.Config{MaxMessages: 500, MaxBytes: 1 << 18, Linger: 50 * time.Millisecond}, name, s.post)
			s.subscriber.ReceiveSettings.MaxOutstandingMessages = outstanding
			b.ResetTimer()
			stop := start(b, s)
			<-done
			measured(b)
			if err := stop(); err != nil {
				b.Error(err)
			}
		})
		b.Run(fmt.Sprintf("outstanding=%d/bare", outstanding), func(b *testing.B) {
			b.Setenv("PUBSUB_EMULATOR_HOST", published(b))
			client, err := gcp.NewClient(b.Context(), "p")
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			subscriber := client.Subscriber(pubsubtest.Subscription)
			subscriber.ReceiveSettings.MaxOutstandingMessages = outstanding
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			var received atomic.Int64
			b.ResetTimer()
			if err := subscriber.Receive(ctx, func(_ context.Context, m *gcp.Message) {
				m.Ack()
				if received.Add(1) == int64(b.N) {
					measured(b)
					cancel()
				}
			}); err != nil {
				b.Error(err)
			}
		})
	}
}

// published gives the address of a service with b.N messages.
func published(b *testing.B) string {
	server := pubsubtest.New(b)
	var some []*pubsubpb.PubsubMessage
	for i := range b.N {
		data := fmt.Appendf(nil, `{"device_id":"co2-sensor-%04d","time":"2026-03-01T09:%02d:%02d.%03dZ","metrics":{"co2":812,"temp":20}}`,
			i%1000, i/60000%60, i/1000%60, i%1000)
		if some = append(some, &pubsubpb.PubsubMessage{Data: data}); len(some) == 1000 || i == b.N-1 {
			server.Publish(b, some...)
			some = nil
		}
	}
	return server.Addr
}

func measured(b *testing.B) {
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(0, "ns/op")
}
