package bigquery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/civil"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
)

func TestTrim(t *testing.T) {
	for sql, want := range map[string]string{
		"SELECT 1":                             "SELECT 1",
		"SELECT 1;":                            "SELECT 1",
		"SELECT 1 ;\n -- done":                 "SELECT 1 ",
		"SELECT 1; ; /* ; */ # x\n;":           "SELECT 1",
		"SELECT 1 -- a; b":                     "SELECT 1 -- a; b",
		"SELECT 1 -- a\n;":                     "SELECT 1 -- a\n",
		"SELECT 1; SELECT 2;":                  "SELECT 1; SELECT 2",
		"SELECT ';--'":                         "SELECT ';--'",
		"SELECT \";\";":                        "SELECT \";\"",
		"SELECT `a;--`":                        "SELECT `a;--`",
		`SELECT 'it\';' ;`:                     `SELECT 'it\';' `,
		`SELECT r'\';';`:                       `SELECT r'\';'`,
		`SELECT '''a';--''' ; -- '''`:          `SELECT '''a';--''' `,
		`SELECT """a\""";--""" ;`:              `SELECT """a\""";--""" `,
		"SELECT /* ' */ 1; /* ' */":            "SELECT /* ' */ 1",
		"SELECT 1; /* never closed":            "SELECT 1",
		"SELECT 'never closed ;":               "SELECT 'never closed ;",
		"SELECT 1 /* a */; -- b\n/* c */ FROM": "SELECT 1 /* a */; -- b\n/* c */ FROM",
		"-- nothing":                           "-- nothing",
		";":                                    "",
		"":                                     "",
		`\`:                                    `\`,
		`'\`:                                   `'\`,
	} {
		if got := trim(sql); got != want {
			t.Errorf("trim(%q) = %q, want %q", sql, got, want)
		}
	}
}

// A statement may be whatever its writer had in mind.
func FuzzTrim(f *testing.F) {
	f.Add("SELECT ';' ; -- x")
	f.Fuzz(func(t *testing.T, sql string) {
		got := trim(sql)
		if len(got) > len(sql) || sql[:len(got)] != got || trim(got) != got {
			t.Errorf("trim(%q) = %q, and then %q", sql, got, trim(got))
		}
	})
}

func TestCells(t *testing.T) {
	at := time.Date(2024, 3, 1, 12, 0, 0, 1000, time.UTC)
	day := civil.Date{Year: 2024, Month: 3, Day: 1}
	noon := civil.Time{Hour: 12, Nanosecond: 1000}
	field := func(kind bigquery.FieldType, fields ...*bigquery.FieldSchema) *bigquery.FieldSchema {
		return &bigquery.FieldSchema{Type: kind, Schema: fields}
	}
	named := func(name string, f *bigquery.FieldSchema) *bigquery.FieldSchema {
		f.Name = name
		return f
	}
	list := func(f *bigquery.FieldSchema) *bigquery.FieldSchema {
		f.Repeated = true
		return f
	}
	for name, test := range map[string]struct {
		value bigquery.Value
		field *bigquery.FieldSchema
		kind  contract.Type
		want  any
	}{
		"NULL":       {nil, field("INTEGER"), contract.Int64, nil},
		"STRING":     {"x", field("STRING"), contract.String, "x"},
		"INT64":      {int64(math.MaxInt64), field("INTEGER"), contract.Int64, int64(math.MaxInt64)},
		"FLOAT64":    {math.Inf(-1), field("FLOAT"), contract.Float64, math.Inf(-1)},
		"BOOL":       {true, field("BOOLEAN"), contract.Bool, true},
		"TIMESTAMP":  {at.In(time.FixedZone("", 3600)), field("TIMESTAMP"), contract.Timestamp, at},
		"JSON":       {`{"a": 1}`, field("JSON"), contract.JSON, `{"a": 1}`},
		"NUMERIC":    {big.NewRat(1, 8), field("NUMERIC"), contract.Float64, 0.125},
		"BIGNUMERIC": {big.NewRat(-1, 3), field("BIGNUMERIC"), contract.Float64, -1.0 / 3},
		"DATE":       {day, field("DATE"), contract.String, "2024-03-01"},
		"TIME":       {noon, field("TIME"), contract.String, "12:00:00.000001"},
		"DATETIME":   {civil.DateTime{Date: day, Time: noon}, field("DATETIME"), contract.String, "2024-03-01 12:00:00.000001"},
		"INTERVAL":   {&bigquery.IntervalValue{Days: 1}, field("INTERVAL"), contract.String, "0-0 1 0:0:0"},
		"GEOGRAPHY":  {"POINT(1 2)", field("GEOGRAPHY"), contract.String, "POINT(1 2)"},
		"BYTES":      {[]byte{0, 255}, field("BYTES"), contract.String, "AP8="},
		"RANGE": {&bigquery.RangeValue{Start: day}, &bigquery.FieldSchema{Type: "RANGE", RangeElementType: &bigquery.RangeElementType{Type: "DATE"}},
			contract.JSON, `{"start":"2024-03-01","end":null}`},
		"ARRAY":       {[]bigquery.Value{int64(1), int64(2)}, list(field("INTEGER")), contract.JSON, "[1,2]"},
		"empty ARRAY": {[]bigquery.Value{}, list(field("STRING")), contract.JSON, "[]"},
		"ARRAY JSON":  {[]bigquery.Value{`{"a": 1}`, "null"}, list(field("JSON")), contract.JSON, `[{"a": 1},null]`},
		"STRUCT": {[]bigquery.Value{"it's \"x\"", nil, []bigquery.Value{[]bigquery.Value{1.5}, []bigquery.Value{math.NaN()}}, big.NewRat(20, 1), at, true},
			field("RECORD", named("a", field("STRING")), named("b", field("INTEGER")), named("c", list(field("RECORD", named("d", field("FLOAT"))))),
				named("e", field("NUMERIC")), named("f", field("TIMESTAMP")), named("g", field("BOOLEAN"))),
			contract.JSON, `{"a":"it's \"x\"","b":null,"c":[{"d":1.5},{"d":"NaN"}],"e":20,"f":"2024-03-01T12:00:00.000001Z","g":true}`},
	} {
		got, err := cellOf(test.value, test.field)
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" || typeOf(test.field) != test.kind {
			t.Errorf("%s: a %s, %v, want a %s: (-want +got)\n%s", name, typeOf(test.field), err, test.kind, diff)
		}
	}
	if _, err := cellOf(1, field("INTEGER")); err == nil {
		t.Error("an int passes for an int64")
	}
}

// rest is the REST API of one query: what it answers to the dry run, to the
// insertion of the job and to the request for its results.
type rest struct {
	dryRun, insert, results func(w http.ResponseWriter, r *http.Request)
	cancelled               chan string // names of jobs
}

func (s *rest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/projects/p")
	switch {
	case r.Method == http.MethodPost && path == "/jobs":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if bytes.Contains(body, []byte(`"dryRun":true`)) {
			s.dryRun(w, r)
			return
		}
		s.insert(w, r)
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/cancel"):
		s.cancelled <- strings.TrimSuffix(strings.TrimPrefix(path, "/jobs/"), "/cancel")
		io.WriteString(w, "{}")
	case r.Method == http.MethodGet && strings.HasPrefix(path, "/jobs/"):
		fmt.Fprintf(w, `{"jobReference": {"projectId": "p", "jobId": %q}, "configuration": {"query": {}}, "status": {"state": "RUNNING"}}`,
			strings.TrimPrefix(path, "/jobs/"))
	case r.Method == http.MethodGet && strings.HasPrefix(path, "/queries/"):
		s.results(w, r)
	default:
		http.Error(w, "unexpected "+r.Method+" "+r.URL.Path, http.StatusTeapot)
	}
}

func openREST(t *testing.T, s *rest) *Warehouse {
	t.Helper()
	s.cancelled = make(chan string, 1)
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	w, err := Open(t.Context(), Config{Project: "p", Location: "EU", Endpoint: web.URL, Storage: "127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return w
}

func say(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) }
}

func sayError(code int, reason string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"error": {"code": %d, "message": "so it is", "errors": [{"reason": %q, "message": "so it is"}]}}`, code, reason)
	}
}

