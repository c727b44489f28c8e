package quality

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Query runs a statement whose tables are in braces.
type Query func(ctx context.Context, sql string) (*warehouse.Rows, error)

var braces = regexp.MustCompile(`\{([a-z][a-z0-9_.]*)\}`)

// Of asks a warehouse as who sees all rows of it.
func Of(w warehouse.Warehouse) Query {
	return func(ctx context.Context, sql string) (*warehouse.Rows, error) {
		return w.Query(ctx, braces.ReplaceAllString(sql, "$1"))
	}
}

// ErrSlow is that of a rule that takes too long to be counted by.
var ErrSlow = errors.New("the warehouse did not answer in time")

// Checker counts by rules in a warehouse.
type Checker struct {
	Query  Query
	Within time.Duration // bounds a statement; 0: ctx alone does
}

// Check counts by all rules of a table over a window. A rule by which it cannot be counted
// has a result that says why, and is no reason not to count by the others. An
// error is that of ctx.
func (c Checker) Check(ctx context.Context, t *contract.Table, w Window) ([]Result, error) {
	rules := make([]*contract.Rule, len(t.Quality))
	results := map[*contract.Rule]Result{}
	for i := range t.Quality {
		rules[i] = &t.Quality[i]
	}
	statements, failed := Statements(t, rules, w)
	for r, err := range failed {
		results[r] = Result{Rule: r, Rows: -1, From: w.From(t, r), Err: err}
	}
	for _, s := range statements {
		found := c.run(ctx, s)
		if len(s.Rules) > 1 && found[0].Err != nil && !errors.Is(found[0].Err, ErrSlow) && ctx.Err() == nil {
			// One of them is at fault, and which one is not said.
			found = nil
			for _, r := range s.Rules {
				alone, _ := Statements(t, []*contract.Rule{r}, w)
				found = append(found, c.run(ctx, alone[0])...)
			}
		}
		for _, r := range found {
			results[r.Rule] = r
		}
	}
	all := make([]Result, len(rules))
	for i, r := range rules {
		all[i] = results[r]
	}
	return all, ctx.Err()
}

// run gives a result of each rule of a statement.
func (c Checker) run(ctx context.Context, s Statement) []Result {
	results := make([]Result, len(s.Rules))
	for i, r := range s.Rules {
		results[i] = Result{Rule: r, Rows: -1, From: s.From}
	}
	began := time.Now()
	row, err := c.row(ctx, s.SQL)
	if errors.Is(err, context.DeadlineExceeded) {
		err = ErrSlow
	}
	took := time.Since(began)
	for i := range results {
		results[i].Took = took
		if results[i].Err = err; err == nil {
			results[i].take(row, i, s.Rows)
		}
	}
	return results
}

// row is the first one of an answer.
func (c Checker) row(ctx context.Context, sql string) ([]any, error) {
	if c.Within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Within)
		defer cancel()
	}
	rows, err := c.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		return append([]any(nil), row...), nil
	}
	return nil, errors.New("the query gave no row")
}

// take sets the number of rule i of a statement.
func (r *Result) take(row []any, i int, rows bool) {
	if rows {
		looked, known := row[0].(int64)
		n, ok := row[i+1].(int64)
		if !known || !ok {
			r.Err = fmt.Errorf("counted %v of %v rows, which are no numbers", row[i+1], row[0])
			return
		}
		r.set(n, looked)
		return
	}
	switch n := row[0].(type) {
	case int64:
		r.Number = float64(n)
	case float64:
		r.Number = n
	default:
		r.Err = fmt.Errorf("the query gave %v, which is no number", row[0])
	}
	if math.IsNaN(r.Number) || math.IsInf(r.Number, 0) {
		r.Number, r.Err = 0, fmt.Errorf("the query gave %v, which is no number", r.Number)
	}
}
