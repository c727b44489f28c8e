// Package levels measures how output ports keep the service levels of their
// contracts, by the rows that they have.
//
//   - latency: from received_at to recorded_at, or from the column that the
//     contract's latency names, of the rows recorded in the window.
//   - delay: from the event time of a row to recorded_at, of the same rows. No
//     contract promises it: a device may keep its readings for as long as it likes.
//   - freshness: how old the newest row is. It is missed where the Broker accepted
//     an event that brings rows, the contract's frequency went by, and no row came;
//     while nothing comes there is nothing to be late. An event that says nothing
//     new cannot be told from one that is not stored yet, and counts once.
//   - completeness: of the readings of a day, by device. The interval of a device
//     is the median of its own; a silence that is longer misses as many readings as
//     it has intervals. Devices that send too seldom or irregularly are counted, and
//     not judged. One that was silent for all of the day is not expected.
//
// What is good is counted against an objective, of which the error budget is the
// rest: of all that was judged in 28 days, so much may be bad. Rows are judged of
// latency, measurements of freshness and completeness.
//
// A port without recorded_at is not measured. Revisions are not either: they were
// recorded later for other reasons.
package levels

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/elapsed"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// The levels.
const (
	Latency      = "latency"
	Delay        = "delay"
	Freshness    = "freshness"
	Completeness = "completeness"
)

// Table has the measurements, and Log the events that the Brokers accepted.
const (
	Table = "mesh_metrics.service_levels"
	Log   = "event_log.events"
)

// Window of the error budget.
const Budget = 28 * 24 * time.Hour

const (
	lookback = 48 * time.Hour // how old rows are at most, by event time, that are looked at
	longest  = 24 * time.Hour // that a measurement looks back when the one before is longer ago
	first    = time.Hour      // that the first one does
	day      = 24 * time.Hour // of completeness
	settle   = 15 * time.Minute
	skew     = time.Second // of the clocks of a Broker and of the warehouse
	carried  = time.Minute // that an event takes from one Broker to another, at most
)

// Row is a row of Table, one level of one port at one measurement. Members are
// its columns; nil is NULL.
type Row struct {
	Port      string       `json:"port"`
	Level     string       `json:"level"`
	Product   string       `json:"product"`
	Version   string       `json:"contract_version"`
	Unit      string       `json:"unit"` // s or percent
	Target    *float64     `json:"target"`
	Actual    *float64     `json:"actual"`
	P50       *float64     `json:"p50"`
	P95       *float64     `json:"p95"`
	P99       *float64     `json:"p99"`
	Good      *int64       `json:"good"`
	Total     *int64       `json:"total"`
	Kept      *bool        `json:"kept"`
	Goal      float64      `json:"objective"` // percent
	Left      *float64     `json:"budget_left"`
	Devices   *int64       `json:"devices"`
	Irregular *int64       `json:"irregular"`
	Error     *string      `json:"error"`
	From      mesh.Instant `json:"window_from"`
	To        mesh.Instant `json:"window_to"`
	At        mesh.Instant `json:"measured_at"`
	Owner     string       `json:"-"`
	Was       *bool        `json:"-"` // Kept, as it was judged last before; nil: never
}

// Meter measures.
type Meter struct {
	query    func(context.Context, string) (*warehouse.Rows, error)
	products []contract.Product
	goal     float64

	// Within bounds what a level of a port takes; 0: ctx alone does.
	Within time.Duration
}

// New makes a meter of all output ports of products, for an objective in percent,
// below 100.
func New(query func(context.Context, string) (*warehouse.Rows, error), products []contract.Product, objective float64) (*Meter, error) {
	if objective <= 0 || objective >= 100 {
		return nil, fmt.Errorf("objective %g: want percent, above 0 and below 100: else nothing may ever be bad", objective)
	}
	return &Meter{query: query, products: products, goal: objective}, nil
}

// before is what was measured before.
type before struct {
	good, total int64
	kept        *bool
	last        time.Time
}

