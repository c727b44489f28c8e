package device

import "testing"

// What is written for a unit has to be one that is believed where it is told as
// a code, by whichever format.
func TestUnitsAreBelieved(t *testing.T) {
	for what, list := range map[string]map[string]string{"symbol": symbols, "common code": commonCodes} {
		for written, unit := range list {
			if got := toldUnit(unit); got != unit {
				t.Errorf("%s %s: toldUnit(%s) = %s", what, written, unit, got)
			}
		}
	}
	for unit := range columnUnits {
		if otherUnits[unit] {
			t.Errorf("%s stands in both lists", unit)
		}
	}
}

func TestToldUnit(t *testing.T) {
	for symbol, want := range map[string]string{
		"": "", "  ": "", " °C ": "Cel", "kg/m3": "kg/m3", "W.h": "W.h", "µg/m³": "ug/m3",
		"furlongs per fortnight": "{furlongs_per_fortnight}", "{count}": "{count}", "g/m⁴": "{g/m_}", "XYZ": "{XYZ}",
	} {
		if got := toldUnit(symbol); got != want {
			t.Errorf("toldUnit(%q) = %s, want %s", symbol, got, want)
		}
	}
}
