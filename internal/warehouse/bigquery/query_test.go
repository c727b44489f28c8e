package bigquery

import (
	"math"
	"math/big"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/civil"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
)

func TestTrim(t *testing.T) {
	for sql, want := range map[string]string{
		"SELECT 1":                             "SELECT 1",
		"SELECT 1;":                            "SELECT 1",
		"SELECT 1 ;\n -- done":                 "SELECT 1 ",
		"SELECT 1; ; /* ; */ # x\n;":           "SELECT 1",
		"SELECT 1 -- a; b":                     "SELECT 1 -- a; b",
		"SELECT 1 -- a\n;":                     "SELECT 1 -- a\n",
		"SELECT 1; SELECT 2;":                  "SELECT 1; SELECT 2",
		"SELECT ';--'":                         "SELECT ';--'",
		"SELECT \";\";":                        "SELECT \";\"",
		"SELECT `a;--`":                        "SELECT `a;--`",
		`SELECT 'it\';' ;`:                     `SELECT 'it\';' `,
		`SELECT r'\';';`:                       `SELECT r'\';'`,
		`SELECT '''a';--''' ; -- '''`:          `SELECT '''a';--''' `,
		`SELECT """a\""";--""" ;`:              `SELECT """a\""";--""" `,
		"SELECT /* ' */ 1; /* ' */":            "SELECT /* ' */ 1",
		"SELECT 1; /* never closed":            "SELECT 1",
		"SELECT 'never closed ;":               "SELECT 'never closed ;",
		"SELECT 1 /* a */; -- b\n/* c */ FROM": "SELECT 1 /* a */; -- b\n/* c */ FROM",
		"-- nothing":                           "-- nothing",
		";":                                    "",
		"":                                     "",
		`\`:                                    `\`,
		`'\`:                                   `'\`,
	} {
		if got := trim(sql); got != want {
			t.Errorf("trim(%q) = %q, want %q", sql, got, want)
		}
	}
}

// A statement may be whatever its writer had in mind.
func FuzzTrim(f *testing.F) {
	f.Add("SELECT ';' ; -- x")
	f.Fuzz(func(t *testing.T, sql string) {
		got := trim(sql)
		if len(got) > len(sql) || sql[:len(got)] != got || trim(got) != got {
			t.Errorf("trim(%q) = %q, and then %q", sql, got, trim(got))
		}
	})
}

func TestCells(t *testing.T) {
	at := time.Date(2024, 3, 1, 12, 0, 0, 1000, time.UTC)
	day := civil.Date{Year: 2024, Month: 3, Day: 1}
	noon := civil.Time{Hour: 12, Nanosecond: 1000}
	field := func(kind bigquery.FieldType, fields ...*bigquery.FieldSchema) *bigquery.FieldSchema {
		return &bigquery.FieldSchema{Type: kind, Schema: fields}
	}
	named := func(name string, f *bigquery.FieldSchema) *bigquery.FieldSchema {
		f.Name = name
		return f
	}
	list := func(f *bigquery.FieldSchema) *bigquery.FieldSchema {
		f.Repeated = true
		return f
	}
	for name, test := range map[string]struct {
		value bigquery.Value
		field *bigquery.FieldSchema
		kind  contract.Type
		want  any
	}{
		"NULL":       {nil, field("INTEGER"), contract.Int64, nil},
		"STRING":     {"x", field("STRING"), contract.String, "x"},
		"INT64":      {int64(math.MaxInt64), field("INTEGER"), contract.Int64, int64(math.MaxInt64)},
		"FLOAT64":    {math.Inf(-1), field("FLOAT"), contract.Float64, math.Inf(-1)},
		"BOOL":       {true, field("BOOLEAN"), contract.Bool, true},
		"TIMESTAMP":  {at.In(time.FixedZone("", 3600)), field("TIMESTAMP"), contract.Timestamp, at},
		"JSON":       {`{"a": 1}`, field("JSON"), contract.JSON, `{"a": 1}`},
		"NUMERIC":    {big.NewRat(1, 8), field("NUMERIC"), contract.Float64, 0.125},
		"BIGNUMERIC": {big.NewRat(-1, 3), field("BIGNUMERIC"), contract.Float64, -1.0 / 3},
		"DATE":       {day, field("DATE"), contract.String, "2024-03-01"},
		"TIME":       {noon, field("TIME"), contract.String, "12:00:00.000001"},
		"DATETIME":   {civil.DateTime{Date: day, Time: noon}, field("DATETIME"), contract.String, "2024-03-01 12:00:00.000001"},
		"INTERVAL":   {&bigquery.IntervalValue{Days: 1}, field("INTERVAL"), contract.String, "0-0 1 0:0:0"},
		"GEOGRAPHY":  {"POINT(1 2)", field("GEOGRAPHY"), contract.String, "POINT(1 2)"},
		"BYTES":      {[]byte{0, 255}, field("BYTES"), contract.String, "AP8="},
		"RANGE": {&bigquery.RangeValue{Start: day}, &bigquery.FieldSchema{Type: "RANGE", RangeElementType: &bigquery.RangeElementType{Type: "DATE"}},
			contract.JSON, `{"start":"2024-03-01","end":null}`},
		"ARRAY":       {[]bigquery.Value{int64(1), int64(2)}, list(field("INTEGER")), contract.JSON, "[1,2]"},
		"empty ARRAY": {[]bigquery.Value{}, list(field("STRING")), contract.JSON, "[]"},
		"ARRAY JSON":  {[]bigquery.Value{`{"a": 1}`, "null"}, list(field("JSON")), contract.JSON, `[{"a": 1},null]`},
		"STRUCT": {[]bigquery.Value{"it's \"x\"", nil, []bigquery.Value{[]bigquery.Value{1.5}, []bigquery.Value{math.NaN()}}, big.NewRat(20, 1), at, true},
			field("RECORD", named("a", field("STRING")), named("b", field("INTEGER")), named("c", list(field("RECORD", named("d", field("FLOAT"))))),
				named("e", field("NUMERIC")), named("f", field("TIMESTAMP")), named("g", field("BOOLEAN"))),
			contract.JSON, `{"a":"it's \"x\"","b":null,"c":[{"d":1.5},{"d":"NaN"}],"e":20,"f":"2024-03-01T12:00:00.000001Z","g":true}`},
	} {
		got, err := cellOf(test.value, test.field)
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" || typeOf(test.field) != test.kind {
			t.Errorf("%s: a %s, %v, want a %s: (-want +got)\n%s", name, typeOf(test.field), err, test.kind, diff)
		}
	}
	if _, err := cellOf(1, field("INTEGER")); err == nil {
		t.Error("an int passes for an int64")
	}
}
