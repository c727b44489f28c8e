package catalog

import (
	"context"
	"fmt"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/levels"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/usage"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Measured is what was measured last of a level of a port.
type Measured struct {
	At     time.Time
	Actual *float64 // in Unit; nil: there was nothing to measure
	Unit   string   // s or percent
	Kept   *bool    // nil: there was nothing to judge
	Left   *float64 // percent of the error budget
}

// MeasuredAs is the level by which a property of a contract is measured.
func MeasuredAs(property string) string {
	if property == "frequency" { // ODCS's word
		return levels.Freshness
	}
	return property
}

// measuredDays is how far back measurements are looked for.
const measuredDays = 2

// Measured gives the last measurement of each level of all ports, by port and
// level. They are over the rows of all tenants: for who sees these, else
// access.ErrForbidden.
func (l *Live) Measured(ctx context.Context, v access.Viewer) Known[map[string]map[string]Measured] {
	if !v.SeesAll() {
		return Known[map[string]map[string]Measured]{Err: fmt.Errorf("service levels of all tenants' rows: %w", access.ErrForbidden)}
	}
	if !l.data.Has(levels.Table) {
		return Known[map[string]map[string]Measured]{}
	}
	return known[map[string]map[string]Measured](l.ask(ctx, v, "levels", func(ctx context.Context) (any, error) {
		rows, err := l.data.Query(ctx, v, fmt.Sprintf(`SELECT port, level, measured_at, actual, unit, kept, budget_left FROM (
  SELECT port, level, measured_at, actual, unit, kept, budget_left, ROW_NUMBER() OVER (PARTITION BY port, level ORDER BY measured_at DESC) AS nth
  FROM {%s} AS t WHERE measured_at >= %s) AS r WHERE nth = 1`, levels.Table, literal.Time(mesh.At(l.now().AddDate(0, 0, -measuredDays)))))
		if err != nil {
			return nil, err
		}
		all := map[string]map[string]Measured{}
		for row, err := range rows.All {
			if err != nil {
				return nil, err
			}
			var m Measured
			port, _ := row[0].(string)
			level, _ := row[1].(string)
			m.At, _ = row[2].(time.Time)
			if actual, ok := row[3].(float64); ok {
				m.Actual = &actual
			}
			m.Unit, _ = row[4].(string)
			if kept, ok := row[5].(bool); ok {
				m.Kept = &kept
			}
			if left, ok := row[6].(float64); ok {
				m.Left = &left
			}
			if all[port] == nil {
				all[port] = map[string]Measured{}
			}
			all[port][level] = m
		}
		return all, nil
	}))
}

// Usage is how often a consumer read a port.
type Usage struct {
	Kind     string // portal or cli
	Consumer string // a role, a tenant, a command
	Reads    int64
}

// UsageDays is how far back reads are counted.
const UsageDays = 28

// Usage gives who read each port in the last days, by port, most reads first. It
// is for who sees the rows of all tenants, else access.ErrForbidden.
func (l *Live) Usage(ctx context.Context, v access.Viewer) Known[map[string][]Usage] {
	if !v.SeesAll() {
		return Known[map[string][]Usage]{Err: fmt.Errorf("reads of all tenants: %w", access.ErrForbidden)}
	}
	if !l.data.Has(usage.Table) {
		return Known[map[string][]Usage]{}
	}
	return known[map[string][]Usage](l.ask(ctx, v, "usage", func(ctx context.Context) (any, error) {
		rows, err := l.data.Query(ctx, v, fmt.Sprintf("SELECT port, kind, consumer, CAST(SUM(times) AS INT64) AS n FROM {%s} AS t WHERE hour >= %s GROUP BY port, kind, consumer ORDER BY n DESC, consumer, kind",
			usage.Table, literal.Time(mesh.At(l.now().AddDate(0, 0, -UsageDays)))))
		if err != nil {
			return nil, err
		}
		all := map[string][]Usage{}
		for row, err := range rows.All {
			if err != nil {
				return nil, err
			}
			var u Usage
			port, _ := row[0].(string)
			u.Kind, _ = row[1].(string)
			u.Consumer, _ = row[2].(string)
			u.Reads, _ = row[3].(int64)
			all[port] = append(all[port], u)
		}
		return all, nil
	}))
}
