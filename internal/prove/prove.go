// Package prove shows that every row is visible to the tenant that held its
// device at its instant, and to no other.
//
// It computes the batch result, one as-of join over all that was measured, and
// compares each output port with it; it looks every row up in the index that
// the functions use; it reads the messages of the event log again and compares
// what they say with what is stored; and it compares three ways of telling whose an instant is
// (that index, the range join, DuckDB's ASOF JOIN) at every instant at which
// something changes, one microsecond before it and one after.
//
// Its statements are DuckDB's: BigQuery has no ASOF JOIN.
package prove

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Report is what was compared, and what does not hold.
type Report struct {
	At          mesh.Instant `json:"at"`
	Tenant      string       `json:"tenant,omitempty"` // empty: all
	Holds       bool         `json:"holds"`
	Checks      []Check      `json:"checks"`
	Relocations []Relocation `json:"relocations"` // by device and instant
}

// Check is one comparison.
type Check struct {
	Name      string       `json:"name"`
	Says      string       `json:"says"`               // what holds if nothing differs
	Rows      int64        `json:"rows"`               // that were compared
	Different int64        `json:"different"`          // of them, on either side
	Examples  []Difference `json:"examples,omitempty"` // all of them, up to 100,000
}

// Difference is a row that stands on one side only.
type Difference struct {
	Side string            `json:"side"` // expected: it is missing; found: it should not be there
	Row  map[string]string `json:"row"`  // without NULLs
}

// Relocation is an instant at which a device changed hands, and the rows of
// the device up to the neighbouring ones.
type Relocation struct {
	DeviceID string       `json:"device_id"`
	At       mesh.Instant `json:"at"`
	From     string       `json:"from,omitempty"` // empty: nobody
	To       string       `json:"to,omitempty"`   // empty: nobody
	Before   Side         `json:"before"`
	After    Side         `json:"after"`
}

// Side is the rows of iot_telemetry.readings on one side of a relocation.
type Side struct {
	Rows int64 `json:"rows"`
	// Digest is the SHA-256 of a line per row, ordered by observed_at and
	// reading_id: reading_id, tenant_id, observed_at and the value.
	Digest string `json:"digest"`
}

const (
	// maxExamples is how many rows a check names: where more differ, what is wrong
	// is not about rows, and they would not fit in memory.
	maxExamples = 100_000
	// maxShown is how many of them the report as text has.
	maxShown = 20
)

// Subject says whether there is something to prove. It is an error if nothing was
// ever measured and placed, or if no row, placement or customer is of the tenant,
// where one is named.
func Subject(ctx context.Context, w warehouse.Warehouse, tenant string) error {
	known := map[string]bool{}
	something := false
	err := query(ctx, w, `SELECT DISTINCT tenant_id FROM iot_metadata_internal.placements
		UNION SELECT tenant_id FROM iot_telemetry_internal.readings
		UNION SELECT tenant_id FROM iot_analytics_internal.readings`, func(row []any) error {
		something = true // where nobody holds a device there is a row without a tenant
		if name, ok := row[0].(string); ok {
			known[name] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !something {
		return ErrNothing
	}
	if tenant == "" {
		return nil
	}
	if err := query(ctx, w, "SELECT customer_id FROM customers_internal.customers", func(row []any) error {
		known[row[0].(string)] = true
		return nil
	}); err != nil || known[tenant] {
		return err
	}
	const most = 20
	names := slices.Sorted(maps.Keys(known))
	text := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d others", len(names)-most)
	}
	if len(names) == 0 {
		text = "none"
	}
	return fmt.Errorf("%w %q: there are %s", ErrNoTenant, tenant, text)
}

// ErrNothing says that nothing was measured and placed yet.
var ErrNothing = errors.New("nothing to prove: there are no readings and no placements")

// ErrNoTenant says that nothing is of the tenant.
var ErrNoTenant = errors.New("no tenant")

// Run makes the report of a warehouse. With a tenant, only rows that are shown
// to it, or should be, are compared.
func Run(ctx context.Context, w warehouse.Warehouse, products []contract.Product, tenant string) (*Report, error) {
	p := &proof{ctx: ctx, w: w, tenant: tenant, report: &Report{At: mesh.At(time.Now()), Tenant: tenant}}
	for _, step := range []func() error{
		p.overlaps, p.boundaries, p.ports, func() error { return p.views(products) }, p.rows,
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("prove: %w", err)
		}
	}
	p.report.Holds = !slices.ContainsFunc(p.report.Checks, func(c Check) bool { return c.Different > 0 })
	return p.report, nil
}

type proof struct {
	ctx    context.Context
	w      warehouse.Warehouse
	tenant string
	report *Report
	index  *tenancy.Index
	moves  map[string][]Relocation // by device, in the order of time
}

func (p *proof) query(sql string, each func(row []any) error) error {
	return query(p.ctx, p.w, sql, each)
}

func query(ctx context.Context, w warehouse.Warehouse, sql string, each func(row []any) error) error {
	rows, err := w.Query(ctx, sql)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, sql)
	}
	for row, err := range rows.All {
		if err != nil {
			return fmt.Errorf("%w\n%s", err, sql)
		}
		if err := each(row); err != nil {
			return err
		}
	}
	return nil
}

