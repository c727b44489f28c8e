// Package dialect writes the expressions that GoogleSQL and DuckDB have different
// names for. Which of the two a warehouse reads it says itself.
package dialect

import (
	"context"
	"fmt"

	"github.com/telemesh/telemesh/internal/warehouse"
)

// Dialect is the SQL that a warehouse reads.
type Dialect int

// The dialects.
const (
	GoogleSQL Dialect = iota
	DuckDB
)

// Of asks which one it is: DuckDB has no escapes in a literal.
func Of(ctx context.Context, query func(context.Context, string) (*warehouse.Rows, error)) (Dialect, error) {
	rows, err := query(ctx, `SELECT LENGTH('\t')`)
	if err != nil {
		return GoogleSQL, fmt.Errorf("ask for the dialect of the warehouse: %w", err)
	}
	d := GoogleSQL
	for row, err := range rows.All {
		if err != nil {
			return GoogleSQL, fmt.Errorf("ask for the dialect of the warehouse: %w", err)
		}
		if n, _ := row[0].(int64); n == 2 {
			d = DuckDB
		}
	}
	return d, nil
}

// Millis is how many milliseconds, an INT64, are between two timestamps.
func (d Dialect) Millis(from, to string) string {
	if d == DuckDB {
		return fmt.Sprintf("date_diff('millisecond', %s, %s)", from, to)
	}
	return fmt.Sprintf("TIMESTAMP_DIFF(%s, %s, MILLISECOND)", to, from)
}

// Percentile is an aggregate, a FLOAT64: what as many percent of the values are
// at most, about.
func (d Dialect) Percentile(value string, percent int) string {
	if d == DuckDB {
		return fmt.Sprintf("CAST(quantile_cont(%s, %g) AS DOUBLE)", value, float64(percent)/100)
	}
	return fmt.Sprintf("CAST(APPROX_QUANTILES(%s, 100)[OFFSET(%d)] AS FLOAT64)", value, percent)
}
