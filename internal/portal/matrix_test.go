package portal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

// Two tenants, and words of which each has its own in all that is known of it.
const own, foreign = "alpha", "omega"

// foreignWords are in what the other tenant has. An answer may have those that the
// question had.
var foreignWords = func() (words []string) {
	for _, word := range []string{"", "-building", "-floor", "-room", "-device", "_metric", "-action", "-window", "-customer", "-sector", "-source", "-subject",
		"-event", "-message", "-gateway", "-payload", "-cause", "-parked"} {
		words = append(words, foreign+word)
	}
	return words
}()

// stored is a warehouse with readings, a placement, an action and a customer of
// each of the two, what could not be taken, and the events that brought it.
func stored(t *testing.T, now time.Time) warehouse.Warehouse {
	t.Helper()
	w := duckdbtest.Open(t)
	none := func(context.Context, event.Event) error { return nil }
	rows, log := sink.New(w, none), sink.NewLog(w, nil)
	tell := func(broker, eventType, tenant string, data []byte) {
		t.Helper()
		e := mesh.NewEvent(eventType, "/"+tenant+"-source", data, tenant)
		e.SetSubject(tenant + "-subject")
		if tenant != "" {
			e.SetExtension(mesh.ExtTenant, tenant)
		}
		if _, err := rows(t.Context(), e); err != nil && !mesh.IsPermanent(err) {
			t.Fatal(err)
		}
		if _, err := log(function.WithPath(t.Context(), "/"+broker), e); err != nil {
			t.Fatal(err)
		}
	}
	for _, tenant := range []string{own, foreign} {
		device, room := tenant+"-device", tenant+"-room"
		tell("iot/iot", mesh.PlacementsChanged, tenant, mesh.Encode(mesh.Placements{Placements: []mesh.Placement{{
			DeviceID: device, TenantID: tenant, Building: tenant + "-building", Floor: tenant + "-floor", Room: room, ValidFrom: mesh.At(now.AddDate(-1, 0, 0)), Version: 1,
		}}}))
		tell("iot/iot", mesh.ActionsLogged, tenant, mesh.Encode(mesh.Actions{Actions: []mesh.Action{{
			ActionID: tenant + "-action", TenantID: tenant, DeviceID: device, Action: tenant + "-window opened", TakenAt: mesh.At(now.Add(-90 * time.Minute)), Version: 1,
		}}}))
		tell("crm/crm", mesh.CustomersChanged, tenant, mesh.Encode(mesh.Customers{Customers: []mesh.Customer{{CustomerID: tenant, Name: tenant + "-customer", Sector: tenant + "-sector", Version: 1}}}))
		var joined []mesh.JoinedReading
		var readings []mesh.Reading
		for i := range 180 {
			at := mesh.At(now.Add(-time.Duration(i) * time.Minute))
			for _, metric := range []string{"co2", tenant + "_metric"} {
				r := mesh.Reading{ReadingID: mesh.ReadingID(device, metric, at), DeviceID: device, Metric: metric, Value: float64(500 + i), Unit: "ppm", ObservedAt: at, ReceivedAt: at,
					TenantID: tenant, AssignmentVersion: 1, EventSource: "/" + tenant + "-source", EventID: tenant + "-event"}
				readings = append(readings, r)
				joined = append(joined, mesh.JoinedReading{Reading: r, Building: tenant + "-building", Floor: tenant + "-floor", Room: room, CustomerName: tenant + "-customer",
					LastAction: tenant + "-window opened", LastActionAt: mesh.At(now.Add(-90 * time.Minute)), JoinVersion: 4})
			}
		}
		tell("iot/iot", mesh.TelemetryEnriched, tenant, mesh.EncodeReadings(readings))
		tell("analytics/analytics", mesh.AnalyticsJoined, tenant, mesh.EncodeJoined(joined))
		tell("iot/iot", mesh.TelemetryRejected, tenant, mesh.EncodeRejections([]mesh.Rejection{{
			Message: mesh.Message{ID: tenant + "-message", Source: "/" + tenant + "-gateway", ReceivedAt: mesh.At(now), Payload: []byte(tenant + "-payload")}, Cause: tenant + "-cause", Reader: "plain",
		}}))
	}
	parked := mesh.Reading{ReadingID: "parked", DeviceID: foreign + "-parked", Metric: "co2", Value: 1, ObservedAt: mesh.At(now), ReceivedAt: mesh.At(now)}
	tell("iot/iot", mesh.TelemetryUnassigned, "", mesh.EncodeReadings([]mesh.Reading{parked}))
	return w
}

