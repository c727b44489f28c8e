package port_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/assignment-port/port"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
	"github.com/telemesh/telemesh/internal/tenancy"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

// counted counts the queries of a warehouse, those of them that read rows, and
// those that read all.
type counted struct {
	warehouse.Warehouse
	queries, reads, whole atomic.Int64
}

func (c *counted) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	c.queries.Add(1)
	if strings.Contains(sql, "tenant_id") {
		c.reads.Add(1)
		if !strings.Contains(sql, "device_id IN") {
			c.whole.Add(1)
		}
	}
	return c.Warehouse.Query(ctx, sql)
}

func open(t *testing.T) *counted {
	t.Helper()
	db := duckdbtest.Open(t)
	return &counted{Warehouse: db}
}

func start(t *testing.T, w warehouse.Warehouse) http.Handler {
	t.Helper()
	fn, err := port.Start(function.Ports{Warehouse: w, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return fn.HTTP
}

func get(h http.Handler, method, target string, header ...string) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	from := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		from = z
	}
	b, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var events atomic.Int64

func store(t *testing.T, w warehouse.Warehouse, rows ...mesh.Placement) {
	t.Helper()
	e := mesh.NewEvent(mesh.PlacementsChanged, "/test", mesh.Encode(mesh.Placements{Placements: rows}), fmt.Sprint(events.Add(1)))
	if _, err := sink.New(w, sink.Tables{}, nil)(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

func until(t mesh.Instant) *mesh.Instant { return &t }

// moved is a device of a school, then of nobody, then of an office.
func moved(device string) []mesh.Placement {
	return []mesh.Placement{
		{DeviceID: device, TenantID: "school", ValidFrom: 10e6, ValidTo: until(20e6), Version: 1},
		{DeviceID: device, TenantID: "office", ValidFrom: 30e6, Version: 2},
	}
}

func TestWhoHeldIt(t *testing.T) {
	w := open(t)
	h := start(t, w)
	store(t, w, moved("d")...)
	gone := moved("d")[1]
	gone.Version, gone.Deleted = 3, true
	store(t, w, gone)
	for at, want := range map[string]string{
		"1970-01-01T00:00:09.999999Z":      `{"device_id":"d","at":"1970-01-01T00:00:09.999999Z","tenant_id":null,"version":0}`,
		"1970-01-01T00:00:10Z":             `{"device_id":"d","at":"1970-01-01T00:00:10Z","tenant_id":"school","version":2}`,
		"1970-01-01T00:00:19.9999999Z":     `{"device_id":"d","at":"1970-01-01T00:00:19.999999Z","tenant_id":"school","version":2}`,
		"1970-01-01T00:00:20Z":             `{"device_id":"d","at":"1970-01-01T00:00:20Z","tenant_id":null,"version":0}`,
		"1970-01-01T01:00:30%2B01:00":      `{"device_id":"d","at":"1970-01-01T00:00:30Z","tenant_id":null,"version":3}`,
		"1969-12-31T19:00:10.000001-05:00": `{"device_id":"d","at":"1970-01-01T00:00:10.000001Z","tenant_id":"school","version":2}`,
	} {
		r := get(h, http.MethodGet, "/assignments/d?at="+at)
		if got := strings.TrimSpace(body(t, r)); r.StatusCode != http.StatusOK || got != want || r.Header.Get(snapshot.VersionHeader) != "3" {
			t.Errorf("at=%s: %s, version %s\n got %s\nwant %s", at, r.Status, r.Header.Get(snapshot.VersionHeader), got, want)
		}
	}
	lines := `{"device_id":"d","tenant_id":"school","valid_from":"1970-01-01T00:00:10Z","valid_to":"1970-01-01T00:00:20Z","version":2}
{"device_id":"d","valid_from":"1970-01-01T00:00:30Z","version":3}
`
	if got := body(t, get(h, http.MethodGet, "/assignments")); got != lines {
		t.Errorf("GET /assignments:\n%s\nwant\n%s", got, lines)
	}
	want := `{"device_id":"d","assignments":[` + strings.ReplaceAll(strings.TrimSpace(lines), "\n", ",") + "]}\n"
	if got := body(t, get(h, http.MethodGet, "/assignments/d")); got != want {
		t.Errorf("GET /assignments/d:\n%s\nwant\n%s", got, want)
	}
}

func TestNamesOfDevices(t *testing.T) {
	w := open(t)
	h := start(t, w)
	for escaped, device := range map[string]string{
		"925038/CO2-meter":     "925038/CO2-meter",
		"925038%2FCO2-meter":   "925038/CO2-meter",
		"a%20b%3Fc%25":         "a b?c%",
		"%E7%A9%BA":            "空",
		"//x/../y":             "//x/../y",
		"70b3d57ed0%3A01?at=x": "",
	} {
		if device != "" {
			store(t, w, mesh.Placement{DeviceID: device, TenantID: "a", Version: 1})
		}
		r := get(h, http.MethodGet, "/assignments/"+escaped)
		var got port.Device
		if device == "" {
			if r.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %s, want 400", escaped, r.Status)
			}
		} else if err := json.Unmarshal([]byte(body(t, r)), &got); err != nil || got.DeviceID != device || len(got.Assignments) != 1 {
			t.Errorf("%s: %s, %+v, %v, want device %q", escaped, r.Status, got, err, device)
		}
	}
}

func TestUnchangedCostsOneQuery(t *testing.T) {
	w := open(t)
	h := start(t, w)
	store(t, w, moved("d")...)
	tag := get(h, http.MethodGet, "/assignments").Header.Get("ETag")
	before := w.queries.Load()
	if r := get(h, http.MethodGet, "/assignments", "If-None-Match", tag); r.StatusCode != http.StatusNotModified || r.Header.Get(snapshot.VersionHeader) != "2" {
		t.Errorf("%s, version %s, want 304 and 2", r.Status, r.Header.Get(snapshot.VersionHeader))
	}
	for _, target := range []string{"/assignments", "/assignments?since=1", "/assignments/d", "/assignments/d?at=2026-01-01T00:00:00Z"} {
		for _, encoding := range []string{"identity", "gzip"} {
			whole := get(h, http.MethodGet, target, "Accept-Encoding", encoding)
			head := get(h, http.MethodHead, target, "Accept-Encoding", encoding)
			if whole.StatusCode != http.StatusOK || (whole.Header.Get("Content-Encoding") == "gzip") != (encoding == "gzip") || body(t, whole) == "" {
				t.Errorf("GET %s %s: %s, encoding %q", target, encoding, whole.Status, whole.Header.Get("Content-Encoding"))
			}
			if head.StatusCode != http.StatusOK || body(t, &http.Response{Body: head.Body}) != "" || head.Header.Get("ETag") != whole.Header.Get("ETag") ||
				(encoding == "identity") != (whole.Header.Get("ETag") == tag) {
				t.Errorf("HEAD %s %s: %s, ETag %s; GET has %s", target, encoding, head.Status, head.Header.Get("ETag"), whole.Header.Get("ETag"))
			}
		}
	}
	if n := w.queries.Load() - before; n != 17 {
		t.Errorf("%d queries for 17 requests of what has not changed", n)
	}
	// What says nothing new of a tenancy is a new version all the same.
	again := moved("d")[0]
	again.Version, again.Room = 3, "R"
	store(t, w, again)
	if r := get(h, http.MethodGet, "/assignments", "If-None-Match", tag); r.StatusCode != http.StatusOK || r.Header.Get(snapshot.VersionHeader) != "3" {
		t.Errorf("after a change: %s, version %s, want 200 and 3", r.Status, r.Header.Get(snapshot.VersionHeader))
	}
	if n := w.whole.Load(); n != 1 {
		t.Errorf("all placements were read %d times, want once: one device has changed since", n)
	}
	if got := body(t, get(h, http.MethodGet, "/assignments?since=2")); got != "" {
		t.Errorf("since=2: %s, want nothing: who held the device has not changed", got)
	}
}

func TestOneCopyForAll(t *testing.T) {
	w := open(t)
	store(t, w, moved("d")...)
	h := start(t, w)
	before := w.reads.Load()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if r := get(h, http.MethodGet, "/assignments"); r.StatusCode != http.StatusOK {
				t.Error(r.Status)
			}
		})
	}
	all.Wait()
	if n := w.reads.Load() - before; n != 1 {
		t.Errorf("placements were read %d times for 20 callers at once, want once", n)
	}
}

