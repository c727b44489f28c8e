package pubsub_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pubsub"
)

var published = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)

func TestParsePush(t *testing.T) {
	for _, test := range []struct {
		name, body string
		want       pubsub.Message
	}{
		{"as documented", `{"message":{"attributes":{"key":"value"},"data":"SGk/Pg==","messageId":"1","message_id":"1",
			"publishTime":"2026-01-02T03:04:05.678Z","publish_time":"2026-01-02T03:04:05.678Z","orderingKey":"k"},
			"subscription":"projects/p/subscriptions/s","deliveryAttempt":5}`,
			pubsub.Message{ID: "1", Data: []byte("Hi?>"), Attributes: map[string]string{"key": "value"}, PublishTime: published, OrderingKey: "k", Subscription: "projects/p/subscriptions/s"}},
		{"old spelling", `{"message":{"data":"SGk/Pg==","message_id":"1","publish_time":"2026-01-02T04:04:05.678+01:00","ordering_key":"k"},"subscription":"s"}`,
			pubsub.Message{ID: "1", Data: []byte("Hi?>"), PublishTime: published, OrderingKey: "k", Subscription: "s"}},
		{"attributes alone", `{"message":{"attributes":{"a":"b"},"messageId":"1"}}`, pubsub.Message{ID: "1", Attributes: map[string]string{"a": "b"}}},
		{"data alone", `{"message":{"data":"AP8="}}`, pubsub.Message{Data: []byte{0, 255}}},
	} {
		got, err := pubsub.ParsePush([]byte(test.body))
		if diff := cmp.Diff(test.want, got, cmp.Comparer(time.Time.Equal)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", test.name, err, diff)
		}
	}
}

func TestParsePushRefuses(t *testing.T) {
	for _, test := range []struct {
		name, body, says string
		notWrapped       bool
	}{
		{"no JSON", `co2=7`, "no JSON object", true},
		{"array", `[{"message":{}}]`, "no JSON object", true},
		{"no message", `{"subscription":"s"}`, `"message"`, true},
		{"message that is none", `{"message":"hello"}`, `"message"`, true},
		{"null", `{"message":null}`, `"message"`, true},
		{"empty message", `{"message":{"messageId":"77"},"subscription":"s"}`, "77: the Pub/Sub message has neither data nor attributes", false},
		{"empty attributes", `{"message":{"attributes":{},"data":""}}`, "neither data nor attributes", false},
		{"data not base64", `{"message":{"data":"?"}}`, "base64", false},
		{"data in URL base64", `{"message":{"data":"SGk_Pg=="}}`, "base64", false},
		{"time not a time", `{"message":{"data":"","publishTime":"yesterday"}}`, "yesterday", false},
		{"attribute not a string", `{"message":{"attributes":{"a":1}}}`, "attributes", false},
		{"subscription not a string", `{"message":{"data":"SGk="},"subscription":7}`, "subscription", false},
	} {
		m, err := pubsub.ParsePush([]byte(test.body))
		if err == nil || !strings.Contains(err.Error(), test.says) || errors.Is(err, pubsub.ErrNotWrapped) != test.notWrapped {
			t.Errorf("%s: ParsePush = %+v, %v, want an error with %q, not wrapped %t", test.name, m, err, test.says, test.notWrapped)
		}
	}
}

func TestParseUnwrapped(t *testing.T) {
	transport := http.Header{"Authorization": {"Bearer secret"}, "User-Agent": {"APIs-Google"}, "Accept-Encoding": {"gzip"}, "X-Forwarded-For": {"10.0.0.1"},
		"X-Api-Key": {"secret"}, "Traceparent": {"00-1-2-01"}, "K-Proxy-Request": {"activator"}, "X-Cloud-Trace-Context": {"1"}, "From": {"noreply@google.com"}}
	for _, test := range []struct {
		name   string
		header http.Header
		body   string
		want   pubsub.Message
	}{
		{"with metadata", http.Header{
			"X-Goog-Pubsub-Message-Id": {"1"}, "X-Goog-Pubsub-Publish-Time": {"2026-01-02T03:04:05.678Z"}, "X-Goog-Pubsub-Ordering-Key": {"k"},
			"X-Goog-Pubsub-Subscription-Name": {"projects/p/subscriptions/s"},
			"Deviceid":                        {"d1"}, "Subfolder": {"events"}, "Deveui": {"01"}, "Event": {"up"}, "Site": {"north"}, "Content-Type": {"text/csv"}, "Ce-Id": {"7"},
		}, "Hi", pubsub.Message{ID: "1", Data: []byte("Hi"), PublishTime: published, OrderingKey: "k", Subscription: "projects/p/subscriptions/s",
			Attributes: map[string]string{"deviceId": "d1", "subFolder": "events", "devEui": "01", "event": "up", "site": "north", "content-type": "text/csv", "ce-id": "7"}}},
		// Any other header may have been added by anyone on the way.
		{"without metadata", http.Header{"Deviceid": {"d1"}, "Content-Type": {"application/json"}, "Ce-Specversion": {"1.0"}}, "Hi",
			pubsub.Message{Data: []byte("Hi"), Attributes: map[string]string{"content-type": "application/json", "ce-specversion": "1.0"}}},
		{"attributes alone", http.Header{"X-Goog-Pubsub-Message-Id": {"1"}, "A": {"b"}}, "", pubsub.Message{ID: "1", Attributes: map[string]string{"a": "b"}}},
	} {
		header := test.header.Clone()
		for name, values := range transport {
			header[name] = values
		}
		got, err := pubsub.ParseUnwrapped(header, []byte(test.body))
		if got.Data = []byte(string(got.Data)); len(got.Data) == 0 {
			got.Data = nil
		}
		if diff := cmp.Diff(test.want, got, cmp.Comparer(time.Time.Equal)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", test.name, err, diff)
		}
		if written := test.name != "without metadata"; pubsub.IsUnwrapped(header) != written {
			t.Errorf("%s: IsUnwrapped = %t", test.name, !written)
		}
	}
	for _, header := range []http.Header{transport, {"X-Goog-Pubsub-Publish-Time": {"yesterday"}, "A": {"b"}}} {
		if m, err := pubsub.ParseUnwrapped(header, nil); err == nil {
			t.Errorf("ParseUnwrapped(%v) = %+v, want an error", header, m)
		}
	}
}

