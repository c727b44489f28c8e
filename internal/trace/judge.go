package trace

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
)

// rules are what makes one row of a reading count and not another, the first
// first: warehouse.Warehouse.Append has them. Of each the greater counts.
var rules = []struct {
	columns []string
	wins    string // of the row that counts
	lost    string // of one that does not
}{
	{[]string{"revision"}, "the highest revision", "a lower revision"},
	{[]string{"assignment_version"}, "the latest decision about the tenant", "an earlier decision about the tenant"},
	{[]string{"value", "value_string", "value_bool"}, "the greatest of conflicting values", "a lesser one of conflicting values"},
	{[]string{"judged"}, "the judgement that knew most", "judged by who knew less, or not at all"},
	{[]string{"join_version"}, "joined by who knew most", "joined by who knew less"},
}

// The columns that differ between rows of a reading that say the same, and
// those that the store makes.
var (
	provenance = []string{"received_at", "event_source", "event_id", "attributes"}
	made       = []string{contract.Revision, "quality", contract.RecordedAt}
)

// judge orders the rows of a reading as they were recorded, and says which of
// them counts and why, and why the others do not. shown is what the port shows;
// nil: nothing.
func judge(rows []Row, shown Row) []Revision {
	slices.SortStableFunc(rows, func(a, b Row) int {
		return cmp.Or(compare(a, b, contract.RecordedAt), -ahead(a, b, nil))
	})
	counts, second := 0, -1
	for i := 1; i < len(rows); i++ {
		if ahead(rows[i], rows[counts], shown) > 0 {
			counts, second = i, counts
		} else if second < 0 || ahead(rows[i], rows[second], shown) > 0 {
			second = i
		}
	}
	out := make([]Revision, len(rows))
	for i, r := range rows {
		out[i] = Revision{Row: r, Counts: i == counts}
		switch {
		case i != counts:
			out[i].Why = why(r, rows[counts], false)
		case second < 0:
			out[i].Why = "the only one"
		default:
			out[i].Why = why(r, rows[second], true)
		}
	}
	return out
}

// ahead is positive if a counts and not b.
func ahead(a, b, shown Row) int {
	for _, rule := range rules {
		if c := compare(a, b, rule.columns...); c != 0 {
			return c
		}
	}
	// What is left has no order that means something; the port tells which it took.
	if c := cmp.Compare(says(a, shown), says(b, shown)); c != 0 {
		return c
	}
	return -compare(a, b, provenance...)
}

// says is how many columns a row has as the port shows them.
func says(r, shown Row) (n int) {
	for column, cell := range shown {
		if !slices.Contains(made, column) && !slices.Contains(provenance, column) && reflect.DeepEqual(r[column], cell) {
			n++
		}
	}
	return n
}

// why says what puts r before or behind another row.
func why(r, other Row, wins bool) string {
	for _, rule := range rules {
		for _, column := range rule.columns {
			if compare(r, other, column) == 0 {
				continue
			}
			reason, than := rule.lost, "<"
			if wins {
				reason, than = rule.wins, ">"
			}
			return fmt.Sprintf("%s (%s %v %s %v)", reason, column, show(r[column]), than, show(other[column]))
		}
	}
	var differ []string
	for _, row := range []Row{r, other} {
		for column := range row {
			if !slices.Contains(made, column) && !slices.Contains(provenance, column) && !reflect.DeepEqual(r[column], other[column]) {
				differ = append(differ, column)
			}
		}
	}
	if len(differ) > 0 {
		slices.Sort(differ)
		return fmt.Sprintf("differs in %s", strings.Join(slices.Compact(differ), ", "))
	}
	if wins {
		return "says the same as another and came first"
	}
	return "says the same and came later"
}

func show(cell any) any {
	if cell == nil {
		return "NULL"
	}
	return cell
}

// compare orders two rows by columns; NULL comes first.
func compare(a, b Row, columns ...string) int {
	for _, column := range columns {
		if c := compareCells(a[column], b[column]); c != 0 {
			return c
		}
	}
	return 0
}

func compareCells(a, b any) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	switch a := a.(type) {
	case string:
		return cmp.Compare(a, b.(string))
	case float64:
		return cmp.Compare(a, b.(float64))
	case int64:
		return cmp.Compare(a, b.(int64))
	case mesh.Instant:
		return cmp.Compare(a, b.(mesh.Instant))
	}
	return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) // false before true; JSON has no order
}