// over is a transport to a handler.
type over struct{ http.Handler }

func (o over) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	return w.Result(), nil
}

// A client that follows the changes of a port that follows them too knows what
// one knows that begins anew at a port that begins anew. Who holds a device by
// them is who holds it by the rows that iot_metadata.placements shows, also
// where rows of a key have the same version: the replay ranks them as the
// warehouse does.
func TestFollowingEqualsAnew(t *testing.T) {
	w := open(t)
	h := start(t, w)
	client := func(h http.Handler) *tenancy.Client {
		return tenancy.NewClient(&http.Client{Transport: over{h}}, "http://port/assignments", 0, slog.New(slog.DiscardHandler))
	}
	follower := client(h)
	all := func(c *tenancy.Client) (lines string, version int64) {
		x, err := c.Fresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		for a := range x.All() {
			b = tenancy.AppendLine(b, &a)
		}
		return string(b), x.Version()
	}
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 60 {
		var rows []mesh.Placement
		for range random.IntN(8) {
			p := mesh.Placement{DeviceID: fmt.Sprint("d\"", random.IntN(10)), TenantID: fmt.Sprint("t", random.IntN(3)),
				Building: []string{"", "A", "B"}[random.IntN(3)], Floor: []string{"", "1"}[random.IntN(2)], Room: []string{"", "R"}[random.IntN(2)],
				ValidFrom: mesh.Instant(random.IntN(3)), Version: int64(random.IntN(3)), Deleted: random.IntN(4) == 0}
			if n := random.Int64N(3); n > 0 {
				p.Persons = &n
			}
			if f := float64(random.IntN(3)); f > 0 {
				p.OutsideCO2 = &f
			}
			if random.IntN(3) > 0 {
				p.ValidTo = until(p.ValidFrom + 1 + mesh.Instant(random.IntN(5)))
			}
			rows = append(rows, p)
		}
		if len(rows) > 0 {
			store(t, w, rows...)
		}
		got, version := all(follower)
		want, same := all(client(start(t, w)))
		if diff := cmp.Diff(want, got); diff != "" || version != same {
			t.Fatalf("step %d: version %d, want %d; assignments (-anew +followed):\n%s", step, version, same, diff)
		}
		x, err := follower.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		shown := map[string][]mesh.Placement{}
		rs, err := w.Query(t.Context(), "SELECT device_id, tenant_id, valid_from, valid_to FROM iot_metadata.placements")
		if err != nil {
			t.Fatal(err)
		}
		for row, err := range rs.All {
			if err != nil {
				t.Fatal(err)
			}
			p := mesh.Placement{DeviceID: row[0].(string), TenantID: row[1].(string), ValidFrom: mesh.At(row[2].(time.Time))}
			if to, ok := row[3].(time.Time); ok {
				p.ValidTo = until(mesh.At(to))
			}
			shown[p.DeviceID] = append(shown[p.DeviceID], p)
		}
		for d := range 10 {
			device := fmt.Sprint("d\"", d)
			for at := range mesh.Instant(10) {
				var covering []string
				for _, p := range shown[device] {
					if p.ValidFrom <= at && (p.ValidTo == nil || at < *p.ValidTo) {
						covering = append(covering, p.TenantID)
					}
				}
				tenant := ""
				if len(covering) == 1 {
					tenant = covering[0]
				}
				if got, _ := x.At(device, at); got != tenant {
					t.Fatalf("step %d: %s at %d is of %q, by the rows shown of %q", step, device, at, got, tenant)
				}
			}
		}
	}
}

