// Package quality counts by the quality rules of contracts, in a warehouse or
// over rows at hand, with one verdict.
//
// A rule becomes SQL that GoogleSQL and DuckDB read the same. Rules that look at
// rows one by one share a statement, which reads the table once; one about
// duplicates, and one that is a query, has its own. Tables stand in braces, as
// package access has them.
//
// What counts:
//
//   - nullValues: rows whose column is NULL.
//   - missingValues: those, and rows whose column is one of the values named.
//   - invalidValues: rows whose column is none of the valid values, has no part that the
//     pattern matches, or is beyond the range; NaN and infinity are in none. NULL is valid.
//   - duplicateValues: rows that say in all columns what another one says, but
//     for one of these. A row with NULL in one of them is like no other.
//   - rowCount: rows.
//
// Texts are compared by their bytes. 0 and -0 are one number.
//
// Of a table that a column partitions a rule looks at the last days of it, so that
// a check does not read what was read before: Window says which rules do.
package quality

import (
	"fmt"
	"slices"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
)

// Table has what checks of a schedule found: a row of each rule and check.
const Table = "mesh_metrics.quality_results"

// Window is the rows that a check looks at: those of the last days, by the column
// that partitions the table. The zero Window is all rows.
type Window struct {
	Days int       // today included, of UTC
	Now  time.Time // the end of today is not an end: rows may be of tomorrow
}

// From is the first instant that a rule of a table looks at in a check over a
// window; zero: it looks at all rows.
//
// A rule says itself how many days it takes (the property days). One that does
// not takes the window's if what it counts in a window tells of the table: not the
// number of rows, and not duplicates of rows that may be of different days.
func (w Window) From(t *contract.Table, r *contract.Rule) time.Time {
	days := w.Days
	switch {
	case w.Days == 0 || t.Time == "" || r.Days == contract.Unlimited:
		return time.Time{}
	case r.Days > 0:
		days = max(days, r.Days)
	case r.Metric == "rowCount" || r.Metric == "duplicateValues" && !ofOneDay(t, columnsOf(r)):
		return time.Time{}
	}
	return w.Now.UTC().Truncate(24*time.Hour).AddDate(0, 0, 1-days)
}

// ofOneDay says that rows with the same in all columns are of one instant.
func ofOneDay(t *contract.Table, columns []string) bool {
	if slices.Contains(columns, t.Time) {
		return true
	}
	key := !slices.ContainsFunc(t.Key, func(k string) bool { return !slices.Contains(columns, k) })
	return key && (slices.Contains(t.Key, t.Time) || slices.Contains(t.KeyOf, t.Time))
}

// columnsOf are the columns of duplicateValues.
func columnsOf(r *contract.Rule) []string {
	if r.Column != "" {
		return []string{r.Column}
	}
	return r.Columns
}

// Result is what a rule counted.
type Result struct {
	Rule   *contract.Rule
	Number float64 // rows, or percent of them
	Rows   int64   // that were looked at; -1: a query does not say
	From   time.Time
	Took   time.Duration // of the statement that counted
	Err    error         // why there is no number; nil: there is
}

// Kept says whether the number is what the rule wants.
func (r *Result) Kept() bool { return r.Err == nil && r.Rule.Holds(r.Number) }

// set gives the number that a rule is about: n of so many rows.
func (r *Result) set(n, rows int64) {
	r.Number, r.Rows = float64(n), rows
	if r.Rule.Percent {
		r.Number = 0 // of no row
		if rows > 0 {
			r.Number = float64(n) / float64(rows) * 100
		}
	}
}

// column of a table; a contract that was loaded has those that its rules name.
func column(t *contract.Table, name string) (*contract.Column, error) {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i], nil
		}
	}
	return nil, fmt.Errorf("%s has no column %q", t.FullName(), name)
}
