package bigquery

import (
	"fmt"
	"math"
	"testing"

	"cloud.google.com/go/bigquery/storage/managedwriter/adapt"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/products"
)

func tables(t testing.TB) []contract.Table {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	var tables []contract.Table
	for _, p := range list {
		tables = append(tables, p.Tables...)
	}
	return tables
}

// message reads a row as BigQuery does: by the descriptor that is sent with it.
func message(t testing.TB, e *encoder, b []byte) map[string]any {
	t.Helper()
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("row"), MessageType: []*descriptorpb.DescriptorProto{e.descriptor}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(file.Messages().Get(0))
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	if len(m.GetUnknown()) > 0 {
		t.Errorf("%d bytes belong to no field", len(m.GetUnknown()))
	}
	row := map[string]any{}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		row[string(field.Name())] = v.Interface()
		return true
	})
	return row
}

// value is what a cell is in a message.
func value(c *warehouse.Cell) any {
	switch c.Kind() {
	case warehouse.StringKind:
		return c.Text()
	case warehouse.FloatKind:
		return c.Float()
	case warehouse.BoolKind:
		return c.Bool()
	case warehouse.NullKind:
		return nil
	}
	return c.Int()
}

var samples = map[contract.Type][]warehouse.Cell{
	contract.String:    {warehouse.String("a\x00b 空気"), warehouse.String("")},
	contract.JSON:      {warehouse.String(`{"a": [1, 2.50]}`), warehouse.String("null")},
	contract.Float64:   {warehouse.Float(math.Copysign(0, -1)), warehouse.Float(5e-324), warehouse.Float(-math.MaxFloat64)},
	contract.Int64:     {warehouse.Int(0), warehouse.Int(math.MinInt64), warehouse.Int(math.MaxInt64)},
	contract.Bool:      {warehouse.Bool(false), warehouse.Bool(true)},
	contract.Timestamp: {warehouse.Instant(-1), warehouse.Instant(253402300799999999), warehouse.Instant(-62135596800000000)},
}

// Every column of every table holds what its cell does, and NULL is not there.
func TestEncode(t *testing.T) {
	for _, table := range tables(t) {
		columns := schema.AppendedColumns(&table)
		e, err := newEncoder(columns)
		if err != nil {
			t.Fatalf("%s: %v", table.FullName(), err)
		}
		for round := range 4 {
			row := make([]warehouse.Cell, len(columns))
			want := map[string]any{}
			for i, c := range columns {
				if list := samples[c.Type]; round < len(list) || c.Required {
					row[i] = list[round%len(list)]
					want[c.Name] = value(&row[i])
				}
			}
			got := message(t, e, e.append(nil, row))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", table.FullName(), diff)
			}
		}
	}
}

// The bytes are those that the reflection of the descriptor gives.
func TestEncodeEqualsReflection(t *testing.T) {
	table := tables(t)[0]
	columns := schema.AppendedColumns(&table)
	e, err := newEncoder(columns)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := adapt.BQSchemaToStorageTableSchema(schema.Fields(columns))
	if err != nil {
		t.Fatal(err)
	}
	d, err := adapt.StorageSchemaToProto2Descriptor(stored, "row")
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(d.(protoreflect.MessageDescriptor))
	row := make([]warehouse.Cell, len(columns))
	for i, c := range columns {
		row[i] = samples[c.Type][0]
		m.Set(m.Descriptor().Fields().ByName(protoreflect.Name(c.Name)), protoreflect.ValueOf(value(&row[i])))
	}
	want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, e.append(nil, row)); diff != "" {
		t.Errorf("bytes: (-want +got)\n%s", diff)
	}
}

func TestEncodeAllocatesNothing(t *testing.T) {
	table, row := readingRow(t)
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = table.encoder.append(buf[:0], row) }); n != 0 {
		t.Errorf("a row takes %v allocations, want none", n)
	}
}

type cells []warehouse.Cell

func (c cells) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, c...) }

