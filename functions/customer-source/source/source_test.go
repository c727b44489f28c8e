package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
)

// world is a network with a CRM, another host, and an output port that shows
// what was emitted, reached by real HTTP over pipes: in a bubble of synctest,
// where pauses take no time.
type world struct {
	t      *testing.T
	client *http.Client
	log    bytes.Buffer
	handle function.Handler
	ticks  int

	crm      http.Handler
	asked    []string // of the CRM: path and query, " 304" behind it
	others   []string // hosts that nobody should ask
	stored   map[string]mesh.Customer
	findings map[string]mesh.RejectedRow
}

// pipes is a listener and a dialer that know no network.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.IPAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	a, b := net.Pipe()
	p.conns <- b
	return a, nil
}

// run starts the source in a world and does the test in it.
func run(t *testing.T, cfg Config, crm http.Handler, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, crm: crm, stored: map[string]mesh.Customer{}, findings: map[string]mesh.RejectedRow{}}
		p := &pipes{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: w, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		go server.Serve(p)
		transport := &http.Transport{DialContext: p.dial}
		w.client = &http.Client{Transport: transport, Timeout: time.Minute}
		defer func() {
			transport.CloseIdleConnections()
			server.Close()
		}()
		if cfg.Mapping == "" {
			cfg.Mapping = "crm"
		}
		if cfg.URL == "" {
			cfg.URL = "http://crm.example/customers"
		}
		cfg.APIKeyHeader = "X-API-Key"
		cfg.CustomersURL = "http://customers-port/customers"
		var err error
		w.handle, err = New(cfg, function.Ports{Client: w.client, Log: slog.New(slog.NewTextHandler(&w.log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		test(t, w)
	})
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch strings.ToLower(r.Host) {
	case "crm.example":
		answer := &statusWriter{ResponseWriter: rw}
		at := len(w.asked)
		w.asked = append(w.asked, r.URL.RequestURI())
		w.crm.ServeHTTP(answer, r)
		if answer.status == http.StatusNotModified {
			w.asked[at] += " 304"
		}
	case "customers-port":
		w.port(rw, r)
	default:
		w.others = append(w.others, r.Host)
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// port shows what was stored as functions/output-port does.
func (w *world) port(rw http.ResponseWriter, r *http.Request) {
	var lines []any
	last := int64(0)
	switch r.URL.Path {
	case "/customers":
		for _, c := range w.stored {
			if last = max(last, c.Version); !c.Deleted {
				lines = append(lines, c)
			}
		}
	case "/rejected_rows":
		for _, f := range w.findings {
			if last = max(last, f.Version); !f.Deleted {
				line := map[string]any{"sheet": f.Sheet, "row_number": f.Row, "reason": f.Reason, "severity": f.Severity, "version": f.Version}
				line["column_name"] = f.Column
				lines = append(lines, line)
			}
		}
	default:
		w.t.Errorf("the port was asked for %s", r.URL.Path)
	}
	rw.Header().Set("Telemesh-Version", strconv.Itoa(len(lines)))
	rw.Header().Set("Last-Row-Version", strconv.FormatInt(last, 10))
	rw.Header().Set("ETag", fmt.Sprintf(`"%s-%d"`, r.URL.Path, last))
	for _, line := range lines {
		json.NewEncoder(rw).Encode(line)
	}
}

// try wakes the source, stores what comes, and says it as text: customers as
// "id=name", what is gone with a - in front, findings as "row column: reason".
func (w *world) try() ([]string, error) {
	w.t.Helper()
	w.ticks++
	events, err := w.handle(w.t.Context(), mesh.NewEvent(sheet.Tick, "/ping", nil, strconv.Itoa(w.ticks)))
	said := []string{}
	gone := func(deleted bool) string {
		if deleted {
			return "-"
		}
		return ""
	}
	for _, e := range events {
		if err := e.Validate(); err != nil {
			w.t.Error(err)
		}
		switch e.Type() {
		case mesh.CustomersChanged:
			data, err := mesh.Decode[mesh.Customers](e.Data())
			if err != nil {
				w.t.Fatal(err)
			}
			for _, c := range data.Customers {
				if c.Version <= w.stored[c.CustomerID].Version {
					w.t.Errorf("customer %s comes with version %d, stored is %d", c.CustomerID, c.Version, w.stored[c.CustomerID].Version)
				}
				w.stored[c.CustomerID] = c
				said = append(said, gone(c.Deleted)+c.CustomerID+"="+c.Name)
			}
		case mesh.CustomersRejected:
			data, err := mesh.Decode[mesh.RejectedRows](e.Data())
			if err != nil {
				w.t.Fatal(err)
			}
			for _, f := range data.Rows {
				w.findings[fmt.Sprint(f.Sheet, f.Row, f.Column)] = f
				said = append(said, fmt.Sprintf("%s%d %s: %s", gone(f.Deleted), f.Row, f.Column, f.Reason))
			}
		default:
			w.t.Errorf("event of type %s", e.Type())
		}
	}
	return said, err
}

func (w *world) tick(want ...string) {
	w.t.Helper()
	got, err := w.try()
	if err != nil {
		w.t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Transformer("", func(s []string) string { return strings.Join(s, "\n") })); diff != "" {
		w.t.Errorf("tick %d (-want +got):\n%s", w.ticks, diff)
	}
}

// list is a CRM of the mapping crm: customers as id=name, one answer.
type list struct{ customers []string }

func (l *list) ServeHTTP(rw http.ResponseWriter, _ *http.Request) {
	json.NewEncoder(rw).Encode(map[string]any{"customers": objects(l.customers)})
}

func objects(customers []string) []map[string]string {
	out := []map[string]string{}
	for _, c := range customers {
		id, name, _ := strings.Cut(c, "=")
		out = append(out, map[string]string{"customer_id": id, "name": name})
	}
	return out
}

// raw answers a text.
func raw(text string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, text) })
}

func TestOnlyWhatChanged(t *testing.T) {
	crm := &list{[]string{"a=A", "b=B", "c=C"}}
	run(t, Config{}, crm, func(t *testing.T, w *world) {
		w.tick("a=A", "b=B", "c=C")
		w.tick()
		crm.customers = []string{"c=C", "a=Another", "d=D"}
		w.tick("a=Another", "-b=B", "d=D")
		w.tick()
		crm.customers = []string{"c=C", "a=Another", "d=D", "b=B"}
		w.tick("b=B")
		w.tick()
	})
}

// A Broker that did not get the reply delivers the tick again.
func TestTickThatComesAgain(t *testing.T) {
	crm := &list{[]string{"a=A", "=X"}}
	run(t, Config{}, crm, func(t *testing.T, w *world) {
		in := mesh.NewEvent(sheet.Tick, "/ping", nil, "x")
		first, err := w.handle(t.Context(), in)
		if err != nil || len(first) != 2 {
			t.Fatalf("tick: %v, %v, want two events", first, err)
		}
		crm.customers = nil
		again, err := w.handle(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Errorf("the same tick (-want +got):\n%s", diff)
		}
	})
}

func TestTicksAtOnceTellOnce(t *testing.T) {
	run(t, Config{}, &list{[]string{"a=A"}}, func(t *testing.T, w *world) {
		told := make(chan []event.Event)
		for i := range 4 {
			go func() {
				events, err := w.handle(t.Context(), mesh.NewEvent(sheet.Tick, "/ping", nil, strconv.Itoa(i)))
				if err != nil {
					t.Error(err)
				}
				told <- events
			}()
		}
		var all []event.Event
		for range 4 {
			all = append(all, <-told...)
		}
		if len(all) != 1 {
			t.Errorf("four ticks at once tell %d times, want once", len(all))
		}
	})
}

func TestOtherEventsArePermanentErrors(t *testing.T) {
	run(t, Config{}, &list{}, func(t *testing.T, w *world) {
		_, err := w.handle(t.Context(), mesh.NewEvent(mesh.CustomersChanged, "/x", []byte(`{}`), "1"))
		if !mesh.IsPermanent(err) {
			t.Errorf("an event of another type: %v, want a permanent error", err)
		}
	})
}

func TestNoCRM(t *testing.T) {
	handle, err := New(Config{}, function.Ports{Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if events, err := handle(t.Context(), mesh.NewEvent(sheet.Tick, "/ping", nil, "1")); len(events) > 0 || err != nil {
		t.Errorf("without CRM_URL: %v, %v, want nothing", events, err)
	}
}

// A list of nobody is more often a token that sees nothing than a CRM that lost
// all its customers.
func TestEmptyListDeletesNobody(t *testing.T) {
	crm := &list{}
	run(t, Config{}, crm, func(t *testing.T, w *world) {
		w.tick() // there was nobody
		crm.customers = []string{"a=A", "b=B"}
		w.tick("a=A", "b=B")
		crm.customers = nil
		w.tick("0 : it has no customers, and there are 2: set CRM_ALLOW_EMPTY=true if all of them are to go")
		w.tick()
		crm.customers = []string{"a=A"}
		w.tick("-b=B", "-0 : it has no customers, and there are 2: set CRM_ALLOW_EMPTY=true if all of them are to go")
	})
	crm.customers = []string{"a=A"}
	run(t, Config{AllowEmpty: true}, crm, func(t *testing.T, w *world) {
		w.tick("a=A")
		crm.customers = nil
		w.tick("-a=A")
	})
}

func TestRefusedCustomers(t *testing.T) {
	long := strings.Repeat("é", 128)
	answer := func(more string) http.Handler {
		return raw(`{"customers": [
			{"customer_id": " a ", "name": "A", "sector": "school"},
			{"customer_id": 12345678901234567890, "name": "B"},
			{"customer_id": "` + long + `", "name": "as long as may be"}` + more + `]}`)
	}
	run(t, Config{}, answer(""), func(t *testing.T, w *world) {
		w.tick("12345678901234567890=B", "a=A", long+"=as long as may be")
		if got := w.stored["a"].Sector; got != "school" {
			t.Errorf("sector of a = %q, want school", got)
		}
	})
	for _, c := range []struct{ name, row, column, reason string }{
		{"no id", `{"name": "X"}`, "customer_id", "empty"},
		{"null", `{"customer_id": null, "name": "X"}`, "customer_id", "empty"},
		{"control character", `{"customer_id": "x\ny", "name": "X"}`, "customer_id", "control character"},
		{"too long", `{"customer_id": "` + long + `x", "name": "X"}`, "customer_id", "256"},
		{"no name", `{"customer_id": "x", "name": "  "}`, "name", `empty (customer_id "x")`},
		{"the same id", `{"customer_id": "a", "name": "X"}`, "", `"a" is that of row 1`},
		{"object", `{"customer_id": "x", "name": {"first": "X"}}`, "name", "an object is neither"},
		{"list", `{"customer_id": ["x"], "name": "X"}`, "customer_id", "a list is neither"},
		{"column that may be empty", `{"customer_id": "x", "name": "X", "country": {}}`, "country", "an object is neither"},
		{"no object", `"x"`, "", "none of the columns"},
		{"nothing", `null`, "", "none of the columns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, Config{}, answer(", "+c.row), func(t *testing.T, w *world) {
				got, err := w.try()
				if err != nil || len(got) != 4 || len(w.findings) != 1 {
					t.Fatalf("tick: %q, %v, want three customers and a finding", got, err)
				}
				for _, f := range w.findings {
					if f.Sheet != "http://crm.example/customers" || f.Row != 4 || f.Severity != mesh.SeverityError ||
						!strings.Contains(f.Reason, c.reason) || f.Column != c.column {
						t.Errorf("finding %+v, want row 4, column %q, %q", f, c.column, c.reason)
					}
				}
				w.tick()
				w.crm = answer("")
				if got, err := w.try(); err != nil || len(got) != 1 || got[0][0] != '-' {
					t.Errorf("put right: %q, %v, want the finding gone", got, err)
				}
			})
		})
	}
}

