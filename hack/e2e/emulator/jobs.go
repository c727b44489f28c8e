package emulator

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"
)

// Jobs are run here, since the emulator answers jobs.insert when the job has
// ended, cannot cancel it, makes a dataset of its answer, waits 100 ms before it
// gives it, and reads all jobs there were with each request. What it does well
// is jobs.query, which ends when its request does.

// pageRows bounds the rows of a page of an answer: BigQuery's own pages are
// bounded, too, by their bytes.
const pageRows = 1000

// job is a query that was started by jobs.insert.
type job struct {
	resource object // without its state
	stop     context.CancelFunc
	ended    chan struct{}

	// Once it has ended.
	answer *httptest.ResponseRecorder // of jobs.query
	result result
}

// result is the answer to a query.
type result struct {
	JobReference struct {
		JobID string `json:"jobId"`
	} `json:"jobReference"`
	Schema json.RawMessage   `json:"schema"`
	Rows   []json.RawMessage `json:"rows"`
}

// query runs jobs.query, and forgets the job.
func (r *rest) query(ctx context.Context, project string, body []byte) (*httptest.ResponseRecorder, result) {
	answer := httptest.NewRecorder()
	path := "/projects/" + project
	r.emulator.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodPost, path+"/queries", bytes.NewReader(body)))
	var res result
	if answer.Code != http.StatusOK {
		// The emulator says of every statement that fails that the job had an
		// internal error, which in BigQuery is BigQuery's fault and may pass.
		answer.Body = bytes.NewBuffer(bytes.ReplaceAll(answer.Body.Bytes(), []byte(`"jobInternalError"`), []byte(`"invalidQuery"`)))
		return answer, res
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &res); err != nil {
		panic(err) // the emulator gives JSON
	}
	forget := httptest.NewRequest(http.MethodDelete, path+"/jobs/"+res.JobReference.JobID+"/delete", nil)
	r.emulator.ServeHTTP(httptest.NewRecorder(), forget)
	return answer, res
}

