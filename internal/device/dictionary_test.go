package device_test

import (
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/device"
)

func TestDictionaryRefusesWhatIsAmbiguous(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"metrics: [{metric: a, names: [b_c]}, {metric: d, names: [B-C]}]", `metric d: the name "B-C" is that of a already`},
		{"metrics: [{metric: a}, {metric: b, names: [A]}]", `metric b: the name "A" is that of a already`},
		{"metrics: [{metric: a}, {metric: a}]", `metric a: the name "a" is that of a already`},
		{"metrics: [{unit: V}]", "metrics[0]: no metric"},
		{"metrics: [{metric: a, unit: V, in: [{unit: lx, names: [b]}]}]", `metric a: no conversion from "lx" to "V"`},
		{"metrics: [{metric: a, between: [2, 1]}]", "metric a: between [2 1]: the first is not below the second"},
		{"metrics: [{metric: a, spellings: [b]}]", `unknown field "spellings"`},
		{"metrics: [{metric: a, metric: b}]", "metric"},
		{"metrics: 3", "metrics"},
	} {
		_, err := device.ReadDictionary([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ReadDictionary(%s): %v, want an error with %q", c.text, err, c.want)
		}
	}
}

func TestNamesFold(t *testing.T) {
	d, err := device.ReadDictionary([]byte("metrics: [{metric: x, names: [pm1_0, air_co2, t-1]}, {metric: z, names: [pm10]}]"))
	if err != nil {
		t.Fatal(err)
	}
	p := device.NewParser(d)
	for name, want := range map[string]string{
		"PM1_0": "x", "pm 1.0": "x", "PM-1--0": "x", "_pm_1_0_": "x", "PM10": "z", "PM_10": "z", "p_m_1_0": "x",
		"airCO2": "x", "air/co2": "x", "Air CO-2": "x", "air:co2": "x", "T1": "x",
		"pm1_00": "pm1_00", "airco2x": "airco2x", "ÄirCO2": "ÄirCO2", "_": "_", "X": "x",
	} {
		readings, _, err := p.Parse(nil, message(`{"deviceId":"d","ts":60,"`+name+`":1}`))
		if err != nil || len(readings) != 1 || readings[0].Metric != want {
			t.Errorf("%q became %v, %v, want %s", name, readings, err, want)
		}
	}
}