// A typo in one customer must not look as if the customer were gone.
func TestRefusedCustomerIsNotDeleted(t *testing.T) {
	crm := &list{[]string{"a=A", "b=B"}}
	run(t, Config{}, crm, func(t *testing.T, w *world) {
		w.tick("a=A", "b=B")
		crm.customers = []string{"a=", "c=C"}
		w.tick("-b=B", "c=C", "1 name: empty (customer_id \"a\")")
		crm.customers = []string{"=A"} // whose it is, nobody knows
		got, err := w.try()
		if err != nil || slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "=") }) {
			t.Errorf("a customer without id: %q, %v, want no customer changed", got, err)
		}
	})
}

func TestTriesAgain(t *testing.T) {
	var answers []func(http.ResponseWriter)
	status := func(code int, retryAfter string) func(http.ResponseWriter) {
		return func(rw http.ResponseWriter) {
			if retryAfter == "date" {
				retryAfter = time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat)
			}
			if retryAfter != "" {
				rw.Header().Set("Retry-After", retryAfter)
			}
			rw.WriteHeader(code)
		}
	}
	cut := func(rw http.ResponseWriter) {
		rw.Header().Set("Content-Length", "1000")
		io.WriteString(rw, `{"customers": [{"customer_id": "a", "name": "A"}`)
	}
	good := &list{[]string{"a=A", "b=B"}}
	crm := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if len(answers) == 0 {
			good.ServeHTTP(rw, r)
			return
		}
		answer := answers[0]
		answers = answers[1:]
		answer(rw)
	})
	for _, c := range []struct {
		name    string
		answers []func(http.ResponseWriter)
		takes   time.Duration
		err     string // empty: the customers come
	}{
		{"429 and how long", []func(http.ResponseWriter){status(429, "7")}, 7 * time.Second, ""},
		{"503 and until when", []func(http.ResponseWriter){status(503, "date")}, 20 * time.Second, ""},
		{"longer each time", []func(http.ResponseWriter){status(503, ""), status(502, "0"), status(429, "x"), status(500, "-5")}, 15 * time.Second, ""},
		{"cut off", []func(http.ResponseWriter){cut, cut}, 3 * time.Second, ""},
		{"for ever", slices.Repeat([]func(http.ResponseWriter){status(503, "")}, 100), 15 * time.Second, "503 Service Unavailable (asked 5 times"},
		{"cut off for ever", slices.Repeat([]func(http.ResponseWriter){cut}, 100), 15 * time.Second, "unexpected EOF (asked 5 times"},
		{"tomorrow", []func(http.ResponseWriter){status(429, "86400")}, 0, "429 Too Many Requests (asked 1 times, the next time in 24h0m0s)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, Config{}, crm, func(t *testing.T, w *world) {
				answers = nil
				w.tick("a=A", "b=B")
				answers = c.answers
				good.customers = []string{"a=A"}
				defer func() { good.customers = []string{"a=A", "b=B"} }()
				began := time.Now()
				got, err := w.try()
				// A date is exact to the second.
				if took := time.Since(began).Round(time.Second); took != c.takes {
					t.Errorf("took %s, want %s", took, c.takes)
				}
				if c.err == "" {
					if diff := cmp.Diff([]string{"-b=B"}, got); diff != "" || err != nil {
						t.Errorf("%v, emitted (-want +got):\n%s", err, diff)
					}
					return
				}
				if err == nil || mesh.IsPermanent(err) || !strings.Contains(err.Error(), c.err) || len(got) > 0 {
					t.Errorf("tick: %q, %v, want the passing error %q", got, err, c.err)
				}
			})
		})
	}
}

