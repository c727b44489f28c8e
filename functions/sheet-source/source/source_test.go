package source

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/sheet/sheetstest"
)

// world is what the function stands between.
type world struct {
	google                         *sheetstest.Server
	placements, actions, customers *sheetstest.Port
	source                         *source
	waited                         []time.Duration
	log                            strings.Builder
	ticks                          int
}

// open makes the function as Start does, with the ports given by it.
func open(t *testing.T, config Config) *world {
	t.Helper()
	w := &world{
		google:     sheetstest.New(t),
		placements: sheetstest.NewPort(t, "placements"), actions: sheetstest.NewPort(t, "actions"), customers: sheetstest.NewPort(t, "customers"),
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", w.google.Credentials)
	config.SheetsEndpoint = w.google.URL
	config.PlacementsPort, config.ActionsPort, config.CustomersPort = w.placements.URL, w.actions.URL, w.customers.URL
	var err error
	if w.source, err = newSource(config, http.DefaultClient, slog.New(slog.NewTextHandler(&w.log, nil))); err != nil {
		t.Fatal(err)
	}
	noWait := func(_ context.Context, d time.Duration) error {
		w.waited = append(w.waited, d)
		return nil
	}
	if f := w.source.placements; f != nil {
		if s, ok := f.reader.(*spreadsheet); ok {
			s.client.wait = noWait
		}
	}
	return w
}

func newTick(id int) event.Event {
	return mesh.NewEvent(sheet.Tick, "/apis/v1/namespaces/iot/pingsources/sheets", []byte(`{}`), fmt.Sprint(id))
}

// tick wakes the function, and gives the types of what it replies.
func (w *world) tick(t *testing.T) ([]event.Event, []string, error) {
	t.Helper()
	w.ticks++
	events, err := w.source.handle(t.Context(), newTick(w.ticks))
	var types []string
	for _, e := range events {
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
		if want := mesh.Source("sheet-source"); e.Source() != want {
			t.Errorf("source %s, want %s", e.Source(), want)
		}
		types = append(types, strings.TrimSuffix(strings.TrimPrefix(e.Type(), "dev.telemesh."), ".v1"))
	}
	return events, types, err
}

// replies wakes the function, stores what it replies, and compares the types.
func (w *world) replies(t *testing.T, want ...string) {
	t.Helper()
	events, types, err := w.tick(t)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, types); diff != "" {
		t.Fatalf("replies (-want +got):\n%s", diff)
	}
	w.store(t, events)
}

