package bigquery_test

import (
	"testing"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
)

// storedRow is a row by its cells.
type storedRow []warehouse.Cell

func (r storedRow) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, r...) }

// rowOf gives a row with cells by column, NULL where there is none.
func rowOf(table *contract.Table, by map[string]warehouse.Cell) storedRow {
	var row storedRow
	for _, c := range table.Cells() {
		row = append(row, by[c.Name])
	}
	return row
}

func tableOf(t *testing.T, name string) *contract.Table {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		for i := range p.Tables {
			if p.Tables[i].FullName() == name {
				return &p.Tables[i]
			}
		}
	}
	t.Fatalf("no table %s", name)
	return nil
}
