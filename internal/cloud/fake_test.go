package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/option"

	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// fake is as much of BigQuery as plans need, with a wire that breaks: objects
// are kept as they are sent, and the three statements of apply are done. The
// emulator of hack/e2e is far more, and takes a second and some MiB for each of
// the hundreds of applies here.
type fake struct {
	url string

	mu       sync.Mutex
	objects  map[string]object // by path: datasets/D and datasets/D/tables/T
	rows     map[string][]row  // by table
	dry      map[string]object // by query: the schema that a dry run gives
	jobs     int
	versions int

	writes int
	fail   int  // the write at which the wire breaks; 0: none
	late   bool // what was written is written, and its answer lost
}

type object map[string]any

type row []any

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{objects: map[string]object{}, rows: map[string][]row{}}
	mux := http.NewServeMux()
	const dataset = "/projects/acme/datasets/{dataset}"
	mux.HandleFunc("GET /projects/acme/datasets", func(w http.ResponseWriter, r *http.Request) {
		f.list(w, "datasets", "datasets/")
	})
	mux.HandleFunc("GET "+dataset+"/tables", func(w http.ResponseWriter, r *http.Request) {
		f.list(w, "tables", "datasets/"+r.PathValue("dataset")+"/tables/")
	})
	mux.HandleFunc("GET "+dataset, f.get)
	mux.HandleFunc("GET "+dataset+"/tables/{table}", f.get)
	mux.HandleFunc("POST /projects/acme/datasets", f.insert)
	mux.HandleFunc("POST "+dataset+"/tables", f.insert)
	mux.HandleFunc("PATCH "+dataset, f.patch)
	mux.HandleFunc("PATCH "+dataset+"/tables/{table}", f.patch)
	mux.HandleFunc("GET "+dataset+"/tables/{table}/data", f.data)
	mux.HandleFunc("POST /projects/acme/jobs", f.query)
	mux.HandleFunc("GET /projects/acme/queries/{job}", func(w http.ResponseWriter, r *http.Request) {
		f.reply(w, object{"jobReference": object{"projectId": "acme", "jobId": r.PathValue("job")}, "jobComplete": true})
	})
	mux.HandleFunc("GET /projects/acme/jobs/{job}", func(w http.ResponseWriter, r *http.Request) { f.reply(w, job(r.PathValue("job"))) })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

var errWire = errors.New("the wire is cut")

func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	broken := false
	if r.Method != http.MethodGet {
		f.writes++ // one after the other, as steps are
		broken = f.writes == f.fail
	}
	if broken && !f.late {
		return nil, errWire
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if broken && err == nil {
		answer.Body.Close()
		return nil, errWire
	}
	return answer, err
}