func (w *world) store(t *testing.T, events []event.Event) {
	t.Helper()
	for _, e := range events {
		if strings.HasPrefix(e.Type(), "dev.telemesh.actions.") {
			w.actions.Store(t, e)
		} else {
			w.placements.Store(t, e)
		}
	}
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

const id = "1AbC-dEf_0"

var header = []any{"valid_from", "device_id", "tenant_id", "room", "valid_to"}

func document(rows ...[]any) sheetstest.Spreadsheet {
	return sheetstest.Spreadsheet{
		Locale: "nl_NL", TimeZone: "Europe/Amsterdam",
		Sheets: []sheetstest.Sheet{{Title: "Chart", Chart: true}, {Title: "It's ours", Values: append([][]any{header}, rows...)}},
	}
}

// The whole way of a sheet: read, changed, put right, a row taken out, nothing
// new.
func TestGoogleSheet(t *testing.T) {
	w := open(t, Config{Placements: "google-sheets:" + id + "/It's ours!A:E"})
	w.google.Put(id, document(
		[]any{46083.354166666664, "d1", "school", 102.0}, // 2026-03-02 08:30
		nil,
		[]any{"3/2/2026 9:00", "d2", "school", "1.03", 46100.0},
		[]any{"gisteren", "d3", "school"},
	))
	w.replies(t, "placements.changed", "placements.rejected")
	same(t, "rows", w.placements.Rows("device_id", "room", "valid_from", "valid_to"),
		"d1 102 2026-03-02T07:30:00Z <nil>", "d2 1.03 2026-02-03T08:00:00Z 2026-03-18T23:00:00Z")
	same(t, "findings", w.placements.Findings(),
		`5 valid_from: "gisteren" is not a time, such as 2026-03-02 08:30 or 2026-03-02T08:30:00+01:00`)
	w.replies(t)

	w.google.Put(id, document(
		[]any{46083.354166666664, "d1", "school", 102.0},
		[]any{46083.0, "d3", "office"},
	))
	w.replies(t, "placements.changed", "placements.rejected")
	same(t, "rows", w.placements.Rows("device_id", "tenant_id"), "d1 school", "d3 office")
	same(t, "findings", w.placements.Findings())
	w.replies(t)
}

// A tick may come before what the last one told is stored. Telling it again
// would store every change several times.
func TestTickBeforeThePortShowsIt(t *testing.T) {
	w := open(t, Config{Placements: "google-sheets:" + id})
	w.google.Put(id, document([]any{46083.0, "d1", "school"}, []any{46083.0, "", "school"}))
	first, types, err := w.tick(t)
	if err != nil || len(types) != 2 {
		t.Fatalf("replies %v, %v, want the row and the finding", types, err)
	}
	w.replies(t)
	// Changed again in between: only that, and above what is on its way.
	w.google.Put(id, document([]any{46083.0, "d1", "office"}, []any{46083.0, "", "school"}))
	second, types, err := w.tick(t)
	if err != nil || !slices.Equal(types, []string{"placements.changed"}) {
		t.Fatalf("replies %v, %v, want the row that changed", types, err)
	}
	w.store(t, append(second, first...)) // late and out of order
	same(t, "rows", w.placements.Rows("device_id", "tenant_id", "version"), "d1 office 2")
	w.replies(t)
}

// What was replied may not have been accepted: the same tick comes again.
func TestTickDeliveredAgain(t *testing.T) {
	w := open(t, Config{Placements: "google-sheets:" + id})
	w.google.Put(id, document([]any{46083.0, "d1", "school"}))
	first, err := w.source.handle(t.Context(), newTick(7))
	if err != nil || len(first) != 1 {
		t.Fatalf("replies %v, %v, want one event", first, err)
	}
	again, err := w.source.handle(t.Context(), newTick(7))
	if err != nil || len(again) != 1 || again[0].ID() != first[0].ID() {
		t.Errorf("the same tick replies %v, %v, want the same event", again, err)
	}
}

func TestOtherEventIsPermanent(t *testing.T) {
	w := open(t, Config{})
	_, err := w.source.handle(t.Context(), mesh.NewEvent(mesh.PlacementsChanged, "/x", []byte(`{}`), "1"))
	if !mesh.IsPermanent(err) || !strings.Contains(err.Error(), sheet.Tick) {
		t.Errorf("handle = %v, want a permanent error that names what it is woken by", err)
	}
}

func TestFullQuotaAndOutageAreWaitedFor(t *testing.T) {
	w := open(t, Config{Placements: "google-sheets:" + id})
	w.google.Put(id, document([]any{46083.0, "d1", "school"}))
	w.google.Fail(sheetstest.Failure{Status: 403}, sheetstest.Failure{Status: 429, RetryAfter: 7}, sheetstest.Failure{Status: 503})
	w.replies(t, "placements.changed")
	if diff := cmp.Diff([]time.Duration{time.Second, 7 * time.Second, 4 * time.Second}, w.waited); diff != "" {
		t.Errorf("waited (-want +got):\n%s", diff)
	}

	for _, failures := range [][]sheetstest.Failure{
		{{Status: 503}, {Status: 503}, {Status: 503}, {Status: 503}, {Status: 503}},
		{{Status: 429, RetryAfter: 60}},
	} {
		w.google.Fail(failures...)
		_, types, err := w.tick(t)
		if err == nil || mesh.IsPermanent(err) || len(types) > 0 {
			t.Errorf("%v: replies %v, %v, want an error that passes", failures, types, err)
		}
	}
	w.replies(t)
	same(t, "rows", w.placements.Rows("device_id"), "d1")
}

// Nothing that keeps a sheet from being read may look as if its rows were gone.
func TestUnreadableSheetKeepsItsRows(t *testing.T) {
	of := document([]any{46083.0, "d1", "school"}, []any{46083.0, "d2", ""})
	private, renamed, misspelled, empty := of, of, document(), of
	private.Private = true
	renamed.Sheets = []sheetstest.Sheet{{Title: "Old", Values: of.Sheets[1].Values}}
	misspelled.Sheets = []sheetstest.Sheet{{Title: "It's ours", Values: [][]any{{"device", "tenant_id", "valid_from"}}}}
	empty.Sheets = []sheetstest.Sheet{{Title: "It's ours"}}
	lost := of
	lost.TimeZone = "Mars/Olympus"
	for name, c := range map[string]struct {
		do   func(w *world)
		want string
	}{
		"not shared":     {func(w *world) { w.google.Put(id, private) }, "status 403: The caller does not have permission: share the spreadsheet with the service account " + sheetstest.Email},
		"renamed":        {func(w *world) { w.google.Put(id, renamed) }, `no sheet "It's ours": there are "Old"`},
		"header":         {func(w *world) { w.google.Put(id, misspelled) }, `row 1: column "device" is not one of device_id, tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to; no column "device_id"`},
		"empty":          {func(w *world) { w.google.Put(id, empty) }, "empty: the first row must name the columns device_id, tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to"},
		"zone":           {func(w *world) { w.google.Put(id, lost) }, "time zone of the spreadsheet: unknown time zone Mars/Olympus"},
		"key is revoked": {func(w *world) { w.google.RevokeKey() }, "status 401: Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential: see to the key of the service account " + sheetstest.Email + " (GOOGLE_APPLICATION_CREDENTIALS)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, Config{Placements: "google-sheets:" + id + "/It's ours"})
			w.google.Put(id, of)
			w.replies(t, "placements.changed", "placements.rejected")
			c.do(w)
			w.replies(t, "placements.rejected")
			same(t, "rows", w.placements.Rows("device_id"), "d1")
			same(t, "findings", w.placements.Findings(), "0 : "+c.want, "3 tenant_id: empty")
			if !strings.Contains(w.log.String(), "level=ERROR") {
				t.Errorf("log %s, want an error", w.log.String())
			}
			w.replies(t) // told once
			if name != "key is revoked" {
				w.google.Put(id, of)
				w.replies(t, "placements.rejected")
				same(t, "findings", w.placements.Findings(), "3 tenant_id: empty")
			}
		})
	}
}

