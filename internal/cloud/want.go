package cloud

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// state is what a project has, or should have.
type state struct {
	datasets      map[string]*bigquery.DatasetMetadata // but for Access
	tables        map[string]*bigquery.TableMetadata   // tables and views, by dataset.name
	queries       map[string]bigquery.Schema           // what views that are there would have by the wanted query, where it is another
	access        map[string]map[entry]bool            // by dataset
	members       map[member]bool
	contracts     map[string]record // by table
	topics        map[string]*pubsubpb.Topic
	subscriptions map[string]*pubsubpb.Subscription
}

func newState() *state {
	return &state{datasets: map[string]*bigquery.DatasetMetadata{}, tables: map[string]*bigquery.TableMetadata{},
		queries: map[string]bigquery.Schema{},
		access:  map[string]map[entry]bool{}, members: map[member]bool{}, contracts: map[string]record{},
		topics: map[string]*pubsubpb.Topic{}, subscriptions: map[string]*pubsubpb.Subscription{}}
}

// record is a row of schema.Contracts: the contract of a table, or a view.
type record struct {
	version string
	json    string // a contract.Product that has this table or view alone; null: there is none any more
}

const gone = "null"

// wanted is what a project should have.
type wanted struct {
	*state
	schema []schema.Dataset // the order in which they are made
	notes  []string
	// untouched are subscriptions that are named, and neither made, changed nor
	// destroyed, since it is not known where to they should push.
	untouched map[string]bool
}

// want says what the project should be.
func (p *Project) want() (*wanted, error) {
	datasets, err := schema.Of(p.config.Project, p.config.Products)
	if err != nil {
		return nil, err
	}
	w := &wanted{state: newState(), schema: datasets, untouched: map[string]bool{}}
	for _, d := range datasets {
		w.datasets[d.Name] = &bigquery.DatasetMetadata{Location: p.config.Location, Description: d.Purpose, Labels: d.Labels}
		w.access[d.Name] = map[entry]bool{}
		for _, o := range d.Objects {
			o.Metadata.Labels = d.Labels
			w.tables[o.FullName()] = o.Metadata
		}
	}
	for _, d := range datasets {
		for _, o := range d.Objects {
			for _, read := range o.Reads {
				if from, _, _ := strings.Cut(read, "."); from != d.Name {
					w.access[from][entry{Kind: kindView, Name: o.FullName()}] = true
				}
			}
		}
	}
	p.wantAccounts(w)
	if p.config.Access == nil {
		w.notes = append(w.notes, "no access file (--access): members and readers stay as they are")
	} else {
		p.wantMembers(w)
	}
	p.wantFeeds(w)
	w.contracts, err = records(p.config.Products)
	return w, err
}

// wantAccounts lets the service accounts of the products in: a product writes
// its own datasets, and reads those of its input ports, where the platform's
// filter lets it see every row. It counts the rows of the tables that its own
// are made from where they are stored: what a port shows is fewer.
func (p *Project) wantAccounts(w *wanted) {
	schemas := map[string]string{} // by id of a contract
	for _, product := range p.config.Products {
		for _, t := range product.Tables {
			schemas[t.ID] = t.Schema
		}
	}
	for _, product := range p.config.Products {
		account := ServiceAccount(product.Name, p.config.Project)
		w.members[member{account, everyone}] = true
		own := []string{product.Schema, product.Schema + contract.InternalSuffix}
		for _, dataset := range own {
			w.access[dataset][entry{string(bigquery.WriterRole), kindUser, account}] = true
		}
		read := func(dataset string) {
			if w.access[dataset] != nil && !slices.Contains(own, dataset) {
				w.access[dataset][entry{string(bigquery.ReaderRole), kindUser, account}] = true
			}
		}
		for _, id := range product.Inputs {
			read(schemas[id])
		}
		for _, t := range product.Tables {
			for _, from := range t.MadeFrom {
				read(datasetOf(from))
				read(datasetOf(from) + contract.InternalSuffix)
			}
		}
	}
}

// wantMembers lets in who the access file names. A tenant's members get to the
// ports that have rows of tenants, the platform's to all, and to what those are
// made of: an event's way and what was parked is read there, and the ports show
// them every row anyway.
func (p *Project) wantMembers(w *wanted) {
	groups := map[string]bool{}
	let := func(m, tenant string) {
		e := entry{string(bigquery.ReaderRole), kindUser, m}
		if domain, ok := strings.CutPrefix(m, domainPrefix); ok {
			e.Kind, e.Name = kindDomain, domain
		}
		if group, ok := strings.CutPrefix(m, groupPrefix); ok {
			e.Kind, e.Name = kindGroup, group
			groups[m] = true
		} else {
			w.members[member{m, tenant}] = true
		}
		for _, d := range w.schema {
			tenants := slices.ContainsFunc(d.Objects, func(o schema.Object) bool { return o.Contract != nil && o.Contract.Tenant != "" })
			if d.Port && tenants || tenant == everyone && d.Name != schema.Platform {
				w.access[d.Name][e] = true
			}
		}
	}
	for _, m := range p.config.Access.Platform {
		let(m, everyone)
	}
	for tenant, members := range p.config.Access.Tenants {
		for _, m := range members {
			let(m, tenant)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		w.notes = append(w.notes, fmt.Sprintf("%s may query the output ports; its people see the rows of a tenant where they are named by address or domain as well: SQL cannot see groups", g))
	}
}

// records gives the contract of each table and view.
func records(products []contract.Product) (map[string]record, error) {
	all := map[string]record{}
	add := func(name, version string, part contract.Product) error {
		text, err := json.Marshal(part)
		if err != nil {
			return fmt.Errorf("write contract of %s: %w", name, err)
		}
		all[name] = record{version, string(text)}
		return nil
	}
	for _, product := range products {
		for _, t := range product.Tables {
			part := product
			part.Tables, part.Views = []contract.Table{t}, nil
			if err := add(t.FullName(), t.Version, part); err != nil {
				return nil, err
			}
		}
		for _, v := range product.Views {
			part := product
			part.Tables, part.Views = nil, []contract.View{v}
			if err := add(v.FullName(), v.Version, part); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// deployed is the inverse of records.
func deployed(records map[string]record) ([]contract.Product, error) {
	byName := map[string]*contract.Product{}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		var part *contract.Product
		if err := json.Unmarshal([]byte(records[name].json), &part); err != nil {
			return nil, fmt.Errorf("read contract of %s in %s: %w", name, schema.Contracts, err)
		}
		if part == nil { // gone
			continue
		}
		for i := range part.Views { // a record from before views had versions has its product's
			part.Views[i].Version = cmp.Or(part.Views[i].Version, records[name].version)
		}
		all := byName[part.Name]
		if all == nil {
			byName[part.Name] = part
			continue
		}
		all.Tables = append(all.Tables, part.Tables...)
		all.Views = append(all.Views, part.Views...)
	}
	var products []contract.Product
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		products = append(products, *byName[name])
	}
	return products, nil
}
