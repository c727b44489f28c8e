// Package duckdbtest opens warehouses for tests.
package duckdbtest

import (
	"path/filepath"
	"testing"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/products"
)

// Open gives an empty warehouse with the tables of all products, which is closed
// when the test ends.
func Open(t testing.TB) *duckdb.DB {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	db, err := duckdb.Open(filepath.Join(t.TempDir(), "test.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := db.Apply(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	return db
}
