package portal_test

import (
	"bufio"
	"context"
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

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/net/html"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/portal"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

// pages is a portal over a warehouse, at which everybody is who the header Viewer says.
type pages struct {
	*httptest.Server
	t         *testing.T
	warehouse warehouse.Warehouse
	feed      *live.Feed
}

func newPages(t *testing.T) *pages {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	p := &pages{t: t, warehouse: duckdbtest.Open(t)}
	data := access.New(p.warehouse, all)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p.feed = live.New(data, live.Config{Interval: time.Millisecond, Overlap: time.Minute}, log)
	made, err := portal.New(portal.Config{Data: data, Live: p.feed, Log: log, Viewer: func(r *http.Request) (access.Viewer, bool, error) {
		role := access.Role(r.Header.Get("Viewer"))
		return access.Viewer{ID: "1", Name: "ann", Role: role, Tenants: []string{"north"}}, role != "", nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.Server = httptest.NewServer(made.Handler())
	t.Cleanup(p.Close)
	t.Cleanup(p.feed.Close)
	return p
}

// ask gives the answer to a viewer of a role.
func (p *pages) ask(ctx context.Context, role access.Role, path string) *http.Response {
	p.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Viewer", string(role))
	resp, err := p.Client().Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp
}

func (p *pages) get(role access.Role, path string, status int) string {
	p.t.Helper()
	resp := p.ask(p.t.Context(), role, path)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != status {
		p.t.Fatalf("GET %s as %s: %s, want %d\n%.2000s", path, role, resp.Status, status, text)
	}
	return string(text)
}

// log stores an event as a Broker had it.
func (p *pages) log(broker string, e event.Event) {
	p.t.Helper()
	if _, err := sink.NewLog(p.warehouse, []string{mesh.TelemetryFlattened, mesh.TelemetryEnriched})(function.WithPath(p.t.Context(), "/"+broker), e); err != nil {
		p.t.Fatal(err)
	}
}

// made is an event of a type that was made of another one.
func made(of event.Event, eventType, source, id string) event.Event {
	e := mesh.NewEvent(eventType, source, []byte(`{}`))
	e.SetID(id)
	if of.Context != nil {
		mesh.SetCause(&e, of)
	}
	return e
}

func eventAt(source, id string) string {
	return "/live/event?" + url.Values{"source": {source}, "id": {id}}.Encode()
}

// stream reads the events of a stream until it has the one of an id.
func stream(t *testing.T, resp *http.Response, until string) (ids []string) {
	t.Helper()
	name := ""
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		line := lines.Text()
		if after, ok := strings.CutPrefix(line, "event: "); ok {
			name = after
		}
		text, ok := strings.CutPrefix(line, "data: ")
		if !ok || name != "events" {
			continue
		}
		var some struct {
			Events []struct {
				ID, Key, Link, Tenant string
			}
		}
		if err := json.Unmarshal([]byte(text), &some); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, e := range some.Events {
			if ids = append(ids, e.ID); e.ID == until {
				return ids
			}
		}
	}
	t.Fatalf("the stream ended after %v, without %s", ids, until)
	return nil
}

func TestLiveStream(t *testing.T) {
	p := newPages(t)
	p.log("iot/iot", made(event.Event{}, "com.example.a", "/test", "before"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp := p.ask(ctx, access.Analyst, "/api/live?filter="+url.QueryEscape("type LIKE 'com.example.%'"))
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %s", got)
	}
	p.log("iot/iot", made(event.Event{}, "org.example.other", "/test", "other"))
	p.log("iot/iot", made(event.Event{}, "com.example.a", "/test", "after"))
	if got := stream(t, resp, "after"); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("told of %v, want what was there and what came", got)
	}
	// The end of the feed is the end of the stream, so that the process can end.
	p.feed.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// A bad expression is told at the field with its place, and to programs as a problem.
func TestLiveFilterErrors(t *testing.T) {
	p := newPages(t)
	p.log("iot/iot", made(event.Event{}, "com.example.a", "/test", "a"))
	text := p.get(access.Admin, "/live?filter="+url.QueryEscape("type = 'é' AND AND"), http.StatusBadRequest)
	for _, want := range []string{`aria-invalid="true"`, "column 16: unexpected", "type = &#39;é&#39; AND AND\n               ^\n", `value="type = &#39;é&#39; AND AND"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not have %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "data-stream") {
		t.Error("the page has a stream, which would be refused")
	}
	text = p.get(access.Admin, "/api/live?filter="+url.QueryEscape("type ="), http.StatusBadRequest)
	var problem struct{ Detail string }
	if err := json.Unmarshal([]byte(text), &problem); err != nil || !strings.Contains(problem.Detail, "column 7") {
		t.Errorf("the stream says %s, %v", text, err)
	}
	// An attribute that an event does not have is no fault of the expression, and said.
	text = p.get(access.Admin, "/live?filter="+url.QueryEscape("tenantid = 'north'"), http.StatusOK)
	if !strings.Contains(text, "has no value for 1 of the latest events") {
		t.Errorf("the page does not say that the expression has no value:\n%s", text)
	}
}

// What events say is foreign. It becomes text, whatever it holds, and no browser opens
// their data.
func TestHostileEvents(t *testing.T) {
	p := newPages(t)
	const script = `<script>alert(1)</script>`
	var all []event.Event
	for i, data := range [][]byte{
		[]byte(`{"a": "` + script + `"}`), []byte("</code></pre>" + script), {0xff, 0xfe, 0, '<', 's'}, nil,
		[]byte(`"` + strings.Repeat("x", 200_000) + script + `"`), []byte("\xed\xa0\x80" + script), []byte(`["\ud800"]`),
	} {
		e := event.New()
		e.SetID(fmt.Sprintf(`%d"><img src=x onerror=alert(1)>`, i))
		e.SetSource("/a?b=" + url.QueryEscape(script) + "&c")
		e.SetType("com.example." + script)
		e.SetSubject(`javascript:alert(1) "' onload=alert(1) ` + script)
		e.SetExtension("tenantid", script)
		e.DataEncoded = data
		all = append(all, e)
		p.log("iot/iot", e)
	}
	clean := func(path, text string) {
		t.Helper()
		tree, err := html.Parse(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		for n := range tree.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			if n.Data == "img" || n.Data == "svg" || n.Data == "script" && n.FirstChild != nil {
				t.Errorf("%s has an element %s", path, n.Data)
			}
			for _, a := range n.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "style" || a.Key == "href" && strings.HasPrefix(a.Val, "javascript:") {
					t.Errorf("%s has an attribute %s=%q", path, a.Key, a.Val)
				}
			}
		}
	}
	list := p.get(access.Admin, "/live", http.StatusOK)
	clean("/live", list)
	if strings.Count(list, "data-key=") != len(all) {
		t.Errorf("%d events in the list, want %d", strings.Count(list, "data-key="), len(all))
	}
	for i, e := range all {
		path := eventAt(e.Source(), e.ID())
		text := p.get(access.Admin, path, http.StatusOK)
		clean(path, text)
		if len(text) > 200_000 {
			t.Errorf("event %d: a page of %d bytes for %d of data", i, len(text), len(e.Data()))
		}
		if len(e.Data()) == 0 {
			continue
		}
		resp := p.ask(t.Context(), access.Admin, "/api/live/data?"+strings.TrimPrefix(path, "/live/event?"))
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != string(e.Data()) {
			t.Errorf("event %d: %d bytes are downloaded, %v, want the %d it has", i, len(got), err, len(e.Data()))
		}
		if h := resp.Header; h.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment;") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("event %d: a browser may open its data: %v", i, h)
		}
	}
}

// The chain has what an event came from and all that came of it, each event once with
// the Brokers that had it, and readings that the log does not keep come from their
// table.
func TestChain(t *testing.T) {
	p := newPages(t)
	at := mesh.At(time.Now())
	message := mesh.Message{ID: "m", Source: "/devices", ReceivedAt: at, Payload: []byte(`{}`)}
	received := mesh.NewEvent(mesh.TelemetryReceived, "/telemesh/telemetry-ingest", mesh.EncodeMessages([]mesh.Message{message}), "received")
	flattened := made(received, mesh.TelemetryFlattened, "/telemesh/telemetry-flatten", "flattened")
	flattened.DataEncoded = []byte(`{"readings": []}`)
	rejected := made(received, mesh.TelemetryRejected, "/telemesh/telemetry-flatten", "rejected")
	enriched := made(flattened, mesh.TelemetryEnriched, "/telemesh/tenant-enrich", "enriched")
	enriched.SetExtension(mesh.ExtTenant, "north")
	joined := made(enriched, mesh.AnalyticsJoined, "/telemesh/analytics-join", "joined")
	// The id of a cause alone says nothing: its source does, too.
	stranger := made(event.Event{}, "com.example.stranger", "/stranger", "stranger")
	stranger.SetExtension(mesh.ExtCauseID, received.ID())
	stranger.SetExtension(mesh.ExtCauseSource, "/another")
	for _, e := range []event.Event{received, flattened, rejected, enriched, stranger} {
		p.log("iot/iot", e)
	}
	p.log("analytics/analytics", enriched)
	p.log("analytics/analytics", joined)
	reading := mesh.Reading{ReadingID: mesh.ReadingID("d<1>", "co2", at), DeviceID: "d<1>", TenantID: "north", Metric: "co2", Value: 812, Unit: "ppm",
		ObservedAt: at, ReceivedAt: at, EventSource: "/devices", EventID: "m", AssignmentVersion: 1}
	other := reading
	other.ReadingID, other.TenantID, other.Metric = mesh.ReadingID("d<1>", "temp", at), "south", "temp"
	for i, r := range []mesh.Reading{reading, other} {
		e := mesh.NewEvent(mesh.TelemetryEnriched, "/t", mesh.EncodeReadings([]mesh.Reading{r}), fmt.Sprint(i))
		if _, err := sink.New(p.warehouse, sink.Tables{}, func(context.Context, event.Event) error { return nil })(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}

	var tell func(l *live.Link) string
	tell = func(l *live.Link) string {
		var brokers, made []string
		for _, b := range l.Brokers {
			brokers = append(brokers, b.Broker[:3])
		}
		for _, m := range l.Made {
			made = append(made, tell(m))
		}
		return fmt.Sprintf("%s%v(%s)", l.Type()[len("dev.telemesh."):], brokers, strings.Join(made, " "))
	}
	const want = "telemetry.received.v1[iot](telemetry.flattened.v1[iot](telemetry.enriched.v1[iot ana](analytics.joined.v1[ana]())) telemetry.rejected.v1[iot]())"
	analyst := access.Viewer{Role: access.Analyst}
	for _, e := range []event.Event{received, flattened, rejected, enriched, joined} {
		c, err := p.feed.Chain(t.Context(), analyst, live.Key{Source: e.Source(), ID: e.ID()}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := tell(c.First); got != want || c.This.ID() != e.ID() || c.Lost.ID != "" || c.Cut {
			t.Errorf("chain of %s:\n%s\nwant\n%s", e.ID(), got, want)
		}
	}

	text := p.get(access.Analyst, eventAt(enriched.Source(), enriched.ID()), http.StatusOK)
	for _, want := range []string{"does not keep", "iot_telemetry.readings", "d&lt;1&gt;", "812", `aria-current="true"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the page of the event does not have %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "<td data-label=\"Metric\" class=\"wrap\">temp</td>") {
		t.Error("the page of a tenant's event has another tenant's readings")
	}
	text = p.get(access.Analyst, eventAt(received.Source(), received.ID()), http.StatusOK)
	if !strings.Contains(text, "&#34;messages&#34;: [") {
		t.Errorf("the page does not show data that the log has:\n%s", text)
	}
	p.get(access.Analyst, eventAt("/none", "none"), http.StatusNotFound)
	p.get(access.Analyst, "/live/event?id=x", http.StatusBadRequest)
	p.get(access.Tenant, eventAt(enriched.Source(), enriched.ID()), http.StatusForbidden)
}

// Who sends may name as cause what it likes: what was made of itself has an end, and
// so has a chain whose begin is gone.
func TestOddChains(t *testing.T) {
	p := newPages(t)
	odd := func(id, of string) {
		e := made(event.Event{}, "com.example.odd", "/odd", id)
		e.SetExtension(mesh.ExtCauseID, of)
		e.SetExtension(mesh.ExtCauseSource, "/odd")
		p.log("iot/iot", e)
	}
	odd("a", "b")
	odd("b", "a")
	odd("self", "self")
	odd("orphan", `gone"\`)
	analyst := access.Viewer{Role: access.Analyst}
	for id, events := range map[string]int{"a": 2, "b": 2, "self": 1, "orphan": 1} {
		c, err := p.feed.Chain(t.Context(), analyst, live.Key{Source: "/odd", ID: id}, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		var walk func(*live.Link)
		walk = func(l *live.Link) {
			n++
			for _, m := range l.Made {
				walk(m)
			}
		}
		walk(c.First)
		if n != events || (c.Lost.ID == `gone"\`) != (id == "orphan") {
			t.Errorf("chain of %s: %d events, lost %q, want %d", id, n, c.Lost.ID, events)
		}
		p.get(access.Admin, eventAt("/odd", id), http.StatusOK)
	}
}
