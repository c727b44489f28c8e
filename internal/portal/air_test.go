package portal_test

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
	"github.com/telemesh/telemesh/internal/air/airtest"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/portal"
)

var (
	airNow    = time.Date(2026, 3, 27, 15, 0, 0, 0, time.UTC) // a Friday
	airSchool = access.Viewer{ID: "2", Name: "ann", Role: access.Tenant, Tenants: []string{"school"}}
	airAdmin  = access.Viewer{ID: "1", Name: "root", Role: access.Admin}
	airNobody = access.Viewer{ID: "3", Name: "new", Role: access.Tenant, Tenants: []string{"nothing"}}
	airRoom   = air.Room{Building: "North", Floor: "1", Name: `1.01 <b>"room"`}
)

// airPortal serves the air of a school and, in a room of the same name, of an
// office, to whoever viewer says comes.
type airPortal struct {
	*airtest.Store
	t      *testing.T
	http   *httptest.Server
	viewer access.Viewer
	audit  *audit.Log
	ended  chan struct{} // a request to a stream ended
}

func newAirPortal(t *testing.T) *airPortal {
	t.Helper()
	p := &airPortal{Store: airtest.Open(t), t: t, viewer: airSchool, ended: make(chan struct{}, 1)}
	db, err := database.Open(t.Context(), "sqlite:"+t.TempDir()+"/portal.db")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	p.audit = audit.New(db, time.Now)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	feed := live.New(p.Data, live.Config{Interval: 10 * time.Millisecond, Overlap: time.Second}, log)
	t.Cleanup(feed.Close)
	served, err := portal.New(portal.Config{
		Data: p.Data, Audit: p.audit, Live: feed, Log: log, Now: func() time.Time { return airNow },
		Viewer: func(*http.Request) (access.Viewer, bool, error) { return p.viewer, true, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := served.Handler()
	p.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		if strings.HasSuffix(r.URL.Path, "/stream") {
			select {
			case p.ended <- struct{}{}:
			default:
			}
		}
	}))
	t.Cleanup(p.http.Close)
	return p
}

// month fills six weeks: the school's room rises from 8 to 12 on weekdays and is aired
// on the last day; the office's readings, devices, rooms and actions say "office".
func (p *airPortal) month() {
	start := airNow.AddDate(0, 0, -42).Truncate(24 * time.Hour)
	p.Customer("school", "The School")
	p.Customer("office", "The office")
	p.Place("school", "meter-1", airRoom, start, time.Time{})
	p.Place("school", "meter-2", air.Room{}, start, time.Time{})
	p.Place("office", "office-meter", airRoom, start, time.Time{})
	p.Place("office", "office-meter-2", air.Room{Building: "office", Floor: "9", Name: "office room"}, start, time.Time{})
	var all []airtest.Reading
	for at := start; at.Before(airNow); at = at.Add(10 * time.Minute) {
		value := 450.0 + float64(at.Minute())/10
		if hour := at.Hour(); at.Weekday()%6 != 0 && hour >= 8 && hour < 12 {
			value += 150*(float64(hour-8)+float64(at.Minute())/60) + float64(at.YearDay()%7)
		}
		if at.Day() == airNow.Day() && at.Month() == airNow.Month() && at.Hour() >= 10 {
			value = 500
		}
		if at.Day() == 20 && at.Hour() > 18 {
			continue // a gap
		}
		all = append(all, airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: at, Value: value},
			airtest.Reading{Tenant: "school", Device: "meter-2", At: at, Value: 600},
			airtest.Reading{Tenant: "office", Device: "office-meter", Room: airRoom, At: at, Value: 31337})
	}
	p.Read("co2", "ppm", all...)
	p.Read("temperature", "Cel", airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: airNow.Add(-time.Hour), Value: 21.5})
	p.Read("office_metric", "ppm", airtest.Reading{Tenant: "office", Device: "office-meter", Room: airRoom, At: airNow.Add(-time.Hour), Value: 31337})
	p.Act("a1", "school", "", airRoom, "window <script>opened</script>", time.Date(2026, 3, 27, 10, 0, 0, 0, time.UTC))
	p.Act("a2", "office", "", airRoom, "office action", time.Date(2026, 3, 27, 11, 0, 0, 0, time.UTC))
}

