package portal

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/rejected"
	"github.com/telemesh/telemesh/internal/users"
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

// having is what a tenant has that an address or a form names.
type having struct {
	event         *event.Event // that brought its readings
	letter        string
	message       string // that was rejected
	user, invited string // id of a user; token of the link of another
}

// stored is a warehouse with readings, a placement, an action and a customer of
// each of the two, what could not be taken or delivered, and the events that brought
// it.
func stored(t *testing.T, now time.Time) (warehouse.Warehouse, map[string]*having) {
	t.Helper()
	w, all := duckdbtest.Open(t), map[string]*having{own: {}, foreign: {}}
	none := func(context.Context, event.Event) error { return nil }
	rows, log := sink.New(w, sink.Tables{}, none), sink.NewLog(w, nil)
	tell := func(broker, eventType, tenant string, data []byte) event.Event {
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
		return e
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
		e := tell("analytics/analytics", mesh.AnalyticsJoined, tenant, mesh.EncodeJoined(joined))
		letter := deadletter.New(e, "/analytics/"+tenant+"-trigger", now)
		letter.Cause = tenant + "-cause"
		if err := deadletter.Put(t.Context(), w, &letter); err != nil {
			t.Fatal(err)
		}
		all[tenant].event, all[tenant].letter = &e, letter.ID
		tell("iot/iot", mesh.TelemetryRejected, tenant, mesh.EncodeRejections([]mesh.Rejection{{
			Message: mesh.Message{ID: tenant + "-message", Source: "/" + tenant + "-gateway", ReceivedAt: mesh.At(now), Payload: []byte(tenant + "-payload")}, Cause: tenant + "-cause", Reader: "plain",
		}}))
	}
	parked := mesh.Reading{ReadingID: "parked", DeviceID: foreign + "-parked", Metric: "co2", Value: 1, ObservedAt: mesh.At(now), ReceivedAt: mesh.At(now)}
	tell("iot/iot", mesh.TelemetryUnassigned, "", mesh.EncodeReadings([]mesh.Reading{parked}))
	for m, err := range rejected.Select(t.Context(), w, rejected.Selection{}, "received_at") {
		if err != nil {
			t.Fatal(err)
		}
		tenant, _, _ := strings.Cut(m.ID, "-")
		all[tenant].message = m.Name
	}
	return w, all
}

// filled is the path of a route with what a tenant has; of the catalog the pages of
// all ports, as the contracts name them.
func filled(c *catalog.Catalog, pattern, tenant string, has *having) (all []string) {
	_, path, _ := strings.Cut(strings.TrimSuffix(pattern, "{$}"), " ")
	if strings.Contains(path, "{product}") {
		for _, product := range c.Products {
			of := strings.ReplaceAll(path, "{product}", url.PathEscape(product.Name))
			if strings.Contains(path, "{table}") {
				for i := range product.Tables {
					all = append(all, strings.ReplaceAll(of, "{table}", url.PathEscape(product.Tables[i].Name)))
				}
				continue
			}
			if !strings.Contains(path, "{port}") {
				all = append(all, of)
				continue
			}
			for _, port := range product.Ports {
				all = append(all, strings.ReplaceAll(of, "{port}", url.PathEscape(port.Name)))
			}
		}
		return all
	}
	id := has.user
	if strings.Contains(path, "/deadletters/") {
		id = has.letter
	}
	name := has.message
	if strings.HasPrefix(path, "/assets/") {
		name = "portal.css"
	}
	return []string{strings.NewReplacer("{id}", id, "{name}", name, "{token}", has.invited).Replace(path)}
}

// asks are the addresses of a route that ask for what a tenant has.
func asks(c *catalog.Catalog, pattern, tenant string, has *having) (all []string) {
	at := mesh.At(time.Now().Add(-time.Hour))
	queries := []url.Values{{}, {"tenant": {tenant}}}
	if strings.Contains(pattern, "/catalog") {
		queries = append(queries, url.Values{"tenant": {tenant}, "confidential": {"show"}, "q": {tenant}})
	} else {
		for name, value := range map[string]string{
			"room": tenant + "-building/" + tenant + "-floor/" + tenant + "-room", "building": tenant + "-building", "device": tenant + "-device", "metric": tenant + "_metric",
			"action": tenant + "-action", "filter": "tenantid = '" + tenant + "'", "type": mesh.AnalyticsJoined, "cause": tenant + "-cause",
		} {
			queries = append(queries, url.Values{name: {value}, "tenant": {tenant}, "reader": {"plain"}})
		}
		queries = append(queries, url.Values{"source": {has.event.Source()}, "id": {has.event.ID()}, "metric": {"co2"}, "tenant": {tenant}},
			url.Values{"do": {"redrive"}, "id": {has.letter}, "from": {at.String()}}, url.Values{"id": {has.message}})
	}
	for _, path := range filled(c, pattern, tenant, has) {
		for _, q := range queries {
			all = append(all, path+"?"+q.Encode())
		}
	}
	return all
}

