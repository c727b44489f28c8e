package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"github.com/telemesh/telemesh/internal/mqtt/mqtttest"
)

// BenchmarkPublish is messages of QoS 1 per second, each published when the one
// before it is acknowledged, by the whole mesh in this process, which has then
// stored them, and beside it by an MQTT broker that acknowledges at once.
func BenchmarkPublish(b *testing.B) {
	for _, clients := range []int{1, 50} {
		b.Run(fmt.Sprintf("bare/clients=%d", clients), func(b *testing.B) {
			server := mqtttest.NewServer(b, "127.0.0.1:0")
			b.Cleanup(func() { server.Close() })
			benchmarkPublish(b, server.Address, clients)
		})
		b.Run(fmt.Sprintf("mesh/clients=%d", clients), func(b *testing.B) {
			o := options{data: b.TempDir()}
			in, err := o.open(b.Context(), sheets{})
			if err != nil {
				b.Fatal(err)
			}
			address, err := in.takeMQTT("127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			benchmarkPublish(b, address, clients)
			b.StopTimer()
			if err := in.close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func benchmarkPublish(b *testing.B, address string, clients int) {
	var next atomic.Int64
	var done sync.WaitGroup
	begin := make(chan struct{})
	for c := range clients {
		client := mqtttest.NewClient(b, address, fmt.Sprintf("device-%d", c), nil)
		topic := fmt.Sprintf("air/desk-%d", c)
		done.Go(func() {
			<-begin
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				at := time.Unix(0, 0).Add(time.Duration(i) * time.Second).UTC().Format(time.RFC3339)
				mqtttest.Publish(b, client, &paho.Publish{Topic: topic, QoS: 1, Payload: fmt.Appendf(nil, `{"device_id":"desk-%d","time":"%s","co2":%d,"temperature":21.5}`, c, at, i)})
			}
		})
	}
	b.ResetTimer()
	close(begin)
	done.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
