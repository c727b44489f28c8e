package source

import (
	"fmt"
	"testing"

	"github.com/telemesh/telemesh/internal/sheet/sheetstest"
)

// Fifty rows that cannot be taken, each for another reason, between rows that
// can: each is told by its row, column and reason, and every other one is taken.
func TestFiftyMistakes(t *testing.T) {
	const noTime = " is not a time, such as 2026-03-02 08:30 or 2026-03-02T08:30:00+01:00"
	const noCount, noPPM = " is not a whole number from 0", " is not a number of ppm (a decimal point, no unit)"
	const noSerial = " is not a time: a spreadsheet counts days since 1899-12-30, from 10000 in 1927 to 2958465 in 9999"
	const asNumber = " is kept as a number, which has 15 digits: format the column as plain text and write it again"
	const spring = "2026-03-29 02:30:00 does not exist in Europe/Amsterdam, where the clocks are put forward: write 2026-03-29T01:30:00+01:00 or 2026-03-29T03:30:00+02:00"
	const autumn = "2026-10-25 02:30:00 is twice in Europe/Amsterdam, where the clocks are put back: write 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"
	const day = 46083.0 // 2026-03-02
	columns := []any{"device_id", "tenant_id", "building", "floor", "room", "persons", "outside_co2", "valid_from", "valid_to"}
	at := map[string]int{}
	for i, name := range columns {
		at[name.(string)] = i
	}
	good := func(device string) []any {
		return []any{device, "school", "Main", "1", "1.02", 30.0, 420.5, day, nil}
	}
	mistakes := []struct {
		column string
		value  any
		whole  bool // the finding is about the row as a whole
		reason string
	}{
		{"device_id", nil, false, "empty"},
		{"device_id", "  ", false, "empty"},
		{"device_id", "a\nb", false, `"a\nb" holds a control character`},
		{"device_id", 1e15, false, "1000000000000000" + asNumber},
		{"device_id", "#REF!", false, "its formula gives #REF!"},
		{"tenant_id", nil, false, "empty"},
		{"tenant_id", "a\tb", false, `"a\tb" holds a control character`},
		{"tenant_id", 20000000000000004.0, false, "20000000000000004" + asNumber},
		{"tenant_id", "#N/A", false, "its formula gives #N/A"},
		{"building", "#DIV/0!", false, "its formula gives #DIV/0!"},
		{"floor", "#VALUE!", false, "its formula gives #VALUE!"},
		{"room", "Loading...", false, "its formula gives Loading..."},
		{"room", "#NAME?", false, "its formula gives #NAME?"},
		{"persons", -1.0, false, `"-1"` + noCount},
		{"persons", 2.5, false, `"2.5"` + noCount},
		{"persons", "thirty", false, `"thirty"` + noCount},
		{"persons", "30 persons", false, `"30 persons"` + noCount},
		{"persons", 1e19, false, `"10000000000000000000"` + noCount},
		{"persons", true, false, `"TRUE"` + noCount},
		{"persons", "#NUM!", false, "its formula gives #NUM!"},
		{"outside_co2", "420,5", false, `"420,5"` + noPPM},
		{"outside_co2", "420 ppm", false, `"420 ppm"` + noPPM},
		{"outside_co2", -0.5, false, `"-0.5"` + noPPM},
		{"outside_co2", "NaN", false, `"NaN"` + noPPM},
		{"outside_co2", "0x1F4", false, `"0x1F4"` + noPPM},
		{"outside_co2", "1_000", false, `"1_000"` + noPPM},
		{"outside_co2", "1e999", false, `"1e999"` + noPPM},
		{"valid_from", nil, false, "empty"},
		{"valid_from", 2026.0, false, "2026" + noSerial},
		{"valid_from", 0.5, false, "0.5" + noSerial},
		{"valid_from", 20260302.0, false, "20260302" + noSerial},
		{"valid_from", "yesterday", false, `"yesterday"` + noTime},
		{"valid_from", "2026-02-30", false, `"2026-02-30" is no day of the calendar`},
		{"valid_from", "2026-13-01 08:30", false, `"2026-13-01 08:30" is no day of the calendar`},
		{"valid_from", "2/3/2026", false, `"2/3/2026" is 2026-03-02 or 2026-02-03, and the locale fr_CA does not say which: write the day as 2026-03-02`},
		{"valid_from", "25/3/26", false, `"25/3/26" has a year of two digits: write the day as 2026-03-02`},
		{"valid_from", "2026-03-02 25:00", false, `"2026-03-02 25:00"` + noTime},
		{"valid_from", "2026-03-02T08:30:00+25:00", false, `"2026-03-02T08:30:00+25:00"` + noTime},
		{"valid_from", "2026-03-29 02:30", false, spring},
		{"valid_from", 46110.104166666664, false, spring},
		{"valid_from", "2026-10-25 02:30", false, autumn},
		{"valid_from", 46320.104166666664, false, autumn},
		{"valid_from", false, false, `"FALSE"` + noTime},
		{"valid_to", "open", false, `"open"` + noTime},
		{"valid_to", "until further notice", false, `"until further notice"` + noTime},
		{"valid_to", day, false, "2026-03-01T23:00:00Z is not after valid_from 2026-03-01T23:00:00Z"},
		{"valid_to", day - 1, false, "2026-02-28T23:00:00Z is not after valid_from 2026-03-01T23:00:00Z"},
		{"device_id", "good-0", true, `[2026-03-01T23:00:00Z, …) of device "good-0" overlaps [2026-03-01T23:00:00Z, …) of row 2`},
		{"device_id", "good-1", true, `[2026-03-01T23:00:00Z, …) of device "good-1" overlaps [2026-03-01T23:00:00Z, …) of row 4`},
		{"note", "moved by J.", true, `cell 10, "moved by J.", is in a column that the header does not name`},
	}
	if len(mistakes) != 50 {
		t.Fatalf("%d mistakes, want 50", len(mistakes))
	}
	values := [][]any{columns}
	var devices, findings []string
	for i, m := range mistakes {
		device := fmt.Sprintf("good-%d", i)
		devices = append(devices, device)
		bad := good(fmt.Sprintf("bad-%d", i))
		if column, ok := at[m.column]; ok {
			bad[column] = m.value
		} else {
			bad = append(bad, m.value)
		}
		values = append(values, good(device), bad)
		if m.whole {
			m.column = ""
		}
		findings = append(findings, fmt.Sprintf("%d %s: %s", len(values), m.column, m.reason))
	}
	w := open(t, Config{Placements: "google-sheets:" + id + "/Placements"})
	w.google.Put(id, sheetstest.Spreadsheet{Locale: "fr_CA", TimeZone: "Europe/Amsterdam", Sheets: []sheetstest.Sheet{{Title: "Placements", Values: values}}})
	w.replies(t, "placements.changed", "placements.rejected")
	same(t, "findings", w.placements.Findings(), findings...)
	same(t, "devices", w.placements.Rows("device_id"), sorted(devices)...)
}
