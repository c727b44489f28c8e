package check

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/manifest"
)

// port is what a product can read of another one, or must not.
type port struct {
	product *contract.Product
	table   *contract.Table // nil: it is no table
	version string
}

// internal says that it is no output port.
func (p port) internal() bool {
	return p.table != nil && strings.HasSuffix(p.table.Schema, contract.InternalSuffix)
}

// productChecker holds the products against each other and against the manifests.
type productChecker struct {
	*checker
	mesh  Mesh
	ports map[string]port // by the id of the contract, the name of the table or the view, the type of the events
}

func (c *checker) products(m Mesh) {
	if m.Products == nil {
		return // they could not be read, which is found already
	}
	p := productChecker{c, m, map[string]port{}}
	for i := range m.Products {
		product := &m.Products[i]
		for _, out := range product.Ports {
			p.ports[out.Name] = port{product: product, version: out.Version}
		}
		for j := range product.Tables {
			t := &product.Tables[j]
			p.ports[t.ID] = port{product, t, t.Version}
			p.ports[t.FullName()] = p.ports[t.ID]
		}
	}
	offers := map[string]*contract.Product{} // types of events
	for i := range m.Products {
		product := &m.Products[i]
		for at := range product.InputPorts {
			p.input(product, at)
		}
		for at := range product.Ports {
			p.output(product, at, offers)
		}
		for j := range product.Tables {
			p.table(product, &product.Tables[j])
		}
		for j := range product.Views {
			p.view(product, &product.Views[j])
		}
		p.measured(product)
	}
	p.served()
	p.changes()
}

// at is a finding at a place of a document.
func (p *productChecker) at(where Where, object, rule, do, problem string, args ...any) {
	p.find(manifest.Where{File: where.File, Line: where.Line}, object, rule, do, problem, args...)
}

// input holds an input port against what it reads.
func (p *productChecker) input(product *contract.Product, at int) {
	in := &product.InputPorts[at]
	field := fmt.Sprintf("inputPorts[%d]", at)
	where := func(part string) Where { return p.mesh.Document(product.File(), field+part) }
	object := "product " + product.Name + ", input port " + in.Name
	from, ok := p.ports[in.Contract]
	if !ok {
		if !p.brought(in.Contract) {
			p.at(where(".contractId"), object, "input-missing", "name a contract of a product, one of its views, or a type of events that somebody brings",
				"reads %s, which no product offers and nobody brings", in.Contract)
		}
		return
	}
	if from.internal() && from.product != product {
		p.at(where(".contractId"), object, "reads-internal", "read an output port of "+from.product.Name+", or ask "+from.product.Owner+" for one",
			"reads %s, which is no output port of %s", from.table.FullName(), from.product.Name)
		return
	}
	if from.table == nil && !contract.Fits(in.Version, from.version) {
		p.at(where(".version"), object, "input-unsatisfied", "write the product for "+from.version+", and say so here",
			"is written for version %s of %s, which is %s", in.Version, in.Contract, from.version)
	}
	for i, need := range in.Columns {
		p.need(where(fmt.Sprintf(".customProperties.columns[%d]", i)), object, in.Contract, from, need)
	}
}

// output says which output ports nobody makes, which are another product's, and whose
// readers are of an earlier version.
func (p *productChecker) output(product *contract.Product, at int, offers map[string]*contract.Product) {
	out := &product.Ports[at]
	field := fmt.Sprintf("outputPorts[%d]", at)
	object := "product " + product.Name + ", output port " + out.Name
	if out.Type == "event" {
		where := p.mesh.Document(product.File(), field+".name")
		if other := offers[out.Name]; other != nil {
			p.at(where, object, "port-twice", "leave it to one of the two", "is an output port of %s as well", other.Name)
		}
		offers[out.Name] = product
		if !p.brought(out.Name) {
			p.at(where, object, "port-unmade",
				"correct the type, or declare it in "+manifest.Emits+" of the Service that makes it, or in "+manifest.Outputs+" of the Broker if it comes from outside",
				"offers events that nobody brings to a Broker")
		}
	}
	for i, reader := range out.Consumers {
		if !contract.Fits(reader.Version, out.Version) {
			p.at(p.mesh.Document(product.File(), fmt.Sprintf("%s.customProperties.consumers[%d].version", field, i)), object, "consumer-behind",
				"ask "+reader.Name+" to read version "+out.Version+", and say so here",
				"%s reads version %s, and it is %s", reader.Name, reader.Version, out.Version)
		}
	}
}

