package bigquery_test

import (
	"context"
	"html"
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
	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/portal"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// What the pages of live events and operations ask is GoogleSQL, too: events are told
// as they are stored, their chains are found, and no page fails.
func TestPortal(t *testing.T) {
	e := emulator.Start(t)
	products := applied(t, e)
	member(t, e)
	runPages(t, open(t, e, products), products)
}

// runPages looks at the pages of live events and operations, of a warehouse that has
// nothing else.
func runPages(t *testing.T, w warehouse.Warehouse, products []contract.Product) {
	data := access.New(w, products)
	cfg := live.For("bigquery://example-project", 50*time.Millisecond)
	if cfg.Late == 0 {
		t.Fatal("all partitions of the log are read each time")
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	none := func(context.Context, event.Event) error { return nil }
	feed := live.New(data, cfg, log)
	t.Cleanup(feed.Close)
	formats, err := flatten.ReadFormats("")
	if err != nil {
		t.Fatal(err)
	}
	p, err := portal.New(portal.Config{
		Data: data, Live: feed, Log: log,
		Act: portal.Acting{
			// The mesh as far as readings of nobody.
			Post: func(ctx context.Context, e event.Event) error {
				out, err := flatten.New(formats, log)(ctx, e)
				if e.Type() == mesh.TelemetryRejected {
					out, err = []event.Event{e}, nil
				}
				for _, each := range out {
					if each.Type() == mesh.TelemetryFlattened {
						each.SetType(mesh.TelemetryUnassigned)
					}
					if _, err := sink.New(w, sink.Tables{}, none)(ctx, each); err != nil {
						return err
					}
				}
				return err
			},
			Parser: formats.Parser,
			Leads: func() (deadletter.Leads, error) {
				return deadletter.Leads{"iot": {"first": "http://first.iot.svc.cluster.local"}}, nil
			},
		},
		Viewer: func(*http.Request) (access.Viewer, bool, error) {
			return access.Viewer{ID: "1", Name: "ann", Role: access.Admin}, true, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p.Handler())
	t.Cleanup(server.Close)
	get := func(path string, want ...string) {
		t.Helper()
		resp, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("GET %s: %s, %v\n%s", path, resp.Status, err, text)
		}
		for _, s := range want {
			if !strings.Contains(string(text), s) {
				t.Errorf("GET %s does not have %q:\n%s", path, s, text)
			}
		}
	}
	logged := func(broker string, in event.Event) {
		t.Helper()
		if _, err := sink.NewLog(w, []string{mesh.TelemetryEnriched})(function.WithPath(t.Context(), "/"+broker), in); err != nil {
			t.Fatal(err)
		}
	}

	watcher, err := feed.Watch(t.Context(), access.Viewer{Role: access.Tenant, Tenants: []string{"north"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	at := mesh.At(time.Now())
	message := mesh.Message{ID: "m", Source: "/devices", ReceivedAt: at, Payload: []byte(`{}`)}
	received := mesh.NewEvent(mesh.TelemetryReceived, "/ingest", mesh.EncodeMessages([]mesh.Message{message}), "1")
	reading := mesh.Reading{ReadingID: mesh.ReadingID("d", "co2", at), DeviceID: "d", TenantID: "north", Metric: "co2", Value: 812, Unit: "ppm",
		ObservedAt: at, ReceivedAt: at, EventSource: "/devices", EventID: "m", AssignmentVersion: 1}
	enriched := mesh.NewEvent(mesh.TelemetryEnriched, "/enrich", mesh.EncodeReadings([]mesh.Reading{reading}), "2")
	mesh.SetCause(&enriched, received)
	enriched.SetExtension(mesh.ExtTenant, "north")
	parked := reading
	parked.ReadingID, parked.DeviceID, parked.TenantID = mesh.ReadingID("nobodys", "co2", at), "nobodys", ""
	rejections := mesh.EncodeRejections([]mesh.Rejection{{Cause: "older's", Reader: "json", Message: mesh.Message{ID: "x", Source: "/devices", ReceivedAt: at, Payload: []byte(`{"device_id": "d", "time": "2026-01-01T00:00:00Z", "co2": 500}`)}}})
	for _, in := range []event.Event{
		enriched, mesh.NewEvent(mesh.TelemetryUnassigned, "/enrich", mesh.EncodeReadings([]mesh.Reading{parked}), "3"),
		mesh.NewEvent(mesh.TelemetryRejected, mesh.Source("telemetry-flatten"), rejections, "4"),
	} {
		if _, err := sink.New(w, sink.Tables{}, none)(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	letter := deadletter.New(enriched, "/iot/first", time.Now())
	if err := deadletter.Put(t.Context(), w, &letter); err != nil {
		t.Fatal(err)
	}
	logged("iot/iot", received)
	logged("iot/iot", enriched)
	logged("analytics/analytics", enriched)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var told []string
	for len(told) < 2 {
		some, err := watcher.Next(ctx)
		if err != nil {
			t.Fatalf("told of %v, then %v", told, err)
		}
		if some.Err != nil {
			t.Fatal(some.Err)
		}
		for _, e := range some.Events {
			told = append(told, e.Broker+" "+e.ID())
		}
	}
	if told[0] == told[1] || !strings.HasSuffix(told[0], enriched.ID()) || !strings.HasSuffix(told[1], enriched.ID()) {
		t.Errorf("told of %v, want the tenant's event as each Broker had it", told)
	}

	get("/live?"+url.Values{"filter": {"EXISTS tenantid AND tenantid = 'north'"}, "tenant": {"north"}, "type": {mesh.TelemetryEnriched}}.Encode(), enriched.ID())
	page := "/live/event?" + url.Values{"source": {"/enrich"}, "id": {enriched.ID()}}.Encode()
	get(page, "iot/iot", "analytics/analytics", "telemetry.received", "812")
	get(page+"&at="+url.QueryEscape(at.String()), "812")
	get("/operations", "Dead letters", `1 <small>of nobody</small>`)
	get("/operations/deadletters", "iot/first", "<strong>1</strong> open")
	get("/operations/deadletters/"+letter.ID, "telemetry.enriched")
	get("/operations/deadletters/act?do=redrive&id="+letter.ID, "http://first.iot.svc.cluster.local")
	get("/operations/rejected", "older&#39;s")
	get("/operations/rejected?"+url.Values{"reader": {"json"}, "cause": {"older's"}}.Encode(), "/devices")
	get("/operations/rejected/retry?"+url.Values{"reader": {"json"}, "cause": {"older's"}}.Encode(), "Read 1 message again")
	get("/operations/parked", "nobodys,TENANT")
	get("/operations/sheets", "Nothing is wrong")
	post := func(path string, form url.Values, want string) {
		t.Helper()
		resp, err := server.Client().PostForm(server.URL+path, form)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s answers %s, %v, want %q\n%s", path, resp.Status, err, want, text)
		}
	}
	post("/operations/rejected/retry", url.Values{"reader": {"json"}, "cause": {"older's"}}, "1 read now, 0 remain unreadable. Of 1 reading 1 are rows.")
	post("/operations/console", url.Values{"sql": {"SELECT COUNT(*) AS n FROM event_log.events WHERE event_id = '" + enriched.ID() + "'"}}, `<td class="n">2</td>`)
	resp, err := server.Client().Get(server.URL + "/operations/console")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "<textarea")
	_, example, _ = strings.Cut(example, ">")
	example, _, ok := strings.Cut(example, "</textarea>")
	if !ok {
		t.Fatalf("the console shows no statement:\n%s", text)
	}
	post("/operations/console", url.Values{"sql": {html.UnescapeString(example)}}, `>latest</th>`)
}
