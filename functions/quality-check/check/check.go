// Package check counts by the quality rules of all output ports, each time that a
// tick of a PingSource wakes it, and makes a quality.checked of each port: the rows
// of mesh_metrics.quality_results.
//
// The tick's data say how many days are looked at, {"days": 2}, of tables that a
// column partitions; without data, all rows are. A rule by which it cannot be counted, or not in
// time, or not for as few bytes as a statement may read, has a row that says why, and the others
// have theirs. Only when the warehouse answers nothing at all is that an error, a passing
// one. Any other event than a tick, and data that are no number of days, are permanent
// errors. A tick that is delivered again makes events of the same ids, which say
// what is counted then.
package check

import (
	"context"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

const name = "quality-check"

// Config is the function's environment.
type Config struct {
	connect.Config
	Limits
}

// Limits bound what a tick may cost.
type Limits struct {
	// Within bounds all ports: less than the Service's timeoutSeconds.
	Within time.Duration `envconfig:"QUALITY_WITHIN" default:"8m"`
	// Statement bounds one statement, and MostBytes what it may read where bytes are
	// billed: 20 GiB.
	Statement time.Duration `envconfig:"QUALITY_STATEMENT_WITHIN" default:"2m"`
	MostBytes int64         `envconfig:"QUALITY_STATEMENT_BYTES" default:"21474836480"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	w, err := cfg.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	products, err := cfg.Contracts()
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(products, w, cfg.Limits, time.Now)}, nil
}

// New makes the handler.
func New(products []contract.Product, w warehouse.Warehouse, limits Limits, now func() time.Time) function.Handler {
	h := handler{products, quality.Checker{Query: quality.Of(w), Within: limits.Statement}, limits, now}
	return h.handle
}

type handler struct {
	products []contract.Product
	checker  quality.Checker
	limits   Limits
	now      func() time.Time
}

func (h handler) handle(ctx context.Context, in event.Event) ([]event.Event, error) {
	if in.Type() != topology.TickType {
		return nil, mesh.Permanentf("%s cannot take an event of type %q: its trigger has to filter on %s", name, in.Type(), topology.TickType)
	}
	var asked struct {
		Days int `json:"days"`
	}
	if len(in.Data()) > 0 {
		if err := json.Unmarshal(in.Data(), &asked); err != nil || asked.Days < 0 {
			return nil, mesh.Permanentf("decode %s %s: %q does not say how many days are looked at, as {\"days\": 2} does", in.Type(), in.ID(), in.Data())
		}
	}
	bounded, cancel := context.WithTimeout(warehouse.WithMostBytes(ctx, h.limits.MostBytes), h.limits.Within)
	defer cancel()
	var events []event.Event
	var away error
	answered := false
	for i := range h.products {
		p := &h.products[i]
		for j := range p.Tables {
			t := &p.Tables[j]
			if t.Schema != p.Schema { // no output port
				continue
			}
			at := h.now()
			results, _ := h.checker.Check(bounded, t, quality.Window{Days: asked.Days, Now: at})
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			for _, r := range results {
				answered = answered || r.Err == nil || mesh.IsPermanent(r.Err)
				if r.Err != nil {
					away = r.Err
				}
			}
			out := mesh.Derive(in, name, mesh.QualityChecked, t.FullName(), encode(p, t, results, at))
			out.SetSubject(t.FullName())
			events = append(events, out)
		}
	}
	if !answered && away != nil {
		return nil, away
	}
	return events, nil
}

// row is one of mesh_metrics.quality_results.
type row struct {
	Port       string   `json:"port"`
	Rule       string   `json:"rule"`
	Product    string   `json:"product"`
	Version    string   `json:"contract_version"`
	Column     string   `json:"column_name,omitempty"`
	Metric     string   `json:"metric"`
	Dimension  string   `json:"dimension,omitempty"`
	Severity   string   `json:"severity,omitempty"`
	Counted    *float64 `json:"counted,omitempty"`
	Rows       *int64   `json:"rows_checked,omitempty"`
	Wanted     string   `json:"wanted"`
	Kept       *bool    `json:"kept,omitempty"`
	Error      string   `json:"error,omitempty"`
	WindowFrom string   `json:"window_from,omitempty"`
	Took       int64    `json:"took_ms"`
	CheckedAt  string   `json:"checked_at"`
}

// longest bounds an error, in bytes: a warehouse may repeat the whole statement.
const longest = 1000

func encode(p *contract.Product, t *contract.Table, results []quality.Result, at time.Time) []byte {
	rows := make([]row, len(results))
	for i, r := range results {
		one := row{
			Port: t.FullName(), Rule: r.Rule.ID, Product: p.Name, Version: t.Version, Column: r.Rule.Column, Metric: r.Rule.Metric,
			Dimension: r.Rule.Dimension, Severity: r.Rule.Severity, Wanted: r.Rule.Wanted(), Took: r.Took.Milliseconds(), CheckedAt: instant(at),
		}
		if one.Metric == "" {
			one.Metric = "sql"
		}
		if !r.From.IsZero() {
			one.WindowFrom = instant(r.From)
		}
		if r.Err != nil {
			one.Error = cut(r.Err.Error())
		} else {
			kept := r.Kept()
			one.Kept, one.Counted = &kept, &r.Number
		}
		if r.Rows >= 0 {
			one.Rows = &r.Rows
		}
		rows[i] = one
	}
	data, err := json.Marshal(map[string]any{"rows": rows})
	if err != nil {
		panic(err) // of a number that is not finite, which no result has
	}
	return data
}

func instant(at time.Time) string {
	return at.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano)
}

// cut shortens a text to what is kept of it.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= longest {
		return s
	}
	end := longest
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
