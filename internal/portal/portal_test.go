package portal

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

type fixed struct {
	status Status
	err    error
}

func (f fixed) Status(context.Context) (Status, error) { return f.status, f.err }

var now = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func busy() Status {
	return Status{
		At: now, Since: now.Add(-3 * time.Hour), Ingest: "http://127.0.0.1:8080/ingest", Data: "/home/ada/telemesh/data",
		Brokers: []Broker{
			{"iot/iot", "http://127.0.0.1:8080/iot/iot", 1_234_567, 0},
			{"analytics/analytics", "http://127.0.0.1:8080/analytics/analytics", 98_765, 0},
			{"crm/crm", "http://127.0.0.1:8080/crm/crm", 1, 1_204},
		},
		Triggers: []Trigger{
			{"telemetry-flatten", "iot/iot", "iot/telemetry-flatten", 12, 8, 1_234_000, 3, 0},
			{"tenant-enrich", "iot/iot", "iot/tenant-enrich", 0, 0, 1_233_988, 0, 0},
			{"iot-analytics-sink", "analytics/analytics", "analytics/iot-analytics-sink", 0, 0, 98_764, 0, 1},
		},
		Tables: []Table{
			{"iot_telemetry.readings", 146_112, now.Add(-4 * time.Second)},
			{"iot_analytics.readings", 146_000, now.Add(time.Hour)},
			{"customers.customers", 3, time.Time{}},
		},
		Rooms: []Room{
			{"linden-school", "Linden School A", "0", "0.01", 812.4, 420, now.Add(-31 * time.Second)},
			{"linden-school", "Linden School A", "0", "0.02", 1190, 420, now.Add(-2 * time.Minute)},
			{"harbour-offices", "Harbour Offices A", "1", "1.04", 1500, 425, now.Add(-26 * time.Hour)},
			{"mill-clinic", "Mill Clinic A", "", "Waiting room", 2345, 0, now.Add(-72 * time.Hour)},
		},
		Failures: []Failure{
			{now.Add(-2 * time.Second), "iot/telemetry-flatten", "8f3a", "dev.telemesh.telemetry.received.v1", 503, "query placements: connection refused"},
			{now.Add(-90 * time.Second), "analytics/iot-analytics-sink", "77c1", "dev.telemesh.analytics.joined.v1", 400, `decode readings: no member "readings"`},
		},
		AllDeadLetters: 1_205,
		DeadLetters: []DeadLetter{
			{"0f3a9c", "iot-analytics-sink", "dev.telemesh.analytics.joined.v1", `decode readings: <script>alert("x")</script> & no member "readings"`, now.Add(-90 * time.Second)},
		},
	}
}

func get(t *testing.T, source Source, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(source).ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

var tags = regexp.MustCompile(`<[^>]*>`)

// text is what a page shows, with plain spaces.
func text(html string) string {
	_, body, _ := strings.Cut(html, "<body>")
	return strings.Join(strings.Fields(tags.ReplaceAllString(body, " ")), " ")
}

func TestStatusPage(t *testing.T) {
	w := get(t, fixed{status: busy()}, "GET", "/")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("status %d, content type %s", w.Code, w.Header().Get("Content-Type"))
	}
	shown := text(w.Body.String())
	for _, want := range []string{
		"2026-03-02 12:00:00 UTC, started 3 h ago",
		"iot/iot http://127.0.0.1:8080/iot/iot 1 234 567 0",
		"crm/crm http://127.0.0.1:8080/crm/crm 1 1 204",
		"telemetry-flatten iot/iot → iot/telemetry-flatten 12 8 1 234 000 3 0",
		"iot/telemetry-flatten telemetry.received 8f3a 503 query placements: connection refused 2 s ago",
		"The latest 1 of 1 205;",
		"iot_telemetry.readings 146 112 4 s ago",
		"iot_analytics.readings 146 000 ahead by 1 h",
		"customers.customers 3",
		"0.01 Linden School A, floor 0 linden-school 812 good 31 s ago",
		"0.02 Linden School A, floor 0 linden-school 1 190 fair 2 min ago",
		"1.04 Harbour Offices A, floor 1 harbour-offices 1 500 air the room 26 h ago",
		"Waiting room Mill Clinic A mill-clinic 2 345 open the windows 3 days ago",
		"0f3a9c iot-analytics-sink analytics.joined decode readings:",
		"curl -sS http://127.0.0.1:8080/ingest -H",
		"kept in /home/ada/telemesh/data",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("page does not show %q:\n%s", want, shown)
		}
	}
	if !strings.Contains(w.Body.String(), "<title>(1 205) Telemesh</title>") {
		t.Error("title does not count the dead letters")
	}
}

