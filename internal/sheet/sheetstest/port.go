package sheetstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Port is an output port with its rejected_rows beside it, and the sink before
// it.
type Port struct {
	URL string // of the table, whose name is the last element

	mu     sync.Mutex
	tables map[string]*stored
	away   bool
}

// stored is a table: of each key the row of the highest version counts.
type stored struct {
	rows     map[string]map[string]any
	recorded int
	last     int64
}

// NewPort starts a port of a table: placements, actions or customers. It ends
// with the test.
func NewPort(tb testing.TB, table string) *Port {
	tb.Helper()
	p := &Port{tables: map[string]*stored{table: {rows: map[string]map[string]any{}}, "rejected_rows": {rows: map[string]map[string]any{}}}}
	server := httptest.NewServer(p)
	tb.Cleanup(server.Close)
	p.URL = server.URL + "/" + table
	return p
}

// Away makes the port answer 503, or not any more.
func (p *Port) Away(away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

// Store does what a sink does with events.
func (p *Port) Store(tb testing.TB, events ...event.Event) {
	tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		var data map[string][]map[string]any
		if err := json.Unmarshal(e.Data(), &data); err != nil || len(data) != 1 {
			tb.Fatalf("%s: %v, %d members, want one", e.Type(), err, len(data))
		}
		for member, rows := range data {
			table, key := member, []string{"device_id", "valid_from"}
			switch e.Type() {
			case mesh.PlacementsChanged:
			case mesh.ActionsLogged:
				key = []string{"action_id"}
			case mesh.CustomersChanged:
				key = []string{"customer_id"}
			case mesh.PlacementsRejected, mesh.ActionsRejected, mesh.CustomersRejected:
				table, key = "rejected_rows", []string{"sheet", "row", "column"}
			}
			t := p.tables[table]
			if t == nil {
				tb.Fatalf("%s is not for this port", e.Type())
			}
			for _, row := range rows {
				t.store(row, key)
			}
		}
	}
}

func (t *stored) store(row map[string]any, key []string) {
	var name strings.Builder
	for _, column := range key {
		fmt.Fprintf(&name, "%v\x00", row[column])
	}
	version := int64(row["version"].(float64))
	t.recorded++
	t.last = max(t.last, version)
	if before, ok := t.rows[name.String()]; !ok || int64(before["version"].(float64)) < version {
		t.rows[name.String()] = row
	}
}

// Findings gives what rejected_rows shows, as "row column: reason", in order;
// a warning ends in " (warning)".
func (p *Port) Findings() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	shown := []mesh.RejectedRow{}
	for _, row := range p.tables["rejected_rows"].rows {
		if row["deleted"] != true {
			column, _ := row["column"].(string)
			shown = append(shown, mesh.RejectedRow{Row: int64(row["row"].(float64)), Column: column, Reason: row["reason"].(string), Severity: mesh.Severity(row["severity"].(string))})
		}
	}
	slices.SortFunc(shown, func(a, b mesh.RejectedRow) int {
		return strings.Compare(fmt.Sprintf("%09d %s", a.Row, a.Column), fmt.Sprintf("%09d %s", b.Row, b.Column))
	})
	var out []string
	for _, f := range shown {
		line := fmt.Sprintf("%d %s: %s", f.Row, f.Column, f.Reason)
		if f.Severity == mesh.SeverityWarning {
			line += " (warning)"
		}
		out = append(out, line)
	}
	return out
}

// Rows gives the given columns of what the table shows, in order.
func (p *Port) Rows(columns ...string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, row := range p.tables[path.Base(p.URL)].rows {
		if row["deleted"] == true {
			continue
		}
		var cells []string
		for _, column := range columns {
			cells = append(cells, fmt.Sprint(row[column]))
		}
		out = append(out, strings.Join(cells, " "))
	}
	slices.Sort(out)
	return out
}

func (p *Port) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tables[path.Base(r.URL.Path)]
	switch {
	case p.away:
		http.Error(w, "the warehouse does not answer", http.StatusServiceUnavailable)
		return
	case t == nil:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Telemesh-Version", strconv.Itoa(t.recorded))
	w.Header().Set("Last-Row-Version", strconv.FormatInt(t.last, 10))
	out := json.NewEncoder(w)
	for _, row := range t.rows {
		if row["deleted"] == true {
			continue
		}
		shown := map[string]any{}
		for name, value := range row {
			switch name { // as columns are named, where members are not
			case "row", "column":
				name = map[string]string{"row": "row_number", "column": "column_name"}[name]
			}
			shown[name] = value
		}
		if err := out.Encode(shown); err != nil {
			return
		}
	}
}
