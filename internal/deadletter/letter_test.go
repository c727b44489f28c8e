package deadletter

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/products"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func dead(change func(*event.Event)) event.Event {
	e := event.New()
	e.SetID("e")
	e.SetSource("/devices")
	e.SetType("com.example.dead")
	change(&e)
	return e
}

// A row whose day is over would be dropped at once, one of a far day refused: an
// instant that cannot be is none, and stays with the event.
func TestReceivedAt(t *testing.T) {
	for value, want := range map[string]time.Time{
		"2026-11-21T11:59:59.123456789Z": time.Date(2026, 11, 21, 11, 59, 59, 123456000, time.UTC),
		"2026-11-21T13:00:00Z":           now.Add(time.Hour), // of a clock that is ahead
		"1970-01-01T00:00:00Z":           now,
		"2126-01-01T00:00:00Z":           now,
		"yesterday":                      now,
	} {
		in := dead(func(e *event.Event) { e.SetExtension("knativearrivaltime", value) })
		l := New(in, "/iot/a", now)
		if l.ReceivedAt != mesh.At(want) {
			t.Errorf("New with arrival %s: received at %v, want %v", value, l.ReceivedAt, want)
		}
		if got := l.Event.Extensions()["knativearrivaltime"]; got != value {
			t.Errorf("New with arrival %s: the event says %v", value, got)
		}
	}
}

// The parts of any data are those of a row that BigQuery takes, text where all is
// text, and together what was given.
func TestParts(t *testing.T) {
	table := tableOf(t)
	for name, data := range map[string][]byte{
		"none": nil, "a part": bytes.Repeat([]byte("x"), partBytes), "one byte more": bytes.Repeat([]byte("x"), partBytes+1),
		"characters across the border": append([]byte("x"), strings.Repeat("日", partBytes/2)...),
		"bytes":                        bytes.Repeat([]byte{0xff, 0xfe}, partBytes),
	} {
		l := New(dead(func(e *event.Event) { e.DataEncoded = data }), "/iot/a", now)
		rows, err := l.rows()
		if err != nil {
			t.Fatal(err)
		}
		var whole []byte
		for i, row := range rows {
			cells := row.Cells(nil)
			if len(cells) != len(table.Cells()) {
				t.Fatalf("%s: %d cells, want %d", name, len(cells), len(table.Cells()))
			}
			size := 0
			for c, column := range table.Cells() {
				size += len(cells[c].Text())
				switch column.Name {
				case "part":
					if cells[c].Int() != int64(i) {
						t.Errorf("%s: part %d is called %d", name, i, cells[c].Int())
					}
				case "data":
					whole = append(whole, cells[c].Text()...)
				case "data_base64":
					if cells[c].Bool() == utf8.Valid(data) {
						t.Errorf("%s: base64 is %t", name, cells[c].Bool())
					}
				}
			}
			if size > 3<<20 {
				t.Errorf("%s: part %d takes %d bytes", name, i, size)
			}
		}
		if !utf8.Valid(data) {
			if whole, err = base64.StdEncoding.DecodeString(string(whole)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if !bytes.Equal(whole, data) {
			t.Errorf("%s: %d bytes in %d parts, which are not the %d given", name, len(whole), len(rows), len(data))
		}
	}
}

func tableOf(t *testing.T) contract.Table {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		for _, table := range p.Tables {
			if table.FullName() == lettersTable {
				return table
			}
		}
	}
	t.Fatalf("no contract of %s", lettersTable)
	return contract.Table{}
}
