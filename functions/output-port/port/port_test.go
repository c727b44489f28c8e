package port_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/output-port/port"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

func start(t *testing.T, table string, w warehouse.Warehouse) http.Handler {
	t.Helper()
	t.Setenv("TABLES", table)
	fn, err := port.Start(function.Ports{Warehouse: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	_, name, _ := strings.Cut(table, ".")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/" + name
		fn.HTTP.ServeHTTP(w, r)
	})
}

func get(h http.Handler, method string, header ...string) *http.Response {
	r := httptest.NewRequest(method, "/", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func store[T mesh.Placements | mesh.Actions | mesh.Customers](t *testing.T, w warehouse.Warehouse, eventType, id string, data T) {
	t.Helper()
	if _, err := sink.New(w, sink.Tables{}, nil)(t.Context(), mesh.NewEvent(eventType, "/test", mesh.Encode(data), id)); err != nil {
		t.Fatal(err)
	}
}

// read decodes the rows as a reader of the port does.
func read[Row any](t *testing.T, body io.Reader) []Row {
	t.Helper()
	var rows []Row
	lines := json.NewDecoder(body)
	lines.DisallowUnknownFields()
	for {
		var row Row
		if err := lines.Decode(&row); err == io.EOF {
			return rows
		} else if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
}

func pointer[T any](v T) *T { return &v }

func TestRowsAreWhatWasSent(t *testing.T) {
	db := duckdbtest.Open(t)
	placements := []mesh.Placement{
		{DeviceID: "d1", TenantID: "a", Building: "B \"1\"", Floor: "0", Room: "r<1>", Persons: pointer[int64](30), OutsideCO2: pointer(420.25),
			ValidFrom: 0, ValidTo: pointer[mesh.Instant](1_700_000_000_000_001), Version: 1},
		{DeviceID: "d1", TenantID: "b", ValidFrom: 1_700_000_000_000_001, Version: 1},
		{DeviceID: "d2", TenantID: "a", ValidFrom: 0, Version: 2},
	}
	gone := mesh.Placement{DeviceID: "d3", TenantID: "a", Version: 5, Deleted: true}
	store(t, db, mesh.PlacementsChanged, "1", mesh.Placements{Placements: append([]mesh.Placement{placements[2], gone}, placements[:2]...)})
	customers := []mesh.Customer{{CustomerID: "a", Name: "空", Sector: "school", Country: "NL", Version: 1}, {CustomerID: "b", Name: "B", Version: 9}}
	store(t, db, mesh.CustomersChanged, "1", mesh.Customers{Customers: customers})

	response := get(start(t, "iot_metadata.placements", db), http.MethodGet)
	if response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
	if diff := cmp.Diff(placements, read[mesh.Placement](t, response.Body)); diff != "" {
		t.Errorf("placements: (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(customers, read[mesh.Customer](t, get(start(t, "customers.customers", db), http.MethodGet).Body)); diff != "" {
		t.Errorf("customers: (-want +got)\n%s", diff)
	}
	action := mesh.Action{ActionID: "1", TenantID: "a", Building: "B", Room: "1", Action: "window_opened", TakenAt: 7, Version: 1}
	store(t, db, mesh.ActionsLogged, "1", mesh.Actions{Actions: []mesh.Action{action}})
	// The port shows recorded_at, which mesh.Action does not take.
	type row struct {
		mesh.Action
		RecordedAt mesh.Instant `json:"recorded_at"`
	}
	got := read[row](t, get(start(t, "iot_actions.actions", db), http.MethodGet).Body)
	if len(got) != 1 || got[0].RecordedAt == 0 || got[0].Action != action {
		t.Errorf("actions = %+v, want %+v and when it was recorded", got, action)
	}
}

func TestETag(t *testing.T) {
	db := duckdbtest.Open(t)
	h := start(t, "customers.customers", db)
	tags := map[string]bool{}
	// Each change, whatever it is, gives another tag: also one that leaves the
	// number of rows and the greatest version as they were.
	for i, c := range []mesh.Customer{
		{},
		{CustomerID: "a", Name: "A", Version: 5},
		{CustomerID: "b", Name: "B", Version: 1},
		{CustomerID: "b", Name: "Bee", Version: 2},
		{CustomerID: "b", Name: "Bee", Version: 3, Deleted: true},
	} {
		if c.CustomerID != "" {
			store(t, db, mesh.CustomersChanged, c.Name+string(rune('0'+c.Version)), mesh.Customers{Customers: []mesh.Customer{c}})
		}
		response := get(h, http.MethodGet)
		tag := response.Header.Get("ETag")
		if response.StatusCode != http.StatusOK || !strings.HasPrefix(tag, `"`) || tags[tag] {
			t.Fatalf("step %d: %s, ETag %s, want 200 and a strong tag that is new", i, response.Status, tag)
		}
		for old := range tags {
			if again := get(h, http.MethodGet, "If-None-Match", old); again.StatusCode != http.StatusOK {
				t.Errorf("step %d: If-None-Match of an old tag gives %s", i, again.Status)
			}
		}
		tags[tag] = true
		for _, header := range []string{tag, `"x", W/` + tag, "*"} {
			again := get(h, http.MethodGet, "If-None-Match", header)
			if body, _ := io.ReadAll(again.Body); again.StatusCode != http.StatusNotModified || len(body) > 0 || again.Header.Get("ETag") != tag {
				t.Errorf("step %d: If-None-Match %s: %s, ETag %s, %d bytes; want 304, %s, 0", i, header, again.Status, again.Header.Get("ETag"), len(body), tag)
			}
		}
	}
	// What was stored before is no change.
	store(t, db, mesh.CustomersChanged, "again", mesh.Customers{Customers: []mesh.Customer{{CustomerID: "a", Name: "A", Version: 5}}})
	if tag := get(h, http.MethodGet).Header.Get("ETag"); !tags[tag] {
		t.Errorf("ETag %s after a row that was there, want one of %v", tag, tags)
	}
}

func TestEncodings(t *testing.T) {
	db := duckdbtest.Open(t)
	store(t, db, mesh.CustomersChanged, "1", mesh.Customers{Customers: []mesh.Customer{{CustomerID: "a", Name: "A", Version: 5}}})
	h := start(t, "customers.customers", db)
	plain := get(h, http.MethodGet)
	text, err := io.ReadAll(plain.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, accept := range []string{"gzip", "br, gzip;q=0.5"} {
		zipped := get(h, http.MethodGet, "Accept-Encoding", accept)
		if zipped.Header.Get("Content-Encoding") != "gzip" || zipped.Header.Get("ETag") == plain.Header.Get("ETag") {
			t.Fatalf("Accept-Encoding %s: encoding %q and tag %s, want gzip and another tag than %s",
				accept, zipped.Header.Get("Content-Encoding"), zipped.Header.Get("ETag"), plain.Header.Get("ETag"))
		}
		z, err := gzip.NewReader(zipped.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(z); err != nil || string(got) != string(text) {
			t.Errorf("gzip = %q, %v, want %q", got, err, text)
		}
		if again := get(h, http.MethodGet, "If-None-Match", zipped.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("the tag of the zipped answer gives %s, want 304", again.Status)
		}
	}
	if r := get(h, http.MethodGet, "Accept-Encoding", "gzip;q=0"); r.Header.Get("Content-Encoding") != "" {
		t.Error("gzip is served to who refuses it")
	}
	head := get(h, http.MethodHead)
	if body, _ := io.ReadAll(head.Body); head.StatusCode != http.StatusOK || len(body) > 0 ||
		head.Header.Get("ETag") != plain.Header.Get("ETag") || head.Header.Get("Content-Length") != plain.Header.Get("Content-Length") {
		t.Errorf("HEAD: %s, %v, %d bytes; want what GET has but no body", head.Status, head.Header, len(body))
	}
	if r := get(h, http.MethodPost); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s, want 405", r.Status)
	}
}

func TestWarehouseAway(t *testing.T) {
	db := duckdbtest.Open(t)
	h := start(t, "customers.customers", db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	response := get(h, http.MethodGet)
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("%s, Retry-After %q, want 503 and a time", response.Status, response.Header.Get("Retry-After"))
	}
}

func TestStartNamesWhatIsWrong(t *testing.T) {
	for _, table := range []string{"", "iot_metadata.nothing", "iot_telemetry_internal.rejected", "iot_metadata.placements,iot_metadata.nothing"} {
		t.Setenv("TABLES", table)
		_, err := port.Start(function.Ports{Warehouse: duckdbtest.Open(t)})
		if err == nil || !strings.Contains(err.Error(), "TABLES") || table != "" && !strings.Contains(err.Error(), "iot_metadata.placements") {
			t.Errorf("TABLES=%q: Start() = %v, want an error that names TABLES and the output ports", table, err)
		}
	}
}

// between stores rows of another event after the first time that rows were
// read, before the state is asked for again.
type between struct {
	warehouse.Warehouse
	after string // a part of the query
	do    func()
}

func (b *between) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	rows, err := b.Warehouse.Query(ctx, sql)
	if err != nil || b.do == nil || !strings.HasPrefix(sql, b.after) {
		return rows, err
	}
	do := b.do
	b.do = nil
	all := rows.All
	rows.All = func(yield func([]any, error) bool) {
		all(yield)
		do()
	}
	return rows, nil
}

// The headers say what these rows show, also where they change while they are
// read: with a version that is too low a reader acts on the same change twice,
// with one that is too high never.
func TestVersionsAreThoseOfTheRows(t *testing.T) {
	customer := func(id string, version int64, deleted bool) mesh.Customers {
		return mesh.Customers{Customers: []mesh.Customer{{CustomerID: id, Name: id, Version: version, Deleted: deleted}}}
	}
	for _, after := range []string{"nothing", "SELECT COUNT", "SELECT s.n, "} {
		db := duckdbtest.Open(t)
		b := &between{Warehouse: db, after: after}
		h := start(t, "customers.customers", b)
		if r := get(h, http.MethodGet); r.Header.Get(snapshot.VersionHeader) != "0" || r.Header.Get(snapshot.LastRowHeader) != "0" {
			t.Errorf("empty table: %v, want versions 0", r.Header)
		}
		store(t, db, mesh.CustomersChanged, "1", customer("a", 4, false))
		store(t, db, mesh.CustomersChanged, "2", customer("b", 2, false))
		store(t, db, mesh.CustomersChanged, "3", customer("a", 7, true))
		b.do = func() { store(t, db, mesh.CustomersChanged, "4", customer("c", 9, false)) }
		for range 2 {
			r := get(h, http.MethodGet)
			rows := read[mesh.Customer](t, r.Body)
			want := map[int]string{1: "3 7", 2: "4 9"}[len(rows)]
			if got := r.Header.Get(snapshot.VersionHeader) + " " + r.Header.Get(snapshot.LastRowHeader); got != want {
				t.Errorf("change after %q: versions %s of %d rows, want %s", after, got, len(rows), want)
			}
			if again := get(h, http.MethodGet, "If-None-Match", r.Header.Get("ETag")); b.do == nil && len(rows) == 2 &&
				(again.StatusCode != http.StatusNotModified || again.Header.Get(snapshot.VersionHeader) != "4") {
				t.Errorf("change after %q: If-None-Match gives %s, version %s, want 304 and 4", after, again.Status, again.Header.Get(snapshot.VersionHeader))
			}
		}
		if after != "nothing" && b.do != nil {
			t.Errorf("no query %q", after)
		}
	}
}

func TestTablesByPath(t *testing.T) {
	t.Setenv("TABLES", "customers.customers, customers.rejected_rows")
	fn, err := port.Start(function.Ports{Warehouse: duckdbtest.Open(t), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/customers": http.StatusOK, "/rejected_rows": http.StatusOK, "/": http.StatusOK,
		"/actions": http.StatusNotFound, "/customers/": http.StatusNotFound} {
		w := httptest.NewRecorder()
		fn.HTTP.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want || w.Code == http.StatusNotFound && !strings.Contains(w.Body.String(), "/customers, /rejected_rows") {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
		}
		if path == "/" {
			want := `{"tables":[{"path":"/customers","table":"customers.customers"},{"path":"/rejected_rows","table":"customers.rejected_rows"}]}` + "\n"
			if w.Body.String() != want {
				t.Errorf("/: %s, want %s", w.Body, want)
			}
		}
	}
}

// Beside the tables of a product are its descriptor and its contracts.
func TestDocumentsOfTheProduct(t *testing.T) {
	t.Setenv("TABLES", "iot_metadata.placements,iot_metadata.rejected_rows")
	f, err := port.Start(function.Ports{Warehouse: duckdbtest.Open(t), Log: slog.New(slog.DiscardHandler), Client: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/.well-known/data-product":                      "id: iot-metadata\n",
		"/.well-known/data-product/contracts/placements": "id: iot-metadata.placements\n",
		"/": `{"path":"/placements","table":"iot_metadata.placements"}`,
	} {
		w := httptest.NewRecorder()
		f.HTTP.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %.200s, want %s", path, w.Code, w.Body, want)
		}
	}
	for _, path := range []string{"/.well-known/data-product/contracts/readings", "/readings"} {
		w := httptest.NewRecorder()
		f.HTTP.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, w.Code)
		}
	}
}