// A CRM that says for how long it wants to be left alone is left alone, also by
// the ticks after.
func TestRetryAfterOfLaterTicks(t *testing.T) {
	crm := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Retry-After", "600")
		rw.WriteHeader(http.StatusTooManyRequests)
	})
	run(t, Config{}, crm, func(t *testing.T, w *world) {
		for range 10 {
			if got, err := w.try(); err == nil || mesh.IsPermanent(err) || len(got) > 0 {
				t.Errorf("tick: %q, %v, want a passing error", got, err)
			}
			time.Sleep(time.Minute) // of the bubble
		}
		if len(w.asked) != 1 {
			t.Errorf("asked %d times within 10 minutes, want once", len(w.asked))
		}
		w.crm = &list{[]string{"a=A"}}
		w.tick("a=A")
	})
}

// A CRM that takes the request and never answers has its share of the tick.
func TestCRMThatNeverAnswers(t *testing.T) {
	silent := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	run(t, Config{}, silent, func(t *testing.T, w *world) {
		began := time.Now()
		got, err := w.try()
		synctest.Wait() // for the CRM, which is told later that nobody listens
		if took := time.Since(began); err == nil || mesh.IsPermanent(err) || len(got) > 0 || took > tickTimeout {
			t.Errorf("tick: %q, %v after %s, want a passing error within %s", got, err, took, tickTimeout)
		}
		if len(w.asked) < 2 {
			t.Errorf("asked %d times, want it tried again", len(w.asked))
		}
		w.crm = &list{[]string{"a=A"}}
		w.tick("a=A")
	})
}