// Measure gives the rows of a measurement at an instant: measured again it gives
// the same, as long as no row came that was recorded before it. Each port takes a
// few statements that read some days of it. A level that cannot be measured has a
// row that says why, and the next measurement begins where this one did; where none
// can, Measure fails.
func (m *Meter) Measure(ctx context.Context, at time.Time) ([]Row, error) {
	known, err := m.before(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("read what was measured before: %w", err)
	}
	var rows []Row
	var failed error
	measured := false
	for _, p := range m.products {
		for i := range p.Tables {
			t := &p.Tables[i]
			if t.Schema != p.Schema || !has(t, contract.RecordedAt) {
				continue
			}
			one := &port{Meter: m, Table: t, at: at, known: known}
			some, err := one.measure(ctx)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("measure %s: %w", t.FullName(), err))
			}
			measured = measured || some
			for _, r := range one.rows {
				r.Product, r.Owner = p.Name, p.Owner
				m.judge(&r, known[r.Port+" "+r.Level])
				rows = append(rows, r)
			}
		}
	}
	if !measured {
		return nil, failed
	}
	return rows, nil
}

// judge adds what the measurements before say.
func (m *Meter) judge(r *Row, b before) {
	r.Was = b.kept
	if r.Good != nil {
		b.good, b.total = b.good+*r.Good, b.total+*r.Total
	}
	if b.total > 0 {
		may := float64(b.total) * (100 - m.goal) / 100
		left := 100 * (1 - float64(b.total-b.good)/may)
		left = math.Round(left*100) / 100
		r.Left = &left
	}
}

// before reads the last 28 days of measurements.
func (m *Meter) before(ctx context.Context, at time.Time) (map[string]before, error) {
	within := func(of string) string {
		return fmt.Sprintf("%[1]smeasured_at >= %[2]s AND %[1]smeasured_at < %[3]s", of, instant(at.Add(-Budget)), instant(at))
	}
	rows, err := m.query(ctx, fmt.Sprintf(`SELECT s.port, s.level, s.good, s.total, s.last, j.kept FROM (
  SELECT port, level, CAST(COALESCE(SUM(good), 0) AS INT64) AS good, CAST(COALESCE(SUM(total), 0) AS INT64) AS total, MAX(CASE WHEN error IS NULL THEN window_to END) AS last,
    MAX(CASE WHEN kept IS NOT NULL THEN measured_at END) AS judged
  FROM %[1]s WHERE %[2]s GROUP BY port, level
) AS s LEFT JOIN %[1]s AS j ON j.port = s.port AND j.level = s.level AND j.measured_at = s.judged AND %[3]s`, Table, within(""), within("j.")))
	if err != nil {
		return nil, err
	}
	known := map[string]before{}
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		var b before
		port, _ := row[0].(string)
		level, _ := row[1].(string)
		b.good, _ = row[2].(int64)
		b.total, _ = row[3].(int64)
		b.last, _ = row[4].(time.Time)
		if kept, ok := row[5].(bool); ok {
			b.kept = &kept
		}
		known[port+" "+level] = b
	}
	return known, nil
}

// port is a measurement of one.
type port struct {
	*Meter
	*contract.Table
	at    time.Time
	known map[string]before
	rows  []Row
}

func has(t *contract.Table, column string) bool {
	return slices.ContainsFunc(t.Columns, func(c contract.Column) bool { return c.Name == column })
}

func instant(at time.Time) string { return literal.Time(mesh.At(at)) }

func number[T any](v T) *T { return &v }

// from is the end of the last measurement of a level that came to a number, or of
// another one which is measured with it, and begins this one.
func (p *port) from(measured ...string) time.Time {
	var last time.Time
	for _, level := range measured {
		if at := p.known[p.FullName()+" "+level].last; at.After(last) {
			last = at
		}
	}
	switch {
	case last.IsZero():
		return p.at.Add(-first)
	case p.at.Sub(last) > longest:
		return p.at.Add(-longest)
	}
	return last
}

