package device

import (
	"os"
	"testing"

	"github.com/telemesh/telemesh/internal/mesh"
)

// dictionary is the one that telemetry-flatten has.
func dictionary(t testing.TB) *Dictionary {
	t.Helper()
	text, err := os.ReadFile("../../products/iot-telemetry/metrics.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := ReadDictionary(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var received = mesh.Instant(1665055400_000000)

func BenchmarkParse(b *testing.B) {
	p := NewParser(dictionary(b))
	m := &mesh.Message{ID: "m1", Source: "/test", ReceivedAt: received, Payload: []byte(`{"deviceId":"room-1","timestamp":"2022-10-06T13:23:00+0200","metrics":{"co2__ppm":661.0,"occupancy__p":0,"rel_humidity__0":0.526,"temp_in__degC":21.5,"battery_mv":2987}}`)}
	var out []mesh.Reading
	b.ReportAllocs()
	b.SetBytes(int64(len(m.Payload)))
	for b.Loop() {
		var err error
		out, _, err = p.Parse(out[:0], m)
		if err != nil || len(out) != 5 {
			b.Fatal(len(out), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*5), "ns/reading")
}
