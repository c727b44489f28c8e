package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// sheets are the files that say where devices stand, who the tenants are and
// what was done.
type sheets struct{ placements, actions, customers, zone string }

func (s *sheets) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.placements, "placements", "", "CSV of placements: device_id, tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to")
	cmd.Flags().StringVar(&s.actions, "actions", "", "CSV of the logbook: action_id, tenant_id, device_id, building, room, action, taken_at")
	cmd.Flags().StringVar(&s.customers, "customers", "", "CSV of customers: customer_id, name, sector, country")
	cmd.Flags().StringVar(&s.zone, "timezone", "", "time zone of times without an offset in these, such as Europe/Amsterdam (default: they are refused)")
}

// Where the sheets' events go in, and where what is stored of them is read.
var (
	placementsAt = source{ingress("iot"), address("iot-metadata-port", "iot") + "placements"}
	actionsAt    = source{ingress("iot"), address("iot-actions-port", "iot") + "actions"}
	customersAt  = source{ingress("crm"), address("customers-port", "crm") + "customers"}
)

type source struct{ broker, port string }

func address(service, namespace string) string {
	return "http://" + service + "." + namespace + ".svc.cluster.local/"
}

func ingress(domain string) string {
	return "http://" + manifest.IngressHost + "/" + domain + "/" + domain
}

// load makes events of what the sheets say anew, and returns when it is stored,
// and so is what it corrects.
func (in *instance) load(ctx context.Context, s sheets) error {
	zone, err := s.location()
	if err != nil || s.placements+s.actions+s.customers == "" {
		return err
	}
	// What an earlier run left on its way is stored first: the sheets are
	// compared with what is stored.
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	customers, err := portOf(in, sheet.Customers, customersAt)
	if err != nil {
		return err
	}
	placements, err := portOf(in, sheet.Placements, placementsAt)
	if err != nil {
		return err
	}
	actions, err := portOf(in, sheet.Actions, actionsAt)
	if err != nil {
		return err
	}
	// Customers first and actions last: each is compared with what the ones
	// before say.
	events := 0
	add := func(n int, err error) error {
		events += n
		return err
	}
	err = add(loadSheet(ctx, in, customers, s.customers, zone, nil))
	if err == nil {
		err = add(loadSheet(ctx, in, placements, s.placements, zone, func(read *sheet.Sheet[mesh.Placement]) error {
			known, err := customers.Rows(ctx)
			if len(known) > 0 { // else nobody keeps them here
				sheet.WarnOfTenants(read, known)
			}
			return err
		}))
	}
	if err == nil {
		err = add(loadSheet(ctx, in, actions, s.actions, zone, func(read *sheet.Sheet[mesh.Action]) error {
			held, err := placements.Rows(ctx)
			sheet.WarnOfActions(read, held)
			return err
		}))
	}
	if err != nil || events == 0 {
		return err
	}
	return in.mesh.Idle(ctx)
}

func (s *sheets) location() (*time.Location, error) {
	if s.zone == "" {
		return nil, nil
	}
	zone, err := time.LoadLocation(s.zone)
	return zone, hint(err, "--timezone takes a name of the tz database, such as Europe/Amsterdam")
}

// port is where a kind of rows is kept.
type port[R any] struct {
	*sheet.Port[R]
	kind   sheet.Kind[R]
	broker string
}

func portOf[R any](in *instance, kind sheet.Kind[R], at source) (port[R], error) {
	p, err := sheet.NewPort(kind, in.mesh.Client(), at.port, "sheet-source")
	return port[R]{p, kind, at.broker}, err
}

// loadSheet posts what the file says anew, in so many events, and prints what is
// wrong with it.
func loadSheet[R any](ctx context.Context, in *instance, to port[R], path string, zone *time.Location, warn func(*sheet.Sheet[R]) error) (events int, err error) {
	if path == "" {
		return 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	grid, err := sheet.ReadCSV(path, f)
	if err != nil {
		return 0, err
	}
	grid.Zone = zone
	read, err := to.kind.Read(grid)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if warn != nil {
		if err := warn(&read); err != nil {
			return 0, err
		}
	}
	for _, f := range read.Findings {
		what := "row refused"
		if f.Severity == mesh.SeverityWarning {
			what = "warning"
		}
		fmt.Fprintf(os.Stderr, "telemesh: %s: %s\n", what, sheet.Describe(f))
	}
	return to.post(ctx, in, read)
}

// post posts what a sheet says and the output port does not show yet.
func (p *port[R]) post(ctx context.Context, in *instance, read sheet.Sheet[R]) (events int, err error) {
	changes, err := p.Changes(ctx, read)
	if err != nil {
		return 0, err
	}
	for _, e := range changes {
		if err := function.Post(ctx, in.mesh.Client(), p.broker, e); err != nil {
			return events, err
		}
		events++
	}
	return events, nil
}

// postChanges posts rows that no file says and the output port does not show
// yet.
func postChanges[R any](ctx context.Context, in *instance, kind sheet.Kind[R], rows []R, at source) error {
	to, err := portOf(in, kind, at)
	if err == nil {
		_, err = to.post(ctx, in, sheet.Sheet[R]{Rows: rows})
	}
	return err
}

// scalar runs a query that gives one integer.
func scalar(ctx context.Context, w warehouse.Warehouse, sql string) (int64, error) {
	rows, err := w.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	for row, err := range rows.All {
		if err != nil {
			return 0, err
		}
		n, ok := row[0].(int64)
		if !ok {
			return 0, fmt.Errorf("%s gave %v, want an integer", sql, row[0])
		}
		return n, nil
	}
	return 0, fmt.Errorf("%s gave no row", sql)
}
