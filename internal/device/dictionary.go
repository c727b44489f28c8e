package device

import (
	"fmt"
	"math"

	"sigs.k8s.io/yaml"
)

// Dictionary maps the names that devices give to metrics and units. It is
// never changed once it is read; any number of Parsers may share it.
type Dictionary struct {
	spellings map[string]spelling // by folded name
}

// spelling is what a name says.
type spelling struct {
	metric  string
	unit    string // UCUM code; empty: none, and a boolean is a value too
	convert func(float64) float64
	between [2]float64 // both 0: any
	valid   [2]float64 // what the metric can be; both 0: anything
}

// believed says whether v, once it is converted, may be in the metric's unit.
func (s *spelling) believed(v float64, convert func(float64) float64) bool {
	if convert != nil {
		v = convert(v)
	}
	return !math.IsInf(v, 0) && (s.between[0] == s.between[1] || v >= s.between[0] && v <= s.between[1])
}

// plausible says whether the metric can have the value.
func (s *spelling) plausible(v float64) bool {
	return s.valid[0] == s.valid[1] || v >= s.valid[0] && v <= s.valid[1]
}

// file is the dictionary as YAML; the file in products/iot-telemetry explains
// it to those who write it.
type file struct {
	Metrics []struct {
		Metric    string     `json:"metric"`
		Unit      string     `json:"unit"`
		Names     []string   `json:"names"`
		Between   [2]float64 `json:"between"`
		Plausible [2]float64 `json:"plausible"`
		Noise     float64    `json:"noise"` // of package outlier, as is stuck
		Stuck     string     `json:"stuck"`
		In        []struct {
			Unit  string   `json:"unit"`
			Names []string `json:"names"`
		} `json:"in"`
	} `json:"metrics"`
}

// conversions are from one UCUM unit to another. They divide where they can:
// 1/100 and 1.8 are no float64, 100, 5 and 9 are.
var conversions = map[[2]string]func(float64) float64{
	{"[degF]", "Cel"}:    func(v float64) float64 { return (v - 32) * 5 / 9 },
	{"K", "Cel"}:         func(v float64) float64 { return v - 273.15 },
	{"mCel", "Cel"}:      func(v float64) float64 { return v / 1000 },
	{"1", "%"}:           func(v float64) float64 { return v * 100 },
	{"%", "1"}:           func(v float64) float64 { return v / 100 },
	{"bar", "hPa"}:       func(v float64) float64 { return v * 1000 },
	{"mbar", "hPa"}:      func(v float64) float64 { return v },
	{"mm[Hg]", "hPa"}:    func(v float64) float64 { return v * 1.33322387415 },
	{"[in_i'Hg]", "hPa"}: func(v float64) float64 { return v * 33.8638864 },
	{"ng/m3", "ug/m3"}:   func(v float64) float64 { return v / 1000 },
	{"ppb", "ppm"}:       func(v float64) float64 { return v / 1000 },
	{"[g]", "m[g]"}:      func(v float64) float64 { return v * 1000 },
	{"Pa", "hPa"}:        func(v float64) float64 { return v / 100 },
	{"kPa", "hPa"}:       func(v float64) float64 { return v * 10 },
	{"mV", "V"}:          func(v float64) float64 { return v / 1000 },
	{"mg/m3", "ug/m3"}:   func(v float64) float64 { return v * 1000 },
	{"ppm", "ppb"}:       func(v float64) float64 { return v * 1000 },
	{"[pptr]", "ppb"}:    func(v float64) float64 { return v / 1000 },
	{"1", "ppm"}:         func(v float64) float64 { return v * 1e6 },
	{"%", "ppm"}:         func(v float64) float64 { return v * 1e4 },
	{"[ppth]", "%"}:      func(v float64) float64 { return v / 10 },
	{"kg/m3", "ug/m3"}:   func(v float64) float64 { return v * 1e9 },
	{"ug/L", "ug/m3"}:    func(v float64) float64 { return v * 1000 },
	{"mg/L", "ug/m3"}:    func(v float64) float64 { return v * 1e6 },
	{"dB[W]", "dB{mW}"}:  func(v float64) float64 { return v + 30 },
	{"B[SPL]", "dB"}:     func(v float64) float64 { return v * 10 },
	{"m/s2", "m[g]"}:     func(v float64) float64 { return v / 9.80665 * 1000 },
	{"ms", "s"}:          func(v float64) float64 { return v / 1000 },
	{"min", "s"}:         func(v float64) float64 { return v * 60 },
	{"h", "s"}:           func(v float64) float64 { return v * 3600 },
}

// conversion gives what converts from one UCUM unit to another, nil if they are
// the same; ok is false where there is none.
func conversion(from, to string) (convert func(float64) float64, ok bool) {
	if from == to {
		return nil, true
	}
	convert, ok = conversions[[2]string{from, to}]
	return convert, ok
}

// ReadDictionary reads a dictionary from YAML.
func ReadDictionary(text []byte) (*Dictionary, error) {
	var f file
	if err := yaml.UnmarshalStrict(text, &f); err != nil {
		return nil, fmt.Errorf("read metric dictionary: %w", err)
	}
	d := &Dictionary{spellings: map[string]spelling{}}
	for i, m := range f.Metrics {
		if m.Metric == "" {
			return nil, fmt.Errorf("read metric dictionary: metrics[%d]: no metric", i)
		}
		if m.Between != [2]float64{} && m.Between[0] >= m.Between[1] {
			return nil, fmt.Errorf("read metric dictionary: metric %s: between %v: the first is not below the second", m.Metric, m.Between)
		}
		if m.Plausible != [2]float64{} && m.Plausible[0] >= m.Plausible[1] {
			return nil, fmt.Errorf("read metric dictionary: metric %s: plausible %v: the first is not below the second", m.Metric, m.Plausible)
		}
		s := spelling{metric: m.Metric, unit: m.Unit, between: m.Between, valid: m.Plausible}
		if err := d.add(append([]string{m.Metric}, m.Names...), s); err != nil {
			return nil, err
		}
		for _, in := range m.In {
			s := spelling{metric: m.Metric, unit: m.Unit, between: m.Between, valid: m.Plausible, convert: conversions[[2]string{in.Unit, m.Unit}]}
			if s.convert == nil {
				return nil, fmt.Errorf("read metric dictionary: metric %s: no conversion from %q to %q", m.Metric, in.Unit, m.Unit)
			}
			if err := d.add(in.Names, s); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

func (d *Dictionary) add(names []string, s spelling) error {
	for _, name := range names {
		key := fold([]byte(name))
		if other, taken := d.spellings[key]; taken {
			return fmt.Errorf("read metric dictionary: metric %s: the name %q is that of %s already, but for case and separators", s.metric, name, other.metric)
		}
		d.spellings[key] = s
	}
	return nil
}

// fold makes names equal that differ in case and separators alone: lower case,
// no separators. Between digits a separator stays, as _: PM1_0 is no PM10.
func fold(name []byte) string {
	out := make([]byte, 0, len(name))
	separated := false
	for _, c := range name {
		switch {
		case c == '_' || c == '-' || c == ' ' || c == '.' || c == ':' || c == '/':
			separated = true
			continue
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case isDigit(c) && separated && len(out) > 0 && isDigit(out[len(out)-1]):
			out = append(out, '_')
		}
		out = append(out, c)
		separated = false
	}
	return string(out)
}
