package sink

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/repair"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// metadata is how rows of a source are found again: all versions of them that
// were ever recorded.
type metadata[D mesh.Placements | mesh.Actions | mesh.Customers, R any] struct {
	recorded string // type of the event that has them
	table    string
	columns  []string // named as the members; the first is what rows are looked up by
	data     func([]R) D
	id       func(*R) id
}

// id is what tells one recorded row of a source from another.
type id struct {
	first   string // of the key, as is second where it has two columns
	second  mesh.Instant
	version int64
}

// key is the id of all versions.
func (i id) key() id {
	i.version = 0
	return i
}

var placements = metadata[mesh.Placements, mesh.Placement]{
	recorded: mesh.PlacementsRecorded,
	table:    "iot_metadata_internal.placements",
	columns:  []string{"device_id", "tenant_id", "building", "floor", "room", "persons", "outside_co2", "valid_from", "valid_to", "version", "deleted"},
	data:     func(rows []mesh.Placement) mesh.Placements { return mesh.Placements{Placements: rows} },
	id:       func(p *mesh.Placement) id { return id{p.DeviceID, p.ValidFrom, p.Version} },
}

var actions = metadata[mesh.Actions, mesh.Action]{
	recorded: mesh.ActionsRecorded,
	table:    "iot_actions_internal.actions",
	columns:  []string{"action_id", "tenant_id", "device_id", "building", "room", "action", "taken_at", "version", "deleted"},
	data:     func(rows []mesh.Action) mesh.Actions { return mesh.Actions{Actions: rows} },
	id:       func(a *mesh.Action) id { return id{first: a.ActionID, version: a.Version} },
}

var customers = metadata[mesh.Customers, mesh.Customer]{
	recorded: mesh.CustomersRecorded,
	table:    "customers_internal.customers",
	columns:  []string{"customer_id", "name", "sector", "country", "version", "deleted"},
	data:     func(rows []mesh.Customer) mesh.Customers { return mesh.Customers{Customers: rows} },
	id:       func(c *mesh.Customer) id { return id{first: c.CustomerID, version: c.Version} },
}

// maxKeys is how many keys a statement asks for.
const maxKeys = 1000

// reply says that rows are stored: with all versions of their keys, and the
// version that the table had once the first of them was recorded.
func (m metadata[D, R]) reply(rows []R) reply {
	return func(ctx context.Context, w warehouse.Warehouse, in event.Event) ([]event.Event, error) {
		return m.replyTo(ctx, w, in, rows)
	}
}

func (m metadata[D, R]) replyTo(ctx context.Context, w warehouse.Warehouse, in event.Event, rows []R) ([]event.Event, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	own, keys, firsts := map[id]bool{}, map[id]bool{}, map[string]bool{}
	for i := range rows {
		id := m.id(&rows[i])
		own[id], keys[id.key()], firsts[id.first] = true, true, true
	}
	earliest := repair.Forever
	var all []R
	for part := range slices.Chunk(slices.Sorted(maps.Keys(firsts)), maxKeys) {
		err := m.find(ctx, w, part, func(row *R, recorded mesh.Instant) {
			id := m.id(row)
			if keys[id.key()] {
				all = append(all, *row)
			}
			if own[id] {
				earliest = min(earliest, recorded)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", m.table, err)
		}
	}
	if earliest == repair.Forever {
		return nil, fmt.Errorf("look up %s: the rows of %s are not there yet", m.table, in.ID())
	}
	version, err := m.version(ctx, w, earliest)
	if err != nil {
		return nil, fmt.Errorf("count %s: %w", m.table, err)
	}
	slices.SortStableFunc(all, func(a, b R) int {
		x, y := m.id(&a), m.id(&b)
		return cmp.Or(strings.Compare(x.first, y.first), cmp.Compare(x.second, y.second), cmp.Compare(x.version, y.version))
	})
	out := mesh.Derive(in, name, m.recorded, "", mesh.Encode(m.data(all)))
	mesh.SetVersion(&out, version)
	return []event.Event{out}, nil
}

// find gives the rows with one of the values in the first column.
func (m metadata[D, R]) find(ctx context.Context, w warehouse.Warehouse, firsts []string, do func(row *R, recorded mesh.Instant)) error {
	texts := make([]string, len(firsts))
	for i := range firsts {
		texts[i] = literal.Text(firsts[i])
	}
	answer, err := w.Query(ctx, fmt.Sprintf("SELECT recorded_at, %s FROM %s WHERE %s IN (%s) ORDER BY recorded_at",
		strings.Join(m.columns, ", "), m.table, m.columns[0], strings.Join(texts, ", ")))
	if err != nil {
		return err
	}
	for cells, err := range answer.All {
		if err != nil {
			return err
		}
		recorded, ok := cells[0].(time.Time)
		if !ok {
			return fmt.Errorf("recorded_at is %v", cells[0])
		}
		members := map[string]any{}
		for i, column := range m.columns {
			if cell := cells[i+1]; cell != nil {
				members[column] = cell
			}
		}
		text, err := json.Marshal(members)
		if err != nil {
			return err
		}
		var row R
		if err := json.Unmarshal(text, &row); err != nil {
			return err
		}
		do(&row, mesh.At(recorded))
	}
	return nil
}

// version is how many rows were recorded until an instant.
func (m metadata[D, R]) version(ctx context.Context, w warehouse.Warehouse, until mesh.Instant) (version int64, err error) {
	answer, err := w.Query(ctx, fmt.Sprintf("SELECT COUNT(*) AS version FROM %s WHERE recorded_at <= %s", m.table, literal.Time(until)))
	if err != nil {
		return 0, err
	}
	for cells, err := range answer.All {
		if err != nil {
			return 0, err
		}
		version, _ = cells[0].(int64)
	}
	return version, nil
}
