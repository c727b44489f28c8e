package bigquery_test

import (
	"testing"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/internal/warehouse/warehousetest"
)

// The tests take turns at one emulator, whose tables are there from the second
// one on; that they are made is seen in the first.
func TestConformance(t *testing.T) {
	e := emulator.Start(t)
	warehousetest.Test(t, func(t testing.TB) warehouse.Warehouse {
		e.Empty(t)
		return openEmpty(t, e)
	})
}

// openEmpty gives the warehouse of a project without products, in which the user of the emulator sees
// all rows.
func openEmpty(t testing.TB, e *emulator.Emulator) *bigquery.Warehouse {
	t.Helper()
	ctx := t.Context()
	w, err := bigquery.Open(ctx, e.Config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Apply(ctx, nil); err != nil {
		t.Fatal(err)
	}
	client, err := e.Config().NewClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.Query("INSERT INTO " + schema.Members + " (member, tenant_id) VALUES ('" + emulator.User + "', '" + schema.Everyone + "')").Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
