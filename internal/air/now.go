package air

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"
)

// Now is the air of a room, or of a device of which no room is known, as its
// devices that are there measured it last.
type Now struct {
	Room    Room
	Device  string // where no room is known
	Devices int    // that are there
	Unit    string
	Persons int64 // that the room is meant for; 0: not known

	At    time.Time // of the last reading; zero: none
	Value float64   // mean of the last readings of its devices
	Exact bool      // At is an instant and Value is known: there was a reading within Recent; else At ends the hour of the last one
	Stale bool      // the next reading should have come long ago
	Left  time.Time // since when no device is there; zero: one is
	// Slope is how fast the value changes, per hour, over the last SlopeOver. nil:
	// too few readings, or all of them within minSpan.
	Slope   *float64
	Outside *float64 // CO2 of the air outside, in ppm
}

const (
	// Recent is how far back single readings are read for what is now.
	Recent = time.Hour
	// SlopeOver is what a trend is taken from.
	SlopeOver = 30 * time.Minute
	// patience is how long a device may be silent at least: many send each 10 or
	// 15 minutes.
	patience = 20 * time.Minute
	// ahead is how far a device's clock may be.
	ahead = 5 * time.Minute
	// lately is how far back hours are looked at for the last reading.
	lately = 31 * 24 * time.Hour
)

// Trend says in a word how the value changes: rising or falling if it does by
// more than a fiftieth within SlopeOver.
func (n *Now) Trend() string {
	switch {
	case n.Slope == nil || n.Stale:
		return ""
	case math.Abs(*n.Slope)*SlopeOver.Hours() < math.Abs(n.Value)/50:
		return "steady"
	case *n.Slope > 0:
		return "rising"
	}
	return "falling"
}

// sample is a reading, as statistics want it.
type sample struct {
	device string
	at     time.Time
	value  float64
}

// Now gives how a metric is at an instant where the tenant has devices then.
func (a *Air) Now(ctx context.Context, p *Places, w Where, metric string, now time.Time) ([]Now, error) {
	all := map[string]*Now{}
	for _, s := range p.Stays {
		if !s.At(now) || !w.Has(s.Room, s.Device) {
			continue
		}
		n := &Now{Room: s.Room, Persons: s.Persons, Devices: 1}
		if s.Room.Name == "" {
			n.Device = s.Device
		}
		key := n.Room.Key() + "/" + n.Device
		if found := all[key]; found != nil {
			found.Devices++
			continue
		}
		all[key] = n
	}
	find := func(row []any) *Now {
		room, device := Room{text(row[0]), text(row[1]), text(row[2])}, text(row[3])
		if room.Name != "" {
			device = ""
		}
		return all[room.Key()+"/"+device]
	}

	recent := Selection{w, metric, now.Add(-Recent), now.Add(ahead)}
	samples := map[*Now][]sample{}
	err := a.each(ctx, `SELECT building, floor, room, device_id, unit, observed_at, value, outside_co2
FROM {iot_analytics.readings}
WHERE value IS NOT NULL AND `+recent.readings(), func(row []any) {
		n := find(row)
		if n == nil {
			return // it is there no more
		}
		n.Unit = max(n.Unit, text(row[4]))
		s := sample{text(row[3]), at(row[5]), number(row[6])}
		if s.at.After(n.At) {
			n.At, n.Outside = s.at, optional(row[7])
		}
		samples[n] = append(samples[n], s)
	})
	if err != nil {
		return nil, err
	}
	silent := false
	for _, n := range all {
		if n.At.IsZero() {
			silent, n.Stale = true, true
			continue
		}
		n.judge(samples[n], now)
	}
	if silent {
		hours := Selection{w, metric, now.Add(-lately), now.Add(ahead)}
		err := a.each(ctx, `SELECT building, floor, room, device_id, MAX(unit) AS unit, MAX(hour_start) AS last
FROM {iot_analytics.readings_hourly}
WHERE `+hours.hours()+`
GROUP BY building, floor, room, device_id`, func(row []any) {
			if n := find(row); n != nil && !n.Exact {
				n.Unit = max(n.Unit, text(row[4]))
				if t := at(row[5]).Add(time.Hour); t.After(n.At) {
					n.At = t
				}
			}
		})
		if err != nil {
			return nil, err
		}
	}
	out := make([]Now, 0, len(all))
	for _, n := range all {
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b Now) int { return cmp.Or(a.Room.compare(b.Room), cmp.Compare(a.Device, b.Device)) })
	return out, nil
}

// judge tells from the readings of the last hour how it is.
func (n *Now) judge(samples []sample, now time.Time) {
	n.Exact = true
	last := map[string]sample{}
	var times []time.Time
	for _, s := range samples {
		if s.at.After(last[s.device].at) {
			last[s.device] = s
		}
		times = append(times, s.at)
	}
	// A device that fell silent counts no more beside one that did not.
	sum, devices := 0.0, 0
	for _, s := range last {
		if s.at.After(n.At.Add(-patience)) {
			sum += s.value
			devices++
		}
	}
	n.Value = sum / float64(devices)
	slices.SortFunc(times, time.Time.Compare)
	series := Series{}
	for _, t := range times {
		series.Points = append(series.Points, Point{At: t})
	}
	n.Stale = now.Sub(n.At) > max(3*series.Interval(), patience)
	latest := slices.DeleteFunc(samples, func(s sample) bool { return !s.at.After(n.At.Add(-SlopeOver)) })
	if slope, ok := slopeOf(latest); ok && span(latest) >= minSpan {
		n.Slope = &slope
	}
}

// span is the time from the first of the readings, in any order, to the last.
func span(samples []sample) time.Duration {
	byTime := func(a, b sample) int { return a.at.Compare(b.at) }
	return slices.MaxFunc(samples, byTime).at.Sub(slices.MinFunc(samples, byTime).at)
}
