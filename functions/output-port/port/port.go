// Package port serves an output port whole: GET / gives all rows of the table
// TABLE as NDJSON, one object per row, its members named as the columns, NULL
// left out, ordered by key.
//
// The answer has a strong ETag that changes whenever the table does, so that a
// reader that has a copy asks with If-None-Match and is answered 304 at the
// price of one small query. It is made for tables that fit into memory, such
// as placements, actions and customers; readings are for SQL.
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
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
	"github.com/telemesh/telemesh/products"
)

// Config is the configuration of the function.
type Config struct {
	Table string `envconfig:"TABLE" required:"true"` // the output port, as iot_metadata.placements
	remote.Config
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
	table, err := find(config.Table)
	if err != nil {
		return nil, err
	}
	return &function.Function{HTTP: New(table, w, ports.Log)}, nil
}

func find(name string) (*contract.Table, error) {
	list, err := contract.Load(products.FS)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range list {
		for _, t := range p.Tables {
			if t.Schema != p.Schema {
				continue
			}
			if t.FullName() == name {
				return &t, nil
			}
			names = append(names, t.FullName())
		}
	}
	return nil, fmt.Errorf("TABLE %q is no output port; there are %s", name, strings.Join(names, ", "))
}

// New serves the output port table of w.
func New(table *contract.Table, w warehouse.Warehouse, log *slog.Logger) http.Handler {
	return &port{
		warehouse: w,
		table:     table.FullName(),
		log:       log,
		tag: fmt.Sprintf("SELECT COUNT(*) AS n, MAX(%s) AS at FROM %s_internal.%s",
			contract.RecordedAt, table.Schema, table.Name),
		rows: fmt.Sprintf("SELECT * FROM %s ORDER BY %s", table.FullName(), strings.Join(table.Key, ", ")),
	}
}

type port struct {
	warehouse warehouse.Warehouse
	log       *slog.Logger
	table     string
	tag       string // what is stored behind the port only grows: its number of rows and the time of the last tell it
	rows      string

	mu   sync.Mutex // held while a copy is read: who else asks for it waits for the same one
	copy *copied
}

// copied is an answer, made once for all who ask.
type copied struct {
	tag          string
	text, zipped []byte
}

func (p *port) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/" && r.URL.Path != "":
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "an output port is read by GET", http.StatusMethodNotAllowed)
		return
	}
	header := w.Header()
	header.Set("Cache-Control", "no-cache") // keep it, but ask
	header.Set("Vary", "Accept-Encoding")
	tag, err := p.etag(r.Context())
	if err != nil {
		p.away(w, r, err)
		return
	}
	zip := acceptsGzip(r.Header.Values("Accept-Encoding"))
	// A strong tag names bytes: those of the two encodings differ.
	own := func(tag string) string {
		if zip {
			tag += "-gzip"
		}
		return `"` + tag + `"`
	}
	if matches(r.Header.Values("If-None-Match"), tag) {
		header.Set("ETag", own(tag))
		w.WriteHeader(http.StatusNotModified)
		return
	}
	c, err := p.read(r.Context(), tag)
	if err != nil {
		p.away(w, r, err)
		return
	}
	body := c.text
	if zip {
		body = c.zipped
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("ETag", own(c.tag))
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

// etag names the state of the table, without quotes.
func (p *port) etag(ctx context.Context) (string, error) {
	rows, err := p.warehouse.Query(ctx, p.tag)
	if err != nil {
		return "", err
	}
	for row, err := range rows.All {
		if err != nil {
			return "", err
		}
		n, _ := row[0].(int64)
		at, _ := row[1].(time.Time) // none: the table is empty
		return fmt.Sprintf("%x-%x", n, at.UnixMicro()), nil
	}
	return "", fmt.Errorf("%s: no answer", p.tag)
}

// read gives a copy that is not older than tag.
func (p *port) read(ctx context.Context, tag string) (*copied, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.copy != nil && p.copy.tag == tag {
		return p.copy, nil
	}
	// The tag was read before the rows: should the table grow in between, the
	// copy has an old tag and is read again, and never a new one on old rows.
	rows, err := p.warehouse.Query(ctx, p.rows)
	if err != nil {
		return nil, err
	}
	c := &copied{tag: tag}
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		if c.text, err = appendRow(c.text, rows.Columns, row); err != nil {
			return nil, err
		}
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(c.text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	c.zipped = zipped.Bytes()
	p.copy = c
	return c, nil
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

// matches says whether If-None-Match names the tag, of either encoding: who
// has the one needs not the other (RFC 9110, section 13.1.2: weak comparison).
func matches(values []string, tag string) bool {
	for _, value := range values {
		for one := range strings.SplitSeq(value, ",") {
			one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
			if one == "*" || one == `"`+tag+`"` || one == `"`+tag+`-gzip"` {
				return true
			}
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3), in which q=0
// refuses.
func acceptsGzip(values []string) bool {
	for _, value := range values {
		for one := range strings.SplitSeq(value, ",") {
			coding, parameters, _ := strings.Cut(strings.TrimSpace(one), ";")
			if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				continue
			}
			q, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(parameters, " ", "")), "q=")
			if !ok {
				return true
			}
			weight, err := strconv.ParseFloat(q, 64)
			return err == nil && weight > 0
		}
	}
	return false
}
