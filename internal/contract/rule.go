package contract

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Holds says whether a number is what the rule wants.
func (r *Rule) Holds(n float64) bool {
	in := (r.Min == nil || n > *r.Min || n == *r.Min && !r.Exclusive) && (r.Max == nil || n < *r.Max || n == *r.Max && !r.Exclusive)
	return in != r.Outside && !math.IsNaN(n)
}

// Wanted is what Holds is true of, in words: 0, at most 3, 1 to 10 %.
func (r *Rule) Wanted() string {
	var s string
	number := func(n *float64) string { return strconv.FormatFloat(*n, 'f', -1, 64) }
	switch {
	case r.Min != nil && r.Max != nil && *r.Min == *r.Max:
		s = number(r.Min)
	case r.Min != nil && r.Max != nil:
		s = number(r.Min) + " to " + number(r.Max)
	case r.Min != nil && r.Exclusive:
		s = "more than " + number(r.Min)
	case r.Min != nil:
		s = "at least " + number(r.Min)
	case r.Max != nil && r.Exclusive:
		s = "less than " + number(r.Max)
	case r.Max != nil:
		s = "at most " + number(r.Max)
	}
	if r.Outside {
		s = "not " + s
	}
	if r.Percent {
		s += " %"
	}
	return s
}

// kind tells rules of one column and metric apart.
func (r *Rule) kind() string {
	switch {
	case r.Pattern != "":
		return "pattern"
	case r.Least != "" || r.Most != "":
		return "range"
	case len(r.Values) > 0:
		return "validValues"
	}
	return ""
}

// subject is what the rule counts. A table has one rule about it.
func (r *Rule) subject() string {
	return strings.Join([]string{r.Column, r.Metric, strings.Join(strings.Fields(r.Query), " "), list(slices.Sorted(slices.Values(r.Columns))), r.kind(), fmt.Sprint(r.Percent)}, "\n")
}

// name is the id of a rule that the contract gives none. It is the same as long
// as the rule counts the same, and none that a contract may give.
func (r *Rule) name() string {
	parts := []string{r.Column, r.Metric}
	if kind := r.kind(); kind != "" {
		parts[1] = kind
	}
	if r.Metric == "" {
		parts[1] = fmt.Sprintf("sql.%x", sha256.Sum256([]byte(strings.Join(strings.Fields(r.Query), " "))))[:len("sql.")+8]
	}
	parts = append(parts, r.Columns...)
	if r.Percent {
		parts = append(parts, "percent")
	}
	if r.Column == "" {
		return "table." + strings.Join(parts[1:], ".")
	}
	return strings.Join(parts, ".")
}

// allows says that whatever keeps to the other rule about the same keeps to r.
func (r *Rule) allows(other *Rule) bool {
	same := func(a, b *float64) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }
	beyond := func(bound, by *float64, sign float64) bool { // by lets through what bound does not
		switch {
		case bound == nil:
			return false
		case by == nil:
			return true
		case *by == *bound:
			return r.Exclusive && !other.Exclusive
		}
		return (*bound-*by)*sign > 0
	}
	switch {
	case r.Outside || other.Outside:
		if r.Outside != other.Outside || r.Exclusive != other.Exclusive || !same(r.Min, other.Min) || !same(r.Max, other.Max) {
			return false
		}
	case beyond(r.Min, other.Min, 1), beyond(r.Max, other.Max, -1):
		return false
	}
	switch {
	case r.Pattern != other.Pattern: // who knows
		return false
	case r.Least != "" && (other.Least == "" || compareValues(other.Least, r.Least) < 0), r.Most != "" && (other.Most == "" || compareValues(other.Most, r.Most) > 0):
		return false
	case slices.ContainsFunc(r.Missing, func(v string) bool { return !slices.Contains(other.Missing, v) }):
		return false
	case r.Days != other.Days && r.Days != 0 && (other.Days == 0 || r.Days == Unlimited || other.Days != Unlimited && other.Days < r.Days):
		return false
	}
	return !slices.ContainsFunc(other.Values, func(v string) bool { return !slices.Contains(r.Values, v) })
}

