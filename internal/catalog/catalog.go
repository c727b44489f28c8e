// Package catalog is what there is to know of the data products: who owns them,
// what their output ports offer, who reads these and how to become one who does.
//
// The catalog itself is made of the products' documents and of the mesh, and
// needs no warehouse. What is true now of the rows, Live says, to each viewer of
// the rows that are theirs.
package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/topology"
)

// Catalog is all data products.
type Catalog struct {
	Products []*Product
	Lineage  *lineage.Graph
	mesh     topology.Mesh
	ports    map[string]*Port
	tables   map[string]*contract.Table // also those that are no output ports
}

// Product is a data product.
type Product struct {
	*contract.Product
	Ports  []*Port
	Inputs []Input
}

// Input is what an input port of a product reads.
type Input struct {
	Name string // id of a contract, or type of events
	Port *Port  // nil: it is no output port of a product
}

// Kind of an output port.
type Kind string

// The kinds.
const (
	Table Kind = "table"
	View  Kind = "view"
	Event Kind = "event"
)

// Port is an output port.
type Port struct {
	contract.Port
	Kind    Kind
	Product *Product
	Table   *contract.Table // of a table
	View    *contract.View  // of a view
	Columns []Column        // of a table or a view
	Sources []string        // tables and views that a table or a view is made from
	// Owned is the column that says whose a row is; empty: rows are for those who
	// see the rows of all tenants.
	Owned     string
	Consumers []Consumer
	// Of events: where they pass, and what keeps their rows.
	Brokers []topology.Ref
	Makers  []topology.Ref
	Stored  []*contract.Table
}

// Column is a column of an output port. Of a view Type and what else no contract
// says is that of the column whose values it shows; empty where it makes its own.
type Column struct {
	contract.Column
	Key  bool
	Made lineage.Made
}

// Consumer is who reads an output port.
type Consumer struct {
	By   string   // product, view, Trigger or function
	Name string   // iot-analytics, iot_analytics.co2_evolution, iot/iot-telemetry-sink
	Port *Port    // of By view: that view
	Of   *Product // of By product
	Note string   // how: the name of an input port, the filter of a Trigger
}

// New makes the catalog of products and of the mesh that makes and reads them.
func New(products []contract.Product, mesh topology.Mesh) (*Catalog, error) {
	graph, err := lineage.New(products)
	if err != nil {
		return nil, fmt.Errorf("read lineage: %w", err)
	}
	c := &Catalog{Lineage: graph, mesh: mesh, ports: map[string]*Port{}, tables: map[string]*contract.Table{}}
	for i := range products {
		p := &Product{Product: &products[i]}
		c.Products = append(c.Products, p)
		for j := range p.Tables {
			c.tables[p.Tables[j].FullName()] = &p.Tables[j]
		}
		for _, from := range p.Product.Ports {
			port := &Port{Port: from, Kind: Kind(from.Type), Product: p}
			p.Ports = append(p.Ports, port)
			c.ports[port.Name] = port
		}
	}
	for _, p := range c.Products {
		for _, port := range p.Ports {
			c.describe(port)
		}
	}
	for _, p := range c.Products {
		c.read(p)
	}
	c.consumers()
	return c, nil
}

// Port finds an output port by the name of its table or view, or by the type of
// its events; nil: there is none.
func (c *Catalog) Port(name string) *Port { return c.ports[name] }