// Two rows of a key and a version: the one that is greater in the first column
// that differs counts, whatever stands behind it. The device of a column is held
// where the row counts that is greater there, since the other one is deleted.
func TestTies(t *testing.T) {
	w := open(t)
	h := start(t, w)
	one, two := int64(1), int64(2)
	low, high := 1.0, 2.0
	greater := map[string]func(p *mesh.Placement, greater bool){
		"1 valid_to": func(p *mesh.Placement, g bool) {
			p.ValidTo = map[bool]*mesh.Instant{true: until(20), false: until(19)}[g]
		},
		"2 open":        func(p *mesh.Placement, g bool) { p.ValidTo = map[bool]*mesh.Instant{true: until(20)}[g] },
		"3 tenant":      func(p *mesh.Placement, g bool) { p.TenantID = map[bool]string{true: "b", false: "a"}[g] },
		"4 building":    func(p *mesh.Placement, g bool) { p.Building = map[bool]string{true: "b", false: "a"}[g] },
		"5 floor":       func(p *mesh.Placement, g bool) { p.Floor = map[bool]string{true: "b"}[g] },
		"6 room":        func(p *mesh.Placement, g bool) { p.Room = map[bool]string{true: "b", false: "a"}[g] },
		"7 persons":     func(p *mesh.Placement, g bool) { p.Persons = map[bool]*int64{true: &two, false: &one}[g] },
		"8 outside_co2": func(p *mesh.Placement, g bool) { p.OutsideCO2 = map[bool]*float64{true: &high, false: &low}[g] },
	}
	columns := slices.Sorted(maps.Keys(greater))
	for k, column := range columns {
		counts := mesh.Placement{DeviceID: column, TenantID: "a", ValidTo: until(20), Version: 1}
		other := counts
		other.Deleted = true
		greater[column](&counts, true)
		greater[column](&other, false)
		for _, behind := range columns[k+1:] {
			if behind == "2 open" {
				continue // it is valid_to too
			}
			greater[behind](&counts, false)
			greater[behind](&other, true)
		}
		store(t, w, other, counts)
	}
	deleted := mesh.Placement{DeviceID: "9 deleted", TenantID: "a", Version: 1, Deleted: true}
	kept := deleted
	kept.Deleted = false
	store(t, w, kept, deleted)
	shown := map[string]bool{}
	rows, err := w.Query(t.Context(), "SELECT device_id FROM iot_metadata.placements")
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil {
			t.Fatal(err)
		}
		shown[row[0].(string)] = true
	}
	for _, column := range append(columns, "9 deleted") {
		var got port.Holder
		r := get(h, http.MethodGet, "/assignments/"+url.PathEscape(column)+"?at=1970-01-01T00:00:00.00001Z")
		held := r.StatusCode == http.StatusOK
		if held {
			if err := json.Unmarshal([]byte(body(t, r)), &got); err != nil {
				t.Fatal(err)
			}
			held = got.TenantID != nil
		}
		if want := column != "9 deleted"; held != want || shown[column] != want {
			t.Errorf("%s: held %t, in the table %t, want %t", column, held, shown[column], want)
		}
	}
}

