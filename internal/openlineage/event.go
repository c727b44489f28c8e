package openlineage

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/telemesh/telemesh/internal/lineage"
)

// Names are the namespaces that a site gives its jobs and datasets, by which
// others who tell of the same datasets name them.
// https://openlineage.io/docs/spec/naming
type Names struct {
	Mesh   string // of jobs; events are in knative://MESH
	Tables string // of tables and views: bigquery; duckdb:///data/warehouse.duckdb
	Prefix string // before their names: PROJECT. of BigQuery
	// Version of who tells.
	Version string
}

// Window is a run of every job.
type Window struct{ From, To time.Time }

// Windows are those of a length that begin in [from, to), aligned in UTC.
func Windows(from, to time.Time, length time.Duration) []Window {
	var all []Window
	for at := from.UTC().Truncate(length); at.Before(to); at = at.Add(length) {
		if !at.Before(from) {
			all = append(all, Window{at, at.Add(length)})
		}
	}
	return all
}

// Found is what the warehouse knows of a window.
type Found struct {
	Rows       map[string]int64       // recorded in it, by table
	Assertions map[string][]Assertion // that were checked in it, by table
}

// Assertion is a quality rule and what came of it.
type Assertion struct {
	Assertion string `json:"assertion"` // the metric: nullValues, sql
	Success   bool   `json:"success"`
	Column    string `json:"column,omitempty"`
	Severity  string `json:"severity,omitempty"`
	Name      string `json:"name,omitempty"`
	Expected  string `json:"expected,omitempty"`
	Actual    string `json:"actual,omitempty"`
}

// Event is a RunEvent. https://openlineage.io/spec/2-0-2/OpenLineage.json
type Event struct {
	Time     time.Time `json:"eventTime"`
	Producer string    `json:"producer"`
	Schema   string    `json:"schemaURL"`
	Type     string    `json:"eventType"` // START, RUNNING or COMPLETE
	Run      run       `json:"run"`
	Job      named     `json:"job"`
	Inputs   []dataset `json:"inputs"`
	Outputs  []dataset `json:"outputs"`
}

type run struct {
	ID     uuid.UUID `json:"runId"`
	Facets facets    `json:"facets"`
}

type named struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Facets    facets `json:"facets"`
}

type dataset struct {
	named
	Input  facets `json:"inputFacets,omitempty"`
	Output facets `json:"outputFacets,omitempty"`
}

type facets map[string]any

const (
	producer = "https://github.com/telemesh/telemesh"
	spec     = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
)

// base is what every facet has.
type base struct {
	Producer string `json:"_producer"`
	Schema   string `json:"_schemaURL"`
}

func facet(version, name string) base {
	return base{producer, "https://openlineage.io/spec/facets/" + version + "/" + name + ".json#/$defs/" + name}
}

// runs is the namespace of the ids of runs.
var runs = uuid.NewSHA1(uuid.NameSpaceURL, []byte(producer))

// Events tells of a window of a job: that it began and, once it has ended, that
// it is complete; while it has not, that it runs. Each event says everything.
func (n Names) Events(job *Job, w Window, now time.Time, found *Found) []Event {
	if found == nil {
		found = &Found{}
	}
	event := Event{
		Producer: producer, Schema: spec,
		Run: run{uuid.NewSHA1(runs, fmt.Appendf(nil, "%s\n%s\n%s\n%s", n.Mesh, job.Name, w.From.UTC().Format(time.RFC3339), w.To.UTC().Format(time.RFC3339))), facets{
			"nominalTime": struct {
				base
				From time.Time `json:"nominalStartTime"`
				To   time.Time `json:"nominalEndTime"`
			}{facet("1-0-1", "NominalTimeRunFacet"), w.From.UTC(), w.To.UTC()},
			"processing_engine": struct {
				base
				Version string `json:"version"`
				Name    string `json:"name"`
			}{facet("1-1-1", "ProcessingEngineRunFacet"), n.Version, "Telemesh"},
		}},
		Job:    named{n.Mesh, job.Name, n.jobFacets(job, w)},
		Inputs: []dataset{}, Outputs: []dataset{},
	}
	for _, in := range job.Inputs {
		d := dataset{named: n.dataset(in)}
		if all := found.Assertions[in.Name]; len(all) > 0 {
			d.Input = facets{"dataQualityAssertions": struct {
				base
				All []Assertion `json:"assertions"`
			}{facet("1-1-0", "DataQualityAssertionsDatasetFacet"), all}}
		}
		event.Inputs = append(event.Inputs, d)
	}
	for _, out := range job.Outputs {
		d := dataset{named: n.dataset(out)}
		if job.Kind == Sink || job.Kind == Query {
			d.Facets["columnLineage"] = n.columns(out, job.Kind)
		}
		if rows, ok := found.Rows[out.Name]; ok {
			d.Output = facets{"outputStatistics": struct {
				base
				Rows int64 `json:"rowCount"`
			}{facet("1-0-2", "OutputStatisticsOutputDatasetFacet"), rows}}
		}
		event.Outputs = append(event.Outputs, d)
	}
	at := func(eventType string, t time.Time) Event {
		e := event
		e.Type, e.Time = eventType, t.UTC()
		return e
	}
	events := []Event{at("START", w.From)}
	switch {
	case now.Before(w.From):
		return nil
	case now.Before(w.To):
		return append(events, at("RUNNING", now))
	}
	return append(events, at("COMPLETE", w.To))
}

