package sink_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

const arrived = "2026-03-01T12:00:00.000001999Z"

func eventOf(version string, change func(*event.Event)) event.Event {
	e := event.New(version)
	e.SetID("e1")
	e.SetSource("/devices")
	e.SetType("com.example.joined")
	e.SetExtension("knativearrivaltime", arrived)
	change(&e)
	return e
}

// Whatever an event has is in its row, here and through a warehouse over HTTP.
func TestAnyEventIsARow(t *testing.T) {
	var every []byte
	for i := range 256 {
		every = append(every, byte(i))
	}
	db := duckdbtest.Open(t)
	served := httptest.NewServer(remote.Handler(db, ""))
	defer served.Close()
	at := time.Date(2024, 3, 1, 13, 0, 0, 123456789, time.FixedZone("", 3600))
	for name, test := range map[string]struct {
		version string
		change  func(*event.Event)
		want    map[string]any // besides what all have
	}{
		"nothing more": {"1.0", func(e *event.Event) {}, map[string]any{}},
		"everything": {"1.0", func(e *event.Event) {
			e.SetSubject("devices/ü'\x00")
			e.SetTime(at)
			e.SetDataSchema("https://example.com/schema?a=<b>")
			e.SetDataContentType("application/vnd.example")
			e.SetExtension("tenantid", "a\"b<&日本")
			e.SetExtension("count", 7)
			e.SetExtension("flag", true)
			e.SetExtension("bytes", []byte{0xff})
			e.SetExtension("until", at)
			e.DataEncoded = every
		}, map[string]any{
			"subject": "devices/ü'\x00", "time": "2024-03-01T12:00:00.123456Z", "time_text": "2024-03-01T12:00:00.123456789Z",
			"dataschema": "https://example.com/schema?a=<b>", "datacontenttype": "application/vnd.example",
			"extensions": map[string]any{"tenantid": "a\"b<&日本", "count": "7", "flag": "true", "bytes": "/w==", "until": "2024-03-01T12:00:00.123456789Z"},
			"data":       "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaanqKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w==",
			"data_bytes": 256.0, "data_base64": true,
		}},
		"an older version": {"0.3", func(e *event.Event) {
			e.SetDataContentType("application/json")
			e.DataEncoded = []byte(" {\"a\" : 1.0}\r\n")
		}, map[string]any{"specversion": "0.3", "datacontenttype": "application/json", "data": " {\"a\" : 1.0}\r\n", "data_bytes": 14.0}},
		"text": {"1.0", func(e *event.Event) { e.DataEncoded = []byte("a;\x00b\n") },
			map[string]any{"data": "a;\x00b\n", "data_bytes": 5.0}},
		"large": {"1.0", func(e *event.Event) { e.DataEncoded = []byte(strings.Repeat("x", 1<<20)) },
			map[string]any{"data": strings.Repeat("x", 1<<20), "data_bytes": float64(1 << 20)}},
		"a time of whole microseconds": {"1.0", func(e *event.Event) { e.SetTime(at.Truncate(time.Microsecond)) },
			map[string]any{"time": "2024-03-01T12:00:00.123456Z"}},
		"a time before the year 1": {"1.0", func(e *event.Event) { e.SetTime(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)) },
			map[string]any{"time_text": "0000-01-01T00:00:00Z"}},
		"an arrival that is none": {"1.0", func(e *event.Event) {
			e.SetExtension("knativearrivaltime", "yesterday")
		}, map[string]any{"extensions": map[string]any{"knativearrivaltime": "yesterday"}, "received_at": nil}},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]any{
				"event_id": "e1", "source": "/devices", "type": "com.example.joined", "specversion": "1.0", "broker": "iot/iot",
				"received_at": "2026-03-01T12:00:00.000001Z", "data_bytes": 0.0, "data_base64": false,
			}
			for column, value := range test.want {
				want[column] = value
			}
			for where, w := range map[string]warehouse.Warehouse{"here": db, "remote": remote.Open(served.URL, nil, "")} {
				in := eventOf(test.version, test.change)
				in.SetID(name + " " + where)
				want["event_id"] = in.ID()
				if out, err := sink.NewLog(w, nil)(of(t, "iot/iot"), in); err != nil || out != nil {
					t.Fatalf("%s: handler = %v, %v, want nothing", where, out, err)
				}
				rows := all(t, w, "SELECT * FROM event_log.events WHERE event_id = '"+in.ID()+"'")
				if len(rows) != 1 {
					t.Fatalf("%s: %d rows, want 1", where, len(rows))
				}
				delete(rows[0], contract.RecordedAt)
				if want["received_at"] == nil {
					if rows[0]["received_at"].(string) < "2026" {
						t.Errorf("%s: received at %v, want now", where, rows[0]["received_at"])
					}
					delete(rows[0], "received_at")
				}
				if want := present(want); cmp.Diff(want, rows[0]) != "" {
					t.Errorf("%s: row differs from the event (-want +got):\n%s", where, cmp.Diff(want, rows[0]))
				}
				if diff := cmp.Diff(asText(in), readLogged(t, w, in.ID())); diff != "" {
					t.Errorf("%s: the event made of the row differs (-want +got):\n%s", where, diff)
				}
			}
		})
	}
}

