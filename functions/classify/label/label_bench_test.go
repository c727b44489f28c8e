// The cost of a rule, by events of 500 records: readings of which every fourth is CO2, and
// payments of a carrier. Peers in the same run: to decode the same readings, and to read
// the carrier.
package label_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/functions/classify/label"
	"github.com/telemesh/telemesh/internal/classify"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

const records = 500

func joined(at mesh.Instant) event.Event {
	all := make([]mesh.JoinedReading, records)
	outside := 420.0
	for i := range all {
		device, metric := fmt.Sprintf("sensor-%02d", i/4%40), []string{"co2", "temperature", "relative_humidity", "pressure"}[i%4]
		at := at + mesh.Instant(i/160)*60e6
		all[i] = mesh.JoinedReading{Building: "A", Floor: "1", Room: "1." + device[7:], OutsideCO2: &outside, CustomerName: "Linden School",
			LastAction: "window opened", LastActionAt: at - 60e6, Reading: mesh.Reading{
				ReadingID: mesh.ReadingID(device, metric, at), DeviceID: device, Metric: metric, Value: 800 + float64(i%7), Unit: "ppm", ObservedAt: at, ReceivedAt: at,
				EventSource: "/telemetry-ingest/messages", EventID: device + at.String(), TenantID: "linden-school", AssignmentVersion: 3}}
	}
	data := mesh.EncodeJoined(all)
	return mesh.NewEvent(mesh.AnalyticsJoined, "/bench", data, at.String())
}

func BenchmarkCO2(b *testing.B) {
	began := mesh.At(time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	rules, err := classify.Load([]string{"co2-level"}, "")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("classify", func(b *testing.B) {
		h := label.New(rules, duckdbtest.Open(b), nil)
		first, err := h(b.Context(), joined(began))
		if err != nil || len(first) != 40 {
			b.Fatal(len(first), err)
		}
		events := make([]event.Event, 100)
		for i := range events {
			events[i] = joined(began + mesh.Instant(i+1)*240e6)
		}
		b.SetBytes(int64(len(events[0].Data())))
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			out, err := h(b.Context(), events[n%len(events)])
			if err != nil || len(out) > 0 {
				b.Fatal(out, err)
			}
			n++
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/reading")
	})
	b.Run("decode", func(b *testing.B) {
		in := joined(began)
		b.SetBytes(int64(len(in.Data())))
		for b.Loop() {
			if all, err := mesh.DecodeJoined(in.Data()); err != nil || len(all) != records {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/reading")
	})
}

func BenchmarkTransactions(b *testing.B) {
	all := make([]event.Event, records)
	script := `,"script":"` + strings.Repeat("76a9", 50) + `"`
	for i := range all {
		all[i] = payment(fmt.Sprint(i), fmt.Sprintf(`{"op":"utx","x":{"hash":"%064d","inputs":[{"prev_out":{"value":7%s}}],"out":[{"value":%d%s},{"value":7%s}]}}`, i, script, i*4_000_000, script, script))
	}
	carrier, err := mesh.Carry(mesh.TransactionsReceived, "/bench", all)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("classify", func(b *testing.B) {
		h := handler(b, nil, "transaction-size")
		b.SetBytes(int64(len(carrier.Data())))
		b.ReportAllocs()
		for b.Loop() {
			if out, err := h(b.Context(), carrier); err != nil || len(out) != 4 {
				b.Fatal(len(out), err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/payment")
	})
	b.Run("carried", func(b *testing.B) {
		b.SetBytes(int64(len(carrier.Data())))
		for b.Loop() {
			if all, err := mesh.Carried(carrier); err != nil || len(all) != records {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/payment")
	})
}