// compare adds the check that two statements give the same rows. Each is a
// statement whose first column is the key that rows are named by.
func (p *proof) compare(name, says, expected, found string, parts ...string) error {
	if p.tenant != "" {
		where := " WHERE tenant_id = " + literal.Text(p.tenant)
		expected, found = "SELECT * FROM ("+expected+")"+where, "SELECT * FROM ("+found+")"+where
	}
	check := Check{Name: name, Says: says}
	// Sides are compared with how often each row is there. EXCEPT ALL does so too,
	// by a window, of which DuckDB v1.5 fails now and then.
	counted := func(sql string) string { return "(SELECT *, count(*) AS copies FROM (" + sql + ") GROUP BY ALL)" }
	parts = append(slices.Clone(parts), "expected AS MATERIALIZED "+counted(expected), "found AS MATERIALIZED "+counted(found))
	sql := with(`SELECT * FROM (
			SELECT 'expected' AS side, * FROM (SELECT * FROM expected EXCEPT SELECT * FROM found)
			UNION ALL SELECT 'found', * FROM (SELECT * FROM found EXCEPT SELECT * FROM expected)
		) ORDER BY ALL`, parts...)
	rows, err := p.w.Query(p.ctx, sql)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, sql)
	}
	for row, err := range rows.All {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		differs := map[string]string{}
		for i, cell := range row[1:] {
			if column := rows.Columns[i+1].Name; cell != nil && (column != "copies" || cell != int64(1)) {
				differs[column] = text(cell)
			}
		}
		check.differ(row[0].(string), differs)
	}
	if err := p.query(with("SELECT CAST(coalesce(sum(copies), 0) AS BIGINT) FROM found", parts...), func(row []any) error {
		check.Rows, _ = row[0].(int64)
		return nil
	}); err != nil {
		return err
	}
	p.report.Checks = append(p.report.Checks, check)
	return nil
}

// overlaps checks what all else stands on.
func (p *proof) overlaps() error {
	const all = "SELECT device_id, valid_from, tenant_id FROM iot_metadata.placements"
	// One that overlaps another is there once more in what is found.
	return p.compare("placements", "no two placements of a device overlap", all,
		all+` UNION ALL SELECT a.device_id, a.valid_from, a.tenant_id FROM iot_metadata.placements AS a JOIN iot_metadata.placements AS b
			ON a.device_id = b.device_id AND a.valid_from < b.valid_from AND (a.valid_to IS NULL OR b.valid_from < a.valid_to)`)
}

// boundaries makes the index, and compares it with the two joins at every
// instant that any placement, of any version, begins or ends.
func (p *proof) boundaries() error {
	history, err := History(p.ctx, p.w)
	if err != nil {
		return err
	}
	assignments := tenancy.Assignments(history)
	if p.index, err = tenancy.NewIndex(assignments, int64(len(history))); err != nil {
		return err
	}
	p.moves = relocations(assignments)

	check := Check{Name: "boundaries", Says: "the functions' index, the range join and ASOF JOIN agree at each instant that a placement begins or ends, 1 µs before and 1 µs after"}
	err = p.query(`WITH raw AS (
			SELECT DISTINCT device_id, unnest([moment - INTERVAL 1 MICROSECOND, moment, moment + INTERVAL 1 MICROSECOND]) AS observed_at FROM (
				SELECT device_id, valid_from AS moment FROM iot_metadata_internal.placements
				UNION SELECT device_id, valid_to FROM iot_metadata_internal.placements WHERE valid_to IS NOT NULL
			)
		), by_range AS (WITH `+rangeJoin+` SELECT * FROM stamped), by_as_of AS (WITH `+asOfJoin+` SELECT * FROM stamped)
		SELECT device_id, observed_at, r.tenant_id, a.tenant_id FROM by_range AS r JOIN by_as_of AS a USING (device_id, observed_at)`,
		func(row []any) error {
			device, at := row[0].(string), mesh.At(row[1].(time.Time))
			byRange, _ := row[2].(string)
			asOf, _ := row[3].(string)
			tenant, _ := p.index.At(device, at)
			if p.tenant != "" && tenant != p.tenant && byRange != p.tenant && asOf != p.tenant {
				return nil
			}
			check.Rows++
			if tenant != byRange || tenant != asOf {
				check.differ("found", map[string]string{"device_id": device, "observed_at": at.String(), "index": tenant, "range_join": byRange, "asof_join": asOf})
			}
			return nil
		})
	p.report.Checks = append(p.report.Checks, check)
	return err
}

