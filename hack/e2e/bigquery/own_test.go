package bigquery_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/scaffold"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

// A product that telemesh new makes of samples, and a view of it, have the same rows
// in BigQuery as in DuckDB.
func TestProductsWithoutCode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	if _, err := scaffold.NewMesh(dir); err != nil {
		t.Fatal(err)
	}
	view := filepath.Join(t.TempDir(), "transaction_sizes")
	for suffix, value := range map[string]string{
		".sql":        "(SELECT SUM(CAST(JSON_VALUE(o, '$.value') AS INT64)) FROM UNNEST(JSON_QUERY_ARRAY(t.out)) AS o)",
		".duckdb.sql": "list_sum(CAST(json_extract(t.out, '$[*].value') AS BIGINT[]))",
	} {
		query := "SELECT x_hash, time, CASE WHEN value < 1000 THEN 'S' ELSE 'XL' END AS size_class FROM (\n" +
			"  SELECT x_hash, time, " + value + " AS value FROM transactions.transactions AS t\n) AS sums\n"
		if err := os.WriteFile(view+suffix, []byte(query), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []scaffold.Product{
		{Name: "transactions", Kind: "source", Like: "../../../internal/scaffold/testdata", Key: "x_hash"},
		{Name: "transaction-sizes", Kind: "consumer", In: []string{"transactions.transactions"}, View: view + ".sql"},
	} {
		p.Dir, p.Domain = dir, "finance"
		if _, err := scaffold.NewProduct(p); err != nil {
			t.Fatal(err)
		}
	}
	all, err := contract.Load(os.DirFS(filepath.Join(dir, "products")))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := sink.TablesOf(all, "transactions")
	if err != nil {
		t.Fatal(err)
	}
	duck := duckdbtest.Open(t)
	if err := duck.Apply(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	var shown [][]string
	for _, w := range []warehouse.Warehouse{duck, openProducts(t, emulator.Start(t), all)} {
		handle := sink.New(w, tables, nil)
		for i, data := range []string{
			`{"op":"utx","x":{"hash":"a","lock_time":"Unavailable","size":796,"time":1331300839,"out":[{"value":600},{"value":300}]}}`,
			`{"op":"utx","x":{"hash":"b","lock_time":0,"time":1331300840.5,"out":[{"value":600},{"value":500}]}}`,
			`{"op":"utx","x":{"hash":"a","lock_time":"Unavailable","size":796,"time":1331300839,"out":[{"value":600},{"value":300}]}}`,
			`{"op":"utx","x":{"time":1331300841}}`,
		} {
			in := mesh.NewEvent("dev.telemesh.transactions.received.v1", "/chain", []byte(data), fmt.Sprint(i))
			if _, err := handle(t.Context(), in); (err != nil) != (i == 3) || i == 3 && !mesh.IsPermanent(err) {
				t.Fatalf("event %d: %v", i, err)
			}
		}
		var rows []string
		for _, row := range readRows(t, w, "SELECT t.x_hash, t.lock_time, t.size, t.time, s.size_class FROM transactions.transactions AS t"+
			" JOIN transaction_sizes.transaction_sizes AS s ON s.x_hash = t.x_hash ORDER BY t.x_hash") {
			rows = append(rows, strings.Trim(fmt.Sprint(row...), "[]"))
		}
		shown = append(shown, rows)
	}
	if diff := gocmp.Diff(shown[0], shown[1]); diff != "" || len(shown[0]) != 2 {
		t.Errorf("%d rows; (-DuckDB +BigQuery)\n%s", len(shown[0]), diff)
	}
}