func (p *airPortal) get(path string) (int, http.Header, string) {
	p.t.Helper()
	answer, err := p.http.Client().Get(p.http.URL + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(body)
}

func with(path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return path + "?" + q.Encode()
}

// The page says all that the charts do, without a script; names are text.
func TestAirPageWithoutScript(t *testing.T) {
	p := newAirPortal(t)
	p.month()
	status, _, page := p.get("/air?range=7d&tz=Europe/Amsterdam")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, page)
	}
	for _, want := range []string{
		"The School", "1.01 &lt;b&gt;&#34;room&#34;", "meter-2", // a device of which no room is known
		"<b data-text>500</b>", "<b data-text>600</b>", "below 900", "times of Europe/Amsterdam",
		"window &lt;script&gt;opened&lt;/script&gt;", "Fri 27 Mar 11:00", // by the clocks of Amsterdam
		`title="Fri 09–10: mean of 4 hours"`, "of the 4 weeks until then", "code of well-being at work", "10.1007/s00103-008-0707-2",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	if strings.Contains(page, "<script>") || strings.Contains(page, "<b>\"room") || strings.Contains(page, "style=\"") {
		t.Error("text of data became markup, or the markup has styles")
	}

	_, _, page = p.get(with("/air", "range", "7d", "room", airRoom.Key()))
	for _, want := range []string{
		`selected>floor 1 · 1.01`, " points, one each 1 hour", "Before and after: window &lt;script&gt;", "lower than on comparable days", "days</small>",
		`href="/api/air/readings.csv?`, "for 24 persons",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page of the room does not have %q", want)
		}
	}
}

func TestAirPageWithNothingToShow(t *testing.T) {
	p := newAirPortal(t)
	p.viewer = airAdmin
	if status, _, page := p.get("/air"); status != http.StatusOK || !strings.Contains(page, "No tenant has a device yet") {
		t.Errorf("/air without a tenant: %d", status)
	}
	p.Customer("school", "The School")
	for _, path := range []string{"/air?tenant=nobody", "/api/air/now?tenant=nobody"} {
		if status, _, body := p.get(path); status != http.StatusNotFound || !strings.Contains(body, "here is no tenant") {
			t.Errorf("%s: %d, %.300s", path, status, body)
		}
	}
	for _, test := range []struct {
		viewer     access.Viewer
		path, want string
	}{
		{airNobody, "/air?tenant=nothing", "Ask who runs your devices"},
		{airAdmin, "/air?tenant=school", "device_id,tenant_id,building"},
	} {
		p.viewer = test.viewer
		if status, _, page := p.get(test.path); status != http.StatusOK || !strings.Contains(page, test.want) {
			t.Errorf("%s as %s: %d, without %q", test.path, test.viewer.Name, status, test.want)
		}
	}
	p.viewer = airSchool
	p.Place("school", "meter-1", airRoom, airNow.AddDate(0, -2, 0), time.Time{})
	if _, _, page := p.get("/air"); !strings.Contains(page, "No reading of CO₂ yet") || !strings.Contains(page, "curl -d") {
		t.Error("a placed device that never sent: the page does not say how to send")
	}
	p.Read("co2", "ppm", airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: airNow.AddDate(0, -1, 0), Value: 500})
	_, _, page := p.get("/air")
	if !strings.Contains(page, "No reading of CO₂ in this range") || !strings.Contains(page, "from=2026-02-20T16%3A00%3A00Z&amp;range=") && !strings.Contains(page, "from=2026-02-20T16%3A00%3A00Z&amp;to=2026-02-27T16%3A00%3A00Z") {
		t.Error("a range without readings: the page does not lead to the last ones")
	}
}

