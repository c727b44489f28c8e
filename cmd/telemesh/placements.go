package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
)

func placementsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "placements",
		Short: "See what a sheet of placements would change, and change it",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(placementsPlan(), placementsApply())
	return cmd
}

func placementsPlan() *cobra.Command {
	var (
		data   string
		zone   zone
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Say what a sheet of placements would change, and change nothing",
		Long: `Compares a sheet of placements (CSV: device_id, tenant_id, building, floor, room,
persons, outside_co2, valid_from, valid_to; all rows, as --placements takes it)
with what is stored, and says for each device and interval which readings would
go from which tenant to which, or get another place, and which views show it.`,
		Example: `  telemesh placements plan placements.csv`,
		Args:    arguments(cobra.ExactArgs(1), "the sheet of placements, a CSV"),
		RunE: func(cmd *cobra.Command, files []string) error {
			at, err := zone.location()
			if err != nil {
				return err
			}
			return withWarehouse(cmd.Context(), data, func(w warehouse.Warehouse) error {
				p, err := planPlacements(cmd.Context(), w, files[0], at)
				if err != nil {
					return err
				}
				if asJSON {
					out := json.NewEncoder(cmd.OutOrStdout())
					out.SetIndent("", "  ")
					return out.Encode(p)
				}
				return p.write(cmd.OutOrStdout())
			})
		},
	}
	dataFlag(cmd, &data)
	zone.flag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func placementsApply() *cobra.Command {
	var (
		o    options
		zone zone
	)
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Make a sheet of placements what holds, and wait until all readings follow",
		Long: `Does what telemesh placements plan says: the changed placements become an event,
and the readings inside the changed intervals are stamped and joined anew. Ended
in the middle, the repair goes on by itself when the mesh runs again.

A sheet that the mesh reads by itself (--placements of telemesh up, sheet-source)
is the truth the next time it is read: change that one, not a copy.

Exits 1 if not all readings followed.`,
		Example: `  telemesh placements apply placements.csv`,
		Args:    arguments(cobra.ExactArgs(1), "the sheet of placements, a CSV"),
		RunE: func(cmd *cobra.Command, files []string) (err error) {
			ctx := cmd.Context()
			at, err := zone.location()
			if err != nil {
				return err
			}
			r, err := o.run(ctx)
			if err != nil {
				return interrupted(ctx, err)
			}
			defer func() { err = errors.Join(err, r.close()) }()
			return interrupted(ctx, r.applyPlacements(ctx, files[0], at, cmd.OutOrStdout()))
		},
	}
	o.flags(cmd)
	zone.flag(cmd)
	return cmd
}

// zone is the time zone of times without an offset.
type zone string

func (z *zone) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar((*string)(z), "timezone", "", "time zone of times without an offset in the sheet, such as Europe/Amsterdam (default: they are refused)")
}

func (z zone) location() (*time.Location, error) { return (&sheets{zone: string(z)}).location() }

// plan is what a sheet would change.
type plan struct {
	New     int      `json:"new"` // placements
	Changed int      `json:"changed"`
	Deleted int      `json:"deleted"`
	Refused []string `json:"refused,omitempty"` // rows of the sheet
	Moves   []move   `json:"moves"`             // by device and time
	Views   []string `json:"views,omitempty"`   // that show other rows then
	Tenants []string `json:"tenants,omitempty"` // who sees other rows then

	changes []mesh.Placement
}

// move is an interval of a device that would be another tenant's, or have
// another place.
type move struct {
	DeviceID string        `json:"device_id"`
	From     mesh.Instant  `json:"from"`
	To       *mesh.Instant `json:"to,omitempty"`  // nil: open
	Now      string        `json:"now,omitempty"` // tenant; empty: nobody
	Then     string        `json:"then,omitempty"`
	Place    bool          `json:"place"` // it, or what is known of it, is another
	Rows     int64         `json:"rows"`  // readings
}