// Product finds a product; nil: there is none.
func (c *Catalog) Product(name string) *Product {
	for _, p := range c.Products {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Internal are the tables of a product that are no output ports.
func (p *Product) Internal() []*contract.Table {
	var all []*contract.Table
	for i := range p.Tables {
		if p.Tables[i].Schema != p.Schema {
			all = append(all, &p.Tables[i])
		}
	}
	return all
}

func (c *Catalog) describe(port *Port) {
	if node := c.Lineage.Node(port.Name); node != nil {
		port.Sources = node.Tables
	}
	switch port.Kind {
	case Table:
		t := c.tables[port.Name]
		port.Table, port.Owned = t, t.Tenant
		for _, column := range t.Columns {
			port.Columns = append(port.Columns, Column{column, slices.Contains(t.Key, column.Name), *c.Lineage.Node(port.Name).Column(column.Name)})
		}
	case View:
		for i := range port.Product.Views {
			if v := &port.Product.Views[i]; v.FullName() == port.Name {
				port.View, port.Owned = v, v.Tenant
			}
		}
		for _, made := range c.Lineage.Node(port.Name).Columns {
			column := Column{Column: contract.Column{Name: made.Name}, Made: made}
			if same := c.column(made.Same); same != nil {
				column.Column = *same
				column.Name, column.Required, column.Sources = made.Name, false, nil
			}
			column.Classification = c.classification(lineage.Column{Table: port.Name, Name: made.Name})
			port.Columns = append(port.Columns, column)
		}
	case Event:
		for _, f := range c.mesh.Flows() {
			if f.Type != port.Name {
				continue
			}
			port.Brokers = append(port.Brokers, f.Broker)
			for _, maker := range f.Makers {
				if !slices.Contains(port.Makers, maker) {
					port.Makers = append(port.Makers, maker)
				}
			}
		}
		for _, p := range c.Products {
			for i := range p.Tables {
				if slices.Contains(p.Tables[i].Events, port.Name) {
					port.Stored = append(port.Stored, &p.Tables[i])
				}
			}
		}
	}
}

// column finds what the contract says of a column, through the views that only
// pass it on; nil: a view makes it.
func (c *Catalog) column(of lineage.Column) *contract.Column {
	for {
		if t := c.tables[of.Table]; t != nil {
			for i := range t.Columns {
				if t.Columns[i].Name == of.Name {
					return &t.Columns[i]
				}
			}
			return nil
		}
		node := c.Lineage.Node(of.Table)
		if node == nil {
			return nil
		}
		made := node.Column(of.Name)
		if made == nil || made.Same == (lineage.Column{}) {
			return nil
		}
		of = made.Same
	}
}

// classes are the classifications, from that which all may see.
var classes = []string{"public", "internal", "confidential"}

// classification of a column of a view is the highest of all that it is made of.
func (c *Catalog) classification(of lineage.Column) string {
	if column := c.column(of); column != nil {
		return column.Classification
	}
	highest := 0
	if node := c.Lineage.Node(of.Table); node != nil {
		if made := node.Column(of.Name); made != nil {
			for _, from := range made.From {
				highest = max(highest, slices.Index(classes, c.classification(from)))
			}
		}
	}
	return classes[highest]
}

func (c *Catalog) read(p *Product) {
	for _, name := range p.Product.Inputs {
		in := Input{Name: name, Port: c.ports[name]}
		for _, other := range c.ports {
			if other.Table != nil && other.Table.ID == name {
				in.Port = other
			}
		}
		p.Inputs = append(p.Inputs, in)
	}
}

// consumers finds who reads each port: products by their input ports, views by
// their SQL, Triggers by their filters, and functions that serve a table.
func (c *Catalog) consumers() {
	add := func(port *Port, consumer Consumer) {
		if port != nil && !slices.Contains(port.Consumers, consumer) {
			port.Consumers = append(port.Consumers, consumer)
		}
	}
	for _, p := range c.Products {
		for _, in := range p.Inputs {
			if in.Port != nil && in.Port.Product != p {
				add(in.Port, Consumer{By: "product", Name: p.Name, Of: p, Note: "by an input port"})
			}
		}
		for _, port := range p.Ports {
			if port.View == nil {
				continue
			}
			for _, table := range c.Lineage.Node(port.Name).Tables {
				add(c.ports[table], Consumer{By: "view", Name: port.Name, Port: port, Note: "by its query"})
			}
		}
	}
	for _, f := range c.mesh.Flows() {
		for _, t := range f.Read {
			add(c.ports[f.Type], Consumer{By: "Trigger", Name: t.Ref.String(), Note: "to " + t.Subscriber()})
		}
	}
	for _, f := range c.mesh.Functions {
		for _, table := range f.Tables {
			add(c.ports[table], Consumer{By: "function", Name: f.Ref.String(), Note: "serves it whole over HTTP"})
		}
	}
	for _, port := range c.ports {
		slices.SortStableFunc(port.Consumers, func(a, b Consumer) int { return cmp.Or(cmp.Compare(a.By, b.By), cmp.Compare(a.Name, b.Name)) })
	}
}

// Rules are the quality rules of a port; a view has none of its own.
func (p *Port) Rules() []contract.Rule {
	if p.Table == nil {
		return nil
	}
	return p.Table.Quality
}

// Levels are the service levels of a port; a view has none of its own.
func (p *Port) Levels() []contract.Level {
	if p.Table == nil {
		return nil
	}
	return p.Table.Levels
}

// Time is the column by which the newest row of a port is found and old rows are
// left out of a query; empty: there is none.
func (p *Port) Time() string {
	if p.Table == nil {
		return ""
	}
	return p.Table.Time
}

// has says whether the port has a column.
func (p *Port) has(column string) bool {
	return slices.ContainsFunc(p.Columns, func(c Column) bool { return c.Name == column })
}

// Short is the name without the schema, or the type without what all types share.
func (p *Port) Short() string {
	if p.Kind == Event {
		return strings.TrimSuffix(strings.TrimPrefix(p.Name, "dev.telemesh."), ".v1")
	}
	_, name, _ := strings.Cut(p.Name, ".")
	return name
}
