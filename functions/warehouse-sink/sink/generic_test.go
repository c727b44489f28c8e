package sink_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

const (
	seen  = "com.example.transaction.seen.v1"
	typed = "com.example.typed.changed.v1"
)

// ownProducts reads the products of testdata.
func ownProducts(t testing.TB) []contract.Product {
	t.Helper()
	archive, err := txtar.ParseFile("testdata/products.txtar")
	if err != nil {
		t.Fatal(err)
	}
	folder := fstest.MapFS{}
	for _, f := range archive.Files {
		folder[f.Name] = &fstest.MapFile{Data: f.Data}
	}
	products, err := contract.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return products
}

// own gives a warehouse with the products of testdata beside those built in, and
// what they are.
func own(t *testing.T) (*duckdb.DB, []contract.Product) {
	t.Helper()
	products := ownProducts(t)
	db := duckdbtest.Open(t)
	if err := db.Apply(t.Context(), products); err != nil {
		t.Fatal(err)
	}
	return db, products
}

func tables(t testing.TB, products []contract.Product, product string) sink.Tables {
	t.Helper()
	out, err := sink.TablesOf(products, product)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// One transaction is one row, whichever year's form it has.
func TestTransactionsAreRows(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(dataset.Path(t, "transactions"), "utx-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	db, products := own(t)
	handle := sink.New(db, tables(t, products, "chain"), nil)
	for range 2 { // a redelivery changes nothing
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := mesh.NewEvent(seen, "/chain", data, filepath.Base(file))
			in.SetExtension("attempt", 3)
			if out, err := handle(t.Context(), in); out != nil || err != nil {
				t.Fatalf("%s: handler = %v, %v, want nothing", file, out, err)
			}
		}
	}
	rows := all(t, db, "SELECT * FROM chain.transactions ORDER BY seen_at")
	if len(rows) != len(files) {
		t.Fatalf("%d rows of %d transactions", len(rows), len(files))
	}
	delete(rows[0], "outputs")
	if diff := cmp.Diff(map[string]any{
		"hash": "f6c51463ea867ce58588fec2a77e9056046657b984fd28b1482912cdadd16374", "seen_at": "2012-03-09T13:47:19Z",
		"first_address": "1FzzMfNt46cBeS41r6WHDH1iqxSyzmxChw", "lock_time": "Unavailable", "sent_by": "/chain", "attempt": 3.0,
	}, rows[0]); diff != "" {
		t.Errorf("the oldest transaction (-want +got):\n%s", diff)
	}
	for _, row := range rows {
		if len(row["hash"].(string)) != 64 || row["seen_at"].(string) < "2012" {
			t.Errorf("row %v", row)
		}
	}
}

// Each type takes the JSON that says it without loss, and nothing else. The error
// names row and column, and the other rows of the event are stored.
func TestTypes(t *testing.T) {
	const at = "2026-01-01T00:00:00.000001Z"
	db, products := own(t)
	handle := sink.New(db, tables(t, products, ""), nil)
	version := 0
	for _, test := range []struct {
		members string
		want    map[string]any // besides k and version
		err     string
	}{
		{``, nil, ""},
		{`"f":null,"i":null,"b":null,"t":null,"j":null`, nil, ""},
		{`"f":-1.5e-3`, map[string]any{"f": -0.0015}, ""},
		{`"f":1e400`, nil, "column f: 1e400 is no finite number"},
		{`"f":"1"`, nil, `column f: "1" is no finite number`},
		{`"i":9223372036854775807`, map[string]any{"i": float64(9223372036854775807)}, ""},
		{`"i":9223372036854775808`, nil, "column i: 9223372036854775808 is no whole number"},
		{`"i":1.0`, map[string]any{"i": 1.0}, ""},
		{`"i":2e3`, map[string]any{"i": 2000.0}, ""},
		{`"i":1.5`, nil, "column i: 1.5 is no whole number"},
		{`"i":true`, nil, "column i: true is no whole number"},
		{`"b":false`, map[string]any{"b": false}, ""},
		{`"b":0`, nil, "column b: 0 is no truth value"},
		{`"t":"` + at + `"`, map[string]any{"t": at}, ""},
		{`"t":"2026-01-01T01:00:00.0000019+01:00"`, map[string]any{"t": at}, ""},
		{`"t":1767225600.000001`, map[string]any{"t": at}, ""},
		{`"t":-1`, map[string]any{"t": "1969-12-31T23:59:59Z"}, ""},
		{`"t":1767225600000`, nil, "column t: 1767225600000 is no time of RFC 3339 or number of seconds"},
		{`"t":"yesterday"`, nil, `column t: time "yesterday" is not RFC 3339`},
		{`"t":-99999999999`, nil, "column t: "}, // before the year 1: the warehouse's
		{`"j":{"a": [1.0, "\u00fc"] }`, map[string]any{"j": map[string]any{"a": []any{1.0, "ü"}}}, ""},
		{`"j":"text"`, map[string]any{"j": "text"}, ""},
		{`"x":1`, nil, "member x: the contract has no such column"},
		{`"recorded_at":"` + at + `"`, nil, "member recorded_at: the contract has no such column"},
		{`"deleted":1`, nil, "column deleted: 1 is no truth value"},
	} {
		t.Run(test.members, func(t *testing.T) {
			row := `{"k":"a","version":1`
			if test.members != "" {
				row += "," + test.members
			}
			version++
			data := `{"rows":[{"k":"before","version":1},` + row + `},{"k":"gone","version":1,"deleted":true},{"k":"z","version":1}]}`
			in := mesh.NewEvent(typed, "/test", []byte(strings.ReplaceAll(data, `"version":1`, fmt.Sprintf(`"version":%d`, version))), test.members)
			_, err := handle(t.Context(), in)
			if test.err != "" && (!mesh.IsPermanent(err) || !strings.Contains(err.Error(), "row 1: ") || !strings.Contains(err.Error(), test.err)) || test.err == "" && err != nil {
				t.Errorf("handler = %v, want a permanent error of row 1 with %q", err, test.err)
			}
			rows := all(t, db, fmt.Sprintf("SELECT * EXCLUDE (recorded_at, version) FROM chain.typed WHERE version = %d ORDER BY k", version))
			want := []map[string]any{{"k": "before"}, {"k": "z"}}
			if test.err == "" {
				good := map[string]any{"k": "a"}
				maps.Copy(good, test.want)
				want = append([]map[string]any{good}, want...)
			}
			if diff := cmp.Diff(want, rows); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

// The rows of a carrier are those of the events that it carries, each with the
// attributes of its own. One that cannot be read keeps none of the others back.
func TestRowsOfCarriedEvents(t *testing.T) {
	db, products := own(t)
	handle := sink.New(db, tables(t, products, ""), nil)
	transaction := func(n int32, data string) event.Event {
		e := mesh.NewEvent(seen, fmt.Sprintf("/chain/%d", n), []byte(data), data)
		e.SetExtension("attempt", n)
		return e
	}
	good, last := transaction(1, `{"x":{"hash":"a","time":1}}`), transaction(4, `{"x":{"hash":"b","time":2}}`)
	for range 2 {
		carrier, err := mesh.Carry(seen, "/s", []event.Event{good, last})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := handle(t.Context(), carrier); err != nil {
			t.Fatal(err)
		}
		// The same and others, in another carrier.
		third := transaction(5, `{"x":{"hash":"c","time":3}}`)
		broken, err := mesh.Carry(seen, "/s", []event.Event{last, transaction(2, `no JSON`), transaction(3, `{"x":{"hash":"d"}}`), third})
		if err != nil {
			t.Fatal(err)
		}
		_, err = handle(t.Context(), broken)
		if !mesh.IsPermanent(err) || !strings.Contains(err.Error(), "row 1: event "+mesh.Hash("no JSON")+": the data are no JSON") ||
			!strings.Contains(err.Error(), "row 2: event "+mesh.Hash(`{"x":{"hash":"d"}}`)+": column seen_at") {
			t.Errorf("handler = %v, want a permanent error of rows 1 and 2 and their events", err)
		}
	}
	rows := all(t, db, "SELECT hash, sent_by, attempt FROM chain.transactions ORDER BY hash")
	want := []map[string]any{{"hash": "a", "sent_by": "/chain/1", "attempt": 1.0}, {"hash": "b", "sent_by": "/chain/4", "attempt": 4.0}, {"hash": "c", "sent_by": "/chain/5", "attempt": 5.0}}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	in := mesh.NewEvent(seen, "/s", []byte(`[{}]`), "1")
	in.SetDataContentType(mesh.ContentCarrier)
	if _, err := handle(t.Context(), in); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), "read carrier: event 0") {
		t.Errorf("handler = %v, want a permanent error of event 0", err)
	}
}

// An event with a bad row is stored whole when it comes again and the contract
// takes it, and the rows that were stored are there once.
func TestBadRowComesAgain(t *testing.T) {
	db, products := own(t)
	in := mesh.NewEvent(typed, "/test", []byte(`{"rows":[{"k":"a","version":1},{"k":"b","version":1,"note":"n"}]}`), "1")
	if _, err := sink.New(db, tables(t, products, ""), nil)(t.Context(), in); !mesh.IsPermanent(err) {
		t.Fatalf("handler = %v, want a permanent error", err)
	}
	for i := range products {
		for j := range products[i].Tables {
			if table := &products[i].Tables[j]; table.Name == "typed" {
				table.Columns = append(table.Columns, contract.Column{Name: "note", Type: contract.String})
			}
		}
	}
	if err := db.Apply(t.Context(), products); err != nil {
		t.Fatal(err)
	}
	if _, err := sink.New(db, tables(t, products, ""), nil)(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	got := all(t, db, "SELECT k, note FROM chain_internal.typed ORDER BY k")
	if diff := cmp.Diff([]map[string]any{{"k": "a"}, {"k": "b", "note": "n"}}, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestWhatNoContractTakes(t *testing.T) {
	db, products := own(t)
	handle := sink.New(db, tables(t, products, "chain"), nil)
	for data, want := range map[string]string{
		`{"rows":[`:                            "the data are no JSON",
		`{"rows":[],"rows":[]}`:                "the data are no JSON",
		`[]`:                                   "no array /rows",
		`{"rows":{}}`:                          "no array /rows",
		`{"rows":[7]}`:                         "row 0: the row 7 is no object",
		`{"rows":[{"version":1}]}`:             "row 0: column k: there is no member of this name",
		`{"rows":[{"k":null,"version":1}]}`:    "row 0: column k: there is no",
		`{"rows":[{"k":"a"},{"version":"1"}]}`: "row 1: column k",
	} {
		if _, err := handle(t.Context(), mesh.NewEvent(typed, "/s", []byte(data), data)); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: handler = %v, want a permanent error with %q", data, err, want)
		}
	}
	for data, want := range map[string]string{
		`{"x":{"time":1}}`:              "column hash: there is no /x/hash",
		`{"x":{"hash":"a","time":"1"}}`: "column seen_at",
		`{"x":{"hash":{},"time":1}}`:    "column hash: {} is no text",
	} {
		if _, err := handle(t.Context(), mesh.NewEvent(seen, "/s", []byte(data), data)); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: handler = %v, want a permanent error with %q", data, err, want)
		}
	}
	if _, err := sink.TablesOf(products, "chains"); err == nil {
		t.Error("tables of a product that is none: no error")
	}
	db.Close()
	if _, err := handle(t.Context(), mesh.NewEvent(typed, "/s", []byte(`{"rows":[{"k":"a","version":1}]}`), "x")); err == nil || mesh.IsPermanent(err) {
		t.Errorf("a closed warehouse: handler = %v, want a passing error", err)
	}
}

// What a function of its own reads is a row of another product where that sink is
// told to be its, and there alone.
func TestWhoseRows(t *testing.T) {
	db, products := own(t)
	in := mesh.NewEvent(mesh.TelemetryEnriched, "/s", []byte(`{"readings":[`+reading+`}]}`), "1")
	count := func() map[string]any {
		return all(t, db, "SELECT (SELECT count(*) FROM iot_telemetry.readings) AS readings, (SELECT count(*) FROM alarms.alarms WHERE rssi = -80) AS alarms")[0]
	}
	for _, test := range []struct {
		product string
		want    map[string]any
	}{
		{"", map[string]any{"readings": 1.0, "alarms": 0.0}},
		{"alarms", map[string]any{"readings": 1.0, "alarms": 1.0}},
	} {
		if _, err := sink.New(db, tables(t, products, test.product), nil)(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, count()); diff != "" {
			t.Errorf("PRODUCT=%s: (-want +got)\n%s", test.product, diff)
		}
	}
}

// Of two tables, one that refuses the event does not hide that the other was away.
func TestPassingErrorComesFirst(t *testing.T) {
	_, products := own(t)
	for i := range products {
		for j := range products[i].Tables {
			products[i].Tables[j].Events = []string{"com.example.both"}
		}
	}
	handle := sink.New(away{}, tables(t, products, "chain"), nil)
	in := mesh.NewEvent("com.example.both", "/s", []byte(`{"rows":[{"k":"a","version":1}]}`), "1")
	if _, err := handle(t.Context(), in); err == nil || mesh.IsPermanent(err) {
		t.Errorf("handler = %v, want a passing error", err)
	}
}

type away struct{ warehouse.Warehouse }

func (away) Append(context.Context, warehouse.Batch) (int64, error) {
	return 0, errors.New("away")
}

// A Service reads contracts of a folder, and fills the tables of its product.
func TestStartWithProducts(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/products.txtar")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range archive.Files {
		path := filepath.Join(dir, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.Data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	db, _ := own(t)
	t.Setenv("PRODUCTS", dir)
	t.Setenv("PRODUCT", "chain")
	fn, err := sink.Start(function.Ports{Warehouse: db})
	if err != nil {
		t.Fatal(err)
	}
	in := event.New()
	in.SetID("1")
	in.SetSource("/s")
	in.SetType(seen)
	in.SetTime(time.Date(2026, 1, 1, 0, 0, 0, 1999, time.UTC))
	if err := in.SetData("application/json", []byte(`{"x":{"hash":"h","time":1767225600,"out":[]}}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := fn.Handler(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{{"hash": "h", "seen_at": "2026-01-01T00:00:00Z", "outputs": []any{}, "sent_by": "/s", "sent_at": "2026-01-01T00:00:00.000001Z"}}
	if diff := cmp.Diff(want, all(t, db, "FROM chain.transactions")); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	t.Setenv("PRODUCT", "other")
	if _, err := sink.Start(function.Ports{Warehouse: db}); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("PRODUCT=other: %v, want an error that names it", err)
	}
}

// BenchmarkByContract is the handler but for the warehouse: a micro-batch of 1,000 rows
// by the names of the columns, and one row by places in an object.
func BenchmarkByContract(b *testing.B) {
	products := ownProducts(b)
	handle := sink.New(discard{}, tables(b, products, "chain"), nil)
	for name, test := range map[string]struct {
		in   event.Event
		rows int
	}{
		"names":  {mesh.NewEvent(typed, "/s", []byte(`{"rows":[`+strings.Repeat(`{"k":"abcdef","f":1.5,"i":7,"t":"2026-01-01T00:00:00Z","version":1},`, 999)+`{"k":"a","version":1}]}`), "1"), 1000},
		"places": {mesh.NewEvent(seen, "/s", []byte(`{"x":{"hash":"a","time":1,"out":[`+strings.Repeat(`{"value":1,"addr":"a"},`, 9)+`{"value":1}]}}`), "1"), 1},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(test.in.Data())))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := handle(context.Background(), test.in); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*test.rows)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
