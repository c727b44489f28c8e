package trace

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Which row counts does not depend on the order in which they were recorded.
func TestJudge(t *testing.T) {
	row := func(revision, assignment int64, value float64, more Row) Row {
		r := Row{"revision": revision, "assignment_version": assignment, "value": value, "received_at": mesh.Instant(1), "event_source": "/s", "event_id": "1"}
		for column, cell := range more {
			r[column] = cell
		}
		return r
	}
	for _, test := range []struct {
		name         string
		counts, lost Row
		shown        Row
		won, why     string
	}{
		{"a correction by its source", row(1, 1, 5, nil), row(0, 9, 9, nil), nil,
			"the highest revision (revision 1 > 0)", "a lower revision (revision 0 < 1)"},
		{"a correction of the tenant", row(0, 3, 5, nil), row(0, 2, 9, nil), nil,
			"the latest decision about the tenant (assignment_version 3 > 2)", "an earlier decision about the tenant (assignment_version 2 < 3)"},
		{"a conflict", row(0, 2, 9, Row{"join_version": int64(1)}), row(0, 2, 5, Row{"join_version": int64(2)}), nil,
			"the greatest of conflicting values (value 9 > 5)", "a lesser one of conflicting values (value 5 < 9)"},
		{"a text and a number", row(0, 2, 1, nil), Row{"revision": int64(0), "assignment_version": int64(2), "value_string": "x"}, nil,
			"the greatest of conflicting values (value 1 > NULL)", "a lesser one of conflicting values (value NULL < 1)"},
		{"a better informed join", row(0, 2, 5, Row{"join_version": int64(8), "room": "1"}), row(0, 2, 5, Row{"join_version": int64(7), "room": "2"}), nil,
			"joined by who knew most (join_version 8 > 7)", "joined by who knew less (join_version 7 < 8)"},
		{"what has no order", row(0, 2, 5, Row{"room": "1"}), row(0, 2, 5, Row{"room": "2", "floor": "1"}), row(3, 2, 5, Row{"room": "1", "quality": "conflict"}),
			"differs in floor, room", "differs in floor, room"},
		{"the same twice", row(0, 2, 5, nil), row(0, 2, 5, Row{"received_at": mesh.Instant(2)}), nil,
			"says the same as another and came first", "says the same and came later"},
	} {
		for _, countsFirst := range []bool{true, false} {
			first, second := mesh.Instant(1), mesh.Instant(2)
			if !countsFirst {
				first, second = second, first
			}
			test.counts["recorded_at"], test.lost["recorded_at"] = first, second
			want := []Revision{{Row: test.counts, Counts: true, Why: test.won}, {Row: test.lost, Why: test.why}}
			if !countsFirst {
				want[0], want[1] = want[1], want[0]
			}
			if diff := cmp.Diff(want, judge([]Row{test.lost, test.counts}, test.shown)); diff != "" {
				t.Errorf("%s, recorded first: %t (-want +got):\n%s", test.name, countsFirst, diff)
			}
		}
	}
	only := judge([]Row{row(0, 0, 1, nil)}, nil)
	if len(only) != 1 || !only[0].Counts || only[0].Why != "the only one" {
		t.Errorf("judge of one row = %v", only)
	}
	three := judge([]Row{row(0, 1, 5, Row{"recorded_at": mesh.Instant(1)}), row(0, 3, 5, Row{"recorded_at": mesh.Instant(2)}), row(0, 2, 5, Row{"recorded_at": mesh.Instant(3)})}, nil)
	if want := "the latest decision about the tenant (assignment_version 3 > 2)"; three[1].Why != want || !three[1].Counts {
		t.Errorf("of three the second counts: %t, %q, want %q", three[1].Counts, three[1].Why, want)
	}
}

// Of text that an encoder may write with escapes, the bytes say nothing.
func TestHas(t *testing.T) {
	for s, want := range map[string]string{
		"eui-70b3": `STRPOS(data, '"eui-70b3"') > 0`, "o'neill": `STRPOS(data, CONCAT('"o', CHR(39), 'neill"')) > 0`,
		"a/b": "data IS NOT NULL", `a"b`: "data IS NOT NULL", `a\b`: "data IS NOT NULL", "é": "data IS NOT NULL", "a&b": "data IS NOT NULL", "\x7f": "data IS NOT NULL",
	} {
		if got := has(s); got != want {
			t.Errorf("has(%q) = %s, want %s", s, got, want)
		}
	}
}

func TestIs(t *testing.T) {
	const id = `REPLACE(JSON_VALUE(extensions, '$.causeid'), '"', '')`
	for _, tt := range []struct {
		values []string
		want   string
	}{
		{[]string{"b", "a", "b"}, id + " IN ('a', 'b')"},
		{[]string{"/telemesh/é"}, id + " IN ('/telemesh/é')"},
		{[]string{"a", `b"`}, id + " IS NOT NULL"},
		{[]string{`a\b`}, id + " IS NOT NULL"},
	} {
		if got := eventlog.ExtensionIs("causeid", tt.values...); got != tt.want {
			t.Errorf("eventlog.ExtensionIs(causeid, %q) = %s, want %s", tt.values, got, tt.want)
		}
	}
}
