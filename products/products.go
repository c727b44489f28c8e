// Package products holds the data products as files, one folder each: what
// the product is (product.odps.yaml), a contract per table (*.odcs.yaml) and
// the views of its output port (views/*.sql, GoogleSQL; *.duckdb.sql beside it
// where DuckDB must read something else).
package products

import "embed"

// FS is the folder of the products, for contract.Load.
//
//go:embed */*.yaml */views/*.sql
var FS embed.FS
