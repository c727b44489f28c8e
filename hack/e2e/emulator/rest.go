package emulator

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
)

// rest answers as the REST API of BigQuery does where the emulator does not.
type rest struct {
	emulator http.Handler
	*http.ServeMux

	mu       sync.Mutex        // one change of an object at a time
	datasets map[string]object // as they are, by their paths
	jobs     map[string]*job   // by their paths
}

func newREST(emulator http.Handler) *rest {
	r := &rest{emulator: emulator, ServeMux: http.NewServeMux(), datasets: map[string]object{}, jobs: map[string]*job{}}
	const dataset = "/projects/{project}/datasets/{dataset}"
	r.HandleFunc("POST /projects/{project}/datasets", r.insertDataset)
	r.HandleFunc("GET "+dataset, r.get)
	r.HandleFunc("PATCH "+dataset, r.patch)
	r.HandleFunc("GET "+dataset+"/tables/{table}", r.get)
	r.HandleFunc("PATCH "+dataset+"/tables/{table}", r.patch)
	r.HandleFunc("POST /projects/{project}/queries", r.runQuery)
	r.HandleFunc("GET /projects/{project}/queries/{job}", r.getQueryResults)
	r.HandleFunc("POST /projects/{project}/jobs", r.insertJob)
	r.HandleFunc("GET /projects/{project}/jobs/{job}", r.getJob)
	r.HandleFunc("POST /projects/{project}/jobs/{job}/cancel", r.cancelJob)
	r.Handle("/", emulator)
	return r
}

// object is a dataset or a table as the API gives it.
type object map[string]json.RawMessage

// do asks the emulator.
func (r *rest) do(req *http.Request, method, path string, body any) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	r.emulator.ServeHTTP(answer, httptest.NewRequestWithContext(req.Context(), method, path, bytes.NewReader(encode(body))))
	return answer
}

func give(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	maps.Copy(w.Header(), answer.Header())
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}

// fail answers with an error of the REST API.
func fail(w http.ResponseWriter, code int, reason, message string) {
	type item struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"code": code, "message": message, "errors": []item{{reason, message}}}})
}

// defaultAccess is what a dataset has that is made without access entries.
var defaultAccess = json.RawMessage(`[
	{"role": "WRITER", "specialGroup": "projectWriters"},
	{"role": "OWNER", "specialGroup": "projectOwners"},
	{"role": "OWNER", "userByEmail": "` + User + `"},
	{"role": "READER", "specialGroup": "projectReaders"}]`)

