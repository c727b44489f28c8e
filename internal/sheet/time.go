package sheet

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

// layouts are RFC 3339 and what people and exports make of it: no seconds, an
// offset without colon or of hours alone. time.Parse takes fractions of a
// second after any of them.
var layouts = [...]string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07",
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04Z0700", "2006-01-02T15:04Z07",
}

// parseInstant reads a time. What warehouses keep and events carry begins and
// ends with the years of four digits.
func parseInstant(c cell) (mesh.Instant, error) {
	at, err := parseTime(c)
	if year := at.Time().Year(); err == nil && (year < 1 || year > 9999) {
		return 0, fmt.Errorf("%q is not of the years 1 to 9999", c.text)
	}
	return at, err
}

// parseTime reads a time: with its offset, on the wall clock of the grid's
// zone, or as the number that a spreadsheet keeps of it. Where the zone is not
// known only the first is read: whose wall clock it was decides who sees an
// hour of readings.
func parseTime(c cell) (mesh.Instant, error) {
	s := strings.ToUpper(c.text)
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + strings.TrimLeft(s[11:], " ")
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, strings.Replace(s, " ", "", 1)); err == nil {
			return mesh.At(t), nil
		}
	}
	if c.grid.Zone == nil {
		return 0, fmt.Errorf("%q is not a time with an offset, such as 2026-03-02T08:30:00+01:00 or 2026-03-02T07:30:00Z", c.text)
	}
	if n, err := c.float(); err == nil {
		return fromSerial(n, c.grid.Zone)
	}
	wall, err := c.grid.parseWall(s)
	if err != nil {
		return 0, fmt.Errorf("%q %w", c.text, err)
	}
	return onClock(wall, c.grid.Zone)
}

// Spreadsheets keep a time as days since 1899-12-30, the time of day as the
// fraction, on the wall clock of the spreadsheet's zone. Numbers below the first
// are more likely a year or a time of day without its day.
const (
	firstSerial = 10_000    // 1927-05-18
	endSerial   = 2_958_466 // 10000-01-01
)

func fromSerial(n float64, zone *time.Location) (mesh.Instant, error) {
	if n < firstSerial || n >= endSerial {
		return 0, fmt.Errorf("%s is not a time: a spreadsheet counts days since 1899-12-30, from %d in 1927 to %d in 9999",
			formatFloat(n), firstSerial, endSerial-1)
	}
	// A cell shows milliseconds at most; more is what binary fractions are off by.
	days, part := math.Modf(n)
	millis := int(math.Round(part * 24 * 60 * 60 * 1000))
	return onClock(time.Date(1899, 12, 30+int(days), 0, 0, 0, millis*1e6, time.UTC), zone)
}

// onClock gives the instant at which the clocks of a zone show what wall, in
// UTC, shows.
func onClock(wall time.Time, zone *time.Location) (mesh.Instant, error) {
	// The clocks change at most once in the two days around it.
	offset := func(t time.Time) time.Duration {
		_, seconds := t.In(zone).Zone()
		return time.Duration(seconds) * time.Second
	}
	before, after := offset(wall.Add(-24*time.Hour)), offset(wall.Add(24*time.Hour))
	early, late := wall.Add(-before), wall.Add(-after)
	isEarly, isLate := offset(early) == before, offset(late) == after
	const shown = "2006-01-02T15:04:05.999999Z07:00"
	switch {
	case isEarly && isLate && !early.Equal(late):
		return 0, fmt.Errorf("%s is twice in %s, where the clocks are put back: write %s or %s",
			wall.Format("2006-01-02 15:04:05"), zone, early.In(zone).Format(shown), late.In(zone).Format(shown))
	case isEarly:
		return mesh.At(early), nil
	case isLate:
		return mesh.At(late), nil
	}
	return 0, fmt.Errorf("%s does not exist in %s, where the clocks are put forward: write %s or %s",
		wall.Format("2006-01-02 15:04:05"), zone, late.In(zone).Format(shown), early.In(zone).Format(shown))
}