// A key that was worth nothing from the start is refused by who gives tokens.
func TestRefusedKeyIsAFinding(t *testing.T) {
	w := open(t, Config{Placements: "google-sheets:" + id})
	w.google.RevokeKey()
	w.replies(t, "placements.rejected")
	got := w.placements.Findings()
	if len(got) != 1 || !strings.Contains(got[0], "invalid_grant") || !strings.Contains(got[0], "see to the key of the service account "+sheetstest.Email) {
		t.Errorf("findings %q, want one that names invalid_grant and whose key it is", got)
	}
}

func pages(w *world, rows int) { w.source.placements.reader.(*spreadsheet).page = rows }

// A sheet is read in pages: empty rows between, at the end of a page, and a grid
// that ends with the last row.
func TestPages(t *testing.T) {
	for page := 2; page < 12; page++ {
		w := open(t, Config{Placements: "google-sheets:" + id})
		pages(w, page)
		of := document()
		values := [][]any{header}
		var want []string
		for i := range 9 {
			if i == 3 || i == 4 || i == 6 {
				values = append(values, nil)
				continue
			}
			values = append(values, []any{46083.0, fmt.Sprintf("d%d", i), "school", nil, nil})
			want = append(want, fmt.Sprintf("d%d", i))
		}
		of.Sheets[1].Values, of.Sheets[1].Rows = values, 10
		w.google.Put(id, of)
		w.replies(t, "placements.changed")
		same(t, fmt.Sprintf("rows in pages of %d", page), w.placements.Rows("device_id"), want...)
		same(t, "findings", w.placements.Findings())
	}
}

