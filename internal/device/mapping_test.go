package device_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/products"
)

// mappings are those of the data product iot-telemetry.
func mappings(t testing.TB) []*device.Mapping {
	t.Helper()
	folder, err := fs.Sub(products.FS, "iot-telemetry/mappings")
	if err != nil {
		t.Fatal(err)
	}
	all, err := device.ReadMappings(folder, "products/iot-telemetry/mappings")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no mappings")
	}
	return all
}

func TestMappingsOfTheProduct(t *testing.T) {
	for _, finding := range device.CheckMappings(dictionary(t), mappings(t)) {
		t.Error(finding)
	}
}

// What the README shows to copy is a mapping that works.
func TestMappingOfTheREADME(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(dataset.Root(t), "products/iot-telemetry/mappings/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```yaml\n")
	block, _, ok := strings.Cut(block, "```")
	all, err := device.ReadMappings(fstest.MapFS{"README.yaml": {Data: []byte(block)}}, "mappings")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for _, finding := range device.CheckMappings(dictionary(t), append(all, mappings(t)...)) {
		t.Error(finding)
	}
}

// written makes mappings of the parts of files; what every file needs and a
// test is not about is added.
func written(t testing.TB, files ...string) []*device.Mapping {
	t.Helper()
	folder := fstest.MapFS{}
	for i, text := range files {
		for _, line := range []string{"mapping: m" + fmt.Sprint(i), "has: [m]", "metrics: payload.m", "examples: [{payload: {m: {}}, rejected: no value}]"} {
			field, _, _ := strings.Cut(line, ":")
			if !strings.HasPrefix(text, field+":") && !strings.Contains(text, "\n"+field+":") {
				text += "\n" + line
			}
		}
		folder[fmt.Sprintf("m%d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	all, err := device.ReadMappings(folder, "maps")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMapping(t *testing.T) {
	for _, c := range []struct {
		name, mapping, payload, want string
	}{
		{
			"what is an object of the payload is read as it stands",
			`metrics: payload.m`,
			`{"m":{"z":1,"co2":661,"big":9007199254740993,"n":null,"in":{"t":{"value":21.5,"unit":"°C"},"list":[1,true,"x"]}}}`,
			"d at 2026-10-06T11:23:20Z no_time\n  z 1\n  co2 661 ppm\n  big 9.007199254740992e+15 (9007199254740993)\n  in_t 21.5 Cel\n  in_list_0 1\n  in_list_1 true\n  in_list_2 \"x\"\nskipped 1\n",
		}, {
			"int and double mix, and a fraction never is lost",
			"metrics: |\n  {'a': payload.m / 10, 'b': (payload.m - 32) * 5 / 9, 'c': 2 * payload.m + 1, 'd': 1 - payload.m, 'e': 7 / 2, 'f': payload.m > 200 ? 1 : 0, 'g': 'x' + string(int(payload.m))}",
			`{"m":215}`,
			"d at 2026-10-06T11:23:20Z no_time\n  a 21.5\n  b 101.66666666666667\n  c 431\n  d -214\n  e 3\n  f 1\n  g \"x215\"\n",
		}, {
			"whole numbers beyond 2^53 keep each digit",
			"device: payload.id\ntime: payload.ns\nmetrics: |\n  {'n': payload.m, 'u': payload.u}",
			`{"m":-9007199254740993,"u":18446744073709551615,"id":9007199254740993,"ns":1665055400123456789}`,
			"9007199254740993 at 2022-10-06T11:23:20.123456Z\n  n -9.007199254740992e+15 (-9007199254740993)\n  u 1.8446744073709552e+19\n",
		}, {
			"what may be missing",
			"device: payload.?id\ntime: payload.?time\nattributes: |\n  {?'fw': payload.?fw, 'n': null, ?'site': payload.?at}\nmetrics: |\n  {?'co2': payload.?m.co2, ?'pm1': payload.?m.pm1, 'x': payload.?m.x}",
			`{"m":{"co2":661},"at":{"b":[1,"x"]}}`,
			"d at 2026-10-06T11:23:20Z no_time {\"site\":{\"b\":[1,\"x\"]}}\n  co2 661 ppm\n",
		}, {
			"a list of metrics",
			"metrics: |\n  payload.m.map(v, {'metric': v.t, 'value': v.v, ?'unit': v.?u})",
			`{"m":[{"t":"temperature","v":70.7,"u":"°F"},{"t":"co2","v":661},{"t":"on","v":true},{"t":"list","v":[1,2]}]}`,
			"d at 2026-10-06T11:23:20Z no_time\n  temperature 21.5 Cel\n  co2 661 ppm\n  on true\n  list_0 1\n  list_1 2\n",
		}, {
			"units are believed, and told in a value over those of the mapping",
			"units: {temperature: K, flow: L/min, in_t: V}\nmetrics: |\n  {'temperature': payload.m.t, 'flow': payload.m.f, 'in': {'t': {'value': payload.m.t, 'unit': 'mV'}, 'u': [payload.m.f]}}",
			`{"m":{"t":300,"f":1.5}}`,
			"d at 2026-10-06T11:23:20Z no_time\n  flow 1.5 L/min\n  in_t 300 mV\n  in_u_0 1.5\n  temperature 26.850000000000023 Cel\n",
		}, {
			"each of several devices",
			"each: payload.m\ndevice: it.id\ntime: it.t\nattributes: |\n  {'room': payload.room}\nmetrics: |\n  {'co2': it.co2}",
			`{"room":"1.02","m":[{"id":"a","t":"2022-10-06T13:23:00+02:00","co2":661},{"id":7,"t":1665055381,"co2":null},{"id":"b","t":1665055382.5,"co2":700}]}`,
			"a at 2022-10-06T11:23:00Z {\"room\":\"1.02\"}\n  co2 661 ppm\nb at 2022-10-06T11:23:02.5Z {\"room\":\"1.02\"}\n  co2 700 ppm\nskipped 1\n",
		}, {
			"no device, nothing measured",
			"each: payload.m\nmetrics: it.x",
			`{"m":[]}`,
			"measures nothing\n",
		}, {
			"of several none with a value",
			"each: payload.m\nmetrics: |\n  {'x': it.x}",
			`{"m":[{"x":null},{"x":null}]}`,
			"rejected by \"m0\" at -1: no value: nothing in the payload makes a reading, 2 skipped (null, beyond float64 or without a name)\n",
		}, {
			"time by the message's own receive time",
			"time: received_at - duration(string(int(payload.m.ago)) + 's')\nmetrics: |\n  {'co2': payload.m.co2}",
			`{"m":{"ago":20,"co2":661}}`,
			"d at 2026-10-06T11:23:00Z\n  co2 661 ppm\n",
		}, {
			"bytes in base64 and hex",
			"metrics: |\n  cel.bind(b, base64.decode(payload.m), {'u': b.number(0, 'u16be'), 's': b.number(0, 's16le'), 'one': b.number(1, 's8'), 'f': hex.decode('41ac0000').number(0, 'f32be'), 'g': hex.decode('0000000000803540').number(0, 'f64le')})",
			`{"m":"AP8="}`,
			"d at 2026-10-06T11:23:20Z no_time\n  f 21.5\n  g 21.5\n  one -1\n  s -256\n  u 255\n",
		}, {
			"what is no number is skipped",
			"metrics: |\n  {'a': payload.m / 0.0, 'b': -payload.m / 0.0, 'c': (payload.m - payload.m) / 0.0, 'd': payload.m}",
			`{"m":1}`,
			"d at 2026-10-06T11:23:20Z no_time\n  d 1\nskipped 3\n",
		}, {
			"a name that is missing",
			"metrics: |\n  {\n    'a': payload.m,\n    'b': payload.nope}",
			`{"m":1}`,
			"rejected by \"m0\" at -1: metrics (maps/m0.yaml:4): no such key: nope\n",
		}, {
			"what cannot be calculated",
			"metrics: |\n  {'a': payload.m / 10}",
			`{"m":"12"}`,
			"rejected by \"m0\" at -1: metrics (maps/m0.yaml:2): a string / a number cannot be calculated\n",
		}, {
			"a time that is none",
			"time: payload.m.t",
			`{"m":{"t":"yesterday"}}`,
			"rejected by \"m0\" at -1: time (maps/m0.yaml:1): \"yesterday\" is neither RFC 3339 nor Unix seconds, ms, µs or ns\n",
		}, {
			"a device that is none",
			"device: payload.m",
			`{"m":{"t":1}}`,
			"rejected by \"m0\" at -1: device (maps/m0.yaml:1): gives a map, not a string or a number\n",
		}, {
			"a value that is none",
			"metrics: |\n  {'a': received_at}",
			`{"m":{"t":1}}`,
			"rejected by \"m0\" at -1: metrics (maps/m0.yaml:2): \"a\" is a timestamp, which is no value of a metric: make a number, a boolean or a string of it\n",
		}, {
			"two values of one name",
			"metrics: |\n  {'a_b': 1, 'a': {'b': 2}}",
			`{"m":{"t":1}}`,
			"rejected by \"m0\" at -1: metrics (maps/m0.yaml:2): two values have the name \"a_b\"\n",
		}, {
			"a list of what is no metric",
			"metrics: payload.m",
			`{"m":[{"metric":"a","value":1},{"value":1}]}`,
			"rejected by \"m0\" at -1: metrics (maps/m0.yaml:1): \"metric\" is null, not a string\n",
		}, {
			"a condition that holds",
			"when: payload.m.kind == 'air' && attributes.?topic.orValue('') == ''\nmetrics: |\n  {'a': payload.m.kind}",
			`{"m":{"kind":"air"}}`,
			"d at 2026-10-06T11:23:20Z no_time\n  a \"air\"\n",
		}, {
			"a condition that does not hold",
			"when: payload.m.kind == 'air'",
			`{"m":{"kind":"door"}}`,
			"d at 2026-10-06T11:23:20Z no_time\n  m_kind \"door\"\n",
		}, {
			"a condition that fails",
			"when: payload.m.kind == 'air'",
			`{"m":{"sort":"door"}}`,
			"rejected by \"m0\" at -1: when (maps/m0.yaml:1): no such key: kind\n",
		}, {
			"each message of an array",
			"metrics: |\n  {'co2': payload.m}",
			`[{"m":661},{"m":null,"x":1},{"m":662,"x":2}]`,
			"d at 2026-10-06T11:23:20Z no_time\n  co2 661 ppm\n  x 1\n  co2 662 ppm\nskipped 1\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := device.NewParser(dictionary(t), written(t, c.mapping)...)
			m := message(c.payload)
			m.DeviceID = "d"
			if diff := cmp.Diff(c.want, table(p.Parse(nil, m))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Two that fit are named, with the readers of the table as with each other; the
// message's own word decides, and then the condition is not asked.
func TestMappingsThatBothFit(t *testing.T) {
	p := device.NewParser(dictionary(t), written(t, "has: [m.a]", "has: [m.b]\nwhen: payload.m.b == 2.0", "has: [deviceInfo]\nmetrics: payload")...)
	for _, c := range []struct{ format, payload, want string }{
		{"", `{"m":{"a":1}}`, "d at 2026-10-06T11:23:20Z no_time\n  a 1\n"},
		{"", `{"m":{"a":1,"b":1}}`, "d at 2026-10-06T11:23:20Z no_time\n  a 1\n  b 1\n"},
		{"", `{"m":{"a":1,"b":2}}`, "rejected by \"\" at 0: it may be m0 or m1: say which as its format\n"},
		{"m1", `{"m":{"a":1,"b":2}}`, "d at 2026-10-06T11:23:20Z no_time\n  a 1\n  b 2\n"},
		{"m1", `{"m":{"a":1,"b":3}}`, "d at 2026-10-06T11:23:20Z no_time\n  a 1\n  b 3\n"},
		{"", `{"m":{"a":null,"b":2}}`, "d at 2026-10-06T11:23:20Z no_time\n  b 2\nskipped 1\n"},
		{"", `{"deviceInfo":{"devEui":"70b3d5e75e00aa01"},"object":{"a":1}}`, "rejected by \"\" at 0: it may be chirpstack-v4 or m2: say which as its format\n"},
		{"json", `{"m":{"a":1}}`, "d at 2026-10-06T11:23:20Z no_time\n  m_a 1\n"},
	} {
		m := message(c.payload)
		m.DeviceID, m.Format = "d", c.format
		if diff := cmp.Diff(c.want, table(p.Parse(nil, m))); diff != "" {
			t.Errorf("%s as %q (-want +got):\n%s", c.payload, c.format, diff)
		}
	}
}

// A set of readers has 64 bits; there may be more mappings.
func TestMoreMappingsThanBits(t *testing.T) {
	var files []string
	for i := range 150 {
		files = append(files, fmt.Sprintf("has: [m%d]\nmetrics: |\n  {'number': %d}", i, i))
	}
	p := device.NewParser(dictionary(t), written(t, files...)...)
	for i := range files {
		m := message(fmt.Sprintf(`{"m%d":{},"deviceId":"d"}`, i))
		m.DeviceID = "d"
		want := fmt.Sprintf("d at 2026-10-06T11:23:20Z no_time\n  number %d\n", i)
		if got := table(p.Parse(nil, m)); got != want {
			t.Errorf("message of m%d: %s", i, got)
		}
	}
}

// Whatever a message holds, what a mapping makes of it is bounded: in steps,
// over all elements of each, and in what comes out.
func TestMappingIsBounded(t *testing.T) {
	list := func(n int, element string) string {
		return `{"m":[` + strings.TrimSuffix(strings.Repeat(element+",", n), ",") + `]}`
	}
	for _, c := range []struct{ name, mapping, payload, want string }{
		{"a loop in a loop", "metrics: |\n  {'n': payload.m.map(a, payload.m.map(b, a * b)).size()}", list(2000, "1"), "steps"},
		{"a text that doubles", "metrics: |\n  {'n': payload.m.map(a, payload.m.map(b, [a, b].join()).join()).join().size()}", list(2000, `"xxxxxxxxxx"`), "steps"},
		{"many elements", "each: payload.m\nmetrics: |\n  {'n': it.exists(x, x == 2.0)}", list(2000, "[1,1,1,1,1,1,1,1,1,1,1,1]"), "steps"},
		{"many readings", "metrics: |\n  payload.m.map(v, {'metric': string(v.n), 'value': 1})", list(20_000, `{"n":"x"}`), "steps"},
		{"lists that are flat", "metrics: |\n  {'n': payload.m.map(a, payload.m.flatten().size())}", list(2000, "[1]"), "steps"},
		{"a list in steps that are few", "metrics: |\n  {'list': payload.m}", list(20_000, "1"), "more than 10000 readings"},
		{"a long name", "metrics: |\n  {payload.m: 1}", `{"m":"` + strings.Repeat("x", 300) + `"}`, "has 300 bytes"},
		{"a long text", "metrics: |\n  {'x': payload.m + payload.m}", `{"m":"` + strings.Repeat("x", 9000) + `"}`, "has 18000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := message(c.payload)
			m.DeviceID = "d"
			readings, _, err := device.NewParser(dictionary(t), written(t, c.mapping)...).Parse(nil, m)
			if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 {
				t.Errorf("%d readings, %v, want an error with %q", len(readings), err, c.want)
			}
		})
	}
}

// Each error names file and line.
func TestReadMappings(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"mapping: a\nhas: [m]\nmetrics: payload\nmetric: x\nexamples: []", "maps/a.yaml:4: field metric not found in a mapping"},
		{"mapping: a\nhas: [m]\nexamples: [{payload: {}, wants: 1}]", "maps/a.yaml:3: field wants not found in an example"},
		{"mapping: a\n has: [m]", "maps/a.yaml:2: mapping values are not allowed in this context"},
		{"mapping: Acme Window", `maps/a.yaml:1: mapping: "Acme Window" is no name of a format: lower-case words joined by -, as in acme-window`},
		{"mapping: chirpstack-v4", "maps/a.yaml:1: mapping: there is a reader chirpstack-v4: choose another name"},
		{"mapping: a", "maps/a.yaml:1: has: names no member: the message is recognized by those that it always has"},
		{"mapping: a\nhas: [m..n]\nmetrics: payload\nexamples: [{payload: {}, rejected: x}]", `maps/a.yaml:1: has: "m..n" is no member: names joined by ., as in deviceInfo.deviceId`},
		{"mapping: a\nhas: [m]", "maps/a.yaml:1: metrics: is missing: it says what the message measures"},
		{"mapping: a\nhas: [m]\nmetrics: payload", "maps/a.yaml:1: examples: there is none: `telemesh check` tries the mapping on them"},
		{"mapping: a\nhas: [m]\n\nmetrics: {a: b}\nexamples: [{payload: {}, rejected: x}]", "maps/a.yaml:4: metrics: is no text: it holds an expression in CEL, with | or in quotes where YAML would take it for something else"},
		{"mapping: a\nhas: [m]\nmetrics: payload\nexamples:\n  - payload: {}", "maps/a.yaml:5: an example has either readings or rejected, a part of the cause (examples[0])"},
		{"mapping: a\nhas: [m]\nmetrics: payload\nexamples:\n  - {payload: {}, readings: [{time: noon, value: 1}]}", `maps/a.yaml:5: readings: time: "noon" is no time as in 2026-01-01T00:00:00Z (examples[0])`},
	} {
		_, err := device.ReadMappings(fstest.MapFS{"a.yaml": {Data: []byte(c.text)}, "README.md": {Data: []byte("no mapping")}}, "maps")
		if err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
	two := []byte("mapping: a\nhas: [m]\nmetrics: payload\nexamples: [{payload: {}, rejected: x}]")
	_, err := device.ReadMappings(fstest.MapFS{"a.yaml": {Data: two}, "b.yml": {Data: two}}, "maps")
	if want := "maps/b.yml:1: mapping a: maps/a.yaml has this name already"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestCheckMappings(t *testing.T) {
	findings := device.CheckMappings(dictionary(t), written(t, `device: payload.id
metrics: |
  {
    "co2": payload.m,
    "fixed": payload.fixed
  }
examples:
  - {payload: {"id": "d", "m": 661, "fixed": 1.0}, readings: [
      {device: d, time: 2026-01-01T00:00:00Z, metric: co2, value: 660, unit: ppm},
      {device: d, time: 2026-01-01T00:00:00Z, metric: fixed, value: 1}]}
  - {payload: {"id": "d", "m": 661}, rejected: "no such key: fixed"}
  - {payload: {"id": "d", "m": 661}, rejected: "something else"}
  - {payload: {"id": "d", "m": 661, "fixed": 1}, rejected: "no such key"}
  - {payload: {"id": "d"}, rejected: "no such key"}
  - {payload: {"id": "d", "m": 1, "deviceInfo": {"devEui": "x"}}, rejected: "no such key"}
`, `has: [z]
metrics: |
  {
    "a": payload.m +,
  }
when: 1 + 2
time: nothing
`))
	var got []string
	for _, f := range findings {
		got = append(got, f.Error())
	}
	want := []string{
		`maps/m0.yaml:9: mapping m0: the example does not give {device: d, time: 2026-01-01T00:00:00Z, metric: co2, value: 660, unit: "ppm"}`,
		`maps/m0.yaml:8: mapping m0: the example gives besides {device: d, time: 2026-01-01T00:00:00Z, metric: co2, value: 661, unit: "ppm"}`,
		`maps/m0.yaml:12: mapping m0: the example is rejected by "m0": metrics (maps/m0.yaml:5): no such key: fixed, not by the mapping for "something else"`,
		`maps/m0.yaml:13: mapping m0: the example gives 2 readings and is not rejected for "no such key"`,
		`maps/m0.yaml:14: mapping m0: the example is rejected by "json": no device: the payload has to name it (deviceId, device_id, devEui, …), or its transport, not by the mapping for "no such key"`,
		`maps/m0.yaml:15: mapping m0: the example is rejected by "": it may be chirpstack-v4 or m0: say which as its format, not by the mapping for "no such key"`,
		`maps/m1.yaml:6: mapping m1: when: gives int: it has to be bool`,
		`maps/m1.yaml:7: mapping m1: time: undeclared reference to 'nothing' (in container '')`,
		`maps/m1.yaml:4: mapping m1: metrics: Syntax error: mismatched input ','`,
	}
	for i := range got { // of the last one the parser lists all that it would take
		got[i], _, _ = strings.Cut(got[i], " expecting {")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzMapping looks for payloads that the mappings of the product do not
// stand, and what is made of them.
func FuzzMapping(f *testing.F) {
	all := append(mappings(f), written(f,
		"has: [a]\nwhen: payload.a != 1.0\neach: payload.b\ndevice: it.d\ntime: it.t\nmetrics: it",
		"has: [c]\ndevice: payload.c\nattributes: payload\nmetrics: |\n  payload.m.map(k, {'metric': string(k), 'value': payload.m[k]})",
		"has: [e]\nmetrics: |\n  {'x': payload.e + payload.e, 'y': payload.e / 3, 'z': base64.decode(string(payload.e)).number(int(payload.i), string(payload.k)), 'w': [payload.e, payload] == [payload, payload.e]}",
	)...)
	formats := []string{"", "aws-iot-1-click", "netatmo", "m0", "m1", "m2"}
	for _, seed := range []string{
		`{"a":2,"b":[{"d":1,"t":1665055380.25,"x":{"y":[1,true,"s",null]}},{"d":"e","t":"2022-10-06"}]}`,
		`{"c":"d","m":{"x":1e999,"y":9007199254740993,"":{"":1}},"o":[1,{"p":null}]}`,
		`{"e":"AP8=","i":0,"k":"u16be"}`, `{"e":3,"i":-1,"k":"s24le"}`, `[{"e":[1]},{"e":[2]}]`,
		`{"deviceEvent":{"buttonClicked":{"clickType":"SINGLE","reportedTime":"2018-05-04T23:26:33.747Z"}},"deviceInfo":{"deviceId":"G","remainingLife":5.0}}`,
		`{"body":{"devices":[{"_id":"70:ee","type":"NAMain","dashboard_data":{"time_utc":1555677739,"CO2":967},"modules":[{"_id":"02:00","type":"NAModule1","dashboard_data":{"time_utc":1,"Humidity":4}}]}]},"time_server":1}`,
	} {
		for i := range formats {
			f.Add([]byte(seed), uint8(i))
		}
	}
	d := dictionary(f)
	old := device.NewParser(d, all...)
	f.Fuzz(func(t *testing.T, payload []byte, of uint8) {
		m := message(string(payload))
		m.DeviceID, m.Format = "d", formats[int(of)%len(formats)]
		fuzz(t, d, old, m, all...)
	})
}

// BenchmarkMapping is what BenchmarkRead is for the readers of the table.
func BenchmarkMapping(b *testing.B) {
	m := message(`{"body":{"devices":[{"_id":"70:ee:50:22:a3:00","type":"NAMain","firmware":137,"wifi_status":55,"data_type":["Temperature","CO2","Humidity","Noise","Pressure"],"dashboard_data":{"time_utc":1555677739,"Temperature":23.7,"CO2":967,"Humidity":41,"Noise":42,"Pressure":1017.4,"AbsolutePressure":997.6},"modules":[{"_id":"02:00:00:02:47:00","type":"NAModule1","firmware":19,"rf_status":31,"battery_vp":5148,"battery_percent":58,"dashboard_data":{"time_utc":1555677734,"Temperature":9.2,"Humidity":74}}]}]},"status":"ok","time_server":1555677748}`)
	p := device.NewParser(dictionary(b), mappings(b)...)
	b.SetBytes(int64(len(m.Payload)))
	b.ReportAllocs()
	var readings []mesh.Reading
	for b.Loop() {
		var err error
		if readings, _, err = p.Parse(readings[:0], m); err != nil {
			b.Fatal(err)
		}
	}
	if len(readings) != 12 {
		b.Fatalf("%d readings, want 12", len(readings))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(readings)), "ns/reading")
}
