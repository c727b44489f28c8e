package device_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

func FuzzSenML(f *testing.F) { fuzzFormat(f, "senml") }

// record is a resolved record, as a reading has it: the value a float64, bool
// or string, the time in µs.
type record struct {
	name  string // of which separators do not count
	unit  string
	at    int64
	value any
}

// The readings of the packs of RFC 8428 are its resolved records, whichever
// form they are written in. Names are compared as device and metric put
// together, units as UCUM.
func TestSenMLResolves(t *testing.T) {
	dir := dataset.Path(t, "envelopes/senml")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	// An empty dictionary: every reading keeps the name and the unit of the pack.
	empty, err := device.ReadDictionary([]byte("metrics: []"))
	if err != nil {
		t.Fatal(err)
	}
	p := device.NewParser(empty)
	ucum := map[string]string{"Cel": "Cel", "V": "V", "A": "A", "%RH": "%", "/": "1"}
	packs, records := 0, 0
	for _, file := range files {
		read := func(name string) []byte {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		number, _, _ := strings.Cut(file.Name(), ".")
		var example struct {
			Resolved []struct {
				N, U string
				T    float64
				V    *float64
				VS   *string
				VB   *bool
				VD   *string
			}
		}
		if err := json.Unmarshal(read(number+".json"), &example); err != nil {
			t.Fatalf("%s: %v", file.Name(), err)
		}
		want := map[record]int{}
		for _, r := range example.Resolved {
			unit, known := ucum[r.U]
			if !known {
				t.Fatalf("%s: the test does not know the unit %q", file.Name(), r.U)
			}
			var value any
			switch {
			case r.V != nil:
				value = *r.V
			case r.VS != nil:
				value = *r.VS
			case r.VB != nil:
				value = *r.VB
			case r.VD != nil:
				value = *r.VD
			}
			want[record{bare(r.N), unit, int64(math.Round(r.T * 1e6)), value}]++
		}
		for _, m := range unwrap(t, "senml", file.Name(), read(file.Name())) {
			readings, skipped, err := p.Parse(nil, m)
			if err != nil || skipped > 0 {
				t.Errorf("%s: %d skipped, %v", file.Name(), skipped, err)
			}
			for _, r := range readings {
				name := r.DeviceID + r.Metric
				if r.Metric == "value" || r.Metric == "temperature" && !strings.Contains(string(m.Payload), "temperature") {
					name = r.DeviceID // the record has no name within its device
				}
				got := record{bare(name), r.Unit, int64(r.ObservedAt), value(r)}
				if want[got]--; want[got] < 0 {
					t.Errorf("%s: %+v is no resolved record, or comes once too often", file.Name(), got)
				}
				records++
			}
			packs++
		}
		for r, n := range want {
			if n > 0 {
				t.Errorf("%s: no reading of %+v", file.Name(), r)
			}
		}
	}
	if packs < 11 || records < 35 {
		t.Errorf("%d records of %d packs", records, packs)
	}
}

// bare is a name without what is dropped between a device and its metric.
func bare(name string) string { return strings.NewReplacer(":", "", "/", "").Replace(name) }

// One array of JSON is one pack only if its first element can be a record.
func TestIsPack(t *testing.T) {
	for body, want := range map[string]bool{
		`[{"bn":"a:"},`:                      true, // what follows is not read
		` [ {"n":"a","v":1}, 7]`:             true,
		`[{"n":"a","s":1,"vendor":[1]}]`:     true,
		`[{"n":"a","v":null}]`:               true,
		`[{"n":"a","vb":true}]`:              true,
		`[{"n":"a"}]`:                        false,
		`[{"n":1,"v":1}]`:                    false,
		`[{"n":"a","v":"1"}]`:                false,
		`[{"n":"a","v":1,"t":"2024-05-01"}]`: false,
		`[{"bn":7}]`:                         false,
		`[{"deviceId":"d","n":"a","v":1}]`:   false,
		`[{"n":"a","v":1,"timestamp":1}]`:    false,
		`[[{"bn":"a:"}]]`:                    false,
		`{"bn":"a:"}`:                        false,
		`[{"bn":"a:","bn":"b:"}]`:            false,
		`[]`:                                 false,
		`[`:                                  false,
		``:                                   false,
		`[7,{"bn":"a:"}]`:                    false,
		"[{\"bn\":\"\xff\"}]":                false,
		`[{"deviceId":"d","metrics":{"n":"a","v":1}}]`: false,
	} {
		if got := device.IsPack([]byte(body)); got != want {
			t.Errorf("IsPack(%s) = %t, want %t", body, got, want)
		}
	}
}

// An array of plain messages stays what it is, also where they have members
// with the names of SenML's fields.
func TestArraysOfMessagesAreNoPacks(t *testing.T) {
	p := device.NewParser(dictionary(t))
	readings, _, err := p.Parse(nil, message(`[{"deviceId":"d","n":"a","v":1},{"deviceId":"e","n":"b","v":2}]`))
	if err != nil || len(readings) != 4 || readings[3].DeviceID != "e" || readings[3].Metric != "v" {
		t.Errorf("readings %v, %v", readings, err)
	}
}

// The three forms of one pack make the same rows, and so have the same ids.
func TestSenMLFormsAreEqual(t *testing.T) {
	p := device.NewParser(dictionary(t))
	parse := func(payload string) string {
		t.Helper()
		m := message(payload)
		m.Format = "senml"
		readings, skipped, err := p.Parse(nil, m)
		if err != nil {
			t.Fatalf("%q: %v", payload, err)
		}
		return fmt.Sprintf("%+v %d", readings, skipped)
	}
	inJSON := parse(`[{"bn":"a:","bt":1276020076.001,"n":"temp","u":"Cel","v":21.5},{"n":"open","t":-5,"vb":true}]`)
	inXML := parse(`<sensml xmlns="urn:ietf:params:xml:ns:senml"><senml bn="a:" bt="1276020076.001" n="temp" u="Cel" v="21.5"/><senml n="open" t="-5" vb="true"/></sensml>`)
	inCBOR := parse("\x82\xa5\x21\x62a:\x22\xfb\x41\xd3\x03\xa1\x5b\x00\x10\x62\x00\x64temp\x01\x63Cel\x02\xf9\x4d\x60\xa3\x00\x64open\x06\x24\x04\xf5")
	if inXML != inJSON || inCBOR != inJSON {
		t.Errorf("JSON %s\nXML %s\nCBOR %s", inJSON, inXML, inCBOR)
	}
	if want := mesh.Instant(1276020071_001000); !strings.Contains(inJSON, want.String()) {
		t.Errorf("no reading at %s in %s", want, inJSON)
	}
}

// What holds for all records is short, and fields are few: else a payload could
// cost the square of its size.
func TestSenMLIsBounded(t *testing.T) {
	p := device.NewParser(dictionary(t))
	long := strings.Repeat("0", 5000)
	for payload, want := range map[string]string{
		`[{"bn":"a` + strings.Repeat(":", 5000) + `","n":"b","v":1}]`:                                     "bn has 5003 bytes",
		`[{"bn":"a:","bt":0.` + long + `1,"n":"b","v":1}]`:                                                "bt has 5003 bytes",
		`[{"bn":"a:","bv":1.` + long + `,"n":"b","v":1}]`:                                                 "bv has 5002 bytes",
		`[{"bn":"a:","n":"b","u":"` + strings.Repeat("u", 300) + `","v":1}]`:                              "has 300 bytes",
		"\x9f\xbf" + strings.Repeat("\x61a", 200):                                                         "not a SenML pack in CBOR",
		"\x81\xb8\x41" + manyLabels(65):                                                                   "exceeded max number of key-value pairs 64",
		strings.Repeat("\x81", 100) + "\x01":                                                              "exceeded max nested level 8",
		`<sensml><senml` + manyAttributes(65) + ` n="a:b" v="1"/></sensml>`:                               "more than 64 fields",
		`[` + strings.Repeat(`{"n":"a","t":1,"v":1},`, 3) + strings.Repeat(`{"n":"b:","v":1},`, 3) + `7]`: "two values have the name",
	} {
		m := message(payload)
		m.Format, m.DeviceID = "senml", "d"
		readings, _, err := p.Parse(nil, m)
		if err == nil || !strings.Contains(err.Error(), want) || len(readings) > 0 {
			t.Errorf("%.60q: %d readings, %v, want %s", payload, len(readings), err, want)
		}
	}
}

// manyLabels is n labels and values of CBOR.
func manyLabels(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "\x63%03d\x01", i)
	}
	return b.String()
}

func manyAttributes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ` a%d="1"`, i)
	}
	return b.String()
}