func TestAirRefusesWhatItCannotRead(t *testing.T) {
	p := newAirPortal(t)
	p.month()
	foreign := air.Room{Building: "office", Floor: "9", Name: "office room"}.Key()
	for _, test := range []struct {
		query  []string
		status int
		want   string
	}{
		{[]string{"range", "2d"}, 400, "24h, 7d, 30d, 1y"},
		{[]string{"from", "2026-03-02", "to", "2026-03-01"}, 400, "earlier than to"},
		{[]string{"from", "2026-03-02", "to", "2026-03-02"}, 400, "earlier than to"},
		{[]string{"from", "1000-03-02", "to", "2026-03-02"}, 400, "10 years"},
		{[]string{"from", "yesterday"}, 400, "2026-03-02T08:00"},
		{[]string{"from", "99999-03-02"}, 400, "2026-03-02T08:00"},
		{[]string{"tz", "Mars/Olympus"}, 400, "Europe/Amsterdam"},
		{[]string{"tz", "Local"}, 400, "Europe/Amsterdam"},
		{[]string{"tz", "../../etc/passwd"}, 400, "Europe/Amsterdam"},
		{[]string{"low", "900", "high", "800"}, 400, "low is not below high"},
		{[]string{"low", "1300"}, 400, "which ends at 1200"},
		{[]string{"metric", "temperature", "low", "20"}, 400, "both low and high"},
		{[]string{"low", "NaN", "high", "2"}, 400, "is no number"},
		{[]string{"step", "7m"}, 400, "15m"},
		{[]string{"room", "nowhere"}, 400, "BUILDING/FLOOR/ROOM"},
		{[]string{"room", "North/1/nowhere"}, 400, "none of your devices"},
		{[]string{"room", foreign}, 400, "none of your devices"},
		{[]string{"device", "office-meter"}, 400, "none of your devices"},
		{[]string{"device", "no such device"}, 400, "none of your devices"},
		{[]string{"building", "office"}, 400, "none of your devices"},
		{[]string{"tenant", "office"}, 403, "not yours"},
		{[]string{"tenant", "no such tenant"}, 403, "not yours"},
	} {
		for _, path := range []string{"/air", "/api/air/series", "/api/air/rooms", "/api/air/now", "/api/air/stream", "/api/air/readings.csv", "/api/air/readings.parquet"} {
			status, header, body := p.get(with(path, test.query...))
			if status != test.status || !strings.Contains(body, test.want) && !strings.Contains(body, strings.ReplaceAll(test.want, "'", "&#39;")) {
				t.Errorf("%s with %q = %d %.200s, want %d and %q", path, test.query, status, body, test.status, test.want)
			}
			if kind := header.Get("Content-Type"); strings.HasPrefix(path, "/api/") && kind != "application/problem+json" {
				t.Errorf("%s with %q answers %s", path, test.query, kind)
			}
			if header.Get("Content-Disposition") != "" {
				t.Errorf("%s with %q is a file that says %.80s", path, test.query, body)
			}
		}
	}
	for _, path := range []string{"/air", "/api/air/series", "/api/air/now", "/api/air/readings.csv"} {
		if status, _, body := p.get(path + "?metric=office_metric"); status != 400 || !strings.Contains(body, "temperature") {
			t.Errorf("%s of a metric of another tenant: %d, %.300s", path, status, body)
		}
	}
	if status, _, body := p.get("/air?action=a2"); status != 400 || !strings.Contains(body, "no such action") {
		t.Errorf("an action of another tenant: %d, %.300s", status, body)
	}
	if status, _, body := p.get("/api/air/series?range=1y&step=5m"); status != 400 || !strings.Contains(body, "longer step") {
		t.Errorf("a year of 5 minutes: %d, %.300s", status, body)
	}
}

// Nothing of the office is in any byte that the school is sent.
func TestAirNamesNoOther(t *testing.T) {
	p := newAirPortal(t)
	p.month()
	seen := 0
	for _, path := range []string{"/air", "/api/air/series", "/api/air/rooms", "/api/air/now", "/api/air/readings.csv", "/api/air/readings.parquet"} {
		for _, query := range [][]string{nil, {"range", "30d"}, {"room", airRoom.Key(), "range", "7d"}, {"device", "meter-1"}, {"building", "North", "range", "1y"}, {"metric", "temperature"}} {
			status, _, body := p.get(with(path, query...))
			if status != http.StatusOK {
				t.Errorf("%s with %q = %d %.200s", path, query, status, body)
			}
			if strings.Contains(body, "office") || strings.Contains(body, "31337") {
				t.Errorf("%s with %q shows what is the office's", path, query)
			}
			seen += strings.Count(body, "meter-1")
		}
	}
	if seen < 20 {
		t.Errorf("the school's device is named %d times: the pages show nothing", seen)
	}
	// The office's room has the same name: as admin it is there, and its readings are.
	p.viewer = airAdmin
	if _, _, body := p.get(with("/api/air/series", "tenant", "office", "room", airRoom.Key())); !strings.Contains(body, "31337") {
		t.Errorf("an admin does not see the office's: %.300s", body)
	}
}

