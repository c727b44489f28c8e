package air

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"
)

// What an action is judged by.
const (
	// Before is how long before an action the air is looked at.
	Before = 30 * time.Minute
	// Weeks is how many weeks on either side of an action have the days that it is
	// compared with: the season, and who uses the room, change within a term.
	Weeks = 4
	// MinDays is how many comparable days an interval takes. Of fewer the standard
	// deviation is hardly known: with four degrees of freedom, as five days leave,
	// the 95 % interval is already 1.4 times as wide as that of many.
	MinDays = 5
	// minReadings of a device, within the time before and within the time after, make
	// a mean and, where they are at least minSpan apart, a slope. A device that sends
	// each 15 minutes has two of them in Before. The interval is as wide as slopes of
	// so few readings differ from day to day.
	minReadings = 2
	minSpan     = 10 * time.Minute
)

// Horizons are how long after an action the air is looked at.
var Horizons = []time.Duration{30 * time.Minute, 60 * time.Minute, 120 * time.Minute}

// Effect is what was measured around an action, beside what is usual at that time
// of day.
//
// A comparable day is one within Weeks before the action, a weekday if the action
// was taken on one and else a day of a weekend, with readings of the same room
// around the same time by the clock and no action of the room's logbook in that
// time. Where these are fewer than MinDays, those within Weeks after it are taken,
// too: what the action changed for good would be in them. How
// much its value changes then is what happens without the action. What the action
// did is estimated as the change on its own day less their mean; the interval
// around that is where it lies for 95 of 100 such actions, if the changes of days
// are normally distributed: the prediction interval of one more day, Student's t
// times s·√(1+1/n). It tells chance from effect, and not the action from what else
// was done at the time.
type Effect struct {
	Action   Action
	Others   []Action // of the same place, within the longest horizon: the numbers are theirs, too
	Changes  []Change // by Horizons
	Skipped  int      // days that would be comparable but for an action at that time
	Later    bool     // some of the days are after the action
	Readings int      // around the action, within the longest horizon
}

// Change is how the air changed over a horizon.
type Change struct {
	Over  time.Duration
	Mean  Estimate // mean after less mean before, in the unit of the metric
	Slope Estimate // slope after less slope before, in the unit per hour
}

// Estimate is a change beside that of comparable days.
type Estimate struct {
	Known         bool    // there were readings enough around the action; else nothing of this is known
	Before, After float64 // on the day of the action
	Value         float64 // After less Before
	Days          int     // comparable days with readings enough
	Usual         float64 // their mean; known if Days > 0
	// What the action did, and the 95 % interval around it; known if Interval.
	Effect, Low, High float64
	Interval          bool // Days is at least MinDays
}

// Effect compares what followed an action with comparable days until now. Days
// are those of zone. Actions are those of the place from Weeks before the action to
// Weeks after it.
func (a *Air) Effect(ctx context.Context, w Where, metric string, x Action, actions []Action, zone *time.Location, now time.Time) (*Effect, error) {
	longest := Horizons[len(Horizons)-1]
	e := &Effect{Action: x}
	for _, o := range actions {
		if o.ID != x.ID && !o.At.Before(x.At.Add(-Before)) && o.At.Before(x.At.Add(longest)) {
			e.Others = append(e.Others, o)
		}
	}
	days := comparableDays(x.At, zone, now)
	var windows []string
	for _, t := range append([]time.Time{x.At}, days...) {
		windows = append(windows, "("+within("observed_at", t.Add(-Before), t.Add(longest))+")")
	}
	s := Selection{w, metric, x.At.AddDate(0, 0, -7*Weeks-1), x.At.AddDate(0, 0, 7*Weeks+2)}
	var samples []sample
	err := a.each(ctx, `SELECT device_id, observed_at, value
FROM {iot_analytics.readings}
WHERE value IS NOT NULL AND `+s.readings()+" AND ("+strings.Join(windows, " OR ")+")", func(row []any) {
		samples = append(samples, sample{text(row[0]), at(row[1]), number(row[2])})
	})
	if err != nil {
		return nil, err
	}
	e.Readings = len(between(samples, x.At.Add(-Before), x.At.Add(longest)))
	for _, over := range Horizons {
		c := Change{Over: over}
		var means, slopes usual
		skipped, skippedLater := 0, 0
		for _, day := range days {
			later := day.After(x.At)
			if slices.ContainsFunc(actions, func(o Action) bool { return !o.At.Before(day.Add(-Before)) && o.At.Before(day.Add(over)) }) {
				if later {
					skippedLater++
				} else {
					skipped++
				}
				continue
			}
			if was, is, ok := meansAround(samples, day, over); ok {
				means.add(is-was, later)
			}
			if was, is, ok := slopesAround(samples, day, over); ok {
				slopes.add(is-was, later)
			}
		}
		e.Later = e.Later || means.few() || slopes.few()
		if over == longest {
			if e.Skipped = skipped; means.few() || slopes.few() {
				e.Skipped += skippedLater
			}
		}
		if now.Sub(x.At) >= over { // else the time is not over
			c.Mean = estimate(means.days())(meansAround(samples, x.At, over))
			c.Slope = estimate(slopes.days())(slopesAround(samples, x.At, over))
		}
		e.Changes = append(e.Changes, c)
	}
	return e, nil
}

// usual is the changes of comparable days before the action, and after it.
type usual struct{ before, later []float64 }

func (u *usual) add(change float64, later bool) {
	if later {
		u.later = append(u.later, change)
	} else {
		u.before = append(u.before, change)
	}
}

// few says whether there are later days that are needed.
func (u *usual) few() bool { return len(u.before) < MinDays && len(u.later) > 0 }

