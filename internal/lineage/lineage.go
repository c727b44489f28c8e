// Package lineage says of each column of the data products which columns it is
// made of, and of each table which tables and events.
//
// Of a view it is derived: its SQL is parsed, not guessed, and the columns are
// followed through WITH, joins, set operations, aggregates, subqueries and *.
// What the query says that is not understood is an error with its line, and
// never a column that is missing from the answer.
//
// Of a table that functions fill it is declared: the contract names the columns
// (transformSourceObjects), the tables (madeFrom) and the types of the events
// (events). Where a contract says nothing of a column, nothing is known of it.
package lineage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/telemesh/telemesh/internal/contract"
)

// Column is a column of a table or of a view.
type Column struct {
	Table string // iot_analytics.readings
	Name  string // room
}

func (c Column) String() string { return c.Table + "." + c.Name }

func compare(a, b Column) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Name, b.Name))
}

// Graph is the tables and views of all products, and what they are made of.
type Graph struct {
	nodes map[string]*Node
}

// Node is a table or a view.
type Node struct {
	Name    string
	View    bool // derived from its SQL; else as the contract declares it
	Columns []Made
	Rows    []Column // of a view: those that decide which rows there are
	Tables  []string // that it is made from, or with the help of
	Events  []string // types of the events that bring the rows of a table
}

// Made is a column and what its values are made of.
type Made struct {
	Name string
	From []Column
	// Same is the one column whose values these are, as they are; the zero Column:
	// there is none, or nobody says so.
	Same Column
}

// Use is a column that is made of another one.
type Use struct {
	Column
	Rows bool // the other one decides which rows Table has; Name is empty
}

// New reads the lineage of all tables and views of the products. Views may stand
// in any order, but not in a circle.
func New(products []contract.Product) (*Graph, error) {
	g := &Graph{nodes: map[string]*Node{}}
	views := map[string]*contract.View{}
	for _, p := range products {
		for i := range p.Tables {
			t := &p.Tables[i]
			n, err := declared(t)
			if err != nil {
				return nil, err
			}
			g.nodes[n.Name] = n
		}
		for i := range p.Views {
			views[p.Views[i].FullName()] = &p.Views[i]
		}
	}
	begun := map[string]bool{}
	var failed error // of a view that another one reads
	var read func(name string) error
	columns := func(name string) ([]string, bool) {
		if views[name] != nil && g.nodes[name] == nil {
			if failed = read(name); failed != nil {
				return nil, false
			}
		}
		n := g.nodes[name]
		if n == nil {
			return nil, false
		}
		var names []string
		for _, c := range n.Columns {
			names = append(names, c.Name)
		}
		return names, true
	}
	read = func(name string) error {
		if begun[name] {
			return fmt.Errorf("view %s is made of itself", name)
		}
		begun[name] = true
		answer, err := Query(name, views[name].SQL, columns)
		if failed != nil {
			return failed
		}
		if err != nil {
			return err
		}
		g.nodes[name], err = derived(name, answer)
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(views)) {
		if g.nodes[name] != nil {
			continue
		}
		if err := read(name); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func declared(t *contract.Table) (*Node, error) {
	n := &Node{Name: t.FullName(), Events: t.Events}
	tables := set{}
	for _, from := range t.MadeFrom {
		tables[Column{Table: from}] = true
	}
	for _, c := range t.Columns {
		made := Made{Name: c.Name}
		for _, from := range c.Sources {
			column, err := parse(from)
			if err != nil {
				return nil, fmt.Errorf("table %s: column %s: %w", n.Name, c.Name, err)
			}
			made.From = append(made.From, column)
			tables[Column{Table: column.Table}] = true
		}
		n.Columns = append(n.Columns, made)
	}
	n.Tables = names(tables)
	return n, nil
}

// parse reads SCHEMA.TABLE.COLUMN.
func parse(text string) (Column, error) {
	for at := len(text) - 1; at > 0; at-- {
		if text[at] == '.' {
			return Column{text[:at], text[at+1:]}, nil
		}
	}
	return Column{}, fmt.Errorf("%q is no column: want SCHEMA.TABLE.COLUMN", text)
}

func derived(name string, answer *Answer) (*Node, error) {
	n := &Node{Name: name, View: true, Rows: answer.Rows}
	tables := set{}
	for i, c := range answer.Columns {
		if c.Name == "" {
			return nil, fmt.Errorf("view %s: column %d has no name", name, i+1)
		}
		n.Columns = append(n.Columns, Made(c))
		for _, from := range c.From {
			tables[Column{Table: from.Table}] = true
		}
	}
	for _, from := range answer.Rows {
		tables[Column{Table: from.Table}] = true
	}
	n.Tables = names(tables)
	return n, nil
}

func names(tables set) []string {
	var all []string
	for _, c := range tables.sorted() {
		all = append(all, c.Table)
	}
	return all
}

// Node gives a table or a view; nil: no product has it.
func (g *Graph) Node(name string) *Node { return g.nodes[name] }

// Column gives what a column is made of; nil: the node has no such column.
func (n *Node) Column(name string) *Made {
	for i := range n.Columns {
		if n.Columns[i].Name == name {
			return &n.Columns[i]
		}
	}
	return nil
}

// Origins gives the columns that are themselves made of no other, and that a
// column is made of, through all tables and views between.
func (g *Graph) Origins(c Column) []Column {
	out, seen := set{}, set{}
	var follow func(Column)
	follow = func(c Column) {
		if seen[c] {
			return
		}
		seen[c] = true
		n := g.nodes[c.Table]
		if n == nil {
			return
		}
		made := n.Column(c.Name)
		if made == nil || len(made.From) == 0 {
			out[c] = true
			return
		}
		for _, from := range made.From {
			follow(from)
		}
	}
	follow(c)
	delete(out, c)
	return out.sorted()
}

// Uses gives what is made of a column, directly.
func (g *Graph) Uses(c Column) []Use {
	var uses []Use
	for _, name := range slices.Sorted(maps.Keys(g.nodes)) {
		n := g.nodes[name]
		for _, made := range n.Columns {
			if slices.Contains(made.From, c) {
				uses = append(uses, Use{Column: Column{name, made.Name}})
			}
		}
		if slices.Contains(n.Rows, c) {
			uses = append(uses, Use{Column: Column{Table: name}, Rows: true})
		}
	}
	return uses
}

// Readers gives the tables and views that are made from a table, directly.
func (g *Graph) Readers(table string) []string {
	var readers []string
	for _, name := range slices.Sorted(maps.Keys(g.nodes)) {
		if slices.Contains(g.nodes[name].Tables, table) {
			readers = append(readers, name)
		}
	}
	return readers
}
