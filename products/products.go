// Package products holds the data products as files, one folder each: what
// the product is (product.odps.yaml), a contract per table (*.odcs.yaml), the
// views of its output port (views/*.sql, GoogleSQL; *.duckdb.sql beside it
// where DuckDB must read something else), dashboards (dashboards/*.json) and, of
// iot-telemetry, how messages are read (metrics.yaml, mappings/*.yaml).
package products

import "embed"

// FS is the folder of the products.
//
//go:embed */*.yaml */mappings/*.yaml */views/*.sql */dashboards/*.json
var FS embed.FS