const now = mesh.Instant(1_800_000_000_000_000)

func TestReceived(t *testing.T) {
	const source, at = "//pubsub.googleapis.com/projects/p/subscriptions/s", "2026-01-02T03:04:05.678Z"
	for _, test := range []struct {
		name       string
		attributes map[string]string
		data       string
		want       mesh.Message
	}{
		{"plain", map[string]string{"deviceId": "d"}, `{"co2":7}`,
			mesh.Message{ID: "1", Source: source, Attributes: map[string]string{"deviceId": "d", "time": at}, Payload: []byte(`{"co2":7}`)}},
		{"what names the device and the format", map[string]string{"device_id": "d", "format": "ttn-v3", "sender": "somebody"}, `{}`,
			mesh.Message{ID: "1", Source: source, DeviceID: "d", Format: "ttn-v3", Attributes: map[string]string{"time": at}, Payload: []byte(`{}`)}},
		{"with a time and a content type", map[string]string{"time": "2025-01-01T00:00:00Z", "Content-Type": "text/csv; charset=utf-8"}, "a\n1\n",
			mesh.Message{ID: "1", Source: source, ContentType: "text/csv", Attributes: map[string]string{"time": "2025-01-01T00:00:00Z", "Content-Type": "text/csv; charset=utf-8"}, Payload: []byte("a\n1\n")}},
		{"binary CloudEvent", map[string]string{"ce-specversion": "1.0", "ce-type": "com.example.someevent", "ce-time": "2020-03-10T03:56:24Z", "ce-id": "1234",
			"ce-source": "/mycontext", "ce-subject": "s", "ce-site": "Straße", "ce-datacontenttype": "application/json; charset=utf-8", "deviceId": "d", "type": "no", "sender": "x"}, `{"a":1}`,
			mesh.Message{ID: "1234", Source: "/mycontext", Payload: []byte(`{"a":1}`), Attributes: map[string]string{
				"type": "com.example.someevent", "time": "2020-03-10T03:56:24Z", "subject": "s", "site": "Straße", "deviceId": "d"}}},
		{"binary CloudEvent without a time", map[string]string{"ce-specversion": "1.0", "ce-type": "t", "ce-id": "1234", "ce-source": "/m", "content-type": "text/csv"}, `a`,
			mesh.Message{ID: "1234", Source: "/m", ContentType: "text/csv", Payload: []byte(`a`), Attributes: map[string]string{"type": "t", "time": at, "content-type": "text/csv"}}},
		{"structured CloudEvent", map[string]string{"content-type": "application/cloudevents+json; charset=utf-8"},
			`{"specversion":"1.0","type":"t","time":"2018-04-05T03:56:24Z","id":"1234","source":"/m","data":{"a":1}}`,
			mesh.Message{ID: "1234", Source: "/m", Payload: []byte(`{"a":1}`), Attributes: map[string]string{
				"type": "t", "time": "2018-04-05T03:56:24Z", "content-type": "application/cloudevents+json; charset=utf-8"}}},
	} {
		m := pubsub.Message{ID: "1", Data: []byte(test.data), Attributes: test.attributes, PublishTime: published, Subscription: "projects/p/subscriptions/s"}
		got, err := m.Received(now)
		test.want.ReceivedAt = now
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", test.name, err, diff)
		}
	}
}

