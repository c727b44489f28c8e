package device_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

// BenchmarkRead reads the example of each format that docs/formats.md shows,
// from payload to readings. Where the payload is JSON, x-scan is how long it takes
// beside a bare token scan of the same bytes by the library that reads
// them, in the same run.
//
//	go test ./internal/device -run '^$' -bench Read
func BenchmarkRead(b *testing.B) {
	d := dictionary(b)
	for _, c := range cases(b) {
		if !c.example() {
			continue
		}
		b.Run(c.format, func(b *testing.B) {
			p := device.NewParser(d)
			var readings []mesh.Reading
			read := func(n int) {
				for range n {
					var err error
					if readings, _, err = p.Parse(readings[:0], c.message); err != nil {
						b.Fatal(err)
					}
				}
			}
			read(1)
			allocations := testing.AllocsPerRun(100, func() { read(1) })
			b.SetBytes(int64(len(c.message.Payload)))
			read(100)
			b.ResetTimer()
			read(b.N)
			b.StopTimer()
			b.ReportMetric(allocations/float64(len(readings)), "allocs/reading")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(readings)), "ns/reading")
			took := b.Elapsed()
			if !jsontext.Value(c.message.Payload).IsValid() {
				return
			}
			var decoder jsontext.Decoder
			began := time.Now()
			for range b.N {
				scan(b, &decoder, c.message.Payload)
			}
			b.ReportMetric(float64(took)/float64(time.Since(began)), "x-scan")
		})
	}
}

func scan(b testing.TB, decoder *jsontext.Decoder, payload []byte) {
	decoder.Reset(bytes.NewBuffer(payload))
	for {
		if _, err := decoder.ReadToken(); err == io.EOF {
			return
		} else if err != nil {
			b.Fatal(err)
		}
	}
}