const (
	goodDryRun = `{"jobReference": {"projectId": "p", "jobId": "d"}, "configuration": {"dryRun": true, "query": {}}, "status": {"state": "DONE"},
		"statistics": {"query": {"statementType": "SELECT", "schema": {"fields": [{"name": "a", "type": "INTEGER"}]}}}}`
	goodJob     = `{"jobReference": {"projectId": "p", "jobId": "j"}, "configuration": {"query": {}}, "status": {"state": "RUNNING"}}`
	goodResults = `{"jobComplete": true, "totalRows": "1", "schema": {"fields": [{"name": "a", "type": "INTEGER"}]}, "rows": [{"f": [{"v": "7"}]}]}`
)

func TestQueryErrors(t *testing.T) {
	const permanent, passing = true, false
	for _, test := range []struct {
		code   int
		reason string
		want   bool
	}{
		{400, "invalidQuery", permanent}, {400, "invalid", permanent}, {404, "notFound", passing}, {403, "responseTooLarge", permanent},
		{400, "resourcesExceeded", permanent},
		{403, "quotaExceeded", passing}, {403, "accessDenied", passing}, {400, "jobInternalError", passing}, {400, "jobBackendError", passing},
		{400, "stopped", passing}, {401, "authError", passing}, {403, "billingNotEnabled", passing},
	} {
		s := &rest{dryRun: sayError(test.code, test.reason), insert: say(goodJob), results: sayError(test.code, test.reason)}
		w := openREST(t, s)
		if _, err := w.Query(t.Context(), "SELECT 7"); err == nil || mesh.IsPermanent(err) != test.want {
			t.Errorf("Query() of %d %s = %v, want permanent %v", test.code, test.reason, err, test.want)
		}
		s.dryRun = say(goodDryRun)
		answer, err := w.Query(t.Context(), "SELECT 7")
		if err != nil {
			t.Fatal(err)
		}
		for _, err = range answer.All {
		}
		if err == nil || mesh.IsPermanent(err) != test.want {
			t.Errorf("the answer of %d %s ended with %v, want permanent %v", test.code, test.reason, err, test.want)
		}
	}
	// What the client tries again ends with the context.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	w := openREST(t, &rest{dryRun: sayError(http.StatusServiceUnavailable, "backendError")})
	if _, err := w.Query(ctx, "SELECT 7"); !errors.Is(err, context.DeadlineExceeded) || mesh.IsPermanent(err) {
		t.Errorf("Query() without a server = %v, want %v", err, context.DeadlineExceeded)
	}
	// A script is more than a query, also one that is read as such.
	w = openREST(t, &rest{dryRun: say(strings.Replace(goodDryRun, `"SELECT"`, `"SCRIPT"`, 1))})
	if _, err := w.Query(t.Context(), "SELECT 1) SELECT 1; DELETE FROM t WHERE TRUE; WITH answer AS (SELECT 1"); !mesh.IsPermanent(err) {
		t.Errorf("Query() of a script = %v, want a permanent error", err)
	}
}

