package device

// unece gives the UCUM code of a unit that is told by its common code of UN/CEFACT
// Recommendation 20, as NGSI does; many write a symbol instead, which is read
// too. What is neither is told as an annotation, which no metric has as its
// unit, so that the value is not taken for one in another unit.
func unece(code string) string {
	if unit, ok := commonCodes[code]; ok {
		return unit
	}
	return toldUnit(code)
}

// commonCodes are of what sensors measure:
// https://unece.org/trade/uncefact/cl-recommendations
var commonCodes = map[string]string{
	"CEL": "Cel", "FAH": "[degF]", "KEL": "K",
	"P1": "%", "C62": "1", "59": "ppm", "61": "ppb", "IE": "{person}",
	"PAL": "Pa", "A97": "hPa", "KPA": "kPa", "MBR": "mbar", "BAR": "bar", "HN": "mm[Hg]",
	"GP": "mg/m3", "GQ": "ug/m3", "KMQ": "kg/m3", "A19": "Bq/m3", "BQL": "Bq", "M1": "mg/L",
	"LUX": "lx", "CDL": "cd", "LUM": "lm", "D54": "W/m2",
	"VLT": "V", "2Z": "mV", "KVT": "kV", "AMP": "A", "4K": "mA", "OHM": "Ohm", "HTZ": "Hz", "KHZ": "kHz", "MHZ": "MHz",
	"WTT": "W", "KWT": "kW", "MAW": "MW", "D46": "V.A", "JOU": "J", "KJO": "kJ", "WHR": "W.h", "KWH": "kW.h", "MWH": "MW.h", "AMH": "A.h",
	"MTR": "m", "KMT": "km", "CMT": "cm", "MMT": "mm", "MTK": "m2", "MTQ": "m3", "LTR": "L", "MLT": "mL", "GRM": "g", "KGM": "kg",
	"MTS": "m/s", "KMH": "km/h", "MSK": "m/s2", "MQH": "m3/h", "H67": "mm/h",
	"C26": "ms", "SEC": "s", "MIN": "min", "HUR": "h", "DAY": "d",
	"DD": "deg", "C81": "rad", "2N": "dB", "DBM": "dB{mW}", "H61": "mS/cm", "G42": "uS/cm",
}
