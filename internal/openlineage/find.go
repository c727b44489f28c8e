package openlineage

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Find asks the warehouse how many rows of each output port were recorded in a
// window, and what checks of quality rules found in it. Rows are those that are
// shown now, so that of a key which was stored again later the later row counts; of
// a rule the last check counts, if it came to a verdict.
func Find(ctx context.Context, query func(context.Context, string) (*warehouse.Rows, error), products []contract.Product, in Window) (*Found, error) {
	found := &Found{Rows: map[string]int64{}, Assertions: map[string][]Assertion{}}
	from, to := literal.Time(mesh.At(in.From)), literal.Time(mesh.At(in.To))
	var parts []string
	checks := false
	for _, p := range products {
		for i := range p.Tables {
			t := &p.Tables[i]
			checks = checks || t.FullName() == quality.Table
			for _, c := range t.Columns {
				if c.Name == contract.RecordedAt && t.Schema == p.Schema {
					parts = append(parts, fmt.Sprintf("SELECT %s AS port, COUNT(*) AS recorded FROM %s WHERE %s >= %s AND %[3]s < %[5]s", literal.Text(t.FullName()), t.FullName(),
						contract.RecordedAt, from, to))
				}
			}
		}
	}
	if len(parts) > 0 {
		err := each(ctx, query, strings.Join(parts, " UNION ALL "), func(row []any) {
			port, _ := row[0].(string)
			found.Rows[port], _ = row[1].(int64)
		})
		if err != nil {
			return nil, fmt.Errorf("count the rows of a window: %w", err)
		}
	}
	if checks {
		err := each(ctx, query, fmt.Sprintf(`SELECT port, rule, metric, column_name, severity, wanted, counted, kept FROM (
  SELECT port, rule, metric, column_name, severity, wanted, counted, kept, ROW_NUMBER() OVER (PARTITION BY port, rule ORDER BY checked_at DESC) AS nth
  FROM %s WHERE checked_at >= %s AND checked_at < %s AND kept IS NOT NULL) AS r WHERE nth = 1 ORDER BY port, rule`, quality.Table, from, to), func(row []any) {
			var a Assertion
			port, _ := row[0].(string)
			for i, into := range []*string{&a.Name, &a.Assertion, &a.Column, &a.Severity, &a.Expected} {
				*into, _ = row[i+1].(string)
			}
			if n, ok := row[6].(float64); ok {
				a.Actual = strconv.FormatFloat(n, 'f', -1, 64)
			}
			a.Success, _ = row[7].(bool)
			found.Assertions[port] = append(found.Assertions[port], a)
		})
		if err != nil {
			return nil, fmt.Errorf("read the checks of a window: %w", err)
		}
	}
	return found, nil
}

// each gives the rows of an answer to take.
func each(ctx context.Context, query func(context.Context, string) (*warehouse.Rows, error), sql string, take func([]any)) error {
	rows, err := query(ctx, sql)
	if err != nil {
		return err
	}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		take(row)
	}
	return nil
}
