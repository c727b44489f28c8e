package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/snapshot"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// sheets are the files that say where devices stand, who the tenants are and
// what was done.
type sheets struct{ placements, actions, customers string }

func (s *sheets) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.placements, "placements", "", "CSV of placements: device_id, tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to")
	cmd.Flags().StringVar(&s.actions, "actions", "", "CSV of the logbook: action_id, tenant_id, device_id, building, room, action, taken_at")
	cmd.Flags().StringVar(&s.customers, "customers", "", "CSV of customers: customer_id, name, sector, country")
}

// Where the sheets' events go in, and where what is stored of them is read.
var (
	placementsAt = source{"iot_metadata.placements", ingress("iot"), address("iot-metadata-port", "iot")}
	actionsAt    = source{"iot_actions.actions", ingress("iot"), address("iot-actions-port", "iot")}
	customersAt  = source{"customers.customers", ingress("crm"), address("customers-port", "crm")}
)

type source struct{ table, broker, port string }

func address(service, namespace string) string {
	return "http://" + service + "." + namespace + ".svc.cluster.local/"
}

func ingress(domain string) string {
	return "http://" + manifest.IngressHost + "/" + domain + "/" + domain
}

// load makes events of what the sheets say anew, and returns when it is stored
// and every function looks at it.
func (in *instance) load(ctx context.Context, s sheets) error {
	if s == (sheets{}) {
		return nil
	}
	// What an earlier run left on its way is stored first: the sheets are
	// compared with what is stored.
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	placements, err := loadSheet(ctx, in, sheet.Placements, s.placements, placementsAt)
	if err != nil {
		return err
	}
	actions, err := loadSheet(ctx, in, sheet.Actions, s.actions, actionsAt)
	if err != nil {
		return err
	}
	customers, err := loadSheet(ctx, in, sheet.Customers, s.customers, customersAt)
	if err != nil || placements+actions+customers == 0 {
		return err
	}
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	return in.restart(ctx)
}

// loadSheet posts what the file says anew, in so many events.
func loadSheet[R any](ctx context.Context, in *instance, kind sheet.Kind[R], path string, at source) (events int, err error) {
	if path == "" {
		return 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	read, err := kind.Read(path, f)
	if err != nil {
		return 0, err
	}
	for _, refused := range read.Refused {
		fmt.Fprintf(os.Stderr, "telemesh: row refused: %v\n", refused)
	}
	return postChanges(ctx, in, kind, read, at)
}

// postChanges posts what a sheet says and the output port does not show yet.
func postChanges[R any](ctx context.Context, in *instance, kind sheet.Kind[R], read sheet.Sheet[R], at source) (events int, err error) {
	client := in.mesh.Client()
	as := func(rows []R, _ int64) ([]R, error) { return rows, nil }
	stored, err := snapshot.New(client, at.port, 0, as, in.log).Get(ctx)
	if err != nil {
		return 0, err
	}
	schema, table, _ := strings.Cut(at.table, ".")
	last, err := scalar(ctx, in.warehouse, fmt.Sprintf("SELECT coalesce(max(version), 0) FROM %s_internal.%s", schema, table))
	if err != nil {
		return 0, err
	}
	for _, e := range kind.Events(kind.Changes(read, stored, last)) {
		if err := function.Post(ctx, client, at.broker, e); err != nil {
			return events, err
		}
		events++
	}
	return events, nil
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
