// Package port serves output ports whole: GET /NAME gives all rows of a table
// that TABLES names (/placements of iot_metadata.placements) as NDJSON, one
// object per row, its members named as the columns, NULL left out, ordered by
// key. GET / lists the tables.
//
// The answer has a strong ETag that changes whenever the table does, so that a
// reader that has a copy asks with If-None-Match and is answered 304 at the
// price of one small query. Its header says what exactly these rows show: the
// version of the table (Telemesh-Version), and where rows have a version the
// highest one that was recorded (Last-Row-Version). It is made for tables that
// fit into memory, such as placements, actions and customers; readings are for
// SQL.
//
// The descriptor of the product and its contracts are at /.well-known/data-product
// (internal/wellknown).
//
// While the warehouse is away the answer is 503 with Retry-After; a copy that
// is cut off is never served.
package port

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/etag"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
	"github.com/telemesh/telemesh/internal/wellknown"
)

// Config is the configuration of the function.
type Config struct {
	Tables []string `envconfig:"TABLES" required:"true"` // output ports, as iot_metadata.placements
	connect.Config
}

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	config, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	w, err := config.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	list, err := config.Contracts()
	if err != nil {
		return nil, err
	}
	tables, err := find(list, config.Tables)
	if err != nil {
		return nil, err
	}
	handler, err := withDocuments(New(tables, w, ports.Log), config.Folder(), list, tables)
	if err != nil {
		return nil, err
	}
	return &function.Function{HTTP: handler}, nil
}

// withDocuments serves the descriptor and the contracts of the product beside its
// tables. Where they are of several products it serves those of none.
func withDocuments(tables http.Handler, folder fs.FS, list []contract.Product, served []contract.Table) (http.Handler, error) {
	at := slices.IndexFunc(list, func(p contract.Product) bool { return p.Schema == served[0].Schema })
	if slices.ContainsFunc(served, func(t contract.Table) bool { return t.Schema != served[0].Schema }) {
		return tables, nil
	}
	documents, err := wellknown.New(folder, &list[at])
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", tables)
	mux.HandleFunc("GET "+wellknown.Path, documents.Descriptor)
	mux.HandleFunc("GET "+wellknown.ContractsPath+"{table}", func(w http.ResponseWriter, r *http.Request) {
		if !documents.Contract(w, r, r.PathValue("table")) {
			http.Error(w, "the product has no contract of that table; its descriptor names them in Link", http.StatusNotFound)
		}
	})
	return mux, nil
}

func find(list []contract.Product, wanted []string) (tables []contract.Table, err error) {
	byName := map[string]contract.Table{}
	for _, p := range list {
		for _, t := range p.Tables {
			if t.Schema == p.Schema {
				byName[t.FullName()] = t
			}
		}
	}
	for _, name := range wanted {
		name = strings.TrimSpace(name)
		t, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("TABLES: %q is no output port; there are %s", name, strings.Join(slices.Sorted(maps.Keys(byName)), ", "))
		}
		if slices.ContainsFunc(tables, func(other contract.Table) bool { return other.Name == t.Name }) {
			return nil, fmt.Errorf("TABLES: two tables would be served at /%s: give %s a Service of its own", t.Name, name)
		}
		tables = append(tables, t)
	}
	if len(tables) == 0 {
		return nil, fmt.Errorf("TABLES names no output port; there are %s", strings.Join(slices.Sorted(maps.Keys(byName)), ", "))
	}
	return tables, nil
}

// New serves the output ports of w.
func New(tables []contract.Table, w warehouse.Warehouse, log *slog.Logger) http.Handler {
	s := &service{ports: map[string]*port{}}
	for _, t := range tables {
		internal := t.Schema + "_internal." + t.Name
		last := "0"
		versioned := slices.ContainsFunc(t.Columns, func(c contract.Column) bool { return c.Name == contract.Version })
		if versioned {
			last = "MAX(" + contract.Version + ")"
		}
		state := fmt.Sprintf("COUNT(*) AS n, MAX(%s) AS last_at, %s AS last FROM %s", contract.RecordedAt, last, internal)
		names := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			names[i] = c.Name
		}
		s.ports["/"+t.Name] = &port{
			warehouse: w,
			table:     t.FullName(),
			log:       log,
			state:     "SELECT " + state,
			// BigQuery has no outer join without an equality of fields of both sides.
			rows: fmt.Sprintf("SELECT s.n, s.last_at, s.last, r.one AS shown, r.%[1]s "+
				"FROM (SELECT 1 AS one, %[2]s) AS s LEFT JOIN (SELECT 1 AS one, %[3]s FROM %[4]s) AS r ON r.one = s.one ORDER BY r.%[5]s",
				strings.Join(names, ", r."), state, strings.Join(names, ", "), t.FullName(), strings.Join(t.Key, ", r.")),
			versioned: versioned,
		}
		s.list = append(s.list, fmt.Sprintf(`{"path":"/%s","table":%q}`, t.Name, t.FullName()))
	}
	return s
}