// Names, causes and device data come from outside.
func TestStatusPageEscapes(t *testing.T) {
	const evil = `<script>alert("x")</script>`
	s := busy()
	s.Ingest, s.Data = evil, evil
	s.Brokers = []Broker{{evil, evil, 1, 0}}
	s.Triggers = []Trigger{{Name: evil, Broker: evil, Subscriber: evil}}
	s.Tables = []Table{{Name: evil}}
	s.Rooms = []Room{{Tenant: evil, Building: evil, Floor: evil, Room: evil}}
	s.Failures = []Failure{{Trigger: evil, EventID: evil, Type: evil, Text: evil}}
	s.DeadLetters = []DeadLetter{{ID: evil, Trigger: evil, Type: evil, Cause: evil}}
	for _, source := range []Source{fixed{status: s}, fixed{err: errors.New(evil)}} {
		body := get(t, source, "GET", "/").Body.String()
		if strings.Contains(body, "<script") || !strings.Contains(body, "&lt;script&gt;") {
			t.Errorf("page holds markup from outside:\n%s", body)
		}
	}
}

// The policy must allow the style sheet as it stands in the page, byte for
// byte, and nothing in the page may need more.
func TestPolicyFitsPage(t *testing.T) {
	w := get(t, fixed{status: busy()}, "GET", "/")
	body := w.Body.String()
	_, rest, _ := strings.Cut(body, "<style>")
	css, _, found := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(css))
	got := w.Header().Get("Content-Security-Policy")
	if want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !found || !strings.Contains(got, want) {
		t.Errorf("policy %s, want %s", got, want)
	}
	if !strings.HasPrefix(got, "default-src 'none'; ") || strings.Contains(got, "unsafe") {
		t.Errorf("policy %s allows more than the style sheet", got)
	}
	if forbidden := regexp.MustCompile(`(?i)<(script|img|link|iframe|form)|\s(style|src|on[a-z]+)=`).FindString(body); forbidden != "" {
		t.Errorf("page holds %q, which the policy forbids", forbidden)
	}
}

func TestStatusPageWithoutData(t *testing.T) {
	shown := text(get(t, fixed{status: Status{At: now, Ingest: "http://i"}}, "GET", "/").Body.String())
	for _, want := range []string{"no broker", "no trigger", "no table", "no CO₂ measured in a room yet"} {
		if !strings.Contains(shown, want) {
			t.Errorf("page does not show %q:\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "Dead letters") || strings.Contains(shown, "failed attempts") {
		t.Error("page shows dead letters or failures where there are none")
	}
}

func TestSourceFails(t *testing.T) {
	w := get(t, fixed{err: errors.New("query iot_telemetry.readings: closed")}, "GET", "/")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(text(w.Body.String()), "query iot_telemetry.readings: closed") {
		t.Errorf("status %d, page %s", w.Code, text(w.Body.String()))
	}
}

func TestOtherRequests(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         int
	}{{"HEAD", "/", 200}, {"POST", "/", 405}, {"GET", "/favicon.ico", 404}} {
		if w := get(t, fixed{status: busy()}, c.method, c.path); w.Code != c.want {
			t.Errorf("%s %s = %d, want %d", c.method, c.path, w.Code, c.want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1 000", -1234567: "−1 234 567", 100000: "100 000"} {
		want = strings.ReplaceAll(want, " ", "\u202f")
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
}

// Give PORTAL_PAGE to look at the page in a browser.
func TestWritePage(t *testing.T) {
	file := os.Getenv("PORTAL_PAGE")
	if file == "" {
		t.Skip("PORTAL_PAGE names no file to write the page to")
	}
	if err := os.WriteFile(file, get(t, fixed{status: busy()}, "GET", "/").Body.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
