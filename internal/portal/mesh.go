package portal

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/flow"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/topology"
)

func (p *Portal) meshRoutes() []route {
	return []route{
		{"GET /mesh", team, ofNobody, p.meshPage},
		{"GET /api/mesh", team, ofNobody, p.meshState},
	}
}

var meshAPI = api{"GET /api/mesh": {Summary: "How much goes through the mesh", Answer: meshState{}}}

// meshView is the mesh as its page shows it.
type meshView struct {
	Links     links
	State     *meshState
	Brokers   []topology.Broker
	Triggers  []meshGroup[topology.Trigger]
	Functions []meshGroup[meshFunction]
	Tables    []meshGroup[meshTable]
	Graph     meshGraph
	Here      *topology.Here // nil: a cluster runs the mesh
}

// meshGroup is the rows of a table that are of one domain or one product, which a
// phone shows folded.
type meshGroup[Row any] struct {
	Name string
	Rows []Row
}

// group puts a row to those of the same name.
func group[Row any](groups []meshGroup[Row], name string, row Row) []meshGroup[Row] {
	i := slices.IndexFunc(groups, func(g meshGroup[Row]) bool { return g.Name == name })
	if i < 0 {
		return append(groups, meshGroup[Row]{name, []Row{row}})
	}
	groups[i].Rows = append(groups[i].Rows, row)
	return groups
}

type meshFunction struct {
	topology.Function
	Woken []*topology.Trigger
	Known bool // the product that it is in the warehouse is one of the catalog
}

type meshTable struct {
	Name    string
	View    bool
	Product *catalog.Product
	Events  []string
	From    []string // tables
	Readers []string
}

// meshState is what changes from one look to the next.
type meshState struct {
	At time.Time `json:"at"`
	// Cells are texts of the tables and of the drawing by what they are of:
	// "trigger iot/tenant-enrich rate".
	Cells map[string]string `json:"cells"`
	// Busy is events in the last hour, by an edge's or a node's id.
	Busy    map[string]int64 `json:"busy"`
	Failing map[string]bool  `json:"failing"` // Triggers with dead letters of the last day
	Partial bool             `json:"partial"`
}

// Cell is a text; empty: it is not known.
func (s *meshState) Cell(kind string, of any, what string) string {
	return s.Cells[fmt.Sprintf("%s %s %s", kind, of, what)]
}

// meshGraph is the drawing without what changes.
type meshGraph struct {
	Nodes []meshNode `json:"nodes"`
	Edges []meshEdge `json:"edges"`
}

type meshNode struct {
	ID   string `json:"id"`
	Kind string `json:"kind"` // broker, event, function, source, tick, table, view
	Name string `json:"name"`
	Note string `json:"note"`
	Link string `json:"link"`
}

type meshEdge struct {
	ID   string `json:"id"`
	From string `json:"from"`
	To   string `json:"to"`
	Kind string `json:"kind"` // makes, takes, stores, reads, asks
	Name string `json:"name"` // of a Trigger
	Link string `json:"link"`
}

func (p *Portal) meshPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	c, err := p.inventory.catalog()
	if err != nil {
		return err
	}
	state, err := p.stateOf(r.Context(), v)
	if err != nil {
		return err
	}
	m := p.inventory.mesh()
	view := meshView{Links: links{catalog: c}, State: state, Brokers: m.Brokers, Graph: graph(c, m)}
	for _, t := range m.Triggers {
		view.Triggers = group(view.Triggers, t.Namespace, t)
	}
	for _, f := range m.Functions {
		view.Functions = group(view.Functions, f.Namespace, meshFunction{f, m.Wake(f.Ref), c.Product(f.Product) != nil})
	}
	for _, product := range c.Products {
		for i := range product.Tables {
			t := &product.Tables[i]
			view.Tables = group(view.Tables, product.Name, meshTable{Name: t.FullName(), Product: product, Events: t.Events,
				From: c.Lineage.Node(t.FullName()).Tables, Readers: c.Lineage.Readers(t.FullName())})
		}
		for i := range product.Views {
			name := product.Views[i].FullName()
			view.Tables = group(view.Tables, product.Name, meshTable{Name: name, View: true, Product: product, From: c.Lineage.Node(name).Tables, Readers: c.Lineage.Readers(name)})
		}
	}
	if p.inventory.process != nil {
		here := p.inventory.process()
		view.Here = &here
	}
	return p.page(w, r, v, http.StatusOK, "mesh", "Mesh", view)
}