func (p *port) row(level, unit string, from time.Time) Row {
	return Row{Port: p.FullName(), Level: level, Version: p.Version, Unit: unit, Goal: p.goal, From: mesh.At(from), To: mesh.At(p.at), At: mesh.At(p.at)}
}

// began is the column from which latency is measured; empty: there is none.
func (p *port) began() string {
	for _, level := range p.Levels {
		if level.Property == Latency && level.Column != contract.RecordedAt {
			for _, c := range p.Columns {
				if c.Name == level.Column && c.Type == contract.Timestamp {
					return c.Name
				}
			}
		}
	}
	if has(p.Table, "received_at") {
		return "received_at"
	}
	return ""
}

// recent bounds the partitions that are read.
func (p *port) recent(from time.Time) string {
	if p.Time == "" {
		return ""
	}
	return fmt.Sprintf(" AND t.%s >= %s", p.Time, instant(from.Add(-lookback)))
}

type step struct {
	level, unit string
	do          func(context.Context) error
}

// measure adds the rows of all levels, and says whether there is one that could be
// measured. One that cannot has a row that says why.
func (p *port) measure(ctx context.Context) (some bool, failed error) {
	var newest time.Time
	steps := []step{
		{Latency, "s", func(ctx context.Context) (err error) { newest, err = p.latency(ctx); return err }},
		{Freshness, "s", func(ctx context.Context) error { return p.freshness(ctx, newest) }},
	}
	if p.Table.Completeness > 0 {
		steps = append(steps, step{Completeness, "percent", p.completeness})
	}
	for _, s := range steps {
		err := p.bounded(ctx, s.do)
		some = some || err == nil
		if err != nil {
			failed = errors.Join(failed, err)
			r := p.row(s.level, s.unit, p.from(s.level))
			r.Error = number(err.Error())
			p.rows = append(p.rows, r)
		}
	}
	return some, failed
}

// bounded does what a level takes.
func (p *port) bounded(ctx context.Context, do func(context.Context) error) error {
	if p.Within == 0 {
		return do(ctx)
	}
	within, cancel := context.WithTimeout(ctx, p.Within)
	defer cancel()
	err := do(within)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("the warehouse did not answer in %s", p.Within)
	}
	return err
}

// latency adds what rows took that were recorded in the window, and gives the
// newest of them.
func (p *port) latency(ctx context.Context) (newest time.Time, err error) {
	from, began := p.from(Latency, Delay), p.began()
	where := fmt.Sprintf("t.recorded_at > %s AND t.recorded_at <= %s", instant(from), instant(p.at)) + p.recent(from)
	if p.Order == contract.Revision {
		where += " AND t.revision = 0"
	}
	took, good, delay := "0", "0", "0"
	if began != "" {
		took = elapsed.Bucket("t."+began, "t.recorded_at")
		good = fmt.Sprintf("CASE WHEN t.recorded_at <= t.%s + INTERVAL %d SECOND THEN 1 ELSE 0 END", began, int64(p.Latency/time.Second))
	}
	delayed := p.Time != "" && p.Time != began
	if delayed {
		delay = elapsed.Bucket("t."+p.Time, "t.recorded_at")
	}
	rows, err := p.query(ctx, fmt.Sprintf("SELECT took, delay, COUNT(*) AS n, CAST(SUM(good) AS INT64) AS good, MAX(recorded_at) AS newest FROM (SELECT %s AS took, %s AS delay, %s AS good, t.recorded_at FROM %s AS t WHERE %s) AS r GROUP BY took, delay",
		took, delay, good, p.FullName(), where))
	if err != nil {
		return newest, err
	}
	var kept, total int64
	tooks, delays := elapsed.Counts{}, elapsed.Counts{}
	for row, err := range rows.All {
		if err != nil {
			return newest, err
		}
		n, _ := row[2].(int64)
		bucket, _ := row[0].(int64)
		tooks[bucket] += n
		bucket, _ = row[1].(int64)
		delays[bucket] += n
		in, _ := row[3].(int64)
		kept, total = kept+in, total+n
		if at, _ := row[4].(time.Time); at.After(newest) {
			newest = at
		}
	}
	if began != "" {
		r := p.row(Latency, "s", from)
		r.Target = number(p.Latency.Seconds())
		r.percentiles(tooks, p.goal)
		if total > 0 {
			r.Good, r.Total = &kept, &total
			r.Kept = number(float64(kept)*100 >= p.goal*float64(total))
		}
		p.rows = append(p.rows, r)
	}
	if delayed {
		r := p.row(Delay, "s", from)
		r.percentiles(delays, p.goal)
		p.rows = append(p.rows, r)
	}
	return newest, nil
}

