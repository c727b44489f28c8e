package feed_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/feed"
)

// messages reads a file of that name and content: each message as "LINE BODY",
// and the error that ended it.
func messages(t *testing.T, name, content string, columns feed.Columns) (got []string, end error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := feed.Open(path, columns)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for m, err := range f.All() {
		if err != nil {
			end = err
			break
		}
		got = append(got, fmt.Sprintf("%d %s", m.Line, m.Body))
	}
	if end == nil && f.BytesRead() != f.Size() {
		t.Errorf("read %d bytes, want all %d", f.BytesRead(), f.Size())
	}
	return got, end
}

func TestNDJSON(t *testing.T) {
	got, err := messages(t, "m.ndjson", "\ufeff{\"a\":1}\r\n\n  {\"a\": 2}  \nno json, passed on\n{\"a\":\r3}", feed.Columns{})
	want := []string{`1 {"a":1}`, `3 {"a": 2}`, `4 no json, passed on`, `5 {"a": 3}`}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, messages (-want +got):\n%s", err, diff)
	}
}

// A line that is too long costs itself alone.
func TestNDJSONLongLine(t *testing.T) {
	const most = 1 << 20
	fits := "{\"a\":\"" + strings.Repeat("x", most-9) + "\"}"
	for _, end := range []string{"", "\n", "\n{\"a\":3}"} {
		got, err := messages(t, "m.ndjson", "{\"a\":1}\n{\"a\":\""+strings.Repeat("x", 3*most)+"\"}\n"+fits+end, feed.Columns{})
		want := []string{
			`1 {"a":1}`,
			`2 "m.ndjson: line 2: longer than 1024 KiB: is it NDJSON, with a message a line? It begins: {\"a\":\"` + strings.Repeat("x", 4096-6) + `"`,
			"3 " + fits,
		}
		if strings.Contains(end, "3") {
			want = append(want, `4 {"a":3}`)
		}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("end %q: error %v, messages (-want +got):\n%.2000s", end, err, diff)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, c := range []struct {
		name, content string
		want          []string
		err           string
	}{
		{"one object", "{\n \"a\": [1, 2.50]\n}\n", []string{`1 {"a":[1,2.50]}`}, ""},
		{"array", "[\n {\"a\": \"x,]\\\"}\"},\n\n {\"b\": {\"c\": []}}, 3\n]\n", []string{`2 {"a":"x,]\"}"}`, `4 {"b":{"c":[]}}`, `4 3`}, ""},
		{"after each other", "\ufeff{\"a\":1}{\"a\":\n2}\n\n{\"a\":3} {\"a\":4}", []string{`1 {"a":1}`, `1 {"a":2}`, `4 {"a":3}`, `4 {"a":4}`}, ""},
		{"a bad element", "[{\"a\":1},\n{\"a\":\n oops},\n{\"a\":3}]", []string{`1 {"a":1}`, `2 {"a":  oops}`, `4 {"a":3}`}, ""},
		{"no element", "[]", nil, ""},
		{"empty", " \n", nil, ""},
		{"cut off in a message", "[{\"a\":1},\n{\"a\":", []string{`1 {"a":1}`, `2 {"a":`}, "m.json: line 2: the file ends within the array: is it whole?"},
		{"cut off between messages", "[{\"a\":1},\n", []string{`1 {"a":1}`}, "m.json: line 2: the file ends within the array: is it whole?"},
		{"no JSON", "hello\nworld", []string{"1 hello", "2 world"}, ""},
		{"stray bracket", "{\"a\":1}}\n{\"a\":2}", []string{`1 {"a":1}`, "1 }", `2 {"a":2}`}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := messages(t, "m.json", c.content, feed.Columns{})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
			if (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

func TestCSV(t *testing.T) {
	got, err := messages(t, "m.csv", "\ufeffid, co2 ,\"the \"\"note\"\"\",time,source,ok,\r\n"+
		"1,420.50,\"two\nlines\",2026-01-01T00:00:00+0100,m,TRUE,5\r\n"+
		",,,1767225600,,,\r\n"+
		"2,NaN,Grün,,m,false,\r\n"+
		"3,1,2\r\n"+
		"4,1,b\"ad,,m,,\r\n"+
		"5,1,,,m,,\r\n",
		feed.Columns{Device: []string{"id", "source"}, Time: "time"})
	want := []string{
		`2 {"device_id":"1/m","time":"2026-01-01T00:00:00+0100","metrics":{"co2":420.50,"the \"note\"":"two\nlines","ok":true,"column_7":5}}`,
		`4 {"device_id":"","time":1767225600,"metrics":{}}`,
		`5 {"device_id":"2/m","metrics":{"co2":null,"the \"note\"":"Grün","ok":false}}`,
		`6 "m.csv: line 6: 3 cells, the header has 7: 3,1,2"`,
		`7 "m.csv: line 7: bare \" in non-quoted-field: 4,1,b\"ad,,m,,"`,
		`8 {"device_id":"5/m","metrics":{"co2":1}}`,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, messages (-want +got):\n%s", err, diff)
	}
}

func TestCSVCells(t *testing.T) {
	for cell, want := range map[string]string{
		"0": "0", "-0.0": "-0.0", "661.0": "661.0", "1e5": "1e5", "1E-07": "1E-07", "123456789012345678901": "123456789012345678901",
		"+3": "3", "-.5": "-0.5", ".5e+2": "0.5e+2", "007": "7", "5.": "5", "000.10": "0.10", "00": "0",
		".": `"."`, "+": `"+"`, "-": `"-"`, "+-3": `"+-3"`, "1,5": `"1,5"`, "0x10": `"0x10"`, "1_000": `"1_000"`, "1e": `"1e"`, "1.2.3": `"1.2.3"`, "12:30": `"12:30"`,
		"-Inf": "null", "infinity": "null", "True": "true", "yes": `"yes"`, "null": `"null"`,
	} {
		got, err := messages(t, "m.csv", "d,m\nx,\""+cell+"\"\n", feed.Columns{Device: []string{"d"}})
		if line := `2 {"device_id":"x","metrics":{"m":` + want + "}}"; err != nil || len(got) != 1 || got[0] != line {
			t.Errorf("cell %s: %v, error %v, want %s", cell, got, err, line)
		}
	}
}

// A window of the text of rows slides over long files.
func TestCSVKeepsTextOfBrokenRowsFarInTheFile(t *testing.T) {
	content := "d,m\n"
	for i := range 20_000 {
		content += "device,1\n"
		if i%5000 == 4999 {
			content += "device,1," + strconv.Itoa(i) + "\n"
		}
	}
	got, err := messages(t, "m.csv", content, feed.Columns{Device: []string{"d"}})
	if err != nil || len(got) != 20_004 {
		t.Fatalf("%d messages, error %v, want 20004", len(got), err)
	}
	if last, want := got[20_003], `20005 "m.csv: line 20005: 3 cells, the header has 2: device,1,19999"`; last != want {
		t.Errorf("last message %s, want %s", last, want)
	}
}

func TestErrors(t *testing.T) {
	device := feed.Columns{Device: []string{"d"}, Time: "t"}
	long := strings.Repeat("x", 2<<20)
	for _, c := range []struct {
		file, content string
		columns       feed.Columns
		want          string
	}{
		{"m.csv", "", device, "m.csv: empty: the first row must name the columns"},
		{"m.csv", "a,b\n", device, `m.csv: no column "d" for the device; the columns are a, b`},
		{"m.csv", "d,b\n", device, `m.csv: no column "t" for the time; the columns are d, b`},
		{"m.csv", "d,t,d\n", device, `m.csv: column "d" is there twice`},
		{"m.csv", "d,t\n", feed.Columns{}, "m.csv: no column named that holds the device"},
		{"m.csv", "d,t\nx,1\ny,\"" + long, device, "m.csv: after line 2: a row is longer than 1024 KiB: is a quote left open?"},
		{"m.json", "[{},\n\"" + long, device, "m.json: line 2: a message from line 2 on is longer than 1024 KiB"},
	} {
		_, err := messages(t, c.file, c.content, c.columns)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: error %v, want %s", c.file, err, c.want)
		}
	}
	if _, err := feed.Open("m.xlsx", device); err == nil || err.Error() != "m.xlsx: the name ends in none of .ndjson, .jsonl, .json, .csv" {
		t.Errorf("Open(m.xlsx) = %v", err)
	}
}

// Every cell of a real wide file that is not empty is in a message, with its
// digits.
func TestWindesheim(t *testing.T) {
	path := dataset.Path(t, "indoor-air/windesheim-b4b2022/925038_raw_properties.csv")
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	rows, err := csv.NewReader(in).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	f, err := feed.Open(path, feed.Columns{Device: []string{"id", "source"}, Time: "timestamp"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for m, err := range f.All() {
		if err != nil {
			t.Fatal(err)
		}
		n++
		var got struct {
			Device  string                 `json:"device_id"`
			Time    string                 `json:"time"`
			Metrics map[string]json.Number `json:"metrics"`
		}
		if err := json.Unmarshal(m.Body, &got); err != nil {
			t.Fatalf("line %d: %v", m.Line, err)
		}
		row := rows[n]
		want := map[string]json.Number{}
		for i, cell := range row[3:] {
			if cell != "" {
				want[rows[0][i+3]] = json.Number(cell)
			}
		}
		if diff := cmp.Diff(want, got.Metrics); diff != "" || got.Device != row[0]+"/"+row[1] || got.Time != row[2] {
			t.Fatalf("line %d: device %s, time %s, metrics (-want +got):\n%s", m.Line, got.Device, got.Time, diff)
		}
	}
	if n != len(rows)-1 {
		t.Errorf("%d messages, want %d", n, len(rows)-1)
	}
}

func BenchmarkCSV(b *testing.B) {
	path := dataset.Path(b, "indoor-air/windesheim-b4b2022/925038_raw_properties.csv")
	b.ReportAllocs()
	for b.Loop() {
		f, err := feed.Open(path, feed.Columns{Device: []string{"id", "source"}, Time: "timestamp"})
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for _, err := range f.All() {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 4701 {
			b.Fatalf("%d messages, want 4701", n)
		}
		b.SetBytes(f.Size())
		f.Close()
	}
}