func planPlacements(ctx context.Context, w warehouse.Warehouse, file string, zone *time.Location) (*plan, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	grid, err := sheet.ReadCSV(file, f)
	if err != nil {
		return nil, err
	}
	grid.Zone = zone
	read, err := sheet.Placements.Read(grid)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	stored, err := storedPlacements(ctx, w)
	if err != nil {
		return nil, err
	}
	last, err := scalar(ctx, w, "SELECT greatest(count(*), coalesce(max(version), 0)) FROM iot_metadata_internal.placements")
	if err != nil {
		return nil, err
	}
	p := &plan{changes: sheet.Placements.Changes(read, stored, last)}
	for _, f := range read.Findings {
		if f.Severity == mesh.SeverityError {
			p.Refused = append(p.Refused, sheet.Describe(f))
		}
	}
	before, after := map[string]map[mesh.Instant]mesh.Placement{}, map[string]map[mesh.Instant]mesh.Placement{}
	add := func(to map[string]map[mesh.Instant]mesh.Placement, q mesh.Placement) {
		if to[q.DeviceID] == nil {
			to[q.DeviceID] = map[mesh.Instant]mesh.Placement{}
		}
		to[q.DeviceID][q.ValidFrom] = q
	}
	for _, q := range stored {
		add(before, q)
		add(after, q)
	}
	devices := map[string]bool{}
	for _, q := range p.changes {
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
		add(after, q)
	}
	for _, device := range slices.Sorted(maps.Keys(devices)) {
		p.Moves = append(p.Moves, moves(device, before[device], after[device])...)
	}
	if err := p.count(ctx, w); err != nil {
		return nil, err
	}
	return p, p.see()
}

func storedPlacements(ctx context.Context, w warehouse.Warehouse) (stored []mesh.Placement, err error) {
	rows, err := w.Query(ctx, "SELECT device_id, tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to, version FROM iot_metadata.placements")
	if err != nil {
		return nil, err
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		var q mesh.Placement
		q.DeviceID, q.TenantID = row[0].(string), row[1].(string)
		q.Building, _ = row[2].(string)
		q.Floor, _ = row[3].(string)
		q.Room, _ = row[4].(string)
		if n, ok := row[5].(int64); ok {
			q.Persons = &n
		}
		if f, ok := row[6].(float64); ok {
			q.OutsideCO2 = &f
		}
		q.ValidFrom = mesh.At(row[7].(time.Time))
		if to, ok := row[8].(time.Time); ok {
			at := mesh.At(to)
			q.ValidTo = &at
		}
		q.Version = row[9].(int64)
		stored = append(stored, q)
	}
	return stored, nil
}

// moves compares the placements of a device by the pieces of time that all
// their beginnings and ends make.
func moves(device string, before, after map[mesh.Instant]mesh.Placement) (out []move) {
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
	at := func(rows map[mesh.Instant]mesh.Placement, t mesh.Instant) (q mesh.Placement) {
		for _, row := range rows {
			if row.ValidFrom <= t && (row.ValidTo == nil || t < *row.ValidTo) {
				q = row
			}
		}
		return q
	}
	for i, from := range cuts {
		now, then := at(before, from), at(after, from)
		m := move{DeviceID: device, From: from, Now: now.TenantID, Then: then.TenantID}
		m.Place = now.Building != then.Building || now.Floor != then.Floor || now.Room != then.Room ||
			!equal(now.Persons, then.Persons) || !equal(now.OutsideCO2, then.OutsideCO2)
		if i+1 < len(cuts) {
			m.To = &cuts[i+1]
		}
		if m.Now == m.Then && !m.Place {
			continue
		}
		if n := len(out); n > 0 && out[n-1].To != nil && *out[n-1].To == from && out[n-1].Now == m.Now && out[n-1].Then == m.Then && out[n-1].Place == m.Place {
			out[n-1].To = m.To
			continue
		}
		out = append(out, m)
	}
	return out
}

