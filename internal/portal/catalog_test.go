package portal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/portal"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/topology/manifests"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// cells is a row by the names of its columns.
type cells struct {
	table *contract.Table
	of    map[string]warehouse.Cell
}

func (c cells) Cells(dst []warehouse.Cell) []warehouse.Cell {
	for _, column := range c.table.Cells() {
		cell, ok := c.of[column.Name]
		if !ok && column.Required && column.Name != contract.RecordedAt {
			cell = map[contract.Type]warehouse.Cell{
				contract.String: warehouse.String("x"), contract.Int64: warehouse.Int(0), contract.Bool: warehouse.Bool(false), contract.Timestamp: warehouse.Instant(0),
			}[column.Type]
		}
		dst = append(dst, cell)
	}
	return dst
}

// shop is a portal over a warehouse with rows of two tenants, in which everything
// of the other tenant has the word foreign in it. Who comes says the header Who.
type shop struct {
	*httptest.Server
	here func() topology.Here
}

var visitors = map[string]access.Viewer{
	"admin":   {ID: "1", Name: "ada", Role: access.Admin},
	"analyst": {ID: "2", Name: "ann", Role: access.Analyst},
	"tenant":  {ID: "3", Name: "ted", Role: access.Tenant, Tenants: []string{"school"}},
}

