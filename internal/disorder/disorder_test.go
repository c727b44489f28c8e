package disorder_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/disorder"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/prove"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// Random histories of placements, actions, customers and readings, told in
// random order, twice, late, by functions that die: the tables equal the model.
// A round is three devices, each with a history of its own.
// Others: go test ./internal/disorder -rapid.checks=5000 -rapid.seed=0
func TestTablesEqualTheModel(t *testing.T) {
	set, err := manifest.Load(
		manifest.Folder{Name: "brokers", FS: brokers.FS},
		manifest.Folder{Name: "triggers", FS: triggers.FS},
		manifest.Folder{Name: "config", FS: config.FS})
	if err != nil {
		t.Fatal(err)
	}
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	db := duckdbtest.Open(t)
	histories := 0
	rapid.Check(t, func(r *rapid.T) {
		// One warehouse for all: names keep the histories apart.
		histories++
		h := &history{
			T: r, prefix: fmt.Sprintf("h%d", histories),
			placements: map[string]mesh.Placement{},
			actions:    map[string]mesh.Action{}, customers: map[string]mesh.Customer{},
			readings: map[string][]mesh.Reading{},
		}
		choose := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(r, what) }
		m, err := disorder.New(set, functions.Table, db, times(choose), choose,
			"telemetry-ingest", "telemetry-flatten", "event-log")
		if err != nil {
			r.Fatal(err)
		}
		for range 1 + choose("tellings", 12) {
			h.tell(m)
			for range choose("deliveries", 8) {
				if m.Waiting() == 0 {
					break
				}
				if err := m.Step(r.Context(), false); err != nil {
					r.Fatal(err)
				}
			}
		}
		for n := choose("more deliveries", 40); n > 0 && m.Waiting() > 0; n-- {
			if err := m.Step(r.Context(), false); err != nil {
				r.Fatal(err)
			}
		}
		if err := m.Drain(r.Context()); err != nil {
			r.Fatal(err)
		}
		h.compare(db)
	})
	if t.Failed() {
		return
	}
	// All histories together, by SQL: the range join, DuckDB's ASOF JOIN and the
	// functions' index agree with the tables.
	report, err := prove.Run(t.Context(), db, all, "")
	if err != nil {
		t.Fatal(err)
	}
	if !report.Holds {
		report.Relocations = nil
		var text strings.Builder
		if err := report.Write(&text); err != nil {
			t.Fatal(err)
		}
		t.Errorf("the model agrees and the proof does not:\n%s", &text)
	}
}

