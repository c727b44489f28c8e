package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

// What measures nothing gives no reading and no rejection, and is found in the
// log, byte for byte, with what the transport said.
func TestWhatMeasuresNothingIsKept(t *testing.T) {
	in := openFolder(t, t.TempDir())
	const (
		join = `{"end_device_ids":{"device_id":"eui-1","application_ids":{"application_id":"app"},"dev_eui":"0102030405060708"},` +
			`"received_at":"2026-03-01T09:00:00Z","join_accept":{"session_key_id":"AX","received_at":"2026-03-01T09:00:00Z"}}`
		ack = `{"deduplicationId":"b1","time":"2026-03-01T09:00:01Z","deviceInfo":{"tenantId":"t","applicationId":"a","deviceProfileName":"p","devEui":"0102030405060709"},"queueItemId":"q","acknowledged":true,"fCntDown":3}`
	)
	for range 2 { // sent again it is another message: nothing tells that it is not
		for _, m := range []struct{ path, query, body string }{{"v1/tts", "", join}, {"v1/chirpstack", "?event=ack", ack}} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address("telemetry-ingest", "iot")+m.path+m.query, strings.NewReader(m.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := in.mesh.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusAccepted {
				t.Fatalf("%s: %s, want 202", m.path, resp.Status)
			}
		}
	}
	if err := in.mesh.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"iot_telemetry_internal.readings", "iot_telemetry_internal.rejected"} {
		if n, err := scalar(t.Context(), in.warehouse, "SELECT count(*) FROM "+table); err != nil || n != 0 {
			t.Errorf("%s has %d rows, %v, want none", table, n, err)
		}
	}
	got := cellsOf(t, in, `SELECT event.broker, message.payload, message.attributes->>'event' FROM event_log.events AS event,
		unnest(from_json(event.data->'messages', '["JSON"]')) AS each(message)
		WHERE event.type = 'dev.telemesh.telemetry.received.v1' ORDER BY ALL`)
	want := []string{
		"iot/iot|" + ack + "|ack", "iot/iot|" + ack + "|ack",
		"iot/iot|" + join + "|", "iot/iot|" + join + "|",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages in the log (-want +got):\n%s", diff)
	}
}

// What comes to any Broker is in the log once, with all its attributes, whether
// a function reads it or not; what a Trigger brings to a second Broker is seen
// there too. Of events with readings only the attributes are kept.
func TestLogOfEveryBroker(t *testing.T) {
	in, err := (&options{data: t.TempDir()}).open(t.Context(), sheets{
		placements: write(t, filepath.Join(t.TempDir(), "placements.csv"), "device_id,tenant_id,valid_from\nd1,tenant-a,2026-01-01T00:00:00Z\n"),
		customers:  write(t, filepath.Join(t.TempDir(), "customers.csv"), "customer_id,name\ntenant-a,School\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	post := func(url, contentType, body string, header map[string]string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		for name, value := range header {
			req.Header.Set(name, value)
		}
		resp, err := in.mesh.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			t.Fatalf("POST %s: %s, want 202", url, resp.Status)
		}
	}
	for range 2 {
		post(ingress("crm"), "application/octet-stream", "\xff\x00", map[string]string{
			"ce-specversion": "1.0", "ce-id": "b1", "ce-source": "/elsewhere", "ce-type": "com.example.odd",
			"ce-time": "2026-03-01T10:00:00.123456789+01:00", "ce-subject": "d/1", "ce-dataschema": "https://example.com/s", "ce-tenantid": "a b",
		})
		post(ingress("analytics"), "application/cloudevents+json", `{"specversion":"1.0","id":"s1","source":"/elsewhere","type":"com.example.other","subject":"dü",`+
			`"count":7,"flag":true,"data":{"a": 1.0}}`, nil)
		deliver(t, in, mesh.TelemetryReceived, "/devices", mesh.EncodeMessages([]mesh.Message{{
			ID: "m1", Source: "/devices", ReceivedAt: 1_772_359_200_000_000, Payload: []byte(`{"device_id":"d1","time":"2026-03-01T09:00:00Z","co2":812}`),
		}}), "m1")
	}
	got := cellsOf(t, in, `SELECT subject, epoch_us(time), time_text, dataschema, datacontenttype, extensions, data, data_base64
		FROM event_log.events WHERE source = '/elsewhere' ORDER BY event_id`)
	want := []string{
		`d/1|1772355600123456|2026-03-01T09:00:00.123456789Z|https://example.com/s|application/octet-stream|{"tenantid":"a b"}|/wA=|true`,
		`dü|||||{"count":"7","flag":"true"}|{"a": 1.0}|false`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events of others (-want +got):\n%s", diff)
	}
	got = cellsOf(t, in, `SELECT broker, replace(replace(type, 'dev.telemesh.', ''), '.v1', ''), data IS NOT NULL, count(*), bool_and(data_bytes > 0),
		bool_and(received_at <= recorded_at) FROM event_log.events WHERE source <> '/elsewhere' GROUP BY ALL ORDER BY ALL`)
	want = []string{
		"analytics/analytics|analytics.joined|false|1|true|true",
		"analytics/analytics|co2.classified|false|1|true|true",
		"analytics/analytics|customers.recorded|true|1|true|true",
		"analytics/analytics|placements.recorded|true|1|true|true",
		"analytics/analytics|telemetry.enriched|false|1|true|true",
		"crm/crm|customers.changed|true|1|true|true",
		"crm/crm|customers.recorded|true|1|true|true",
		"crm/crm|dev.knative.sources.ping|false|1|false|true",
		"iot/iot|dev.knative.sources.ping|false|1|false|true",
		"iot/iot|placements.changed|true|1|true|true",
		"iot/iot|placements.recorded|true|1|true|true",
		"iot/iot|telemetry.enriched|false|1|true|true",
		"iot/iot|telemetry.flattened|false|1|true|true",
		"iot/iot|telemetry.received|true|1|true|true",
		"iot/iot|tenancy.repaired|true|1|true|true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events of the mesh (-want +got):\n%s", diff)
	}
}

// cellsOf gives the rows of a query, their cells separated by |.
func cellsOf(t *testing.T, in *instance, sql string) []string {
	t.Helper()
	found, err := in.warehouse.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for row, err := range found.All {
		if err != nil {
			t.Fatal(err)
		}
		var cells []string
		for _, cell := range row {
			text, ok := cell.(string)
			if !ok && cell != nil {
				b, err := json.Marshal(cell)
				if err != nil {
					t.Fatal(err)
				}
				text = string(b)
			}
			cells = append(cells, text)
		}
		out = append(out, strings.Join(cells, "|"))
	}
	return out
}
