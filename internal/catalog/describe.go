package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
)

// What follows is the catalog for programs, as JSON. Members that are missing are
// not known, or there is nothing to say.

// ProductText is a data product.
type ProductText struct {
	Name    string     `json:"name"`
	Version string     `json:"version"`
	Domain  string     `json:"domain"`
	Kind    string     `json:"kind"`
	Owner   string     `json:"owner"`
	Purpose string     `json:"purpose"`
	Usage   string     `json:"usage,omitempty"`
	Limits  string     `json:"limitations,omitempty"`
	Inputs  []string   `json:"inputs"`
	Ports   []PortText `json:"ports"`
}

// PortText is an output port.
type PortText struct {
	Name    string `json:"name"`
	Type    Kind   `json:"type"`
	Product string `json:"product"`
	Version string `json:"version"`
	Purpose string `json:"purpose"`
	Tenant  string `json:"tenant,omitempty"` // the column or attribute that says whose the data are

	RowCount  *int64     `json:"rows,omitempty"`
	NewestRow *time.Time `json:"newest,omitempty"`
	Fresh     *bool      `json:"fresh,omitempty"` // the newest row is no older than is promised

	Columns   []ColumnText   `json:"columns,omitempty"`
	Levels    []LevelText    `json:"levels,omitempty"`
	Rules     []RuleText     `json:"rules,omitempty"`
	MadeFrom  []string       `json:"made_from,omitempty"` // tables and views
	Events    []string       `json:"events,omitempty"`    // that bring the rows
	Brokers   []string       `json:"brokers,omitempty"`   // that the events pass
	Makers    []string       `json:"makers,omitempty"`    // of the events
	Stored    []string       `json:"stored,omitempty"`    // tables that keep the events
	Consumers []ConsumerText `json:"consumers,omitempty"`
	Reads     []ReadsText    `json:"reads,omitempty"`
	Query     string         `json:"query,omitempty"`
}

// ColumnText is a column.
type ColumnText struct {
	Name           string   `json:"name"`
	Type           string   `json:"type,omitempty"`
	Key            bool     `json:"key,omitempty"`
	Required       bool     `json:"required,omitempty"`
	Unit           string   `json:"unit,omitempty"`
	Classification string   `json:"classification"`
	Purpose        string   `json:"purpose,omitempty"`
	MadeOf         []string `json:"made_of,omitempty"`
}

// LevelText is a service level with its last measurement. What is promised is in
// seconds or in percent; neither: it is unlimited.
type LevelText struct {
	Property string        `json:"property"`
	Seconds  *float64      `json:"seconds,omitempty"`
	Percent  *float64      `json:"percent,omitempty"`
	Purpose  string        `json:"purpose"`
	Last     *MeasuredText `json:"last,omitempty"`
}

// MeasuredText is what was measured last of a level.
type MeasuredText struct {
	At         time.Time `json:"at"`
	Actual     *float64  `json:"actual,omitempty"` // in seconds or in percent, as is promised
	Kept       *bool     `json:"kept,omitempty"`
	BudgetLeft *float64  `json:"budget_left,omitempty"` // percent of the error budget
}

// ReadsText is how often a consumer read a port in the last four weeks.
type ReadsText struct {
	Consumer string `json:"consumer"`
	By       string `json:"by"` // portal or cli
	Reads    int64  `json:"reads"`
}

// RuleText is a quality rule with its last verdict.
type RuleText struct {
	ID        string      `json:"id"`
	Purpose   string      `json:"purpose"`
	Dimension string      `json:"dimension,omitempty"`
	Column    string      `json:"column,omitempty"`
	Wanted    string      `json:"wanted"`
	Last      *ResultText `json:"last,omitempty"`
}

// ResultText is what was found last of a rule.
type ResultText struct {
	At      time.Time `json:"at"`
	Counted float64   `json:"counted"`
	Kept    bool      `json:"kept"`
	Error   string    `json:"error,omitempty"`
}

// ConsumerText is who reads a port.
type ConsumerText struct {
	By   string `json:"by"`
	Name string `json:"name"`
	How  string `json:"how,omitempty"`
}

// KnownNow is what is known of the ports now. The zero value knows nothing.
type KnownNow struct {
	Facts    map[*Port]Facts
	Verdicts map[string]Verdicts
	Measured map[string]map[string]Measured
	Usage    map[string][]Usage
	At       time.Time
}