// service serves several ports by their paths.
type service struct {
	ports map[string]*port
	list  []string
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, ok := s.ports[r.URL.Path]
	root := r.URL.Path == "/" || r.URL.Path == ""
	switch {
	case !ok && !root:
		http.Error(w, fmt.Sprintf("no output port at %s; there are %s", r.URL.Path, strings.Join(slices.Sorted(maps.Keys(s.ports)), ", ")), http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "an output port is read by GET", http.StatusMethodNotAllowed)
	case root:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "{\"tables\":[%s]}\n", strings.Join(s.list, ","))
	default:
		p.ServeHTTP(w, r)
	}
}

type port struct {
	warehouse warehouse.Warehouse
	log       *slog.Logger
	table     string
	state     string // gives a state
	rows      string
	versioned bool // rows have a version

	mu   sync.Mutex // held while a copy is read: who else asks for it waits for the same one
	copy *copied
}

// state tells what is recorded in a table. It only grows: the number of rows
// and the time of the last one name it.
type state struct {
	n, at int64 // rows, µs
	last  int64 // highest version of a row
}

func (s state) tag() string { return fmt.Sprintf("%x-%x", s.n, s.at) }

// copied is an answer, made once for all who ask.
type copied struct {
	state        state
	text, zipped []byte
}

func (p *port) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now, err := p.now(r.Context())
	if err != nil {
		p.away(w, r, err)
		return
	}
	c := &copied{state: now}
	if !etag.Matches(r, now.tag()) {
		if c, err = p.read(r.Context(), now); err != nil {
			p.away(w, r, err)
			return
		}
	}
	header := w.Header()
	header.Set(snapshot.VersionHeader, strconv.FormatInt(c.state.n, 10))
	if p.versioned {
		header.Set(snapshot.LastRowHeader, strconv.FormatInt(c.state.last, 10))
	}
	zip, done := etag.Answer(w, r, c.state.tag())
	if done {
		return
	}
	body := c.text
	if zip {
		body = c.zipped
	}
	header.Set("Content-Type", "application/x-ndjson")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		w.Write(body) // who does not read it to its end sees that by the length
	}
}

func (p *port) away(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody is there to answer
	}
	p.log.ErrorContext(r.Context(), "read output port", "table", p.table, "error", err)
	w.Header().Set("Retry-After", "1")
	http.Error(w, "the warehouse does not answer", http.StatusServiceUnavailable)
}

// now asks for the state of the table.
func (p *port) now(ctx context.Context) (state, error) {
	rows, err := p.warehouse.Query(ctx, p.state)
	if err != nil {
		return state{}, err
	}
	for row, err := range rows.All {
		if err != nil {
			return state{}, err
		}
		return stateOf(row), nil
	}
	return state{}, fmt.Errorf("%s: no answer", p.state)
}

// stateColumns is how many columns a state has. Behind them come what is NULL if
// the port shows no row, and the row.
const stateColumns = 3

func stateOf(row []any) (s state) {
	s.n, _ = row[0].(int64)
	if at, ok := row[1].(time.Time); ok { // none: the table is empty
		s.at = at.UnixMicro()
	}
	s.last, _ = row[2].(int64)
	return s
}

// read gives a copy that is not older than a state.
func (p *port) read(ctx context.Context, now state) (*copied, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.copy != nil && p.copy.state == now {
		return p.copy, nil
	}
	text, state, err := p.all(ctx, now)
	if err != nil {
		return nil, err
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	p.copy = &copied{state, text, zipped.Bytes()}
	return p.copy, nil
}

// all reads the rows, with the state that they are of: who has a copy acts on
// what was recorded after its version, and on nothing else. One statement reads
// both.
func (p *port) all(ctx context.Context, now state) (text []byte, of state, err error) {
	rows, err := p.warehouse.Query(ctx, p.rows)
	if err != nil {
		return nil, now, err
	}
	of = now
	for row, err := range rows.All {
		if err != nil {
			return nil, of, err
		}
		of = stateOf(row)
		if row[stateColumns] == nil { // the port shows nothing
			break
		}
		if text, err = appendRow(text, rows.Columns[stateColumns+1:], row[stateColumns+1:]); err != nil {
			return nil, of, err
		}
	}
	return text, of, nil
}

func appendRow(b []byte, columns []contract.Column, row []any) ([]byte, error) {
	b = append(b, '{')
	first := true
	for i, column := range columns {
		if row[i] == nil {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(strconv.AppendQuote(b, column.Name), ':')
		switch v := row[i].(type) {
		case time.Time:
			b = append(mesh.At(v).AppendText(append(b, '"')), '"')
		case string:
			if column.Type == contract.JSON {
				b = append(b, v...)
				continue
			}
			text, err := json.Marshal(v)
			if err != nil {
				return nil, err
			}
			b = append(b, text...)
		default:
			text, err := json.Marshal(v)
			if err != nil {
				return nil, fmt.Errorf("column %s: %w", column.Name, err)
			}
			b = append(b, text...)
		}
	}
	return append(b, "}\n"...), nil
}