// compareValues orders two numbers, or two timestamps, as a rule writes them.
func compareValues(a, b string) int {
	x, err := strconv.ParseFloat(a, 64)
	y, other := strconv.ParseFloat(b, 64)
	if err == nil && other == nil {
		return cmp.Compare(x, y)
	}
	from, _ := time.Parse(time.RFC3339Nano, a)
	to, _ := time.Parse(time.RFC3339Nano, b)
	return from.Compare(to)
}

func (r *Rule) bounds() string {
	s := r.Wanted()
	switch r.Metric {
	case "invalidValues":
		s += " not of " + none(list(r.Values)+r.Pattern+r.span())
	case "missingValues":
		s += " of NULL or " + none(list(r.Missing))
	}
	switch {
	case r.Days == Unlimited:
		s += " in all rows"
	case r.Days > 0:
		s += fmt.Sprintf(" in %d days", r.Days)
	}
	return s
}

// span is the range of valid values; empty: there is none.
func (r *Rule) span() string {
	switch {
	case r.Least != "" && r.Most != "":
		return r.Least + " to " + r.Most
	case r.Least != "":
		return "at least " + r.Least
	case r.Most != "":
		return "at most " + r.Most
	}
	return ""
}

// loadQuality sets the rules of the table and then those of its columns.
func (t *Table) loadQuality(file string, s *schemaObject) error {
	var faults []error
	load := func(column, field string, rules []quality) {
		for i := range rules {
			field := fmt.Sprintf("%s.quality[%d]", field, i)
			r, err := t.loadRule(file, field, column, &rules[i])
			for _, other := range t.Quality {
				switch {
				case err != nil:
				case other.subject() == r.subject():
					err = fieldError(file, field, r.Purpose, "one rule about the same")
				case other.ID == r.ID:
					err = fieldError(file, field+".id", r.ID, "an id that no other rule of the table has")
				}
			}
			faults = append(faults, err)
			t.Quality = append(t.Quality, r)
		}
	}
	load("", "schema[0]", s.Quality)
	for i, c := range s.Properties {
		load(c.Name, fmt.Sprintf("schema[0].properties[%d]", i), c.Quality)
	}
	if t.port() && len(t.Quality) == 0 {
		faults = append(faults, fieldError(file, "schema[0].quality", "", "at least one rule, since "+t.FullName()+" is an output port"))
	}
	return errors.Join(faults...)
}

// stable is what the standard takes as an id.
var stable = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// metrics of the standard, and what each is of.
var metrics = map[string]scope{
	"nullValues": {column: true}, "missingValues": {column: true}, "invalidValues": {column: true},
	"duplicateValues": {column: true, table: true}, "rowCount": {table: true},
}

type scope struct{ column, table bool }

func (s scope) of(column string) bool { return column != "" && s.column || column == "" && s.table }

