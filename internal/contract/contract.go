// Package contract reads the data products of products/: one folder each,
// with a descriptor (product.odps.yaml, ODPS v1.0.0), a contract per table of
// an output port (*.odcs.yaml, ODCS v3.1.0) and views (views/*.sql).
package contract

// Product is a unit of data with an owner, ports and contracts.
type Product struct {
	Name   string // iot-telemetry
	Domain string // iot
	Schema string // iot_telemetry: dataset in BigQuery, schema in DuckDB
	Tables []Table
	Views  []View
}

// Table is what one contract describes.
type Table struct {
	Schema  string // iot_telemetry, or iot_telemetry_internal where it is no output port
	Name    string // readings
	Columns []Column
	Key     []string // columns of the primary key; of rows with the same key the highest Order counts
	Order   string   // revision or version; empty: each key comes once
	Time    string   // column that partitions the table; empty: none
}

// Column is a column of a table or of an answer.
type Column struct {
	Name     string
	Type     Type
	Required bool
}

// Type is a column type that both warehouses know.
type Type string

// The column types, by their GoogleSQL names.
const (
	String    Type = "STRING"
	Float64   Type = "FLOAT64"
	Int64     Type = "INT64"
	Bool      Type = "BOOL"
	Timestamp Type = "TIMESTAMP" // UTC, µs
	JSON      Type = "JSON"
)

// View is a view of an output port: GoogleSQL, and DuckDB's SQL where that
// must differ.
type View struct {
	Schema, Name string
	SQL          string
}
