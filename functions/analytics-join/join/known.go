package join

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
)

// Config is where the metadata is read: the output ports.
type Config struct {
	PlacementsURL string        `envconfig:"PLACEMENTS_URL" required:"true"` // iot-metadata
	ActionsURL    string        `envconfig:"ACTIONS_URL" required:"true"`    // iot-actions
	CustomersURL  string        `envconfig:"CUSTOMERS_URL" required:"true"`  // customers
	Refresh       time.Duration `envconfig:"REFRESH" default:"15s"`
}

// Open gives the metadata of the ports.
func (c *Config) Open(ports function.Ports) *Metadata {
	return &Metadata{
		Placements: snapshot.New(ports.Client, c.PlacementsURL, c.Refresh, NewPlaces(ports.Log), ports.Log),
		Actions:    snapshot.New(ports.Client, c.ActionsURL, c.Refresh, NewActions, ports.Log),
		Customers:  snapshot.New(ports.Client, c.CustomersURL, c.Refresh, NewCustomers, ports.Log),
	}
}

// Source is where a T is found.
type Source[T any] interface {
	Get(context.Context) (T, error)   // as it is at hand
	Newer(context.Context) (T, error) // asked for because something was not in the last one
	Fresh(context.Context) (T, error) // asked for after the call began
}

// Metadata is what readings are joined with.
type Metadata struct {
	Placements Source[*Places]
	Actions    Source[*Actions]
	Customers  Source[*Customers]

	logbook atomic.Pointer[logbook] // the last one made
}

// Customers is the name of each customer by id.
type Customers struct {
	version int64
	names   map[string]string
}

// NewCustomers makes the names of a version.
func NewCustomers(customers []mesh.Customer, version int64) (*Customers, error) {
	names := make(map[string]string, len(customers))
	for _, c := range customers {
		names[c.CustomerID] = c.Name
	}
	return &Customers{version, names}, nil
}

// Known is the metadata at an instant.
type Known struct {
	places    *Places
	actions   *Actions
	customers *Customers
	logbook   *logbook
}

// Get gives the metadata at hand.
func (m *Metadata) Get(ctx context.Context) (*Known, error) {
	return m.read(ctx, Source[*Places].Get, Source[*Actions].Get, Source[*Customers].Get)
}

// Fresh gives metadata that was asked for after the call began.
func (m *Metadata) Fresh(ctx context.Context) (*Known, error) {
	return m.read(ctx, Source[*Places].Fresh, Source[*Actions].Fresh, Source[*Customers].Fresh)
}

type get[T any] = func(Source[T], context.Context) (T, error)

func (m *Metadata) read(ctx context.Context, placements get[*Places], actions get[*Actions], customers get[*Customers]) (*Known, error) {
	// At once: after a cold start each of them may wake a port.
	var k Known
	var loading errgroup.Group
	loading.Go(func() (err error) { k.places, err = placements(m.Placements, ctx); return err })
	loading.Go(func() (err error) { k.actions, err = actions(m.Actions, ctx); return err })
	loading.Go(func() (err error) { k.customers, err = customers(m.Customers, ctx); return err })
	if err := loading.Wait(); err != nil {
		return nil, err
	}
	k.logbook = m.logbookOf(&k)
	return &k, nil
}

// logbookOf gives the logbook of the placements and actions that k has.
func (m *Metadata) logbookOf(k *Known) *logbook {
	if l := m.logbook.Load(); l != nil && l.places == k.places && l.actions == k.actions {
		return l
	}
	l := newLogbook(k.places, k.actions)
	m.logbook.Store(l)
	return l
}

// placed gives what is known with placements that were asked for after the call
// began.
func (m *Metadata) placed(ctx context.Context, k *Known) (*Known, error) {
	next := *k
	var err error
	if next.places, err = m.Placements.Fresh(ctx); err != nil {
		return nil, err
	}
	next.logbook = m.logbookOf(&next)
	return &next, nil
}

// newer gives what is known once the placements, or the customers, were asked
// for again.
func (m *Metadata) newer(ctx context.Context, k *Known, placements, customers bool) (*Known, error) {
	next := *k
	var err error
	if placements {
		if next.places, err = m.Placements.Newer(ctx); err != nil {
			return nil, err
		}
		next.logbook = m.logbookOf(&next)
	}
	if customers {
		if next.customers, err = m.Customers.Newer(ctx); err != nil {
			return nil, err
		}
	}
	return &next, nil
}

// Version is that of the placements, the actions and the customers together.
func (k *Known) Version() int64 {
	return k.places.version + k.actions.version + k.customers.version
}

// Join gives r the surroundings that are known, in place of those it has, and
// says whether its tenant held the device at its instant. If not, r is left
// without a place: a place is never shown to who did not hold it.
func (k *Known) Join(r *mesh.JoinedReading) (held bool) {
	*r = mesh.JoinedReading{Reading: r.Reading, CustomerName: k.customers.names[r.TenantID], JoinVersion: k.Version()}
	p := k.place(r.TenantID, r.DeviceID, r.ObservedAt)
	if p == nil {
		return false
	}
	r.Building, r.Floor, r.Room = p.Building, p.Floor, p.Room
	r.Persons, r.OutsideCO2 = p.Persons, p.OutsideCO2
	if a := k.logbook.last(p, r.ObservedAt); a != nil {
		r.LastAction, r.LastActionAt = a.Action, a.TakenAt
	}
	return true
}

// place gives the placement of a device at an instant, nil where it is not the
// tenant's.
func (k *Known) place(tenant, device string, at mesh.Instant) *mesh.Placement {
	if p := k.places.At(device, at); p != nil && p.TenantID == tenant {
		return p
	}
	return nil
}

// Placements gives the placements of a device as the port shows them. They must
// not be changed; neither must the actions below.
func (k *Known) Placements(device string) []mesh.Placement {
	if rows, ok := k.places.disputed[device]; ok {
		return rows
	}
	return k.places.devices[device]
}

// Actions gives all actions, whoever they are of, by TakenAt, then ActionID.
func (k *Known) Actions() []mesh.Action { return k.actions.list }

// ActionsAt gives the actions at a device that are a tenant's, by TakenAt, then
// ActionID.
func (k *Known) ActionsAt(tenant, device string) []*mesh.Action {
	return k.logbook.devices[atDevice{tenant, device}]
}

// ActionsIn gives the actions in a room that are a tenant's, by TakenAt, then
// ActionID.
func (k *Known) ActionsIn(tenant, building, name string) []*mesh.Action {
	return k.logbook.rooms[inRoom{tenant, room{building, name}}]
}

// CustomerName gives the name of a customer; empty: there is none.
func (k *Known) CustomerName(id string) string { return k.customers.names[id] }