// While a sheet is read page after page somebody takes a row out of the part
// that was read: the row that moves into it must not be missed.
func TestRowsThatMoveWhileTheSheetIsRead(t *testing.T) {
	row := func(i int) []any { return []any{46083.0, fmt.Sprintf("d%d", i), "school"} }
	full := document()
	for i := range 9 {
		full.Sheets[1].Values = append(full.Sheets[1].Values, row(i))
	}
	full.Sheets[1].Rows = 10
	less, more := full, full
	less.Sheets = slices.Clone(full.Sheets)
	less.Sheets[1].Values = slices.Delete(slices.Clone(full.Sheets[1].Values), 1, 2) // without d0
	less.Sheets[1].Rows = 9
	more.Sheets = slices.Clone(full.Sheets)
	more.Sheets[1].Values = slices.Insert(slices.Clone(full.Sheets[1].Values), 1, row(9))
	more.Sheets[1].Rows = 11
	late := full
	late.Sheets = slices.Clone(full.Sheets)
	late.Sheets[1].Values = slices.Insert(slices.Clone(full.Sheets[1].Values), 8, row(9)) // on the last page
	late.Sheets[1].Rows = 11
	few := full
	few.Sheets = slices.Clone(full.Sheets)
	few.Sheets[1].Values = full.Sheets[1].Values[:3]
	few.Sheets[1].Rows = 3
	for name, c := range map[string]struct {
		to   sheetstest.Spreadsheet
		when string // the request before which it happens
		want string
	}{
		"taken out":              {less, "A4:", "d1 d2 d3 d4 d5 d6 d7 d8"},
		"put in":                 {more, "A4:", "d0 d1 d2 d3 d4 d5 d6 d7 d8 d9"},
		"most taken out":         {few, "A4:", "d0 d1"}, // the page begins behind the sheet
		"put in on the last":     {late, "A7:", "d0 d1 d2 d3 d4 d5 d6 d7 d8 d9"},
		"taken out at the start": {less, "A1:", "d1 d2 d3 d4 d5 d6 d7 d8"},
		"put in at the start":    {more, "A1:", "d0 d1 d2 d3 d4 d5 d6 d7 d8 d9"},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, Config{Placements: "google-sheets:" + id})
			pages(w, 4)
			w.google.Put(id, full)
			w.google.Before(func(request string) {
				if strings.Contains(request, c.when) {
					w.google.Before(nil)
					w.google.Put(id, c.to)
				}
			})
			w.replies(t, "placements.changed")
			same(t, "rows", []string{strings.Join(w.placements.Rows("device_id"), " ")}, c.want)
		})
	}
	// Somebody who never stops: the tick is given up, nothing is gone.
	w := open(t, Config{Placements: "google-sheets:" + id})
	pages(w, 4)
	w.google.Put(id, full)
	w.replies(t, "placements.changed")
	n := 0
	w.google.Before(func(string) {
		w.google.Put(id, []sheetstest.Spreadsheet{full, less, more}[n%3])
		n++
	})
	if _, types, err := w.tick(t); err == nil || mesh.IsPermanent(err) || len(types) > 0 {
		t.Errorf("replies %v, %v, want an error that passes", types, err)
	}
}