func TestAirSeries(t *testing.T) {
	p := newAirPortal(t)
	p.month()
	read := func(query ...string) (out struct {
		Unit, Step string
		Bands      []float64
		Persons    int64
		From, To   int64
		Series     []struct {
			Key, Name          string
			T                  []int64
			Mean, Min, Outside []*float64
		}
		Actions []struct {
			ID, Action, Link string
			At               int64
		}
		Moves []struct{ Words string }
	}) {
		t.Helper()
		status, _, body := p.get(with("/api/air/series", query...))
		if err := json.Unmarshal([]byte(body), &out); err != nil || status != http.StatusOK {
			t.Fatalf("%q: %d, %v: %.300s", query, status, err, body)
		}
		return out
	}
	day := read("room", airRoom.Key(), "from", "2026-03-20", "to", "2026-03-21T12:00")
	if len(day.Series) != 1 || day.Step != "raw" || day.Unit != "ppm" || !slices.Equal(day.Bands, []float64{900, 1200}) || day.Persons != 24 {
		t.Fatalf("a day: %+v", day)
	}
	line := day.Series[0]
	nulls := 0
	for i, v := range line.Mean {
		if v == nil {
			nulls++
			// Ten minutes after the last reading before it.
			if at := time.UnixMilli(line.T[i]).UTC(); at != time.Date(2026, 3, 20, 19, 0, 0, 0, time.UTC) {
				t.Errorf("the line breaks at %s", at)
			}
		}
	}
	if nulls != 1 || line.Min != nil || *line.Outside[0] != 420 {
		t.Errorf("%d breaks in a day with a gap, min %v", nulls, line.Min)
	}
	week := read("room", airRoom.Key(), "range", "7d", "low", "800", "high", "1000.5")
	if !slices.Equal(week.Bands, []float64{800, 1000.5}) || len(week.Actions) != 1 || week.Actions[0].ID != "a1" || week.To-week.From != 7*24*3600*1000 {
		t.Errorf("a week: bands %v, actions %+v", week.Bands, week.Actions)
	}
	if status, _, _ := p.get(week.Actions[0].Link); status != http.StatusOK {
		t.Errorf("the action leads to %s: %d", week.Actions[0].Link, status)
	}
	year := read("room", airRoom.Key(), "range", "1y")
	if year.Step != "1d" || len(year.Series[0].Min) != len(year.Series[0].T) || len(year.Moves) != 1 {
		t.Errorf("a year: step %s, %d points, moves %v", year.Step, len(year.Series[0].T), year.Moves)
	}
	hours := read("room", airRoom.Key(), "range", "1y", "step", "1h")
	if n := len(hours.Series[0].T); n < 42*24-10 || n > 43*24 {
		t.Errorf("a year of hours has %d points", n)
	}
	// In the zone asked for, days begin at its midnight.
	if at := time.UnixMilli(read("room", airRoom.Key(), "range", "30d", "step", "1d", "tz", "Asia/Tokyo").Series[0].T[3]).UTC(); at.Hour() != 15 {
		t.Errorf("a day in Tokyo begins at %s", at)
	}
	if all := read("range", "24h"); len(all.Series) != 2 || all.Series[0].Name != "meter-2" {
		t.Errorf("all rooms: %+v", all.Series)
	}
}