// What a person has to see to is a finding, once, until it is put right; nobody
// is deleted meanwhile.
func TestFaults(t *testing.T) {
	status := func(code int) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(code)
			fmt.Fprintf(rw, "request %s at %s", r.RemoteAddr, time.Now()) // another text each time
		})
	}
	redirect := func(to string) http.Handler {
		return http.RedirectHandler(to, http.StatusFound)
	}
	one := `"customers": [{"customer_id": "a", "name": "A"}]`
	for _, c := range []struct {
		name   string
		crm    http.Handler
		reason string
	}{
		{"401", status(401), "page 1: it answers 401 Unauthorized: see to CRM_TOKEN or CRM_API_KEY"},
		{"403", status(403), "page 1: it answers 403 Forbidden: see to CRM_TOKEN or CRM_API_KEY"},
		{"404", status(404), "page 1: it answers 404 Not Found: see to CRM_URL"},
		{"304 not asked for", status(304), "page 1: it answers 304 Not Modified: see to CRM_URL"},
		{"no JSON", raw("<html>"), "page 1: the answer is no JSON: invalid character '<'"},
		{"JSON cut off", raw("{" + one[:30]), "page 1: the answer is no JSON: unexpected EOF"},
		{"two answers", raw("{" + one + "}{" + one + "}"), "page 1: the answer is no JSON: there is something behind its end"},
		{"no list", raw(`{"error": "x"}`), "page 1: the answer has no list at /customers: mapping crm does not fit it"},
		{"object", raw(`{"customers": {"a": 1}}`), "page 1: the answer has no list at /customers: mapping crm does not fit it"},
		{"null", raw(`{"customers": null}`), "page 1: the answer has no list at /customers: mapping crm does not fit it"},
		{"next is an object", raw(`{` + one + `, "next": {}}`), "page 1: the answer's /next, which tells the next page, is neither"},
		{"next is no URL", raw(`{` + one + `, "next": "http://[x"}`), "page 1: the link to the next page is no URL"},
		{"next leads elsewhere", raw(`{` + one + `, "next": "http://evil.example/customers"}`), "page 1: the link to the next page leads to http://evil.example"},
		{"next leads to another scheme", raw(`{` + one + `, "next": "https://crm.example/customers"}`), "page 1: the link to the next page leads to https://crm.example"},
		{"next leads to another port", raw(`{` + one + `, "next": "//crm.example:8080/"}`), "page 1: the link to the next page leads to http://crm.example:8080"},
		{"circle", raw(`{` + one + `, "next": "/customers"}`), "page 2 is one that came before"},
		{"no end", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			fmt.Fprintf(rw, `{"customers": [{"customer_id": "%d", "name": "A"}], "next": "?n=%d"}`, n, n+1)
		}), "there are more than 1000 pages"},
		{"the same page again", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, `{%s, "next": "?n=1%s"}`, one, r.URL.Query().Get("n"))
		}), "page 2 is the one before it again"},
		{"endless", raw(`{"customers": [` + strings.Repeat(" ", sheet.MaxBytes)), "page 1: it has more than 8388608 bytes"},
		{"long pages without end", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			fmt.Fprintf(rw, `{"customers": [{"customer_id": "%d", "name": "%s"}], "next": "?n=%d"}`, n, strings.Repeat("x", 7<<20), n+1)
		}), "page 5: the pages have more than 33554432 bytes"},
		{"redirect elsewhere", redirect("http://evil.example/customers"), "page 1: it redirects to http://evil.example"},
		{"redirect in a circle", redirect("http://crm.example/customers"), "page 1: it redirects again and again"},
		{"page 2 fails", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "" {
				status(401).ServeHTTP(rw, r)
				return
			}
			fmt.Fprintf(rw, `{%s, "next": "?page=2"}`, one)
		}), "page 2: it answers 401 Unauthorized"},
	} {
		t.Run(c.name, func(t *testing.T) {
			good := &list{[]string{"a=A", "b=B"}}
			run(t, Config{Token: "secret-token", APIKey: "secret-key"}, good, func(t *testing.T, w *world) {
				w.tick("a=A", "b=B")
				w.crm = c.crm
				got, err := w.try()
				if err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "0 : "+c.reason) {
					t.Errorf("tick: %q, %v, want the finding %q", got, err, c.reason)
				}
				w.tick()
				if len(w.others) > 0 {
					t.Errorf("asked %v", w.others)
				}
				w.crm = good
				if got, err := w.try(); err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "-0 ") {
					t.Errorf("put right: %q, %v, want the finding gone", got, err)
				}
			})
		})
	}
}

