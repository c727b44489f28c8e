package device

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
	"°C": "Cel", "℃": "Cel", "degC": "Cel", "C": "Cel", "celsius": "Cel", "Celsius": "Cel",
	"°F": "[degF]", "℉": "[degF]", "degF": "[degF]", "F": "[degF]", "fahrenheit": "[degF]", "Fahrenheit": "[degF]",
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

// quantity tells an object that is one value with its unit,
//
//	{"value": 21.5, "unit": "°C", "displayName": "Air temperature"}
//
// from one that holds several values: beside a number value it has a string
// unit, or what the two are called, or both, and nothing else.
func (d *document) quantity(i int32) (value int32, unit string, ok bool) {
	described := false
	for c := i + 1; c < d.end(i); c = d.end(c) {
		switch name := string(d.name(c)); {
		case name == "value" && d.kind(c) == number:
			value = c
		case (name == "unit" || name == "displayName") && d.kind(c) == text:
			described = true
			if name == "unit" {
				unit = ucum(string(d.chars(c)))
			}
		default:
			return 0, "", false
		}
	}
	return value, unit, value != 0 && described
}