func TestRanges(t *testing.T) {
	of := document()
	of.Sheets[1].Values = [][]any{{"Placements of 2026"}, nil, append([]any{"notes"}, header...), {"n", 46083.0, "d1", "school", nil, nil, "x"}, {nil, 46083.0, "d2", "school"}}
	for in, want := range map[string][]string{
		"B3:F":   {"d1", "d2"},
		"b3:f4":  {"d1"},
		"B3:4":   nil, // the column behind the header's last
		"B3:F99": {"d1", "d2"},
	} {
		for _, title := range []string{"It's ours", "'It''s ours'"} {
			w := open(t, Config{Placements: "google-sheets:" + id + "/" + title + "!" + in})
			w.google.Put(id, of)
			events, _, err := w.tick(t)
			if err != nil {
				t.Fatal(err)
			}
			w.store(t, events)
			same(t, in, w.placements.Rows("device_id"), want...)
		}
	}
	w := open(t, Config{Placements: "google-sheets:" + id + "/It's ours!A2000:E"})
	w.google.Put(id, of)
	w.replies(t, "placements.rejected")
	same(t, "findings", w.placements.Findings(), "0 : the range is outside of the sheet, which has 1000 rows and 26 columns")
}

func TestConfigurationThatCannotBe(t *testing.T) {
	for want, config := range map[string]Config{
		`PLACEMENTS_SHEET: "google-sheets:my sheet": "my sheet" is not the id`:                                                                                  {Placements: "google-sheets:my sheet"},
		`PLACEMENTS_SHEET: "google-sheets:https://docs.google.com/spreadsheets/d/xY/edit" is the page on which a spreadsheet is edited: write google-sheets:xY`: {Placements: "google-sheets:https://docs.google.com/spreadsheets/d/xY/edit"},
		`ACTIONS_SHEET: "https://docs.google.com/spreadsheets/u/0/d/xY/edit?gid=0#gid=0" is the page on which a spreadsheet is edited: write google-sheets:xY`:  {Actions: "https://docs.google.com/spreadsheets/u/0/d/xY/edit?gid=0#gid=0"},
		`ACTIONS_SHEET: "google-sheets:1/A!1": "1" is not a range, such as A:I or A3:I500`:                                                                      {Actions: "google-sheets:1/A!1"},
		"TIMEZONE: unknown time zone Mars/Olympus": {TimeZone: "Mars/Olympus"},
	} {
		_, err := newSource(config, http.DefaultClient, slog.Default())
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("newSource(%+v) = %v, want %s", config, err, want)
		}
	}
	for _, csv := range []string{"https://docs.google.com/spreadsheets/d/xY/export?format=csv", "https://docs.google.com/spreadsheets/d/e/2PACX-1/pub?output=csv"} {
		if _, err := newSource(Config{Placements: csv}, http.DefaultClient, slog.Default()); err != nil {
			t.Errorf("newSource(%s) = %v, want it read as CSV", csv, err)
		}
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "gone.json"))
	if _, err := newSource(Config{Placements: "google-sheets:1"}, http.DefaultClient, slog.Default()); err == nil || !strings.Contains(err.Error(), "gone.json") {
		t.Errorf("newSource without credentials = %v, want an error that names the file", err)
	}
}

// csvServer serves text with an ETag, or what status says.
type csvServer struct {
	text          string
	status        int
	kind          string
	full, same304 int
}

func (s *csvServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tag := fmt.Sprintf(`"%x"`, len(s.text))
	switch {
	case s.status != 0:
		http.Error(w, "no", s.status)
	case r.Header.Get("If-None-Match") == tag:
		s.same304++
		w.WriteHeader(http.StatusNotModified)
	default:
		s.full++
		w.Header().Set("ETag", tag)
		w.Header().Set("Content-Type", s.kind)
		io.WriteString(w, s.text)
	}
}

