package device_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

func FuzzSparkplug(f *testing.F) { fuzzFormat(f, "sparkplug-b") }

// spb is a metric as a node sends it.
type spb struct {
	name, unit string
	alias      uint64 // 0: none
	datatype   uint64 // 0: not told
	value      uint64
}

// numbered is a payload with its sequence number.
func numbered(payload []byte, seq uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(payload, 3, protowire.VarintType), seq)
}

func sparkplugPayload(metrics ...spb) []byte {
	varint := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	bytes := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	b := varint(nil, 1, 1714557600000)
	for _, m := range metrics {
		var p []byte
		if m.name != "" {
			p = bytes(p, 1, []byte(m.name))
		}
		if m.alias != 0 {
			p = varint(p, 2, m.alias)
		}
		if m.datatype != 0 {
			p = varint(p, 4, m.datatype)
		}
		if m.unit != "" {
			p = bytes(p, 9, bytes(bytes(nil, 1, []byte("engUnit")), 2, bytes(nil, 8, []byte(m.unit))))
		}
		b = bytes(b, 2, varint(p, 10, m.value))
	}
	return b
}

func sparkplugMessage(topic string, at int, metrics ...spb) *mesh.Message {
	m := message(string(sparkplugPayload(metrics...)))
	m.Attributes = map[string]string{"topic": "spBv1.0/" + topic}
	m.ReceivedAt += mesh.Instant(at) * 1e6
	return m
}