func (r *Row) percentiles(counts elapsed.Counts, goal float64) {
	if counts.Total() == 0 {
		return
	}
	at := func(percent int) *float64 { return number(counts.Percentile(percent).Seconds()) }
	r.P50, r.P95, r.P99, r.Actual = at(50), at(95), at(99), at(int(math.Ceil(goal)))
}

// freshness adds how old the newest row is: that of the window, or one before.
func (p *port) freshness(ctx context.Context, newest time.Time) error {
	from := p.from(Freshness)
	r := p.row(Freshness, "s", from)
	if newest.IsZero() {
		found, err := p.one(ctx, fmt.Sprintf("SELECT MAX(t.recorded_at) AS newest FROM %s AS t WHERE t.recorded_at <= %s", p.FullName(), instant(p.at))+p.recent(p.at))
		if err != nil {
			return err
		}
		newest = found
	}
	if p.Table.Freshness > 0 {
		r.Target = number(p.Freshness.Seconds())
	}
	if !newest.IsZero() {
		age := p.at.Sub(newest)
		r.Actual = number(age.Round(time.Millisecond).Seconds())
		if age <= p.Freshness {
			r.verdict(true)
		}
	}
	if r.Kept == nil && p.Freshness > 0 && len(p.Events) > 0 {
		var types []string
		for _, t := range p.Events {
			types = append(types, literal.Text(t))
		}
		// What came in the window, before the time that a row may take. An event that a
		// Trigger brought to another Broker came when the first one accepted it.
		since, until := from.Add(-p.Freshness), p.at.Add(-p.Freshness)
		came, err := p.one(ctx, fmt.Sprintf(`SELECT MAX(f.came) AS came FROM (
  SELECT MIN(e.received_at) AS came FROM %s AS e WHERE e.type IN (%s) AND e.received_at > %s AND e.received_at <= %s GROUP BY e.source, e.event_id
) AS f WHERE f.came > %s`, Log, strings.Join(types, ", "), instant(since.Add(-carried)), instant(until), instant(since)))
		if err != nil {
			return err
		}
		if !came.IsZero() {
			r.verdict(!came.Add(-skew).After(newest))
		}
	}
	p.rows = append(p.rows, r)
	return nil
}

// verdict judges a measurement.
func (r *Row) verdict(kept bool) {
	r.Kept, r.Good, r.Total = &kept, number(int64(0)), number(int64(1))
	if kept {
		*r.Good = 1
	}
}

// one runs a statement that gives one instant; zero: NULL.
func (p *port) one(ctx context.Context, sql string) (at time.Time, err error) {
	rows, err := p.query(ctx, sql)
	if err != nil {
		return at, err
	}
	for row, err := range rows.All {
		if err != nil {
			return at, err
		}
		at, _ = row[0].(time.Time)
	}
	return at, nil
}

const (
	fewest    = 5    // intervals of a device that is judged
	tolerance = 1.25 // how much an interval may be off the median of a device that sends regularly
)

// device is the intervals between readings, by elapsed's bucket; the last is that
// to the end of the window.
type device struct {
	gaps elapsed.Counts
	last time.Time
}