func TestCSVFromURL(t *testing.T) {
	page := &csvServer{text: "device_id,tenant_id,valid_from\nd1,school,2026-03-02 08:30\nd2,school,2026-07-02 8:30\n", kind: "text/csv"}
	server := httptest.NewServer(page)
	defer server.Close()
	w := open(t, Config{Placements: server.URL + "/p.csv?key=secret", TimeZone: "Europe/Amsterdam"})
	w.replies(t, "placements.changed")
	same(t, "rows", w.placements.Rows("device_id", "valid_from"), "d1 2026-03-02T07:30:00Z", "d2 2026-07-02T06:30:00Z")
	w.replies(t)
	if page.full != 1 || page.same304 != 1 {
		t.Errorf("%d whole answers and %d that nothing changed, want 1 of each", page.full, page.same304)
	}
	page.status = http.StatusServiceUnavailable
	if _, types, err := w.tick(t); err == nil || mesh.IsPermanent(err) || len(types) > 0 || strings.Contains(err.Error(), "secret") {
		t.Errorf("503: replies %v, %v, want an error that passes and does not tell the key", types, err)
	}
	page.status = http.StatusForbidden
	w.replies(t, "placements.rejected")
	same(t, "findings", w.placements.Findings(), "0 : 403 Forbidden: share the sheet with who has the link, or see to the key in its address")
	page.status, page.text, page.kind = 0, "<html>log in", "text/html; charset=utf-8"
	w.replies(t, "placements.rejected")
	same(t, "findings", w.placements.Findings(), "0 : text/html; charset=utf-8 is no CSV: is the sheet shared with who has the link?")
	same(t, "rows", w.placements.Rows("device_id"), "d1", "d2")
	server.Close()
	if _, _, err := w.tick(t); err == nil || mesh.IsPermanent(err) || strings.Contains(err.Error(), "secret") {
		t.Errorf("no server: %v, want an error that passes and does not tell the key", err)
	}
}

// A sheet that has its header and no rows is more often a mistake than the end of
// all placements.
func TestEmptySheetDeletesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.csv")
	const head = "device_id,tenant_id,valid_from\n"
	full := head + "d1,school,2026-03-02T08:30:00Z\nd2,school,2026-03-02T08:30:00Z\n"
	w := open(t, Config{Placements: file})
	write(t, file, head)
	w.replies(t) // there were none
	write(t, file, full)
	w.replies(t, "placements.changed")
	write(t, file, head)
	w.replies(t, "placements.rejected")
	same(t, "rows", w.placements.Rows("device_id"), "d1", "d2")
	same(t, "findings", w.placements.Findings(), "0 : it has no placements, and there are 2: set SHEETS_ALLOW_EMPTY=true if all of them are to go")
	w.replies(t)
	write(t, file, full)
	w.replies(t, "placements.rejected")
	same(t, "findings", w.placements.Findings())

	w = open(t, Config{Placements: file, AllowEmpty: true})
	w.replies(t, "placements.changed")
	write(t, file, head)
	w.replies(t, "placements.changed")
	same(t, "rows", w.placements.Rows("device_id"))
}

// An answer that ends with its connection, as of HTTP/1.0, may be cut off between
// two rows.
func TestPageThatDoesNotSayWhereItEnds(t *testing.T) {
	full := "device_id,tenant_id,valid_from\nd1,school,2026-03-02T08:30:00Z\nd2,school,2026-03-02T08:30:00Z\n"
	cut := full[:strings.Index(full, "d2")]
	answers := make(chan string, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/csv\r\n\r\n"+<-answers)
	}))
	defer server.Close()
	w := open(t, Config{Placements: server.URL + "/p.csv"})
	answers <- full
	answers <- full
	w.replies(t, "placements.changed")
	for _, two := range [][]string{{cut, full}, {full, cut}} {
		answers <- two[0]
		answers <- two[1]
		if _, types, err := w.tick(t); err == nil || mesh.IsPermanent(err) || len(types) > 0 {
			t.Errorf("cut off: replies %v, %v, want an error that passes", types, err)
		}
	}
	answers <- cut
	answers <- cut
	w.replies(t, "placements.changed")
	same(t, "rows", w.placements.Rows("device_id"), "d1")
}

func TestSheetThatIsNone(t *testing.T) {
	dir := t.TempDir()
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for chunk := []byte(strings.Repeat(",", 1<<16)); r.Context().Err() == nil; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	for at, want := range map[string]string{
		dir:                    dir + " is a directory: give the path of a file in it",
		endless.URL + "/p.csv": "it has more than 8388608 bytes",
	} {
		w := open(t, Config{Placements: at})
		w.replies(t, "placements.rejected")
		same(t, "findings", w.placements.Findings(), "0 : "+want)
	}
}

