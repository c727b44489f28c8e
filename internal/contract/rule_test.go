package contract_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
)

// All bounds of the standard, and what their numbers are.
func TestBounds(t *testing.T) {
	const from = "        mustBe: 0\n        dimension: uniqueness"
	for bound, test := range map[string]struct {
		wanted string
		holds  []float64
		not    []float64
	}{
		"mustBe: 2":                                       {"2", []float64{2}, []float64{1.999, 2.001}},
		"mustNotBe: 2":                                    {"not 2", []float64{1, 3}, []float64{2}},
		"mustBeGreaterThan: 2":                            {"more than 2", []float64{2.1}, []float64{2, 1}},
		"mustBeGreaterOrEqualTo: 2":                       {"at least 2", []float64{2, 3}, []float64{1.9}},
		"mustBeLessThan: 2":                               {"less than 2", []float64{1.9, -3}, []float64{2, 3}},
		"mustBeLessOrEqualTo: 2":                          {"at most 2", []float64{2, -1}, []float64{2.1}},
		"mustBeBetween: [1, 3]":                           {"1 to 3", []float64{1, 2, 3}, []float64{0.9, 3.1}},
		"mustNotBeBetween: [1, 3]":                        {"not 1 to 3", []float64{0.9, 3.1}, []float64{1, 2, 3}},
		"unit: percent\n        mustBeLessOrEqualTo: 0.5": {"at most 0.5 %", []float64{0.5}, []float64{0.6}},
	} {
		all, err := contract.Load(edited(t, "customers/customers.odcs.yaml", from, "        "+bound+"\n        dimension: uniqueness"))
		if err != nil {
			t.Fatalf("%s: %v", bound, err)
		}
		r := &at(t, all, "customers.customers").Quality[0]
		if got := r.Wanted(); got != test.wanted {
			t.Errorf("%s: wanted is %q, want %q", bound, got, test.wanted)
		}
		for _, n := range test.holds {
			if !r.Holds(n) {
				t.Errorf("%s does not hold of %v", bound, n)
			}
		}
		for _, n := range append(test.not, math.NaN()) {
			if r.Holds(n) {
				t.Errorf("%s holds of %v", bound, n)
			}
		}
	}
}

// What a contract says by the words of the standard, and what a rule is called that it
// gives no name.
func TestRules(t *testing.T) {
	const file, was = "iot-analytics/readings.odcs.yaml", "arguments: {pattern: '^[0-9a-f]{32}$'}"
	load := func(changes ...string) *contract.Rule {
		t.Helper()
		all, err := contract.Load(edited(t, file, changes...))
		if err != nil {
			t.Fatal(err)
		}
		rules := at(t, all, "iot_analytics.readings").Quality
		for i := range rules {
			if rules[i].Column == "reading_id" {
				return &rules[i]
			}
		}
		t.Fatal("no rule of reading_id")
		return nil
	}
	zero := 0.0
	want := contract.Rule{ID: "reading_id.pattern", Column: "reading_id", Metric: "invalidValues", Pattern: "^[0-9a-f]{32}$", Min: &zero, Max: &zero}
	given := load()
	want.Purpose, want.Dimension = given.Purpose, given.Dimension
	if diff := cmp.Diff(&want, given); diff != "" {
		t.Errorf("a rule (-want +got)\n%s", diff)
	}
	if r := load(was, "arguments: {validValues: [a, 'b c']}\n            severity: error\n            id: few"); r.ID != "few" || r.Severity != "error" || len(r.Values) != 2 || r.Values[1] != "b c" {
		t.Errorf("valid values: %+v", r)
	}
	if r := load("metric: invalidValues", "metric: missingValues", was, "arguments: {missingValues: [null, n/a]}\n            unit: percent"); r.ID != "reading_id.missingValues.percent" || len(r.Missing) != 1 || !r.Percent {
		t.Errorf("missing values: %+v", r)
	}
	if r := load("type: library\n            metric: invalidValues", "type: sql\n            query: SELECT COUNT(*) FROM ${table} WHERE ${column}  = 'x'", "            "+was+"\n", ""); r.Query != "SELECT COUNT(*) FROM iot_analytics.readings WHERE reading_id  = 'x'" ||
		r.ID != "reading_id.sql.e227ea63" {
		t.Errorf("a query: %+v", r)
	}
	const minutes = "      - name: minutes_since_action\n"
	all, err := contract.Load(edited(t, file, minutes, "      - name: more\n        logicalType: number\n        physicalType: FLOAT64\n        classification: internal\n        description: More.\n"+
		"        quality:\n          - {type: library, metric: invalidValues, mustBe: 0, description: In range., arguments: {minimum: 0, maximum: 1e3},\n             customProperties: [{property: days, value: 7}]}\n"+
		"          - {type: library, metric: invalidValues, mustBe: 0, description: A few., arguments: {validValues: [0, 0.1, 1e21]},\n             customProperties: [{property: days, value: unlimited}]}\n"+minutes))
	if err != nil {
		t.Fatal(err)
	}
	var got []contract.Rule
	for _, r := range at(t, all, "iot_analytics.readings").Quality {
		if r.Column == "more" {
			got = append(got, r)
		}
	}
	if diff := cmp.Diff([]contract.Rule{
		{ID: "more.range", Column: "more", Metric: "invalidValues", Least: "0", Most: "1000", Min: &zero, Max: &zero, Days: 7, Purpose: "In range."},
		{ID: "more.validValues", Column: "more", Metric: "invalidValues", Values: []string{"0", "0.1", "1e+21"}, Min: &zero, Max: &zero, Days: contract.Unlimited, Purpose: "A few."},
	}, got); diff != "" {
		t.Errorf("rules of numbers (-want +got)\n%s", diff)
	}
}

// What allows more is looser, and what allows less, or is counted in other ways, tighter.
func TestRulesCompared(t *testing.T) {
	n := func(f float64) *float64 { return &f }
	base := contract.Rule{ID: "a", Column: "value", Metric: "invalidValues", Least: "0", Most: "10", Min: n(1), Max: n(3)}
	for name, test := range map[string]struct {
		change  func(*contract.Rule)
		looser  bool
		tighter bool
	}{
		"the same, called otherwise": {func(r *contract.Rule) { r.ID = "b" }, false, false},
		"wider":                      {func(r *contract.Rule) { r.Max = n(4) }, true, false},
		"narrower":                   {func(r *contract.Rule) { r.Min = n(2) }, false, true},
		"other values":               {func(r *contract.Rule) { r.Most = "12" }, true, false},
		"fewer values":               {func(r *contract.Rule) { r.Most = "9.5" }, false, true},
		"no least":                   {func(r *contract.Rule) { r.Least = "" }, true, false},
		"outside":                    {func(r *contract.Rule) { r.Outside = true }, false, true},
		"beyond":                     {func(r *contract.Rule) { r.Max, r.Exclusive = nil, true }, false, true},
		"more days":                  {func(r *contract.Rule) { r.Days = 3 }, false, true},
	} {
		was, is := load(t), load(t)
		changed := base
		test.change(&changed)
		for list, rule := range map[*[]contract.Product]contract.Rule{&was: base, &is: changed} {
			table := at(t, *list, "iot_telemetry.readings")
			table.Quality = append(table.Quality, rule)
		}
		var looser, tighter bool
		for _, c := range contract.Compare(was, is) {
			looser, tighter = looser || c.What == contract.RuleLoosened, tighter || c.What == contract.RuleTightened
		}
		if looser != test.looser || tighter != test.tighter {
			t.Errorf("%s: looser %t, tighter %t", name, looser, tighter)
		}
	}
}