// insertDataset keeps the dataset, of which the emulator drops the access
// entries and every change, and says of one that is there that it is.
func (r *rest) insertDataset(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var dataset object
	if err := json.NewDecoder(req.Body).Decode(&dataset); err != nil {
		fail(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	var ref struct {
		DatasetID string `json:"datasetId"`
	}
	if err := json.Unmarshal(dataset["datasetReference"], &ref); err != nil {
		fail(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	path := req.URL.Path + "/" + ref.DatasetID
	if r.do(req, http.MethodGet, path, nil).Code == http.StatusOK {
		fail(w, http.StatusConflict, "duplicate", "Already Exists: Dataset "+ref.DatasetID)
		return
	}
	answer := r.do(req, http.MethodPost, req.URL.Path, dataset)
	if answer.Code == http.StatusOK {
		if dataset["access"] == nil {
			dataset["access"] = defaultAccess
		}
		r.datasets[path] = dataset
	}
	give(w, answer)
}

// look gives a dataset or a table with its ETag, or the answer that says why
// there is none.
func (r *rest) look(req *http.Request) (object, *httptest.ResponseRecorder) {
	answer := r.do(req, http.MethodGet, req.URL.Path, nil)
	if answer.Code != http.StatusOK {
		return nil, answer
	}
	var o object
	if err := json.Unmarshal(answer.Body.Bytes(), &o); err != nil {
		panic(err) // the emulator gives JSON
	}
	maps.Copy(o, r.datasets[req.URL.Path])
	// The definition alone: rows that come do not change it.
	tagged := maps.Clone(o)
	for _, name := range []string{"etag", "numRows", "numBytes", "lastModifiedTime"} {
		delete(tagged, name)
	}
	o["etag"] = fmt.Appendf(nil, `"%x"`, sha256.Sum256(encode(tagged)))
	return o, nil
}

func (r *rest) get(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.show(w, req)
}

func (r *rest) show(w http.ResponseWriter, req *http.Request) {
	o, answer := r.look(req)
	if o == nil {
		give(w, answer)
		return
	}
	reply(w, o)
}

// patch changes a dataset or a table unless it is not the one that If-Match
// names. A view whose query changes, and a table that gets columns, are made
// anew: the emulator would change the description alone.
func (r *rest) patch(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o, answer := r.look(req)
	if o == nil {
		give(w, answer)
		return
	}
	var etag string
	if err := json.Unmarshal(o["etag"], &etag); err != nil {
		panic(err)
	}
	if want := req.Header.Get("If-Match"); want != "" && want != etag {
		fail(w, http.StatusPreconditionFailed, "conditionNotMet", "Precondition Failed")
		return
	}
	var change object
	if err := json.NewDecoder(req.Body).Decode(&change); err != nil {
		fail(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	before := o["schema"]
	merge(o, change)
	delete(o, "etag")
	switch path := req.URL.Path; {
	case req.PathValue("table") == "":
		r.datasets[path] = o
	case o["view"] != nil && change["view"] != nil:
		delete(o, "schema") // the new query has its own
		answer = r.remake(req, o, "")
	case o["view"] != nil:
		answer = r.do(req, http.MethodPut, path, o)
	default:
		fresh, names, refused := columns(before, o["schema"])
		switch {
		case refused != "":
			fail(w, http.StatusBadRequest, "invalid", "Provided Schema does not match Table: "+refused)
			return
		case fresh:
			answer = r.remake(req, o, names)
		default:
			answer = r.do(req, http.MethodPut, path, o)
		}
	}
	if answer != nil && answer.Code != http.StatusOK {
		give(w, answer)
		return
	}
	r.show(w, req)
}

// columns says why a table cannot get the columns of a changed schema; fresh is
// whether there are any that it has not.
func columns(from, to json.RawMessage) (fresh bool, names string, refused string) {
	type schema struct {
		Fields []struct{ Name, Type, Mode string } `json:"fields"`
	}
	var old, changed schema
	if err := errors.Join(json.Unmarshal(from, &old), json.Unmarshal(to, &changed)); err != nil {
		panic(err) // every table has a schema
	}
	if len(changed.Fields) < len(old.Fields) {
		return false, "", "a column is missing"
	}
	var list []string
	for i, field := range changed.Fields {
		switch {
		case i >= len(old.Fields) && field.Mode == "REQUIRED":
			return false, "", "a column that is required is new: " + field.Name
		case i >= len(old.Fields):
			fresh = true
		case field.Name != old.Fields[i].Name || field.Type != old.Fields[i].Type:
			return false, "", "a column has changed: " + field.Name
		default:
			list = append(list, "`"+field.Name+"`")
		}
	}
	return fresh, strings.Join(list, ", "), ""
}

// remake puts what is in an object's place, with the rows of the columns that
// are named.
func (r *rest) remake(req *http.Request, o object, columns string) *httptest.ResponseRecorder {
	path := req.URL.Path
	folder := path[:strings.LastIndexByte(path, '/')]
	name := req.PathValue("dataset") + "." + req.PathValue("table")
	type step struct {
		method, path string
		body         any
	}
	query := func(sql string) step {
		return step{http.MethodPost, "/projects/" + req.PathValue("project") + "/queries", map[string]any{"query": sql, "useLegacySql": false}}
	}
	steps := []step{{http.MethodDelete, path, nil}, {http.MethodPost, folder, o}}
	if columns != "" {
		steps = []step{query(fmt.Sprintf("CREATE TABLE `%s_old` AS SELECT * FROM `%s`", name, name)), steps[0], steps[1],
			query(fmt.Sprintf("INSERT INTO `%s` (%s) SELECT %s FROM `%s_old`", name, columns, columns, name)),
			{http.MethodDelete, path + "_old", nil}}
	}
	var answer *httptest.ResponseRecorder
	for _, s := range steps {
		if answer = r.do(req, s.method, s.path, s.body); answer.Code != http.StatusOK {
			break
		}
	}
	return answer
}

// merge applies a change as RFC 7396 says: what is null goes, objects are
// merged, all else is replaced.
func merge(o, change object) {
	for name, value := range change {
		var inner, old object
		switch {
		case string(value) == "null":
			delete(o, name)
		case json.Unmarshal(value, &inner) == nil:
			if json.Unmarshal(o[name], &old) != nil || old == nil {
				old = object{}
			}
			merge(old, inner)
			o[name] = encode(old)
		default:
			o[name] = value
		}
	}
}