type owner struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

func ownership(name, of string) any {
	return struct {
		base
		Owners []owner `json:"owners"`
	}{facet("1-0-1", name), []owner{{"team:" + of, "OWNER"}}}
}

type documentation struct {
	base
	Text string `json:"description"`
}

func (n Names) jobFacets(job *Job, w Window) facets {
	type emission struct {
		Trigger string `json:"eventTrigger"`
		Content string `json:"eventContentMode"`
		Window  int64  `json:"windowDuration"` // seconds
	}
	f := facets{"jobType": struct {
		base
		Processing  string   `json:"processingType"`
		Integration string   `json:"integration"`
		Type        Kind     `json:"jobType"`
		Emission    emission `json:"emissionPattern"`
	}{facet("2-0-4", "JobTypeJobFacet"), "STREAMING", "TELEMESH", job.Kind, emission{"PERIODIC", "COMPLETE_SNAPSHOT", int64(w.To.Sub(w.From) / time.Second)}}}
	if job.Owner != "" {
		f["ownership"] = ownership("OwnershipJobFacet", job.Owner)
	}
	if job.Purpose != "" {
		f["documentation"] = documentation{facet("1-1-0", "DocumentationJobFacet"), job.Purpose}
	}
	if job.SQL != "" {
		f["sql"] = struct {
			base
			Query   string `json:"query"`
			Dialect string `json:"dialect"`
		}{facet("1-1-0", "SQLJobFacet"), job.SQL, "bigquery"}
	}
	if job.Image != "" {
		path := "functions/" + job.Image
		f["sourceCodeLocation"] = struct {
			base
			Type string `json:"type"`
			URL  string `json:"url"`
			Path string `json:"path"`
		}{facet("1-1-0", "SourceCodeLocationJobFacet"), "git", producer + "/tree/main/" + path, path}
	}
	return f
}

// name is that of a dataset with its namespace.
func (n Names) name(kind Kind, name string) (namespace, full string) {
	if kind == Events {
		return "knative://" + n.Mesh, name
	}
	return n.Tables, n.Prefix + name
}

func (n Names) dataset(d *Dataset) named {
	f := facets{"datasetType": struct {
		base
		Type Kind `json:"datasetType"`
	}{facet("1-0-1", "DatasetTypeDatasetFacet"), d.Kind}}
	if d.Owner != "" {
		f["ownership"] = ownership("OwnershipDatasetFacet", d.Owner)
	}
	if d.Purpose != "" {
		f["documentation"] = documentation{facet("1-1-0", "DocumentationDatasetFacet"), d.Purpose}
	}
	if len(d.Columns) > 0 {
		type column struct {
			Name     string `json:"name"`
			Type     string `json:"type,omitempty"`
			Purpose  string `json:"description,omitempty"`
			Position int    `json:"ordinal_position"`
		}
		type tag struct {
			Key    string `json:"key"`
			Value  string `json:"value"`
			Source string `json:"source"`
			Column string `json:"field"`
		}
		var columns []column
		var tags []tag
		for i, c := range d.Columns {
			columns = append(columns, column{c.Name, string(c.Type), c.Purpose, i + 1})
			tags = append(tags, tag{"classification", c.Classification, "CONTRACT", c.Name})
		}
		f["schema"] = struct {
			base
			Fields []column `json:"fields"`
		}{facet("1-2-0", "SchemaDatasetFacet"), columns}
		f["tags"] = struct {
			base
			Tags []tag `json:"tags"`
		}{facet("1-0-0", "TagsDatasetFacet"), tags}
	}
	namespace, name := n.name(d.Kind, d.Name)
	return named{namespace, name, f}
}

type transformation struct {
	Type    string `json:"type"`
	Subtype string `json:"subtype,omitempty"`
}

type inputField struct {
	Namespace       string           `json:"namespace"`
	Name            string           `json:"name"`
	Field           string           `json:"field"`
	Transformations []transformation `json:"transformations"`
}

// columns says what each column of a table or a view is made of; of those of a
// table of which its contract says nothing, nothing.
func (n Names) columns(d *Dataset, by Kind) any {
	type field struct {
		From []inputField `json:"inputFields"`
	}
	from := func(c lineage.Column, how transformation) inputField {
		namespace, name := n.name(Table, c.Table)
		return inputField{namespace, name, c.Name, []transformation{how}}
	}
	fields := map[string]field{}
	for _, c := range d.Columns {
		var f field
		for _, source := range c.Made.From {
			how := transformation{Type: "DIRECT"} // a contract does not say how
			switch {
			case source == c.Made.Same:
				how.Subtype = "IDENTITY"
			case by == Query:
				how.Subtype = "TRANSFORMATION"
			}
			f.From = append(f.From, from(source, how))
		}
		if len(f.From) > 0 {
			fields[c.Name] = f
		}
	}
	var rows []inputField
	for _, c := range d.Rows {
		rows = append(rows, from(c, transformation{Type: "INDIRECT"}))
	}
	return struct {
		base
		Fields map[string]field `json:"fields"`
		Rows   []inputField     `json:"dataset,omitempty"`
	}{facet("1-2-0", "ColumnLineageDatasetFacet"), fields, rows}
}
