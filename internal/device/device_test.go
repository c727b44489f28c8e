package device_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

// dictionary is the one that telemetry-flatten has.
func dictionary(t testing.TB) *device.Dictionary {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dataset.Root(t), "products/iot-telemetry/metrics.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := device.ReadDictionary(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const receivedAt = mesh.Instant(1791285800_000000) // 2026-10-06T11:23:20Z

func message(payload string) *mesh.Message {
	return &mesh.Message{ID: "m1", Source: "/test", ReceivedAt: receivedAt, Payload: []byte(payload)}
}

// show gives a reading as a line: its metric, value, unit, and what differs
// from a reading of device d at the second 60.
func show(r mesh.Reading) string {
	s := r.Metric + "="
	switch r.Kind {
	case mesh.Number:
		s += fmt.Sprint(r.Value)
		if r.ValueString != "" {
			s += "~" + r.ValueString
		}
	case mesh.Boolean:
		s += map[float64]string{0: "false", 1: "true"}[r.Value]
	case mesh.Text:
		s += fmt.Sprintf("%q", r.ValueString)
	}
	if r.Unit != "" {
		s += " " + r.Unit
	}
	if r.DeviceID != "d" {
		s += " of " + r.DeviceID
	}
	if r.ObservedAt != 60e6 {
		s += " at " + r.ObservedAt.String()
	}
	if r.Quality != "" {
		s += " " + r.Quality
	}
	if r.Attributes != "" {
		s += " with " + r.Attributes
	}
	return s
}

func lines(readings []mesh.Reading) string {
	var b strings.Builder
	for _, r := range readings {
		fmt.Fprintln(&b, show(r))
	}
	return b.String()
}

func TestParse(t *testing.T) {
	deep := func(n int) string {
		return `{"deviceId":"d","ts":60,` + strings.Repeat(`"a":{`, n-1) + `"b":1` + strings.Repeat("}", n)
	}
	uplink := func(rest string) string {
		return `{"end_device_ids":{"device_id":"desk-1","dev_eui":"70b3d5e75e00aa01","application_ids":{"application_id":"rooms"}},
			"received_at":"2024-05-01T10:00:00.300Z",` + rest + `}`
	}
	up := func(rest string) string {
		return `{"deduplicationId":"x","time":"2024-05-01T12:00:00.5+02:00","deviceInfo":{"deviceName":"Desk","devEui":"70b3d5e75e00aa01"}` + rest + `}`
	}
	told := func(time string) func(*mesh.Message) {
		return func(m *mesh.Message) { m.Attributes = map[string]string{"time": time} }
	}
	parser := device.NewParser(dictionary(t))
	for _, c := range []struct {
		name     string
		payload  string
		with     func(*mesh.Message)
		readings string // as show gives them; empty: none
		skipped  int
		cause    string // part of it
	}{
		// Forms of JSON.
		{name: "plain form", payload: `{"deviceId":"d","timestamp":"1970-01-01T00:01:00Z","metrics":{"co2":661.0,"occupied":true,"mode":"eco"}}`,
			readings: "co2=661 ppm\noccupied=true\nmode=\"eco\"\n"},
		{name: "plain form in snake case", payload: `{"metrics":{"co2":661},"time":60,"device_id":"d"}`, readings: "co2=661 ppm\n"},
		{name: "plain form, other members are attributes", payload: `{"deviceId":"d","ts":60,"fw":"1.\"2","site":{"room": [1,2]},"x":null,"metrics":{"co2":661}}`,
			readings: `co2=661 ppm with {"fw":"1.\"2","site":{"room": [1,2]}}` + "\n"},
		{name: "plain form, attributes have an end", payload: `{"deviceId":"d","ts":60,"a":1,"b":"` + strings.Repeat("b", 1024) + `","c":2,"metrics":{"co2":661}}`,
			readings: `co2=661 ppm with {"a":1,"c":2}` + "\n", skipped: 1},
		{name: "metrics that is no object is a metric", payload: `{"deviceId":"d","ts":60,"metrics":3}`, readings: "metrics=3\n"},
		{name: "flat", payload: `{"deviceId":"d","ts":60,"co2":661,"fw":"1.2"}`, readings: "co2=661 ppm with {\"fw\":\"1.2\"}\n"},
		{name: "nested", payload: `{"deviceId":"d","ts":60,"SCD30":{"CO2":800,"cal":{"ok":true}},"p":[1,[2,{"q":3}]]}`,
			readings: "SCD30_CO2=800\nSCD30_cal_ok=true\np_0=1\np_1_0=2\np_1_1_q=3\n"},
		{name: "white space and escapes", payload: "\n{ \"device\\u0049d\" : \"d\" ,\t\"ts\":60, \"c\\u006f2\" : 1e2 , \"s\":\"\\ud83d\\ude00\\n\" }\r\n",
			readings: "co2=100 ppm suspect:out_of_range\ns=\"😀\\n\"\n"},
		{name: "array of messages", payload: `[{"deviceId":"d","ts":60,"a":1},{"deviceId":"e","ts":60,"a":2}]`, readings: "a=1\na=2 of e\n"},
		{name: "array with a bad message", payload: `[{"deviceId":"d","ts":60,"a":1},{"a":2}]`, cause: "element 1: no device"},
		{name: "array of no messages", payload: `[{"deviceId":"d","ts":60,"a":1},7]`, cause: "element 1 is a number, not an object"},

		// No value.
		{name: "empty array", payload: `[]`, cause: "no value: "},
		{name: "a device alone", payload: `{"device_id":"only"}`, cause: "no value: "},
		{name: "no metrics", payload: `{"deviceId":"d","ts":60,"fw":1,"metrics":{}}`, cause: "no value: "},
		{name: "empty containers", payload: `{"deviceId":"d","ts":60,"a":{},"b":[],"c":[{}]}`, cause: "0 skipped"},
		{name: "nothing but null and beyond float64", payload: `{"deviceId":"d","ts":60,"a":null,"b":{"c":[null,1e999]}}`, cause: "3 skipped"},
		{name: "array of messages without a value", payload: `[{"deviceId":"d"},{"deviceId":"d","a":null}]`, cause: "2 skipped"},
		{name: "array with messages without a value", payload: `[{"deviceId":"d"},{"deviceId":"d","ts":60,"a":1},{"deviceId":"d","a":null}]`, readings: "a=1\n", skipped: 2},
		{name: "array of joins", payload: `[` + up("") + `,` + uplink(`"join_accept":{}`) + `]`},
		{name: "array of a join and a message", payload: `[` + up("") + `,{"deviceId":"d","ts":60,"a":1}]`, readings: "a=1\n"},
		{name: "array of a join and a message without a value", payload: `[` + up("") + `,{"deviceId":"d","ts":60}]`, cause: "no value: "},
		{name: "TTN uplink decoded to nothing", payload: uplink(`"uplink_message":{"frm_payload":"AQ==","decoded_payload":{"a":null}}`), cause: "1 skipped"},
		{name: "ChirpStack uplink decoded to nothing", payload: up(`,"data":"AQ==","object":{}`), cause: "no value: "},

		// Values.
		{name: "null and beyond float64 are skipped", payload: `{"deviceId":"d","ts":60,"a":null,"b":1e999,"c":-1e999,"d":[null,2],"e":{"f":null}}`,
			readings: "d_1=2\n", skipped: 5},
		{name: "numbers keep their value", payload: `{"deviceId":"d","ts":60,"a":9007199254740993,"b":9007199254740992,"c":0.1,"d":0.1234567890123456789,"e":-0.0,"f":1E-400}`,
			readings: "a=9.007199254740992e+15~9007199254740993\nb=9.007199254740992e+15\nc=0.1\nd=0.12345678901234568~0.1234567890123456789\ne=-0\nf=0~1E-400\n"},
		{name: "a numeric string is a text", payload: `{"deviceId":"d","ts":60,"temperature":"21.5","n":""}`, readings: "temperature=\"21.5\"\nn=\"\"\n"},

		// Names.
		{name: "spellings", payload: `{"deviceId":"d","ts":60,"co2__ppm":1,"TempC_SHT":2,"PM2.5":3,"PM1_0":4,"PM10":5,"rel_humidity__0":0.526,"battery_mv":2987}`,
			readings: "co2=1 ppm suspect:out_of_range\ntemperature=2 Cel\npm2_5=3 ug/m3\npm1=4 ug/m3\npm10=5 ug/m3\nrelative_humidity_fraction=0.526 1\ndevice_battery_voltage=2.987 V\n"},
		{name: "Fahrenheit", payload: `{"deviceId":"d","ts":60,"temp_f":212}`, readings: "temperature=100 Cel\n"},
		{name: "a converted number has no literal", payload: `{"deviceId":"d","ts":60,"temp_f":-40.000000000000000000001}`, readings: "temperature=-40 Cel\n"},
		{name: "unknown names pass as they are", payload: `{"deviceId":"d","ts":60,"Foo Bar-3°":1}`, readings: "Foo Bar-3°=1\n"},
		{name: "beyond belief in the unit", payload: `{"deviceId":"d","ts":60,"AirPressure":100729.105}`, readings: "AirPressure=100729.105\n"},
		{name: "beyond float64 in the metric's unit", payload: `{"deviceId":"d","ts":60,"tvoc_ppm":1e308}`, readings: "tvoc_ppm=1e+308\n"},
		{name: "the second name of a metric passes", payload: `{"deviceId":"d","ts":60,"CO2":1,"co2_ppm":2,"carbon_dioxide":3}`,
			readings: "co2=1 ppm suspect:out_of_range\nco2_ppm=2\ncarbon_dioxide=3\n"},
		{name: "the metric's own name goes first", payload: `{"deviceId":"d","ts":60,"temp_f":50,"temperature":11,"temp":12}`,
			readings: "temp_f=50\ntemperature=11 Cel\ntemp=12\n"},
		{name: "the metric's own name goes first, as a text, too", payload: `{"deviceId":"d","ts":60,"temp":12,"temperature":"warm"}`,
			readings: "temp=12\ntemperature=\"warm\"\n"},
		{name: "a text takes no metric from a number", payload: `{"deviceId":"d","ts":60,"temp":"warm","TempC":12}`, readings: "temp=\"warm\"\ntemperature=12 Cel\n"},
		{name: "booleans of metrics without a unit", payload: `{"deviceId":"d","ts":60,"window_open__bool":true,"temp":true}`,
			readings: "window_open=true\ntemp=true\n"},
		{name: "empty names", payload: `{"deviceId":"d","ts":60,"":1,"a":{"":2},"b":{"c":3}}`, readings: "a=2\nb_c=3\n", skipped: 1},
		{name: "one way, two values", payload: `{"deviceId":"d","ts":60,"a_b":1,"a":{"b":2}}`, cause: `two values have the name "a_b"`},
		{name: "a name twice", payload: `{"deviceId":"d","ts":60,"a":{"b":1,"\u0062":2}}`, cause: `an object has the name "b" twice`},
		{name: "a long name", payload: `{"deviceId":"d","ts":60,"` + strings.Repeat("n", 257) + `":1}`, cause: "has 257 bytes, at most 256 are read"},

		// Devices.
		{name: "device of many names", payload: `{"serial":"x","DevEUI":"d","ts":60,"a":1}`, readings: "serial=\"x\"\na=1\n"},
		{name: "a number names a device", payload: `{"deviceId":571,"ts":60,"a":1}`, readings: "a=1 of 571\n"},
		{name: "device of the transport", payload: `{"ts":60,"a":1}`, with: func(m *mesh.Message) { m.DeviceID = "d" }, readings: "a=1\n"},
		{name: "device of the attributes", payload: `{"ts":60,"a":1}`, with: func(m *mesh.Message) { m.Attributes = map[string]string{"deviceId": "d"} }, readings: "a=1\n"},
		{name: "the payload's device goes first", payload: `{"device_id":"d","ts":60,"a":1}`, with: func(m *mesh.Message) { m.DeviceID = "gateway" }, readings: "a=1\n"},
		{name: "an empty device is none", payload: `{"device_id":"","ts":60,"a":1}`, with: func(m *mesh.Message) { m.DeviceID = "d" }, readings: "a=1\n", skipped: 1},
		{name: "a model is no device", payload: `{"device":"R311A","id":7,"ts":60,"a":1}`, cause: "no device"},
		{name: "no device", payload: `{"deviceId":null,"a":1}`, cause: "no device: the payload has to name it (deviceId, device_id, devEui, …), or its transport"},
		{name: "a long device", payload: `{"deviceId":"` + strings.Repeat("d", 257) + `","a":1}`, cause: "has 257 bytes, at most 256 are read"},

		// Times; TestTimes has their forms.
		{name: "no time", payload: `{"deviceId":"d","a":1}`, readings: "a=1 at 2026-10-06T11:23:20Z no_time\n"},
		{name: "null time", payload: `{"deviceId":"d","time":null,"timestamp":60,"a":1}`, readings: "a=1\n", skipped: 1},
		{name: "empty time", payload: `{"deviceId":"d","time":"","a":1}`, readings: "a=1 at 2026-10-06T11:23:20Z no_time\n"},
		{name: "time never set", payload: `{"deviceId":"d","time":"0001-01-01T00:00:00Z","a":1}`, readings: "a=1 at 2026-10-06T11:23:20Z no_time\n"},
		{name: "two times", payload: `{"deviceId":"d","time":"10:49","timestamp":60,"a":1}`, readings: "time=\"10:49\"\na=1\n"},
		{name: "no time that can be read", payload: `{"deviceId":"d","time":"yesterday","a":1}`, cause: `time "time": "yesterday" is neither RFC 3339 nor Unix`},
		{name: "time of the transport", payload: `{"deviceId":"d","a":1}`, with: told("1970-01-01T00:01:00Z"), readings: "a=1\n"},
		{name: "time of the transport, plain form", payload: `{"deviceId":"d","metrics":{"a":1}}`, with: told("1970-01-01T01:01:00+01:00"), readings: "a=1\n"},
		{name: "time of the transport, TTN", payload: `{"end_device_ids":{"device_id":"d"},"uplink_message":{"decoded_payload":{"a":1}}}`, with: told("1970-01-01T00:01:00Z"), readings: "a=1\n"},
		{name: "time of the transport, ChirpStack", payload: `{"deviceInfo":{"devEui":"d"},"object":{"a":1}}`, with: told("1970-01-01T00:01:00Z"), readings: "a=1\n"},
		{name: "the payload's time goes first", payload: `{"deviceId":"d","ts":60,"a":1}`, with: told("2024-05-01T10:00:00Z"), readings: "a=1\n"},
		{name: "time of the transport never set", payload: `{"deviceId":"d","a":1}`, with: told("0001-01-01T00:00:00Z"), readings: "a=1 at 2026-10-06T11:23:20Z no_time\n"},
		{name: "no time of the transport that can be read", payload: `{"deviceId":"d","a":1}`, with: told("noon"), cause: `attribute time: "noon" is neither`},
		{name: "a time that is an object", payload: `{"deviceId":"d","timestamp":{"$date":60},"a":1}`, cause: `time "timestamp" is an object`},

		// The Things Stack.
		{name: "TTN uplink", payload: uplink(`"uplink_message":{"f_port":2,"f_cnt":17,"frm_payload":"AQ==","decoded_payload":{"temperature":21.5,"occupied":false,"device_id":3,"time":4},
				"settings":{"time":"2019-01-01T00:00:00Z"},"received_at":"2024-05-01T10:00:00.100200300Z"}`),
			readings: strings.ReplaceAll("temperature=21.5 Cel$occupied=false$device_id=3$time=4$device_f_cnt=17 1$", "$", ` of 70B3D5E75E00AA01 at 2024-05-01T10:00:00.1002Z with {"f_port":2}`+"\n")},
		{name: "TTN uplink from storage", payload: `{"result":{"end_device_ids":{"device_id":"desk-1"},"received_at":"2024-05-01T10:00:00Z","uplink_message":{"decoded_payload":{"a":[1]},"received_at":"0001-01-01T00:00:00Z"}}}`,
			readings: "a_0=1 of desk-1 at 2024-05-01T10:00:00Z\n"},
		{name: "TTN uplink without time", payload: `{"end_device_ids":{"device_id":"desk-1"},"uplink_message":{"decoded_payload":{"a":1}}}`,
			readings: "a=1 of desk-1 at 2026-10-06T11:23:20Z no_time\n"},
		{name: "TTN uplink nobody decoded", payload: uplink(`"uplink_message":{"frm_payload":"AQ=="}`), cause: "no payload formatter"},
		{name: "TTN uplink without bytes", payload: uplink(`"uplink_message":{"f_cnt":3}`)},
		{name: "TTN join", payload: uplink(`"join_accept":{"session_key_id":"x"}`)},
		{name: "TTN decoded to a number", payload: uplink(`"uplink_message":{"decoded_payload":7}`), cause: `"decoded_payload" is a number, not an object`},
		{name: "TTN by format, not by shape", payload: `{"deviceId":"d","a":1}`, with: func(m *mesh.Message) { m.Format = "ttn-v3" }, cause: "no message of The Things Stack"},

		// ChirpStack.
		{name: "ChirpStack uplink", payload: up(`,"fCnt":10,"fPort":1,"data":"AQ==","object":{"co2":500,"nested":{"x":1}}`),
			readings: strings.ReplaceAll("co2=500 ppm$nested_x=1$device_f_cnt=10 1$", "$", ` of 70B3D5E75E00AA01 at 2024-05-01T10:00:00.5Z with {"f_port":1}`+"\n")},
		{name: "ChirpStack uplink nobody decoded", payload: up(`,"data":"AQ==","object":null`), cause: "no codec"},
		{name: "ChirpStack join", payload: up(`,"devAddr":"00189440"`)},
		{name: "ChirpStack status", payload: up(`,"margin":10,"batteryLevel":88.3`),
			readings: strings.ReplaceAll("device_margin=10 dB$device_battery_level=88.3 %$", "$", " of 70B3D5E75E00AA01 at 2024-05-01T10:00:00.5Z\n")},
		{name: "ChirpStack integration", payload: up(`,"integrationName":"x","object":{"a":1}`)},
		{name: "ChirpStack by attributes", payload: `{"time":"1970-01-01T00:01:00Z","object":{"a":1}}`,
			with: func(m *mesh.Message) { m.Attributes = map[string]string{"event": "up", "devEui": "d"} }, readings: "a=1\n"},
		{name: "ChirpStack join by attributes", payload: `{"object":{"a":1}}`, with: func(m *mesh.Message) { m.Attributes = map[string]string{"event": "join", "devEui": "d"} }},

		// What is said about the payload.
		{name: "a format nobody reads", payload: `{"deviceId":"d","ts":60,"a":1}`, with: func(m *mesh.Message) { m.Format = "morse" }, cause: `no reader for the format "morse"`},
		{name: "a content type nobody reads", payload: `{}`, with: func(m *mesh.Message) { m.ContentType = "application/x-morse" }, cause: `no reader for the content type "application/x-morse"`},
		{name: "JSON by another name", payload: `{"deviceId":"d","ts":60,"a":1}`, with: func(m *mesh.Message) { m.ContentType = "Application/Vnd.X+JSON; charset=utf-8" }, readings: "a=1\n"},
		{name: "a long source", payload: `{"deviceId":"d","ts":60,"a":1}`, with: func(m *mesh.Message) { m.Source = strings.Repeat("s", 1025) }, cause: "the message's source has 1025 bytes, at most 1024 are read"},
		{name: "a long id", payload: `{"deviceId":"d","ts":60,"a":1}`, with: func(m *mesh.Message) { m.ID = strings.Repeat("i", 100_000) }, cause: "the message's id has 100000 bytes, at most 1024 are read"},
		{name: "source and id as long as can be", payload: `{"deviceId":"d","ts":60,"a":1}`, with: func(m *mesh.Message) { m.Source, m.ID = strings.Repeat("s", 1024), strings.Repeat("i", 1024) }, readings: "a=1\n"},
		{name: "no receive time", payload: `{"deviceId":"d","ts":60,"a":1}`, with: func(m *mesh.Message) { m.ReceivedAt = 0 }, cause: "no received_at"},

		// What is no JSON, or too much of it.
		{name: "empty", payload: " ", cause: "not JSON: the payload is empty"},
		{name: "cut off", payload: `{"deviceId":"d"`, cause: "not JSON: "},
		{name: "NaN", payload: `{"deviceId":"d","a":NaN}`, cause: "not JSON: "},
		{name: "two values", payload: `{"deviceId":"d","a":1}{}`, cause: "not JSON: more than one value"},
		{name: "no UTF-8", payload: "{\"deviceId\":\"d\",\"a\":\"\xff\"}", cause: "not JSON: "},
		{name: "half a surrogate pair", payload: `{"deviceId":"d","a":"\ud83d"}`, cause: "not JSON: "},
		{name: "a string", payload: `"hello"`, cause: `the payload is a string, not an object: "hello"`},
		{name: "a long string", payload: `"` + strings.Repeat("s", 300) + `"`, cause: `not an object: "` + strings.Repeat("s", 200) + `"…`},
		{name: "a number", payload: `7`, cause: "the payload is a number, not an object"},
		{name: "array with a string", payload: `["x"]`, cause: `element 0 is a string, not an object: "x"`},
		{name: "as deep as can be", payload: deep(32), readings: strings.Repeat("a_", 31) + "b=1\n"},
		{name: "too deep", payload: deep(33), cause: "nested deeper than 32 levels"},
		{name: "as many as can be", payload: `{"deviceId":"d","ts":60,"a":{"b":[` + strings.Repeat("null,", 5000) + `1]}}`, readings: "a_b_5000=1\n", skipped: 5000},
		{name: "too many", payload: `{"deviceId":"d","ts":60,"a":[0` + strings.Repeat(",1", 10_000) + `]}`, cause: "more than 10000 readings"},
		{name: "too many values", payload: `{"deviceId":"d","ts":60,"a":[1` + strings.Repeat(",null", 1<<18) + `]}`, cause: "more than 262144 values"},
		{name: "no time is 0", payload: `{"deviceId":"d","ts":0,"a":1}`, readings: "a=1 at 2026-10-06T11:23:20Z no_time\n"},
		{name: "a DevEUI has capitals", payload: `{"devEui":"70b3d5e75e00aa01","ts":60,"a":1}`, readings: "a=1 of 70B3D5E75E00AA01\n"},
		{name: "another id stays as it is", payload: `{"device_id":"70b3d5e75e00aa01","ts":60,"a":1}`, readings: "a=1 of 70b3d5e75e00aa01\n"},
		{name: "a metric's name without its unit", payload: `{"deviceId":"d","ts":60,"pressure":101325,"co2":{"value":4,"unit":"V"}}`, readings: "pressure_raw=101325\nco2_raw=4 V suspect:unit_mismatch\n"},
		{name: "a unit beside what else is said", payload: `{"deviceId":"d","ts":60,"temperature":{"value":212,"units":"°F","quality":"good","max":{"a":1}}}`,
			readings: "temperature=100 Cel\ntemperature_quality=\"good\"\ntemperature_max_a=1\n"},
		{name: "a battery of no unit", payload: `{"deviceId":"d","ts":60,"battery":97,"firmware":"1.2"}`, readings: `device_battery=97 with {"firmware":"1.2"}` + "\n"},
		{name: "a text as long as can be", payload: `{"deviceId":"d","ts":60,"a":"` + strings.Repeat("x", 16<<10) + `"}`, readings: `a="` + strings.Repeat("x", 16<<10) + "\"\n"},
		{name: "too long a text", payload: `{"deviceId":"d","ts":60,"a":"` + strings.Repeat("x", 16<<10+1) + `"}`, cause: `the text "a" has 16385 bytes`},
		{name: "too early", payload: `{"deviceId":"d","ts":"1969-12-31T23:59:59Z","a":1}`, cause: "not in the years 1970 to 2261"},
		{name: "a time in a zone", payload: `{"deviceId":"d","ts":"1970-01-01T01:01:00","a":1}`, readings: "a=1\n",
			with: func(m *mesh.Message) { m.Attributes = map[string]string{"timezone": "Europe/Amsterdam"} }},
		{name: "no time zone", payload: `{"deviceId":"d","ts":60,"a":1}`, cause: "attribute timezone",
			with: func(m *mesh.Message) { m.Attributes = map[string]string{"timezone": "Nowhere"} }},
		{name: "a topic is a device", payload: `{"ts":60,"a":1}`, readings: "a=1 of home/desk\n",
			with: func(m *mesh.Message) { m.Attributes = map[string]string{"topic": "home/desk"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := message(c.payload)
			if c.with != nil {
				c.with(m)
			}
			before := []mesh.Reading{{Metric: "earlier"}}
			readings, skipped, err := parser.Parse(before, m)
			if c.cause != "" {
				if err == nil || !strings.Contains(err.Error(), c.cause) {
					t.Fatalf("cause %v, want one with %q", err, c.cause)
				}
				if len(err.Error()) > 400 {
					t.Errorf("the cause has %d bytes: nobody reads that", len(err.Error()))
				}
				if !cmp.Equal(readings, before) {
					t.Errorf("a rejected message left %d readings", len(readings)-1)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.readings, lines(readings[1:])); diff != "" {
				t.Errorf("readings (-want +got):\n%s", diff)
			}
			if skipped != c.skipped {
				t.Errorf("skipped %d values, want %d", skipped, c.skipped)
			}
			for _, r := range readings[1:] {
				if r.ReadingID != mesh.ReadingID(r.DeviceID, r.Metric, r.ObservedAt) {
					t.Errorf("%s has the id %s", r.Metric, r.ReadingID)
				}
				if r.EventID != m.ID || r.EventSource != m.Source || r.ReceivedAt != m.ReceivedAt {
					t.Errorf("%s comes from %s %s at %s", r.Metric, r.EventSource, r.EventID, r.ReceivedAt)
				}
			}
		})
	}
}

// What a Parser remembers of earlier messages must not show in later ones.
func TestParserForgetsMessages(t *testing.T) {
	payloads := []string{
		`{"deviceId":"d","ts":60,"temp":1,"CO2":2}`,
		`{"deviceId":"d","ts":60,"a_b":1,"a":{"b":2}}`,
		`{"deviceId":"d","ts":60,"temperature":3,"temp":4,"co2":5}`,
		`{"deviceId":"d","ts":60,"temp":6,"temp_c":7,"metrics":8}`,
		`{"deviceId":"d","ts":60,"temp":`,
		`{"end_device_ids":{"device_id":"e"},"uplink_message":{"decoded_payload":{"temp":9},"f_cnt":1}}`,
		`{"deviceId":"d","a":1}`,
		`{"a":1}`,
	}
	for i := range 6000 { // more names than it remembers
		payloads = append(payloads, fmt.Sprintf(`{"deviceId":"d%d","ts":60,"m%d":"s%d","temp":1}`, i, i, i))
	}
	random := rand.New(rand.NewPCG(1, 2))
	d := dictionary(t)
	old := device.NewParser(d)
	for range 20_000 {
		m := message(payloads[random.IntN(len(payloads))])
		if random.IntN(2) == 0 {
			m = message(payloads[random.IntN(8)])
		}
		got, gotSkipped, gotErr := old.Parse(nil, m)
		want, wantSkipped, wantErr := device.NewParser(d).Parse(nil, m)
		if diff := cmp.Diff(want, got); diff != "" || gotSkipped != wantSkipped || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
			t.Fatalf("%s: an old parser gives %d %v, a new one %d %v (-new +old):\n%s", m.Payload, gotSkipped, gotErr, wantSkipped, wantErr, diff)
		}
	}
}