func (u *usual) days() []float64 {
	if u.few() {
		return append(u.before, u.later...)
	}
	return u.before
}

// comparableDays gives the same time by the clock on other days of the kind, if what
// follows is over.
func comparableDays(t time.Time, zone *time.Location, now time.Time) (days []time.Time) {
	local := t.In(zone)
	for n := -7 * Weeks; n <= 7*Weeks; n++ {
		day := time.Date(local.Year(), local.Month(), local.Day()+n, local.Hour(), local.Minute(), local.Second(), local.Nanosecond(), zone)
		if n != 0 && weekend(day) == weekend(local) && !day.Add(Horizons[len(Horizons)-1]).After(now) {
			days = append(days, day)
		}
	}
	return days
}

func weekend(t time.Time) bool { return t.Weekday() == time.Saturday || t.Weekday() == time.Sunday }

func between(samples []sample, from, to time.Time) (in []sample) {
	for _, s := range samples {
		if !s.at.Before(from) && s.at.Before(to) {
			in = append(in, s)
		}
	}
	return in
}

// around gives what devices measured before and after t, of those that measured
// enough in both: one that came in between would change the mean by what it is.
func around(samples []sample, t time.Time, over, span time.Duration) (before, after []sample) {
	before, after = between(samples, t.Add(-Before), t), between(samples, t, t.Add(over))
	was, is := enough(before, span), enough(after, span)
	few := func(s sample) bool { return !was[s.device] || !is[s.device] }
	return slices.DeleteFunc(before, few), slices.DeleteFunc(after, few)
}

// enough says which devices have minReadings, the first and the last at least span
// apart.
func enough(samples []sample, span time.Duration) map[string]bool {
	type reach struct {
		n           int
		first, last time.Time
	}
	by := map[string]*reach{}
	for _, s := range samples {
		r := by[s.device]
		if r == nil {
			r = &reach{first: s.at, last: s.at}
			by[s.device] = r
		}
		r.n++
		if s.at.Before(r.first) {
			r.first = s.at
		}
		if s.at.After(r.last) {
			r.last = s.at
		}
	}
	are := map[string]bool{}
	for device, r := range by {
		are[device] = r.n >= minReadings && r.last.Sub(r.first) >= span
	}
	return are
}

// meansAround are the means before and after t, of each device, and of these the
// mean.
func meansAround(samples []sample, t time.Time, over time.Duration) (was, is float64, ok bool) {
	before, after := around(samples, t, over, 0)
	all := meanOf(before)
	n := float64(len(all))
	for _, mean := range all {
		was += mean / n
	}
	for _, mean := range meanOf(after) {
		is += mean / n
	}
	return was, is, n > 0
}

func meanOf(samples []sample) map[string]float64 {
	sum, n := map[string]float64{}, map[string]float64{}
	for _, s := range samples {
		sum[s.device] += s.value
		n[s.device]++
	}
	for device := range sum {
		sum[device] /= n[device]
	}
	return sum
}

// slopesAround are the slopes before and after t.
func slopesAround(samples []sample, t time.Time, over time.Duration) (was, is float64, ok bool) {
	before, after := around(samples, t, over, minSpan)
	was, ok1 := slopeOf(before)
	is, ok2 := slopeOf(after)
	return was, is, ok1 && ok2
}

// slopeOf is the slope per hour of the least squares line through the readings of
// each device: one slope for all, and a level of its own for each.
func slopeOf(samples []sample) (float64, bool) {
	if len(samples) < minReadings {
		return 0, false
	}
	type sums struct{ n, x, y float64 }
	by := map[string]*sums{}
	hours := func(s sample) float64 { return s.at.Sub(samples[0].at).Hours() }
	for _, s := range samples {
		d := by[s.device]
		if d == nil {
			d = &sums{}
			by[s.device] = d
		}
		d.n++
		d.x += hours(s)
		d.y += s.value
	}
	var xx, xy float64
	for _, s := range samples {
		d := by[s.device]
		dx := hours(s) - d.x/d.n
		xx += dx * dx
		xy += dx * (s.value - d.y/d.n)
	}
	if xx == 0 {
		return 0, false
	}
	return xy / xx, true
}

// estimate compares a change with those of comparable days.
func estimate(usual []float64) func(was, is float64, known bool) Estimate {
	return func(was, is float64, known bool) Estimate {
		e := Estimate{Known: known, Before: was, After: is, Value: is - was, Days: len(usual)}
		if !known || len(usual) == 0 {
			return e
		}
		n := float64(len(usual))
		for _, u := range usual {
			e.Usual += u / n
		}
		if e.Interval = len(usual) >= MinDays; !e.Interval {
			return e
		}
		var squares float64
		for _, u := range usual {
			squares += (u - e.Usual) * (u - e.Usual)
		}
		half := student(n-1) * math.Sqrt(squares/(n-1)*(1+1/n))
		e.Effect = e.Value - e.Usual
		e.Low, e.High = e.Effect-half, e.Effect+half
		return e
	}
}

// student is the 97.5 % quantile of Student's t distribution with df degrees of
// freedom, by its expansion about the normal one (Abramowitz and Stegun, 26.7.5):
// right to a thousandth from four degrees on, of which MinDays leaves no fewer.
func student(df float64) float64 {
	const z = 1.959963984540054
	z2 := z * z
	g1 := (z2 + 1) * z / 4
	g2 := ((5*z2+16)*z2 + 3) * z / 96
	g3 := (((3*z2+19)*z2+17)*z2 - 15) * z / 384
	g4 := ((((79*z2+776)*z2+1482)*z2-1920)*z2 - 945) * z / 92160
	return z + (g1+(g2+(g3+g4/df)/df)/df)/df
}
