package bigquery_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// What a table gains is there for the rows it has, and for those to come; what
// it cannot become is said.
func TestApplyChanges(t *testing.T) {
	ctx := t.Context()
	e := emulator.Start(t)
	w := openEmpty(t, e)
	defer func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	product := func(columns ...contract.Column) []contract.Product {
		return []contract.Product{{Name: "things", Schema: "things", Tables: []contract.Table{{
			Schema: "things", Name: "things", Key: []string{"id"}, Order: contract.Version,
			Columns: append([]contract.Column{{Name: "id", Type: contract.String, Required: true}, {Name: "version", Type: contract.Int64, Required: true}}, columns...),
		}}}}
	}
	add := func(id string, cells ...warehouse.Cell) {
		t.Helper()
		row := storedRow(append([]warehouse.Cell{warehouse.String(id), warehouse.Int(1)}, cells...))
		if _, err := w.Append(ctx, warehouse.Batch{Table: "things.things", EventSource: "/test", EventID: id, Rows: []warehouse.Row{row}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Apply(ctx, product()); err != nil {
		t.Fatal(err)
	}
	client, err := e.Config().NewClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, name := range []string{"things", "things_internal", "telemesh_internal"} {
		metadata, err := client.Dataset(name).Metadata(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(schema.Owners(), metadata.Access); diff != "" {
			t.Errorf("who gets to %s (-want +got):\n%s", name, diff)
		}
	}
	add("a")
	// A process that knows the table as it was goes on.
	if err := w.Apply(ctx, product(contract.Column{Name: "weight", Type: contract.Float64, Required: true})); err != nil {
		t.Fatal(err)
	}
	add("b")
	const sql = "SELECT id, weight FROM things.things ORDER BY id"
	if got, want := asked(t, w, sql), [][]any{{"a", nil}, {"b", nil}}; !cmp.Equal(got, want) {
		t.Errorf("%s: %v, want %v", sql, got, want)
	}
	err = w.Apply(ctx, product(contract.Column{Name: "weight", Type: contract.String}))
	if err == nil || !strings.Contains(err.Error(), "weight") || !strings.Contains(err.Error(), "telemesh apply") {
		t.Errorf("Apply() of a column of another type = %v, want an error that names it and telemesh apply", err)
	}
}

func asked(t *testing.T, w warehouse.Warehouse, sql string) (list [][]any) {
	t.Helper()
	rows, err := w.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("Query(%s) = %v", sql, err)
	}
	for row, err := range rows.All {
		if err != nil {
			t.Fatalf("Query(%s): %v", sql, err)
		}
		list = append(list, slices.Clone(row))
	}
	return list
}
