// Package openlineage says what the mesh makes of what, as OpenLineage does:
// jobs with the datasets that they read and write, and events of their runs
// (https://openlineage.io/docs/spec/object-model).
//
// A function that scales to zero has no begin and no end that a catalog of jobs
// could show. Each job is therefore one of type STREAMING whose runs are windows
// of time, aligned in UTC: of each there is a START and, once it has ended, a
// COMPLETE, whatever came through in it. The id of a run is made of the job and
// its window, so that events which are sent twice are the same.
package openlineage

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/topology"
)

// Kind of a job or of a dataset.
type Kind string

// The kinds of jobs.
const (
	Function Kind = "FUNCTION" // makes events of events and tables
	Sink     Kind = "SINK"     // makes rows of a table of events
	Trigger  Kind = "TRIGGER"  // brings events from one Broker to another
	Query    Kind = "QUERY"    // is a view
)

// The kinds of datasets.
const (
	Table  Kind = "TABLE"
	View   Kind = "VIEW"
	Events Kind = "STREAM" // events of one type on one Broker
)

// Job makes some datasets of others.
type Job struct {
	Name    string     `json:"name"` // iot/tenant-enrich, iot/iot-telemetry-sink/iot_telemetry.readings, iot_analytics.co2_evolution
	Kind    Kind       `json:"kind"`
	Owner   string     `json:"owner,omitempty"` // the team; empty: teams share the domain
	Purpose string     `json:"purpose,omitempty"`
	Image   string     `json:"function,omitempty"` // of functions/: whose code it is
	SQL     string     `json:"sql,omitempty"`      // of a view, in GoogleSQL
	Inputs  []*Dataset `json:"-"`
	Outputs []*Dataset `json:"-"`
}

// Dataset is a table, a view, or events of one type on one Broker.
type Dataset struct {
	Name    string // iot_telemetry.readings, iot/iot/dev.telemesh.telemetry.received.v1
	Kind    Kind
	Owner   string
	Purpose string
	Columns []catalog.Column
	Rows    []lineage.Column // of a view: what decides which rows there are
}

// Jobs are those of a mesh and of its products, by name.
type Jobs struct {
	All      []*Job
	datasets map[string]*Dataset
	catalog  *catalog.Catalog
	mesh     topology.Mesh
}

// New finds the jobs. What functions read and make is as their manifests say it,
// and what a table is made of as its contract does; of a view it is derived from
// its SQL.
func New(c *catalog.Catalog, m topology.Mesh) *Jobs {
	j := &Jobs{datasets: map[string]*Dataset{}, catalog: c, mesh: m}
	flows := m.Flows()
	for i := range m.Functions {
		j.function(&m.Functions[i], flows)
	}
	for i := range m.Triggers {
		j.trigger(&m.Triggers[i], flows)
	}
	for _, p := range c.Products {
		for i := range p.Tables {
			j.sinks(p, &p.Tables[i], flows)
		}
		for i := range p.Views {
			v := &p.Views[i]
			job := &Job{Name: v.FullName(), Kind: Query, Owner: p.Owner, SQL: v.SQL}
			if port := c.Port(v.FullName()); port != nil {
				job.Purpose = port.Purpose
			}
			for _, from := range c.Lineage.Node(v.FullName()).Tables {
				job.Inputs = append(job.Inputs, j.rows(from))
			}
			j.add(job, j.rows(v.FullName()))
		}
	}
	slices.SortFunc(j.All, func(a, b *Job) int { return cmp.Compare(a.Name, b.Name) })
	return j
}

// add takes a job that reads or makes something.
func (j *Jobs) add(job *Job, outputs ...*Dataset) {
	job.Outputs = outputs
	for _, all := range []*[]*Dataset{&job.Inputs, &job.Outputs} {
		slices.SortFunc(*all, func(a, b *Dataset) int { return cmp.Compare(a.Name, b.Name) })
		*all = slices.Compact(*all)
	}
	if len(job.Inputs)+len(job.Outputs) > 0 {
		j.All = append(j.All, job)
	}
}

// function adds what a function makes of the events that wake it, and of the
// tables that it serves or asks for.
func (j *Jobs) function(f *topology.Function, flows []*topology.Flow) {
	job := &Job{Name: f.Ref.String(), Kind: Function, Owner: j.owner(f.Namespace, f.Product), Image: f.Image}
	var made []*Dataset
	for _, flow := range flows {
		if slices.ContainsFunc(flow.Read, func(t *topology.Trigger) bool { return t.Service == f.Ref }) {
			job.Inputs = append(job.Inputs, j.events(flow))
		}
		if slices.Contains(flow.Makers, f.Ref) {
			made = append(made, j.events(flow))
		}
	}
	tables := slices.Concat(f.Tables, f.Reads)
	for _, table := range tables {
		if j.catalog.Lineage.Node(table) != nil {
			job.Inputs = append(job.Inputs, j.rows(table))
		}
	}
	if len(made) == 0 && len(tables) == 0 { // it only stores, or is none of the mesh's data
		return
	}
	j.add(job, made...)
}

