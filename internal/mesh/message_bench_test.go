package mesh_test

import (
	"fmt"
	"testing"

	"github.com/telemesh/telemesh/internal/mesh"
)

// BenchmarkDecodeMessages decodes an event of 500 messages as an MQTT source
// makes it.
func BenchmarkDecodeMessages(b *testing.B) {
	messages := make([]mesh.Message, 500)
	for i := range messages {
		messages[i] = mesh.Message{
			ID: mesh.Hash(fmt.Sprint(i)), Source: "mqtt://broker/", ReceivedAt: mesh.Instant(1714557600_000000 + i),
			Attributes: map[string]string{"topic": fmt.Sprintf("home/desk-%d/air", i%50)},
			Payload:    []byte(`{"time":"2024-05-01T10:00:00Z","co2":812,"temperature":21.5,"humidity":40}`),
		}
	}
	data := mesh.EncodeMessages(messages)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		got, err := mesh.DecodeMessages(data)
		if err != nil || len(got) != len(messages) || got[7].Attributes["topic"] == "" {
			b.Fatal(len(got), err)
		}
	}
}