// need holds a column that an input port relies on against the port.
func (p *productChecker) need(where Where, object, name string, from port, need contract.Need) {
	const do = "write the product for what the port has, or ask its owner, "
	if from.table == nil {
		if p.mesh.Lineage == nil {
			return
		}
		if n := p.mesh.Lineage.Node(name); n != nil && n.Column(need.Name) == nil {
			p.at(where, object, "input-unsatisfied", do+from.product.Owner, "needs column %s, which %s does not have", need.Name, name)
		}
		return
	}
	at := slices.IndexFunc(from.table.Columns, func(c contract.Column) bool { return c.Name == need.Name })
	if at < 0 {
		p.at(where, object, "input-unsatisfied", do+from.product.Owner, "needs column %s, which %s does not have", need.Name, name)
		return
	}
	has := from.table.Columns[at]
	switch {
	case need.Type != "" && need.Type != has.Type:
		p.at(where, object, "input-unsatisfied", do+from.product.Owner, "needs %s as %s, and %s has it as %s", need.Name, need.Type, name, has.Type)
	case need.Required && !has.Required:
		p.at(where, object, "input-unsatisfied", do+from.product.Owner, "needs %s in each row, and %s may lack it", need.Name, name)
	case need.Unit != "" && need.Unit != has.Unit:
		unit := has.Unit
		if unit == "" {
			unit = "a unit that it does not say"
		}
		p.at(where, object, "input-unsatisfied", do+from.product.Owner, "needs %s in %s, and %s has it in %s", need.Name, need.Unit, name, unit)
	}
}

// brought says whether events of a type come to a Broker. Where there is none nothing is
// known of events.
func (p *productChecker) brought(eventType string) bool {
	for f := range p.flows {
		if f.eventType == eventType {
			return true
		}
	}
	return len(p.Brokers) == 0
}

// table says what a contract reads past output ports, what nobody brings to its table
// and which of its levels nobody can measure.
func (p *productChecker) table(product *contract.Product, t *contract.Table) {
	object := "table " + t.FullName()
	for i, from := range t.MadeFrom {
		p.reads(p.mesh.Document(t.File(), fmt.Sprintf("schema[0].customProperties.madeFrom[%d]", i)), object, product, from)
	}
	for i, c := range t.Columns {
		for j, from := range c.Sources {
			if schema, name, ok := cutLast(from); ok {
				where := p.mesh.Document(t.File(), fmt.Sprintf("schema[0].properties[%d].transformSourceObjects[%d]", i, j))
				p.reads(where, object+", column "+c.Name, product, schema+"."+name)
			}
		}
	}
	for _, rule := range t.Quality {
		if rule.Query == "" {
			continue
		}
		for _, from := range p.tablesOf(rule.Query) {
			p.reads(p.mesh.Document(t.File(), "schema[0].quality"), object+", rule "+fmt.Sprintf("%q", rule.Purpose), product, from)
		}
	}
	for i, eventType := range t.Events {
		if len(p.Brokers) > 0 && !p.stored(product, eventType) {
			p.at(p.mesh.Document(t.File(), fmt.Sprintf("schema[0].customProperties.events[%d]", i)), object, "table-unfed",
				"add a Trigger that takes it to the warehouse-sink of "+product.Name+", or correct the type",
				"has rows of %s, which no Trigger takes to a warehouse-sink", eventType)
		}
	}
	recorded := t.Order != "" || t.Tombstones || slices.ContainsFunc(t.Columns, func(c contract.Column) bool { return c.Name == contract.RecordedAt })
	for i, level := range t.Levels {
		if level.Property != "retention" && !recorded {
			p.at(p.mesh.Document(t.File(), fmt.Sprintf("slaProperties[%d]", i)), object, "level-unmeasured",
				"add the column "+contract.RecordedAt+", which the store sets, or an order",
				"promises a %s of %s, and nothing tells when a row was recorded", level.Property, level.Value)
		}
	}
}

// meter is the function that measures the service levels of all output ports.
const meter = "service-levels"

// measured says whose levels nobody measures, where there are Services at all.
func (p *productChecker) measured(product *contract.Product) {
	if len(p.Services) == 0 || slices.ContainsFunc(p.Workloads(), func(w *manifest.Workload) bool { return w.Function() == meter }) {
		return
	}
	for i := range product.Tables {
		if t := &product.Tables[i]; len(t.Levels) > 0 && !strings.HasSuffix(t.Schema, contract.InternalSuffix) {
			f := p.mesh.Document(t.File(), "slaProperties")
			p.at(f, "table "+t.FullName(), "level-unwatched", "add a Service of the function "+meter+", and a PingSource that wakes it", "promises service levels, and no Service of the mesh measures any")
		}
	}
}

// cutLast gives SCHEMA and TABLE of SCHEMA.TABLE.COLUMN.
func cutLast(column string) (schema, table string, ok bool) {
	parts := strings.Split(column, ".")
	if len(parts) != 3 {
		return "", "", false
	}
	return parts[0], parts[1], true
}