// One sheet that cannot be read does not keep the other.
func TestSheetsDoNotKeepEachOther(t *testing.T) {
	dir := t.TempDir()
	actions := filepath.Join(dir, "actions.csv")
	write(t, actions, "action_id,device_id,action,taken_at\na1,d1,window opened,2026-03-02T10:00:00Z\n")
	w := open(t, Config{Placements: "google-sheets:" + id, Actions: actions})
	w.google.Put(id, document([]any{46083.0, "d1", "school"}))
	w.placements.Store(t, mesh.NewEvent(mesh.PlacementsChanged, "/x", []byte(`{"placements":[{"device_id":"d1","tenant_id":"school","valid_from":"2026-03-01T23:00:00Z","version":1}]}`), "1"))
	w.google.Fail(sheetstest.Failure{Status: 429, RetryAfter: 99})
	w.replies(t, "actions.logged")
	if !strings.Contains(w.log.String(), "Quota exceeded") {
		t.Errorf("log %s, want the reason why the other sheet was not read", w.log.String())
	}
	if err := os.Remove(actions); err != nil {
		t.Fatal(err)
	}
	w.google.Put(id, document([]any{46083.0, "d1", "office"}))
	w.replies(t, "placements.changed", "actions.rejected")
	same(t, "actions", w.actions.Rows("action_id"), "a1")
	same(t, "placements", w.placements.Rows("tenant_id"), "office")
}