// paged is a CRM that gives pages in one of the ways, at most two customers on
// each whatever it is asked for.
type paged struct {
	customers []string
	way       string
	tagged    bool
}

func (p *paged) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	from, _ := strconv.Atoi(query.Get("from"))
	if page, err := strconv.Atoi(query.Get("page")); err == nil {
		from = 2 * (page - 1)
	}
	from = min(from, len(p.customers))
	to := min(from+2, len(p.customers))
	answer := map[string]any{"customers": objects(p.customers[from:to])}
	if to < len(p.customers) {
		switch p.way {
		case "next":
			answer["next"] = fmt.Sprintf("http://CRM.example/customers?from=%d", to)
		case "link":
			rw.Header().Add("Link", `</customers>; rel="first"`)
			rw.Header().Add("Link", fmt.Sprintf(`<?from=%d>; title="a, \"b\"; c"; rel="last next"`, to))
		case "cursor":
			answer["after"] = to
		}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	if p.tagged {
		tag := `"` + mesh.Hash(string(text)) + `"`
		rw.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			rw.WriteHeader(http.StatusNotModified)
			return
		}
	}
	rw.Write(text)
}

const ownColumns = `
mapping: own
customers: /customers
columns: {customer_id: /customer_id, name: /name}
`

// own writes a mapping into a file.
func own(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPages(t *testing.T) {
	five := []string{"a=A", "b=B", "c=C", "d=D", "e=E"}
	for _, c := range []struct {
		way, paging, next string // of the example
		want              []string
	}{
		{"next", "next: /next", "",
			[]string{"/customers?sort=id", "/customers?from=2", "/customers?from=4"}},
		{"link", "link: true", "",
			[]string{"/customers?sort=id", "/customers?from=2", "/customers?from=4"}},
		{"cursor", "cursor: {at: /after, parameter: from}, size: {parameter: limit, value: 10}", "",
			[]string{"/customers?limit=10&sort=id", "/customers?from=2&limit=10&sort=id", "/customers?from=4&limit=10&sort=id"}},
		{"page", "page: {parameter: page, first: 1}, size: {parameter: limit, value: 10}", "https://crm.example/customers?limit=10&page=2",
			[]string{"/customers?limit=10&page=1&sort=id", "/customers?limit=10&page=2&sort=id", "/customers?limit=10&page=3&sort=id", "/customers?limit=10&page=4&sort=id"}},
		// Not 0, 10: the CRM gives two, whatever it is asked for.
		{"offset", "offset: {parameter: from}, size: {parameter: limit, value: 10}", "https://crm.example/customers?from=1&limit=10",
			[]string{"/customers?from=0&limit=10&sort=id", "/customers?from=2&limit=10&sort=id", "/customers?from=4&limit=10&sort=id", "/customers?from=5&limit=10&sort=id"}},
	} {
		t.Run(c.way, func(t *testing.T) {
			mapping := own(t, ownColumns+"paging: {"+c.paging+"}\n"+
				`examples: [{body: {customers: [{customer_id: x, name: X}]}, customers: [{customer_id: x, name: X}], next: "`+c.next+"\"}]\n")
			crm := &paged{customers: five, way: c.way, tagged: true}
			run(t, Config{URL: "http://crm.example/customers?sort=id", Mapping: mapping}, crm, func(t *testing.T, w *world) {
				w.tick(five...)
				again := slices.Clone(c.want) // what is new is read twice
				for i := range again {
					again[i] += " 304"
				}
				if diff := cmp.Diff(append(c.want, again...), w.asked); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
				w.asked = nil
				w.tick()
				if diff := cmp.Diff(again, w.asked); diff != "" {
					t.Errorf("asked again (-want +got):\n%s", diff)
				}
				// The first page stays as it is.
				crm.customers = slices.Clone(five)
				crm.customers[4] = "e=Else"
				w.tick("e=Else")
				crm.customers = five[:4]
				w.tick("-e=Else")
			})
		})
	}
}

// While the pages are read, a customer of an earlier one is deleted: another one
// moves to where the reader has been.
func TestListThatChangesWhileItIsRead(t *testing.T) {
	crm := &paged{customers: []string{"a=A", "b=B", "c=C", "d=D", "e=E"}}
	mapping := own(t, ownColumns+`
paging: {page: {parameter: page, first: 1}}
examples: [{body: {customers: []}}]
`)
	run(t, Config{Mapping: mapping}, crm, func(t *testing.T, w *world) {
		w.tick(crm.customers...)
		changing := true
		w.crm = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			crm.ServeHTTP(rw, r)
			if changing {
				crm.customers, changing = crm.customers[1:], false
			}
		})
		if got, err := w.try(); err == nil || mesh.IsPermanent(err) || len(got) > 0 || !strings.Contains(err.Error(), "changed while") {
			t.Errorf("tick: %q, %v, want a passing error", got, err)
		}
		w.tick("-a=A")
	})
}

