package sheet_test

import (
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// instantOf reads a cell as the time an action was taken at: the instant, or why
// not.
func instantOf(t testing.TB, value any, z *time.Location, locale string) (mesh.Instant, string) {
	t.Helper()
	got, err := sheet.Actions.Read(sheet.Grid{Zone: z, Locale: locale, Rows: []sheet.Row{
		{Number: 1, Cells: []any{"action_id", "room", "action", "taken_at"}}, {Number: 2, Cells: []any{"a", "r", "opened", value}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Findings) == 1 {
		return 0, got.Findings[0].Reason
	}
	return got.Rows[0].TakenAt, ""
}

func TestTimes(t *testing.T) {
	const amsterdam = "Europe/Amsterdam"
	for _, c := range []struct {
		value  any
		locale string
		want   string // the instant, or the beginning of the reason
	}{
		// What a spreadsheet keeps: https://developers.google.com/workspace/sheets/api/guides/formats#about_date_time_values
		{46083.354166666664, "", "2026-03-02T07:30:00Z"},
		{46083.0, "", "2026-03-01T23:00:00Z"},
		{46205.9999999, "", "2026-07-02T21:59:59.991Z"},
		{46083.00000000001, "", "2026-03-01T23:00:00Z"},
		{46083.999999999, "", "2026-03-02T23:00:00Z"}, // the last ms of a day is the next one
		{"46083.5", "", "2026-03-02T11:00:00Z"},
		{2026.0, "", "2026 is not a time: a spreadsheet counts days"},
		{0.354166, "", "0.354166 is not a time"},
		{20260302.0, "", "20260302 is not a time"},
		{-1.0, "", "-1 is not a time"},
		{2958466.0, "", "2958466 is not a time"},
		{2958465.0, "", "9999-12-30T23:00:00Z"},
		{true, "", `"TRUE" is not a time, such as`},

		{"2026-03-02 08:30", "", "2026-03-02T07:30:00Z"},
		{"2026-03-02T08:30:15.5", "", "2026-03-02T07:30:15.5Z"},
		{"2026-03-02 8:30 am", "", "2026-03-02T07:30:00Z"},
		{"2026-03-02 12:05:06PM", "", "2026-03-02T11:05:06Z"},
		{"2026-07-02", "", "2026-07-01T22:00:00Z"},
		{"2026/7/2 08:30", "", "2026-07-02T06:30:00Z"},
		{"2026-03-02T08:30+05:30", "", "2026-03-02T03:00:00Z"},
		{"2026-03-02 08:30 Z", "", "2026-03-02T08:30:00Z"},
		{"2026-02-30", "", `"2026-02-30" is no day of the calendar`},
		{"2026-03-02 24:00", "", `"2026-03-02 24:00" is not a time`},
		{"2026-03-02 8h30", "", `"2026-03-02 8h30" is not a time`},
		{"0001-01-01", "", `"0001-01-01" is not of the years 1 to 9999`},
		{"9999-12-31T23:30:00-01:00", "", `"9999-12-31T23:30:00-01:00" is not of the years 1 to 9999`},
		{"2 March 2026", "", `"2 March 2026" is not a time`},
		{"2026-W10-1", "", `"2026-W10-1" is not a time`},
		{"08:30", "", `"08:30" is not a time`},

		{"2.3.2026 8:30", "", "2026-03-02T07:30:00Z"},
		{"25/3/2026", "", "2026-03-24T23:00:00Z"},
		{"3/25/2026", "", "2026-03-24T23:00:00Z"},
		{"3-3-2026", "", "2026-03-02T23:00:00Z"},
		{"2/3/2026 8:30", "", `"2/3/2026 8:30" is 2026-03-02 or 2026-02-03, and no locale says which: write the day as 2026-03-02`},
		{"2/3/2026 8:30", "nl_NL", "2026-03-02T07:30:00Z"},
		{"2-3-2026 8:30", "en_GB", "2026-03-02T07:30:00Z"},
		{"2/3/2026 8:30", "en_US", "2026-02-03T07:30:00Z"},
		{"2/3/2026 8:30", "fr_CA", `"2/3/2026 8:30" is 2026-03-02 or 2026-02-03, and the locale fr_CA does not say which`},
		{"25/3/2026", "en_US", "2026-03-24T23:00:00Z"},
		{"2/3/26", "nl_NL", `"2/3/26" has a year of two digits`},
		{"13/13/2026", "", `"13/13/2026" is no day of the calendar`},

		// Summer time begins and ends.
		{"2026-03-29 02:30", "", "2026-03-29 02:30:00 does not exist in Europe/Amsterdam, where the clocks are put forward: write 2026-03-29T01:30:00+01:00 or 2026-03-29T03:30:00+02:00"},
		{"2026-03-29 02:00", "", "2026-03-29 02:00:00 does not exist"},
		{"2026-03-29 01:59:59", "", "2026-03-29T00:59:59Z"},
		{"2026-03-29 03:00", "", "2026-03-29T01:00:00Z"},
		{"2026-10-25 02:30", "", "2026-10-25 02:30:00 is twice in Europe/Amsterdam, where the clocks are put back: write 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"},
		{46320.104166666664, "", "2026-10-25 02:30:00 is twice"},
		{"2026-10-25 02:00", "", "2026-10-25 02:00:00 is twice"},
		{"2026-10-25 01:59:59", "", "2026-10-24T23:59:59Z"},
		{"2026-10-25 03:00", "", "2026-10-25T02:00:00Z"},
		{"2026-10-25T02:30:00+01:00", "", "2026-10-25T01:30:00Z"},
	} {
		got, reason := instantOf(t, c.value, zone(t, amsterdam), c.locale)
		if reason == "" && got.String() != c.want || reason != "" && !strings.HasPrefix(reason, c.want) {
			t.Errorf("%v of %s in %q = %s %s, want %s", c.value, amsterdam, c.locale, got, reason, c.want)
		}
	}
}

// Without a zone, whose clock it was is not known.
func TestTimesWithoutZone(t *testing.T) {
	for _, value := range []any{46083.5, "46083.5", "2026-03-02 08:30", "2026-03-02"} {
		if got, reason := instantOf(t, value, nil, "nl_NL"); !strings.Contains(reason, "is not a time with an offset") {
			t.Errorf("%v = %s %s, want it refused for its offset", value, got, reason)
		}
	}
	if got, reason := instantOf(t, "2026-03-02 08:30 +01", nil, ""); got.String() != "2026-03-02T07:30:00Z" {
		t.Errorf("a time with its offset = %s %s, want it read", got, reason)
	}
}

// Every quarter of an hour of the days around a change of the clocks, in zones
// that change them in other ways than most: what the clock shows is the instant,
// unless it never shows that or does twice.
func TestChangesOfTheClock(t *testing.T) {
	for _, name := range []string{"Europe/Amsterdam", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "UTC"} {
		z := zone(t, name)
		start := time.Date(2011, 1, 1, 0, 0, 0, 0, time.UTC) // in which Apia went without 30 December
		shown := map[string][]time.Time{}
		const form = "2006-01-02 15:04"
		for at := start; at.Before(start.AddDate(1, 1, 0)); at = at.Add(15 * time.Minute) {
			text := at.In(z).Format(form)
			shown[text] = append(shown[text], at)
		}
		for wall := start.AddDate(0, 0, 2); wall.Before(start.AddDate(1, 0, 0)); wall = wall.Add(15 * time.Minute) {
			_, before := wall.AddDate(0, 0, -2).In(z).Zone()
			_, after := wall.AddDate(0, 0, 2).In(z).Zone()
			if before == after && wall.Hour() > 0 {
				continue
			}
			text := wall.Format(form)
			got, reason := instantOf(t, text, z, "")
			switch at := shown[text]; len(at) {
			case 0:
				if !strings.Contains(reason, "does not exist") {
					t.Fatalf("%s in %s = %s %s, want that it does not exist", text, name, got, reason)
				}
			case 1:
				if got != mesh.At(at[0]) {
					t.Fatalf("%s in %s = %s %s, want %s", text, name, got, reason, mesh.At(at[0]))
				}
			case 2:
				for _, one := range at {
					if !strings.Contains(reason, one.In(z).Format("2006-01-02T15:04:05Z07:00")) {
						t.Fatalf("%s in %s = %s %s, want both %v", text, name, got, reason, at)
					}
				}
			}
		}
	}
}