func (t *Table) loadRule(file, field, column string, q *quality) (Rule, error) {
	r := Rule{
		ID: cmp.Or(q.ID, q.Name), Column: column, Metric: q.Metric, Query: q.Query, Purpose: q.Description, Dimension: q.Dimension,
		Severity: q.Severity, Columns: q.Arguments.Properties, Pattern: q.Arguments.Pattern, Percent: q.Unit == "percent",
	}
	switch {
	case r.ID != "" && !stable.MatchString(r.ID) || q.ID != "" && q.Name != "":
		return r, fieldError(file, field+".id", r.ID, "letters, digits, _ and -; as id or as name, and not as both")
	case q.Description == "":
		return r, fieldError(file, field+".description", "", "a text")
	case q.Unit != "" && q.Unit != "rows" && (q.Unit != "percent" || q.Type == "sql" || q.Metric == "rowCount"):
		return r, fieldError(file, field+".unit", q.Unit, "rows; or percent, of what is counted by a metric other than rowCount")
	case q.Type == "sql":
		if q.Query == "" || q.Metric != "" {
			return r, fieldError(file, field+".query", q.Query, "a query, and no metric beside it")
		}
		// The standard's names for what the rule stands at.
		r.Query = strings.NewReplacer("${table}", t.FullName(), "${object}", t.FullName()).Replace(r.Query)
		if column != "" {
			r.Query = strings.NewReplacer("${column}", column, "${property}", column).Replace(r.Query)
		}
		if at := strings.Index(r.Query, "${"); at >= 0 {
			return r, fieldError(file, field+".query", r.Query[at:], "${table}, or ${column} of a rule of a column")
		}
	case q.Type != "library":
		return r, fieldError(file, field+".type", q.Type, "library or sql")
	case q.Query != "":
		return r, fieldError(file, field+".query", q.Query, "none, since the type is library")
	case !metrics[q.Metric].of(column):
		return r, fieldError(file, field+".metric", q.Metric,
			"nullValues, missingValues, invalidValues or duplicateValues of a column, rowCount or duplicateValues of the table")
	}
	if err := t.loadArguments(file, field+".arguments", q, &r); err != nil {
		return r, err
	}
	if err := r.loadBounds(file, field, q); err != nil {
		return r, err
	}
	if q.CustomProperties != nil {
		field += ".customProperties"
		if err := q.CustomProperties.check(file, field, "days"); err != nil {
			return r, err
		}
		switch days := q.CustomProperties.get("days").(type) {
		case string:
			r.Days = Unlimited
			if days != unlimited {
				return r, fieldError(file, field+".days", days, "a whole number from 1, or "+unlimited)
			}
		case float64:
			if r.Days = int(days); days < 1 || days != float64(r.Days) || r.Days > 100*366 || t.Time == "" {
				return r, fieldError(file, field+".days", text(days), "a whole number from 1 of a table that a column partitions, or "+unlimited)
			}
		default:
			return r, fieldError(file, field+".days", text(days), "a whole number from 1, or "+unlimited)
		}
	}
	if r.ID == "" {
		r.ID = r.name()
	}
	return r, nil
}

// loadArguments sets what a metric counts by.
func (t *Table) loadArguments(file, field string, q *quality, r *Rule) error {
	if (len(r.Columns) > 0) != (q.Metric == "duplicateValues" && r.Column == "") {
		return fieldError(file, field+".properties", fmt.Sprint(r.Columns), "the columns of duplicateValues of a table, and of nothing else")
	}
	for i, name := range r.Columns {
		if c := t.column(name); c == nil || c.Type == JSON || slices.Contains(r.Columns[:i], name) {
			return fieldError(file, field+".properties", name, "a column of another type than JSON, each once")
		}
	}
	c := t.column(r.Column)
	if c != nil && c.Type == JSON && q.Metric != "nullValues" && q.Metric != "" {
		return fieldError(file, field, q.Metric, "nullValues, or a query: values of JSON are not compared")
	}
	values := func(field string, from []any, null bool) ([]string, error) {
		var all []string
		for _, value := range from {
			if value == nil && null {
				continue // NULL is one anyway
			}
			one, err := valueOf(c, value)
			if err != nil || slices.Contains(all, one) {
				return nil, fieldError(file, field, text(value), "values of type "+string(c.Type)+", each once; a number or a text, not of type TIMESTAMP")
			}
			all = append(all, one)
		}
		return all, nil
	}
	kinds := 0
	for _, given := range []bool{len(q.Arguments.ValidValues) > 0, r.Pattern != "", q.Arguments.Minimum != nil || q.Arguments.Maximum != nil} {
		if given {
			kinds++
		}
	}
	if (q.Metric == "invalidValues") != (kinds == 1) || kinds > 1 {
		return fieldError(file, field, fmt.Sprintf("validValues %v, pattern %q, minimum %q, maximum %q", q.Arguments.ValidValues, r.Pattern, text(q.Arguments.Minimum), text(q.Arguments.Maximum)),
			"validValues, a pattern, or minimum and maximum, for invalidValues, and none for others")
	}
	if (q.Metric == "missingValues") != (q.Arguments.MissingValues != nil) {
		return fieldError(file, field+".missingValues", fmt.Sprint(q.Arguments.MissingValues), "the values that stand for none, for missingValues, and none for others")
	}
	var err error
	if r.Values, err = values(field+".validValues", q.Arguments.ValidValues, false); err != nil {
		return err
	}
	if r.Missing, err = values(field+".missingValues", q.Arguments.MissingValues, true); err != nil {
		return err
	}
	if r.Pattern != "" && c.Type != String {
		return fieldError(file, field+".pattern", r.Pattern, "none: the column is no STRING")
	}
	if _, err := regexp.Compile(r.Pattern); err != nil {
		return because(fieldError(file, field+".pattern", r.Pattern, "a regular expression of RE2"), err)
	}
	for _, bound := range []struct {
		name string
		from any
		into *string
	}{{"minimum", q.Arguments.Minimum, &r.Least}, {"maximum", q.Arguments.Maximum, &r.Most}} {
		if bound.from == nil {
			continue
		}
		ok := false
		switch c.Type {
		case Float64, Int64:
			*bound.into, err = valueOf(c, bound.from)
			ok = err == nil
		case Timestamp:
			var at time.Time
			if s, isText := bound.from.(string); isText {
				at, err = time.Parse(time.RFC3339Nano, s)
				ok = err == nil && at.Equal(at.Truncate(time.Microsecond)) && at.Year() >= 1 && at.Year() <= 9999
				*bound.into = at.UTC().Format(time.RFC3339Nano)
			}
		}
		if !ok {
			return fieldError(file, field+"."+bound.name, text(bound.from), "a number of a column of numbers, an RFC 3339 timestamp of µs of a TIMESTAMP")
		}
	}
	if r.Least != "" && r.Most != "" && compareValues(r.Least, r.Most) > 0 {
		return fieldError(file, field+".minimum", r.Least, "at most "+r.Most+", the maximum")
	}
	return nil
}

