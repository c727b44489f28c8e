package bigquery_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
)

// A statement that closes the parenthesis it is put into does nothing.
func TestQueryCannotBeSmuggled(t *testing.T) {
	ctx := t.Context()
	w := openEmpty(t, emulator.Start(t))
	defer func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	const write = "DELETE FROM telemesh_internal.members WHERE TRUE"
	for _, sql := range []string{
		write, write + ";", "SELECT 1; " + write,
		"SELECT 1) SELECT * FROM answer; " + write + "; WITH answer AS (SELECT 1",
		"SELECT 1) SELECT * FROM answer; " + write + " -- ",
		"SELECT 1) SELECT * FROM answer; " + write + "; /*",
		"SELECT '''1) SELECT * FROM answer; " + write + "; WITH answer AS (SELECT 1",
		"SELECT 1), other AS (" + write,
		"BEGIN " + write + "; END",
	} {
		rows, err := w.Query(ctx, sql)
		if err == nil {
			for _, err = range rows.All {
			}
		}
		if !mesh.IsPermanent(err) {
			t.Errorf("Query(%s) = %v, want a permanent error", sql, err)
		}
	}
	const sql = "SELECT member FROM telemesh_internal.members"
	if got, want := asked(t, w, sql), [][]any{{emulator.User}}; !cmp.Equal(got, want) {
		t.Errorf("%s: %v, want %v", sql, got, want)
	}
}

// The answer has the types of what GoogleSQL has beyond a contract's.
func TestQueryTypes(t *testing.T) {
	w := openEmpty(t, emulator.Start(t))
	defer func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	rows, err := w.Query(t.Context(), "SELECT [1, 2] AS a, STRUCT(1.5 AS x, ['y'] AS y) AS b, DATE '2024-03-01' AS c, NUMERIC '0.125' AS d, "+
		"DATETIME '2024-03-01 12:00:00' AS e, JSON '{\"a\":1}' AS f, b'x' AS g, TIMESTAMP '2024-03-01 12:00:00+01' AS h -- ;\n;")
	if err != nil {
		t.Fatal(err)
	}
	var kinds []contract.Type
	for _, c := range rows.Columns {
		kinds = append(kinds, c.Type)
	}
	want := []contract.Type{"JSON", "JSON", "STRING", "FLOAT64", "STRING", "JSON", "STRING", "TIMESTAMP"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("types: (-want +got)\n%s", diff)
	}
	for row, err := range rows.All {
		if err != nil {
			t.Fatal(err)
		}
		got := row[:7:7]
		if diff := cmp.Diff([]any{"[1,2]", `{"x":1.5,"y":["y"]}`, "2024-03-01", 0.125, "2024-03-01 12:00:00", `{"a":1}`, "eA=="}, got); diff != "" {
			t.Errorf("cells: (-want +got)\n%s", diff)
		}
	}
}
