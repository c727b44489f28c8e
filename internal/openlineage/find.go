package openlineage

import (
	"context"
	"fmt"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Find asks the warehouse how many rows of each output port were recorded in a
// window: of those that are shown now, so that of a key which was stored again
// later the later row counts.
func Find(ctx context.Context, query func(context.Context, string) (*warehouse.Rows, error), products []contract.Product, in Window) (*Found, error) {
	found := &Found{Rows: map[string]int64{}}
	var parts []string
	for _, p := range products {
		for i := range p.Tables {
			t := &p.Tables[i]
			for _, c := range t.Columns {
				if c.Name == contract.RecordedAt && t.Schema == p.Schema {
					parts = append(parts, fmt.Sprintf("SELECT %s AS port, COUNT(*) AS recorded FROM %s WHERE %s >= %s AND %[3]s < %[5]s", literal.Text(t.FullName()), t.FullName(),
						contract.RecordedAt, literal.Time(mesh.At(in.From)), literal.Time(mesh.At(in.To))))
				}
			}
		}
	}
	if len(parts) == 0 {
		return found, nil
	}
	rows, err := query(ctx, strings.Join(parts, " UNION ALL "))
	if err != nil {
		return nil, fmt.Errorf("count the rows of a window: %w", err)
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, fmt.Errorf("count the rows of a window: %w", err)
		}
		port, _ := row[0].(string)
		found.Rows[port], _ = row[1].(int64)
	}
	return found, nil
}
