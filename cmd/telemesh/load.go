package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

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

// load makes events of what the sheets say anew and waits until it is stored.
func (in *instance) load(ctx context.Context, s sheets) error {
	if err := loadSheet(ctx, in, sheet.Placements, s.placements, placementsAt); err != nil {
		return err
	}
	if err := loadSheet(ctx, in, sheet.Actions, s.actions, actionsAt); err != nil {
		return err
	}
	if err := loadSheet(ctx, in, sheet.Customers, s.customers, customersAt); err != nil {
		return err
	}
	if s != (sheets{}) {
		return in.mesh.Idle(ctx)
	}
	return nil
}

func loadSheet[R any](ctx context.Context, in *instance, kind sheet.Kind[R], path string, at source) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	read, err := kind.Read(path, f)
	if err != nil {
		return err
	}
	for _, refused := range read.Refused {
		fmt.Fprintf(os.Stderr, "telemesh: row refused: %v\n", refused)
	}
	return postChanges(ctx, in.mesh.Client(), in.warehouse, kind, read, at)
}

// postChanges posts what sheet says and the output port does not show yet.
func postChanges[R any](ctx context.Context, client *http.Client, w warehouse.Warehouse, kind sheet.Kind[R], read sheet.Sheet[R], at source) error {
	as := func(rows []R) ([]R, error) { return rows, nil }
	stored, err := snapshot.New(client, at.port, 0, as).Get(ctx)
	if err != nil {
		return err
	}
	schema, table := splitTable(at.table)
	last, err := scalar(ctx, w, fmt.Sprintf("SELECT coalesce(max(version), 0) FROM %s_internal.%s", schema, table))
	if err != nil {
		return err
	}
	for _, e := range kind.Events(kind.Changes(read, stored, last)) {
		if err := function.Post(ctx, client, at.broker, e); err != nil {
			return err
		}
	}
	return nil
}

func splitTable(full string) (schema, table string) {
	for i := range full {
		if full[i] == '.' {
			return full[:i], full[i+1:]
		}
	}
	return "", full
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