func (j *Jobs) trigger(t *topology.Trigger, flows []*topology.Flow) {
	job := &Job{Name: t.Ref.String(), Kind: Trigger, Owner: j.owner(t.Namespace, ""), Purpose: t.FilterText()}
	var brought []*Dataset
	for _, to := range flows {
		if to.Broker != t.To || !slices.Contains(to.Bring, t) {
			continue
		}
		for _, from := range flows {
			if from.Broker == t.Broker && from.Type == to.Type {
				job.Inputs, brought = append(job.Inputs, j.events(from)), append(brought, j.events(to))
			}
		}
	}
	if len(brought) > 0 {
		j.add(job, brought...)
	}
}

// sinks adds the functions that store the rows of a table. A table whose contract
// names no events is filled by a Trigger that keeps everything, if any is.
func (j *Jobs) sinks(p *catalog.Product, t *contract.Table, flows []*topology.Flow) {
	all := map[topology.Ref][]*Dataset{}
	for _, flow := range flows {
		takes := func(trigger *topology.Trigger) {
			f := j.mesh.Function(trigger.Service)
			if f != nil && f.Product == p.Name {
				all[f.Ref] = append(all[f.Ref], j.events(flow))
			}
		}
		if slices.Contains(t.Events, flow.Type) {
			for _, trigger := range flow.Read {
				takes(trigger)
			}
		}
		if len(t.Events) == 0 && t.Schema == p.Schema {
			for i := range j.mesh.Triggers {
				if trigger := &j.mesh.Triggers[i]; trigger.Keeps == "everything" && trigger.Broker == flow.Broker {
					takes(trigger)
				}
			}
		}
	}
	for _, ref := range slices.SortedFunc(maps.Keys(all), func(a, b topology.Ref) int { return cmp.Compare(a.String(), b.String()) }) {
		job := &Job{Name: ref.String() + "/" + t.FullName(), Kind: Sink, Owner: p.Owner, Purpose: t.Purpose, Image: j.mesh.Function(ref).Image, Inputs: all[ref]}
		for _, from := range j.catalog.Lineage.Node(t.FullName()).Tables {
			job.Inputs = append(job.Inputs, j.rows(from))
		}
		j.add(job, j.rows(t.FullName()))
	}
}

// owner is the team of a function: that of its product, or that which all
// products of its domain have.
func (j *Jobs) owner(domain, product string) string {
	teams := map[string]bool{}
	for _, p := range j.catalog.Products {
		switch {
		case p.Name == product:
			return p.Owner
		case p.Domain == domain:
			teams[p.Owner] = true
		}
	}
	if len(teams) != 1 {
		return ""
	}
	return slices.Collect(maps.Keys(teams))[0]
}

func (j *Jobs) events(f *topology.Flow) *Dataset {
	name := f.Broker.String() + "/" + f.Type
	d := j.datasets[name]
	if d == nil {
		d = &Dataset{Name: name, Kind: Events}
		if port := j.catalog.Port(f.Type); port != nil {
			d.Owner, d.Purpose = port.Product.Owner, port.Purpose
		}
		j.datasets[name] = d
	}
	return d
}

// rows is a table or a view of the products.
func (j *Jobs) rows(name string) *Dataset {
	if d := j.datasets[name]; d != nil {
		return d
	}
	d := &Dataset{Name: name, Kind: Table}
	j.datasets[name] = d
	node := j.catalog.Lineage.Node(name)
	if node.View {
		d.Kind, d.Rows = View, node.Rows
	}
	for _, p := range j.catalog.Products {
		for i := range p.Tables {
			if t := &p.Tables[i]; t.FullName() == name {
				d.Owner, d.Purpose = p.Owner, t.Purpose
				for _, c := range t.Columns {
					d.Columns = append(d.Columns, catalog.Column{Column: c, Key: slices.Contains(t.Key, c.Name), Made: *node.Column(c.Name)})
				}
			}
		}
	}
	if port := j.catalog.Port(name); port != nil {
		d.Owner, d.Purpose, d.Columns = port.Product.Owner, cmp.Or(d.Purpose, port.Purpose), port.Columns
	}
	return d
}

// Of gives the jobs that read or make a dataset: a table, a view, or events of a
// type, on whichever Broker.
func (j *Jobs) Of(name string) []*Job {
	is := func(d *Dataset) bool {
		return d.Name == name || d.Kind == Events && strings.HasSuffix(d.Name, "/"+name)
	}
	var some []*Job
	for _, job := range j.All {
		if job.Name == name || slices.ContainsFunc(job.Inputs, is) || slices.ContainsFunc(job.Outputs, is) {
			some = append(some, job)
		}
	}
	return some
}