// A session, message by message: what is read after Births has seen it, and
// which nodes are asked for their births.
func TestBirths(t *testing.T) {
	const request = "spBv1.0/g/NCMD/n"
	steps := []struct {
		topic   string
		at      int // seconds
		metrics []spb
		rebirth string
		want    string // readings, or a part of the cause
	}{
		{"g/NDATA/n", 0, []spb{{alias: 1, value: 5}}, request, "alias 1: no birth certificate seen"},
		{"g/NDATA/n", 59, []spb{{alias: 1, value: 5}}, "", "alias 1: no birth certificate seen"},
		{"g/NDATA/n", 60, []spb{{alias: 1, value: 5}}, request, "alias 1: no birth certificate seen"},
		{"g/NBIRTH/n", 61, []spb{{name: "bdSeq", datatype: 8, value: 4}, {name: "CO2", unit: "ppm", alias: 1, datatype: 7, value: 700}, {name: "Level", alias: 2, datatype: 1, value: 1}}, "", "co2=700ppm Level=1"},
		{"g/NDATA/n", 62, []spb{{alias: 2, value: 0xfb}, {alias: 1, value: 812}}, "", "Level=-5 co2=812ppm"},
		{"g/DBIRTH/n/d", 63, []spb{{name: "Temperature", unit: "°F", alias: 3, datatype: 7, value: 212}, {name: "Level", datatype: 2, value: 0}}, "", "temperature=100Cel Level=0"},
		{"g/DDATA/n/d", 64, []spb{{alias: 3, value: 32}, {name: "Level", value: 0xfffe}}, "", "temperature=0Cel Level=-2"},
		// Another node has other aliases.
		{"g/NDATA/m", 64, []spb{{alias: 1, value: 5}}, "spBv1.0/g/NCMD/m", "alias 1: no birth certificate seen"},
		// The last will of an older session.
		{"g/NDEATH/n", 65, []spb{{name: "bdSeq", datatype: 8, value: 3}}, "", ""},
		{"g/NDATA/n", 66, []spb{{alias: 1, value: 813}}, "", "co2=813ppm"},
		// A device is born with other metrics.
		{"g/DBIRTH/n/d", 67, []spb{{name: "Room 1/CO2", alias: 4, datatype: 7, value: 1}, {name: "Room 2/CO2", alias: 5, datatype: 7, value: 2}}, "", "Room 1/CO2=1 Room 2/CO2=2"},
		{"g/DDATA/n/d", 68, []spb{{alias: 4, value: 10}}, "", "Room 1/CO2=10"}, // the other one is not in this message
		{"g/DDATA/n/d", 68, []spb{{name: "Room 1/CO2", datatype: 7, value: 11}}, "", "Room 1/CO2=11"},
		{"g/DDATA/n/d", 130, []spb{{alias: 3, value: 10}}, request, "alias 3: no birth certificate seen"},
		{"g/DDEATH/n/d", 131, nil, "", ""},
		{"g/DDATA/n/d", 191, []spb{{alias: 4, value: 10}}, request, "alias 4: no birth certificate seen"},
		{"g/NDATA/n", 192, []spb{{alias: 1, value: 814}}, "", "co2=814ppm"},
		// An NBIRTH ends what was before it, a death too.
		{"g/NBIRTH/n", 193, []spb{{name: "bdSeq", datatype: 8, value: 5}, {name: "Humidity", alias: 1, datatype: 7, value: 40}}, "", "relative_humidity=40%"},
		{"g/NDATA/n", 194, []spb{{alias: 1, value: 41}}, "", "relative_humidity=41%"},
		{"g/NDATA/n", 252, []spb{{alias: 2, value: 41}}, request, "alias 2: no birth certificate seen"},
		{"g/NDEATH/n", 253, []spb{{name: "bdSeq", datatype: 8, value: 5}}, "", ""},
		{"g/NDATA/n", 400, []spb{{alias: 1, value: 41}}, request, "alias 1: no birth certificate seen"},
		// One alias for two metrics explains neither.
		{"g/NBIRTH/n", 401, []spb{{name: "a", alias: 1, datatype: 7, value: 1}, {name: "b", alias: 1, datatype: 7, value: 2}}, "", "a=1 b=2"},
		{"g/NDATA/n", 500, []spb{{alias: 1, value: 1}}, request, "alias 1: no birth certificate seen"},
		// No name is needed, but -5 as Int8 is 251 as well.
		{"g/NDATA/o", 501, []spb{{name: "x", value: 5}}, "", "x=5"},
		{"g/NDATA/o", 502, []spb{{name: "x", value: 251}}, "spBv1.0/g/NCMD/o", "251 may be a negative number"},
	}
	for _, name := range []string{"once", "each twice"} {
		births := device.NewBirths()
		p := device.NewParser(dictionary(t))
		for i, s := range steps {
			m := sparkplugMessage(s.topic, s.at, s.metrics...)
			if got := births.Take(m); got != s.rebirth {
				t.Errorf("%s, step %d: Take(%s) = %q, want %q", name, i, s.topic, got, s.rebirth)
			}
			if name == "each twice" {
				again := sparkplugMessage(s.topic, s.at, s.metrics...)
				if births.Take(again); again.Attributes["sparkplug_names"] != m.Attributes["sparkplug_names"] {
					t.Errorf("step %d: the second time %s, at first %s", i, again.Attributes, m.Attributes)
				}
			}
			readings, _, err := p.Parse(nil, m)
			if err != nil {
				if s.want == "" || !strings.Contains(err.Error(), s.want) {
					t.Errorf("%s, step %d: %v, want %s", name, i, err, s.want)
				}
				continue
			}
			var got []string
			for _, r := range readings {
				got = append(got, fmt.Sprintf("%s=%v%s", r.Metric, r.Value, r.Unit))
			}
			if diff := cmp.Diff(s.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("%s, step %d: %s (-want +got):\n%s", name, i, m.Attributes, diff)
			}
		}
	}
}

// numberedStep is a message, and what becomes of it.
type numberedStep struct {
	topic   string
	seq     int // -1: none
	metrics []spb
	rebirth bool
	want    string // readings
}

// takeAll takes messages that come one second after the other.
func takeAll(t *testing.T, births *device.Births, from int, steps []numberedStep) {
	t.Helper()
	p := device.NewParser(dictionary(t))
	for i, s := range steps {
		m := sparkplugMessage(s.topic, from+i, s.metrics...)
		if s.seq >= 0 {
			m.Payload = numbered(m.Payload, uint64(s.seq))
		}
		if got := births.Take(m); got != "" != s.rebirth {
			t.Errorf("step %d, %s: asked %q", i, s.topic, got)
		}
		readings, _, err := p.Parse(nil, m)
		got := ""
		for _, r := range readings {
			got = strings.TrimSpace(got + " " + fmt.Sprintf("%s=%v", r.Metric, r.Value))
		}
		if err != nil {
			got = "rejected"
		}
		if got != s.want {
			t.Errorf("step %d, %s: %s (%v), want %s", i, s.topic, got, err, s.want)
		}
	}
}