// asks are the addresses of a route that ask for what a tenant has: its parameters
// are filled in, and what any page takes is asked with the tenant.
func asks(pattern, tenant string) (all []string) {
	_, path, _ := strings.Cut(pattern, " ")
	path = strings.TrimSuffix(path, "{$}")
	paths := []string{path}
	for _, parameter := range []string{"id", "name", "token", "product", "port"} {
		if !strings.Contains(path, "{"+parameter+"}") {
			continue
		}
		values := map[string][]string{
			"product": {"iot-analytics", "iot-telemetry", "customers", "event-log"},
			"port":    {"iot_analytics.readings", "readings", "iot_metadata.placements", "placements", "customers", "customers.customers", "events"},
		}[parameter]
		if values == nil {
			values = []string{tenant, tenant + "-message"}
		}
		var filled []string
		for _, p := range paths {
			for _, v := range values {
				filled = append(filled, strings.ReplaceAll(p, "{"+parameter+"}", url.PathEscape(v)))
			}
		}
		paths = filled
	}
	queries := []url.Values{{}, {"tenant": {tenant}}}
	for name, value := range map[string]string{
		"room": tenant + "-building/" + tenant + "-floor/" + tenant + "-room", "building": tenant + "-building", "device": tenant + "-device",
		"metric": tenant + "_metric", "action": tenant + "-action", "q": tenant, "id": tenant, "source": "/" + tenant + "-source", "filter": "EXISTS tenantid", "type": mesh.AnalyticsJoined,
	} {
		queries = append(queries, url.Values{name: {value}, "tenant": {tenant}})
	}
	for _, p := range paths {
		for _, q := range queries {
			all = append(all, p+"?"+q.Encode())
		}
	}
	return all
}

// first asks for what may never end, and gives the status and what came within a
// moment.
func (b *browser) first(method, path string) (status int, text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, b.url+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		// It watches what is stored from now on, which stream_test is about; here it is
		// what it says at first.
		time.AfterFunc(50*time.Millisecond, cancel)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, context.Canceled) {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, fmt.Sprint(resp.Header) + string(body)
}

// Whoever asks whatever way for it: what is another tenant's is in no byte of an
// answer, but for the words that the question had.
func TestForeignDataIsInNoAnswer(t *testing.T) {
	now := time.Now()
	w := stored(t, now)
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	data := access.New(w, all)
	feed := live.New(data, live.Config{Interval: time.Second, Overlap: time.Second}, slog.New(slog.DiscardHandler))
	t.Cleanup(feed.Close)
	s := onSQLite(t, Config{Data: data, Live: feed})
	s.at.Store(now.UnixMicro())
	visitors := []struct {
		name   string
		viewer access.Viewer
		again  func() *browser
	}{{"nobody", access.Viewer{}, s.browser}}
	for _, role := range []access.Role{access.Tenant, access.Analyst, access.Admin} {
		var tenants []string
		if role == access.Tenant {
			tenants = []string{own}
		}
		who := s.person("the-"+string(role), role, tenants...)
		visitors = append(visitors, struct {
			name   string
			viewer access.Viewer
			again  func() *browser
		}{string(role), who.Viewer(), func() *browser { return s.logIn(who) }})
	}
	for _, visitor := range visitors {
		b := visitor.again()
		seen, asked := map[string]bool{}, 0
		for _, each := range s.portal.routes() {
			method, _, _ := strings.Cut(each.pattern, " ")
			for _, tenant := range []string{own, foreign} {
				for _, path := range asks(each.pattern, tenant) {
					if strings.Count(path, "=") > 1 && (method != http.MethodGet || !each.who.lets(visitor.viewer)) {
						continue // these take forms, and are asked without one; those look at nothing
					}
					asked++
					status, text := b.first(method, path)
					refused := status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusSeeOther
					switch {
					case status >= 500:
						t.Errorf("%s: %s %s: %d\n%.500s", visitor.name, method, path, status, text)
					case !each.who.lets(visitor.viewer) && !refused:
						t.Errorf("%s: %s %s: %d, want a refusal", visitor.name, method, path, status)
					case !visitor.viewer.Team():
						for _, word := range foreignWords {
							if at := strings.Index(text, word); at >= 0 && !strings.Contains(unescaped(path), word) {
								t.Errorf("%s: %s %s: %d shows …%s…", visitor.name, method, path, status, text[max(0, at-80):min(len(text), at+80)])
							}
						}
					}
					if strings.Contains(text, own+"-room") && !strings.Contains(path, own+"-room") {
						seen[each.pattern] = true
					}
				}
			}
			if method == http.MethodPost && visitor.name != "nobody" { // it may have logged out
				b = visitor.again()
			}
		}
		t.Logf("%s: %d requests, own rooms in the answers of %d routes", visitor.name, asked, len(seen))
		if visitor.name == "nobody" && len(seen) > 0 {
			t.Errorf("nobody sees rooms: %v", seen)
		}
		if visitor.name != "nobody" && (!seen["GET /air"] || !seen["GET /api/air/readings.csv"]) {
			t.Errorf("%s sees own rooms in %v alone", visitor.name, seen)
		}
	}
}