func TestLastModified(t *testing.T) {
	crm := &list{[]string{"a=A"}}
	changed := time.Time{}
	tagged := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Last-Modified", changed.UTC().Format(http.TimeFormat))
		if since, err := http.ParseTime(r.Header.Get("If-Modified-Since")); err == nil && !changed.Truncate(time.Second).After(since) {
			rw.WriteHeader(http.StatusNotModified)
			return
		}
		crm.ServeHTTP(rw, r)
	})
	run(t, Config{}, tagged, func(t *testing.T, w *world) {
		changed = time.Now()
		w.tick("a=A")
		crm.customers = []string{"a=Again"} // in the same second
		w.tick("a=Again")
		time.Sleep(time.Minute)
		w.tick()
		w.tick()
		if last := w.asked[len(w.asked)-1]; last != "/customers 304" {
			t.Errorf("asked %q, want it answered with 304", last)
		}
		crm.customers, changed = []string{"a=Anew"}, time.Now()
		w.tick("a=Anew")
	})
}

func TestCSV(t *testing.T) {
	text := "name,customer_id\nA,a\n,b\n\"C, c\",c\n"
	want := []string{"a=A", "c=C, c", "3 name: empty (customer_id \"b\")"}
	t.Run("address", func(t *testing.T) {
		crm := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(text))
		})
		tagged := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("ETag", `"`+mesh.Hash(text)+`"`)
			crm.ServeHTTP(rw, r)
		})
		run(t, Config{URL: "http://crm.example/export/Customers.CSV?key=secret"}, tagged, func(t *testing.T, w *world) {
			w.tick(want...)
			w.tick()
			if diff := cmp.Diff([]string{"/export/Customers.CSV?key=secret", "/export/Customers.CSV?key=secret 304"}, w.asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			before := text
			text = "name\nA\n"
			if got, err := w.try(); err != nil || len(got) != 1 || !strings.Contains(got[0], "customer_id") {
				t.Errorf("no column customer_id: %q, %v, want a finding about the whole", got, err)
			}
			text = before
		})
	})
	t.Run("cut off", func(t *testing.T) {
		answers := make(chan string, 4)
		for _, answer := range []string{text, text, text, text[:strings.Index(text, "\"C")]} {
			answers <- answer
		}
		unended := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(rw.(*statusWriter).ResponseWriter).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+<-answers)
		})
		run(t, Config{URL: "http://crm.example/customers.csv"}, unended, func(t *testing.T, w *world) {
			w.tick(want...)
			if got, err := w.try(); err == nil || mesh.IsPermanent(err) || len(got) > 0 || !strings.Contains(err.Error(), "where they end") {
				t.Errorf("cut off: %q, %v, want a passing error", got, err)
			}
		})
	})
	t.Run("file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "customers.csv")
		run(t, Config{URL: file}, nil, func(t *testing.T, w *world) {
			w.tick("0 : open " + file + ": no such file or directory")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w.tick(want[0], want[1], "-0 : open "+file+": no such file or directory", want[2])
			w.tick()
		})
	})
}

