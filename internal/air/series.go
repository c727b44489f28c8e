package air

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Step is how close the points of a series are.
type Step int

// The steps, finest first.
const (
	Auto Step = iota // what the range asks for
	Raw              // each reading
	Minutes5
	Minutes15
	Hour
	Day // of the zone
)

var steps = [...]struct {
	name  string
	words string
	width time.Duration
}{
	Auto: {"", "", 0}, Raw: {"raw", "single readings", 0}, Minutes5: {"5m", "5 minutes", 5 * time.Minute}, Minutes15: {"15m", "15 minutes", 15 * time.Minute},
	Hour: {"1h", "1 hour", time.Hour}, Day: {"1d", "1 day", 24 * time.Hour},
}

// ParseStep reads the name of a step; "" is Auto.
func ParseStep(name string) (Step, error) {
	for s := range steps {
		if steps[s].name == name {
			return Step(s), nil
		}
	}
	return Auto, fmt.Errorf("step %q is none of raw, 5m, 15m, 1h and 1d", name)
}

// String names the step as addresses have it.
func (s Step) String() string { return steps[s].name }

// Words says the step to people.
func (s Step) Words() string { return steps[s].words }

// Width is how long a bucket is; 0: there are none. Days are longer or shorter
// where the clock changes.
func (s Step) Width() time.Duration { return steps[s].width }

// Bounds of what one answer has.
const (
	// MaxPoints of a series are drawn unless somebody asks for a step: more than
	// a screen has pixels.
	MaxPoints = 2_000
	// most is where a series of a step that somebody asked for ends: a year of
	// hours, twice.
	most = 20_000
	// inAll bounds the points of all series together, and with them the memory
	// that an answer takes.
	inAll = 200_000
)

// ErrTooMany is that of a step too fine for its range.
var ErrTooMany = errors.New("too many points: ask for a shorter range, a longer step or fewer rooms")

// Point is what was measured at an instant, or in the bucket that begins there.
type Point struct {
	At             time.Time
	Readings       int64
	Mean, Min, Max float64
	Outside        *float64 // CO2 of the air outside; nil: not known
}

// Series is the points of one device in one room, in the order of time; if rooms
// were asked for those of one room, or of one device of which no room is known.
type Series struct {
	Room   Room
	Device string // empty: all of the room
	Unit   string // UCUM code; empty: not known
	Points []Point
}

// By says what is a series.
type By int

// What a series may be.
const (
	ByDevice By = iota // in each of its rooms
	ByRoom
)

// column of the device that a series is of.
func (b By) column() string {
	if b == ByRoom {
		return "CASE WHEN room IS NULL THEN device_id END"
	}
	return "device_id"
}

// Interval is the usual time between two points: the median; 0: fewer than two.
func (s *Series) Interval() time.Duration {
	var between []time.Duration
	for i := 1; i < len(s.Points); i++ {
		between = append(between, s.Points[i].At.Sub(s.Points[i-1].At))
	}
	if len(between) == 0 {
		return 0
	}
	slices.Sort(between)
	return between[len(between)/2]
}

// Gaps gives the indexes of the points before which some are missing: of single
// readings where three usual intervals passed, of buckets where one and a half
// did, which is one that is missing. A line must not bridge them.
func (s *Series) Gaps(step Step) (before []int) {
	limit := 3 * s.Interval()
	if width := step.Width(); width > 0 {
		limit = max(s.Interval(), width) * 3 / 2
	}
	for i := 1; i < len(s.Points); i++ {
		if s.Points[i].At.Sub(s.Points[i-1].At) > limit {
			before = append(before, i)
		}
	}
	return before
}

// Resolve gives the step for a selection. If none is asked for it is the finest
// of which no series has more than points points.
func (a *Air) Resolve(ctx context.Context, s Selection, asked Step, by By, points int) (Step, error) {
	if asked != Auto && asked != Raw {
		if s.To.Sub(s.From)/asked.Width() > most {
			return asked, ErrTooMany
		}
		return asked, nil
	}
	var longest, sum int64
	err := a.each(ctx, `SELECT building, floor, room, `+by.column()+` AS device, SUM(readings) AS readings
FROM {iot_analytics.readings_hourly}
WHERE `+s.hours()+`
GROUP BY building, floor, room, device`, func(row []any) {
		n := whole(row[4])
		longest, sum = max(longest, n), sum+n
	})
	switch {
	case err != nil:
		return asked, err
	case asked == Raw && (longest > most || sum > inAll):
		return asked, ErrTooMany
	case asked == Raw || by == ByDevice && longest <= int64(points) && sum <= 10*int64(points):
		return Raw, nil
	}
	for step := Minutes5; step < Day; step++ {
		if s.To.Sub(s.From) <= time.Duration(points)*step.Width() {
			return step, nil
		}
	}
	return Day, nil
}