// asText is an event as the log gives it back: extensions are text, and of the
// Broker's own nothing is left but what is no time.
func asText(e event.Event) event.Event {
	out := e.Clone()
	for name, value := range e.Extensions() {
		text, _ := types.Format(value)
		if name == "knativearrivaltime" && text == arrived {
			out.SetExtension(name, nil)
			continue
		}
		out.SetExtension(name, text)
	}
	out.SetTime(e.Time().UTC())
	if e.Time().IsZero() {
		out.SetTime(time.Time{})
	}
	out.DataBase64 = !utf8.Valid(e.Data())
	return out
}

func readLogged(t *testing.T, w warehouse.Warehouse, id string) event.Event {
	t.Helper()
	rows, err := w.Query(t.Context(), "SELECT "+sink.LogColumns+" FROM event_log.events WHERE event_id = '"+id+"'")
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil {
			t.Fatal(err)
		}
		logged, err := sink.ReadLog(row)
		if err != nil {
			t.Fatal(err)
		}
		if logged.Broker != "iot/iot" || logged.LeftOut != 0 || logged.ReceivedAt == 0 {
			t.Errorf("ReadLog = %+v, want the Broker, a time and nothing left out", logged)
		}
		return logged.Event
	}
	t.Fatalf("no event %s in the log", id)
	return event.Event{}
}

func present(row map[string]any) map[string]any {
	out := map[string]any{}
	for column, value := range row {
		if value != nil {
			out[column] = value
		}
	}
	return out
}

// A delivery again adds nothing, nor does what its sender posts again. What
// another Broker brings, another sender or with another id, is another row.
func TestLoggedOnce(t *testing.T) {
	db := duckdbtest.Open(t)
	handle := sink.NewLog(db, nil)
	same := func(*event.Event) {}
	for range 2 {
		for _, deliver := range []struct {
			broker string
			change func(*event.Event)
		}{
			{"iot/iot", same},
			{"iot/iot", func(e *event.Event) { e.SetExtension("knativearrivaltime", "2026-03-01T12:00:09Z") }},
			{"iot/iot", func(e *event.Event) { e.SetSource("/others") }},
			{"iot/iot", func(e *event.Event) { e.SetID("e2") }},
			{"crm/crm", same},
		} {
			if _, err := handle(of(t, deliver.broker), eventOf("1.0", deliver.change)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	for _, row := range all(t, db, "SELECT broker, source, event_id, received_at FROM event_log_internal.events ORDER BY ALL") {
		got = append(got, strings.Join([]string{row["broker"].(string), row["source"].(string), row["event_id"].(string), row["received_at"].(string)}, " "))
	}
	const at = "2026-03-01T12:00:00.000001Z"
	if diff := cmp.Diff([]string{"crm/crm /devices e1 " + at, "iot/iot /devices e1 " + at, "iot/iot /devices e2 " + at, "iot/iot /others e1 " + at}, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// With EVENT_LOG the function is a log, which keeps no data of the types in
// WITHOUT_DATA, but says how many there were.
func TestStartLog(t *testing.T) {
	t.Setenv("EVENT_LOG", "true")
	t.Setenv("WITHOUT_DATA", mesh.TelemetryFlattened+","+mesh.TelemetryEnriched)
	db := duckdbtest.Open(t)
	fn, err := sink.Start(function.Ports{Client: http.DefaultClient, Warehouse: db, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, eventType := range []string{mesh.TelemetryReceived, mesh.TelemetryFlattened, mesh.TelemetryEnriched, "com.example.misspelt"} {
		if _, err := fn.Handler(of(t, "iot/iot"), mesh.NewEvent(eventType, "/s", []byte(`{"x":1}`), eventType)); err != nil {
			t.Fatal(err)
		}
	}
	got := all(t, db, "SELECT type, data, data_bytes FROM event_log.events ORDER BY type")
	want := []map[string]any{
		{"type": "com.example.misspelt", "data": `{"x":1}`, "data_bytes": 7.0},
		{"type": mesh.TelemetryEnriched, "data_bytes": 7.0},
		{"type": mesh.TelemetryFlattened, "data_bytes": 7.0},
		{"type": mesh.TelemetryReceived, "data": `{"x":1}`, "data_bytes": 7.0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// What cannot be stored goes to the dead letters at once.
func TestLogRefuses(t *testing.T) {
	db := duckdbtest.Open(t)
	handle := sink.NewLog(db, nil)
	for _, broker := range []string{"", "iot", "iot/", "/iot", "iot/iot/iot"} {
		if _, err := handle(of(t, broker), eventOf("1.0", func(*event.Event) {})); !mesh.IsPermanent(err) {
			t.Errorf("path /%s: handler = %v, want a permanent error", broker, err)
		}
	}
	if _, err := handle(of(t, "iot/iot"), eventOf("1.0", func(e *event.Event) { e.SetSubject("\xff") })); !mesh.IsPermanent(err) {
		t.Errorf("a subject that is not UTF-8: handler = %v, want a permanent error", err)
	}
	db.Close()
	if _, err := handle(of(t, "iot/iot"), eventOf("1.0", func(*event.Event) {})); err == nil || mesh.IsPermanent(err) {
		t.Errorf("a closed warehouse: handler = %v, want a passing error", err)
	}
}

// of is the context of an event that a Broker brings.
func of(t *testing.T, broker string) context.Context {
	return function.WithPath(t.Context(), "/"+broker)
}
