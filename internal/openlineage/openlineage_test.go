package openlineage_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/openlineage"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/topology/manifests"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

func shipped(t *testing.T) *openlineage.Jobs {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS},
		manifests.Folder{FS: config.Sources, Optional: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.New(all, m)
	if err != nil {
		t.Fatal(err)
	}
	return openlineage.New(c, m)
}

var (
	hour  = openlineage.Window{From: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), To: time.Date(2026, 11, 21, 11, 0, 0, 0, time.UTC)}
	names = openlineage.Names{Mesh: "telemesh", Tables: "bigquery", Prefix: "project.", Version: "v1.0.0"}
)

func job(t *testing.T, jobs *openlineage.Jobs, name string) *openlineage.Job {
	t.Helper()
	i := slices.IndexFunc(jobs.All, func(j *openlineage.Job) bool { return j.Name == name })
	if i < 0 {
		t.Fatalf("there is no job %s", name)
	}
	return jobs.All[i]
}

// What a job reads and makes is what the manifests, the contracts and the views
// say, and no more.
func TestJobs(t *testing.T) {
	jobs := shipped(t)
	for name, want := range map[string]string{
		"iot/telemetry-flatten": "iot/iot/dev.telemesh.telemetry.received.v1 > iot/iot/dev.telemesh.telemetry.flattened.v1 iot/iot/dev.telemesh.telemetry.rejected.v1",
		"analytics/analytics-join": "analytics/analytics/dev.telemesh.telemetry.enriched.v1 analytics/analytics/dev.telemesh.telemetry.unassigned.v1 " +
			"customers.customers iot_actions.actions iot_metadata.placements > analytics/analytics/dev.telemesh.analytics.joined.v1 analytics/analytics/dev.telemesh.analytics.withdrawn.v1",
		"crm/analytics": "crm/crm/dev.telemesh.customers.recorded.v1 > analytics/analytics/dev.telemesh.customers.recorded.v1",
		"crm/customers-sink/customers.rejected_rows": "crm/crm/dev.telemesh.customers.rejected.v1 > customers.rejected_rows",
		"iot/iot-metadata-sink":                      "iot/iot/dev.telemesh.placements.changed.v1 iot/iot/dev.telemesh.placements.rejected.v1 > iot/iot/dev.telemesh.placements.recorded.v1",
		"iot_analytics.actions_placed":               "iot_actions.actions iot_metadata.placements > iot_analytics.actions_placed",
	} {
		j := job(t, jobs, name)
		var parts []string
		for i, all := range [][]*openlineage.Dataset{j.Inputs, j.Outputs} {
			if i > 0 {
				parts = append(parts, ">")
			}
			for _, d := range all {
				parts = append(parts, d.Name)
			}
		}
		if diff := cmp.Diff(want, strings.Join(parts, " ")); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	var log []string
	for _, d := range job(t, jobs, "platform/event-log/event_log.events").Inputs {
		log = append(log, d.Name)
	}
	if !slices.Contains(log, "iot/iot/dev.telemesh.telemetry.received.v1") || !slices.Contains(log, "crm/crm/dev.telemesh.customers.changed.v1") {
		t.Errorf("the log is made of %v", log)
	}
	for _, j := range jobs.Of("dev.telemesh.telemetry.enriched.v1") {
		if j.Name == "iot/telemetry-flatten" {
			t.Error("telemetry-flatten has nothing to do with enriched readings")
		}
	}
}

// Every event is what the schema of OpenLineage wants, and every facet what its
// own schema wants, of the version that it names.
func TestEventsAreValid(t *testing.T) {
	folder := dataset.Path(t, "contracts/openlineage")
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	files, err := filepath.Glob(filepath.Join(folder, "facets", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, filepath.Join(folder, "OpenLineage.json")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		id, _ := document.(map[string]any)["$id"].(string)
		if err := compiler.AddResource(id, document); err != nil {
			t.Fatal(err)
		}
	}
	valid := func(what, schema string, value any) {
		t.Helper()
		s, err := compiler.Compile(schema)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := s.Validate(value); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	found := &openlineage.Found{
		Rows: map[string]int64{"iot_telemetry.readings": 12},
		Assertions: map[string][]openlineage.Assertion{"iot_telemetry.readings": {
			{Assertion: "nullValues", Success: true, Column: "tenant_id", Name: "tenant_id is set", Expected: "0", Actual: "0"}}},
	}
	seen := map[string]bool{}
	n := 0
	for _, j := range shipped(t).All {
		for _, e := range append(names.Events(j, hour, hour.To, found), names.Events(j, hour, hour.From.Add(time.Minute), found)...) {
			text, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			n++
			what := e.Type + " of " + j.Name
			valid(what, "https://openlineage.io/spec/2-0-2/OpenLineage.json", value)
			each(value, func(name string, facet map[string]any) {
				schema, _ := facet["_schemaURL"].(string)
				file, _, _ := strings.Cut(schema, "#")
				seen[name] = true
				valid(what+": facet "+name, schema, facet)
				valid(what+": facet "+name, file, map[string]any{name: facet})
			})
		}
	}
	if n < 100 {
		t.Errorf("%d events", n)
	}
	for _, want := range []string{"jobType", "ownership", "documentation", "sql", "sourceCodeLocation", "nominalTime", "processing_engine", "schema", "tags",
		"datasetType", "columnLineage", "outputStatistics", "dataQualityAssertions"} {
		if !seen[want] {
			t.Errorf("no event has the facet %s", want)
		}
	}
}

// each calls for every facet in an event.
func each(value any, call func(string, map[string]any)) {
	switch v := value.(type) {
	case map[string]any:
		for key, member := range v {
			if strings.HasSuffix(strings.ToLower(key), "facets") {
				for name, facet := range member.(map[string]any) {
					call(name, facet.(map[string]any))
				}
			} else {
				each(member, call)
			}
		}
	case []any:
		for _, member := range v {
			each(member, call)
		}
	}
}

// Of a window the rows that were recorded in it are known, and of each rule the last
// check in it that came to a verdict.
func TestFind(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	w := duckdbtest.Open(t)
	tables, err := sink.TablesOf(all, "mesh-metrics")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	in := openlineage.Window{From: now.Truncate(time.Hour), To: now.Truncate(time.Hour).Add(2 * time.Hour)}
	for i, check := range []struct {
		at     time.Time
		result string
	}{
		{in.From.Add(-time.Second), `"counted":9,"kept":false`},
		{in.From, `"counted":1,"kept":false`},
		{in.From.Add(time.Minute), `"counted":0.5,"kept":true`},
		{in.From.Add(2 * time.Minute), `"error":"the warehouse did not answer in time"`},
		{in.To, `"counted":9,"kept":false`},
	} {
		e := mesh.NewEvent(mesh.QualityChecked, "/test", fmt.Appendf(nil, `{"rows":[{"port":"iot_telemetry.readings","rule":"few","product":"iot-telemetry","contract_version":"1.0.0",
			"column_name":"value","metric":"invalidValues","severity":"error","wanted":"less than 1 %%","took_ms":1,"checked_at":%q,%s}]}`, check.at.Format(time.RFC3339), check.result), fmt.Sprint(i))
		if _, err := sink.New(w, tables, nil)(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	found, err := openlineage.Find(t.Context(), w.Query, all, in)
	if err != nil {
		t.Fatal(err)
	}
	if n := found.Rows[quality.Table]; n != 5 {
		t.Errorf("%d rows of %s were recorded, want 5", n, quality.Table)
	}
	want := map[string][]openlineage.Assertion{"iot_telemetry.readings": {
		{Assertion: "invalidValues", Success: true, Column: "value", Severity: "error", Name: "few", Expected: "less than 1 %", Actual: "0.5"}}}
	if diff := cmp.Diff(want, found.Assertions); diff != "" {
		t.Errorf("assertions (-want +got)\n%s", diff)
	}
}

type event struct {
	Type string `json:"eventType"`
	Run  struct {
		ID string `json:"runId"`
	}
	Inputs, Outputs []struct {
		Namespace, Name string
		Facets          struct {
			Schema  struct{ Fields []struct{ Name string } }
			Lineage *struct {
				Fields  map[string]struct{ InputFields []field }
				Dataset []field
			} `json:"columnLineage"`
		}
	}
}

type field struct{ Namespace, Name, Field string }

func decode(t *testing.T, e openlineage.Event) (out event) {
	t.Helper()
	text, err := json.Marshal(e)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A column that another one is made of is one that an input of the job has: a
// reader of the events finds both ends.
func TestColumnsAreOfInputs(t *testing.T) {
	n := 0
	for _, j := range shipped(t).All {
		e := decode(t, names.Events(j, hour, hour.To, nil)[0])
		has := map[field]bool{}
		for _, in := range e.Inputs {
			for _, c := range in.Facets.Schema.Fields {
				has[field{in.Namespace, in.Name, c.Name}] = true
			}
		}
		for _, out := range e.Outputs {
			if out.Facets.Lineage == nil {
				continue
			}
			own := map[string]bool{}
			for _, c := range out.Facets.Schema.Fields {
				own[c.Name] = true
			}
			from := out.Facets.Lineage.Dataset
			for name, of := range out.Facets.Lineage.Fields {
				if !own[name] {
					t.Errorf("%s: %s has no column %s", j.Name, out.Name, name)
				}
				from = append(from, of.InputFields...)
			}
			for _, c := range from {
				if n++; !has[c] {
					t.Errorf("%s: %s is made of %+v, which is of no input", j.Name, out.Name, c)
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("%d columns are made of others", n)
	}
}

// A run is told of in the same words whenever that is done, and no other run has
// its id.
func TestRuns(t *testing.T) {
	jobs := shipped(t).All
	next := openlineage.Windows(hour.From, hour.To.Add(90*time.Minute), time.Hour)
	if len(next) != 3 || next[0] != hour || next[1].From != hour.To {
		t.Fatalf("windows: %v", next)
	}
	if aligned := openlineage.Windows(hour.From.Add(time.Minute), hour.To.Add(time.Minute), time.Hour); len(aligned) != 1 || aligned[0].From != hour.To {
		t.Errorf("windows that begin within an hour: %v", aligned)
	}
	ids := map[string]string{}
	for _, j := range jobs {
		for _, w := range next {
			events := names.Events(j, w, w.To, nil)
			again, err := json.Marshal(names.Events(j, w, w.To.Add(time.Hour), nil))
			if err != nil {
				t.Fatal(err)
			}
			if first, _ := json.Marshal(events); !bytes.Equal(first, again) {
				t.Errorf("%s is told of otherwise an hour later", j.Name)
			}
			if len(events) != 2 || events[0].Type != "START" || events[1].Type != "COMPLETE" {
				t.Fatalf("%s: %d events", j.Name, len(events))
			}
			id, of := decode(t, events[0]).Run.ID, fmt.Sprint(j.Name, w)
			if id != decode(t, events[1]).Run.ID || ids[id] != "" || id[14] != '5' {
				t.Errorf("run %s is of %s and of %s", id, of, ids[id])
			}
			ids[id] = of
		}
	}
	open := names.Events(jobs[0], hour, hour.From.Add(time.Minute), nil)
	if len(open) != 2 || open[1].Type != "RUNNING" || !open[1].Time.Equal(hour.From.Add(time.Minute)) {
		t.Errorf("a window that has not ended: %+v", open)
	}
	if early := names.Events(jobs[0], hour, hour.From.Add(-time.Minute), nil); early != nil {
		t.Errorf("a window that has not begun: %+v", early)
	}
}

// A server that is busy gets an event again; one that refuses it is not asked
// twice.
func TestSend(t *testing.T) {
	e := names.Events(shipped(t).All[0], hour, hour.To, nil)[0]
	var asked []string
	status := []int{503, 201}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+r.Header.Get("Content-Type"))
		if want, _ := json.Marshal(e); !bytes.Equal(body, want) {
			t.Errorf("sent %s", body)
		}
		w.WriteHeader(status[0])
		if len(status) > 1 {
			status = status[1:]
		}
	}))
	defer server.Close()
	at, err := openlineage.Endpoint(server.URL+"/", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := openlineage.NewClient(at, "key").Send(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if want := []string{"POST /api/v1/lineage Bearer key application/json", "POST /api/v1/lineage Bearer key application/json"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	asked, status = nil, []int{403}
	if err := openlineage.NewClient(at, "").Send(t.Context(), e); err == nil || !strings.Contains(err.Error(), "403") || len(asked) != 1 {
		t.Errorf("refused: %v, asked %d times", err, len(asked))
	}
	for _, bad := range []string{"", "marquez:5000", "ftp://marquez"} {
		if _, err := openlineage.Endpoint(bad, ""); err == nil {
			t.Errorf("%q is taken for a server", bad)
		}
	}
}
