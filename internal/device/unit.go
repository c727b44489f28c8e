package device

// senMLUnits are the units of SenML by UCUM code: the registry of IANA
// (https://www.iana.org/assignments/senml), primary and secondary, as filled by
// RFC 8428, RFC 8798, ISO 7027-1 and CoRE-1. A secondary unit has a code of its
// own: nothing is scaled here. UCUM (https://ucum.org/ucum) has no reactive
// power and no decibel of a milliwatt: what an annotation in braces says is
// lost to whoever converts.
var senMLUnits = map[string]string{
	"m": "m", "kg": "kg", "g": "g", "s": "s", "A": "A", "K": "K", "cd": "cd", "mol": "mol", "Hz": "Hz", "rad": "rad", "sr": "sr", "N": "N",
	"Pa": "Pa", "J": "J", "W": "W", "C": "C", "V": "V", "F": "F", "Ohm": "Ohm", "S": "S", "Wb": "Wb", "T": "T", "H": "H", "Cel": "Cel",
	"lm": "lm", "lx": "lx", "Bq": "Bq", "Gy": "Gy", "Sv": "Sv", "kat": "kat", "m2": "m2", "m3": "m3", "l": "L", "m/s": "m/s", "m/s2": "m/s2",
	"m3/s": "m3/s", "l/s": "L/s", "W/m2": "W/m2", "cd/m2": "cd/m2", "bit": "bit", "bit/s": "bit/s", "lat": "deg", "lon": "deg", "pH": "[pH]",
	"dB": "dB", "dBW": "dB[W]", "Bspl": "B[SPL]", "count": "1", "/": "1",
	"%":   "1", // "NOT a percentage, but the absolute ratio", RFC 8428 section 12.1
	"%RH": "%", "%EL": "%", "EL": "s", "1/s": "1/s", "1/min": "1/min", "beat/min": "{beat}/min", "beats": "{beat}", "S/m": "S/m",

	"B": "By", "VA": "V.A", "VAs": "V.A.s", "var": "V.A{reactive}", "vars": "V.A{reactive}.s", "J/m": "J/m", "kg/m3": "kg/m3", "deg": "deg",
	"NTU": "{NTU}",

	"ms": "ms", "min": "min", "h": "h", "MHz": "MHz", "kW": "kW", "kVA": "kV.A", "kvar": "kV.A{reactive}", "Ah": "A.h", "Wh": "W.h",
	"kWh": "kW.h", "varh": "V.A{reactive}.h", "kvarh": "kV.A{reactive}.h", "kVAh": "kV.A.h", "Wh/km": "W.h/km", "KiB": "KiBy", "GB": "GBy",
	"Mbit/s": "Mbit/s", "B/s": "By/s", "MB/s": "MBy/s", "mV": "mV", "mA": "mA", "dBm": "dB{mW}", "ug/m3": "ug/m3", "mm/h": "mm/h", "m/h": "m/h",
	"ppm": "ppm", "/100": "%", "/1000": "[ppth]", "hPa": "hPa", "mm": "mm", "cm": "cm", "km": "km", "km/h": "km/h",

	"ppb": "ppb", "ppt": "[pptr]", "VAh": "V.A.h", "mg/l": "mg/L", "ug/l": "ug/L", "g/l": "g/L",
}

// senMLQuantities are the metrics of values that have no name within their
// device, by the unit that the registry defines for one quantity alone.
var senMLQuantities = map[string]string{
	"Cel": "temperature", "K": "temperature", "%RH": "relative_humidity", "Pa": "pressure", "hPa": "pressure", "lx": "illuminance",
	"lat": "latitude", "lon": "longitude", "pH": "ph", "Bspl": "sound_pressure_level", "V": "voltage", "A": "current", "W": "power",
	"m/s2": "acceleration", "m3/s": "flow_rate", "W/m2": "irradiance", "cd/m2": "luminance", "S/m": "conductivity", "beat/min": "heart_rate",
	"VA": "apparent_power", "var": "reactive_power", "NTU": "turbidity", "%EL": "device_battery_level", "EL": "device_battery_remaining",
}