// Whatever a CRM answers, it can repeat what it was asked with.
func TestSecretsAreToldNobody(t *testing.T) {
	secrets := []string{"token-5f2a", "key-77aa/b", "parameter-91", "password-3c"}
	cfg := Config{URL: "http://user:password-3c@crm.example/customers?key=parameter-91", Token: "token-5f2a\n", APIKey: "key-77aa/b\n"}
	for name, answer := range map[string]func(rw http.ResponseWriter, said string){
		"200": func(rw http.ResponseWriter, said string) { io.WriteString(rw, said) },
		"401": func(rw http.ResponseWriter, said string) { http.Error(rw, said, http.StatusUnauthorized) },
		"418": func(rw http.ResponseWriter, said string) { http.Error(rw, said, http.StatusTeapot) },
		"503": func(rw http.ResponseWriter, said string) { http.Error(rw, said, http.StatusServiceUnavailable) },
		"redirect": func(rw http.ResponseWriter, said string) {
			rw.Header().Set("Location", "http://evil.example/?"+said)
			rw.WriteHeader(302)
		},
		"location": func(rw http.ResponseWriter, said string) {
			rw.Header().Set("Location", "http://[evil/?"+said)
			rw.WriteHeader(302)
		},
		"next": func(rw http.ResponseWriter, said string) {
			fmt.Fprintf(rw, `{"customers": [], "next": "http://evil.example/?%s"}`, said)
		},
		"no URL": func(rw http.ResponseWriter, said string) {
			fmt.Fprintf(rw, `{"customers": [], "next": "http://[evil/?%s"}`, said)
		},
		"hang up": func(rw http.ResponseWriter, said string) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			sent := map[string]bool{}
			crm := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				said := strings.Join(secrets, "&")
				sent[r.Header.Get("Authorization")+" "+r.Header.Get("X-API-Key")+" "+r.URL.RawQuery] = true
				answer(rw, said)
			})
			run(t, cfg, crm, func(t *testing.T, w *world) {
				got, err := w.try()
				said := fmt.Sprint(got, w.findings, err, w.log.String())
				for _, s := range append(secrets, "?key") { // nor the address as it was asked for
					if strings.Contains(said, s) {
						t.Errorf("%s is told: %s", s, said)
					}
				}
				if !strings.Contains(said, "http://crm.example/customers") {
					t.Errorf("it is not told which CRM: %s", said)
				}
				if diff := cmp.Diff(map[string]bool{"Bearer token-5f2a key-77aa/b key=parameter-91": true}, sent); diff != "" {
					t.Errorf("sent (-want +got):\n%s", diff)
				}
				if len(w.others) > 0 {
					t.Errorf("asked %v", w.others)
				}
			})
		})
	}
}

