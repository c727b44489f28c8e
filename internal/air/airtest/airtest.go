// Package airtest fills a warehouse with the air of tenants, for tests.
package airtest

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/warehousetest"
	"github.com/telemesh/telemesh/products"
)

// Store is a DuckDB warehouse with the products, and how viewers see it.
type Store struct {
	*warehousetest.Store
	Data *access.Data
}

// Open gives an empty one, which is closed when the test ends.
func Open(t testing.TB) *Store {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	db, err := duckdb.Open(filepath.Join(t.TempDir(), "air.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	s := warehousetest.New(t, db)
	return &Store{s, access.New(s, all)}
}

// Reading is one of a tenant, a device and a room.
type Reading struct {
	Tenant, Device string
	Room           air.Room
	At             time.Time
	Value          float64
}

// Read stores readings of a metric.
func (s *Store) Read(metric, unit string, all ...Reading) {
	var rows []warehousetest.Row
	for _, r := range all {
		at := mesh.At(r.At)
		rows = append(rows, warehousetest.Row{
			"reading_id": warehouse.String(mesh.ReadingID(r.Device, metric, at)), "tenant_id": warehouse.String(r.Tenant),
			"device_id": warehouse.String(r.Device), "metric": warehouse.String(metric), "value": warehouse.Float(r.Value), "unit": warehouse.Optional(unit),
			"observed_at": warehouse.Instant(at), "received_at": warehouse.Instant(at), "revision": warehouse.Int(0), "assignment_version": warehouse.Int(1),
			"event_source": warehouse.String("/test"), "event_id": warehouse.String("e"), "join_version": warehouse.Int(1), "deleted": warehouse.Bool(false),
			"building": warehouse.Optional(r.Room.Building), "floor": warehouse.Optional(r.Room.Floor), "room": warehouse.Optional(r.Room.Name),
			"outside_co2": warehouse.Float(420), "persons": warehouse.Int(24),
		})
	}
	s.Add("iot_analytics.readings", rows...)
}

// Place stores a placement; to zero: it is open.
func (s *Store) Place(tenant, device string, room air.Room, from, to time.Time) {
	row := warehousetest.Row{
		"device_id": warehouse.String(device), "tenant_id": warehouse.String(tenant), "building": warehouse.Optional(room.Building), "floor": warehouse.Optional(room.Floor),
		"room": warehouse.Optional(room.Name), "persons": warehouse.Int(24), "valid_from": warehouse.Instant(mesh.At(from)), "version": warehouse.Int(1), "deleted": warehouse.Bool(false),
	}
	if !to.IsZero() {
		row["valid_to"] = warehouse.Instant(mesh.At(to))
	}
	s.Add("iot_metadata.placements", row)
}

// Act stores an action; tenant empty: it names nobody.
func (s *Store) Act(id, tenant, device string, room air.Room, what string, at time.Time) {
	s.Add("iot_actions.actions", warehousetest.Row{
		"action_id": warehouse.String(id), "tenant_id": warehouse.Optional(tenant), "device_id": warehouse.Optional(device), "building": warehouse.Optional(room.Building),
		"room": warehouse.Optional(room.Name), "action": warehouse.String(what), "taken_at": warehouse.Instant(mesh.At(at)), "version": warehouse.Int(1), "deleted": warehouse.Bool(false),
	})
}

// Customer stores the name of a tenant.
func (s *Store) Customer(id, name string) {
	s.Add("customers.customers", warehousetest.Row{"customer_id": warehouse.String(id), "name": warehouse.String(name), "version": warehouse.Int(1), "deleted": warehouse.Bool(false)})
}
