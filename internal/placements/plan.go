// Package placements says what a sheet of placements would change: which
// intervals of which devices get another tenant or another place, how many
// readings that are, and how many readings do not follow yet what holds already.
package placements

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Plan is what a sheet would change.
type Plan struct {
	New     int `json:"new"` // placements
	Changed int `json:"changed"`
	Deleted int `json:"deleted"`

	Refused  []string `json:"refused,omitempty"`  // rows of the sheet
	Warnings []string `json:"warnings,omitempty"` // about rows that are taken
	HeldBack []Held   `json:"held_back,omitempty"`

	// Behind counts the readings that are not yet the tenant's whose they are by
	// the placements that are stored: an earlier change is not done.
	Behind int64 `json:"behind"`

	Moves   []Move   `json:"moves"`             // by device and time
	Views   []string `json:"views,omitempty"`   // that show other readings then
	Tenants []string `json:"tenants,omitempty"` // who sees them
}

// Held is a placement that the sheet no longer has and that stays all the same:
// a row that was refused may be the one that says it.
type Held struct {
	DeviceID string       `json:"device_id"`
	From     mesh.Instant `json:"from"`
}

// Move is an interval of a device that would be another tenant's, or have
// another place.
type Move struct {
	DeviceID string        `json:"device_id"`
	From     mesh.Instant  `json:"from"`
	To       *mesh.Instant `json:"to,omitempty"`  // nil: open
	Now      string        `json:"now,omitempty"` // tenant; empty: nobody
	Then     string        `json:"then,omitempty"`
	Place    bool          `json:"place"` // it, or what is known of it, is another
	Rows     int64         `json:"rows"`  // readings
}

// Make compares a sheet with the placements that are stored. Nothing is counted
// yet.
func Make(read sheet.Sheet[mesh.Placement], stored []mesh.Placement) *Plan {
	p := &Plan{Moves: []Move{}}
	for _, f := range read.Findings {
		if f.Severity == mesh.SeverityError {
			p.Refused = append(p.Refused, sheet.Describe(f))
		} else {
			p.Warnings = append(p.Warnings, sheet.Describe(f))
		}
	}
	before, after, said := rows{}, rows{}, rows{}
	for _, q := range stored {
		if !q.Deleted {
			before.add(q)
			after.add(q)
		}
	}
	for _, q := range read.Rows {
		said.add(q)
	}
	devices := map[string]bool{}
	for _, q := range sheet.Placements.Changes(read, stored, 0) {
		devices[q.DeviceID] = true
		_, was := before[q.DeviceID][q.ValidFrom]
		switch {
		case q.Deleted:
			p.Deleted++
			delete(after[q.DeviceID], q.ValidFrom)
			continue
		case was:
			p.Changed++
		default:
			p.New++
		}
		after.add(q)
	}
	for _, device := range slices.Sorted(maps.Keys(after)) {
		for _, from := range slices.Sorted(maps.Keys(after[device])) {
			if _, ok := said[device][from]; !ok {
				p.HeldBack = append(p.HeldBack, Held{device, from})
			}
		}
	}
	for _, device := range slices.Sorted(maps.Keys(devices)) {
		p.Moves = append(p.Moves, moves(device, before[device], after[device])...)
	}
	return p
}

// Empty says that the sheet changes no placement.
func (p *Plan) Empty() bool { return p.New+p.Changed+p.Deleted == 0 }

// rows are placements by device and beginning, of which there is one.
type rows map[string]map[mesh.Instant]mesh.Placement

func (r rows) add(p mesh.Placement) {
	if r[p.DeviceID] == nil {
		r[p.DeviceID] = map[mesh.Instant]mesh.Placement{}
	}
	r[p.DeviceID][p.ValidFrom] = p
}

