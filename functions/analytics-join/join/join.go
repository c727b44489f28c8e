// Package join adds to every reading where its device stood, who its tenant
// is and the last action before it.
//
// It takes telemetry.enriched and makes one analytics.joined, of the same
// tenant. A reading whose placement is not (or no longer) its tenant's goes on
// without a place: a place is never shown to who did not hold it. Data that
// are no readings are a permanent error; an output port that was never reached
// is one that passes.
package join

import (
	"context"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/errgroup"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
	"github.com/telemesh/telemesh/internal/tenancy"
)

// Config is the function's environment: the output ports it reads.
type Config struct {
	PlacementsURL string        `envconfig:"PLACEMENTS_URL" required:"true"` // iot-metadata
	ActionsURL    string        `envconfig:"ACTIONS_URL" required:"true"`    // iot-actions
	CustomersURL  string        `envconfig:"CUSTOMERS_URL" required:"true"`  // customers
	Refresh       time.Duration `envconfig:"REFRESH" default:"15s"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(
		snapshot.New(ports.Client, cfg.PlacementsURL, cfg.Refresh, tenancy.Build(ports.Log), ports.Log),
		snapshot.New(ports.Client, cfg.ActionsURL, cfg.Refresh, NewLogbook, ports.Log),
		snapshot.New(ports.Client, cfg.CustomersURL, cfg.Refresh, NewCustomers, ports.Log),
	)}, nil
}

// Source is where the handler finds a T.
type Source[T any] interface {
	Get(context.Context) (T, error)   // as it is at hand
	Newer(context.Context) (T, error) // asked for because something was not in the last one
}

// Customers is the name of each customer by id.
type Customers map[string]string

// NewCustomers builds the names.
func NewCustomers(customers []mesh.Customer) (Customers, error) {
	names := make(Customers, len(customers))
	for _, c := range customers {
		names[c.CustomerID] = c.Name
	}
	return names, nil
}

const name = "analytics-join"

// New makes the handler.
func New(placements Source[*tenancy.Index], actions Source[*Logbook], customers Source[Customers]) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		if in.Type() != mesh.TelemetryEnriched {
			return nil, mesh.Permanentf("%s cannot join an event of type %q: its trigger has to filter on %s", name, in.Type(), mesh.TelemetryEnriched)
		}
		readings, err := mesh.DecodeEntries(in.Data())
		if err != nil {
			return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
		}
		// At once: after a cold start each of them may wake a port.
		var (
			index   *tenancy.Index
			logbook *Logbook
			names   Customers
			loading errgroup.Group
		)
		loading.Go(func() (err error) { index, err = placements.Get(ctx); return err })
		loading.Go(func() (err error) { logbook, err = actions.Get(ctx); return err })
		loading.Go(func() (err error) { names, err = customers.Get(ctx); return err })
		if err := loading.Wait(); err != nil {
			return nil, err
		}
		if misses(readings, index) {
			if index, err = placements.Newer(ctx); err != nil {
				return nil, err
			}
		}
		if len(readings) > 0 && names[readings[0].TenantID] == "" {
			if names, err = customers.Newer(ctx); err != nil {
				return nil, err
			}
		}
		out := mesh.Derive(in, name, mesh.AnalyticsJoined, "", join(readings, index, logbook, names))
		if tenant, ok := in.Extensions()[mesh.ExtTenant]; ok {
			out.SetExtension(mesh.ExtTenant, tenant)
		}
		return []event.Event{out}, nil
	}
}

// place gives the placement of r, nil where it is not its tenant's.
func place(r *mesh.Entry, index *tenancy.Index) *mesh.Placement {
	if p := index.At(r.DeviceID, r.ObservedAt); p != nil && p.TenantID == r.TenantID {
		return p
	}
	return nil
}

// alike says whether b, which follows a, has the same surroundings: the
// metrics of one message share device and instant.
func alike(a, b *mesh.Entry) bool {
	return a.ObservedAt == b.ObservedAt && a.DeviceID == b.DeviceID && a.TenantID == b.TenantID
}

func misses(readings []mesh.Entry, index *tenancy.Index) bool {
	for i := range readings {
		if i > 0 && alike(&readings[i-1], &readings[i]) {
			continue
		}
		if place(&readings[i], index) == nil {
			return true
		}
	}
	return false
}

// surroundingsSize is about what the members that a join adds take.
const surroundingsSize = 256

func join(readings []mesh.Entry, index *tenancy.Index, logbook *Logbook, customers Customers) []byte {
	var out mesh.ReadingsWriter
	if len(readings) == 0 {
		return out.Data()
	}
	out.Grow(len(readings) * (surroundingsSize + readings[0].Size()))
	var members []byte
	for i := range readings {
		r := &readings[i]
		if i == 0 || !alike(&readings[i-1], r) {
			joined := mesh.JoinedReading{Reading: mesh.Reading{ObservedAt: r.ObservedAt}, CustomerName: customers[r.TenantID]}
			if p := place(r, index); p != nil {
				joined.Building, joined.Floor, joined.Room = p.Building, p.Floor, p.Room
				joined.Persons, joined.OutsideCO2 = p.Persons, p.OutsideCO2
				if a := logbook.Last(p, r.ObservedAt); a != nil {
					joined.LastAction, joined.LastActionAt = a.Action, a.TakenAt
				}
			}
			members = joined.AppendJoin(members[:0])
		}
		out.AddMembers(r, members)
	}
	return out.Data()
}
