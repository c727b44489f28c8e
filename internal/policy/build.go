package policy

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"knative.dev/eventing/pkg/apis/eventing"
	duckv1 "knative.dev/pkg/apis/duck/v1"

	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/check"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/topology"
)

// Model is a mesh with its objects, by kind, and where each stands.
type Model struct {
	mesh    *Mesh
	objects map[string][]object
}

// Products are the documents of data products, and their folder's name in messages.
// Without FS there are none.
type Products struct {
	Folder string
	FS     fs.FS
}

// New makes the model of a mesh of its manifests and the documents of its products.
func New(set manifest.Set, documents Products) (*Model, error) {
	var products []contract.Product
	if documents.FS != nil {
		var err error
		if products, err = contract.Load(documents.FS); err != nil {
			return nil, err
		}
	}
	graph, err := set.Topology()
	if err != nil {
		return nil, err
	}
	c, err := catalog.New(products, graph)
	if err != nil {
		return nil, err
	}
	b := builder{Model: &Model{mesh: &Mesh{}, objects: map[string][]object{}}, set: set, graph: graph, flows: graph.Flows(), catalog: c, documents: documents, files: map[string]*yaml.Node{}}
	b.products()
	b.manifests()
	b.events()
	b.reads()
	return b.Model, nil
}

type builder struct {
	*Model
	set       manifest.Set
	graph     topology.Mesh
	flows     []*topology.Flow
	catalog   *catalog.Catalog
	documents Products
	files     map[string]*yaml.Node // of products, by their names
}

func (b *builder) add(kind, name, title string, s scope, where func(string) check.Where) {
	s.Mesh = b.mesh
	b.objects[kind] = append(b.objects[kind], object{name, title, s, where})
}

// in gives the places of fields of a part of a document.
func (b *builder) in(file, part string) func(string) check.Where {
	return func(field string) check.Where {
		root, ok := b.files[file]
		if !ok {
			text, err := fs.ReadFile(b.documents.FS, file)
			if err == nil {
				root = new(yaml.Node)
				err = yaml.Unmarshal(text, root)
			}
			if err != nil {
				root = nil // it was read before: only its lines are not known
			}
			b.files[file] = root
		}
		return check.Where{File: filepath.Join(b.documents.Folder, file), Line: manifest.LineOf(root, strings.Trim(part+"."+field, "."))}
	}
}

// at gives the places of fields of a manifest.
func at(w manifest.Where) func(string) check.Where {
	return func(field string) check.Where {
		place := w
		if field != "" {
			place = w.At(field)
		}
		return check.Where{File: place.File, Line: place.Line}
	}
}

func (b *builder) products() {
	for _, p := range b.catalog.Products {
		product := Product{Name: p.Name, Version: p.Version, Domain: p.Domain, Kind: p.Kind, Schema: p.Schema, Owner: p.Owner,
			Purpose: p.Purpose, Usage: p.Usage, Limits: p.Limits, Inputs: p.Product.Inputs}
		for _, port := range p.Ports {
			one := Port{Name: port.Name, Type: string(port.Kind), Version: port.Version, Purpose: port.Purpose, Tenant: port.Owned,
				Rules: rules(port.Rules()), Levels: levels(port.Levels())}
			if port.Kind == catalog.Event {
				one.Tenant = port.Port.Tenant
			}
			for _, c := range port.Columns {
				one.Columns = append(one.Columns, column(c.Column, c.Key))
			}
			product.Ports = append(product.Ports, one)
		}
		for i := range p.Tables {
			product.Contracts = append(product.Contracts, table(&p.Tables[i], p.Schema))
		}
		b.mesh.Products = append(b.mesh.Products, product)

		descriptor := p.File()
		b.add("product", p.Name, "product "+p.Name, scope{Product: product}, b.in(descriptor, ""))
		for i, port := range product.Ports {
			b.add("port", port.Name, "port "+port.Name, scope{Product: product, Port: port}, b.in(descriptor, fmt.Sprintf("outputPorts[%d]", i)))
		}
		for i, c := range product.Contracts {
			file := p.Tables[i].File()
			b.add("contract", c.Table, "contract "+c.Table, scope{Product: product, Contract: c}, b.in(file, ""))
			for i, one := range c.Columns {
				full := c.Table + "." + one.Name
				b.add("column", full, "column "+full, scope{Product: product, Contract: c, Column: one}, b.in(file, fmt.Sprintf("schema[0].properties[%d]", i)))
			}
		}
	}
}