// valueOf writes a value of a column of texts, numbers or booleans as JSON does,
// without quotes.
func valueOf(c *Column, value any) (string, error) {
	switch v := value.(type) {
	case string:
		if c.Type == String {
			return v, nil
		}
	case float64:
		switch {
		case c.Type == Float64:
			return strconv.FormatFloat(v, 'g', -1, 64), nil
		case c.Type == Int64 && v == math.Trunc(v) && math.Abs(v) <= 1<<53: // as JSON has whole numbers
			return strconv.FormatInt(int64(v), 10), nil
		}
	case bool:
		if c.Type == Bool {
			return strconv.FormatBool(v), nil
		}
	}
	return "", fmt.Errorf("%v is no value of %s", value, c.Type)
}

// loadBounds sets what the number has to be.
func (r *Rule) loadBounds(file, field string, q *quality) error {
	n := 0
	set := func(min, max *float64, exclusive, outside bool) {
		n++
		r.Min, r.Max, r.Exclusive, r.Outside = min, max, exclusive, outside
	}
	between := func(name string, b []float64, outside bool) error {
		if b == nil {
			return nil
		}
		if len(b) != 2 || b[0] >= b[1] {
			return fieldError(file, field+"."+name, fmt.Sprint(b), "two numbers, the lower first")
		}
		set(&b[0], &b[1], false, outside)
		return nil
	}
	for _, one := range []struct {
		value              *float64
		min, max           bool
		exclusive, outside bool
	}{
		{q.MustBe, true, true, false, false}, {q.MustNotBe, true, true, false, true},
		{q.GreaterThan, true, false, true, false}, {q.AtLeast, true, false, false, false},
		{q.LessThan, false, true, true, false}, {q.AtMost, false, true, false, false},
	} {
		if one.value == nil {
			continue
		}
		var min, max *float64
		if one.min {
			min = one.value
		}
		if one.max {
			max = one.value
		}
		set(min, max, one.exclusive, one.outside)
	}
	if err := between("mustBeBetween", q.Between, false); err != nil {
		return err
	}
	if err := between("mustNotBeBetween", q.NotBetween, true); err != nil {
		return err
	}
	if n != 1 {
		return &Fault{file, field, "want one of mustBe, mustNotBe, mustBeGreaterThan, mustBeGreaterOrEqualTo, mustBeLessThan, mustBeLessOrEqualTo, mustBeBetween and mustNotBeBetween"}
	}
	return nil
}
