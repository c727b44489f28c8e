package quality_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/quality/qualitytest"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

func TestDuckDBCountsAsGo(t *testing.T) {
	qualitytest.Run(t, quality.Of(duckdbtest.Open(t)), "DOUBLE", func([]any) bool { return false })
}

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// things is a table whose key is made of its time, as that of readings is.
func things(rules ...contract.Rule) *contract.Table {
	return &contract.Table{
		Schema: "some", Name: "things", Key: []string{"id"}, KeyOf: []string{"taken", "device"}, Time: "taken", Quality: rules,
		Columns: []contract.Column{{Name: "id", Type: contract.String}, {Name: "device", Type: contract.String}, {Name: "taken", Type: contract.Timestamp}, {Name: "value", Type: contract.Float64}},
	}
}

// A window is of whole days, and a rule that would count another number in it looks
// at all rows.
func TestWindow(t *testing.T) {
	day := func(back int) time.Time { return time.Date(2026, 3, 10-back, 0, 0, 0, 0, time.UTC) }
	none := time.Time{}
	for name, test := range map[string]struct {
		rule contract.Rule
		days int
		want time.Time
	}{
		"today":                      {contract.Rule{Column: "value", Metric: "nullValues"}, 1, day(0)},
		"and yesterday":              {contract.Rule{Column: "value", Metric: "invalidValues", Least: "0"}, 2, day(1)},
		"all rows":                   {contract.Rule{Column: "value", Metric: "nullValues"}, 0, none},
		"a query":                    {contract.Rule{Query: "SELECT 1"}, 2, day(1)},
		"how many rows":              {contract.Rule{Metric: "rowCount"}, 2, none},
		"how many rows in a week":    {contract.Rule{Metric: "rowCount", Days: 7}, 2, day(6)},
		"the rule takes more":        {contract.Rule{Column: "value", Metric: "nullValues", Days: 7}, 2, day(6)},
		"the check takes more":       {contract.Rule{Column: "value", Metric: "nullValues", Days: 7}, 35, day(34)},
		"the rule takes all":         {contract.Rule{Column: "value", Metric: "nullValues", Days: contract.Unlimited}, 2, none},
		"the key":                    {contract.Rule{Metric: "duplicateValues", Columns: []string{"id"}}, 2, day(1)},
		"the time and another":       {contract.Rule{Metric: "duplicateValues", Columns: []string{"device", "taken"}}, 2, day(1)},
		"what may be of two days":    {contract.Rule{Metric: "duplicateValues", Columns: []string{"device", "value"}}, 2, none},
		"a column that may be so":    {contract.Rule{Column: "device", Metric: "duplicateValues"}, 2, none},
		"the same, as the rule says": {contract.Rule{Column: "device", Metric: "duplicateValues", Days: 2}, 2, day(1)},
	} {
		if got := (quality.Window{Days: test.days, Now: noon}).From(things(), &test.rule); !got.Equal(test.want) {
			t.Errorf("%s: from %s, want %s", name, got, test.want)
		}
	}
	whole := things()
	whole.Time = ""
	if got := (quality.Window{Days: 2, Now: noon}).From(whole, &contract.Rule{Column: "value", Metric: "nullValues"}); !got.IsZero() {
		t.Errorf("a table without partitions: from %s", got)
	}
}