// TestMain makes it more rounds than rapid's hundred, the same ones each time.
func TestMain(m *testing.M) {
	flag.Parse()
	defaults := map[string]string{"rapid.checks": "500", "rapid.seed": "1", "rapid.nofailfile": "true"}
	if testing.Short() {
		defaults["rapid.checks"] = "40"
	}
	flag.Visit(func(f *flag.Flag) { delete(defaults, f.Name) })
	for name, value := range defaults {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// times says how old the copies of metadata may get, not at all or older than any
// run is, and how long a part of a repair takes: one instant of a device, or all.
func times(choose disorder.Choose) map[string]map[string]string {
	ages := []string{"1h", "1ns"}
	return map[string]map[string]string{
		"tenant-enrich":    {"ASSIGNMENTS_REFRESH": ages[choose("age of assignments", 2)]},
		"analytics-join":   {"REFRESH": ages[choose("age of places", 2)]},
		"tenancy-repair":   {"REPAIR_WITHIN": ages[choose("part of a repair of tenancy", 2)]},
		"analytics-repair": {"REPAIR_WITHIN": ages[choose("part of a repair of places", 2)]},
	}
}

// The universe is small, so that its things meet.
const (
	devices = 3
	tenants = 3
	rooms   = 2
	instant = 10
)

// history is what was told, and what follows from it.
type history struct {
	*rapid.T
	prefix     string
	versions   int64
	placements map[string]mesh.Placement // by key: as they stand
	actions    map[string]mesh.Action
	customers  map[string]mesh.Customer
	readings   map[string][]mesh.Reading // by id
	messages   int
}

func (h *history) name(kind string, n int) string { return fmt.Sprintf("%s-%s%d", h.prefix, kind, n) }

func (h *history) draw(what string, n int) int { return rapid.IntRange(0, n-1).Draw(h.T, what) }

// tell posts an event that says something new.
func (h *history) tell(m *disorder.Mesh) {
	switch h.draw("telling", 7) {
	case 0, 1, 2:
		m.Post(disorder.Named("iot"), h.measure())
	case 3, 4:
		if e, changed := h.move(); changed {
			m.Post(disorder.Named("iot"), e)
		}
	default:
		if h.draw("logbook or customers", 4) > 0 {
			m.Post(disorder.Named("iot"), h.act())
		} else {
			m.Post(disorder.Named("crm"), h.rename())
		}
	}
}

// measure is a message of some readings, as they are flattened: some were told
// before, some say another value for the same instant.
func (h *history) measure() event.Event {
	h.messages++
	id := h.name("m", h.messages)
	var readings []mesh.Reading
	for range 1 + h.draw("readings", 4) {
		r := mesh.Reading{
			DeviceID: h.name("d", h.draw("device", devices)), Metric: []string{"co2", "temperature"}[h.draw("metric", 2)],
			Value: float64(400 + h.draw("value", 2)), ObservedAt: disorder.At(h.draw("instant", instant)),
			ReceivedAt: disorder.At(instant), EventSource: "/test", EventID: id,
		}
		r.ReadingID = mesh.ReadingID(r.DeviceID, r.Metric, r.ObservedAt)
		readings = append(readings, r)
		h.readings[r.ReadingID] = append(h.readings[r.ReadingID], r)
	}
	return mesh.NewEvent(mesh.TelemetryFlattened, "/test", mesh.EncodeReadings(readings), id)
}

// move writes the placements of a device anew.
func (h *history) move() (e event.Event, changed bool) {
	h.versions++
	device := h.name("d", h.draw("moved device", devices))
	next := map[string]mesh.Placement{}
	for from := h.draw("first", 3); from < instant; {
		to := from + 1 + h.draw("length", 5)
		if tenant := h.draw("tenant or none", tenants+1); tenant > 0 {
			p := mesh.Placement{
				DeviceID: device, TenantID: h.name("t", tenant-1), Building: h.name("b", 0),
				Room: []string{"", "r1", "r2"}[h.draw("room", rooms+1)], ValidFrom: disorder.At(from), Version: h.versions,
			}
			if to < instant {
				end := disorder.At(to)
				p.ValidTo = &end
			}
			next[placementKey(&p)] = p
		}
		from = to
	}
	var rows []mesh.Placement
	for key, p := range h.placements {
		if p.DeviceID != device {
			continue
		}
		if _, stays := next[key]; !stays {
			p.Deleted, p.Version = true, h.versions
			rows = append(rows, p)
			delete(h.placements, key)
		}
	}
	for key, p := range next {
		before, was := h.placements[key]
		before.Version = p.Version
		if !was || !gocmp.Equal(before, p) {
			rows = append(rows, p)
			h.placements[key] = p
		}
	}
	slices.SortFunc(rows, func(a, b mesh.Placement) int { return cmp.Compare(a.ValidFrom, b.ValidFrom) })
	data := mesh.Encode(mesh.Placements{Placements: rows})
	return mesh.NewEvent(mesh.PlacementsChanged, "/test", data, h.prefix, string(data)), len(rows) > 0
}

func placementKey(p *mesh.Placement) string { return p.DeviceID + " " + p.ValidFrom.String() }

// act logs an action, says it anew or takes it back.
func (h *history) act() event.Event {
	h.versions++
	a := mesh.Action{
		ActionID: h.name("a", h.draw("action", 4)), Action: []string{"window opened", "door closed"}[h.draw("what", 2)],
		TakenAt: disorder.At(h.draw("taken", instant)), Version: h.versions, Deleted: h.draw("taken back", 5) == 0,
	}
	if tenant := h.draw("tenant of action", tenants+1); tenant > 0 {
		a.TenantID = h.name("t", tenant-1)
	}
	if h.draw("at device", 2) == 0 {
		a.DeviceID = h.name("d", h.draw("device of action", devices))
	} else {
		a.Building, a.Room = h.name("b", 0), []string{"r1", "r2"}[h.draw("room of action", rooms)]
	}
	h.actions[a.ActionID] = a
	data := mesh.Encode(mesh.Actions{Actions: []mesh.Action{a}})
	return mesh.NewEvent(mesh.ActionsLogged, "/test", data, h.prefix, string(data))
}

func (h *history) rename() event.Event {
	h.versions++
	c := mesh.Customer{
		CustomerID: h.name("t", h.draw("customer", tenants)), Name: []string{"School", "Office"}[h.draw("name", 2)],
		Version: h.versions, Deleted: h.draw("gone", 4) == 0,
	}
	h.customers[c.CustomerID] = c
	data := mesh.Encode(mesh.Customers{Customers: []mesh.Customer{c}})
	return mesh.NewEvent(mesh.CustomersChanged, "/test", data, h.prefix, string(data))
}

// The model: what the tables have to say in the end, told as plainly as it can
// be.

func covers(p *mesh.Placement, t mesh.Instant) bool {
	return p.ValidFrom <= t && (p.ValidTo == nil || t < *p.ValidTo)
}

func (h *history) placement(device string, t mesh.Instant) *mesh.Placement {
	for _, p := range h.placements {
		if p.DeviceID == device && covers(&p, t) {
			return &p
		}
	}
	return nil
}

// owns says whether tenant held what the action is about when it was taken.
func (h *history) owns(tenant string, a *mesh.Action) bool {
	if a.TenantID != "" && a.TenantID != tenant {
		return false
	}
	for _, p := range h.placements {
		if p.TenantID != tenant || !covers(&p, a.TakenAt) {
			continue
		}
		if a.DeviceID != "" && p.DeviceID == a.DeviceID || a.Room != "" && p.Room == a.Room && p.Building == a.Building {
			return true
		}
	}
	return false
}

func (h *history) lastAction(p *mesh.Placement, t mesh.Instant) *mesh.Action {
	var last *mesh.Action
	for _, id := range slices.Sorted(maps.Keys(h.actions)) {
		a := h.actions[id]
		here := a.DeviceID == p.DeviceID || a.Room != "" && a.Room == p.Room && a.Building == p.Building
		if a.Deleted || a.TakenAt > t || !here || !h.owns(p.TenantID, &a) {
			continue
		}
		if last == nil || a.TakenAt >= last.TakenAt {
			last = &a
		}
	}
	return last
}

func (h *history) model() (telemetry, analytics []string) {
	for id, same := range h.readings {
		r := slices.MaxFunc(same, func(a, b mesh.Reading) int { return cmp.Compare(a.Value, b.Value) })
		quality := "ok"
		if slices.ContainsFunc(same, func(other mesh.Reading) bool { return other.Value != r.Value }) {
			quality = "conflict"
		}
		p := h.placement(r.DeviceID, r.ObservedAt)
		tenant := "nobody"
		if p != nil {
			tenant = p.TenantID
		}
		what := fmt.Sprint(r.DeviceID, " ", r.Metric, " ", r.ObservedAt, " ", r.Value, " ", quality, " ", tenant)
		telemetry = append(telemetry, what+" "+id)
		if p == nil {
			continue
		}
		action, customer := "none", "none"
		if a := h.lastAction(p, r.ObservedAt); a != nil {
			action = fmt.Sprint(a.Action, " ", a.TakenAt)
		}
		if c, ok := h.customers[tenant]; ok && !c.Deleted {
			customer = c.Name
		}
		analytics = append(analytics, fmt.Sprint(what, " room ", p.Room, " customer ", customer, " action ", action))
	}
	slices.Sort(telemetry)
	slices.Sort(analytics)
	return telemetry, analytics
}

func (h *history) compare(w warehouse.Warehouse) {
	const said = `device_id || ' ' || metric || ' ' || strftime(observed_at, '%Y-%m-%dT%H:%M:%SZ') || ' ' || CAST(CAST(value AS BIGINT) AS VARCHAR) ||
		' ' || coalesce(quality, 'ok') || ' ' || coalesce(tenant_id, 'nobody')`
	telemetry, analytics := h.model()
	for _, table := range []struct {
		name, sql string
		want      []string
	}{
		{"iot_telemetry.readings", said + ` || ' ' || reading_id`, telemetry},
		{"iot_analytics.readings", said + ` || ' room ' || coalesce(room, '') || ' customer ' || coalesce(customer_name, 'none') ||
			' action ' || coalesce(last_action || ' ' || strftime(last_action_at, '%Y-%m-%dT%H:%M:%SZ'), 'none')`, analytics},
	} {
		got, err := lines(h.Context(), w, fmt.Sprintf("SELECT %s FROM %s WHERE device_id LIKE '%s-%%' ORDER BY 1", table.sql, table.name, h.prefix))
		if err != nil {
			h.Fatal(err)
		}
		if diff := gocmp.Diff(table.want, got); diff != "" {
			h.Errorf("%s (-model +table):\n%s\n%s", table.name, diff, h.story(w))
		}
	}
}

// story is what the tables hold of the history, to be read by who looks for
// what went wrong.
func (h *history) story(w warehouse.Warehouse) string {
	var b strings.Builder
	for _, sql := range []string{
		"SELECT 'placement ' || row_number() OVER (ORDER BY recorded_at) || ': ' || device_id || ' ' || tenant_id || ' ' || coalesce(room, '') || ' ' || valid_from || ' ' || coalesce(CAST(valid_to AS VARCHAR), '') || ' v' || version || ' deleted ' || deleted || ' ' || recorded_at FROM iot_metadata_internal.placements WHERE device_id LIKE '%[1]s-%%' ORDER BY recorded_at",
		"SELECT 'reading ' || device_id || ' ' || metric || ' ' || observed_at || ' ' || value || ' ' || coalesce(tenant_id, 'nobody') || ' v' || assignment_version || ' r' || revision || ' ' || recorded_at FROM iot_telemetry_internal.readings WHERE device_id LIKE '%[1]s-%%' ORDER BY recorded_at",
		"SELECT 'joined ' || device_id || ' ' || metric || ' ' || observed_at || ' ' || value || ' ' || coalesce(tenant_id, 'nobody') || ' v' || assignment_version || ' j' || join_version || ' ' || coalesce(last_action, '') || ' ' || coalesce(room, '') || ' ' || coalesce(customer_name, '') || ' ' || recorded_at FROM iot_analytics_internal.readings WHERE device_id LIKE '%[1]s-%%' ORDER BY recorded_at",
	} {
		rows, err := lines(context.Background(), w, fmt.Sprintf(sql, h.prefix))
		if err != nil {
			fmt.Fprintln(&b, err)
		}
		for _, line := range rows {
			fmt.Fprintln(&b, line)
		}
	}
	return b.String()
}

func lines(ctx context.Context, w warehouse.Warehouse, sql string) ([]string, error) {
	rows, err := w.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	var out []string
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprint(row[0]))
	}
	return out, nil
}
