package device_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Whatever the bytes, they are rejected with a cause that can be shown or give
// readings that can be stored, and the same ones from every Parser.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"deviceId":"d","timestamp":"2022-10-06T13:23:00+0200","metrics":{"co2__ppm":661.0,"a":null},"fw":1}`,
		`{"device_id":1,"ts":1665055380250,"a":{"b":[1,true,"x\u00e9",1e999]},"temp_f":1.5,"temp":2,"temperature":3}`,
		`[{"deviceId":"d","a":9007199254740993},{"deviceId":"d","":{"":1}}]`,
		`{"end_device_ids":{"device_id":"d","dev_eui":"70b3d5e75e00aa01"},"uplink_message":{"f_cnt":1,"decoded_payload":{"a":1},"received_at":"2024-05-01T10:00:00.1Z"}}`,
		`{"deviceInfo":{"devEui":"70b3d5e75e00aa01"},"time":"2024-05-01T10:00:00Z","object":{"a":1},"fPort":2}`,
		"{\"deviceId\":\"\xff\"}", `{"a":1,"a":2}`, `[[[[`, ``,
	} {
		f.Add([]byte(seed), "", "", "")
		f.Add([]byte(seed), "dev", "application/json; charset=utf-8", "")
		f.Add([]byte(seed), "dev", "", "chirpstack-v4")
	}
	for _, c := range cases(f) {
		f.Add(c.message.Payload, c.message.DeviceID, c.message.ContentType, c.message.Format)
	}
	d := dictionary(f)
	old := device.NewParser(d)
	f.Fuzz(func(t *testing.T, payload []byte, deviceID, contentType, format string) {
		m := message(string(payload))
		m.DeviceID, m.ContentType, m.Format = deviceID, contentType, format
		fuzz(t, d, old, m)
	})
}

// fuzzFormat looks for payloads that one reader does not stand, among those of
// its examples and what is like them. A reader that is told by attributes gets
// those of each example in turn.
func fuzzFormat(f *testing.F, format string) {
	attributes := []map[string]string{nil}
	for _, c := range cases(f) {
		if c.format == format {
			attributes = append(attributes, c.message.Attributes)
			f.Add(c.message.Payload, uint8(len(attributes)-1))
			f.Add(c.message.Payload, uint8(0))
		}
	}
	d := dictionary(f)
	old := device.NewParser(d)
	f.Fuzz(func(t *testing.T, payload []byte, of uint8) {
		m := message(string(payload))
		m.DeviceID, m.Format, m.Attributes = "d", format, attributes[int(of)%len(attributes)]
		fuzz(t, d, old, m)
	})
}

func FuzzJSON(f *testing.F)       { fuzzFormat(f, "json") }
func FuzzTopicValue(f *testing.F) { fuzzFormat(f, "topic-value") }
func FuzzTTN(f *testing.F)        { fuzzFormat(f, "ttn-v3") }
func FuzzChirpStack(f *testing.F) { fuzzFormat(f, "chirpstack-v4") }

func fuzz(t *testing.T, d *device.Dictionary, old *device.Parser, m *mesh.Message, mappings ...*device.Mapping) {
	payload := string(m.Payload)
	readings, skipped, err := old.Parse(nil, m)
	again, skippedAgain, errAgain := device.NewParser(d, mappings...).Parse(nil, m)
	if diff := cmp.Diff(again, readings); diff != "" || skipped != skippedAgain || fmt.Sprint(err) != fmt.Sprint(errAgain) {
		t.Fatalf("an old parser gives %d %v, a new one %d %v (-new +old):\n%s", skipped, err, skippedAgain, errAgain, diff)
	}
	if payload != string(m.Payload) {
		t.Fatal("the payload was changed")
	}
	if err != nil {
		cause, ok := err.(*device.Error)
		if !ok || cause.Position < -1 || cause.Position > len(m.Payload) {
			t.Errorf("%T at %+v", err, err)
		}
		if len(readings) > 0 || len(err.Error()) > 2000 {
			t.Errorf("%d readings beside a cause of %d bytes", len(readings), len(err.Error()))
		}
		return
	}
	if len(readings) > 10_000 {
		t.Errorf("%d readings", len(readings))
	}
	for _, r := range readings {
		switch {
		case r.DeviceID == "" || r.Metric == "" || len(r.Metric) > 256 || len(r.DeviceID) > 256 || len(r.ValueString) > 16<<10:
			t.Errorf("metric %q of device %q", r.Metric, r.DeviceID)
		case math.IsNaN(r.Value) || math.IsInf(r.Value, 0):
			t.Errorf("%s = %v", r.Metric, r.Value)
		case r.ObservedAt.Time().Year() < 1970 || r.ObservedAt.Time().Year() > 2261:
			t.Errorf("%s at %s", r.Metric, r.ObservedAt)
		case r.ReadingID != mesh.ReadingID(r.DeviceID, r.Metric, r.ObservedAt):
			t.Errorf("%s has the id %s", r.Metric, r.ReadingID)
		case r.Attributes != "" && !json.Valid([]byte(r.Attributes)):
			t.Errorf("attributes %s", r.Attributes)
		}
	}
	back, err := mesh.DecodeReadings(mesh.EncodeReadings(readings))
	if err != nil || len(back) != len(readings) {
		t.Errorf("%d of %d readings come back, %v", len(back), len(readings), err)
	}
}
