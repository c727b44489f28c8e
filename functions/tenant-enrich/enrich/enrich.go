// Package enrich stamps every reading with the tenant that held its device at
// the instant of the reading.
//
// It takes telemetry.flattened and makes one telemetry.enriched per tenant,
// with the extension tenantid, and one telemetry.unassigned of the readings
// whose device nobody held then; it is withdrawn if the placements ever said
// anything of one of them. Each says with which version of the placements it
// was made. Data that are no readings are a permanent error; a port that was
// never reached is one that passes. The same event gives the same events, with
// the same ids, for as long as the placements stay the same, and others once
// they change, which are not to be taken for the same.
package enrich

import (
	"context"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
)

// Config is the function's environment.
type Config struct {
	AssignmentsURL     string        `envconfig:"ASSIGNMENTS_URL" required:"true"` // /assignments of assignment-port
	AssignmentsRefresh time.Duration `envconfig:"ASSIGNMENTS_REFRESH" default:"15s"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(
		tenancy.NewClient(ports.Client, cfg.AssignmentsURL, cfg.AssignmentsRefresh, ports.Log),
	)}, nil
}

// Assignments is where the handler finds who held a device.
type Assignments interface {
	Get(context.Context) (*tenancy.Index, error)   // as it is at hand
	Newer(context.Context) (*tenancy.Index, error) // asked for because something was not in the last one
}

const name = "tenant-enrich"

// New makes the handler.
func New(assignments Assignments) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		if in.Type() != mesh.TelemetryFlattened {
			return nil, mesh.Permanentf("%s cannot enrich an event of type %q: its trigger has to filter on %s", name, in.Type(), mesh.TelemetryFlattened)
		}
		readings, err := mesh.DecodeEntries(in.Data())
		if err != nil {
			return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
		}
		index, err := assignments.Get(ctx)
		if err != nil {
			return nil, err
		}
		stamps, complete := index.Stamps(readings)
		if !complete {
			newer, err := assignments.Newer(ctx)
			if err != nil {
				return nil, err
			}
			if newer != index {
				index = newer
				stamps, _ = index.Stamps(readings)
			}
		}
		return tenancy.Events(in, name, "", readings, stamps, index.Version()), nil
	}
}
