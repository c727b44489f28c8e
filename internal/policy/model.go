package policy

import "google.golang.org/protobuf/types/known/structpb"

// The model is what policies are about: the mesh as its documents say it is. The
// names of its members in CEL, and in the cases of a policy, are those of JSON. What
// is not said is "", 0, false or empty.

// Mesh is all of it, in CEL the variable mesh of every policy.
type Mesh struct {
	Products []Product `json:"products"`
	Reads    []Read    `json:"reads"`
	Events   []Event   `json:"events"`
	Brokers  []Broker  `json:"brokers"`
	Triggers []Trigger `json:"triggers"`
	Services []Service `json:"services"`
	Ticks    []Tick    `json:"ticks"`
}

// Product is a data product, by its descriptor.
type Product struct {
	Name      string     `json:"name"` // iot-telemetry
	Version   string     `json:"version"`
	Domain    string     `json:"domain"`
	Kind      string     `json:"kind"`   // source-aligned, consumer-aligned
	Schema    string     `json:"schema"` // iot_telemetry
	Owner     string     `json:"owner"`  // the team
	Purpose   string     `json:"purpose"`
	Usage     string     `json:"usage"`
	Limits    string     `json:"limits"`
	Inputs    []string   `json:"inputs"` // what its input ports name: contracts and event types
	Ports     []Port     `json:"ports"`
	Contracts []Contract `json:"contracts"`
}

// Port is an output port.
type Port struct {
	Name    string   `json:"name"` // iot_telemetry.readings, or the type of its events
	Type    string   `json:"type"` // table, view, event
	Version string   `json:"version"`
	Purpose string   `json:"purpose"`
	Tenant  string   `json:"tenant"` // the column, or the attribute of events, that says whose the data are
	Columns []Column `json:"columns"`
	Rules   []Rule   `json:"rules"`
	Levels  []Level  `json:"levels"`
}

// Contract is that of a table, which need not be an output port.
type Contract struct {
	ID       string   `json:"id"`    // iot-telemetry.readings
	Table    string   `json:"table"` // iot_telemetry.readings
	Version  string   `json:"version"`
	Port     bool     `json:"port"` // the table is an output port
	Purpose  string   `json:"purpose"`
	Usage    string   `json:"usage"`
	Limits   string   `json:"limits"`
	Rows     string   `json:"rows"`   // what a row is
	Time     string   `json:"time"`   // the column that partitions it
	Tenant   string   `json:"tenant"` // the column that says whose a row is
	Key      []string `json:"key"`
	Events   []string `json:"events"` // types that bring the rows
	MadeFrom []string `json:"made_from"`
	Readers  []string `json:"readers"` // roles that read it: tenant, platform
	Columns  []Column `json:"columns"`
	Rules    []Rule   `json:"rules"`
	Levels   []Level  `json:"levels"`
}

// Column is a column of a table or a view.
type Column struct {
	Name           string   `json:"name"`
	Type           string   `json:"type"` // STRING, FLOAT64, INT64, BOOL, TIMESTAMP, JSON
	Required       bool     `json:"required"`
	Key            bool     `json:"key"`
	Purpose        string   `json:"purpose"`
	Unit           string   `json:"unit"`           // UCUM
	Classification string   `json:"classification"` // public, internal, confidential
	Sources        []string `json:"sources"`        // columns that it is made of
}

// Rule is a quality rule.
type Rule struct {
	Column    string `json:"column"`
	Metric    string `json:"metric"` // nullValues, …; empty: a query counts
	Query     string `json:"query"`
	Dimension string `json:"dimension"`
	Purpose   string `json:"purpose"`
}

// Level is a service level.
type Level struct {
	Property string `json:"property"` // latency, frequency, retention
	Seconds  int64  `json:"seconds"`  // 0: unlimited
	Column   string `json:"column"`   // that it is measured by
	Purpose  string `json:"purpose"`
}

// Read is that one thing of the mesh reads another: a view or a contract a table, a
// Trigger events of a Broker for a subscriber elsewhere.
type Read struct {
	By         string `json:"by"`         // view iot_analytics.co2_evolution, contract …, Trigger iot/analytics
	ByProduct  string `json:"by_product"` // the product that reads; of a Trigger empty
	ByDomain   string `json:"by_domain"`  // the domain that reads
	What       string `json:"what"`       // table, view or type of events; of a Trigger without a type empty
	OfProduct  string `json:"of_product"` // whose it is; empty: no product's
	OfDomain   string `json:"of_domain"`  // of that product; of other events that of who makes them
	Port       bool   `json:"port"`       // it is an output port
	Declared   bool   `json:"declared"`   // an input port of the product that reads names it; of a Trigger true
	Everything bool   `json:"everything"` // by a Trigger that keeps whatever comes, for the log of events
}

// Event is a type of events that functions make or Brokers offer.
type Event struct {
	Type    string   `json:"type"`
	Makers  []string `json:"makers"`  // Service iot/telemetry-flatten
	Brokers []string `json:"brokers"` // iot/iot
	Port    bool     `json:"port"`    // an output port
}

// Broker is a Broker.
type Broker struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Class       string            `json:"class"` // empty: the cluster's default
	Outputs     []string          `json:"outputs"`
	DeadLetters string            `json:"dead_letters"` // its dead letter sink; empty: it has none
	Annotations map[string]string `json:"annotations"`
}

// Trigger is a Trigger, with the delivery that it has by itself or by its Broker.
type Trigger struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Broker      string            `json:"broker"`     // iot/iot
	Subscriber  string            `json:"subscriber"` // http://tenant-enrich.iot.svc.cluster.local
	Types       []string          `json:"types"`      // outside of which it reads nothing; empty: its filters do not say
	DeadLetters string            `json:"dead_letters"`
	Retry       int64             `json:"retry"`
	Annotations map[string]string `json:"annotations"`
}

// Service is what runs a function: a Service, or a Deployment of a source.
type Service struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Kind        string            `json:"kind"`     // Service, Deployment
	Function    string            `json:"function"` // folder below functions/; empty: another image
	Account     string            `json:"account"`  // ServiceAccount, as the pod names it
	Product     string            `json:"product"`  // that it is where the warehouse is
	Emits       []string          `json:"emits"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Pod         *structpb.Struct  `json:"pod"` // the spec of the pod, as in the manifest
}

// Tick is a PingSource.
type Tick struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Schedule  string `json:"schedule"` // as of cron
}
