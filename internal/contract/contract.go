// Package contract reads the data products of products/: one folder each,
// with a descriptor (product.odps.yaml, ODPS v1.0.0), a contract per table
// (*.odcs.yaml, ODCS v3.1.0) and views (views/*.sql).
package contract

import "time"

// Product is a unit of data with an owner, ports and contracts.
type Product struct {
	Name    string // iot-telemetry
	Version string // of the descriptor: 1.0.0
	Domain  string // iot
	Schema  string // iot_telemetry: dataset in BigQuery, schema in DuckDB
	Kind    string // source-aligned or consumer-aligned
	Owner   string // the team
	Purpose string
	Usage   string // how to use it best
	Limits  string // what it is not good for
	Tables  []Table
	Views   []View
	Inputs  []string // contracts and event types that its input ports name: iot-metadata.placements
	Events  []string // types of the output ports that are events
	Ports   []Port   // all output ports
	Feeds   []Feed   // Pub/Sub topics that messages come in by

	InputPorts []Input // Inputs with what is said of them
}

// Input is an input port: what the product reads of another one, or from outside.
type Input struct {
	Name     string
	Contract string // id of a contract, or type of an event: iot-metadata.placements
	Version  string // that it is written for
	// Columns that it needs, and of each what it relies on: Type, Required and Unit.
	// Empty: it does not say.
	Columns []Need `json:",omitempty"`
}

// Need is a column that an input port relies on.
type Need struct {
	Name     string `json:"name"`
	Type     Type   `json:"type"`     // empty: any
	Required bool   `json:"required"` // never NULL
	Unit     string `json:"unit"`     // empty: any
}

// Port is an output port as the descriptor lists it.
type Port struct {
	Name    string // FullName of the table or the view, or type of the events
	Type    string // table, view or event
	Version string
	Purpose string
	// Tenant is the attribute of events that says whose data they carry; empty: they
	// carry nobody's, or those of several.
	Tenant string
	// Consumers are who said that they read it.
	Consumers []Reader `json:",omitempty"`
}

// Reader is who reads an output port.
type Reader struct {
	Name    string `json:"name"`    // of a Service, a product or an account
	Since   string `json:"since"`   // a day: 2026-11-21
	Version string `json:"version"` // of the port then: what the reader relies on
}

// Feed is a Pub/Sub topic of an input port, and the subscription that a
// function reads. Each subscription of a topic brings all its messages: where a
// topic has one to push and one to pull, a deployment uses one of them.
type Feed struct {
	Topic           string // telemetry
	Subscription    string // telemetry-ingest: the function that reads it
	DeadLetterTopic string // what could not be delivered MaxDeliveries times goes there
	Push            bool   // to an endpoint that a deployment names, with an OIDC token; else it is pulled
	AckDeadline     time.Duration
	MaxDeliveries   int
	MinBackoff      time.Duration // before a message is delivered again, at first
	MaxBackoff      time.Duration // and at last
	Retention       time.Duration // of messages that nobody has acknowledged
}

// Table is what one contract describes.
type Table struct {
	ID      string // of the contract, as input ports name it: iot-telemetry.readings
	Schema  string // iot_telemetry of an output port; iot_telemetry_internal of what is none
	Name    string // readings
	Version string // of the contract: 1.0.0
	Purpose string
	Usage   string // how to use it best
	Limits  string // what it is not good for
	Rows    string // what a row is: one metric of one device at one instant
	Columns []Column
	Key     []string // columns of the primary key
	KeyOf   []string // columns that the key is made of, as a hash is: rows of one key have the same in them
	Order   string   // Revision or Version: of rows with the same key the highest counts; empty: a key is sent once
	Time    string   // column that partitions the table; empty: none. With Revision it is one of KeyOf

	// AppendOnly: rows of one key are one row, whatever else they say: that which
	// was stored first stays. Time is part of the key.
	AppendOnly bool

	// Events are the types of the events that bring the rows.
	Events []string
	// RowsAt is a JSON Pointer (RFC 6901) to the array of the rows in the data of
	// such an event. Empty: /rows, or the data are one row where columns say From.
	RowsAt string

	// MadeFrom names the tables that the rows are made with the help of, as
	// FullName gives them: iot_metadata.placements. Their version is how many
	// rows were recorded in all of them.
	MadeFrom []string
	// Knowledge is the column that holds the version of MadeFrom that a row was
	// made with; empty: none. It is no part of what the row says: of rows that
	// say the same, the one that knew most counts.
	Knowledge string

	// Ordered: another table is made from this one, so its rows are recorded one
	// batch after the other, and their order is that of recorded_at.
	Ordered bool

	// Tenant is the column that says whose a row is: a tenant sees its rows in the
	// output port. Empty: only the platform sees them.
	Tenant    string
	Clustered []string // columns that BigQuery clusters by, at most four
	Roles     []Role
	Quality   []Rule

	// The service levels. Latency and Freshness are of output ports.
	Latency   time.Duration // from what a row tells of to the row
	Freshness time.Duration // how often the port is brought up to date
	Retention time.Duration // how long rows are kept after their Time; 0: for ever
	Levels    []Level       // the same with what is said of them
	// Completeness is how many percent of what devices send are to be there; 0: it is
	// not said. Of output ports that have a device_id and a Time.
	Completeness float64

	// Tombstones: a row may say that its key is gone. Rows have one more cell
	// than Columns, the last: deleted, a BOOL. The output port does not show it
	// nor rows that have it.
	Tombstones bool
}

