package duckdb_test

import (
	"path/filepath"
	"testing"

	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/warehousetest"
)

func open(t testing.TB) warehouse.Warehouse {
	return openFile(t, filepath.Join(t.TempDir(), "test.duckdb"))
}

func openFile(t testing.TB, file string) *duckdb.DB {
	t.Helper()
	db, err := duckdb.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestConformance(t *testing.T) { warehousetest.Test(t, open) }
