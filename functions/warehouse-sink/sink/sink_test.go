package sink_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// all gives the rows of a table as JSON would.
func all(t testing.TB, w warehouse.Warehouse, sql string) []map[string]any {
	t.Helper()
	rows, err := w.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for row, err := range rows.All {
		if err != nil {
			t.Fatal(err)
		}
		members := map[string]any{}
		for i, cell := range row {
			column := rows.Columns[i]
			switch v := cell.(type) {
			case nil:
				continue
			case int64:
				cell = float64(v)
			case time.Time:
				cell = mesh.At(v).String()
			case string:
				if column.Type == contract.JSON {
					if err := json.Unmarshal([]byte(v), &cell); err != nil {
						t.Fatal(err)
					}
				}
			}
			members[column.Name] = cell
		}
		out = append(out, members)
	}
	return out
}

const reading = `{"reading_id":"0123456789abcdef0123456789abcdef","device_id":"d1","metric":"co2","value":412.5,"value_string":"412.50",` +
	`"unit":"ppm","observed_at":"2024-03-01T12:00:00.000001Z","received_at":"2024-03-01T12:00:02Z","event_source":"/devices","event_id":"m1",` +
	`"quality":"no_time","judged":1000000007,"revision":2,"attributes":{"rssi":-80},"tenant_id":"tenant-a","assignment_version":7`