// A server that takes the request and never answers, or begins to and stops, has
// its share of the tick and no more: the other sheet is taken.
func TestServerThatNeverAnswers(t *testing.T) {
	for name, c := range map[string]struct{ placements, actions, port, want string }{
		"placements":      {"http://silent/p.csv", "http://server/a.csv", "http://p", mesh.ActionsLogged},
		"actions":         {"http://server/p.csv", "http://stuck/a.csv", "http://p", mesh.PlacementsChanged},
		"both":            {"http://silent/p.csv", "http://stuck/a.csv", "http://p", ""},
		"the output port": {"http://server/p.csv", "", "http://silent", ""},
	} {
		t.Run(name, func(t *testing.T) {
			placements, actions := sheetstest.NewPort(t, "placements"), sheetstest.NewPort(t, "actions")
			client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				if err := r.Context().Err(); err != nil {
					return nil, err
				}
				if r.URL.Host == "silent" {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				w := httptest.NewRecorder()
				switch r.URL.Path {
				case "/p.csv":
					io.WriteString(w, "device_id,tenant_id,valid_from\nd1,school,2026-03-02T08:30:00Z\n")
				case "/a.csv":
					io.WriteString(w, "action_id,device_id,action,taken_at\na1,d1,window opened,2026-03-02T10:00:00Z\n")
				default:
					map[string]*sheetstest.Port{"p": placements, "a": actions}[r.URL.Host].ServeHTTP(w, r)
				}
				answer := w.Result()
				if r.URL.Host == "stuck" {
					answer.Body = io.NopCloser(io.MultiReader(answer.Body, untilDone{r.Context()}))
				}
				return answer, nil
			})}
			synctest.Test(t, func(t *testing.T) {
				s, err := newSource(Config{
					Placements: c.placements, Actions: c.actions, PlacementsPort: c.port + "/placements", ActionsPort: "http://a/actions",
				}, client, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				events, err := s.handle(t.Context(), newTick(1))
				if took := time.Since(began); took > time.Minute {
					t.Errorf("took %s, want it over before the next tick", took)
				}
				if c.want == "" {
					if len(events) > 0 || err == nil || mesh.IsPermanent(err) {
						t.Errorf("replies %v, %v, want an error that passes", events, err)
					}
					return
				}
				if err != nil || len(events) == 0 || events[0].Type() != c.want {
					t.Errorf("replies %v, %v, want %s", events, err, c.want)
				}
			})
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (do roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return do(r) }

// untilDone gives nothing, and ends with the request.
type untilDone struct{ ctx context.Context }

func (u untilDone) Read([]byte) (int, error) { <-u.ctx.Done(); return 0, u.ctx.Err() }

// Warnings name what no other metadata knows of, and stay while that cannot be
// asked.
func TestWarnings(t *testing.T) {
	dir := t.TempDir()
	placements, actions := filepath.Join(dir, "placements.csv"), filepath.Join(dir, "actions.csv")
	write(t, placements, "device_id,tenant_id,building,room,valid_from,valid_to\n"+
		"d1,school,B,1,2026-03-01T00:00:00Z,2026-04-01T00:00:00Z\n"+
		"d1,office,,2,2026-04-01T00:00:00Z,\n")
	write(t, actions, "action_id,tenant_id,device_id,building,room,action,taken_at\n"+
		"a1,school,d1,,,opened,2026-03-31T23:59:59Z\n"+
		"a2,school,d1,,,opened,2026-04-01T00:00:00Z\n"+
		"a3,,,B,1,opened,2026-03-02T00:00:00Z\n"+
		"a4,,,B,1,opened,2026-04-02T00:00:00Z\n"+
		"a5,office,,,2,opened,2026-04-02T00:00:00Z\n"+
		"a6,office,,B,2,opened,2026-04-02T00:00:00Z\n")
	w := open(t, Config{Placements: placements, Actions: actions})
	w.replies(t, "placements.changed", "actions.logged", "actions.rejected") // nobody keeps customers yet
	same(t, "findings of actions", w.actions.Findings(),
		`3 tenant_id: "school" did not hold device "d1" at 2026-04-01T00:00:00Z: the action is shown to nobody (warning)`,
		`5 : nobody held room "1" of building "B" at 2026-04-02T00:00:00Z: the action is shown to nobody (warning)`,
		`7 tenant_id: "office" did not hold room "2" of building "B" at 2026-04-02T00:00:00Z: the action is shown to nobody (warning)`)
	same(t, "actions", w.actions.Rows("action_id"), "a1", "a2", "a3", "a4", "a5", "a6")

	w.customers.Store(t, mesh.NewEvent(mesh.CustomersChanged, "/x", []byte(`{"customers":[{"customer_id":"school","name":"S","version":1}]}`), "1"))
	w.replies(t, "placements.rejected")
	same(t, "findings of placements", w.placements.Findings(), `3 tenant_id: "office" is no customer (warning)`)
	w.customers.Away(true)
	w.replies(t)
	w.customers.Away(false)
	w.customers.Store(t, mesh.NewEvent(mesh.CustomersChanged, "/x", []byte(`{"customers":[{"customer_id":"office","name":"O","version":2}]}`), "1"))
	w.replies(t, "placements.rejected")
	same(t, "findings of placements", w.placements.Findings())
}

// By the environment, as on a cluster.
func TestStart(t *testing.T) {
	google := sheetstest.New(t)
	google.Put(id, document([]any{46083.0, "d1", "school"}))
	port := sheetstest.NewPort(t, "placements")
	for name, value := range map[string]string{
		"GOOGLE_APPLICATION_CREDENTIALS": google.Credentials, "SHEETS_ENDPOINT": google.URL,
		"PLACEMENTS_SHEET": "google-sheets:" + id, "PLACEMENTS_URL": port.URL,
	} {
		t.Setenv(name, value)
	}
	fn, err := Start(function.Ports{Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	events, err := fn.Handler(t.Context(), newTick(1))
	if err != nil || len(events) != 1 || events[0].Type() != mesh.PlacementsChanged {
		t.Errorf("the first tick replies %v, %v, want placements.changed", events, err)
	}
}

func sorted(s []string) []string { slices.Sort(s); return s }

// write writes a file, an hour ago: one that was written just now is waited for.
func write(t *testing.T, file, text string) {
	t.Helper()
	err := os.WriteFile(file, []byte(text), 0o644)
	if err == nil {
		err = os.Chtimes(file, time.Time{}, time.Now().Add(-time.Hour))
	}
	if err != nil {
		t.Fatal(err)
	}
}