// History gives all placements that were ever recorded, in that order.
func History(ctx context.Context, w warehouse.Warehouse) (history []tenancy.Recorded, err error) {
	err = query(ctx, w, "SELECT "+tenancy.Columns+" FROM iot_metadata_internal.placements ORDER BY recorded_at", func(row []any) error {
		history = append(history, tenancy.FromRow(row))
		return nil
	})
	return history, err
}

func (c *Check) differ(side string, row map[string]string) {
	if c.Different++; len(c.Examples) < maxExamples {
		c.Examples = append(c.Examples, Difference{side, row})
	}
}

// relocations gives where the tenant of a device changes.
func relocations(assignments []mesh.Assignment) map[string][]Relocation {
	moves := map[string][]Relocation{}
	for i, a := range assignments {
		held := "" // until a begins
		if i > 0 {
			if before := &assignments[i-1]; before.DeviceID == a.DeviceID && before.ValidTo != nil && *before.ValidTo == a.ValidFrom {
				held = before.TenantID
			}
		}
		if held != a.TenantID {
			moves[a.DeviceID] = append(moves[a.DeviceID], Relocation{DeviceID: a.DeviceID, At: a.ValidFrom, From: held, To: a.TenantID})
		}
		next := i+1 < len(assignments) && assignments[i+1].DeviceID == a.DeviceID && a.ValidTo != nil && assignments[i+1].ValidFrom == *a.ValidTo
		if a.TenantID != "" && a.ValidTo != nil && !next {
			moves[a.DeviceID] = append(moves[a.DeviceID], Relocation{DeviceID: a.DeviceID, At: *a.ValidTo, From: a.TenantID})
		}
	}
	return moves
}

// ports compares the tables with the batch result.
func (p *proof) ports() error {
	for _, c := range []struct {
		name, says, expected, found string
		parts                       []string
	}{
		{"iot_telemetry.readings", "each row is of the tenant that the range join over all that was measured gives it",
			"SELECT " + telemetryColumns + " FROM stamped", "SELECT " + telemetryColumns + " FROM iot_telemetry.readings", []string{raw, rangeJoin}},
		{"iot_telemetry.readings by ASOF JOIN", "each row is of the tenant that DuckDB's ASOF JOIN gives it",
			"SELECT " + telemetryColumns + " FROM stamped", "SELECT " + telemetryColumns + " FROM iot_telemetry.readings", []string{raw, asOfJoin}},
		{"iot_telemetry.readings_as_of", "the view that joins by range shows the same tenants",
			"SELECT reading_id, tenant_id FROM iot_telemetry.readings", "SELECT reading_id, tenant_id FROM iot_telemetry.readings_as_of", nil},
		{"iot_analytics.readings", "each row is of that tenant, at the place, of the customer and after the action that one as-of join gives it; parked readings have none",
			"SELECT " + analyticsColumns + " FROM joined", "SELECT " + analyticsColumns + " FROM iot_analytics.readings", []string{raw, rangeJoin, joined}},
		{"iot_analytics.readings beside iot_telemetry.readings", "the two tables agree on whose each row is, and which version of the placements decided it",
			"SELECT reading_id, tenant_id, assignment_version FROM iot_telemetry.readings WHERE tenant_id IS NOT NULL",
			"SELECT reading_id, tenant_id, assignment_version FROM iot_analytics.readings", nil},
		{"actions", "iot_analytics.actions_timeline shows each action to who held the place or device when it was taken, and to nobody else",
			"SELECT action_id, owner AS tenant_id FROM owned", "SELECT action_id, tenant_id FROM iot_analytics.actions_timeline", []string{owned}},
	} {
		if err := p.compare(c.name, c.says, c.expected, c.found, c.parts...); err != nil {
			return err
		}
	}
	return nil
}

