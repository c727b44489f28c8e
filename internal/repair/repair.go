// Package repair is what the functions that correct stored readings have in
// common: it reads the rows that a change of the metadata may touch, page by
// page, and puts what differs into events while the reading goes on. Memory is
// bounded whatever the number of rows.
//
// A repair that takes long is done in parts, each a delivery of its own. A part
// that is interrupted is done again from its start by the redelivery of its
// event: what was stored meanwhile says already what it should, and what is sent
// twice is stored once.
package repair

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// The tables that Rows reads: every row as it was appended. The output ports
// show revisions that the store has counted; a correction keeps the reading's
// own.
const (
	Telemetry = "iot_telemetry_internal.readings"
	Analytics = "iot_analytics_internal.readings"
)

// pageRows bounds what is held in memory, some 10 MB, and how long a query
// stays open: who takes the rows may have to wait between two of them.
const pageRows = 16 << 10

// Rows gives the rows of a table for which a condition holds, those of one
// reading at a time, by device_id, observed_at and reading_id; of one reading
// by revision, assignment_version and recorded_at. where is a condition on the columns in
// SQL that both warehouses know (Text, Time, Conditions); empty: all rows.
//
// A reading that is there when the loop begins is given once. The slice is
// valid until the next one. The error is the one that ended the answer.
func Rows(ctx context.Context, w warehouse.Warehouse, table, where string) iter.Seq2[[]mesh.JoinedReading, error] {
	return rows(ctx, w, table, where, pageRows)
}

func rows(ctx context.Context, w warehouse.Warehouse, table, where string, limit int) iter.Seq2[[]mesh.JoinedReading, error] {
	return func(yield func([]mesh.JoinedReading, error) bool) {
		s := scan{warehouse: w, table: table, where: cmp.Or(where, "TRUE"), limit: limit}
		for {
			more, err := s.next(ctx)
			if err != nil {
				yield(nil, fmt.Errorf("read %s: %w", table, err))
				return
			}
			for group := s.page; len(group) > 0; {
				n := 1
				for n < len(group) && group[n].ReadingID == group[0].ReadingID {
					n++
				}
				if !yield(group[:n:n], nil) {
					return
				}
				group = group[n:]
			}
			if !more {
				return
			}
		}
	}
}

// scan goes through the readings of a table in the order of a key. A page ends
// within a device mostly: the rest of that device is asked for by itself, so
// that a condition bounds the time and the warehouse skips what lies before it.
type scan struct {
	warehouse    warehouse.Warehouse
	table, where string
	limit        int
	page         []mesh.JoinedReading // the readings that are whole

	begun  bool
	within bool               // the page that comes is of the device of from alone
	from   mesh.JoinedReading // the first reading of the page that comes; if not within, only devices after it come
}

// next reads a page, and says whether there may be another one.
func (s *scan) next(ctx context.Context) (more bool, err error) {
	limit := s.limit
	for {
		if err := s.read(ctx, limit); err != nil {
			return false, err
		}
		if len(s.page) < limit {
			if !s.within {
				return false, nil
			}
			s.within = false // the devices after it are next
			return true, nil
		}
		// Whether the last reading has more rows is not known: it is read again.
		last := len(s.page) - 1
		whole := last
		for whole > 0 && s.page[whole-1].ReadingID == s.page[last].ReadingID {
			whole--
		}
		if whole > 0 {
			s.from, s.begun, s.within = s.page[last], true, true
			s.page = s.page[:whole]
			return true, nil
		}
		limit *= 2 // one reading fills the page
	}
}

func (s *scan) read(ctx context.Context, limit int) error {
	where := s.where
	if s.begun {
		device, at := literal.Text(s.from.DeviceID), literal.Time(s.from.ObservedAt)
		if s.within {
			where = fmt.Sprintf("(%s) AND device_id = %s AND observed_at >= %s AND (observed_at > %[3]s OR reading_id >= %[4]s)",
				where, device, at, literal.Text(s.from.ReadingID))
		} else {
			where = fmt.Sprintf("(%s) AND device_id > %s", where, device)
		}
	}
	columns := telemetryColumns
	if s.table == Analytics {
		columns = analyticsColumns
	}
	answer, err := s.warehouse.Query(ctx, fmt.Sprintf(
		"SELECT %s FROM %s WHERE %s ORDER BY device_id, observed_at, reading_id, revision, assignment_version, recorded_at LIMIT %d",
		columns, s.table, where, limit))
	if err != nil {
		return err
	}
	s.page = s.page[:0]
	for row, err := range answer.All {
		if err != nil {
			return err
		}
		s.page = append(s.page, mesh.JoinedReading{})
		if err := decode(row, &s.page[len(s.page)-1]); err != nil {
			return err
		}
	}
	return nil
}

const (
	telemetryColumns = "reading_id, tenant_id, device_id, metric, value, value_string, value_bool, unit, observed_at, received_at, " +
		"revision, assignment_version, quality, judged, event_source, event_id, attributes"
	analyticsColumns = telemetryColumns + ", building, floor, room, persons, outside_co2, customer_name, last_action, last_action_at, join_version"
)

