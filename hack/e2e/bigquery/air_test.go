package bigquery_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/portal"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
)

// runAir looks at the pages of the air, as an admin and as a tenant.
func runAir(t *testing.T, w warehouse.Warehouse) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	// A room of its own, with what the pages tell apart.
	noon := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -30).Add(12 * time.Hour)
	room := air.Room{Building: "it's B", Floor: "1", Name: `back\slash`}
	add := func(table string, cells map[string]warehouse.Cell) {
		t.Helper()
		if _, err := w.Append(t.Context(), warehouse.Batch{Table: table, EventSource: "/portal", EventID: table, Rows: []warehouse.Row{rowOf(tableOf(t, table), cells)}}); err != nil {
			t.Fatal(err)
		}
	}
	text, number := warehouse.String, warehouse.Int
	at, device := warehouse.Instant(mesh.At(noon)), text("it's 1")
	add("iot_metadata.placements", map[string]warehouse.Cell{"device_id": device, "tenant_id": text("it's"), "building": text(room.Building), "floor": text(room.Floor),
		"room": text(room.Name), "persons": number(4), "valid_from": at, "version": number(1), "deleted": warehouse.Bool(false)})
	add("iot_actions.actions", map[string]warehouse.Cell{"action_id": text("a'1"), "tenant_id": text("it's"), "building": text(room.Building), "room": text(room.Name),
		"action": text("it's open"), "taken_at": at, "version": number(1), "deleted": warehouse.Bool(false)})
	add("iot_analytics.readings", map[string]warehouse.Cell{"reading_id": text("portal"), "tenant_id": text("it's"), "device_id": device, "metric": text("co2"),
		"value": warehouse.Float(500), "observed_at": at, "received_at": at, "revision": number(0), "assignment_version": number(1), "event_source": text("/portal"),
		"event_id": text("portal"), "join_version": number(1), "deleted": warehouse.Bool(false), "building": text(room.Building), "floor": text(room.Floor), "room": text(room.Name)})

	for _, viewer := range []access.Viewer{{ID: "1", Name: "ada", Role: access.Admin}, {ID: "2", Name: "tom", Role: access.Tenant, Tenants: []string{"it's"}}} {
		p, err := portal.New(portal.Config{Data: access.New(w, all), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Viewer: func(*http.Request) (access.Viewer, bool, error) { return viewer, true, nil }})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/air", "/api/air/series", "/api/air/rooms", "/api/air/now", "/api/air/readings.csv"} {
			for _, more := range []url.Values{
				{}, {"range": {"1y"}, "room": {room.Key()}, "tz": {"Europe/Amsterdam"}}, {"range": {"1y"}, "building": {room.Building}, "step": {"1h"}},
				{"from": {noon.Add(-time.Hour).Format(time.RFC3339)}, "to": {noon.Add(time.Hour).Format(time.RFC3339)}, "device": {"it's 1"}, "step": {"raw"}},
				{"from": {noon.Add(-time.Hour).Format(time.RFC3339)}, "to": {noon.Add(time.Hour).Format(time.RFC3339)}, "room": {room.Key()}, "step": {"5m"}, "action": {"a'1"}},
				{"range": {"1y"}, "step": {"1d"}, "tz": {"America/St_Johns"}},
			} {
				more.Set("tenant", "it's")
				out := httptest.NewRecorder()
				p.Handler().ServeHTTP(out, httptest.NewRequest(http.MethodGet, path+"?"+more.Encode(), nil))
				if out.Code != http.StatusOK {
					t.Errorf("%s?%s = %d %.300s", path, more.Encode(), out.Code, out.Body)
				}
			}
		}
		a, err := air.Of(access.New(w, all), viewer, "it's")
		if err != nil {
			t.Fatal(err)
		}
		if news, err := a.News(t.Context(), air.Selection{Where: air.Where{Room: &room}, Metric: "co2"}, time.Unix(0, 0), noon); err != nil || news.Readings != 1 {
			t.Errorf("News() = %+v, %v", news, err)
		}
		held, err := a.Held(t.Context(), air.Selection{Where: air.Where{Room: &room}, Metric: "co2", From: noon.Add(-time.Hour)}, time.Now())
		if err != nil || held.Older != 1 {
			t.Errorf("Held() = %+v, %v", held, err)
		}
	}
}