// Each member of the data is a column of the same name, and no other column
// than recorded_at is set.
func TestEveryMemberIsAColumn(t *testing.T) {
	for _, test := range []struct{ eventType, member, table, row string }{
		{mesh.TelemetryEnriched, "readings", "iot_telemetry.readings", reading + "}"},
		{mesh.TelemetryUnassigned, "readings", "iot_telemetry.readings",
			`{"reading_id":"r2","device_id":"d2","metric":"door","value":1,"value_bool":true,` +
				`"observed_at":"2024-03-01T12:00:00Z","received_at":"2024-03-01T12:00:02Z","revision":0,"assignment_version":0}`},
		{mesh.TelemetryUnassigned, "readings", "iot_telemetry.readings",
			`{"reading_id":"r3","device_id":"d2","metric":"state","value_string":"",` +
				`"observed_at":"2024-03-01T12:00:00Z","received_at":"2024-03-01T12:00:02Z","revision":0,"assignment_version":0}`},
		{mesh.AnalyticsJoined, "readings", "iot_analytics.readings", reading + `,"building":"B","floor":"1","room":"1.01","persons":30,` +
			`"outside_co2":420.5,"customer_name":"School","last_action":"window_opened","last_action_at":"2024-03-01T11:58:00.000001Z","minutes_since_action":2,"join_version":12}`},
		{mesh.AnalyticsJoined, "readings", "iot_analytics.readings", reading + `,"join_version":12}`},
		{mesh.PlacementsChanged, "placements", "iot_metadata_internal.placements", `{"device_id":"d1","tenant_id":"tenant-a","building":"B","floor":"1","room":"1.01",` +
			`"persons":30,"outside_co2":420.5,"valid_from":"2024-01-01T00:00:00Z","valid_to":"2024-03-01T00:00:00Z","version":3,"deleted":true}`},
		{mesh.PlacementsChanged, "placements", "iot_metadata.placements",
			`{"device_id":"d1","tenant_id":"tenant-a","valid_from":"2024-01-01T00:00:00Z","version":3}`},
		{mesh.ActionsLogged, "actions", "iot_actions.actions", `{"action_id":"a1","tenant_id":"tenant-a","device_id":"d1","building":"B","room":"1.01",` +
			`"action":"window_opened","taken_at":"2024-03-01T12:00:00Z","version":1}`},
		{mesh.CustomersChanged, "customers", "customers.customers",
			`{"customer_id":"tenant-a","name":"School","sector":"school","country":"NL","version":1}`},
		{mesh.AnalyticsWithdrawn, "readings", "iot_analytics_internal.readings",
			`{"reading_id":"r4","device_id":"d2","metric":"state","value_string":"on","observed_at":"2024-03-01T12:00:00Z",` +
				`"received_at":"2024-03-01T12:00:02Z","revision":0,"assignment_version":8,"join_version":12,"deleted":true}`},
		{mesh.PlacementsRejected, "rows", "iot_metadata_internal.rejected_rows",
			`{"sheet":"s.csv","row":7,"column":"valid_from","reason":"no date","severity":"error","version":2,"deleted":false}`},
		{mesh.ActionsRejected, "rows", "iot_actions_internal.rejected_rows",
			`{"sheet":"s.csv","row":0,"column":"","reason":"no header","severity":"error","version":2,"deleted":true}`},
		{mesh.CustomersRejected, "rows", "customers.rejected_rows",
			`{"sheet":"https://crm","row":1,"column":"","reason":"no customer","severity":"warning","version":2}`},
		{mesh.TelemetryRejected, "rejected", "iot_telemetry_internal.rejected", `{"cause":"no value","reader":"json","position":0,"readings":3,"id":"m1","source":"/devices","device_id":"d1",` +
			`"format":"json","content_type":"application/json","attributes":{"a":"b"},"received_at":"2024-03-01T12:00:02Z","payload":{"x":1}}`},
		{mesh.TelemetryRejected, "rejected", "iot_telemetry_internal.rejected", `{"cause":"no JSON","id":"m2","source":"/devices",` +
			`"received_at":"2024-03-01T12:00:02Z","payload_base64":"/wA="}`},
	} {
		t.Run(test.eventType, func(t *testing.T) {
			db := duckdbtest.Open(t)
			in := mesh.NewEvent(test.eventType, "/telemesh/test", fmt.Appendf(nil, `{"%s":[%s]}`, test.member, test.row), "1")
			for range 2 { // a redelivery changes nothing
				if _, err := sink.New(db, sink.Tables{}, nil)(t.Context(), in); err != nil {
					t.Fatal(err)
				}
			}
			var want map[string]any
			if err := json.Unmarshal([]byte(test.row), &want); err != nil {
				t.Fatal(err)
			}
			if test.eventType == mesh.TelemetryRejected {
				want["message_id"] = want["id"]
				delete(want, "id")
				want["payload_base64"] = want["payload"] == nil
				if want["payload"] = `{"x":1}`; want["payload_base64"] == true {
					want["payload"] = "/wA="
				}
				want["event_source"], want["event_id"] = in.Source(), in.ID()
			}
			if strings.HasSuffix(test.table, "rejected_rows") { // ROW and COLUMN are words of SQL
				want["row_number"], want["column_name"] = want["row"], want["column"]
				delete(want, "row")
				delete(want, "column")
			}
			rows := all(t, db, "SELECT * FROM "+test.table)
			if len(rows) != 1 {
				t.Fatalf("%d rows, want 1", len(rows))
			}
			delete(rows[0], contract.RecordedAt)
			if diff := cmp.Diff(want, rows[0]); diff != "" {
				t.Errorf("row differs from the event's: (-want +got)\n%s", diff)
			}
		})
	}
}