// Many nodes number the aliases of each device anew.
func TestBirthsKeepsAliasesPerDevice(t *testing.T) {
	alias := []spb{{alias: 1, value: 5}}
	takeAll(t, device.NewBirths(), 0, []numberedStep{
		{"g/NBIRTH/n", 0, []spb{{name: "level", alias: 1, datatype: 7, value: 1}}, false, "level=1"},
		{"g/DBIRTH/n/a", 1, []spb{{name: "temperature", alias: 1, datatype: 7, value: 1}}, false, "temperature=1"},
		{"g/DBIRTH/n/b", 2, []spb{{name: "co2", alias: 1, datatype: 7, value: 400}}, false, "co2=400"},
		{"g/DDATA/n/a", 3, alias, false, "temperature=5"},
		{"g/DDATA/n/b", 4, []spb{{alias: 1, value: 800}}, false, "co2=800"},
		{"g/NDATA/n", 5, alias, false, "level=5"},
		{"g/DDATA/n/c", 6, alias, true, "rejected"}, // never born
		{"g/DBIRTH/m/a", 0, []spb{{name: "temperature", alias: 1, datatype: 7, value: 1}}, false, "temperature=1"},
		{"g/DDATA/m/a", 1, alias, false, "temperature=5"},
		{"g/NDATA/m", 2, alias, true, "rejected"}, // its NBIRTH was not seen
	})
}

// A message that is missing may have been a birth. One that comes again is not
// missing anything.
func TestBirthsNoticesGaps(t *testing.T) {
	born, alias := []spb{{name: "a", alias: 1, datatype: 7, value: 1}}, []spb{{alias: 1, value: 5}}
	takeAll(t, device.NewBirths(), 0, []numberedStep{
		{"g/NBIRTH/n", 0, born, false, "a=1"},
		{"g/NDATA/n", 1, alias, false, "a=5"},
		{"g/NDATA/n", 1, alias, false, "a=5"}, // come again
		{"g/NDATA/n", 2, alias, false, "a=5"},
		{"g/NDATA/n", 4, alias, true, "rejected"},
		{"g/NDATA/n", 5, alias, false, "rejected"}, // asked a second ago
		{"g/NBIRTH/n", 0, born, false, "a=1"},
		{"g/DBIRTH/n/d", 1, born, false, "a=1"},
		{"g/NDATA/n", -1, alias, false, "a=5"}, // not numbered
		{"g/DDATA/n/d", 2, alias, false, "a=5"},
		{"g/NDATA/m", 9, alias, true, "rejected"}, // another node's
		{"g/DDATA/n/d", 3, alias, false, "a=5"},
		{"g/DDEATH/n/d", 4, nil, false, ""},
		{"g/NDATA/n", 5, alias, false, "a=5"},
	})
	births := device.NewBirths()
	takeAll(t, births, 0, []numberedStep{{"g/NBIRTH/n", 254, born, false, "a=1"}, {"g/NDATA/n", 255, alias, false, "a=5"}, {"g/NDATA/n", 0, alias, false, "a=5"}})
	// What comes again behind a later one cannot be told from a gap.
	takeAll(t, births, 10, []numberedStep{{"g/NDATA/n", 1, alias, false, "a=5"}, {"g/NDATA/n", 0, alias, true, "rejected"}})
	// A gap is noticed by whatever message, and by data that say their names.
	takeAll(t, births, 100, []numberedStep{
		{"g/NBIRTH/n", 0, born, false, "a=1"},
		{"g/DBIRTH/n/d", 3, born, true, "a=1"},
		{"g/DDATA/n/d", 4, alias, false, "a=5"}, // born behind the gap
		{"g/NBIRTH/n", 0, born, false, "a=1"},
	})
	takeAll(t, births, 200, []numberedStep{{"g/NDATA/n", 2, born, true, "a=1"}})
}

// While there is no connection, births are missed. A node that was asked is not
// asked again with each connection.
func TestBirthsForget(t *testing.T) {
	born, alias := []spb{{name: "a", alias: 1, datatype: 7, value: 1}}, []spb{{alias: 1, value: 5}}
	births := device.NewBirths()
	takeAll(t, births, 0, []numberedStep{{"g/NBIRTH/n", 0, born, false, "a=1"}, {"g/NDATA/n", 1, alias, false, "a=5"}})
	births.Forget()
	takeAll(t, births, 10, []numberedStep{{"g/NDATA/n", 2, alias, true, "rejected"}})
	births.Forget()
	takeAll(t, births, 20, []numberedStep{{"g/NDATA/n", 3, alias, false, "rejected"}})
	takeAll(t, births, 70, []numberedStep{{"g/NDATA/n", 4, alias, true, "rejected"}})
}