func (f *fake) client(t testing.TB) *bigquery.Client {
	t.Helper()
	client, err := bigquery.NewClient(t.Context(), "acme", option.WithEndpoint(f.url), option.WithHTTPClient(&http.Client{Transport: f}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (f *fake) reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func (f *fake) error(w http.ResponseWriter, code int, text string) {
	w.WriteHeader(code)
	f.reply(w, object{"error": object{"code": code, "message": text}})
}

func pathOf(r *http.Request) string { return strings.TrimPrefix(r.URL.Path, "/projects/acme/") }

func (f *fake) list(w http.ResponseWriter, kind, prefix string) {
	items := []object{}
	for _, name := range slices.Sorted(maps.Keys(f.objects)) {
		if rest, ok := strings.CutPrefix(name, prefix); ok && !strings.Contains(rest, "/") {
			items = append(items, f.objects[name])
		}
	}
	f.reply(w, object{kind: items})
}

func (f *fake) get(w http.ResponseWriter, r *http.Request) {
	o, ok := f.objects[pathOf(r)]
	if !ok {
		f.error(w, http.StatusNotFound, "Not found: "+pathOf(r))
		return
	}
	f.reply(w, o)
}

func (f *fake) insert(w http.ResponseWriter, r *http.Request) {
	var o object
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		f.error(w, http.StatusBadRequest, err.Error())
		return
	}
	name := pathOf(r) + "/"
	for _, reference := range []string{"datasetReference", "tableReference"} {
		if ref, ok := o[reference].(map[string]any); ok {
			id := strings.TrimSuffix(reference, "Reference") + "Id"
			name += ref[id].(string)
		}
	}
	if f.objects[name] != nil {
		f.error(w, http.StatusConflict, "Already Exists: "+name)
		return
	}
	f.put(name, o)
	f.reply(w, o)
}

func (f *fake) put(name string, o object) {
	f.versions++
	o["etag"] = fmt.Sprint("e", f.versions)
	f.objects[name] = o
}

func (f *fake) patch(w http.ResponseWriter, r *http.Request) {
	var change object
	old := f.objects[pathOf(r)]
	if err := json.NewDecoder(r.Body).Decode(&change); err != nil || old == nil {
		f.error(w, http.StatusNotFound, fmt.Sprint("Not found: ", pathOf(r), " ", err))
		return
	}
	if match := r.Header.Get("If-Match"); match != "" && match != old["etag"] {
		f.error(w, http.StatusPreconditionFailed, "Precondition check failed.")
		return
	}
	o := maps.Clone(old)
	for name, value := range change {
		if labels, ok := value.(map[string]any); ok && name == "labels" {
			all := map[string]any{}
			if had, ok := old["labels"].(map[string]any); ok {
				maps.Copy(all, had)
			}
			maps.Copy(all, labels)
			value = all
		}
		o[name] = value
	}
	f.put(pathOf(r), o)
	f.reply(w, o)
}

func (f *fake) data(w http.ResponseWriter, r *http.Request) {
	rows := []object{}
	for _, cells := range f.rows[r.PathValue("dataset")+"."+r.PathValue("table")] {
		values := []object{}
		for _, cell := range cells {
			values = append(values, object{"v": cell})
		}
		rows = append(rows, object{"f": values})
	}
	f.reply(w, object{"totalRows": fmt.Sprint(len(rows)), "rows": rows})
}

func job(id string) object {
	return object{"jobReference": object{"projectId": "acme", "jobId": id}, "status": object{"state": "DONE"},
		"configuration": object{"query": object{"query": ""}}, "statistics": object{"query": object{"statementType": "INSERT"}}}
}

// query does a statement of apply, whose parameters are its values in order.
func (f *fake) query(w http.ResponseWriter, r *http.Request) {
	var in struct {
		JobReference  struct{ JobID string }
		Configuration struct {
			DryRun bool
			Query  struct {
				Query           string
				QueryParameters []struct{ ParameterValue struct{ Value string } }
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		f.error(w, http.StatusBadRequest, err.Error())
		return
	}
	sql := in.Configuration.Query.Query
	if in.Configuration.DryRun {
		columns, ok := f.dry[sql]
		if !ok {
			f.error(w, http.StatusBadRequest, "Unrecognized name")
			return
		}
		dry := job(in.JobReference.JobID)
		dry["statistics"] = object{"query": object{"statementType": "SELECT", "schema": columns}}
		f.reply(w, dry)
		return
	}
	var values []string
	for _, p := range in.Configuration.Query.QueryParameters {
		values = append(values, p.ParameterValue.Value)
	}
	switch {
	case strings.HasPrefix(sql, "INSERT INTO `acme."+schema.Members+"`"):
		for pair := range slices.Chunk(values, 2) {
			f.rows[schema.Members] = append(f.rows[schema.Members], row{pair[0], pair[1]})
		}
	case strings.HasPrefix(sql, "DELETE FROM `acme."+schema.Members+"`"):
		for pair := range slices.Chunk(values, 2) {
			f.rows[schema.Members] = slices.DeleteFunc(f.rows[schema.Members], func(r row) bool { return r[0] == pair[0] && r[1] == pair[1] })
		}
	case strings.HasPrefix(sql, "INSERT INTO `acme."+schema.Contracts+"`"):
		f.jobs++
		for three := range slices.Chunk(values, 3) {
			f.rows[schema.Contracts] = append(f.rows[schema.Contracts], row{three[0], three[1], three[2], fmt.Sprint(f.jobs * 1000000)})
		}
	default:
		f.error(w, http.StatusBadRequest, "the fake knows no statement "+sql)
		return
	}
	f.reply(w, job(in.JobReference.JobID))
}