func TestUserAndPassword(t *testing.T) {
	crm := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "pass:word" {
			t.Errorf("BasicAuth = %s, %s", user, password)
		}
		(&list{[]string{"a=A"}}).ServeHTTP(rw, r)
	})
	run(t, Config{URL: "http://me:pass%3Aword@crm.example/customers"}, crm, func(t *testing.T, w *world) { w.tick("a=A") })
}

func TestConfigThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{URL: "https://user:secret@[x"}, "CRM_URL is no URL"},
		{Config{URL: "https:///customers"}, "CRM_URL has no host"},
		{Config{URL: "customers.json"}, "CRM_URL is neither http://… or https://… nor the path of a .csv file"},
		{Config{URL: "https://crm.example", APIKey: "secret", APIKeyHeader: "X Key"}, `CRM_API_KEY_HEADER "X Key" is no name of a header`},
		{Config{URL: "https://crm.example", Token: "sec\nret"}, "what CRM_URL, CRM_TOKEN or CRM_API_KEY say cannot be sent as header Authorization"},
		{Config{URL: "https://crm.example", Mapping: "sugar"}, `CRM_MAPPING: there is no mapping "sugar": choose one of crm, hubspot, or give the path of a file`},
	} {
		_, err := New(c.cfg, function.Ports{Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler)})
		if err == nil || err.Error() != c.want {
			t.Errorf("New(%+v) = %v, want %s", c.cfg, err, c.want)
		}
	}
	_, err := New(Config{URL: "https://crm.example", Mapping: "./nowhere.yaml"}, function.Ports{Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a mapping that is not there: %v, want os.ErrNotExist", err)
	}
}
