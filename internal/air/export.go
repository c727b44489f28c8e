package air

import (
	"context"
	"iter"
	"time"
)

// Reading is a row of an export: what the tenant may see of it.
type Reading struct {
	ReadingID  string    `parquet:"reading_id"`
	TenantID   string    `parquet:"tenant_id,dict"`
	Building   *string   `parquet:"building,optional,dict"`
	Floor      *string   `parquet:"floor,optional,dict"`
	Room       *string   `parquet:"room,optional,dict"`
	DeviceID   string    `parquet:"device_id,dict"`
	Metric     string    `parquet:"metric,dict"`
	ObservedAt time.Time `parquet:"observed_at,timestamp(microsecond)"`
	Value      float64   `parquet:"value"`
	Unit       *string   `parquet:"unit,optional,dict"`
	Quality    *string   `parquet:"quality,optional,dict"`
	Persons    *int64    `parquet:"persons,optional"`
	OutsideCO2 *float64  `parquet:"outside_co2,optional"`
	LastAction *string   `parquet:"last_action,optional,dict"`
}

// Readings yields those behind a selection's series, in the order of time, one at
// a time: an export may be longer than memory. The error ends them.
func (a *Air) Readings(ctx context.Context, s Selection) iter.Seq2[Reading, error] {
	return func(yield func(Reading, error) bool) {
		rows, err := a.data.Query(ctx, a.viewer, `SELECT reading_id, tenant_id, building, floor, room, device_id, metric, observed_at, value, unit, quality, persons, outside_co2, last_action
FROM {iot_analytics.readings}
WHERE value IS NOT NULL AND `+s.readings()+`
ORDER BY observed_at, reading_id`)
		if err != nil {
			yield(Reading{}, err)
			return
		}
		for row, err := range rows.All {
			if err != nil {
				yield(Reading{}, err)
				return
			}
			optionalText := func(i int) *string {
				if s, ok := row[i].(string); ok {
					return &s
				}
				return nil
			}
			r := Reading{
				ReadingID: text(row[0]), TenantID: text(row[1]), Building: optionalText(2), Floor: optionalText(3), Room: optionalText(4),
				DeviceID: text(row[5]), Metric: text(row[6]), ObservedAt: at(row[7]), Value: number(row[8]), Unit: optionalText(9),
				Quality: optionalText(10), OutsideCO2: optional(row[12]), LastAction: optionalText(13),
			}
			if n, ok := row[11].(int64); ok {
				r.Persons = &n
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// News is what was stored lately.
type News struct {
	Readings int64
	Recorded time.Time // the last of them; zero: none
	Since    time.Time // the earliest instant that they are of
}

// News gives what was stored after an instant of a selection that goes on until
// now, of readings that are at most Newest old. What is older is there when a page
// is loaded again.
func (a *Air) News(ctx context.Context, s Selection, after, now time.Time) (n News, err error) {
	if newest := now.Add(-Newest); s.From.Before(newest) {
		s.From = newest
	}
	s.To = now.Add(ahead)
	err = a.each(ctx, `SELECT COUNT(*) AS readings, MAX(recorded_at) AS recorded_at, MIN(observed_at) AS since
FROM {iot_analytics.readings}
WHERE value IS NOT NULL AND recorded_at > `+instant(after)+` AND `+s.readings(), func(row []any) {
		n = News{whole(row[0]), at(row[1]), at(row[2])}
	})
	return n, err
}

// Newest is how old a reading may be that a page is told of: what is asked for
// after each event must not read all there is.
const Newest = 48 * time.Hour

// Held is how many readings a selection had that goes on until now: fewer than
// before are a sign that some were withdrawn, or moved.
type Held struct {
	Until  time.Time // those are counted that were recorded until then
	Cut    time.Time // of those before it hours are counted, whenever they were recorded
	Older  int64
	Recent int64
}

// Lost says whether some of what was held before are gone.
func (h Held) Lost(before Held) bool { return h.Older < before.Older || h.Recent < before.Recent }

// Held counts what a selection has of readings that were recorded until now; of
// those more than Newest old by their hours, which cost little of a year.
func (a *Air) Held(ctx context.Context, s Selection, now time.Time) (Held, error) {
	return a.held(ctx, s, Held{Until: now, Cut: now.Add(-Newest).Truncate(time.Hour)})
}

// HeldStill counts the same as before, of a selection as it was then.
func (a *Air) HeldStill(ctx context.Context, s Selection, before Held) (Held, error) {
	return a.held(ctx, s, Held{Until: before.Until, Cut: before.Cut})
}

func (a *Air) held(ctx context.Context, s Selection, h Held) (Held, error) {
	if s.From.Before(h.Cut) {
		older := s
		older.To = h.Cut
		if err := a.each(ctx, `SELECT SUM(readings) AS readings FROM {iot_analytics.readings_hourly} WHERE `+older.hours(), func(row []any) {
			h.Older = whole(row[0])
		}); err != nil {
			return h, err
		}
		s.From = h.Cut
	}
	s.To = h.Until.Add(ahead)
	err := a.each(ctx, `SELECT COUNT(*) AS readings FROM {iot_analytics.readings}
WHERE value IS NOT NULL AND recorded_at <= `+instant(h.Until)+` AND `+s.readings(), func(row []any) {
		h.Recent = whole(row[0])
	})
	return h, err
}
