package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/simulate"
	"github.com/telemesh/telemesh/internal/users"
)

// atCommandLine is who uses this command, for the audit log.
func atCommandLine() users.By {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	return users.By{Who: who, From: "command line"}
}

// accounts is an open database of users.
type accounts struct {
	*users.Store
	log *audit.Log
	db  *database.DB
}

func openAccounts(ctx context.Context, address string) (*accounts, error) {
	db, err := database.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	log := audit.New(db, time.Now)
	return &accounts{users.New(db, log, time.Now), log, db}, nil
}

// welcome says how to enter the portal: as a user of the demo, or, while there are
// no users, by a link that makes the first admin.
func (in *instance) welcome(ctx context.Context, out io.Writer, portal string, demo, simulated bool) (err error) {
	address := in.config.Set[portalService]["DATABASE_URL"]
	if address == "" {
		return nil // these manifests have no portal
	}
	a, err := openAccounts(ctx, address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.db.Close()) }()
	if demo {
		names, err := in.demoUsers(ctx, a, simulated)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "demo     NO PASSWORDS: whoever uses this machine may enter the portal as %s\n", strings.Join(names, ", "))
		return nil
	}
	link, ok, err := a.First(ctx)
	if ok {
		fmt.Fprintf(out, "setup    %s    makes the first admin, once, within an hour\n", portal+link.Path())
	}
	return err
}

// demoUsers sees that there are an admin, an analyst and a user of each tenant,
// and gives their names.
func (in *instance) demoUsers(ctx context.Context, a *accounts, simulated bool) ([]string, error) {
	sql := "SELECT DISTINCT tenant_id FROM iot_metadata.placements WHERE tenant_id IS NOT NULL ORDER BY 1"
	if !in.has("iot-metadata") {
		sql = "SELECT '' AS tenant_id WHERE FALSE"
	}
	found, err := in.warehouse.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	var tenants []string
	for row, err := range found.All {
		if err != nil {
			return nil, fmt.Errorf("list tenants: %w", err)
		}
		tenants = append(tenants, fmt.Sprint(row[0]))
	}
	if simulated {
		fleet, err := simulate.New(simulate.Sample())
		if err != nil {
			return nil, err
		}
		for _, c := range fleet.Customers() {
			tenants = append(tenants, c.CustomerID)
		}
	}
	slices.Sort(tenants)
	by := atCommandLine()
	names := []string{"admin", "analyst"}
	err = errors.Join(a.AddDemo(ctx, by, "admin", access.Admin, nil), a.AddDemo(ctx, by, "analyst", access.Analyst, nil))
	for _, t := range slices.Compact(tenants) {
		added := a.AddDemo(ctx, by, t, access.Tenant, []string{t})
		if errors.Is(added, users.ErrName) {
			continue // a tenant whose id is no name of a user
		}
		err = errors.Join(err, added)
		names = append(names, t)
	}
	return names, err
}