// Now asks the warehouse what is true of the rows of ports. What it does not answer is
// not known, and the error says why.
func (l *Live) Now(ctx context.Context, v access.Viewer, ports []*Port) (KnownNow, error) {
	var asked []*Port
	for _, p := range ports {
		if p.Kind != Event {
			asked = append(asked, p)
		}
	}
	k := KnownNow{Facts: l.All(ctx, v, asked), At: l.now()}
	var errs []error
	for _, p := range asked {
		if err := errors.Join(k.Facts[p].Rows.Err, k.Facts[p].Recent.Err); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
		}
	}
	history, measured, usage := l.History(ctx, v), l.Measured(ctx, v), l.Usage(ctx, v)
	k.Verdicts, k.Measured, k.Usage = history.Value, measured.Value, usage.Value
	return k, errors.Join(append(errs, history.Err, measured.Err, usage.Err)...)
}

// Text is the product with its ports, in all detail or as a list has them.
func (p *Product) Text(now KnownNow, detail bool) ProductText {
	t := ProductText{Name: p.Name, Version: p.Version, Domain: p.Domain, Kind: p.Kind, Owner: p.Owner, Purpose: p.Purpose, Usage: p.Usage, Limits: p.Limits,
		Inputs: append([]string{}, p.Product.Inputs...), Ports: []PortText{}}
	for _, port := range p.Ports {
		t.Ports = append(t.Ports, port.Text(now, detail))
	}
	return t
}

// Text is the port, in all detail or as a list has it.
func (p *Port) Text(now KnownNow, detail bool) PortText {
	t := PortText{Name: p.Name, Type: p.Kind, Product: p.Product.Name, Version: p.Version, Purpose: p.Purpose, Tenant: p.Owned}
	if p.Kind == Event {
		t.Tenant = p.Port.Tenant
	}
	if f, ok := now.Facts[p]; ok {
		if f.Rows.Err == nil {
			t.RowCount = &f.Rows.Value
		}
		if newest := f.Recent.Value; f.Recent.Err == nil && !newest.Newest.IsZero() {
			at := newest.Newest.UTC()
			t.NewestRow = &at
			if p.Table != nil && p.Table.Freshness > 0 && newest.By == contract.RecordedAt {
				fresh := now.At.Sub(at) <= p.Table.Freshness
				t.Fresh = &fresh
			}
		}
	}
	if detail {
		p.detail(&t, now)
	}
	return t
}

func (p *Port) detail(t *PortText, now KnownNow) {
	for _, c := range p.Columns {
		column := ColumnText{Name: c.Name, Type: string(c.Type), Key: c.Key, Required: c.Required, Unit: c.Unit, Classification: c.Classification, Purpose: c.Purpose}
		for _, from := range c.Made.From {
			column.MadeOf = append(column.MadeOf, from.String())
		}
		t.Columns = append(t.Columns, column)
	}
	for _, l := range p.Levels() {
		level := LevelText{Property: l.Property, Purpose: l.Purpose}
		switch {
		case l.Value > 0:
			seconds := l.Value.Seconds()
			level.Seconds = &seconds
		case l.Percent > 0:
			level.Percent = &l.Percent
		}
		if m, ok := now.Measured[p.Name][MeasuredAs(l.Property)]; ok {
			level.Last = &MeasuredText{m.At.UTC(), m.Actual, m.Kept, m.Left}
		}
		t.Levels = append(t.Levels, level)
	}
	for _, r := range p.Rules() {
		rule := RuleText{ID: r.ID, Purpose: r.Purpose, Dimension: r.Dimension, Column: r.Column, Wanted: r.Wanted()}
		if of := now.Verdicts[p.Name][r.ID]; len(of) > 0 {
			rule.Last = &ResultText{At: of[0].At.UTC(), Counted: of[0].Number, Kept: of[0].Kept, Error: of[0].Err}
		}
		t.Rules = append(t.Rules, rule)
	}
	t.MadeFrom = p.Sources
	if p.Table != nil {
		t.Events = p.Table.Events
	}
	for _, b := range p.Brokers {
		t.Brokers = append(t.Brokers, b.String())
	}
	for _, m := range p.Makers {
		t.Makers = append(t.Makers, m.String())
	}
	for _, s := range p.Stored {
		t.Stored = append(t.Stored, s.FullName())
	}
	for _, c := range p.Consumers {
		t.Consumers = append(t.Consumers, ConsumerText{By: c.By, Name: c.Name, How: c.Note})
	}
	for _, u := range now.Usage[p.Name] {
		t.Reads = append(t.Reads, ReadsText{u.Consumer, u.Kind, u.Reads})
	}
	t.Query = p.SQL("")
}
