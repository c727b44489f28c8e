// Package qualitytest says that a warehouse and package quality count the same
// by the same rules, over rows that the two could read in different ways.
package qualitytest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

const name = "odd.things"

// columns of the table that stands nowhere: it is written into each statement, since
// no warehouse stores NaN.
func columns() []contract.Column {
	return []contract.Column{
		{Name: "taken", Type: contract.Timestamp, Required: true},
		{Name: "s", Type: contract.String}, {Name: "f", Type: contract.Float64}, {Name: "i", Type: contract.Int64},
		{Name: "b", Type: contract.Bool}, {Name: "seen", Type: contract.Timestamp},
	}
}

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// What texts and numbers are chosen from.
var (
	texts = []string{
		"", " ", "a", "A", "aa", "ab", "b", "ba", "co2", "CO2", "co2 ", " co2", "n/a", "N/A", "NULL", "null", "-", ".", "..", "a.b", "a\nb", "a\n", "\na", "\n", "\t", "a\tb",
		"a'b", `a"b`, `a\b`, `\`, `\d`, "{x}", "%", "_", "$", "^", "(a)", "[a]", "a|b", "0", "00", "1", "10", "1.5", "-1", "é", "e\u0301", "É", "ß", "ss", "ſ", "K", "ı", "İ", "Ω", "日本", "日", "👩‍👧", "👩", "\u00a0", "\u2028",
		"abc", "xabcx", "abcabc", "2026-03-10", "0123456789abcdef0123456789abcdef", "0123456789ABCDEF0123456789abcdef", "x\u0000y", "true", "e", "E",
	}
	floats = []float64{0, math.Copysign(0, -1), 1, -1, 0.1, 0.30000000000000004, 0.3, 1e-7, 1e21, 1e308, -1e308, 5e-324, 812, 811.9999999999999, 100, 100.00000000000001, 1 << 53, math.NaN(), math.Inf(1), math.Inf(-1)}
	ints   = []int64{0, 1, -1, 2, 3, 100, 1 << 53, -(1 << 53), math.MaxInt64, math.MinInt64}
	times  = []time.Time{noon, noon.Add(time.Microsecond), noon.Add(-time.Microsecond), noon.Truncate(24 * time.Hour), noon.Truncate(24 * time.Hour).Add(-time.Microsecond),
		noon.AddDate(0, 0, -1), noon.AddDate(0, 0, -2), noon.AddDate(0, 0, -40), noon.AddDate(0, 0, 1), time.Unix(0, 0).UTC(), time.Date(1969, 12, 31, 23, 59, 59, 999999000, time.UTC)}
)

var patterns = []string{
	"a", "^a", "a$", "^a$", "^a*$", "a*", "", "^$", "^.$", "^..$", "(?s)^.$", "(?m)^b$", "(?i)^co2$", "(?i)k", "(?i)ß", "(?i)s", `^\w+$`, `\d`, `^\d+$`, `\s`, `^\s*$`, `^[a-z]+$`, "^[^a]*$", `\.`, `\\`,
	`^\pL+$`, `\p{Han}`, "é", "^(a|b)$", "(a)(b)", "^(a)?b", "a|^$", "(abc)+$", "^(?:abc){2}$", "^[0-9a-f]{32}$", "[[:upper:]]", `\bb`, `\x00`, "{x}", `\$`, "'", `"`, "^.{2,3}$", `\z`, `\A\z`, "(?U)a+", `[\d.]+$`, "[^ -~]",
}

func rules() []contract.Rule {
	zero := 0.0
	var all []contract.Rule
	add := func(r contract.Rule) {
		r.ID = fmt.Sprintf("r%d", len(all))
		r.Min, r.Max = &zero, &zero
		all = append(all, r)
		if r.Metric != "rowCount" && (r.Metric != "duplicateValues" || len(r.Columns) == 5) {
			r.Percent = true
			r.ID += "percent"
			all = append(all, r)
		}
	}
	for _, c := range columns() {
		add(contract.Rule{Column: c.Name, Metric: "nullValues"})
		add(contract.Rule{Column: c.Name, Metric: "duplicateValues"})
	}
	for _, of := range [][]string{{"s", "f"}, {"f", "i", "b"}, {"taken", "s"}, {"seen", "i"}, {"s", "f", "i", "b", "taken", "seen"}} {
		add(contract.Rule{Metric: "duplicateValues", Columns: of})
	}
	add(contract.Rule{Metric: "rowCount"})
	for _, pattern := range patterns {
		if pattern != "" {
			add(contract.Rule{Column: "s", Metric: "invalidValues", Pattern: pattern})
		}
	}
	for _, values := range [][]string{{"a"}, {""}, {"co2", "CO2"}, {"a'b", `a\b`, "{x}", "a\nb"}, {"é", "ß", "日本"}, {"x\u0000y"}, texts} {
		add(contract.Rule{Column: "s", Metric: "invalidValues", Values: values})
		add(contract.Rule{Column: "s", Metric: "missingValues", Missing: values})
	}
	add(contract.Rule{Column: "s", Metric: "missingValues"})
	for _, values := range [][]string{{"0"}, {"0.1", "0.3"}, {"1e+21", "812", "5e-324"}, {"-1e+308"}} {
		add(contract.Rule{Column: "f", Metric: "invalidValues", Values: values})
		add(contract.Rule{Column: "f", Metric: "missingValues", Missing: values})
	}
	for _, values := range [][]string{{"0"}, {"1", "-1"}, {"9007199254740992"}} {
		add(contract.Rule{Column: "i", Metric: "invalidValues", Values: values})
		add(contract.Rule{Column: "i", Metric: "missingValues", Missing: values})
	}
	add(contract.Rule{Column: "b", Metric: "invalidValues", Values: []string{"true"}})
	for _, span := range [][2]string{{"0", ""}, {"", "0"}, {"0", "100"}, {"-1", "812"}, {"0.3", "0.30000000000000004"}, {"-1e+308", "1e+308"}, {"1e+308", ""}, {"", "-1e+308"}} {
		add(contract.Rule{Column: "f", Metric: "invalidValues", Least: span[0], Most: span[1]})
	}
	for _, span := range [][2]string{{"0", ""}, {"", "0"}, {"-1", "100"}, {"9007199254740992", ""}} {
		add(contract.Rule{Column: "i", Metric: "invalidValues", Least: span[0], Most: span[1]})
	}
	for _, span := range [][2]string{{"2026-03-10T12:00:00Z", ""}, {"", "2026-03-10T12:00:00Z"}, {"1970-01-01T00:00:00Z", "2026-03-10T12:00:00.000001Z"}} {
		add(contract.Rule{Column: "seen", Metric: "invalidValues", Least: span[0], Most: span[1]})
	}
	return all
}

// atOnce is how many rows a statement holds: the emulator of BigQuery ends itself
// over 300.
const atOnce = 50

// tables of rows: none, one of NULLs, and some hundreds of everything in turns.
func tables() [][][]any {
	random := rand.New(rand.NewPCG(8, 2026))
	var many [][]any
	for _, s := range texts {
		many = append(many, []any{noon, s, nil, nil, nil, nil})
	}
	for _, f := range floats {
		many = append(many, []any{noon, nil, f, nil, nil, nil})
	}
	for _, at := range times {
		many = append(many, []any{at, nil, nil, nil, nil, at})
	}
	for len(many) < 300 {
		row := []any{times[random.IntN(len(times))], texts[random.IntN(len(texts))], floats[random.IntN(len(floats))], ints[random.IntN(len(ints))],
			random.IntN(2) == 0, times[random.IntN(len(times))]}
		for i := 1; i < len(row); i++ {
			if random.IntN(6) == 0 {
				row[i] = nil
			}
		}
		many = append(many, row)
		if random.IntN(4) == 0 {
			many = append(many, slices.Clone(row))
		}
	}
	all := [][][]any{nil, {{noon, nil, nil, nil, nil, nil}}}
	for rows := range slices.Chunk(many, atOnce) {
		all = append(all, rows)
	}
	return all
}

// Run holds the answers of query, which runs SQL over no table, against what
// package quality counts of the same rows. Float is what the warehouse calls
// the type FLOAT64. Rows of which lacks is true are left out: those that what stands in
// for the warehouse cannot hold.
func Run(t *testing.T, query quality.Query, float string, lacks func(row []any) bool) {
	table := contract.Table{Schema: "odd", Name: "things", Columns: columns(), Key: []string{"taken", "s"}, Time: "taken", Quality: rules()}
	windows := []quality.Window{{}, {Days: 1, Now: noon}, {Days: 3, Now: noon}}
	for at, rows := range tables() {
		rows = slices.DeleteFunc(rows, lacks)
		checker := quality.Checker{Query: func(ctx context.Context, sql string) (*warehouse.Rows, error) {
			return query(ctx, strings.ReplaceAll(sql, "{"+name+"}", written(rows, float)))
		}}
		window := windows[at%len(windows)]
		t.Run(fmt.Sprintf("%d, %d rows/%d days", at, len(rows), window.Days), func(t *testing.T) {
			got, err := checker.Check(t.Context(), &table, window)
			if err != nil {
				t.Fatal(err)
			}
			for i := range table.Quality {
				r := &table.Quality[i]
				from := window.From(&table, r)
				one := table
				one.Quality = []contract.Rule{*r}
				want := quality.Rows(&one, slices.Values(slices.DeleteFunc(slices.Clone(rows), func(row []any) bool { return row[0].(time.Time).Before(from) })))[0]
				if want.Err != nil {
					t.Fatalf("%s: %v", about(r), want.Err)
				}
				if g := got[i]; g.Err != nil || g.Number != want.Number || g.Rows != want.Rows || g.Kept() != want.Kept() || !g.From.Equal(from) {
					t.Errorf("%s: the warehouse counts %v of %d rows (%.300v), want %v of %d", about(r), g.Number, g.Rows, g.Err, want.Number, want.Rows)
				}
			}
		})
		t.Run(fmt.Sprintf("%d, %d rows/queries", at, len(rows)), func(t *testing.T) { queries(t, checker, table, rows) })
	}
}

// queries are rules that a contract writes as SQL: they look at the window's rows
// of their table whatever it is called in them.
func queries(t *testing.T, checker quality.Checker, table contract.Table, rows [][]any) {
	from := quality.Window{Days: 2, Now: noon}.From(&table, &contract.Rule{})
	recent, nulls := 0, 0
	for _, row := range rows {
		if row[0].(time.Time).Before(from) {
			continue
		}
		recent++
		if row[1] == nil {
			nulls++
		}
	}
	want := map[string]float64{
		"SELECT COUNT(*) FROM odd.things":                                                               float64(recent),
		"SELECT COUNT(*) FROM odd.things WHERE s IS NULL":                                               float64(nulls),
		"SELECT COUNT(*) FROM odd.things WHERE things.s IS NULL":                                        float64(nulls),
		"SELECT COUNT(*) FROM odd.things AS x WHERE x.s IS NULL":                                        float64(nulls),
		"select count(*) from odd.things x where x.s is null":                                           float64(nulls),
		"SELECT COUNT(DISTINCT x.taken) FROM odd.things AS x JOIN odd.things AS y ON x.taken = y.taken": float64(distinct(rows, from)),
		"SELECT COUNT(*) / 2e0 FROM odd.things\nWHERE TRUE":                                             float64(recent) / 2,
		"SELECT COUNT(*) FROM (SELECT s FROM odd.things GROUP BY s) AS g WHERE FALSE":                   0,
		"SELECT COUNT(*) FROM odd.things LEFT JOIN (SELECT 1 AS one) AS o ON o.one = 2 WHERE s IS NULL": float64(nulls),
	}
	for sql, want := range want {
		table.Quality = []contract.Rule{{ID: "q", Query: sql, Max: &want, Min: &want}}
		got, err := checker.Check(t.Context(), &table, quality.Window{Days: 2, Now: noon})
		if err != nil || got[0].Err != nil || got[0].Number != want || !got[0].Kept() || got[0].Rows != -1 {
			t.Errorf("%s: %v, %v, %v; want %v", sql, got[0].Number, got[0].Err, err, want)
		}
	}
	table.Quality = []contract.Rule{{ID: "n", Metric: "rowCount"}, {ID: "q", Query: "SELECT nothing FROM odd.things"}, {ID: "none", Query: "SELECT MAX(s) FROM odd.things"}, {ID: "p", Column: "s", Metric: "invalidValues", Pattern: "("}}
	got, err := checker.Check(t.Context(), &table, quality.Window{})
	if err != nil || got[0].Err != nil || got[0].Number != float64(len(rows)) {
		t.Errorf("a rule beside some that are wrong: %+v, %v", got[0], err)
	}
	for _, r := range got[1:] {
		if r.Rule.ID == "p" && len(rows) < 2 {
			continue // no text to look for a pattern in
		}
		if r.Err == nil || r.Kept() {
			t.Errorf("%s: %v, want an error", r.Rule.ID, r.Number)
		}
	}
}

func distinct(rows [][]any, from time.Time) int {
	all := map[int64]bool{}
	for _, row := range rows {
		if at := row[0].(time.Time); !at.Before(from) {
			all[at.UnixMicro()] = true
		}
	}
	return len(all)
}

func about(r *contract.Rule) string {
	return fmt.Sprintf("%s of %s%v, values %q%q, pattern %q, %s to %s, percent %t", r.Metric, r.Column, r.Columns, r.Values, r.Missing, r.Pattern, r.Least, r.Most, r.Percent)
}

// written is rows in SQL, as what stands behind FROM. Numbers are read from texts
// as the statement runs, which the emulator of BigQuery needs for NaN.
func written(rows [][]any, float string) string {
	nothing := "SELECT CAST(NULL AS TIMESTAMP) AS taken, CAST(NULL AS STRING) AS s, CAST(NULL AS STRING) AS f, CAST(NULL AS INT64) AS i, CAST(NULL AS BOOL) AS b, CAST(NULL AS TIMESTAMP) AS seen"
	for _, row := range rows {
		var cells []string
		for i, c := range columns() {
			cells = append(cells, cell(row[i], c.Type))
		}
		nothing += " UNION ALL SELECT " + strings.Join(cells, ", ")
	}
	return "(SELECT taken, s, CAST(f AS " + float + ") AS f, i, b, seen FROM (" + nothing + ") AS o WHERE taken IS NOT NULL)"
}

func cell(value any, as contract.Type) string {
	switch v := value.(type) {
	case string:
		return literal.Text(v)
	case float64:
		return "'" + strconv.FormatFloat(v, 'g', -1, 64) + "'"
	case int64:
		return "CAST('" + strconv.FormatInt(v, 10) + "' AS INT64)"
	case bool:
		return strconv.FormatBool(v)
	case time.Time:
		return literal.Time(mesh.At(v))
	}
	if as == contract.Float64 {
		as = contract.String
	}
	return "CAST(NULL AS " + string(as) + ")"
}