func open(t *testing.T, here func() topology.Here) *shop {
	t.Helper()
	db := duckdbtest.Open(t)
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]*contract.Table{}
	for _, p := range all {
		for i := range p.Tables {
			tables[p.Tables[i].FullName()] = &p.Tables[i]
		}
	}
	store := func(table string, rows ...map[string]warehouse.Cell) {
		b := warehouse.Batch{Table: table, EventSource: "/test", EventID: table}
		for _, of := range rows {
			b.Rows = append(b.Rows, cells{tables[table], of})
		}
		if _, err := db.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	text, now := warehouse.String, warehouse.Instant(mesh.At(time.Now().Add(-time.Second)))
	for _, schema := range []string{"iot_telemetry", "iot_analytics"} {
		var rows []map[string]warehouse.Cell
		for i, tenant := range []string{"school", "foreign"} {
			rows = append(rows, map[string]warehouse.Cell{
				"reading_id": text(strings.Repeat(fmt.Sprint(i), 32)), "tenant_id": text(tenant), "device_id": text("<b>" + tenant + "-device"), "metric": text("co2"),
				"value": warehouse.Float(512.5), "observed_at": now, "received_at": now, "building": text(tenant + " building"), "room": text(tenant + " room"),
				"customer_name": text(tenant + " customer"), "attributes": text(`{"of":"` + tenant + `"}`), "event_source": text("/" + tenant),
			})
		}
		store(schema+".readings", rows...)
	}
	store("iot_metadata.placements", map[string]warehouse.Cell{"device_id": text("<b>school-device"), "tenant_id": text("school")}, map[string]warehouse.Cell{"device_id": text("foreign-device"), "tenant_id": text("foreign")})
	store("customers.customers", map[string]warehouse.Cell{"customer_id": text("school"), "name": text("The school")}, map[string]warehouse.Cell{"customer_id": text("foreign"), "name": text("foreign customer")})
	store("iot_actions.actions", map[string]warehouse.Cell{"action_id": text("a1"), "tenant_id": text("school"), "device_id": text("<b>school-device"), "action": text("opened"), "taken_at": now},
		map[string]warehouse.Cell{"action_id": text("a2"), "tenant_id": text("foreign"), "device_id": text("foreign-device"), "action": text("foreign action"), "taken_at": now})
	store("event_log.events",
		map[string]warehouse.Cell{"event_id": text("e1"), "source": text(mesh.Source("telemetry-ingest")), "type": text(mesh.TelemetryReceived), "broker": text("iot/iot"), "received_at": now, "data": text("foreign")},
		map[string]warehouse.Cell{"event_id": text("e2"), "source": text(mesh.Source("tenant-enrich")), "type": text(mesh.TelemetryEnriched), "broker": text("iot/iot"), "received_at": now, "extensions": text(`{"tenantid":"foreign"}`)})
	verdict := func(hours int, kept bool, n float64) map[string]warehouse.Cell {
		return map[string]warehouse.Cell{"port": text("customers.customers"), "rule": text("table.duplicateValues.customer_id"), "counted": warehouse.Float(n), "kept": warehouse.Bool(kept),
			"checked_at": warehouse.Instant(mesh.At(time.Now().Add(-time.Duration(hours) * time.Hour)))}
	}
	failed := verdict(3, false, 0)
	delete(failed, "kept")
	delete(failed, "counted")
	failed["port"], failed["rule"], failed["error"] = text("iot_actions.actions"), text("table.duplicateValues.action_id"), text("<b>no answer")
	store("mesh_metrics.quality_results", verdict(5, true, 0), verdict(3, false, 7), verdict(1, false, 11), failed)
	m, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS})
	if err != nil {
		t.Fatal(err)
	}
	p, err := portal.New(portal.Config{
		Data: access.New(db, all), Products: all, Mesh: m, Here: here, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Viewer: func(r *http.Request) (access.Viewer, bool, error) {
			v, ok := visitors[r.Header.Get("Who")]
			return v, ok, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(p.Handler())
	t.Cleanup(s.Close)
	return &shop{Server: s, here: here}
}

// get gives the status and the text of a page.
func (s *shop) get(t *testing.T, who, path string) (int, string) {
	t.Helper()
	return s.do(t, http.MethodGet, who, path)
}

func (s *shop) do(t *testing.T, method, who, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Who", who)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// paths of the catalog, one for each product and for each port.
func paths(t *testing.T) []string {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{"/catalog", "/catalog?q=room", "/catalog?q=" + url.QueryEscape("<script>")}
	for _, p := range all {
		out = append(out, "/catalog/"+p.Name)
		for _, port := range p.Ports {
			out = append(out, "/catalog/"+p.Name+"/"+port.Name, "/catalog/"+p.Name+"/"+port.Name+"?confidential=show")
		}
	}
	return out
}

// Nothing of another tenant is in any byte of what a tenant is shown, and what the
// pages have to show is there.
func TestCatalogIsOfTheViewer(t *testing.T) {
	s := open(t, nil)
	for _, path := range paths(t) {
		for who := range visitors {
			status, page := s.get(t, who, path)
			if status != http.StatusOK {
				t.Errorf("%s: %s: status %d", who, path, status)
			}
			if who == "tenant" && strings.Contains(page, "foreign") {
				at := strings.Index(page, "foreign")
				t.Errorf("%s: %s shows …%s…", who, path, page[max(0, at-60):min(len(page), at+60)])
			}
			if strings.Contains(page, "<b>") || strings.Contains(page, "<script>") || strings.Contains(page, "style=") {
				t.Errorf("%s: %s has markup of data, or style in it", who, path)
			}
		}
	}
	readings := "/catalog/iot-analytics/iot_analytics.readings"
	for _, test := range []struct {
		who, path string
		has       []string
		lacks     []string
	}{
		{"tenant", readings, []string{"school room", "&lt;b&gt;school-device", "tenant_id = &#39;school&#39;", "Rows you see</dt><dd>1<"}, []string{"Count now", "confidential=show"}},
		{"analyst", readings, []string{"Rows you see</dt><dd>2<", "hidden</span>", "confidential=show", "Count now", "p50"}, []string{"foreign room", "school room"}},
		{"admin", readings + "?confidential=show", []string{"foreign room", "school room"}, []string{"confidential=show#sample"}},
		{"tenant", "/catalog/event-log/event_log.events", []string{"not yours to see"}, nil},
		{"tenant", "/catalog/iot-telemetry/" + mesh.TelemetryEnriched, []string{"tenantid: &#34;school&#34;"}, []string{"in the last hour"}},
		{"analyst", "/catalog/iot-telemetry/" + mesh.TelemetryEnriched, []string{"1 in the last hour", "tenantid: &#34;my-tenant&#34;", "iot/iot-telemetry-sink"}, nil},
		{"tenant", "/catalog/iot-analytics/iot_analytics.co2_evolution", []string{"school room", "Derived: the SQL of the view is parsed"}, nil},
		{"admin", "/catalog?q=outside_co2", []string{"co2_evolution", "#c-outside_co2"}, []string{"rejected_rows"}},
		{"admin", "/catalog?q=xyzzy", []string{"Nothing has all these words"}, nil},
	} {
		_, page := s.get(t, test.who, test.path)
		for _, text := range test.has {
			if !strings.Contains(page, text) {
				t.Errorf("%s: %s lacks %q", test.who, test.path, text)
			}
		}
		for _, text := range test.lacks {
			if strings.Contains(page, text) {
				t.Errorf("%s: %s has %q", test.who, test.path, text)
			}
		}
	}
}

// Each address on the pages leads to something, and each place on a page is there.
func TestLinksOfTheCatalogLead(t *testing.T) {
	s := open(t, nil)
	link := regexp.MustCompile(`href="([^"]*)"`)
	checked := map[string]string{}
	var err error
	page := func(path string) string {
		if _, ok := checked[path]; !ok {
			status, text := s.get(t, "admin", path)
			if status != http.StatusOK && status != http.StatusSeeOther {
				t.Errorf("%s: status %d", path, status)
			}
			checked[path] = text
		}
		return checked[path]
	}
	places := 0
	for _, from := range append(paths(t), "/mesh") {
		for _, m := range link.FindAllStringSubmatch(page(from), -1) {
			to, place, _ := strings.Cut(html.UnescapeString(m[1]), "#")
			if to != "" && !strings.HasPrefix(to, "/catalog") && !strings.HasPrefix(to, "/mesh") && !strings.HasPrefix(to, "?") {
				continue // of others
			}
			if to == "" {
				to = from
			} else if strings.HasPrefix(to, "?") {
				to, _, _ = strings.Cut(from, "?")
				to += html.UnescapeString(m[1])
				to, _, _ = strings.Cut(to, "#")
			}
			text := page(to)
			if place != "" {
				places++
				if place, err = url.PathUnescape(place); err != nil {
					t.Errorf("%s: %v", m[1], err)
				}
				if !strings.Contains(text, `id="`+html.EscapeString(place)+`"`) {
					t.Errorf("%s leads to %s, where there is no %s", from, to, place)
				}
			}
		}
	}
	if len(checked) < 30 || places < 100 {
		t.Errorf("%d pages and %d places were looked at", len(checked), places)
	}
}

func TestCheckIsForTheTeam(t *testing.T) {
	s := open(t, nil)
	const port = "/catalog/iot-analytics/iot_analytics.readings"
	if status, _ := s.do(t, http.MethodPost, "tenant", port+"/check"); status != http.StatusForbidden {
		t.Errorf("a tenant has rules counted: status %d", status)
	}
	if _, page := s.get(t, "analyst", port); strings.Contains(page, ">kept<") || strings.Contains(page, ">broken<") {
		t.Error("rules are counted before anybody asked")
	}
	if status, _ := s.do(t, http.MethodPost, "analyst", port+"/check"); status != http.StatusSeeOther {
		t.Errorf("status %d", status)
	}
	if _, page := s.get(t, "admin", port); strings.Count(page, ">kept<") != 5 {
		t.Errorf("%d rules are kept, want 5", strings.Count(page, ">kept<"))
	}
	if _, page := s.get(t, "tenant", port); strings.Contains(page, ">kept<") {
		t.Error("a tenant is shown what was counted over the rows of all")
	}
}

// What the last checks found is on the pages of the port, of the catalog and of
// operations, for who sees the rows of all tenants.
func TestResultsOfChecks(t *testing.T) {
	s := open(t, nil)
	const customers, actions = "/catalog/customers/customers.customers", "/catalog/iot-actions/iot_actions.actions"
	for _, test := range []struct {
		who, path string
		has       []string
	}{
		{"analyst", customers, []string{">broken<", ">11 <", `aria-label="kept in 1 of the last 3 checks"`, `<i></i><i class="bad"></i><i class="bad"></i></span>`}},
		{"admin", actions, []string{">not known<", "&lt;b&gt;no answer", `<i class="poor"></i></span>`}},
		{"admin", "/catalog", []string{"0 of 1 rules kept"}},
		{"admin", "/catalog/customers", []string{"0 of 1 rules kept"}},
		{"analyst", "/operations/quality", []string{"customers.customers", "crm-team", ">11 <", " h ago", "iot_actions.actions", "&lt;b&gt;no answer"}},
	} {
		status, page := s.get(t, test.who, test.path)
		for _, text := range test.has {
			if status != http.StatusOK || !strings.Contains(page, text) {
				t.Errorf("%s: %s (status %d) lacks %q", test.who, test.path, status, text)
			}
		}
	}
	for _, path := range []string{customers, actions, "/catalog", "/catalog/customers"} {
		status, page := s.get(t, "tenant", path)
		for _, text := range []string{">broken<", ">not known<", "rules kept", "last 3 checks"} {
			if status != http.StatusOK || strings.Contains(page, text) {
				t.Errorf("tenant: %s (status %d) has %q", path, status, text)
			}
		}
	}
	if status, _ := s.get(t, "tenant", "/operations/quality"); status != http.StatusForbidden {
		t.Errorf("tenant: /operations/quality: status %d", status)
	}
}

func TestCatalogRefuses(t *testing.T) {
	s := open(t, nil)
	for path, want := range map[string]int{
		"/catalog/nothing":                                       http.StatusNotFound,
		"/catalog/iot-analytics/nothing":                         http.StatusNotFound,
		"/catalog/iot-metadata/iot_analytics.readings":           http.StatusNotFound, // of another product
		"/catalog/iot-telemetry/iot_telemetry_internal.rejected": http.StatusNotFound,
		"/catalog?q=" + strings.Repeat("a", 201):                 http.StatusBadRequest,
	} {
		if status, _ := s.get(t, "admin", path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	if status, _ := s.get(t, "nobody", "/catalog"); status != http.StatusSeeOther {
		t.Errorf("who has not logged in: status %d", status)
	}
	for _, path := range []string{"/mesh", "/api/mesh"} {
		status, page := s.get(t, "tenant", path)
		if status != http.StatusForbidden || strings.Contains(page, "foreign") {
			t.Errorf("a tenant at %s: status %d", path, status)
		}
		if says := "his page is not for the role tenant"; !strings.Contains(page, says) || strings.Contains(page, access.ErrForbidden.Error()) {
			t.Errorf("a tenant at %s is not told that t%s", path, says)
		}
		if path == "/mesh" && (!strings.Contains(page, `<p>This page is not for the role tenant.</p>`) || !strings.Contains(page, `You may see <a href="/air">Air</a>, <a href="/catalog">Catalog</a>.`)) {
			t.Errorf("a tenant is not led to what is theirs: %s", page)
		}
	}
}

// The graph has all Brokers, Triggers, tables and views, and its numbers are
// those of the log.
func TestMesh(t *testing.T) {
	s := open(t, nil)
	status, page := s.get(t, "analyst", "/mesh")
	if status != http.StatusOK || strings.Contains(page, "style=") || strings.Contains(page, "foreign") {
		t.Fatalf("status %d", status)
	}
	m, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS})
	if err != nil {
		t.Fatal(err)
	}
	var graph struct {
		Nodes []struct{ ID, Kind, Link string }
		Edges []struct{ ID, From, To, Kind, Name string }
	}
	embedded(t, page, "graph-data", &graph)
	var state struct {
		Cells map[string]string
		Busy  map[string]int64
	}
	embedded(t, page, "graph-state", &state)
	drawn := map[string]bool{}
	for _, e := range graph.Edges {
		drawn[e.Kind+" "+e.Name] = true
	}
	kinds := map[string]int{}
	ids := map[string]bool{}
	for _, n := range graph.Nodes {
		kinds[n.Kind]++
		ids[n.ID] = true
	}
	for _, trigger := range m.Triggers {
		if !drawn["takes "+trigger.Ref.String()] {
			t.Errorf("Trigger %s is not drawn", trigger.Ref)
		}
		if !strings.Contains(page, `id="trigger-`+trigger.Ref.String()+`"`) {
			t.Errorf("Trigger %s is not in the table", trigger.Ref)
		}
	}
	for _, e := range graph.Edges {
		if !ids[e.From] || !ids[e.To] {
			t.Errorf("edge %s leads from or to nothing", e.ID)
		}
	}
	if kinds["broker"] != 4 || kinds["view"] < 4 || kinds["table"] < 9 || kinds["function"] < 15 || kinds["event"] < 25 {
		t.Errorf("drawn are %v", kinds)
	}
	for _, stored := range []string{"iot/iot-telemetry-sink table iot_telemetry_internal.rejected", "platform/event-log table event_log.events", "analytics/iot-analytics-sink table iot_analytics.readings"} {
		if !slices.ContainsFunc(graph.Edges, func(e struct{ ID, From, To, Kind, Name string }) bool { return e.ID == "stores function "+stored }) {
			t.Errorf("not drawn: %s", stored)
		}
	}
	for cell, want := range map[string]string{
		"broker iot/iot hour":                 "2",
		"trigger iot/telemetry-flatten hour":  "1",
		"trigger iot/iot-telemetry-sink hour": "1",
		"trigger iot/tenancy-repair hour":     "0",
		"function iot/tenant-enrich hour":     "1",
		"trigger iot/event-log rate":          "0.4/min",
		"trigger iot/event-log letters":       "0",
		"trigger iot/tenant-enrich waits":     "0",
		"table iot_analytics.readings rows":   "2",
	} {
		if got := state.Cells[cell]; got != want {
			t.Errorf("%s is %q, want %q", cell, got, want)
		}
	}
	if waits := state.Cells["trigger iot/telemetry-flatten waits"]; !strings.HasPrefix(waits, "1, for ") {
		t.Errorf("of what was received and not flattened it says %q", waits)
	}
	if lag := state.Cells["trigger iot/event-log p95"]; !strings.HasPrefix(lag, "logged ") {
		t.Errorf("of how far the log is behind it says %q", lag)
	}
	if strings.Contains(page, "takes (type = dev.telemesh") || !strings.Contains(page, "takes (type = telemetry.enriched or ") {
		t.Error("filters are not told in short")
	}
	if n := state.Busy["takes iot/iot-telemetry-sink "+mesh.TelemetryEnriched]; n != 1 {
		t.Errorf("%d events went to the sink", n)
	}
	if strings.Contains(page, "curl") || strings.Contains(page, "In flight") {
		t.Error("on a cluster it shows what only the process of a whole mesh knows")
	}
	// Asked again it is the same shape, for the script.
	status, answer := s.get(t, "admin", "/api/mesh")
	var again struct{ Cells map[string]string }
	if err := json.Unmarshal([]byte(answer), &again); err != nil || status != http.StatusOK || again.Cells["broker iot/iot hour"] != "2" {
		t.Errorf("status %d, %v: %s", status, err, answer)
	}
}

// embedded reads the data for a script.
func embedded(t *testing.T, page, id string, into any) {
	t.Helper()
	_, text, ok := strings.Cut(page, `<script type="application/json" id="`+id+`">`)
	text, _, end := strings.Cut(text, "</script>")
	if !ok || !end {
		t.Fatalf("no %s", id)
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%s: %v\n%s", id, err, text)
	}
}

// A process that runs the whole mesh knows what waits, and where it listens.
func TestMeshHere(t *testing.T) {
	m, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS})
	if err != nil {
		t.Fatal(err)
	}
	enrich := topology.Ref{Namespace: "iot", Name: "tenant-enrich"}
	s := open(t, func() topology.Here {
		return topology.Here{
			Mesh: m, Since: time.Now(), Folder: "/data/broker", Ingest: "http://127.0.0.1:1/", Ingress: "http://127.0.0.1:2/",
			Triggers: []topology.Count{{Trigger: enrich, Pending: 1234, InFlight: 3, Delivered: 5, Retried: 7, DeadLettered: 9}},
			Failures: []topology.Failure{{At: time.Now(), Trigger: enrich, EventID: "e9", EventType: mesh.TelemetryFlattened, Status: 503, Text: "<b>away"}},
		}
	})
	status, page := s.get(t, "analyst", "/mesh")
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	for _, text := range []string{
		`curl -d '{"device_id": "desk-1", "metrics": {"co2": 812}}' http://127.0.0.1:1/`, "http://127.0.0.1:2/NAMESPACE/BROKER", "/data/broker",
		`data-live="trigger iot/tenant-enrich pending">1 234<`, `data-live="trigger iot/tenant-enrich dead">9<`, "&lt;b&gt;away",
	} {
		if !strings.Contains(page, text) {
			t.Errorf("the page lacks %s", text)
		}
	}
}