func reading(i int) cells {
	at := mesh.Instant(1709290800000000) + mesh.Instant(i)*60e6
	return cells{
		warehouse.String(mesh.ReadingID("device-0815", "co2", at)), warehouse.String("tenant-a"), warehouse.String("device-0815"),
		warehouse.String("co2"), warehouse.Float(412.5), warehouse.Null, warehouse.Null, warehouse.String("ppm"), warehouse.Instant(at),
		warehouse.Instant(at + 1e6), warehouse.Null, warehouse.Int(0), warehouse.Int(12), warehouse.Null, warehouse.Null,
		warehouse.String("/telemesh/mqtt-source"), warehouse.String("0f3a5b7c9d1e2f3a5b7c9d1e2f3a5b7c"), warehouse.String(`{"rssi":-80}`),
	}
}

func readingRow(t testing.TB) (*table, []warehouse.Cell) {
	t.Helper()
	for _, ct := range tables(t) {
		if ct.FullName() != "iot_telemetry.readings" {
			continue
		}
		e, err := newEncoder(schema.AppendedColumns(&ct))
		if err != nil {
			t.Fatal(err)
		}
		made := &table{Table: ct, rank: warehouse.NewRanking(&ct), check: warehouse.NewCheck(&ct), encoder: e}
		return made, made.stamp(reading(0), nil, 0, 1)
	}
	t.Fatal("no table iot_telemetry.readings")
	return nil, nil
}

// A row of an ordered table has neither recorded_at, whichever place that has,
// nor what rows that may take another's place have.
func TestStampOrdered(t *testing.T) {
	for _, ct := range tables(t) {
		if !ct.Ordered {
			continue
		}
		columns := schema.AppendedColumns(&ct)
		e, err := newEncoder(columns)
		if err != nil {
			t.Fatal(err)
		}
		made := &table{Table: ct, rank: warehouse.NewRanking(&ct), check: warehouse.NewCheck(&ct), encoder: e}
		var row cells
		want := map[string]any{schema.Batch: "b", schema.BatchRow: int64(1), schema.AppendedAt: int64(7)}
		for _, c := range ct.Cells() {
			cell := samples[c.Type][0]
			if c.Name == contract.RecordedAt {
				cell = warehouse.Instant(5)
			} else {
				want[c.Name] = value(&cell)
			}
			row = append(row, cell)
		}
		want[schema.Content] = made.rank.Content(row)
		r, rejected, err := made.encode(&warehouse.Batch{Table: ct.FullName(), EventID: "1", Rows: []warehouse.Row{cells{}, row}}, &staged{batch: "b"}, 7)
		if err != nil || len(rejected) != 1 || len(r.bytes) != 1 || r.numbers[0] != 1 {
			t.Fatalf("%s: encode() = %v, %v, %v, want row 1 alone", ct.FullName(), r.numbers, rejected, err)
		}
		if diff := cmp.Diff(want, message(t, e, r.bytes[0])); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", ct.FullName(), diff)
		}
	}
}

func TestNoOrderedTableWithKnowledge(t *testing.T) {
	for _, ct := range tables(t) {
		if ct.FullName() != "iot_telemetry.readings" {
			continue
		}
		ct.Ordered = true
		if _, err := new(Warehouse).newTable(&ct); err == nil {
			t.Error("a table with provenance that others are made from was taken")
		}
	}
}

func TestArena(t *testing.T) {
	var a arena
	var rows [][]byte
	for i := range 3000 {
		rows = append(rows, a.add(fmt.Appendf(nil, "%0*d", 1+i%100, i)))
	}
	rows = append(rows, a.add(make([]byte, 2*arenaSize)))
	for i := range 3000 {
		if want := fmt.Sprintf("%0*d", 1+i%100, i); string(rows[i]) != want {
			t.Fatalf("row %d is %q, want %q", i, rows[i], want)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	table, _ := readingRow(b)
	batch := &warehouse.Batch{Table: table.FullName(), EventSource: "/s", EventID: "1"}
	for i := range 500 {
		batch.Rows = append(batch.Rows, reading(i))
	}
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		r, _, err := table.encode(batch, nil, 1)
		if err != nil || len(r.bytes) != len(batch.Rows) {
			b.Fatal(err)
		}
		size = 0
		for _, row := range r.bytes {
			size += len(row)
		}
	}
	b.SetBytes(int64(size))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/row")
	b.ReportMetric(float64(size)/500, "B/row")
}
