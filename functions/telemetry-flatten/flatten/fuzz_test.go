package flatten_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Whatever the data, the handler answers with a permanent error or with events
// that the next function reads, and every message is either read or rejected.
func FuzzHandler(f *testing.F) {
	f.Add([]byte(data(`{"device_id":"d","time":60,"co2":661}`, `7`, `{`)))
	f.Add([]byte(`{"messages": [{"received_at":"2022-10-06T11:23:20Z","payload":{"device_id":"d","a":null,"b":1}}]}`))
	f.Add([]byte(`{"messages":[{"payload":1,"payload_base64":"AA=="},{}]}`))
	f.Add([]byte(`{"messages":null}`))
	f.Add([]byte("{\"messages\":[{\"id\":\"\xff\",\"received_at\":\"2022-10-06T11:23:20Z\",\"payload\":{\"device_id\":\"\xff\"}}]}"))
	f.Add([]byte(`{"messages":[{"id":"0","received_at":"2022-10-06T11:23:20Z","payload":"`))
	handle := handler(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := handle(context.Background(), received(string(data)))
		if err != nil {
			if !mesh.IsPermanent(err) || len(out) > 0 {
				t.Errorf("%d events and %v", len(out), err)
			}
			return
		}
		messages, err := mesh.DecodeMessages(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range out {
			if !json.Valid(e.Data()) {
				t.Fatalf("%s: no JSON: %q", e.Type(), e.Data())
			}
			switch e.Type() {
			case mesh.TelemetryFlattened:
				readings, err := mesh.DecodeReadings(e.Data())
				if err != nil || len(readings) == 0 {
					t.Fatalf("%d readings, %v", len(readings), err)
				}
			case mesh.TelemetryRejected:
				rejections, err := mesh.DecodeRejections(e.Data())
				if err != nil || len(rejections) == 0 || len(rejections) > len(messages) {
					t.Fatalf("%d rejections of %d messages, %v", len(rejections), len(messages), err)
				}
			default:
				t.Errorf("an event of type %s", e.Type())
			}
		}
	})
}