// sent is what a form or a program sends to a route about what a tenant has: with
// what is right, where it does not end what the others are asked with.
func sent(pattern, tenant string, has *having, visit int) (form url.Values, body any) {
	name := fmt.Sprint("someone-", visit)
	switch pattern {
	case "POST /api/users":
		body = newUser{Name: name, Role: access.Tenant, Tenants: []string{own}}
	case "PUT /api/users/{id}":
		body = rights{Role: access.Tenant, Tenants: []string{own}, Disabled: new(bool)}
	case "PUT /api/users/me":
		body = passwords{"not the password", password}
	case "POST /api/token":
		body = credentials{tenant, password, "000000"}
	}
	form = url.Values{
		"name": {name}, "role": {"tenant"}, "tenants": {own}, "user": {has.user}, "password": {password}, "new": {password}, "again": {password}, "code": {"000000"},
		"do": {"redrive"}, "id": {has.message}, "reason": {"because"}, "tenant": {tenant}, "sql": {"SELECT * FROM iot_analytics.readings WHERE tenant_id = '" + tenant + "' LIMIT 5"},
	}
	if strings.Contains(pattern, "/deadletters/") {
		form.Set("id", strings.Repeat("0", 32)) // what is done with letters, a mesh has to do
	}
	return form, body
}

// asksElsewhere are routes of which an admin gets nothing here, and where they are
// tested with what they need.
var asksElsewhere = map[string]string{
	"POST /login":            "TestFirstAdminSetsUpAndLogsIn",
	"POST /login/demo":       "TestDemo",
	"POST /setup/{token}":    "TestFirstAdminSetsUpAndLogsIn",
	"POST /login/code":       "TestFirstAdminSetsUpAndLogsIn",
	"POST /api/token":        "TestAPI",
	"PUT /api/users/me":      "TestAPI",
	"POST /account/password": "TestAccount",
	"POST /account/codes":    "TestAccount",
	"POST /account/recovery": "TestAccount",
}

// first asks for what may never end, and gives the status and what came within a
// moment.
func (b *browser) first(method, path, token string, form url.Values, body any) (status int, text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	var in io.Reader
	media := ""
	switch {
	case body != nil:
		text, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		in, media = bytes.NewReader(text), "application/json"
	case form != nil:
		in, media = strings.NewReader(form.Encode()), "application/x-www-form-urlencoded"
	}
	r, err := http.NewRequestWithContext(ctx, method, b.url+path, in)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		// It watches what is stored from now on, which stream_test is about; here it is
		// what it says at first.
		time.AfterFunc(20*time.Millisecond, cancel)
	}
	all, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, context.Canceled) {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, fmt.Sprint(resp.Header) + string(all)
}