func table(t *contract.Table, schema string) Contract {
	c := Contract{ID: t.ID, Table: t.FullName(), Version: t.Version, Port: t.Schema == schema, Purpose: t.Purpose, Usage: t.Usage, Limits: t.Limits,
		Rows: t.Rows, Time: t.Time, Tenant: t.Tenant, Key: t.Key, Events: t.Events, MadeFrom: t.MadeFrom, Rules: rules(t.Quality), Levels: levels(t.Levels)}
	for _, r := range t.Roles {
		if r.Access == "read" {
			c.Readers = append(c.Readers, r.Name)
		}
	}
	for _, one := range t.Columns {
		c.Columns = append(c.Columns, column(one, slices.Contains(t.Key, one.Name)))
	}
	return c
}

func column(c contract.Column, key bool) Column {
	return Column{Name: c.Name, Type: string(c.Type), Required: c.Required, Key: key, Purpose: c.Purpose, Unit: c.Unit, Classification: c.Classification, Sources: c.Sources}
}

func rules(all []contract.Rule) (out []Rule) {
	for _, r := range all {
		out = append(out, Rule{Column: r.Column, Metric: r.Metric, Query: r.Query, Dimension: r.Dimension, Purpose: r.Purpose})
	}
	return out
}

func levels(all []contract.Level) (out []Level) {
	for _, l := range all {
		out = append(out, Level{Property: l.Property, Seconds: int64(l.Value.Seconds()), Column: l.Column, Purpose: l.Purpose})
	}
	return out
}

func (b *builder) manifests() {
	for _, one := range b.set.Brokers {
		broker := Broker{Name: one.Name, Namespace: one.Namespace, Class: one.Annotations[eventing.BrokerClassKey],
			Outputs: b.graph.Broker(topology.Ref(one.Ref())).Outputs, Annotations: one.Annotations}
		if one.Spec.Delivery != nil {
			broker.DeadLetters = address(one.Spec.Delivery.DeadLetterSink, one.Namespace)
		}
		b.mesh.Brokers = append(b.mesh.Brokers, broker)
		b.add("broker", one.Ref().String(), "Broker "+one.Ref().String(), scope{Broker: broker}, at(one.Where))
	}
	for _, one := range b.set.Triggers {
		delivery := b.set.Delivery(one)
		trigger := Trigger{Name: one.Name, Namespace: one.Namespace, Broker: one.BrokerOf().String(), Subscriber: address(&one.Spec.Subscriber, one.Namespace),
			Types: one.Types(), DeadLetters: address(delivery.DeadLetterSink, one.Namespace), Annotations: one.Annotations}
		if delivery.Retry != nil {
			trigger.Retry = int64(*delivery.Retry)
		}
		b.mesh.Triggers = append(b.mesh.Triggers, trigger)
		b.add("trigger", one.Ref().String(), "Trigger "+one.Ref().String(), scope{Trigger: trigger}, at(one.Where))
	}
	for _, one := range b.set.Services {
		b.service(&one.Workload, "Service", one.Labels, one.Annotations, one.Service.Spec.Template.Spec.PodSpec)
	}
	for _, one := range b.set.Deployments {
		b.service(&one.Workload, "Deployment", one.Labels, one.Annotations, one.Deployment.Spec.Template.Spec)
	}
	for _, one := range b.set.PingSources {
		tick := Tick{Name: one.Name, Namespace: one.Namespace, Schedule: one.Spec.Schedule}
		b.mesh.Ticks = append(b.mesh.Ticks, tick)
		b.add("tick", one.Ref().String(), "PingSource "+one.Ref().String(), scope{Tick: tick}, at(one.Where))
	}
}

func (b *builder) service(w *manifest.Workload, kind string, labels, annotations map[string]string, pod any) {
	service := Service{Name: w.Ref().Name, Namespace: w.Ref().Namespace, Kind: kind, Function: w.Function(), Emits: b.graph.Function(topology.Ref(w.Ref())).Emits, Labels: labels, Annotations: annotations}
	// A spec that was decoded can be encoded: what it has, JSON has.
	text, _ := json.Marshal(pod)
	_ = json.Unmarshal(text, &service.Pod)
	service.Account = service.Pod.GetFields()["serviceAccountName"].GetStringValue()
	if account := b.set.Account(w.Account()); account != nil {
		service.Product = account.Labels[manifest.Product]
	}
	b.mesh.Services = append(b.mesh.Services, service)
	b.add("service", w.Ref().String(), w.Object(), scope{Service: service}, at(w.Where))
}

// address of a destination; empty: there is none, or it leads nowhere, which
// internal/check finds.
func address(d *duckv1.Destination, namespace string) string {
	if d == nil {
		return ""
	}
	target, err := manifest.Resolve(*d, namespace)
	if err != nil {
		return ""
	}
	return target.URL.String()
}