func (p *Portal) meshState(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	state, err := p.stateOf(r.Context(), v)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, state)
}

// quick bounds how long the mesh waits for facts about rows, which are shown
// once they are known.
const quick = 1500 * time.Millisecond

func (p *Portal) stateOf(ctx context.Context, v access.Viewer) (*meshState, error) {
	c, err := p.inventory.catalog()
	if err != nil {
		return nil, err
	}
	rates, err := p.inventory.flow.Rates(ctx, v)
	if err != nil {
		return nil, err
	}
	m := p.inventory.mesh()
	s := &meshState{At: rates.At, Cells: map[string]string{}, Busy: map[string]int64{}, Failing: map[string]bool{}, Partial: rates.Partial}
	set := func(kind string, of any, what, text string) { s.Cells[fmt.Sprintf("%s %s %s", kind, of, what)] = text }
	rate := func(kind string, of any, r flow.Rate) {
		set(kind, of, "rate", perMinute(r))
		set(kind, of, "hour", count(r.Long))
		set(kind, of, "last", age(r.Last, rates.At))
	}
	lag := func(t *topology.Trigger, how string, p50, p95 time.Duration) {
		set("trigger", t.Ref, "lag", how+short(p50)+" / "+short(p95))
		set("trigger", t.Ref, "p95", how+short(p95))
	}
	for _, b := range m.Brokers {
		rate("broker", b.Ref, rates.Brokers[b.Ref])
		s.Busy[brokerNode(b.Ref)] = rates.Brokers[b.Ref].Long
		set("broker", b.Ref, "letters", count(rates.Letters[topology.Ref{Namespace: b.Namespace}].Given))
	}
	for i := range m.Triggers {
		t := &m.Triggers[i]
		if rates.Unknown[t.Ref] {
			set("trigger", t.Ref, "rate", "not known")
		} else {
			rate("trigger", t.Ref, rates.Triggers[t.Ref])
		}
		if took, ok := rates.Took[t.Ref]; ok {
			lag(t, "", took.P50, took.P95)
		} else if took, ok := rates.Logged[t.Broker]; ok && t.Keeps == "everything" {
			lag(t, "logged ", took.P50, took.P95)
		}
		if waiting, known := rates.Waiting[t.Ref]; known {
			set("trigger", t.Ref, "waits", waits(waiting, rates.At))
		}
		set("trigger", t.Ref, "letters", count(rates.Letters[t.Ref].Given))
		s.Failing[t.Ref.String()] = rates.Letters[t.Ref].Given > 0
		for taken, r := range rates.Taken {
			if taken.Trigger == t.Ref {
				s.Busy[takesEdge(t, taken.Type)] = r.Long
			}
		}
		if t.Keeps == "everything" {
			s.Busy[takesEdge(t, "")] = rates.Triggers[t.Ref].Long
		}
	}
	made := map[topology.Ref]flow.Rate{}
	for of, r := range rates.Made {
		all := made[of.Function]
		all.Recent, all.Long = all.Recent+r.Recent, all.Long+r.Long
		if r.Last.After(all.Last) {
			all.Last = r.Last
		}
		made[of.Function] = all
		s.Busy[makesEdge(of.Function, of.Broker, of.Type.Type)] = r.Long
	}
	for _, f := range m.Functions {
		if len(f.Emits) > 0 {
			rate("function", f.Ref, made[f.Ref])
		}
		busy := made[f.Ref].Long
		for _, t := range m.Wake(f.Ref) {
			busy += rates.Triggers[t.Ref].Long
		}
		s.Busy[functionNode(f.Ref)] = busy
	}
	for of, r := range rates.Types {
		s.Busy[eventNode(of.Broker, of.Type)] = r.Long
		set("event", of.Broker.String()+" "+of.Type, "rate", perMinute(r))
	}
	if p.inventory.process != nil {
		for _, t := range p.inventory.process().Triggers {
			set("trigger", t.Trigger, "pending", count(t.Pending))
			set("trigger", t.Trigger, "flight", count(t.InFlight))
			set("trigger", t.Trigger, "delivered", count(t.Delivered))
			set("trigger", t.Trigger, "retried", count(t.Retried))
			set("trigger", t.Trigger, "dead", count(t.DeadLettered))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	var ports []*catalog.Port
	for _, product := range c.Products {
		for _, port := range product.Ports {
			if port.Kind == catalog.Table {
				ports = append(ports, port)
			}
		}
	}
	for port, facts := range p.inventory.live.All(ctx, v, ports) {
		if r := facts.Recent.Value; facts.Recent.Err == nil && r.Timed > 0 {
			for i := range m.Triggers {
				t := &m.Triggers[i]
				// Of what a sink stores, replies tell little: only what is outdated has one.
				if f := m.Function(t.Service); f != nil && f.Product == port.Product.Name && t.Keeps == "" && keeps(t, port.Table) {
					lag(t, "stored ", r.P50, r.P95)
				}
			}
		}
		if facts.Rows.Err == nil {
			set("table", port.Name, "rows", count(facts.Rows.Value))
		}
		if r := facts.Recent.Value; facts.Recent.Err == nil && !r.Newest.IsZero() {
			set("table", port.Name, "newest", age(r.Newest, rates.At))
		}
	}
	return s, nil
}

// waits prints how many events have no reply, and since when.
func waits(w flow.Waiting, now time.Time) string {
	if w.Events == 0 {
		return "0"
	}
	return count(w.Events) + ", for " + span(max(0, now.Sub(w.Oldest)))
}

// perMinute prints a rate of the last five minutes.
func perMinute(r flow.Rate) string {
	switch n := r.PerMinute(); {
	case n == 0:
		return "0"
	case n < 10:
		return fmt.Sprintf("%.1f/min", n)
	default:
		return count(int64(n+.5)) + "/min"
	}
}

// The ids of what is drawn.
func brokerNode(r topology.Ref) string { return "broker " + r.String() }
func eventNode(r topology.Ref, eventType string) string {
	return "event " + r.String() + " " + eventType
}
func functionNode(r topology.Ref) string { return "function " + r.String() }
func tickNode(r topology.Ref) string     { return "tick " + r.String() }
func tableNode(name string) string       { return "table " + name }
func takesEdge(t *topology.Trigger, eventType string) string {
	return "takes " + t.Ref.String() + " " + eventType
}
func makesEdge(f, broker topology.Ref, eventType string) string {
	return "makes " + f.String() + " " + broker.String() + " " + eventType
}

// graph is the mesh to draw: from functions to the events that they make, by
// Triggers from these to the functions that take them, and to the tables in
// which they are kept.
func graph(c *catalog.Catalog, m *topology.Mesh) meshGraph {
	g := meshGraph{Nodes: []meshNode{}, Edges: []meshEdge{}}
	l := links{catalog: c}
	edge := func(kind, from, to, id string) {
		g.Edges = append(g.Edges, meshEdge{ID: cmp.Or(id, kind+" "+from+" "+to), From: from, To: to, Kind: kind})
	}
	takes := func(t *topology.Trigger, from, to, id string) {
		g.Edges = append(g.Edges, meshEdge{ID: id, From: from, To: to, Kind: "takes", Name: t.Ref.String(), Link: "#trigger-" + t.Ref.String()})
	}
	for _, f := range m.Functions {
		kind, note := "function", f.Namespace
		if f.Source || f.Optional {
			kind = "source"
		}
		g.Nodes = append(g.Nodes, meshNode{functionNode(f.Ref), kind, f.Name, note, "#function-" + f.Ref.String()})
		for _, asked := range f.Asks {
			edge("asks", functionNode(asked), functionNode(f.Ref), "")
		}
		for _, table := range f.Tables {
			if c.Port(table) != nil {
				edge("reads", tableNode(table), functionNode(f.Ref), "")
			}
		}
	}
	for _, t := range m.Ticks {
		g.Nodes = append(g.Nodes, meshNode{tickNode(t.Ref), "tick", t.Name, t.Schedule, ""})
	}
	for _, f := range m.Flows() {
		id := eventNode(f.Broker, f.Type)
		g.Nodes = append(g.Nodes, meshNode{id, "event", subject(f.Type), f.Broker.Name, cmp.Or(l.Port(f.Type), "#broker-"+f.Broker.String())})
		for _, maker := range f.Makers {
			edge("makes", functionNode(maker), id, makesEdge(maker, f.Broker, f.Type))
		}
		for _, tick := range f.Ticks {
			edge("makes", tickNode(tick), id, "")
		}
		for _, t := range f.Read {
			switch {
			case m.Function(t.Service) != nil:
				takes(t, id, functionNode(t.Service), takesEdge(t, f.Type))
			case m.Broker(t.To) != nil:
				takes(t, id, eventNode(t.To, f.Type), takesEdge(t, f.Type))
			}
		}
	}
	for _, b := range m.Brokers {
		g.Nodes = append(g.Nodes, meshNode{brokerNode(b.Ref), "broker", "Broker " + b.Name, "every event", "#broker-" + b.Ref.String()})
		for i := range m.Triggers {
			if t := &m.Triggers[i]; t.Broker == b.Ref && t.Keeps == "everything" && m.Function(t.Service) != nil {
				takes(t, brokerNode(b.Ref), functionNode(t.Service), takesEdge(t, ""))
			}
		}
	}
	g.stores(c, m, edge)
	for _, product := range c.Products {
		for i := range product.Tables {
			t := &product.Tables[i]
			g.Nodes = append(g.Nodes, meshNode{tableNode(t.FullName()), "table", t.Name, t.Schema, cmp.Or(l.Port(t.FullName()), "#table-"+t.FullName())})
		}
		for i := range product.Views {
			view := &product.Views[i]
			g.Nodes = append(g.Nodes, meshNode{tableNode(view.FullName()), "view", view.Name, view.Schema, l.Port(view.FullName())})
			for _, from := range c.Lineage.Node(view.FullName()).Tables {
				edge("reads", tableNode(from), tableNode(view.FullName()), "")
			}
		}
	}
	g.connected()
	return g
}

// stores draws which function keeps events in which table: the one that is woken
// by their type, where the warehouse is the product of the table, and the one that
// everything comes to, which keeps it in the table that no type is said of.
func (g *meshGraph) stores(c *catalog.Catalog, m *topology.Mesh, edge func(kind, from, to, id string)) {
	for _, product := range c.Products {
		for i := range product.Tables {
			t := &product.Tables[i]
			for _, f := range m.Functions {
				if f.Product != product.Name {
					continue
				}
				if slices.ContainsFunc(m.Wake(f.Ref), func(trigger *topology.Trigger) bool { return keeps(trigger, t) }) {
					edge("stores", functionNode(f.Ref), tableNode(t.FullName()), "")
				}
			}
		}
	}
}

// keeps says whether what a Trigger takes is kept in a table, if its subscriber
// writes to the product of the table.
func keeps(trigger *topology.Trigger, t *contract.Table) bool {
	if trigger.Keeps == "everything" {
		return isLog(t)
	}
	return slices.ContainsFunc(t.Events, func(eventType string) bool { return slices.Contains(trigger.Types(), eventType) })
}

// isLog says whether a table is one of events: of one at one Broker in a row.
func isLog(t *contract.Table) bool {
	return slices.Contains(t.Key, "broker") && slices.Contains(t.Key, "event_id")
}

// connected drops what nothing leads to or from: the tables below have it.
func (g *meshGraph) connected() {
	ends := map[string]bool{}
	for _, e := range g.Edges {
		ends[e.From], ends[e.To] = true, true
	}
	g.Nodes = slices.DeleteFunc(g.Nodes, func(n meshNode) bool { return !ends[n.ID] })
	known := map[string]bool{}
	for _, n := range g.Nodes {
		known[n.ID] = true
	}
	g.Edges = slices.DeleteFunc(g.Edges, func(e meshEdge) bool { return !known[e.From] || !known[e.To] })
}

// Sources gives what a table is made of, by column, for those that are made of
// others.
func (v meshView) Sources(table string) []lineage.Made {
	var all []lineage.Made
	for _, made := range v.Links.catalog.Lineage.Node(table).Columns {
		if len(made.From) > 0 {
			all = append(all, made)
		}
	}
	return all
}

// Short names an event type without what all have in common.
func (v meshView) Short(types []string) string {
	var all []string
	for _, t := range types {
		all = append(all, subject(t))
	}
	return strings.Join(all, ", ")
}

// known are event types as they stand in a filter.
var known = regexp.MustCompile(`\bdev\.telemesh\.[a-z.]+\.v1\b`)

// Filter is what a Trigger takes, its types without what all have in common.
func (v meshView) Filter(t topology.Trigger) string {
	return known.ReplaceAllStringFunc(t.FilterText(), subject)
}