// view says what a view reads past output ports, or without an input port.
func (p *productChecker) view(product *contract.Product, v *contract.View) {
	if p.mesh.Lineage == nil {
		return
	}
	if n := p.mesh.Lineage.Node(v.FullName()); v.Tenant != "" && n != nil && n.Column(v.Tenant) == nil {
		at := slices.IndexFunc(product.Ports, func(out contract.Port) bool { return out.Name == v.FullName() })
		where := p.mesh.Document(product.File(), fmt.Sprintf("outputPorts[%d].customProperties.tenantColumn", at))
		p.at(where, "view "+v.FullName(), "tenant-missing", "select that column, or name another one", "its tenantColumn is %s, and it has no such column", v.Tenant)
	}
	for _, from := range p.tablesOf(v.SQL) {
		where := Where{filepath.Join(p.mesh.documents.Name, v.File()), lineWith(v.SQL, from)}
		p.reads(where, "view "+v.FullName(), product, from)
	}
}

func lineWith(text, word string) int {
	before, _, ok := strings.Cut(text, word)
	if !ok {
		return 1
	}
	return 1 + strings.Count(before, "\n")
}

// tablesOf gives the tables that a query reads.
func (p *productChecker) tablesOf(query string) []string {
	if p.mesh.Lineage == nil {
		return nil
	}
	var tables []string
	// What cannot be read is found elsewhere.
	_, _ = lineage.Query("query", query, func(name string) ([]string, bool) {
		if !slices.Contains(tables, name) {
			tables = append(tables, name)
		}
		n := p.mesh.Lineage.Node(name)
		if n == nil {
			return nil, false
		}
		var columns []string
		for _, c := range n.Columns {
			columns = append(columns, c.Name)
		}
		return columns, true
	})
	return tables
}

// reads says where a product reads what another one keeps to itself, or reads an output
// port that its descriptor does not name.
func (p *productChecker) reads(where Where, object string, product *contract.Product, from string) {
	of := p.ports[from].product
	if of == nil { // versions of a table are kept, and have no contract
		schema, _, _ := strings.Cut(from, ".")
		for i := range p.mesh.Products {
			if other := &p.mesh.Products[i]; schema == other.Schema+contract.InternalSuffix {
				of = other
			}
		}
	}
	if of == nil || of == product {
		return
	}
	if schema, _, _ := strings.Cut(from, "."); strings.HasSuffix(schema, contract.InternalSuffix) {
		p.at(where, object, "reads-internal", "read an output port of "+of.Name+", or ask "+of.Owner+" for one", "reads %s, which is no output port of %s", from, of.Name)
		return
	}
	if !slices.ContainsFunc(product.InputPorts, func(in contract.Input) bool {
		return in.Contract == from || p.ports[in.Contract].product == of && p.ports[in.Contract].table != nil && p.ports[in.Contract].table.FullName() == from
	}) {
		name := from
		if t := p.ports[from].table; t != nil {
			name = t.ID
		}
		p.at(where, object, "input-undeclared", "add an input port with contractId "+name+" to "+product.File(), "reads %s, and %s has no input port for it", from, product.Name)
	}
}

// stored says whether a Trigger takes events of a type to a sink that fills tables: that
// of the product, where it is told or its account says whose it is.
func (p *productChecker) stored(product *contract.Product, eventType string) bool {
	for _, t := range p.Triggers {
		target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace)
		if err != nil || !t.Reads(eventType) {
			continue
		}
		s := p.Service(target.Service)
		if s == nil || s.Function() != "" && s.Function() != sink || s.Env["PRODUCT"] != "" && s.Env["PRODUCT"] != product.Name {
			continue
		}
		account := p.Account(s.Account())
		if account == nil || account.Labels[manifest.Product] == "" || account.Labels[manifest.Product] == product.Name {
			return true
		}
	}
	return false
}

// sink is the function that fills tables.
const sink = "warehouse-sink"

// served says which Services serve tables that are not there, or not theirs to serve, and
// which fill those of a product that is not there.
func (p *productChecker) served() {
	for _, w := range p.Workloads() {
		if name := w.Env["PRODUCT"]; w.Function() == sink && name != "" &&
			!slices.ContainsFunc(p.mesh.Products, func(one contract.Product) bool { return one.Name == name }) {
			p.find(w.Where, w.Object(), "product-unknown", "name the product whose tables it fills", "PRODUCT: there is no product %s", name)
		}
		account := p.Account(w.Account())
		for _, name := range manifest.List(w.Env["TABLES"]) {
			from, ok := p.ports[name]
			switch {
			case !ok:
				p.find(w.Where, w.Object(), "table-missing", "name a table of a product", "TABLES: no product has %s", name)
			case from.internal() && (account == nil || account.Labels[manifest.Product] != from.product.Name):
				p.find(w.Where, w.Object(), "reads-internal", "read an output port of "+from.product.Name+", or ask "+from.product.Owner+" for one",
					"TABLES: reads %s, which is no output port of %s", name, from.product.Name)
			}
		}
	}
}
