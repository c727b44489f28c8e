package port

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
)

// placements is where every version of every placement is recorded.
const placements = "iot_metadata_internal.placements"

// state tells what is recorded. It only grows: the number of rows and the times
// of the first and of the last one, in µs, name it.
type state struct{ n, first, last int64 }

func (s state) tag() string { return fmt.Sprintf("%x-%x-%x", s.n, s.first, s.last) }

// table names the table: one that was made anew has another first row.
func (s state) table() string { return fmt.Sprintf("%x", s.first) }

// now asks for the state.
func (p *port) now(ctx context.Context) (s state, err error) {
	found := false
	err = p.query(ctx, "SELECT COUNT(*) AS n, MIN(recorded_at) AS first_at, MAX(recorded_at) AS last_at FROM "+placements, func(row []any) {
		s.n, found = row[0].(int64)
		if first, ok := row[1].(time.Time); ok { // none: the table is empty
			s.first, s.last = first.UnixMicro(), row[2].(time.Time).UnixMicro()
		}
	})
	if err == nil && !found {
		err = fmt.Errorf("count the rows of %s: no answer", placements)
	}
	return s, err
}

// load reads what has changed since the last copy, or everything.
func (p *port) load(ctx context.Context, now state, last *copied) (*copied, error) {
	if last != nil && (last.state.first != now.first || last.state.n > now.n) {
		last = nil // the table was made anew
	}
	c, err := p.replay(ctx, now, last)
	if err == nil && c.steps.Version() != now.n && last != nil {
		c, err = p.replay(ctx, now, nil) // a row was recorded with a time before that of the last copy
	}
	if err == nil && c.steps.Version() != now.n {
		return nil, fmt.Errorf("%s: %d rows by their times, %d in all", placements, c.steps.Version(), now.n)
	}
	return c, err
}

func (p *port) replay(ctx context.Context, now state, last *copied) (*copied, error) {
	c := &copied{state: now}
	// What is recorded meanwhile comes later than the state: the queries are of
	// one state, however many they are.
	until := "recorded_at <= " + literal(mesh.Instant(now.last))
	where := " WHERE " + until
	if last != nil {
		// The last step is read again: it may have gained rows.
		from := last.steps.Last()
		c.steps = last.steps.Until(from)
		where = " WHERE recorded_at >= " + literal(from) + " AND " + until
	}
	err := p.query(ctx, "SELECT recorded_at, COUNT(*) AS n FROM "+placements+where+" GROUP BY recorded_at ORDER BY recorded_at", func(row []any) {
		c.steps.Add(mesh.At(row[0].(time.Time)), row[1].(int64))
	})
	if err != nil {
		return nil, err
	}
	if last != nil {
		where = " WHERE " + until + " AND device_id IN (SELECT device_id FROM " + placements + where + ")"
	}
	assignments := p.assignments(ctx, &c.steps, where)
	if last == nil {
		c.index, err = tenancy.Collect(assignments, c.steps.Version())
		return c, err
	}
	var changed []mesh.Assignment
	for a, err := range assignments {
		if err != nil {
			return nil, err
		}
		changed = append(changed, a)
	}
	c.index, err = last.index.With(changed, c.steps.Version())
	return c, err
}

// assignments replays the history of one device after the other.
func (p *port) assignments(ctx context.Context, steps *tenancy.Steps, where string) iter.Seq2[mesh.Assignment, error] {
	return func(yield func(mesh.Assignment, error) bool) {
		var history []tenancy.Recorded
		var made []mesh.Assignment
		end := func() bool {
			if len(history) == 0 {
				return true
			}
			made = steps.Replay(made[:0], history)
			history = history[:0]
			for _, a := range made {
				if !yield(a, nil) {
					return false
				}
			}
			return true
		}
		rows, err := p.warehouse.Query(ctx, "SELECT "+tenancy.Columns+" FROM "+placements+where+" ORDER BY device_id")
		if err != nil {
			yield(mesh.Assignment{}, err)
			return
		}
		for row, err := range rows.All {
			if err != nil {
				yield(mesh.Assignment{}, err)
				return
			}
			r := tenancy.FromRow(row)
			if len(history) > 0 && history[0].DeviceID != r.DeviceID && !end() {
				return
			}
			history = append(history, r)
		}
		end()
	}
}

// literal is an instant in SQL that both warehouses read.
func literal(at mesh.Instant) string {
	return "TIMESTAMP '" + at.Time().Format("2006-01-02 15:04:05.000000+00") + "'"
}

func (p *port) query(ctx context.Context, sql string, each func(row []any)) error {
	rows, err := p.warehouse.Query(ctx, sql)
	if err != nil {
		return err
	}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		each(row)
	}
	return nil
}