// moves compares the placements of a device by the pieces of time that all
// their beginnings and ends make.
func moves(device string, before, after map[mesh.Instant]mesh.Placement) (out []Move) {
	var cuts []mesh.Instant
	for _, rows := range []map[mesh.Instant]mesh.Placement{before, after} {
		for from, q := range rows {
			cuts = append(cuts, from)
			if q.ValidTo != nil {
				cuts = append(cuts, *q.ValidTo)
			}
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for i, from := range cuts {
		now, then := covering(before, from), covering(after, from)
		m := Move{DeviceID: device, From: from, Now: now.TenantID, Then: then.TenantID}
		m.Place = now.Building != then.Building || now.Floor != then.Floor || now.Room != then.Room ||
			!equal(now.Persons, then.Persons) || !equal(now.OutsideCO2, then.OutsideCO2)
		if i+1 < len(cuts) {
			m.To = &cuts[i+1]
		}
		if m.Now == m.Then && !m.Place {
			continue
		}
		if n := len(out); n > 0 && *out[n-1].To == from && out[n-1].Now == m.Now && out[n-1].Then == m.Then && out[n-1].Place == m.Place {
			out[n-1].To = m.To
			continue
		}
		out = append(out, m)
	}
	return out
}

// covering gives the placement at an instant: those of a sheet do not overlap.
func covering(rows map[mesh.Instant]mesh.Placement, t mesh.Instant) mesh.Placement {
	for _, row := range rows {
		if row.ValidFrom <= t && (row.ValidTo == nil || t < *row.ValidTo) {
			return row
		}
	}
	return mesh.Placement{}
}

func equal[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// Count counts the readings of each move, and those that follow an earlier change.
func (p *Plan) Count(ctx context.Context, w warehouse.Warehouse) (err error) {
	if p.Behind, err = Behind(ctx, w); err != nil {
		return err
	}
	const most = 500 // moves in a statement
	for first := 0; first < len(p.Moves); first += most {
		rows, err := w.Query(ctx, countSQL(p.Moves[first:min(first+most, len(p.Moves))], first))
		if err != nil {
			return fmt.Errorf("count the readings of moves: %w", err)
		}
		for row, err := range rows.All {
			if err != nil {
				return fmt.Errorf("count the readings of moves: %w", err)
			}
			p.Moves[row[0].(int64)].Rows = row[1].(int64)
		}
	}
	seen := map[string]bool{}
	for _, m := range p.Moves {
		for _, tenant := range []string{m.Now, m.Then} {
			if tenant != "" && m.Rows > 0 {
				seen[tenant] = true
			}
		}
	}
	p.Tenants = slices.Sorted(maps.Keys(seen))
	return nil
}

// Behind counts the readings that are not the tenant's whose they are by the
// placements that are stored.
func Behind(ctx context.Context, w warehouse.Warehouse) (int64, error) {
	rows, err := w.Query(ctx, "SELECT COUNT(*) AS readings FROM iot_telemetry.readings_as_of WHERE tenant_id IS DISTINCT FROM stamped_tenant_id")
	if err != nil {
		return 0, fmt.Errorf("count the readings that do not follow: %w", err)
	}
	var n int64
	for row, err := range rows.All {
		if err != nil {
			return 0, fmt.Errorf("count the readings that do not follow: %w", err)
		}
		n, _ = row[0].(int64)
	}
	return n, nil
}

// countSQL counts the readings of moves, of which the first has that number.
func countSQL(moves []Move, first int) string {
	var list strings.Builder
	for i, m := range moves {
		if i > 0 {
			list.WriteString(" UNION ALL ")
		}
		to := "TIMESTAMP '9999-12-31 23:59:59.999999+00'"
		if m.To != nil {
			to = literal.Time(*m.To)
		}
		fmt.Fprintf(&list, "SELECT %d AS n, %s AS device_id, %s AS since, %s AS until", first+i, literal.Text(m.DeviceID), literal.Time(m.From), to)
	}
	return "SELECT m.n, COUNT(*) AS readings FROM (" + list.String() + ") AS m JOIN iot_telemetry.readings AS r" +
		" ON r.device_id = m.device_id AND r.observed_at >= m.since AND r.observed_at < m.until GROUP BY m.n"
}