// A table that was made anew is loaded whole, whatever its version.
func TestTableMadeAnew(t *testing.T) {
	var h http.Handler
	client := tenancy.NewClient(&http.Client{Transport: over{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r) })}},
		"http://port/assignments", 0, slog.New(slog.DiscardHandler))
	for rows := range 3 {
		w := open(t)
		h = start(t, w)
		for i := range rows + 1 {
			store(t, w, mesh.Placement{DeviceID: fmt.Sprint("d", rows), TenantID: "a", ValidFrom: mesh.Instant(i), ValidTo: until(mesh.Instant(i + 1)), Version: 1})
		}
		x, err := client.Fresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for d := range 3 {
			if got := len(x.Device(fmt.Sprint("d", d))); (got > 0) != (d == rows) || x.Version() != int64(rows+1) {
				t.Errorf("table %d: version %d, %d assignments of d%d", rows, x.Version(), got, d)
			}
		}
	}
}

func TestWarehouseAway(t *testing.T) {
	w := open(t)
	h := start(t, w)
	store(t, w, moved("d")...)
	get(h, http.MethodGet, "/assignments")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/assignments", "/assignments/d"} {
		r := get(h, http.MethodGet, target)
		if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" || r.Header.Get("ETag") != "" {
			t.Errorf("%s: %s, Retry-After %q, ETag %q, want 503, a time and no tag", target, r.Status, r.Header.Get("Retry-After"), r.Header.Get("ETag"))
		}
	}
}

func TestProblemsSayWhatToWrite(t *testing.T) {
	w := open(t)
	h := start(t, w)
	store(t, w, moved("d")...)
	for target, want := range map[string]struct {
		status int
		says   string
	}{
		"/assignments/d?at=yesterday":                 {http.StatusBadRequest, "2026-03-02T07:30:00Z"},
		"/assignments/d?at=2026-03-02T07:30:00+01:00": {http.StatusBadRequest, "%2B"},
		"/assignments/d?at=":                          {http.StatusBadRequest, "at:"},
		"/assignments?since=-1":                       {http.StatusBadRequest, snapshot.VersionHeader},
		"/assignments?since=":                         {http.StatusBadRequest, snapshot.VersionHeader},
		"/assignments/e":                              {http.StatusNotFound, `device "e"`},
		"/assignments/e?at=2026-03-02T07:30:00Z":      {http.StatusNotFound, `device "e"`},
		"/assignments/":                               {http.StatusNotFound, "/assignments/DEVICE"},
		"/":                                           {http.StatusNotFound, "/openapi.json"},
	} {
		r := get(h, http.MethodGet, target, "Accept-Encoding", "gzip")
		var p struct {
			Title, Detail string
			Status        int
		}
		text := body(t, r)
		if err := json.Unmarshal([]byte(text), &p); err != nil || r.StatusCode != want.status || p.Status != want.status || p.Title == "" ||
			!strings.Contains(p.Detail, want.says) || r.Header.Get("Content-Type") != "application/problem+json" || r.Header.Get("ETag") != "" {
			t.Errorf("%s: %s %v: %s; want %d that says %s", target, r.Status, r.Header, text, want.status, want.says)
		}
	}
}