// Whoever asks whatever way for it, by a page, a form or a program: what is another
// tenant's is in no byte of an answer, but for the words that the question had. Each
// route is asked for what it answers to an admin, so that what others are refused is
// there.
func TestForeignDataIsInNoAnswer(t *testing.T) {
	now := time.Now()
	w, has := stored(t, now)
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	data := access.New(w, all)
	feed := live.New(data, live.Config{Interval: time.Second, Overlap: time.Second}, slog.New(slog.DiscardHandler))
	t.Cleanup(feed.Close)
	formats, err := flatten.ReadFormats("")
	if err != nil {
		t.Fatal(err)
	}
	s := onSQLite(t, Config{Data: data, Live: feed, Products: all, Documents: products.FS, Act: Acting{
		Parser: formats.Parser, Post: func(context.Context, event.Event) error { return nil }, Leads: func() (deadletter.Leads, error) { return nil, nil },
	}})
	s.at.Store(now.UnixMicro())
	c, err := s.portal.inventory.catalog()
	if err != nil {
		t.Fatal(err)
	}
	for tenant, its := range has {
		its.user = s.person(tenant+"-user", access.Tenant, tenant).ID
		_, link, err := s.store.Add(t.Context(), users.By{Who: "test"}, "invited-"+its.user[:8], access.Tenant, []string{tenant})
		if err != nil {
			t.Fatal(err)
		}
		its.invited = link.Token
	}
	visitors := []struct {
		name   string
		person person
	}{{name: "nobody"}}
	for _, role := range []access.Role{access.Tenant, access.Analyst, access.Admin} {
		var tenants []string
		if role == access.Tenant {
			tenants = []string{own}
		}
		visitors = append(visitors, struct {
			name   string
			person person
		}{string(role), s.person("the-"+string(role), role, tenants...)})
	}
	for _, visitor := range visitors {
		viewer := visitor.person.Viewer()
		var token string
		enter := func() *browser {
			if visitor.name == "nobody" {
				return s.browser()
			}
			made, _, err := s.store.NewToken(t.Context(), users.Origin{Address: "192.0.2.1"}, visitor.person.Name, password, s.code(visitor.person.secret))
			if err != nil {
				t.Fatal(err)
			}
			s.pass(time.Minute)
			token = made.Text
			return s.logIn(visitor.person)
		}
		b := enter()
		seen, answered, asked := map[string]bool{}, map[string]bool{}, 0
		for _, each := range s.portal.routes() {
			method, _, _ := strings.Cut(each.pattern, " ")
			lets := each.who.lets(viewer)
			ask := func(path, token string, form url.Values, body any) {
				asked++
				status, text := b.first(method, path, token, form, body)
				refused := status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusSeeOther
				switch {
				case status >= 500 && status != http.StatusServiceUnavailable:
					t.Errorf("%s: %s %s: %d\n%.500s", visitor.name, method, path, status, text)
				case !lets && !refused:
					t.Errorf("%s: %s %s: %d, want a refusal", visitor.name, method, path, status)
				case !viewer.Team():
					said := unescaped(path) + fmt.Sprint(form, body)
					for _, word := range foreignWords {
						if at := strings.Index(text, word); at >= 0 && !strings.Contains(said, word) {
							t.Errorf("%s: %s %s: %d shows …%s…", visitor.name, method, path, status, text[max(0, at-80):min(len(text), at+80)])
						}
					}
				}
				if strings.Contains(text, own+"-room") && !strings.Contains(path, own+"-room") {
					seen[each.pattern] = true
				}
				if status < http.StatusBadRequest {
					answered[each.pattern] = true
				}
			}
			tenants := []string{own, foreign}
			if viewer.Team() { // to whom nothing is foreign
				tenants = tenants[:1]
			}
			for _, tenant := range tenants {
				if method != http.MethodGet {
					for _, path := range filled(c, each.pattern, tenant, has[tenant]) {
						form, body := sent(each.pattern, tenant, has[tenant], asked)
						if body == nil || strings.Contains(path, "/api/") {
							ask(path, token, form, body)
						}
					}
					if status, _ := b.first(http.MethodGet, "/account", "", nil, nil); lets && visitor.name != "nobody" && status != http.StatusOK || each.pattern == "DELETE /api/token" {
						b = enter() // it logged out
					}
					continue
				}
				for i, path := range asks(c, each.pattern, tenant, has[tenant]) {
					if i > 1 && !lets {
						continue // this looks at nothing
					}
					ask(path, "", nil, nil)
					if token != "" && i < 2 && (strings.Contains(path, "/api/") || strings.HasPrefix(path, documentsPath)) {
						ask(path, token, nil, nil)
					}
				}
			}
			if visitor.name == string(access.Admin) && !answered[each.pattern] && asksElsewhere[each.pattern] == "" {
				t.Errorf("%s answers an admin nothing: that others are not answered says nothing", each.pattern)
			}
		}
		t.Logf("%s: %d requests, own rooms in the answers of %d routes", visitor.name, asked, len(seen))
		if visitor.name == "nobody" && len(seen) > 0 {
			t.Errorf("nobody sees rooms: %v", seen)
		}
		if visitor.name != "nobody" && (!seen["GET /air"] || !seen["GET /api/air/readings.csv"] || !seen["GET /catalog/{product}/{port}"]) {
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
