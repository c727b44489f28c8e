// Package source brings the customers of a CRM into the data product customers.
//
// A tick of a PingSource wakes it. It reads all customers from CRM_URL, JSON as
// a mapping of products/customers/mappings says, or CSV, compares them with
// what the output port shows, and makes one customers.changed of those that are
// new, changed or gone, and one customers.rejected of what is wrong with the
// others and was not so before. Nothing new is no event. The customer_id is
// the tenant's id everywhere.
//
// A list that is read in part never looks like customers that are gone: one
// page that cannot be read fails all of them; one that a row is refused of
// deletes none that this row may be; a list of several pages that is not as it
// was is read twice, and counts if it is the same both times; a list of nobody,
// where there were customers, is refused unless CRM_ALLOW_EMPTY says that it
// may be.
//
// A CRM that cannot answer now is asked again within the tick, and then the tick
// fails in passing. What somebody has to see to, such as a token that ran out,
// is a finding about the source as a whole, row 0 of customers.rejected, for as
// long as it lasts; what is stored stays as it is. Any other event than a tick
// is a permanent error. A tick that is delivered again is answered with the same
// events.
//
// The token, the key, and user, password and parameters of CRM_URL are in no
// log, error or finding, also where a CRM repeats them. They are sent nowhere but to the scheme, host and port of
// CRM_URL: a redirect or a link that leads elsewhere is refused.
package source

import (
	"context"
	"errors"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
)

const name = "customer-source"

// Config is the function's environment.
type Config struct {
	URL          string `envconfig:"CRM_URL"` // empty: nothing is read
	Mapping      string `envconfig:"CRM_MAPPING" default:"crm"`
	Token        string `envconfig:"CRM_TOKEN"`
	APIKey       string `envconfig:"CRM_API_KEY"`
	APIKeyHeader string `envconfig:"CRM_API_KEY_HEADER" default:"X-API-Key"`
	AllowEmpty   bool   `envconfig:"CRM_ALLOW_EMPTY"`
	CustomersURL string `envconfig:"CUSTOMERS_URL" default:"http://customers-port.crm.svc.cluster.local/customers"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	handler, err := New(cfg, ports)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: handler}, nil
}

// New makes the handler.
func New(cfg Config, ports function.Ports) (function.Handler, error) {
	port, err := sheet.NewPort(sheet.Customers, ports.Client, cfg.CustomersURL, name)
	if err != nil {
		return nil, err
	}
	s := &source{allowEmpty: cfg.AllowEmpty, port: port}
	if cfg.URL != "" {
		if s.crm, err = newCRM(&cfg, ports); err != nil {
			return nil, err
		}
	}
	return s.handle, nil
}

type source struct {
	allowEmpty bool
	port       *sheet.Port[mesh.Customer]
	crm        *crm // nil: there is none
	ticks      sheet.Ticks
}

func (s *source) handle(ctx context.Context, in event.Event) ([]event.Event, error) {
	return s.ticks.Take(in, name, func() ([]event.Event, error) {
		if s.crm == nil {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(ctx, tickTimeout)
		defer cancel()
		customers, err := s.read(ctx)
		if errors.As(err, new(sheet.Fault)) {
			s.crm.log.Error("customers cannot be read: what is stored stays as it is", "address", s.crm.name, "error", err)
			customers, err = sheet.Unreadable[mesh.Customer](s.crm.name, err), nil
		}
		if err != nil {
			return nil, err
		}
		return s.port.Changes(ctx, customers)
	})
}

// read gives all customers there are.
func (s *source) read(ctx context.Context) (sheet.Sheet[mesh.Customer], error) {
	none := sheet.Sheet[mesh.Customer]{}
	reading, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	grid, err := s.crm.grid(reading)
	if err != nil {
		return none, err
	}
	customers, err := sheet.Customers.Read(grid)
	if err != nil {
		return none, sheet.Fault{Err: err}
	}
	if !s.allowEmpty {
		err = s.port.Lost(ctx, customers, "CRM_ALLOW_EMPTY")
	}
	return customers, err
}