// Only who saw the births may name metrics.
func TestBirthsTakesNoNamesFromOthers(t *testing.T) {
	m := sparkplugMessage("g/NDATA/n", 0, spb{alias: 1, value: 1})
	m.Attributes["sparkplug_names"] = `{"1":["co2",7]}`
	device.NewBirths().Take(m)
	if got, ok := m.Attributes["sparkplug_names"]; ok {
		t.Errorf("attribute sparkplug_names is %s", got)
	}
	other := message(`{"a":1}`)
	if got := device.NewBirths().Take(other); got != "" || other.Attributes != nil {
		t.Errorf("of no Sparkplug message Take = %q, attributes %v", got, other.Attributes)
	}
}

// Names that are too long to be passed on reject the message, and say so.
func TestBirthsBoundsItsAttribute(t *testing.T) {
	var born, data []spb
	for i := range 200 {
		born = append(born, spb{name: fmt.Sprintf("%s/%d", strings.Repeat("x", 100), i), alias: uint64(i + 1), datatype: 7})
		data = append(data, spb{alias: uint64(i + 1), value: 1})
	}
	births := device.NewBirths()
	births.Take(sparkplugMessage("g/NBIRTH/n", 0, born...))
	p := device.NewParser(dictionary(t))
	for n, want := range map[int]string{100: "<nil>", 200: "alias 1: the names of the message's metrics have 2"} {
		m := sparkplugMessage("g/NDATA/n", 0, data[:n]...)
		if rebirth := births.Take(m); rebirth != "" {
			t.Errorf("%d metrics: a rebirth is asked for, which would not help", n)
		}
		if size := len(m.Attributes["sparkplug_names"]); size > 16<<10 {
			t.Errorf("%d metrics: the attribute has %d bytes", n, size)
		}
		if _, _, err := p.Parse(nil, m); !strings.HasPrefix(fmt.Sprint(err), want) {
			t.Errorf("%d metrics: %v, want %s", n, err, want)
		}
	}
}

// The payload as Eclipse Tahu writes it: timestamp 1, metrics 2 {name 1,
// timestamp 3, datatype 4: 11, boolean_value 14: true}.
func TestRebirthRequest(t *testing.T) {
	const want = "08" + "8082e39cf331" + "1221" + "0a14" + "4e6f646520436f6e74726f6c2f52656269727468" + "18" + "8082e39cf331" + "200b" + "7001"
	if got := hex.EncodeToString(device.RebirthRequest(mesh.Instant(1714557600000) * 1000)); got != want {
		t.Errorf("RebirthRequest = %s, want %s", got, want)
	}
}

// What a hostile payload costs is bounded.
func TestSparkplugLimits(t *testing.T) {
	many := make([]spb, 10_001)
	for i := range many {
		many[i] = spb{name: fmt.Sprint("m", i), datatype: 7}
	}
	p := device.NewParser(dictionary(t))
	for want, metrics := range map[string][]spb{
		"more than 10000 metrics":               many,
		"has 257 bytes, at most 256 are read":   {{name: strings.Repeat("x", 257), datatype: 7}},
		"two values have the name \"a\"":        {{name: "a", datatype: 7}, {name: "a", datatype: 7}},
		"the device \"g/dddddddddddddddddddddd": {{name: "a", datatype: 7}},
	} {
		topic := "g/NDATA/n"
		if strings.HasPrefix(want, "the device") {
			topic = "g/NDATA/" + strings.Repeat("d", 300)
		}
		readings, _, err := p.Parse(nil, sparkplugMessage(topic, 0, metrics...))
		if err == nil || !strings.Contains(err.Error(), want) || len(readings) > 0 {
			t.Errorf("%d readings, %v, want %s", len(readings), err, want)
		}
	}
	if readings, _, err := p.Parse(nil, sparkplugMessage("g/NDATA/n", 0, many[1:]...)); err != nil || len(readings) != 10_000 {
		t.Errorf("%d readings of 10000 metrics, %v", len(readings), err)
	}
}
