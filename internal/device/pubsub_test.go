package device_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

func FuzzPubSubPush(f *testing.F) { fuzzFormat(f, "pubsub-push") }

// A row leads back to the message that came in, not to one packed in it; what
// the packed one says of itself goes before what is said of the outer one.
func TestPackedMessages(t *testing.T) {
	push := func(data, attributes string) string {
		return fmt.Sprintf(`{"message":{"messageId":"inner","data":%q,"attributes":%s}}`, base64.StdEncoding.EncodeToString([]byte(data)), attributes)
	}
	event := `{"type":"","source":"inner","specversion":"1.0","id":"inner","data":{"ts":60,"a":1}}`
	for _, c := range []struct{ name, payload, want string }{
		{"device of the publisher", push(`{"ts":60,"a":1}`, `{"device_id":"d"}`), "a=1\n"},
		{"device of the outer message", push(`{"ts":60,"a":1}`, `{}`), "a=1 of outer\n"},
		{"time zone of the publisher", push(`{"device_id":"d","ts":"1970-01-01T01:01:00","a":1}`, `{"timezone":"Europe/Amsterdam"}`), "a=1\n"},
		{"time zone of the outer message", push(`{"device_id":"d","ts":"1970-01-01T09:01:00","a":1}`, `{}`), "a=1\n"},
		{"CloudEvent", push(strings.Replace(event, `""`, `"x"`, 1), `{"device_id":"d","content-type":"application/cloudevents+json"}`), "a=1\n"},
	} {
		m := message(c.payload)
		m.DeviceID, m.Attributes = "outer", map[string]string{"timezone": "Asia/Tokyo", "type": "google.cloud.pubsub.topic.v1.messagePublished"}
		readings, _, err := device.NewParser(dictionary(t)).Parse(nil, m)
		if got := lines(readings); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
		for _, r := range readings {
			if r.EventID != m.ID || r.EventSource != m.Source || r.ReceivedAt != m.ReceivedAt {
				t.Errorf("%s: comes from %s %s at %s", c.name, r.EventSource, r.EventID, r.ReceivedAt)
			}
		}
	}
}

// What many values of a message share is neither read nor copied again for
// each of them: a notifiedAt of 1 MiB, read for each of 9,000 entities, took 5 s.
func TestHostileMessagesAreCheap(t *testing.T) {
	many := func(n int, form string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.ReplaceAll(form, "#", fmt.Sprint(i)))
			b.WriteByte(',')
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	long, blank := strings.Repeat("x", 2<<20), strings.Repeat(" ", 2<<20)
	pairs := many(9000, "[1,#]")
	p := device.NewParser(dictionary(t))
	for _, c := range []struct{ format, payload string }{
		{"aws-iot-shadow", `{"state":{"reported":{` + many(50_000, `"a#":{}`) + `}},"metadata":{"reported":{"z":1,` + many(50_000, `"a#":{"timestamp":1}`) + `}}}`},
		{"aws-iot-shadow", `{"state":{"reported":{"` + long + `":{` + many(50_000, `"a#":null`) + `}}}}`},
		{"aws-iot-shadow", `{"state":{"reported":{` + many(9000, `"a#":{"v":1,"ts":#}`) + `}},"timestamp":"` + blank + `"}`},
		{"ngsi-ld", `{"id":"` + long + `","type":"` + long + `","a":{"type":"Property","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"id":"urn:ngsi-ld:a","type":"` + long + `","a":{"type":"Property","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"id":"urn:ngsi-ld:a","type":"t","` + long + `":{"type":"Property","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"id":"urn:ngsi-ld:a","type":"t","a":{"type":"Property","unitCode":"` + long + `","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"id":"urn:ngsi-ld:a","type":"t","dateObserved":"` + blank + `","a":{"type":"Property","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"type":"Notification","subscriptionId":"x","notifiedAt":"` + blank + `","data":[` + many(9000, `{"id":"#","type":"t","a":1}`) + `]}`},
		{"sensorthings", `{"Datastream":{"@iot.id":1,"name":"` + long + `","unitOfMeasurement":{"symbol":"` + long + `"}},"components":["result"],"dataArray":[` + many(50_000, "[null]") + `]}`},
		{"azure-iot-hub", `{"SystemProperties":{"connectionDeviceId":"d"},"Properties":{` + many(50_000, `"a#":1`) + `},"Body":[` + many(9000, `{"a":1}`) + `]}`},
	} {
		m := message(c.payload)
		m.Format, m.DeviceID = c.format, "d"
		began := time.Now()
		readings, _, _ := p.Parse(nil, m)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: %s for %d bytes: %.300s", c.format, took, len(c.payload), c.payload)
		}
		size := 0
		for i := range readings {
			size += len(mesh.EncodeReadings(readings[i : i+1]))
		}
		if size > 20<<20 {
			t.Errorf("%s: %d bytes of readings of %d bytes: %.300s", c.format, size, len(c.payload), c.payload)
		}
	}
}