// Series reads a selection with a step that is not Auto. Days are those of zone.
func (a *Air) Series(ctx context.Context, s Selection, step Step, by By, zone *time.Location) ([]Series, error) {
	rows, err := a.data.Query(ctx, a.viewer, s.statement(step, by, zone))
	if err != nil {
		return nil, err
	}
	all := map[string]*Series{}
	points := 0
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		if points++; points > inAll {
			return nil, ErrTooMany
		}
		room, device := Room{text(row[0]), text(row[1]), text(row[2])}, text(row[3])
		key := room.Key() + "/" + device
		found := all[key]
		if found == nil {
			found = &Series{Room: room, Device: device}
			all[key] = found
		}
		found.Unit = max(found.Unit, text(row[4]))
		found.Points = append(found.Points, Point{
			At: begin(row, step, zone), Readings: whole(row[7]),
			Mean: number(row[8]) / number(row[7]), Min: number(row[9]), Max: number(row[10]), Outside: optional(row[11]),
		})
	}
	out := make([]Series, 0, len(all))
	for _, each := range all {
		slices.SortFunc(each.Points, func(a, b Point) int { return a.At.Compare(b.At) })
		out = append(out, *each)
	}
	slices.SortFunc(out, func(a, b Series) int { return cmp.Or(a.Room.compare(b.Room), cmp.Compare(a.Device, b.Device)) })
	return out, nil
}

// begin of a bucket: an instant, or a day and minutes of it.
func begin(row []any, step Step, zone *time.Location) time.Time {
	t := at(row[5])
	if step == Day { // by the clocks of the zone
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, zone).UTC()
	}
	return t.Add(time.Duration(whole(row[6])) * time.Minute)
}

// statement gives rows of building, floor, room, device, unit, day or instant,
// minutes of the day, readings, sum, min, max and CO2 outside.
func (s *Selection) statement(step Step, by By, zone *time.Location) string {
	switch step {
	case Raw:
		return `SELECT building, floor, room, ` + by.column() + ` AS device, unit, observed_at, 0 AS minutes, 1 AS readings, value, value AS least, value AS greatest, outside_co2
FROM {iot_analytics.readings}
WHERE value IS NOT NULL AND ` + s.readings()
	case Hour, Day:
		bucket := "hour_start"
		if step == Day {
			bucket = "CAST(CAST(hour_start + INTERVAL (" + offset("hour_start", zone, s.From, s.To) + ") SECOND AS DATE) AS TIMESTAMP)"
		}
		return `SELECT building, floor, room, ` + by.column() + ` AS device, MAX(unit) AS unit, ` + bucket + ` AS bucket, 0 AS minutes,
	SUM(readings) AS readings, SUM(value_sum) AS total, MIN(value_min) AS least, MAX(value_max) AS greatest, AVG(outside_co2) AS outside
FROM {iot_analytics.readings_hourly}
WHERE ` + s.hours() + `
GROUP BY building, floor, room, device, bucket`
	}
	return fmt.Sprintf(`SELECT building, floor, room, `+by.column()+` AS device, MAX(unit) AS unit, CAST(CAST(observed_at AS DATE) AS TIMESTAMP) AS bucket,
	EXTRACT(HOUR FROM observed_at) * 60 + EXTRACT(MINUTE FROM observed_at) - MOD(EXTRACT(MINUTE FROM observed_at), %d) AS minutes,
	COUNT(*) AS readings, SUM(value) AS total, MIN(value) AS least, MAX(value) AS greatest, AVG(outside_co2) AS outside
FROM {iot_analytics.readings}
WHERE value IS NOT NULL AND %s
GROUP BY building, floor, room, device, bucket, minutes`, step.Width()/time.Minute, s.readings())
}

// offset is by how many seconds the clock of a zone is ahead of UTC at the
// instant in a column, which is about within [from, to).
func offset(column string, zone *time.Location, from, to time.Time) string {
	var b strings.Builder
	at := from.Truncate(time.Hour).In(zone)
	for {
		_, seconds := at.Zone()
		_, end := at.ZoneBounds()
		if end.IsZero() || !end.Before(to) {
			if b.Len() == 0 {
				return fmt.Sprint(seconds)
			}
			return "CASE" + b.String() + fmt.Sprintf(" ELSE %d END", seconds)
		}
		fmt.Fprintf(&b, " WHEN %s < %s THEN %d", column, instant(end), seconds)
		at = end
	}
}