// errNoTime reads after the cell.
var errNoTime = errors.New("is not a time, such as 2026-03-02 08:30 or 2026-03-02T08:30:00+01:00")

// parseWall reads a day and, if there is one, a time of day: what the clock
// shows, as UTC. The error reads after the cell.
func (g *Grid) parseWall(s string) (time.Time, error) {
	day, clock := s, ""
	if at := strings.IndexAny(s, " T"); at >= 0 {
		day, clock = s[:at], strings.TrimSpace(s[at+1:])
	}
	y, m, d, err := g.parseDay(day)
	if err != nil {
		return time.Time{}, err
	}
	t := time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC)
	if t.Year() != y || int(t.Month()) != m || t.Day() != d {
		return time.Time{}, errors.New("is no day of the calendar")
	}
	if clock == "" {
		return t, nil
	}
	for _, layout := range [...]string{"15:04:05", "15:04", "3:04:05PM", "3:04PM"} {
		if of, err := time.Parse(layout, strings.Replace(clock, " ", "", 1)); err == nil {
			return t.Add(of.Sub(of.Truncate(24 * time.Hour))), nil
		}
	}
	return time.Time{}, errNoTime
}

// parseDay reads 2026-03-02, 2026/3/2, 2.3.2026, and 2/3/2026 where it can mean
// one day only.
func (g *Grid) parseDay(s string) (y, m, d int, err error) {
	at := strings.IndexAny(s, "-/.")
	if at < 0 {
		return 0, 0, 0, errNoTime
	}
	separator := s[at : at+1]
	texts := strings.Split(s, separator)
	if len(texts) != 3 {
		return 0, 0, 0, errNoTime
	}
	var parts [3]int
	for i, text := range texts {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || len(text) > 4 || len(text) == 3 {
			return 0, 0, 0, errNoTime
		}
		parts[i] = int(n)
	}
	switch {
	case len(texts[0]) == 4 && len(texts[1]) <= 2 && len(texts[2]) <= 2:
		return parts[0], parts[1], parts[2], nil
	case len(texts[0]) > 2 || len(texts[1]) > 2:
		return 0, 0, 0, errNoTime
	case len(texts[2]) != 4:
		return 0, 0, 0, errors.New("has a year of two digits: write the day as 2026-03-02")
	}
	a, b, year := parts[0], parts[1], parts[2]
	order := orderOf(g.Locale)
	switch {
	case a == b || separator == "." || a > 12 || b <= 12 && order == dayFirst: // nobody writes a month before a dot and a day
		return year, b, a, nil
	case b > 12 || order == monthFirst:
		return year, a, b, nil
	}
	which := "no locale says which"
	if g.Locale != "" {
		which = fmt.Sprintf("the locale %s does not say which", g.Locale)
	}
	return 0, 0, 0, fmt.Errorf("is %04[1]d-%02[2]d-%02[3]d or %04[1]d-%02[3]d-%02[2]d, and %[4]s: write the day as 2026-03-02", year, b, a, which)
}

type order int

const (
	unknown order = iota
	dayFirst
	monthFirst
)

// orderOf says how a locale (language_COUNTRY) writes days with slashes: CLDR,
// dateFormats short. Languages that begin with the year do not tell.
func orderOf(locale string) order {
	language, country, _ := strings.Cut(locale, "_")
	switch locale {
	case "en_US", "es_US", "es_PR", "es_PA":
		return monthFirst
	}
	switch language {
	case "en":
		switch country {
		case "GB", "IE", "AU", "NZ", "IN", "SG", "HK", "MT":
			return dayFirst
		}
	case "fr":
		if country != "CA" {
			return dayFirst
		}
	case "bg", "ca", "cs", "da", "de", "el", "es", "et", "fi", "gl", "hr", "id", "is", "it", "lv", "nb", "nl", "nn", "no",
		"pl", "pt", "ro", "ru", "sk", "sl", "sr", "tr", "uk", "vi":
		return dayFirst
	}
	return unknown
}