// views compares each view with the same view over the batch result.
func (p *proof) views(products []contract.Product) error {
	for _, product := range products {
		for _, v := range product.Views {
			if !strings.Contains(v.DuckDB, "iot_analytics.readings") {
				continue
			}
			name := v.Schema + "." + v.Name
			// Sums of floats depend on the order in which they are made.
			rounded, err := p.rounded(name)
			if err != nil {
				return err
			}
			batch := `batch AS (SELECT *, date_diff('microsecond', last_action_at, observed_at) / 60e6 AS minutes_since_action FROM joined)`
			if err := p.compare(name, "the view over the batch result shows the same rows to the same tenants",
				rounded+" FROM ("+strings.ReplaceAll(v.DuckDB, "iot_analytics.readings", "batch")+")",
				rounded+" FROM "+name, raw, rangeJoin, joined, batch); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *proof) rounded(view string) (string, error) {
	rows, err := p.w.Query(p.ctx, "SELECT * FROM "+view+" LIMIT 0")
	if err != nil {
		return "", err
	}
	var list []string
	for _, c := range rows.Columns {
		if c.Type == contract.Float64 {
			list = append(list, fmt.Sprintf("round(%[1]s, 6) AS %[1]s", c.Name))
		} else {
			list = append(list, c.Name)
		}
	}
	return "SELECT " + strings.Join(list, ", "), nil
}

// rows looks every row of iot_telemetry.readings up in the index, and makes
// the digests of both sides of each relocation.
func (p *proof) rows() error {
	check := Check{Name: "index", Says: "the functions' index gives each row its tenant and its assignment_version; its id is that of its device, metric and instant"}
	where := ""
	if p.tenant != "" {
		where = " WHERE device_id IN (SELECT device_id FROM iot_metadata_internal.placements WHERE tenant_id = " + literal.Text(p.tenant) + ") OR tenant_id = " + literal.Text(p.tenant)
	}
	d := digests{}
	err := p.query(`SELECT reading_id, device_id, observed_at, tenant_id, assignment_version, CAST(value AS VARCHAR), value_string, metric
		FROM iot_telemetry.readings`+where+` ORDER BY device_id, observed_at, reading_id`, func(row []any) error {
		device, at := row[1].(string), mesh.At(row[2].(time.Time))
		tenant, _ := row[3].(string)
		wantTenant, wantVersion := p.index.At(device, at)
		d.add(p.moves, device, at, row)
		if p.tenant != "" && tenant != p.tenant && wantTenant != p.tenant {
			return nil
		}
		check.Rows++
		id := mesh.ReadingID(device, row[7].(string), at)
		if version := row[4].(int64); tenant != wantTenant || version != wantVersion || id != row[0] {
			check.differ("found", map[string]string{
				"reading_id": row[0].(string), "device_id": device, "observed_at": at.String(),
				"tenant_id": tenant, "assignment_version": fmt.Sprint(version),
				"metric": row[7].(string), "expected_reading_id": id, "expected_tenant_id": wantTenant, "expected_assignment_version": fmt.Sprint(wantVersion),
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.end()
	p.report.Checks = append(p.report.Checks, check)
	for _, moves := range p.moves {
		for _, m := range moves {
			if p.tenant == "" || m.From == p.tenant || m.To == p.tenant {
				m.Before.seal()
				m.After.seal()
				p.report.Relocations = append(p.report.Relocations, m)
			}
		}
	}
	slices.SortFunc(p.report.Relocations, func(a, b Relocation) int {
		if c := strings.Compare(a.DeviceID, b.DeviceID); c != 0 {
			return c
		}
		return int(min(max(a.At-b.At, -1), 1))
	})
	return nil
}

// digests follows rows that come by device and time: those between two
// relocations are after the one and before the other.
type digests struct {
	device string
	moves  []Relocation
	next   int // of moves: the first that is after the rows of sum
	rows   int64
	sum    hash.Hash
}

func (d *digests) add(moves map[string][]Relocation, device string, at mesh.Instant, row []any) {
	if d.sum == nil || device != d.device {
		d.end()
		*d = digests{device: device, moves: moves[device], sum: sha256.New()}
	}
	for d.next < len(d.moves) && d.moves[d.next].At <= at {
		d.end()
		d.next++
	}
	if len(d.moves) == 0 {
		return
	}
	d.rows++
	fmt.Fprintf(d.sum, "%s %s %s %s %s\n", row[0], text(row[3]), at, text(row[5]), text(row[6]))
}

// end gives what was collected to the relocations around it.
func (d *digests) end() {
	if d.sum == nil {
		return
	}
	side := Side{d.rows, hex.EncodeToString(d.sum.Sum(nil))}
	if d.next > 0 && d.next <= len(d.moves) {
		d.moves[d.next-1].After = side
	}
	if d.next < len(d.moves) {
		d.moves[d.next].Before = side
	}
	d.rows = 0
	d.sum.Reset()
}

// seal gives a side that no row fell on the digest of nothing.
func (s *Side) seal() {
	if s.Digest == "" {
		s.Digest = hex.EncodeToString(sha256.New().Sum(nil))
	}
}

func text(cell any) string {
	switch v := cell.(type) {
	case nil:
		return "-"
	case time.Time:
		return mesh.At(v).String()
	}
	return fmt.Sprint(cell)
}
