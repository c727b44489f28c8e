package device_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/device"
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

// A message may be packed in another three times, not more; the parser tells as
// what each was read.
func TestPackedMessagesHaveAnEnd(t *testing.T) {
	payload := `{"device_id":"d","ts":60,"a":1}`
	for packed, want := range []string{"", "", "", "", "more than 4 messages packed one in another"} {
		parser := device.NewParser(dictionary(t))
		readings, _, err := parser.Parse(nil, message(payload))
		if formats := parser.Formats(); want == "" && !slices.Equal(formats, append(slices.Repeat([]string{"pubsub-push"}, packed), "json")) {
			t.Errorf("packed %d times: read as %q", packed, formats)
		}
		switch {
		case want == "" && (err != nil || lines(readings) != "a=1\n"):
			t.Errorf("packed %d times: %q, %v", packed, lines(readings), err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("packed %d times: %v, want %s", packed, err, want)
		}
		payload = fmt.Sprintf(`{"message":{"messageId":"m","data":%q},"subscription":"s"}`, base64.StdEncoding.EncodeToString([]byte(payload)))
	}
}