func (r *rest) runQuery(w http.ResponseWriter, req *http.Request) {
	var body bytes.Buffer
	if _, err := body.ReadFrom(req.Body); err != nil {
		fail(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	answer, _ := r.query(req.Context(), req.PathValue("project"), body.Bytes())
	give(w, answer)
}

func (r *rest) insertJob(w http.ResponseWriter, req *http.Request) {
	var resource object
	var configuration struct {
		DryRun bool `json:"dryRun"`
		Query  struct {
			Query           string            `json:"query"`
			QueryParameters []json.RawMessage `json:"queryParameters,omitempty"`
		} `json:"query"`
	}
	var reference struct {
		JobID string `json:"jobId"`
	}
	err := json.NewDecoder(req.Body).Decode(&resource)
	if err == nil {
		err = json.Unmarshal(resource["configuration"], &configuration)
	}
	if err == nil {
		err = json.Unmarshal(resource["jobReference"], &reference)
	}
	if err != nil || reference.JobID == "" || configuration.Query.Query == "" {
		fail(w, http.StatusNotImplemented, "notImplemented", "only queries that name their job run here")
		return
	}
	body, err := json.Marshal(map[string]any{
		"query": configuration.Query.Query, "queryParameters": configuration.Query.QueryParameters, "dryRun": configuration.DryRun,
		"useLegacySql": false, "formatOptions": map[string]any{"useInt64Timestamp": true}})
	if err != nil {
		panic(err)
	}
	project := req.PathValue("project")
	if configuration.DryRun {
		answer, res := r.query(req.Context(), project, body)
		if answer.Code != http.StatusOK {
			give(w, answer)
			return
		}
		resource["status"] = json.RawMessage(`{"state": "DONE"}`)
		// Of a dry run there is no more than the statistics.
		resource["statistics"] = encode(map[string]any{"query": map[string]any{"statementType": "SELECT", "schema": res.Schema}})
		reply(w, resource)
		return
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(req.Context()))
	j := &job{resource: resource, stop: stop, ended: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	path := req.URL.Path + "/" + reference.JobID
	if r.jobs[path] != nil {
		fail(w, http.StatusConflict, "duplicate", "Already Exists: Job "+reference.JobID)
		return
	}
	r.jobs[path] = j
	go func() {
		defer close(j.ended)
		j.answer, j.result = r.query(ctx, project, body)
		if ctx.Err() != nil {
			j.answer = httptest.NewRecorder()
			fail(j.answer, http.StatusBadRequest, "stopped", "Job execution was cancelled: User requested cancellation")
		}
	}()
	reply(w, j.state())
}

// stop ends the jobs that run.
func (r *rest) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range r.jobs {
		j.stop()
		<-j.ended
	}
}

// state is the job as jobs.get gives it.
func (j *job) state() object {
	o := object{"status": json.RawMessage(`{"state": "RUNNING"}`)}
	for name, value := range j.resource {
		o[name] = value
	}
	select {
	case <-j.ended:
		o["status"] = json.RawMessage(`{"state": "DONE"}`)
		if j.answer.Code != http.StatusOK {
			var body struct {
				Error struct{ Errors []json.RawMessage }
			}
			if err := json.Unmarshal(j.answer.Body.Bytes(), &body); err != nil || len(body.Error.Errors) == 0 {
				panic("the emulator gives an error without its cause: " + j.answer.Body.String())
			}
			o["status"] = encode(map[string]any{"state": "DONE", "errorResult": body.Error.Errors[0], "errors": body.Error.Errors})
		}
	default:
	}
	return o
}

func (r *rest) job(w http.ResponseWriter, path string) *job {
	r.mu.Lock()
	defer r.mu.Unlock()
	j := r.jobs[path]
	if j == nil {
		fail(w, http.StatusNotFound, "notFound", "Not found: "+path)
	}
	return j
}

func (r *rest) getJob(w http.ResponseWriter, req *http.Request) {
	if j := r.job(w, req.URL.Path); j != nil {
		reply(w, j.state())
	}
}

func (r *rest) cancelJob(w http.ResponseWriter, req *http.Request) {
	if j := r.job(w, req.URL.Path[:len(req.URL.Path)-len("/cancel")]); j != nil {
		j.stop()
		reply(w, object{"job": encode(j.state())})
	}
}

// getQueryResults gives a page of the answer to a query; jobComplete is false
// when it has none after the time that the request names.
func (r *rest) getQueryResults(w http.ResponseWriter, req *http.Request) {
	j := r.job(w, "/projects/"+req.PathValue("project")+"/jobs/"+req.PathValue("job"))
	if j == nil {
		return
	}
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(req.FormValue(name)); err == nil {
			return n
		}
		return otherwise
	}
	o := object{"jobReference": j.resource["jobReference"], "jobComplete": json.RawMessage("false")}
	select {
	case <-j.ended:
	case <-req.Context().Done():
		return
	case <-time.After(time.Duration(number("timeoutMs", 10_000)) * time.Millisecond):
		reply(w, o)
		return
	}
	if j.answer.Code != http.StatusOK {
		give(w, j.answer)
		return
	}
	total := len(j.result.Rows)
	first := min(number("pageToken", number("startIndex", 0)), total)
	last := min(first+min(number("maxResults", pageRows), pageRows), total)
	o["jobComplete"] = json.RawMessage("true")
	o["totalRows"] = encode(strconv.Itoa(total))
	o["rows"] = encode(j.result.Rows[first:last])
	if j.result.Schema != nil {
		o["schema"] = j.result.Schema
	}
	if last < total {
		o["pageToken"] = encode(strconv.Itoa(last))
	}
	reply(w, o)
}

func encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is made of what was decoded
	}
	return b
}

func reply(w http.ResponseWriter, o object) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(o)
}