// decode reads a row of the columns above.
func decode(row []any, r *mesh.JoinedReading) error {
	c := cells{row: row}
	r.ReadingID = c.text()
	r.TenantID = c.text()
	r.DeviceID = c.text()
	r.Metric = c.text()
	value, hasValue := take[float64](&c)
	r.Value = value
	r.ValueString = c.text()
	_, isBool := take[bool](&c)
	switch {
	case isBool:
		r.Kind = mesh.Boolean
	case hasValue:
		r.Kind = mesh.Number
	default:
		r.Kind = mesh.Text
	}
	r.Unit = c.text()
	r.ObservedAt = c.instant()
	r.ReceivedAt = c.instant()
	r.Revision, _ = take[int64](&c)
	r.AssignmentVersion, _ = take[int64](&c)
	r.Quality = c.text()
	r.Judged, _ = take[int64](&c)
	r.EventSource = c.text()
	r.EventID = c.text()
	r.Attributes = c.text()
	if len(c.row) > 0 && c.err == nil {
		r.Building = c.text()
		r.Floor = c.text()
		r.Room = c.text()
		if persons, ok := take[int64](&c); ok {
			r.Persons = &persons
		}
		if co2, ok := take[float64](&c); ok {
			r.OutsideCO2 = &co2
		}
		r.CustomerName = c.text()
		r.LastAction = c.text()
		r.LastActionAt = c.instant()
		r.JoinVersion, _ = take[int64](&c)
	}
	if c.err != nil {
		return fmt.Errorf("row of reading %s: %w", r.ReadingID, c.err)
	}
	return nil
}

// cells takes one cell of a row after the other.
type cells struct {
	row []any
	err error
}

// take gives the next cell, or false if it is NULL.
func take[T any](c *cells) (v T, ok bool) {
	if len(c.row) == 0 {
		c.err = cmp.Or(c.err, error(fmt.Errorf("too few columns")))
		return v, false
	}
	cell := c.row[0]
	c.row = c.row[1:]
	if cell == nil {
		return v, false
	}
	v, ok = cell.(T)
	if !ok && c.err == nil {
		c.err = fmt.Errorf("a cell is %T, want %T", cell, v)
	}
	return v, ok
}

func (c *cells) text() string {
	s, _ := take[string](c)
	return s
}

func (c *cells) instant() mesh.Instant {
	at, ok := take[time.Time](c)
	if !ok {
		return 0
	}
	return mesh.At(at)
}

// Range is the instants [From, To) of a device.
type Range struct {
	Device   string
	From, To mesh.Instant
}

// Ends of a Range that has none.
const (
	Always  mesh.Instant = math.MinInt64
	Forever mesh.Instant = math.MaxInt64
)

// RangeOf gives the range of an interval.
func RangeOf(device string, from mesh.Instant, to *mesh.Instant) Range {
	if to == nil {
		return Range{device, from, Forever}
	}
	return Range{device, from, *to}
}

const (
	// maxDevices and maxText, in bytes, bound the names in a condition: a
	// statement must not pass 1 MB in BigQuery.
	maxDevices = 2000
	maxText    = 256 << 10
	// maxIntervals bounds the intervals in a condition: each is a part of a UNION,
	// and many of them are slow to plan.
	maxIntervals = 250
)

// Conditions gives conditions for Rows that hold for exactly the readings in the
// ranges, which must not overlap: each reading is in one of them. What holds for
// one condition comes before what holds for the next one, in the order of Rows.
// It sorts the ranges.
func Conditions(ranges []Range) iter.Seq[string] {
	slices.SortFunc(ranges, func(a, b Range) int {
		return cmp.Or(strings.Compare(a.Device, b.Device), cmp.Compare(a.From, b.From))
	})
	return func(yield func(string) bool) {
		for rest := ranges; len(rest) > 0; {
			n, text := 1, len(rest[0].Device)
			for n < min(len(rest), maxDevices) && text < maxText && rest[n].From == rest[0].From && rest[n].To == rest[0].To {
				text += len(rest[n].Device)
				n++
			}
			same := n == len(rest) || n >= maxIntervals || text >= maxText
			if !same {
				for n, text = 0, 0; n < min(len(rest), maxIntervals) && text < maxText; n++ {
					text += 2 * len(rest[n].Device) // it stands in the list and with its interval
				}
			}
			if !yield(condition(rest[:n], same)) {
				return
			}
			rest = rest[n:]
		}
	}
}

// condition bounds the devices and the instants, by which a warehouse skips most
// of a table, and then looks for the interval of a device: as a join, since
// alternatives are tried one after the other.
func condition(ranges []Range, same bool) string {
	var names, intervals []string
	from, to := Forever, Always
	for _, r := range ranges {
		device := literal.Text(r.Device)
		if len(names) == 0 || names[len(names)-1] != device {
			names = append(names, device)
		}
		intervals = append(intervals, fmt.Sprintf("SELECT %s AS d, %s AS f, %s AS t", device, literal.Time(max(r.From, earliest)), literal.Time(min(r.To, latest))))
		from, to = min(from, r.From), max(to, r.To)
	}
	where := "device_id IN (" + strings.Join(names, ", ") + ")"
	if from != Always {
		where += " AND observed_at >= " + literal.Time(from)
	}
	if to != Forever {
		where += " AND observed_at < " + literal.Time(to)
	}
	if !same {
		where += " AND EXISTS (SELECT 1 FROM (" + strings.Join(intervals, " UNION ALL ") + ") AS i WHERE i.d = device_id AND observed_at >= i.f AND observed_at < i.t)"
	}
	return where
}

// The ends of what a TIMESTAMP can be in BigQuery.
var (
	earliest = mesh.At(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC))
	latest   = mesh.At(time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC))
)