// completeness adds how much of what devices send is there, of the day before.
func (p *port) completeness(ctx context.Context) error {
	to := p.at.Add(-settle)
	from := to.Add(-day)
	rows, err := p.query(ctx, fmt.Sprintf(`SELECT device_id, gap, COUNT(*) AS n, MAX(seen) AS newest FROM (
  SELECT device_id, seen, CASE WHEN earlier IS NULL THEN -1 ELSE %s END AS gap FROM (
    SELECT device_id, seen, LAG(seen) OVER (PARTITION BY device_id ORDER BY seen) AS earlier FROM (
      SELECT DISTINCT t.device_id, t.%s AS seen FROM %s AS t WHERE t.%[2]s >= %[4]s AND t.%[2]s < %[5]s) AS d) AS l) AS g GROUP BY device_id, gap`,
		elapsed.Bucket("earlier", "seen"), p.Time, p.FullName(), instant(from), instant(to)))
	if err != nil {
		return err
	}
	devices := map[string]*device{}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		id, _ := row[0].(string)
		d := devices[id]
		if d == nil {
			d = &device{gaps: elapsed.Counts{}}
			devices[id] = d
		}
		gap, _ := row[1].(int64)
		n, _ := row[2].(int64)
		if gap >= 0 {
			d.gaps[gap] += n
		}
		if at, _ := row[3].(time.Time); at.After(d.last) {
			d.last = at
		}
	}
	r := p.row(Completeness, "percent", from)
	r.To = mesh.At(to)
	r.Target = number(p.Table.Completeness)
	var came, expected, judged, irregular int64
	for _, d := range devices {
		missing, regular := d.missing(to)
		if !regular {
			irregular++
			continue
		}
		judged++
		n := d.gaps.Total() + 1
		came, expected = came+n, expected+n+missing
	}
	r.Devices, r.Irregular = &judged, &irregular
	if expected > 0 {
		share := 100 * float64(came) / float64(expected)
		r.Actual = number(math.Floor(share*100) / 100)
		r.verdict(share >= p.Table.Completeness)
	}
	p.rows = append(p.rows, r)
	return nil
}

// missing counts the readings that a device did not send until an instant;
// regular says whether that can be said of it.
func (d *device) missing(until time.Time) (n int64, regular bool) {
	total := d.gaps.Total()
	if total < fewest {
		return 0, false
	}
	usual := float64(d.gaps.Percentile(50))
	if usual <= 0 {
		return 0, false
	}
	var near int64
	for bucket, count := range d.gaps {
		gap := float64(elapsed.Of(bucket))
		if gap >= usual/tolerance && gap <= usual*tolerance {
			near += count
		}
		n += count * max(0, int64(math.Round(gap/usual))-1)
	}
	// Of the last silence the reading that is due is not there yet.
	n += int64(float64(until.Sub(d.last)) / usual)
	return n, 2*near >= total
}

// Change is the data of an event that says that a level is missed, or kept again.
type Change struct {
	Port      string       `json:"port"`
	Product   string       `json:"product"`
	Owner     string       `json:"owner"` // the team
	Level     string       `json:"level"`
	Unit      string       `json:"unit"`
	Target    *float64     `json:"target"`
	Actual    *float64     `json:"actual"`
	Objective float64      `json:"objective"`
	Left      *float64     `json:"budget_left"`
	At        mesh.Instant `json:"measured_at"`
}

// Changed says whether the level is missed and was not so before (breached), or
// kept and was missed before (restored).
func (r *Row) Changed() (c Change, breached, restored bool) {
	if r.Kept == nil {
		return c, false, false
	}
	was := r.Was == nil || *r.Was
	c = Change{r.Port, r.Product, r.Owner, r.Level, r.Unit, r.Target, r.Actual, r.Goal, r.Left, r.At}
	return c, was && !*r.Kept, !was && *r.Kept
}