func equal[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// maxCounted bounds a statement that counts the rows of moves.
const maxCounted = 500

// inMoves joins the readings of moves: m.n is the number of the move.
func inMoves(moves []move, first int) string {
	var list strings.Builder
	for i, m := range moves {
		if i > 0 {
			list.WriteString(" UNION ALL ")
		}
		to := "TIMESTAMP '9999-12-31 23:59:59.999999'"
		if m.To != nil {
			to = fmt.Sprintf("make_timestamp(%d)", int64(*m.To))
		}
		then := "CAST(NULL AS VARCHAR)"
		if m.Then != "" {
			then = quoted(m.Then)
		}
		fmt.Fprintf(&list, "SELECT %d AS n, %s AS device_id, make_timestamp(%d) AS since, %s AS until, %s AS tenant_id", first+i, quoted(m.DeviceID), int64(m.From), to, then)
	}
	return "FROM (" + list.String() + ") AS m JOIN iot_telemetry.readings AS r ON r.device_id = m.device_id AND r.observed_at >= m.since AND r.observed_at < m.until"
}

func (p *plan) count(ctx context.Context, w warehouse.Warehouse) error {
	for first := 0; first < len(p.Moves); first += maxCounted {
		some := p.Moves[first:min(first+maxCounted, len(p.Moves))]
		rows, err := w.Query(ctx, "SELECT m.n, count(*) "+inMoves(some, first)+" GROUP BY m.n")
		if err != nil {
			return err
		}
		for row, err := range rows.All {
			if err != nil {
				return err
			}
			p.Moves[row[0].(int64)].Rows = row[1].(int64)
		}
	}
	return nil
}

// behind counts the readings that are not the tenant's yet whose they are to be.
func (p *plan) behind(ctx context.Context, w warehouse.Warehouse) (n int64, err error) {
	for some := range slices.Chunk(p.Moves, maxCounted) {
		one, err := scalar(ctx, w, "SELECT count(*) "+inMoves(some, 0)+" WHERE r.tenant_id IS DISTINCT FROM m.tenant_id")
		if err != nil {
			return 0, err
		}
		n += one
	}
	return n, nil
}

// see finds who sees the change and where.
func (p *plan) see() error {
	seen := map[string]bool{}
	for _, m := range p.Moves {
		for _, tenant := range []string{m.Now, m.Then} {
			if tenant != "" && m.Rows > 0 {
				seen[tenant] = true
			}
		}
	}
	p.Tenants = slices.Sorted(maps.Keys(seen))
	if len(seen) == 0 {
		return nil
	}
	all, err := contract.Load(products.FS)
	if err != nil {
		return err
	}
	for _, product := range all {
		for _, v := range product.Views {
			if strings.Contains(v.SQL, "iot_analytics.readings") || strings.Contains(v.SQL, "iot_telemetry.readings") {
				p.Views = append(p.Views, v.Schema+"."+v.Name)
			}
		}
	}
	return nil
}

func (p *plan) write(out io.Writer) error {
	for _, refused := range p.Refused {
		fmt.Fprintf(out, "refused: %s\n", refused)
	}
	if len(p.changes) == 0 {
		_, err := fmt.Fprintln(out, "nothing changes")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DEVICE\tFROM\tTO\tTENANT NOW\tTHEN\tPLACE\tREADINGS")
	hands := map[[2]string]int64{}
	for _, m := range p.Moves {
		to, place := "(open)", ""
		if m.To != nil {
			to = m.To.String()
		}
		if m.Place {
			place = "another"
		}
		hands[[2]string{m.Now, m.Then}] += m.Rows
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", plain(m.DeviceID), m.From, to, holder(m.Now), holder(m.Then), orDash(place), m.Rows)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nplacements  %d new, %d changed, %d deleted\n", p.New, p.Changed, p.Deleted)
	for _, pair := range slices.SortedFunc(maps.Keys(hands), func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }) {
		what := fmt.Sprintf("from %s to %s", holder(pair[0]), holder(pair[1]))
		if pair[0] == pair[1] {
			what = "of " + holder(pair[0]) + " get another place"
		}
		fmt.Fprintf(out, "readings    %d %s\n", hands[pair], what)
	}
	if len(p.Views) > 0 {
		fmt.Fprintf(out, "views       %s\n", strings.Join(p.Views, ", "))
		fmt.Fprintf(out, "tenants     %s\n", strings.Join(p.Tenants, ", "))
	}
	return nil
}

func holder(tenant string) string {
	if tenant == "" {
		return "(nobody)"
	}
	return plain(tenant)
}

func (r *running) applyPlacements(ctx context.Context, file string, zone *time.Location, out io.Writer) error {
	p, err := planPlacements(ctx, r.warehouse, file, zone)
	if err != nil {
		return err
	}
	if err := p.write(out); err != nil {
		return err
	}
	if len(p.changes) == 0 {
		// What an earlier call began and did not end is repaired all the same.
		return r.idle(ctx)
	}
	began := time.Now()
	for _, e := range sheet.Placements.Events("placements-apply", p.changes) {
		if err := r.post(ctx, e); err != nil {
			return err
		}
	}
	all, err := p.behind(ctx, r.warehouse)
	if err != nil {
		return err
	}
	var bar *progressbar.ProgressBar
	if term.IsTerminal(int(os.Stderr.Fd())) {
		bar = progressbar.Default(all, "readings")
	}
	var left int64
	missing := func() (int, error) {
		n, err := p.behind(ctx, r.warehouse)
		if err == nil && bar != nil {
			bar.Set64(all - n)
		}
		left = n
		return int(n), err
	}
	if err := r.wait(ctx, missing); err != nil {
		return err
	}
	if left > 0 {
		return hint(fmt.Errorf("%d readings did not follow", left), "`telemesh deadletters list` shows what failed; `telemesh prove` names the rows")
	}
	// What is joined follows.
	if err := r.idle(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\ndone        in %.1f s\n", time.Since(began).Seconds())
	return err
}