// What cannot be taken as it claims to be is given as something to keep.
func TestReceivedRefuses(t *testing.T) {
	event := map[string]string{"ce-specversion": "1.0", "ce-type": "t", "ce-id": "1", "ce-source": "/m"}
	with := func(name, value string) map[string]string {
		out := map[string]string{name: value}
		for n, v := range event {
			if n != name {
				out[n] = v
			}
		}
		return out
	}
	long := strings.Repeat("x", 1025)
	for _, test := range []struct {
		name, says string
		m          pubsub.Message
	}{
		{"CloudEvent without a source", "source", pubsub.Message{ID: "7", Attributes: with("ce-source", "")}},
		{"CloudEvent of no version", `specversion "9"`, pubsub.Message{ID: "7", Attributes: with("ce-specversion", "9")}},
		{"CloudEvent with a bad time", "time", pubsub.Message{ID: "7", Attributes: with("ce-time", "yesterday")}},
		{"CloudEvent with a long id", "its id has 1025 bytes", pubsub.Message{ID: "7", Attributes: with("ce-id", long)}},
		{"CloudEvent that is no JSON", "read CloudEvent", pubsub.Message{ID: "7", Attributes: map[string]string{"content-type": "application/cloudevents+json"}}},
		{"batch", "cannot be application/cloudevents-batch+json", pubsub.Message{ID: "7", Attributes: map[string]string{"content-type": "application/cloudevents-batch+json"}}},
		{"long id", "its id has 1025 bytes", pubsub.Message{ID: long}},
		{"long subscription", "its source has", pubsub.Message{ID: "7", Subscription: long}},
	} {
		test.m.Data = []byte("oops")
		got, err := test.m.Received(now)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.says)
		}
		if string(got.Payload) != "oops" || got.ID == "" || got.CheckIdentity() != nil || got.ReceivedAt != now || len(got.Attributes) != len(test.m.Attributes) {
			t.Errorf("%s: message to keep %+v, want the data and the attributes", test.name, got)
		}
	}
}

// A push that tells no id comes again as the same message.
func TestIDOfWhatHasNone(t *testing.T) {
	id := func(data, subscription string) string {
		m, err := pubsub.Message{Data: []byte(data), Subscription: subscription}.Received(now)
		if err != nil {
			t.Fatal(err)
		}
		return m.ID
	}
	if first := id("a", "s"); first == "" || id("a", "s") != first || id("b", "s") == first || id("a", "t") == first {
		t.Error("the id is not that of source and data")
	}
}

func TestPublishedExamples(t *testing.T) {
	dir := dataset.Path(t, "envelopes/gcp-pubsub")
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	push, err := pubsub.ParsePush(read("push-cloud-iot-core.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := push.Received(now)
	if err != nil {
		t.Fatal(err)
	}
	want := mesh.Message{ID: "204004313210337", Source: "//pubsub.googleapis.com/projects/conference-demos/subscriptions/my-subscription", ReceivedAt: now,
		Attributes: map[string]string{"deviceId": "myPi", "deviceNumId": "2808946627307959", "deviceRegistryId": "my-registry", "deviceRegistryLocation": "us-central1",
			"projectId": "conference-demos", "subFolder": "", "time": "2018-09-14T19:22:54.587Z"},
		Payload: []byte("testingGoogle,sensor=bme_280 temp_c=23.95,humidity=62.83 1536952974553510231")}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("push-cloud-iot-core.json (-want +got):\n%s", diff)
	}

	// The examples of the binding, with their dots filled in.
	parts := strings.Split(string(read("cloudevents-pubsub-binding-examples.txt")), "--- Attributes ---")
	for _, i := range []int{1, 2} { // binary and structured
		attributes, rest, _ := strings.Cut(parts[i], "--- Data ---")
		data, _, _ := strings.Cut(rest, "## ")
		fill := strings.NewReplacer(".... further attributes ...", "", "... application data ...", `"a":1`, "utf-8\",\n}", "utf-8\"\n}")
		var m pubsub.Message
		if err := json.Unmarshal([]byte(fill.Replace(attributes)), &m.Attributes); err != nil {
			t.Fatalf("example %d: %v in %s", i, err, fill.Replace(attributes))
		}
		m.Data = []byte(fill.Replace(data))
		// As a push carries it.
		push, err := json.Marshal(map[string]any{"message": map[string]any{"attributes": m.Attributes, "data": base64.StdEncoding.EncodeToString(m.Data), "messageId": "77"}, "subscription": "s"})
		if err != nil {
			t.Fatal(err)
		}
		if m, err = pubsub.ParsePush(push); err != nil {
			t.Fatal(err)
		}
		got, err := m.Received(now)
		var payload map[string]int
		if err != nil || json.Unmarshal(got.Payload, &payload) != nil || payload["a"] != 1 {
			t.Errorf("example %d: %v, payload %s, want its data", i, err, got.Payload)
		}
		if got.ID != "1234-1234-1234" || !strings.HasSuffix(got.Attributes["time"], "-03-10T03:56:24Z") && !strings.HasSuffix(got.Attributes["time"], "-04-05T03:56:24Z") ||
			got.Attributes["type"] != "com.example.someevent" || got.Source == "" || strings.HasPrefix(got.Source, "//pubsub") || got.ContentType != "" {
			t.Errorf("example %d: %+v, want the event's identity", i, got)
		}
	}
}