// Files have what the warehouse has, no more and no less; a name that would be a
// formula is none.
func TestAirExports(t *testing.T) {
	p := newAirPortal(t)
	p.month()
	p.Place("school", "=cmd|' /C calc'!A0", air.Room{Building: "North", Name: "@SUM(1)"}, airNow.AddDate(0, 0, -2), time.Time{})
	p.Read("co2", "ppm", airtest.Reading{Tenant: "school", Device: "=cmd|' /C calc'!A0", Room: air.Room{Building: "North", Name: "@SUM(1)"}, At: airNow.Add(-time.Minute), Value: -1.5e-7})
	query := []string{"range", "7d"}

	where := "tenant_id = 'school' AND metric = 'co2' AND observed_at >= TIMESTAMP '2026-03-20 15:00:00' AND observed_at < TIMESTAMP '2026-03-27 15:00:00'"
	want := p.All("SELECT reading_id, device_id, building, room, observed_at, value, persons FROM iot_analytics.readings WHERE " + where + " ORDER BY observed_at, reading_id")
	status, header, body := p.get(with("/api/air/readings.csv", query...))
	all, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	if err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	null := func(s string) string {
		if s == "" {
			return "NULL"
		}
		return s
	}
	var got []string
	formulas := 0
	for _, row := range all[1:] {
		for i, cell := range row {
			if strings.ContainsAny(cell[:min(1, len(cell))], "=+@") {
				t.Errorf("column %s has %q", all[0][i], cell)
			}
			if plain, was := strings.CutPrefix(cell, "'"); was {
				row[i] = plain
				formulas++
			}
		}
		got = append(got, strings.Join([]string{row[0], row[5], null(row[2]), null(row[4]), row[7], row[8], row[11]}, " "))
	}
	if diff := cmp.Diff(want, got); diff != "" || formulas != 2 {
		t.Errorf("CSV, with %d formulas made text (-warehouse +file):\n%s", formulas, diff)
	}
	const name = `attachment; filename="school_co2_20260320T1500Z_20260327T1500Z`
	if header.Get("Content-Disposition") != name+`.csv"` {
		t.Errorf("file name %s", header.Get("Content-Disposition"))
	}

	_, _, body = p.get(with("/api/air/readings.parquet", query...))
	readings, err := parquet.Read[air.Reading](bytes.NewReader([]byte(body)), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	text := func(s *string) string {
		if s == nil {
			return "NULL"
		}
		return *s
	}
	for _, r := range readings {
		got = append(got, fmt.Sprint(r.ReadingID, " ", r.DeviceID, " ", text(r.Building), " ", text(r.Room), " ", r.ObservedAt.UTC().Format(time.RFC3339Nano), " ", r.Value, " ", *r.Persons))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parquet (-warehouse +file):\n%s", diff)
	}
	_, header, _ = p.get(with("/api/air/readings.parquet", "range", "7d", "room", airRoom.Key()))
	if got := header.Get("Content-Disposition"); got != `attachment; filename="school_North_1_1-01--b--room-_co2_20260320T1500Z_20260327T1500Z.parquet"` {
		t.Errorf("file name %s", got)
	}
	log, err := p.audit.List(t.Context(), 0, 10)
	if err != nil || len(log) != 3 || log[2].Action != audit.Export || log[2].Who != "ann" || log[2].Object != "school" || !strings.Contains(log[2].Detail, "school_co2") {
		t.Errorf("audit log %+v, %v", log, err)
	}
}

// stored stores readings as the mesh does: an event in the log, then the rows.
func (p *airPortal) stored(id, tenant string, r airtest.Reading) {
	p.t.Helper()
	e := mesh.NewEvent(mesh.AnalyticsJoined, "/test", []byte(`{"readings":[]}`))
	e.SetID(id)
	e.SetExtension(mesh.ExtTenant, tenant)
	if _, err := sink.NewLog(p.Store, nil)(function.WithPath(p.t.Context(), "/analytics/analytics"), e); err != nil {
		p.t.Fatal(err)
	}
	p.Read("co2", "ppm", r)
}

func TestAirStream(t *testing.T) {
	p := newAirPortal(t)
	p.month()
	open := func(lastID string, query ...string) (*http.Response, *bufio.Scanner) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.http.URL+with("/api/air/stream", append(query, "room", airRoom.Key())...), nil)
		if err != nil {
			t.Fatal(err)
		}
		if lastID != "" {
			r.Header.Set("Last-Event-ID", lastID)
		}
		answer, err := p.http.Client().Do(r)
		if err != nil || answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("stream: %v, %v", answer, err)
		}
		return answer, bufio.NewScanner(answer.Body)
	}
	// told waits for the next event, and gives its id.
	told := func(lines *bufio.Scanner, since time.Time) (id string) {
		t.Helper()
		for lines.Scan() {
			line := lines.Text()
			if rest, ok := strings.CutPrefix(line, "id: "); ok {
				id = rest
			}
			var data struct{ Readings, Since int64 }
			if rest, ok := strings.CutPrefix(line, "data: "); ok {
				if err := json.Unmarshal([]byte(rest), &data); err != nil {
					t.Fatal(err)
				}
				if data.Readings == 0 || !since.IsZero() && (data.Readings != 1 || data.Since != since.UnixMilli()) {
					t.Fatalf("told of %s, want one reading of %s", rest, since)
				}
				return id
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return ""
	}
	answer, lines := open("")
	told(lines, time.Time{}) // of what was stored just before it came
	p.stored("e1", "office", airtest.Reading{Tenant: "office", Device: "office-meter", Room: airRoom, At: airNow.Add(time.Second), Value: 31337})
	p.stored("e2", "school", airtest.Reading{Tenant: "school", Device: "meter-2", At: airNow.Add(2 * time.Second), Value: 600}) // another room
	first := airNow.Add(3 * time.Second)
	p.stored("e3", "school", airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: first, Value: 501})
	id := told(lines, first)
	answer.Body.Close()
	<-p.ended // and with it what it held

	// What is stored meanwhile is told to who comes again.
	second := airNow.Add(4 * time.Second)
	p.stored("e4", "school", airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: second, Value: 502})
	answer, lines = open(id)
	id = told(lines, second)
	answer.Body.Close()
	<-p.ended
	// A page that was loaded for it has it, too.
	third := airNow.Add(5 * time.Second)
	p.stored("e5", "school", airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: third, Value: 503})
	answer, lines = open("", "after", id)
	told(lines, third)
	answer.Body.Close()
}