// Whatever bytes a device sent, they are in the table, and so are the rejections
// of the same bytes received at another instant or with other attributes.
func TestRejectedBytesSurvive(t *testing.T) {
	var every []byte
	for i := range 256 {
		every = append(every, byte(i))
	}
	payloads := []string{
		string(every), "", "\x00", "a\x00b", "\xff", "{\"a\":\"\xff\"}", " {\"a\" : 1.0}\r\n", "\ufeff{}", `"\ud800"`, `"\u0000"`, "'; --", "日本\n\u2028",
		strings.Repeat("[", 20_000), "bnVsbA==", strings.Repeat("x", 1<<20),
	}
	var rejections []mesh.Rejection
	for i, payload := range payloads {
		rejections = append(rejections, mesh.Rejection{Cause: "x", Message: mesh.Message{
			ID: fmt.Sprint(i), Source: "/devices", ReceivedAt: mesh.Instant(i), Payload: []byte(payload),
		}})
	}
	same := rejections[1]
	same.ReceivedAt++
	other := rejections[1]
	other.Attributes = map[string]string{"topic": "a\x00"}
	rejections = append(rejections, same, other)

	db := duckdbtest.Open(t)
	served := httptest.NewServer(remote.Handler(db, ""))
	defer served.Close()
	handle := sink.New(remote.Open(served.URL, nil, ""), sink.Tables{}, nil)
	for range 2 {
		in := mesh.NewEvent(mesh.TelemetryRejected, "/s", mesh.EncodeRejections(rejections), "1")
		if _, err := handle(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	for name, w := range map[string]warehouse.Warehouse{"here": db, "remote": remote.Open(served.URL, nil, "")} {
		rows := all(t, w, "FROM iot_telemetry_internal.rejected SELECT payload, payload_base64, attributes ORDER BY message_id::BIGINT, attributes NULLS FIRST, received_at")
		if len(rows) != len(rejections) {
			t.Fatalf("%s: %d rows, want %d", name, len(rows), len(rejections))
		}
		at := 0
		for i, payload := range payloads {
			times := 1
			if i == 1 {
				times = 3
			}
			for range times {
				got := rows[at]["payload"].(string)
				if rows[at]["payload_base64"] == true {
					b, err := base64.StdEncoding.DecodeString(got)
					if err != nil {
						t.Fatal(err)
					}
					got = string(b)
				}
				if got != payload {
					t.Errorf("%s: payload %.100q, want %.100q", name, got, payload)
				}
				at++
			}
		}
		if diff := cmp.Diff(map[string]any{"topic": "a\x00"}, rows[3]["attributes"]); diff != "" {
			t.Errorf("%s: attributes (-want +got):\n%s", name, diff)
		}
	}
}

func TestWhatIsPermanent(t *testing.T) {
	db := duckdbtest.Open(t)
	handle := sink.New(db, sink.Tables{}, nil)
	for name, in := range map[string]event.Event{
		"type":    mesh.NewEvent(mesh.TelemetryReceived, "/s", []byte(`{"messages":[]}`), "1"),
		"no JSON": mesh.NewEvent(mesh.TelemetryEnriched, "/s", []byte(`{"readings":[`), "1"),
		"member":  mesh.NewEvent(mesh.PlacementsChanged, "/s", []byte(`{}`), "1"),
		"row":     mesh.NewEvent(mesh.ActionsLogged, "/s", []byte(`{"actions":[{"action_id":"a","action":"x","taken_at":"0000-01-01T00:00:00Z"}]}`), "1"),
		"joined, of nobody": mesh.NewEvent(mesh.AnalyticsJoined, "/s",
			[]byte(`{"readings":[`+strings.Replace(reading, `,"tenant_id":"tenant-a"`, "", 1)+`}]}`), "1"),
		"withdrawn, of a tenant": mesh.NewEvent(mesh.AnalyticsWithdrawn, "/s", []byte(`{"readings":[`+reading+`}]}`), "1"),
		"version":                versioned(mesh.NewEvent(mesh.TelemetryEnriched, "/s", []byte(`{"readings":[`+reading+`}]}`), "1"), -1),
	} {
		if _, err := handle(t.Context(), in); !mesh.IsPermanent(err) {
			t.Errorf("%s: handler = %v, want a permanent error", name, err)
		}
	}
	db.Close()
	in := mesh.NewEvent(mesh.TelemetryEnriched, "/s", []byte(`{"readings":[`+reading+`}]}`), "x")
	if _, err := handle(t.Context(), in); err == nil || mesh.IsPermanent(err) {
		t.Errorf("a closed warehouse: handler = %v, want a passing error", err)
	}
}

func versioned(e event.Event, version int64) event.Event {
	mesh.SetVersion(&e, version)
	return e
}

func instant(t testing.TB, s string) mesh.Instant {
	t.Helper()
	at, err := mesh.ParseInstant(s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// What is recorded is told with all that was ever said of the same rows, and
// with the version of the table that has it first: also when it is sent again,
// and when others recorded more in between.
func TestRecorded(t *testing.T) {
	db := duckdbtest.Open(t)
	handle := sink.New(db, sink.Tables{}, nil)
	from, to := instant(t, "2024-01-01T00:00:00Z"), instant(t, "2024-03-01T00:00:00.000001Z")
	persons, co2 := int64(30), 420.25
	first := mesh.Placement{DeviceID: "it's\\\n\x00", TenantID: "a", Building: "B", Floor: "1", Room: "1.01", Persons: &persons, OutsideCO2: &co2, ValidFrom: from, Version: 1}
	other := mesh.Placement{DeviceID: first.DeviceID, TenantID: "b", ValidFrom: to, Version: 1} // another key of the device
	shortened, deleted := first, first
	shortened.ValidTo, shortened.Version = &to, 2
	deleted.Deleted, deleted.Version = true, 3
	changed := func(id string, p ...mesh.Placement) event.Event {
		return mesh.NewEvent(mesh.PlacementsChanged, "/test", mesh.Encode(mesh.Placements{Placements: p}), id)
	}
	for _, test := range []struct {
		in      event.Event
		version int64
		want    []mesh.Placement
	}{
		{changed("1", first), 1, []mesh.Placement{first}},
		{changed("2", other), 2, []mesh.Placement{other}},
		{changed("3", shortened), 3, []mesh.Placement{first, shortened}},
		{changed("3", shortened), 3, []mesh.Placement{first, shortened}},                      // delivered again
		{changed("4", first), 1, []mesh.Placement{first, shortened}},                          // sent again in another event
		{changed("5", deleted, other), 2, []mesh.Placement{first, shortened, deleted, other}}, // other was recorded second
		{changed("6", deleted), 4, []mesh.Placement{first, shortened, deleted}},
	} {
		out, err := handle(t.Context(), test.in)
		if err != nil || len(out) != 1 {
			t.Fatalf("handler = %v, %v, want an event", out, err)
		}
		got, err := mesh.Decode[mesh.Placements](out[0].Data())
		if err != nil {
			t.Fatal(err)
		}
		version, err := mesh.Version(out[0])
		if diff := cmp.Diff(test.want, got.Placements); diff != "" || out[0].Type() != mesh.PlacementsRecorded || version != test.version || err != nil {
			t.Errorf("event %s of version %d, want %s of %d; placements (-want +got):\n%s", out[0].Type(), version, mesh.PlacementsRecorded, test.version, diff)
		}
		if err := out[0].Validate(); err != nil {
			t.Error(err)
		}
	}

	action := mesh.Action{ActionID: "x", TenantID: "a", DeviceID: "d", Building: "B", Room: "1", Action: "window_opened", TakenAt: from, Version: 1, Deleted: true}
	customer := mesh.Customer{CustomerID: "a", Name: "School", Sector: "school", Country: "NL", Version: 1, Deleted: true}
	for recorded, in := range map[string]event.Event{
		mesh.ActionsRecorded:   mesh.NewEvent(mesh.ActionsLogged, "/test", mesh.Encode(mesh.Actions{Actions: []mesh.Action{action}}), "1"),
		mesh.CustomersRecorded: mesh.NewEvent(mesh.CustomersChanged, "/test", mesh.Encode(mesh.Customers{Customers: []mesh.Customer{customer}}), "1"),
	} {
		out, err := handle(t.Context(), in)
		if err != nil || len(out) != 1 {
			t.Fatalf("%s: handler = %v, %v, want an event", in.Type(), out, err)
		}
		if version, err := mesh.Version(out[0]); out[0].Type() != recorded || string(out[0].Data()) != string(in.Data()) || version != 1 || err != nil {
			t.Errorf("%s: event %s of version %d, want %s of 1 with %s, got %s", in.Type(), out[0].Type(), version, recorded, in.Data(), out[0].Data())
		}
	}

	for _, nothing := range []event.Event{
		mesh.NewEvent(mesh.PlacementsChanged, "/test", []byte(`{"placements":[]}`), "none"),
		mesh.NewEvent(mesh.PlacementsRejected, "/test", mesh.Encode(mesh.RejectedRows{Rows: []mesh.RejectedRow{{Sheet: "s", Reason: "r", Severity: mesh.SeverityError}}}), "1"),
	} {
		if out, err := handle(t.Context(), nothing); err != nil || len(out) != 0 {
			t.Errorf("%s: handler = %v, %v, want nothing", nothing.Type(), out, err)
		}
	}
}

// More rows than a statement asks for are told in one event, too.
func TestRecordedMany(t *testing.T) {
	var data mesh.Actions
	for i := range 2500 {
		data.Actions = append(data.Actions, mesh.Action{ActionID: fmt.Sprintf("%05d", i), Action: "a", Version: 1})
	}
	in := mesh.NewEvent(mesh.ActionsLogged, "/test", mesh.Encode(data), "1")
	out, err := sink.New(duckdbtest.Open(t), sink.Tables{}, nil)(t.Context(), in)
	if err != nil || len(out) != 1 {
		t.Fatalf("handler = %v, %v, want an event", out, err)
	}
	if version, _ := mesh.Version(out[0]); string(out[0].Data()) != string(in.Data()) || version != 2500 {
		t.Errorf("event of version %d, want 2500 and the actions that were sent", version)
	}
}

// Readings that were made with less than is recorded when they are stored are
// told of; those that were made with all of it are not.
func TestOutdated(t *testing.T) {
	db := duckdbtest.Open(t)
	handle := sink.New(db, sink.Tables{}, nil)
	move := func(version int64) {
		t.Helper()
		in := mesh.NewEvent(mesh.PlacementsChanged, "/test", mesh.Encode(mesh.Placements{Placements: []mesh.Placement{
			{DeviceID: "d1", TenantID: "tenant-a", ValidFrom: 1, Version: version}}}), fmt.Sprint("move", version))
		if _, err := handle(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, test := range []struct{ eventType, row, outdated string }{
		{mesh.TelemetryEnriched, reading + "}", mesh.TelemetryOutdated},
		{mesh.TelemetryUnassigned, strings.Replace(reading, `,"tenant_id":"tenant-a"`, "", 1) + "}", mesh.TelemetryOutdated},
		{mesh.AnalyticsJoined, reading + "}", mesh.AnalyticsOutdated},
		{mesh.AnalyticsWithdrawn, strings.Replace(reading, `,"tenant_id":"tenant-a"`, "", 1) + "}", mesh.AnalyticsOutdated},
	} {
		n++
		move(int64(n))
		var before string
		for _, known := range []int{n, n - 1, n - 1, n + 1} { // the third is a redelivery
			in := mesh.NewEvent(test.eventType, "/s", []byte(`{"readings":[`+test.row+`]}`), test.eventType, fmt.Sprint(known))
			in.SetExtension(mesh.ExtPartitionKey, "d1")
			if known > 0 {
				mesh.SetVersion(&in, int64(known))
			}
			out, err := handle(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if known >= n {
				if len(out) != 0 {
					t.Errorf("%s made with version %d of %d: %v, want nothing", test.eventType, known, n, out)
				}
				continue
			}
			if len(out) != 1 {
				t.Fatalf("%s made with version %d of %d: %d events, want one", test.eventType, known, n, len(out))
			}
			version, err := mesh.Version(out[0])
			if out[0].Type() != test.outdated || string(out[0].Data()) != string(in.Data()) || version != int64(known) || err != nil ||
				out[0].Extensions()[mesh.ExtPartitionKey] != "d1" {
				t.Errorf("%s made with version %d of %d: %v, want %s with the same data and extensions", test.eventType, known, n, out[0], test.outdated)
			}
			if before != "" && before != out[0].ID() {
				t.Error("a redelivery made another event")
			}
			before = out[0].ID()
		}
	}
}

// A bad row does not keep the others from being stored, and is the dead letter
// sink's. If the others are outdated that is told as well.
func TestBadRow(t *testing.T) {
	db := duckdbtest.Open(t)
	var posted []event.Event
	var away error
	handle := sink.New(db, sink.Tables{}, func(_ context.Context, e event.Event) error {
		posted = append(posted, e)
		return away
	})
	move := mesh.NewEvent(mesh.PlacementsChanged, "/test", mesh.Encode(mesh.Placements{Placements: []mesh.Placement{
		{DeviceID: "d1", TenantID: "tenant-a", ValidFrom: 1, Version: 1}}}), "move")
	if _, err := handle(t.Context(), move); err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(reading, "2024-03-01T12:00:00.000001Z", "0000-01-01T00:00:00Z", 1)
	in := mesh.NewEvent(mesh.TelemetryEnriched, "/s", []byte(`{"readings":[`+bad+"},"+reading+`}]}`), "1")
	refused := func(what string, in event.Event, outdated int) {
		t.Helper()
		posted = nil
		out, err := handle(t.Context(), in)
		if !mesh.IsPermanent(err) || len(out) != 0 || !strings.Contains(err.Error(), "row 0: column observed_at") {
			t.Errorf("%s: handler = %v, %v, want a permanent error that names row 0 and observed_at", what, out, err)
		}
		if len(posted) != outdated {
			t.Errorf("%s: %d events posted, want %d", what, len(posted), outdated)
		}
	}
	refused("made with all that is recorded", versioned(in.Clone(), 1), 0)
	refused("made with less than is recorded", in, 1)
	if first := posted[0]; first.Type() != mesh.TelemetryOutdated || string(first.Data()) != string(in.Data()) {
		t.Errorf("posted %v, want %s with the same data", first, mesh.TelemetryOutdated)
	} else if refused("delivered again", in, 1); posted[0].ID() != first.ID() {
		t.Error("a redelivery posted another event")
	}
	away = errors.New("the Broker is away")
	if _, err := handle(t.Context(), in); err != away {
		t.Errorf("with the Broker away: handler = %v, want %v, so that the event comes again", err, away)
	}
	if rows := all(t, db, "SELECT reading_id FROM iot_telemetry_internal.readings"); len(rows) != 1 {
		t.Errorf("%d rows are stored, want the good one", len(rows))
	}
}

func TestStart(t *testing.T) {
	ports := function.Ports{Client: http.DefaultClient, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	t.Setenv("WAREHOUSE_URL", "")
	if _, err := sink.Start(ports); err == nil || !strings.Contains(err.Error(), "WAREHOUSE_URL") {
		t.Errorf("Start() without a warehouse = %v, want an error that names WAREHOUSE_URL", err)
	}

	// The warehouse comes up after the function.
	db := duckdbtest.Open(t)
	var up http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if up == nil {
			http.Error(w, "not yet", http.StatusBadGateway)
			return
		}
		up.ServeHTTP(w, r)
	}))
	defer server.Close()
	t.Setenv("WAREHOUSE_URL", server.URL)
	t.Setenv("WAREHOUSE_TOKEN", "secret")
	fn, err := sink.Start(ports)
	if err != nil {
		t.Fatal(err)
	}
	in := mesh.NewEvent(mesh.TelemetryEnriched, "/s", []byte(`{"readings":[`+reading+`}]}`), "x")
	if _, err := fn.Handler(t.Context(), in); err == nil || mesh.IsPermanent(err) {
		t.Errorf("handler = %v, want a passing error", err)
	}
	up = remote.Handler(db, "secret")
	if _, err := fn.Handler(t.Context(), in); err != nil {
		t.Errorf("handler = %v", err)
	}
	if rows := all(t, db, "SELECT * FROM iot_telemetry.readings"); len(rows) != 1 {
		t.Errorf("%d rows, want 1", len(rows))
	}
}

// discard reads the cells of the rows, as any warehouse does.
type discard struct{ warehouse.Warehouse }

func (discard) Append(_ context.Context, batch warehouse.Batch) (int64, error) {
	var cells []warehouse.Cell
	for _, row := range batch.Rows {
		cells = row.Cells(cells[:0])
	}
	if len(cells) == 0 {
		return 0, errors.New("no cells")
	}
	return 0, nil
}

func BenchmarkSink(b *testing.B) {
	readings := make([]mesh.Reading, 500)
	handle := sink.New(discard{}, sink.Tables{}, nil)
	for i := range readings {
		readings[i] = mesh.Reading{DeviceID: "office-0001/bme680", Metric: "co2", Value: float64(i), Unit: "ppm", TenantID: "tenant-a",
			ObservedAt: mesh.Instant(i), ReceivedAt: mesh.Instant(i), EventSource: "/devices", EventID: "m", AssignmentVersion: 1}
		readings[i].ReadingID = mesh.ReadingID("office-0001/bme680", "co2", mesh.Instant(i))
	}
	in := mesh.NewEvent(mesh.TelemetryEnriched, "/s", mesh.EncodeReadings(readings), "x")
	b.SetBytes(int64(len(in.Data())))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := handle(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(readings)), "ns/reading")
}
