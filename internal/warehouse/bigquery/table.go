package bigquery

import "github.com/telemesh/telemesh/internal/contract"

// table is a table of a contract, and what appends to it.
type table struct {
	contract.Table
}

func (w *Warehouse) newTable(ct *contract.Table) *table { return &table{Table: *ct} }

func (t *table) close() {}
