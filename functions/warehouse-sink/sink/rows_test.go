package sink

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	w "github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// fill gives a T in which nothing is empty.
func fill[T any]() (v T) {
	var set func(v reflect.Value)
	set = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				set(v.Field(i))
			}
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			set(v.Elem())
		case reflect.Map:
			v.Set(reflect.ValueOf(map[string]string{"a": "b"}))
		case reflect.Slice:
			v.Set(reflect.ValueOf([]byte("{}")))
		case reflect.String:
			v.SetString("x")
		case reflect.Float64:
			v.SetFloat(1.5)
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Uint8:
			v.SetUint(1)
		default:
			v.SetInt(1)
		}
	}
	set(reflect.ValueOf(&v).Elem())
	return v
}

// Where the rows of an event go is what the contracts say: the catalog has it from
// there.
func TestContractsNameTheEvents(t *testing.T) {
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]string{}
	for _, p := range list {
		for _, table := range p.Tables {
			if byContract(&table) {
				continue
			}
			for _, eventType := range table.Events {
				declared[eventType] = table.FullName()
			}
		}
	}
	stored := map[string]string{}
	files, err := triggers.FS.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := triggers.FS.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, eventType := range regexp.MustCompile(`dev\.telemesh\.[a-z.]+\.v\d+`).FindAllString(string(text), -1) {
			e := event.New()
			e.SetType(eventType)
			if b, _ := decode(e); b.table != "" { // without data most are errors, behind which the table stands
				stored[eventType] = b.table
			}
		}
	}
	if diff := cmp.Diff(stored, declared); diff != "" || len(stored) == 0 {
		t.Errorf("tables by the types of their events (-stored +declared):\n%s", diff)
	}
}

// byContract says whether a table is filled by what its contract says: decode knows none
// of its events.
func byContract(t *contract.Table) bool {
	for _, eventType := range t.Events {
		e := event.New()
		e.SetType(eventType)
		if b, _ := decode(e); b.table == t.FullName() {
			return false
		}
	}
	return len(t.Events) > 0
}

// kindOf is the kind of the cells of each type of columns.
var kindOf = map[contract.Type]w.Kind{
	contract.String: w.StringKind, contract.JSON: w.StringKind, contract.Float64: w.FloatKind, contract.Int64: w.IntKind,
	contract.Bool: w.BoolKind, contract.Timestamp: w.InstantKind,
}

// The rows have the cells of their contract: as many, in its order, of its
// types, and none NULL that must not be. Each column gets a value when the row has one.
func TestRowsFitTheContracts(t *testing.T) {
	withKind := func(kind mesh.Kind) mesh.Reading {
		r := fill[mesh.Reading]()
		r.Kind = kind
		return r
	}
	number, boolean, text := withKind(mesh.Number), withKind(mesh.Boolean), withKind(mesh.Text)
	join, said := fill[mesh.JoinedReading](), fill[mesh.JoinedReading]()
	join.Reading, said.Reading = boolean, text
	place, act, who, row := fill[mesh.Placement](), fill[mesh.Action](), fill[mesh.Customer](), fill[mesh.RejectedRow]()
	refused := fill[mesh.Rejection]()
	full, bare := event.New(), event.New()
	for _, e := range []*event.Event{&full, &bare} {
		e.SetID("e")
		e.SetSource("/s")
		e.SetType("t")
	}
	full.SetSubject("s")
	full.SetTime(time.Date(2024, 3, 1, 12, 0, 0, 1, time.UTC))
	full.SetDataSchema("https://example.com")
	full.SetDataContentType("text/plain")
	full.SetExtension("a", "b")
	full.DataEncoded = []byte("x")
	logged := func(e *event.Event) *eventRow {
		r, err := newEventRow(e, "iot/iot", time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		r.KeepData()
		return r
	}
	found := []w.Row{(*rejectedRow)(&row), (*rejectedRow)(&mesh.RejectedRow{})}
	rows := map[string][]w.Row{
		"iot_telemetry.readings":          {(*reading)(&number), (*reading)(&boolean), (*reading)(&text), (*reading)(&mesh.Reading{})},
		"iot_telemetry_internal.rejected": {rejection{&refused, "/s", "e"}, rejection{&mesh.Rejection{}, "", ""}},
		"iot_analytics.readings":          {(*joined)(&join), (*joined)(&said), (*joined)(&mesh.JoinedReading{})},
		"iot_metadata.placements":         {(*placement)(&place), (*placement)(&mesh.Placement{})},
		"iot_actions.actions":             {(*action)(&act), (*action)(&mesh.Action{})},
		"customers.customers":             {(*customer)(&who), (*customer)(&mesh.Customer{})},
		"iot_metadata.rejected_rows":      found,
		"iot_actions.rejected_rows":       found,
		"customers.rejected_rows":         found,
		"event_log.events":                {logged(&full), logged(&bare)},
	}

	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for _, p := range list {
		for _, table := range p.Tables {
			name := table.FullName()
			if strings.HasPrefix(name, "event_log_internal.dead_letter") || byContract(&table) { // dead-letter-sink's; no row is written here
				continue
			}
			tables = append(tables, name)
			columns := table.Cells()
			given := map[string]bool{contract.RecordedAt: true} // by the store
			for n, row := range rows[name] {
				cells := row.Cells(nil)
				if len(cells) != len(columns) {
					t.Errorf("%s, row %d: %d cells, want %d", name, n, len(cells), len(columns))
					continue
				}
				for i, c := range columns {
					switch kind := cells[i].Kind(); {
					case c.Name == contract.RecordedAt && kind != w.NullKind:
						t.Errorf("%s, row %d: column %s is %s, want NULL: the store sets it", name, n, c.Name, kind)
					case c.Name == contract.RecordedAt:
					case kind == w.NullKind && c.Required:
						t.Errorf("%s, row %d: column %s is NULL, but required", name, n, c.Name)
					case kind != w.NullKind && kind != kindOf[c.Type]:
						t.Errorf("%s, row %d: column %s is %s, want %s", name, n, c.Name, kind, kindOf[c.Type])
					case kind != w.NullKind:
						given[c.Name] = true
					}
				}
			}
			for _, c := range columns {
				if !given[c.Name] {
					t.Errorf("%s: no row has a value in column %s", name, c.Name)
				}
			}
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(tables)), slices.Sorted(maps.Keys(rows))); diff != "" {
		t.Errorf("tables of the contracts and tables with rows: (-want +got)\n%s", diff)
	}
}