// A page is not told of what its range has not: it would look for it for ever.
func TestAirStreamKeepsToTheRange(t *testing.T) {
	p := newAirPortal(t)
	p.Place("school", "meter-1", airRoom, airNow.AddDate(0, -1, 0), time.Time{})
	p.stored("e1", "school", airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: airNow.Add(-30 * time.Hour), Value: 500})
	if _, _, page := p.get("/air"); !strings.Contains(page, "No reading of CO₂ in this range") {
		t.Error("a day without a reading has one")
	}
	answer, err := p.http.Client().Get(p.http.URL + "/api/air/stream?range=24h")
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("stream: %v, %v", answer, err)
	}
	defer answer.Body.Close()
	p.stored("e2", "school", airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: airNow.Add(-time.Second), Value: 501})
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if told, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			if want := fmt.Sprintf(`{"readings": 1, "since": %d}`, airNow.Add(-time.Second).UnixMilli()); told != want {
				t.Errorf("told of %s, want %s", told, want)
			}
			return
		}
	}
	t.Error("the stream ended")
}

// What cannot be read is said where it was filled in, with all that was.
func TestAirFormSaysWhatIsWrong(t *testing.T) {
	p := newAirPortal(t)
	p.month()
	status, _, page := p.get(with("/air", "room", airRoom.Key(), "metric", "temperature", "low", "20", "high", "much", "from", "2026-03-02T08:00", "to", "2026-03-01T08:00"))
	if status != http.StatusBadRequest {
		t.Errorf("status %d", status)
	}
	for _, want := range []string{
		`role="alert">the range ends before it begins`, `name="low" inputmode="decimal" size="6" value="20"`, `value="much"`, `value="2026-03-02T08:00"`, `value="2026-03-01T08:00"`,
		`<option value="temperature" selected>`, `selected>floor 1 · 1.01`, `<details data-keep="choose" open>`, `data-stream=""`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	// A field for date and time shows nothing else.
	_, _, page = p.get(with("/air", "room", airRoom.Key(), "tz", "Europe/Amsterdam", "low", "much", "from", "2026-03-01", "to", "2026-03-02T08:00:00Z"))
	for _, want := range []string{`name="from" value="2026-03-01T00:00"`, `name="to" value="2026-03-02T09:00"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	// Where what is chosen is wrong itself, the tenant is left.
	if status, _, page = p.get("/air?room=nowhere&metric=nothing"); status != http.StatusBadRequest || !strings.Contains(page, `id="choose"`) || !strings.Contains(page, "BUILDING/FLOOR/ROOM") {
		t.Errorf("a room that is none: %d", status)
	}
}

func TestAirThresholds(t *testing.T) {
	p := newAirPortal(t)
	p.month()
	for query, want := range map[string]string{
		"":                                       `"bands":[900,1200]`,
		"low=800":                                `"bands":[800,1200]`,
		"high=1500":                              `"bands":[900,1500]`,
		"low=800&high=1000&of=co2":               `"bands":[800,1000]`,
		"low=20&high=25&metric=temperature":      `"bands":[20,25]`,
		"low=20&high=25&of=temperature":          `"bands":[900,1200]`, // a form without a script
		"low=8&high=9&of=co2&metric=temperature": `"zone":"UTC","series"`,
	} {
		if _, _, body := p.get("/api/air/series?" + query); !strings.Contains(body, want) {
			t.Errorf("%s: %.300s, want %s", query, body, want)
		}
	}
}

// A room that its device left is not silent; labels of two years have the year.
func TestAirOfARoomThatWasLeft(t *testing.T) {
	p := newAirPortal(t)
	p.Place("school", "meter-1", airRoom, airNow.AddDate(-1, 0, 0), airNow.Add(-5*time.Hour))
	p.Place("school", "meter-1", airRoom, airNow.Add(-5*time.Hour), airNow.Add(-2*time.Hour))
	p.Place("school", "meter-2", air.Room{Building: "North", Name: "other"}, airNow.AddDate(-1, 0, 0), time.Time{})
	silvester := time.Date(2025, 12, 31, 10, 0, 0, 0, time.UTC)
	p.Read("co2", "ppm", airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: airNow.Add(-3 * time.Hour), Value: 500},
		airtest.Reading{Tenant: "school", Device: "meter-1", Room: airRoom, At: silvester, Value: 500})
	p.Act("a1", "school", "", airRoom, "window opened", silvester)
	_, _, page := p.get("/air")
	if !strings.Contains(page, "no device here since Fri 27 Mar 2026 13:00") || strings.Contains(page, "silent") {
		t.Error("the page does not say since when the room has no device")
	}
	_, _, page = p.get(with("/air", "room", airRoom.Key(), "from", "2025-12-20", "to", "2026-01-10"))
	for _, want := range []string{"<td>Wed 31 Dec 2025 10:00", "<td>Wed 31 Dec 2025 10:00</td><td class=\"wrap\"><a"} {
		if !strings.Contains(page, want) {
			t.Errorf("a range of two years does not have %q", want)
		}
	}
	if _, _, page = p.get(with("/air", "room", airRoom.Key(), "from", "2025-12-20", "to", "2025-12-31T23:00")); !strings.Contains(page, "<td>Wed 31 Dec 10:00") {
		t.Error("a range of one year says which")
	}
}

// A device is judged by the room that the action was taken in, and by all that was
// done there: not by where else it stood.
func TestAirEffectOfADeviceThatMoved(t *testing.T) {
	p := newAirPortal(t)
	before := air.Room{Building: "North", Floor: "2", Name: "before"}
	start, moved, taken := airNow.AddDate(0, 0, -42).Truncate(24*time.Hour), time.Date(2026, 3, 13, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 27, 10, 0, 0, 0, time.UTC)
	p.Place("school", "meter-1", before, start, moved)
	p.Place("school", "meter-1", airRoom, moved, time.Time{})
	p.Place("school", "meter-2", airRoom, start, time.Time{})
	var all []airtest.Reading
	for at := start; at.Before(airNow); at = at.Add(10 * time.Minute) {
		room, value := before, float64(at.Hour()*1000)
		if !at.Before(moved) {
			room, value = airRoom, 700
		}
		if !at.Before(taken) {
			value = 600
		}
		all = append(all, airtest.Reading{Tenant: "school", Device: "meter-1", Room: room, At: at, Value: value})
	}
	p.Read("co2", "ppm", all...)
	p.Act("a1", "school", "", airRoom, "window opened", taken)
	p.Act("a2", "school", "meter-2", air.Room{}, "moved to the wall", taken.AddDate(0, 0, -1))
	_, _, page := p.get("/air?range=7d&device=meter-1")
	// Of the ten weekdays since it came one had an action of the other device.
	for _, want := range []string{"Before and after: window opened", "700 → 600 ppm", "−100 ppm", "<small>9 days</small>", "(1 days are left out for one)", "of the four weeks before it, the same room"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
}