// events are those that functions make, Brokers offer or products have as ports.
func (b *builder) events() {
	var types []string
	known := map[string]*Event{}
	where := map[string]func(string) check.Where{}
	get := func(eventType string, at func(string) check.Where) *Event {
		if known[eventType] == nil {
			types = append(types, eventType)
			known[eventType], where[eventType] = &Event{Type: eventType}, at
		}
		return known[eventType]
	}
	for _, o := range b.objects["port"] {
		if o.scope.Port.Type == string(catalog.Event) {
			get(o.scope.Port.Name, o.where).Port = true
		}
	}
	fixed := func(w check.Where) func(string) check.Where { return func(string) check.Where { return w } }
	for _, w := range b.set.Workloads() {
		for _, eventType := range b.graph.Function(topology.Ref(w.Ref())).Emits {
			e := get(eventType, fixed(at(w.Where)("metadata.annotations."+manifest.Emits)))
			e.Makers = append(e.Makers, w.Object())
		}
	}
	for _, broker := range b.set.Brokers {
		for _, eventType := range b.graph.Broker(topology.Ref(broker.Ref())).Outputs {
			e := get(eventType, fixed(at(broker.Where)("metadata.annotations."+manifest.Outputs)))
			e.Brokers = append(e.Brokers, broker.Ref().String())
		}
	}
	for _, eventType := range types {
		e := *known[eventType]
		b.mesh.Events = append(b.mesh.Events, e)
		b.add("event", eventType, "events "+eventType, scope{Event: e}, where[eventType])
	}
}

func (b *builder) reads() {
	for _, p := range b.catalog.Products {
		for i := range p.Views {
			b.tables(p, "view", p.Views[i].FullName(), p.Views[i].File())
		}
		for i := range p.Tables {
			b.tables(p, "contract", p.Tables[i].FullName(), p.Tables[i].File())
		}
	}
	for _, t := range b.set.Triggers {
		target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace)
		by := target.Service.Namespace
		if by == "" {
			by = target.Broker.Namespace
		}
		if err != nil || by == "" {
			continue
		}
		types := t.Types()
		if len(types) == 0 {
			types = []string{""}
		}
		for _, eventType := range types {
			r := Read{By: "Trigger " + t.Ref().String(), ByDomain: by, What: eventType, OfDomain: b.domain(t.BrokerOf(), eventType), Declared: true,
				Everything: t.Annotations[manifest.Keeps] == "everything"}
			if port := b.catalog.Port(eventType); port != nil {
				r.OfProduct, r.OfDomain, r.Port = port.Product.Name, port.Product.Domain, true
			}
			b.read(r, at(t.Where))
		}
	}
}

// domain is whose the events of a type on a Broker are: that of the functions that
// make them there, else anywhere, else the Broker's.
func (b *builder) domain(broker manifest.Ref, eventType string) string {
	here, anywhere := map[string]bool{}, map[string]bool{}
	for _, f := range b.flows {
		if f.Type != eventType {
			continue
		}
		for _, maker := range f.Makers {
			anywhere[maker.Namespace] = true
			if f.Broker == topology.Ref(broker) {
				here[maker.Namespace] = true
			}
		}
	}
	for _, domains := range []map[string]bool{here, anywhere} {
		if len(domains) == 1 {
			return slices.Collect(maps.Keys(domains))[0]
		}
	}
	return broker.Namespace
}

// tables adds what a view or a table is made of.
func (b *builder) tables(p *catalog.Product, kind, name, file string) {
	whole := check.Where{File: filepath.Join(b.documents.Folder, file)}
	for _, what := range b.catalog.Lineage.Node(name).Tables {
		r := Read{By: kind + " " + name, ByProduct: p.Name, ByDomain: p.Domain, What: what, Port: b.catalog.Port(what) != nil}
		for _, other := range b.catalog.Products {
			if schema, _, _ := strings.Cut(what, "."); strings.TrimSuffix(schema, contract.InternalSuffix) == other.Schema {
				r.OfProduct, r.OfDomain = other.Name, other.Domain
			}
		}
		r.Declared = slices.ContainsFunc(p.Inputs, func(in catalog.Input) bool { return in.Port != nil && in.Port.Name == what })
		b.read(r, func(string) check.Where { return whole })
	}
}

func (b *builder) read(r Read, where func(string) check.Where) {
	b.mesh.Reads = append(b.mesh.Reads, r)
	b.add("read", strings.TrimSpace(r.By+" of "+r.What), r.By, scope{Read: r}, where)
}