// The answer to the insertion was lost: the job is there, and is not run again.
func TestQueryJobIsThere(t *testing.T) {
	w := openREST(t, &rest{dryRun: say(goodDryRun), insert: sayError(http.StatusConflict, "duplicate"), results: say(goodResults)})
	answer, err := w.Query(t.Context(), "SELECT 7")
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	for row, err := range answer.All {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, row[0])
	}
	if diff := cmp.Diff([]any{int64(7)}, got); diff != "" {
		t.Errorf("the answer is: (-want +got)\n%s", diff)
	}
}

// A job that nobody waits for is stopped.
func TestQueryStopsItsJob(t *testing.T) {
	for name, end := range map[string]func(cancel context.CancelFunc, w *Warehouse){
		"cancelled": func(cancel context.CancelFunc, w *Warehouse) { cancel() },
		"closed": func(cancel context.CancelFunc, w *Warehouse) {
			if err := w.Close(); err != nil {
				t.Errorf("Close() = %v", err)
			}
		},
	} {
		waits := make(chan struct{})
		s := &rest{dryRun: say(goodDryRun), insert: say(goodJob), results: func(w http.ResponseWriter, r *http.Request) {
			close(waits)
			<-r.Context().Done()
		}}
		w := openREST(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		answer, err := w.Query(ctx, "SELECT 7")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			for _, err := range answer.All {
				ended <- err
			}
		}()
		<-waits
		end(cancel, w)
		err = <-ended
		if want := map[string]error{"cancelled": context.Canceled, "closed": errClosed}[name]; !errors.Is(err, want) || mesh.IsPermanent(err) {
			t.Errorf("%s: the answer ended with %v, want %v", name, err, want)
		}
		if job := <-s.cancelled; !strings.HasPrefix(job, "telemesh-") {
			t.Errorf("%s: the job %s was stopped", name, job)
		}
	}
}
