// Package measure measures how output ports keep their service levels.
//
//	dev.knative.sources.ping → slo.measured, slo.breached, slo.restored, port.read
//
// At each tick it measures all ports (internal/levels says how) and makes one
// event of the rows of mesh_metrics.service_levels; and one of each level that is
// missed and was kept before, or is kept and was missed before, as that table
// says. It keeps nothing itself. The instant of a measurement is the time of the
// tick, so that a tick which comes again makes the same events.
//
// Where it is told to (BIGQUERY_JOBS) it also makes a port.read of each hour that
// has ended, of the jobs of BigQuery; its id is made of the hour. A log of jobs that
// cannot be read is told in the function's own log, and no level is measured less.
//
// A level that cannot be measured, or not in time, or not for as few bytes as a
// statement may read, has a row that says why. Where none can, the warehouse is away:
// an error that passes.
package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/levels"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/usage"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// Config is the function's environment.
type Config struct {
	connect.Config
	Objective float64 `envconfig:"OBJECTIVE" default:"99"` // percent that is to be good; the rest is the error budget
	// Within bounds a level of a port, and MostBytes what a statement may read where
	// bytes are billed: 20 GiB.
	Within    time.Duration `envconfig:"LEVELS_WITHIN" default:"1m"`
	MostBytes int64         `envconfig:"LEVELS_STATEMENT_BYTES" default:"21474836480"`
	// Jobs is the region of BigQuery whose jobs tell who reads, as region-eu; empty:
	// nobody asks.
	Jobs string `envconfig:"BIGQUERY_JOBS"`
}

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	all, err := cfg.Contracts()
	if err != nil {
		return nil, err
	}
	w, err := cfg.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	query := func(ctx context.Context, sql string) (*warehouse.Rows, error) {
		return w.Query(warehouse.WithMostBytes(ctx, cfg.MostBytes), sql)
	}
	meter, err := levels.New(query, all, cfg.Objective)
	if err != nil {
		return nil, err
	}
	meter.Within = cfg.Within
	var jobs *usage.Jobs
	if cfg.Jobs != "" {
		project, err := cfg.Project()
		if err != nil {
			return nil, fmt.Errorf("BIGQUERY_JOBS is set, and WAREHOUSE_URL is not BigQuery: %w", err)
		}
		if jobs, err = usage.NewJobs(name, query, all, project, cfg.Jobs); err != nil {
			return nil, fmt.Errorf("BIGQUERY_JOBS: %w", err)
		}
	}
	return &function.Function{Handler: New(meter, jobs, ports.Log)}, nil
}

const name = "service-levels"

// New makes the handler; jobs may be nil.
func New(meter *levels.Meter, jobs *usage.Jobs, log *slog.Logger) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		if in.Type() != topology.TickType || in.Time().IsZero() {
			return nil, mesh.Permanentf("%s %s: want a tick with its time", in.Type(), in.ID())
		}
		rows, err := meter.Measure(ctx, in.Time())
		if err != nil {
			return nil, err
		}
		// Changes come first: where one is not taken, the tick comes again and finds no
		// rows of itself.
		var events []event.Event
		if jobs != nil {
			reads, err := jobs.Report(ctx, in.Time())
			if err != nil {
				log.ErrorContext(ctx, "who reads in BigQuery is not known", "function", name, "error", err)
			}
			events = reads
		}
		if len(rows) == 0 {
			return events, nil
		}
		add := func(eventType, sibling string, data any) error {
			text, err := json.Marshal(data)
			if err != nil {
				return fmt.Errorf("encode %s: %w", eventType, err)
			}
			events = append(events, mesh.Derive(in, name, eventType, sibling, text))
			return nil
		}
		for _, r := range rows {
			change, breached, restored := r.Changed()
			switch {
			case breached:
				err = add(mesh.LevelBreached, r.Port+" "+r.Level, change)
			case restored:
				err = add(mesh.LevelRestored, r.Port+" "+r.Level, change)
			}
			if err != nil {
				return nil, err
			}
		}
		if err := add(mesh.LevelsMeasured, "", struct {
			Rows []levels.Row `json:"rows"`
		}{rows}); err != nil {
			return nil, err
		}
		return events, nil
	}
}
