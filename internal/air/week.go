package air

import (
	"context"
	"time"
)

// HourMean is the mean of one hour, which begins with an hour of UTC.
type HourMean struct {
	Start time.Time
	Mean  float64
}

// Hours gives the mean of each hour of a selection, over all devices that it has.
func (a *Air) Hours(ctx context.Context, s Selection) (hours []HourMean, err error) {
	err = a.each(ctx, `SELECT hour_start, SUM(value_sum) / SUM(readings) AS mean
FROM {iot_analytics.readings_hourly}
WHERE `+s.hours()+`
GROUP BY hour_start`, func(row []any) {
		hours = append(hours, HourMean{at(row[0]), number(row[1])})
	})
	return hours, err
}

// Week is how a value is by weekday, Monday first, and hour of the day.
type Week [7][24]Cell

// Cell is one hour of the week.
type Cell struct {
	Hours int     // that it is the mean of
	Mean  float64 // of the hours' means; each hour counts as much
}

// Fold sorts hours into a week as the clocks of a zone show it. The hour that
// comes twice when clocks are set back is two hours of the same cell; the one that is
// left out in spring is none. Where clocks are not whole hours ahead of UTC, an
// hour counts where it begins.
func Fold(hours []HourMean, zone *time.Location) (w Week) {
	for _, h := range hours {
		local := h.Start.In(zone)
		c := &w[(int(local.Weekday())+6)%7][local.Hour()]
		c.Mean += h.Mean
		c.Hours++
	}
	for day := range w {
		for hour := range w[day] {
			if c := &w[day][hour]; c.Hours > 0 {
				c.Mean /= float64(c.Hours)
			}
		}
	}
	return w
}