func unescaped(s string) string {
	if text, err := url.QueryUnescape(s); err == nil {
		return text
	}
	return s
}

// What shows persons or payloads is in the audit log before it is shown, with the
// address that was asked for, and what cannot be in it is not shown. Each route says
// why if it is not one of these.
func TestRoutesAreRecorded(t *testing.T) {
	s := onSQLite(t, Config{})
	boss := access.Viewer{ID: "1", Name: "boss", Role: access.Admin}
	s.portal.viewer = func(*http.Request) (access.Viewer, bool, error) { return boss, true, nil }
	ask := func(each route, query string) (served bool, status int) {
		t.Helper()
		method, path, _ := strings.Cut(each.pattern, " ")
		path = strings.ReplaceAll(path, "{$}", "")
		before, err := s.audit.Verify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		each.serve = func(http.ResponseWriter, *http.Request, access.Viewer) error {
			served = true
			all, err := s.audit.List(t.Context(), 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			if each.records.as == "" {
				if len(all) > 0 && all[0].Seq != before.Seq {
					t.Errorf("%s: %+v is in the audit log", each.pattern, all[0])
				}
				return nil
			}
			want := audit.Entry{Seq: before.Seq + 1, Who: "boss", From: "192.0.2.1", Action: each.records.as, Object: method + " " + (&url.URL{Path: path}).EscapedPath(), Detail: query}
			if len(all) == 0 {
				t.Fatalf("%s: the audit log is empty", each.pattern)
			}
			if got := all[0]; got.Seq != want.Seq || got.Who != want.Who || got.From != want.From || got.Action != want.Action || got.Object != want.Object || got.Detail != want.Detail {
				t.Errorf("%s: the audit log ends with %+v, want %+v", each.pattern, got, want)
			}
			return nil
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, (&url.URL{Path: path, RawQuery: query}).String(), nil)
		s.portal.withSession(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.portal.enter(w, r, each) })).ServeHTTP(w, r)
		return served, w.Code
	}
	recorded := 0
	for _, each := range s.portal.routes() {
		if (each.records.as == "") == (each.records.not == "") {
			t.Errorf("%s: either something is recorded, or there is a reason why not", each.pattern)
		}
		if served, status := ask(each, "id=1&q=x%20y"); !served {
			t.Errorf("%s is not served: %d", each.pattern, status)
		}
		if each.records.as == "" {
			continue
		}
		recorded++
		if served, status := ask(each, strings.Repeat("x", audit.MaxDetail+1)); served || status != http.StatusBadRequest {
			t.Errorf("%s is served: %t, %d, though the log cannot keep what was asked", each.pattern, served, status)
		}
	}
	if recorded < 15 {
		t.Errorf("%d routes are recorded", recorded)
	}
}
