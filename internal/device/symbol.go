package device

import "strings"

// ucum gives the UCUM code of a unit as people write it, or the unit itself.
func ucum(symbol string) string {
	if code, ok := symbols[symbol]; ok {
		return code
	}
	return symbol
}

// symbols are the units that are not written as their UCUM code
// (https://ucum.org/ucum). What is both, such as V or ppm, is left out.
var symbols = map[string]string{
	"°C": "Cel", "℃": "Cel", "degC": "Cel", "deg C": "Cel", "degrees C": "Cel", "C": "Cel", "celsius": "Cel", "Celsius": "Cel",
	"°F": "[degF]", "℉": "[degF]", "degF": "[degF]", "deg F": "[degF]", "degrees F": "[degF]", "F": "[degF]", "fahrenheit": "[degF]", "Fahrenheit": "[degF]",
	"% RH": "%", "%RH": "%", "%rH": "%", "RH%": "%", "percent": "%", "Percent": "%",
	"lux": "lx", "Lux": "lx",
	"µg⋅m⁻³": "ug/m3", "m⋅s⁻¹": "m/s", "W⋅m⁻²": "W/m2", "m³⋅m⁻³": "m3/m3", "1⋅cm⁻³": "/cm3", "µS⋅cm⁻¹": "uS/cm", "µm": "um",
	"µg/m³": "ug/m3", "μg/m³": "ug/m3", "µg/m3": "ug/m3", "μg/m3": "ug/m3", "ug/m³": "ug/m3", "ug/m^3": "ug/m3",
	"mg/m³": "mg/m3", "mg/m^3": "mg/m3", "m³": "m3", "m²": "m2", "m/s²": "m/s2",
	"Bq/m³": "Bq/m3", "#/cm³": "/cm3", "#/cm3": "/cm3",
	"mmHg": "mm[Hg]", "inHg": "[in_i'Hg]",
	"dBm": "dB{mW}", "dB(A)": "dB", "dBA": "dB",
	"°": "deg", "µS/cm": "uS/cm", "μS/cm": "uS/cm", "µs": "us", "μs": "us",
	"kWh": "kW.h", "Wh": "W.h", "VA": "V.A", "Ah": "A.h", "mAh": "mA.h",
	"pH": "[pH]", "liter": "L", "l": "L", "ℓ": "L", "sec": "s", "seconds": "s",
}

// columnUnits are the units, by UCUM code, that a column may have behind its
// name: all are told by it alone. What is shorter or is a word as well (min) may
// be any other remark.
var columnUnits = setOf(`% [degF] Cel ppm ppb Pa hPa kPa mbar lx ug/m3 mg/m3 kg/m3 Bq/m3 mV mA kW kW.h Hz dB ms mm cm km m/s km/h mm/h m3/h W/m2`)

// otherUnits are the units, by UCUM code, that are believed where a unit is
// meant.
var otherUnits = setOf(`1 K mCel MPa bar mm[Hg] [in_i'Hg] [psi] g/m3 ng/m3 mg/L Bq V kV A kA W MW mW V.A kV.A W.h MW.h J kJ MJ
	kHz MHz s us min h d m um g kg t L mL m3 m2 m3/m3 m/s2 L/s L/min L/h m3/s kg/h kg/s deg rad lm cd dB{mW} [g] m[g] [pH] S uS/cm mS/cm
	/min /cm3 Ohm kOhm N kN N.m T uT A.h mA.h {person} By`)

func setOf(units string) map[string]bool {
	m := map[string]bool{}
	for _, unit := range strings.Fields(units) {
		m[unit] = true
	}
	return m
}

// maxUnit, in bytes: every reading repeats it.
const maxUnit = 64

// toldUnit gives the UCUM code of a unit as people write it. One that is not
// known becomes an annotation: it says what was sent, and is no unit that the
// dictionary could take for its own.
func toldUnit(symbol string) string {
	symbol = strings.TrimSpace(symbol)
	unit := ucum(symbol)
	if unit == "" || columnUnits[unit] || otherUnits[unit] {
		return unit
	}
	if strings.HasPrefix(unit, "{") { // an annotation already
		unit = strings.Trim(unit, "{}")
	}
	return "{" + strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == '{' || r == '}' {
			return '_'
		}
		return r
	}, unit[:min(len(unit), maxUnit)]) + "}"
}

// quantity finds the value and the unit of an object that is one value and what
// is said about it,
//
//	{"value": 21.5, "unit": "°C", "displayName": "Air temperature", "quality": "good"}
//
// value is 0 if it is none: it has a number value and a string unit, or the
// value and what it is called alone.
func (d *document) quantity(i int32) (value, unit int32) {
	members, named := 0, 0
	for c := i + 1; c < d.end(i); c = d.end(c) {
		members++
		switch name := string(d.name(c)); {
		case name == "value" && d.kind(c) == number:
			value = c
		case unitNames[name] && d.kind(c) == text && unit == 0:
			unit = c
		case name == "displayName" && d.kind(c) == text:
			named = 1
		}
	}
	if unit == 0 && (named == 0 || members != 2) {
		return 0, 0
	}
	return value, unit
}

// unitNames are the members that tell the unit of the value beside them.
var unitNames = map[string]bool{"unit": true, "units": true, "uom": true, "unitOfMeasure": true, "unitOfMeasurement": true, "unit_of_measurement": true}
