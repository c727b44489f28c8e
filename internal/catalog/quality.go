package catalog

import (
	"context"
	"fmt"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Results are those of all rules of a port.
type Results struct {
	At   time.Time // when they were asked for
	Took time.Duration
	All  []quality.Result
}

// checkTimeout bounds all rules of a port: some read every row.
const checkTimeout = 2 * time.Minute

// Checked gives what Check found last in this process; nil: nobody has asked, or
// the viewer does not see the rows of all tenants, of which the numbers are.
func (l *Live) Checked(v access.Viewer, p *Port) *Results {
	if !v.SeesAll() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.results[p.Name]
}

// Check counts by the quality rules of a port, over the rows of all tenants: for
// who sees these, else access.ErrForbidden. What was found within a minute is
// not counted again.
func (l *Live) Check(ctx context.Context, v access.Viewer, p *Port) (*Results, error) {
	if !v.SeesAll() {
		return nil, fmt.Errorf("quality rules of all tenants' rows: %w", access.ErrForbidden)
	}
	if last := l.Checked(v, p); last != nil && l.now().Sub(last.At) < time.Minute {
		return last, nil
	}
	if p.Table == nil {
		return &Results{At: l.now()}, nil
	}
	bounded, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	began := time.Now()
	r := &Results{At: l.now()}
	checker := quality.Checker{Query: func(ctx context.Context, sql string) (*warehouse.Rows, error) { return l.data.Query(ctx, v, sql) }}
	r.All, _ = checker.Check(bounded, p.Table, quality.Window{})
	r.Took = time.Since(began)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results[p.Name] = r
	return r, nil
}

// Verdict is what a check, of those that were stored, found of a rule.
type Verdict struct {
	Rule   string // id
	At     time.Time
	Number float64
	Kept   bool
	Err    string    // why it is not known; empty: it is
	From   time.Time // of the rows that were looked at; zero: all
}

// Verdicts of the rules of a port, by their ids, the newest first.
type Verdicts map[string][]Verdict

// How far back verdicts are looked for, and how many of a rule are shown.
const (
	verdictDays  = 35
	MostVerdicts = 24
)

// History gives the last verdicts of all ports' rules, by port. They are over the rows of
// all tenants: for who sees these, else access.ErrForbidden.
func (l *Live) History(ctx context.Context, v access.Viewer) Known[map[string]Verdicts] {
	if !v.SeesAll() {
		return Known[map[string]Verdicts]{Err: fmt.Errorf("quality of all tenants' rows: %w", access.ErrForbidden)}
	}
	if !l.data.Has(quality.Table) { // the product is not among those of this mesh
		return Known[map[string]Verdicts]{}
	}
	return known[map[string]Verdicts](l.ask(ctx, v, "quality", func(ctx context.Context) (any, error) {
		since := l.now().AddDate(0, 0, -verdictDays)
		rows, err := l.data.Query(ctx, v, fmt.Sprintf(`SELECT port, rule, checked_at, counted, kept, error, window_from FROM (
  SELECT port, rule, checked_at, counted, kept, error, window_from, ROW_NUMBER() OVER (PARTITION BY port, rule ORDER BY checked_at DESC) AS nth
  FROM {%s} AS t WHERE checked_at >= %s) AS r WHERE nth <= %d ORDER BY port, rule, checked_at DESC`, quality.Table, literal.Time(mesh.At(since)), MostVerdicts))
		if err != nil {
			return nil, err
		}
		all := map[string]Verdicts{}
		for row, err := range rows.All {
			if err != nil {
				return nil, err
			}
			port, _ := row[0].(string)
			one := Verdict{}
			one.Rule, _ = row[1].(string)
			one.At, _ = row[2].(time.Time)
			one.Number, _ = row[3].(float64)
			one.Kept, _ = row[4].(bool)
			one.Err, _ = row[5].(string)
			one.From, _ = row[6].(time.Time)
			if all[port] == nil {
				all[port] = Verdicts{}
			}
			all[port][one.Rule] = append(all[port][one.Rule], one)
		}
		return all, nil
	}))
}

// Broken is a rule that its last check did not find kept.
type Broken struct {
	Port    *Port
	Rule    *contract.Rule
	Verdict Verdict
	Since   time.Time // of the verdicts at hand, the first one since which it was not kept
}

// Broken gives the rules of the catalog whose last verdict is that they are not kept, or not known.
func (c *Catalog) Broken(history map[string]Verdicts) (all []Broken) {
	for _, p := range c.Products {
		for _, port := range p.Ports {
			rules := port.Rules()
			for i := range rules {
				verdicts := history[port.Name][rules[i].ID]
				if len(verdicts) == 0 || verdicts[0].Kept {
					continue
				}
				one := Broken{port, &rules[i], verdicts[0], verdicts[0].At}
				for _, v := range verdicts {
					if v.Kept {
						break
					}
					one.Since = v.At
				}
				all = append(all, one)
			}
		}
	}
	return all
}

// Kept counts the rules of a port whose last verdict is known: how many are kept, of how
// many, and when the oldest of these verdicts was found.
func (p *Port) Kept(of Verdicts) (kept, checked int, at time.Time) {
	for _, r := range p.Rules() {
		verdicts := of[r.ID]
		if len(verdicts) == 0 {
			continue
		}
		checked++
		if verdicts[0].Kept {
			kept++
		}
		if at.IsZero() || verdicts[0].At.Before(at) {
			at = verdicts[0].At
		}
	}
	return kept, checked, at
}
