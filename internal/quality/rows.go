package quality

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
)

// Rows counts by the rules of a table over rows: their cells are those of the
// table's columns, as warehouse.Rows gives them. A rule that is a query is for a warehouse.
func Rows(t *contract.Table, rows iter.Seq[[]any]) []Result {
	counters := make([]counter, len(t.Quality))
	results := make([]Result, len(t.Quality))
	for i := range t.Quality {
		results[i] = Result{Rule: &t.Quality[i], Rows: -1}
		counters[i], results[i].Err = newCounter(t, &t.Quality[i])
	}
	var n int64
	counted := make([]int64, len(results))
	for row := range rows {
		n++
		for i := range counters {
			if results[i].Err == nil && counters[i](row) {
				counted[i]++
			}
		}
	}
	for i := range results {
		if results[i].Err == nil {
			results[i].set(counted[i], n)
		}
	}
	return results
}

// counter says of row after row whether a rule counts it.
type counter func(row []any) bool

// errQuery is that of a rule that only a warehouse can count by.
var errQuery = errors.New("the rule is a query, and is checked in a warehouse")

func newCounter(t *contract.Table, r *contract.Rule) (counter, error) {
	switch r.Metric {
	case "":
		return nil, errQuery
	case "rowCount":
		return func([]any) bool { return true }, nil
	case "duplicateValues":
		return newDuplicates(t, columnsOf(r))
	}
	c, err := column(t, r.Column)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(t.Columns, func(c contract.Column) bool { return c.Name == r.Column })
	switch {
	case r.Metric == "nullValues":
		return func(row []any) bool { return row[at] == nil }, nil
	case r.Metric == "missingValues":
		return func(row []any) bool { return row[at] == nil || isOf(c, row[at], r.Missing) }, nil
	case r.Metric == "invalidValues" && len(r.Values) > 0:
		return func(row []any) bool { return row[at] != nil && !isOf(c, row[at], r.Values) }, nil
	case r.Metric == "invalidValues" && r.Pattern != "":
		pattern, err := regexp.Compile(r.Pattern)
		if err != nil {
			return nil, err
		}
		return func(row []any) bool {
			text, ok := row[at].(string)
			return ok && !pattern.MatchString(text)
		}, nil
	case r.Metric == "invalidValues" && (r.Least != "" || r.Most != ""):
		return func(row []any) bool { return row[at] != nil && !within(row[at], r.Least, r.Most) }, nil
	}
	return nil, fmt.Errorf("the metric %s is not known", r.Metric)
}

// isOf says whether a value is one of those that a rule names.
func isOf(c *contract.Column, value any, names []string) bool {
	switch v := value.(type) {
	case string:
		return slices.Contains(names, v)
	case bool:
		return slices.Contains(names, strconv.FormatBool(v))
	case int64:
		return slices.Contains(names, strconv.FormatInt(v, 10))
	case float64:
		return slices.ContainsFunc(names, func(name string) bool {
			f, err := strconv.ParseFloat(name, 64)
			return err == nil && f == v
		})
	}
	return false
}

// within says whether a value is in a range; an empty bound is none.
func within(value any, least, most string) bool {
	switch v := value.(type) {
	case time.Time:
		from, _ := time.Parse(time.RFC3339Nano, least)
		to, _ := time.Parse(time.RFC3339Nano, most)
		return (least == "" || !v.Before(from)) && (most == "" || !v.After(to))
	case int64:
		from, to := int64(math.MinInt64), int64(math.MaxInt64)
		if least != "" {
			from, _ = strconv.ParseInt(least, 10, 64)
		}
		if most != "" {
			to, _ = strconv.ParseInt(most, 10, 64)
		}
		return v >= from && v <= to
	case float64:
		from, to := -math.MaxFloat64, math.MaxFloat64
		if least != "" {
			from, _ = strconv.ParseFloat(least, 64)
		}
		if most != "" {
			to, _ = strconv.ParseFloat(most, 64)
		}
		return v >= from && v <= to
	}
	return false
}

func newDuplicates(t *contract.Table, columns []string) (counter, error) {
	var at []int
	for _, name := range columns {
		if _, err := column(t, name); err != nil {
			return nil, err
		}
		at = append(at, slices.IndexFunc(t.Columns, func(c contract.Column) bool { return c.Name == name }))
	}
	seen := map[string]bool{}
	return func(row []any) bool {
		var key []byte
		for _, i := range at {
			switch v := row[i].(type) {
			case nil:
				return false
			case string:
				key = append(binary.AppendUvarint(key, uint64(len(v))), v...)
			case bool:
				key = strconv.AppendBool(append(key, ' '), v)
			case int64:
				key = binary.AppendVarint(key, v)
			case time.Time:
				key = binary.AppendVarint(key, v.UnixMicro())
			case float64:
				switch {
				case v == 0:
					v = 0 // and not -0
				case math.IsNaN(v):
					v = math.NaN()
				}
				key = binary.BigEndian.AppendUint64(key, math.Float64bits(v))
			}
		}
		if seen[string(key)] {
			return true
		}
		seen[string(key)] = true
		return false
	}, nil
}