// The columns that say which row of a key counts.
const (
	Revision = "revision" // the store counts it: a row that takes another's place gets a higher one
	Version  = "version"  // the source counts it
)

// RecordedAt is the column that the store sets: when the row was written. A
// table without it has it where all versions are kept.
const RecordedAt = "recorded_at"

// Deleted is the column behind the others of a table with Tombstones.
const Deleted = "deleted"

// InternalSuffix ends the schema of what is no output port.
const InternalSuffix = "_internal"

// FullName is the name that a Batch and SQL use: iot_telemetry.readings.
func (t *Table) FullName() string { return t.Schema + "." + t.Name }

// FullName is the name that SQL uses: iot_analytics.co2_evolution.
func (v *View) FullName() string { return v.Schema + "." + v.Name }

// Cells are the columns that a row has cells for.
func (t *Table) Cells() []Column {
	if !t.Tombstones {
		return t.Columns
	}
	return append(t.Columns[:len(t.Columns):len(t.Columns)], Column{Name: Deleted, Type: Bool, Required: true})
}

// Column is a column of a table or of an answer.
type Column struct {
	Name     string
	Type     Type
	Required bool
	Purpose  string
	Unit     string // of its numbers, as a UCUM code; empty: none, or the contract does not say
	// Classification of what the column holds: public, internal, confidential.
	Classification string
	// Provenance: how the row came, not what it says. Two rows that differ in
	// nothing else say the same.
	Provenance bool
	// From is where the value stands in what an event brings; nil: it is the member of
	// the column's name.
	From *From `json:",omitempty"`
	// Sources are the columns that the values are made of, as the contract declares
	// them: iot_metadata.placements.room. Empty: it does not say.
	Sources []string
}

// From is a place in an event.
type From struct {
	Attribute string // of the event: id, source, time, an extension; empty: Pointer counts
	Pointer   string // JSON Pointer (RFC 6901) into the row
	// Unit of a number that is an instant, since 1970: s, ms, us or ns; empty: s.
	Unit string
}

// Level is a service level.
type Level struct {
	Property string        // latency, frequency, retention or completeness
	Value    time.Duration // 0: unlimited; of completeness none
	Percent  float64       // of completeness
	Column   string        // that it is measured by
	Purpose  string
}

// Role is who may do what with a table.
type Role struct {
	Name   string // tenant, platform, writer
	Access string // read, write
}

// The roles.
const (
	TenantRole   = "tenant"   // reads its rows of an output port
	PlatformRole = "platform" // reads all rows
	WriterRole   = "writer"   // the product's service account
)

// Rule is a quality rule: a number that is counted, and what it has to be.
type Rule struct {
	ID      string   // no other rule of the table has it: the contract's id or name, else made of what is counted
	Column  string   // whose values are counted; empty: rows of the table are
	Metric  string   // nullValues, missingValues, invalidValues, duplicateValues or rowCount; empty: Query gives the number
	Query   string   // SQL that both warehouses understand
	Columns []string // of duplicateValues of the table: no two rows have the same in all of them
	Values  []string // of invalidValues: those that are valid, as JSON writes them but for quotes. NULL always is
	Pattern string   // of invalidValues: a regular expression of RE2; what it matches a part of is valid
	Least   string   // of invalidValues: the least that is valid, a number or an RFC 3339 timestamp; empty: no bound
	Most    string   // and the greatest
	Missing []string // of missingValues: those that stand for none, as Values are. NULL always does
	Percent bool     // the number is not of rows but percent of them
	Min     *float64 // nil: no bound
	Max     *float64
	// Exclusive: the number has to be beyond Min, or Max, and not at it.
	Exclusive bool
	// Outside: it has to be less than Min or more than Max.
	Outside bool
	Days    int // of the table's Time back, today included, that are looked at; Unlimited: all; 0: the rule does not say
	Purpose string
	// Dimension of quality that it is about: uniqueness, completeness, conformity, …
	Dimension string
	Severity  string // how bad it is if the rule does not hold; empty: the contract does not say
}

// Unlimited are the Days of a rule that looks at every row.
const Unlimited = -1

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

// View is a view of an output port.
type View struct {
	Schema, Name string
	Version      string // of the output port in the descriptor: 1.0.0
	// Tenant is the column that says whose a row is: a tenant sees its rows. Empty:
	// only the platform sees them. The SQL reads the rows of all.
	Tenant string
	SQL    string // GoogleSQL
	DuckDB string // the same for DuckDB; equal to SQL where that does
	Kept   *Kept  `json:",omitempty"` // nil: its rows are made when they are asked for
}