// Rules that look at rows one by one read the table once, for each window; others
// once each. None names the table out of braces.
func TestStatements(t *testing.T) {
	table := things(
		contract.Rule{ID: "a", Column: "value", Metric: "nullValues"},
		contract.Rule{ID: "b", Column: "id", Metric: "invalidValues", Pattern: "^{x}'$"},
		contract.Rule{ID: "c", Metric: "duplicateValues", Columns: []string{"id"}},
		contract.Rule{ID: "d", Column: "value", Metric: "nullValues", Percent: true},
		contract.Rule{ID: "e", Metric: "rowCount"},
		contract.Rule{ID: "f", Query: "SELECT COUNT(*) FROM some.things AS a JOIN some.others AS b ON a.id = b.id"},
		contract.Rule{ID: "g", Column: "nothing", Metric: "nullValues"},
		contract.Rule{ID: "h", Metric: "guess"},
	)
	var rules []*contract.Rule
	for i := range table.Quality {
		rules = append(rules, &table.Quality[i])
	}
	statements, failed := quality.Statements(table, rules, quality.Window{Days: 1, Now: noon})
	var got []string
	for _, s := range statements {
		ids := ""
		for _, r := range s.Rules {
			ids += r.ID
		}
		got = append(got, ids)
		if out := strings.NewReplacer("{some.things}", "", "{some.others}", "").Replace(s.SQL); strings.Contains(out, "some.") || strings.ContainsAny(out, "{}") {
			t.Errorf("names a table out of braces: %s", s.SQL)
		}
		if in := strings.Contains(s.SQL, "taken >= TIMESTAMP '2026-03-10 00:00:00"); in == s.From.IsZero() {
			t.Errorf("from %s: %s", s.From, s.SQL)
		}
	}
	if want := []string{"abd", "c", "e", "f"}; !slices.Equal(got, want) {
		t.Errorf("statements of the rules %v, want %v", got, want)
	}
	if len(failed) != 2 || failed[rules[6]] == nil || failed[rules[7]] == nil {
		t.Errorf("without SQL: %v", failed)
	}
}

// A statement that takes too long, and a warehouse that is away, are results; and a rule that
// fails does not fail those it shares a statement with.
func TestFailures(t *testing.T) {
	table := things(contract.Rule{ID: "a", Column: "value", Metric: "nullValues"}, contract.Rule{ID: "b", Column: "id", Metric: "nullValues"})
	check := func(ctx context.Context, within time.Duration, query quality.Query) []quality.Result {
		results, _ := quality.Checker{Query: query, Within: within}.Check(ctx, table, quality.Window{})
		if len(results) != 2 || results[0].Rule.ID != "a" || results[1].Rule.ID != "b" {
			t.Fatalf("results %+v", results)
		}
		return results
	}
	for _, r := range check(t.Context(), time.Millisecond, func(ctx context.Context, _ string) (*warehouse.Rows, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}) {
		if !errors.Is(r.Err, quality.ErrSlow) || r.Kept() {
			t.Errorf("%s: %v, want that it is slow", r.Rule.ID, r.Err)
		}
	}
	refused := errors.New("refused")
	asked := 0
	results := check(t.Context(), 0, func(_ context.Context, sql string) (*warehouse.Rows, error) {
		if asked++; strings.Contains(sql, "t.id") {
			return nil, refused
		}
		return &warehouse.Rows{All: func(yield func([]any, error) bool) { yield([]any{int64(3), int64(0)}, nil) }}, nil
	})
	if results[0].Err != nil || results[0].Rows != 3 || !errors.Is(results[1].Err, refused) || asked != 3 {
		t.Errorf("after %d statements: %+v", asked, results)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (quality.Checker{Query: quality.Of(duckdbtest.Open(t))}).Check(ctx, table, quality.Window{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a check that is given up: %v", err)
	}
}

// Over rows a rule that is a query has no number.
func TestRows(t *testing.T) {
	zero := 0.0
	table := things(
		contract.Rule{ID: "a", Query: "SELECT 0", Max: &zero},
		contract.Rule{ID: "b", Column: "id", Metric: "invalidValues", Pattern: "(", Max: &zero},
		contract.Rule{ID: "c", Column: "value", Metric: "nullValues", Max: &zero},
		contract.Rule{ID: "d", Column: "nothing", Metric: "nullValues", Max: &zero},
	)
	results := quality.Rows(table, slices.Values([][]any{{"x", "d", noon, 1.0}, {"y", "d", noon, nil}}))
	if r := results[2]; r.Err != nil || r.Number != 1 || r.Rows != 2 || r.Kept() {
		t.Errorf("%+v", r)
	}
	for _, i := range []int{0, 1, 3} {
		if results[i].Err == nil || results[i].Kept() {
			t.Errorf("%s: %v, want an error", results[i].Rule.ID, results[i].Number)
		}
	}
}
