package portal

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

const (
	consoleLasts = 30 * time.Second
	consoleShown = 1000    // rows
	consoleFile  = 100_000 // rows of a CSV
	cellShown    = 2000    // bytes
	statementMax = audit.MaxDetail
)

type consolePage struct {
	SQL     string
	Wrong   string
	Ran     bool
	Columns []contract.Column
	Rows    [][]consoleCell
	More    bool
	Took    string
	Tables  []string
	Shown   int
	File    int
	Seconds int
}

type consoleCell struct {
	Text   string
	Number bool
	Null   bool
}

func newConsole(sql string) consolePage {
	return consolePage{SQL: sql, Shown: consoleShown, File: consoleFile, Seconds: int(consoleLasts.Seconds())}
}

func (p *Portal) console(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	page := newConsole("SELECT tenant_id, metric, COUNT(*) AS readings, MAX(observed_at) AS latest\nFROM iot_analytics.readings\nGROUP BY tenant_id, metric\nORDER BY tenant_id, metric")
	return p.page(w, r, v, http.StatusOK, "operations-console", "SQL", page)
}

// runConsole runs a statement that only reads: the warehouse refuses any other. It is in
// the audit log before it runs.
func (p *Portal) runConsole(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	r.Body = http.MaxBytesReader(w, r.Body, 4*statementMax)
	if err := r.ParseForm(); err != nil {
		return badRequest(err.Error())
	}
	sql, file := strings.ReplaceAll(r.PostForm.Get("sql"), "\r\n", "\n"), r.PostForm.Get("format") == "csv"
	switch {
	case strings.TrimSpace(sql) == "":
		return badRequest("there is no statement")
	case len(sql) > statementMax:
		return badRequest(fmt.Sprintf("a statement of %d bytes: %d are the most", len(sql), statementMax))
	}
	action := audit.Query
	if file {
		action = audit.Export
	}
	if err := p.record(r, v, action, "SQL console", sql); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), consoleLasts)
	defer cancel()
	began := time.Now()
	page := newConsole(sql)
	rows, err := p.data.Whole(ctx, v, sql)
	if err == nil && file {
		return p.consoleCSV(w, rows)
	}
	if err == nil {
		page.Columns = rows.Columns
		err = page.take(rows)
	}
	page.Ran, page.Took = err == nil, took(mesh.Instant(time.Since(began)/time.Microsecond))
	status := http.StatusOK
	switch {
	case err == nil:
	case errors.Is(err, access.ErrForbidden) || r.Context().Err() != nil:
		return err
	case ctx.Err() != nil:
		page.Wrong, status = fmt.Sprintf("It took longer than %s.", consoleLasts), http.StatusBadRequest
	case mesh.IsPermanent(err):
		page.Wrong, status = err.Error(), http.StatusBadRequest
	default:
		return err
	}
	return p.page(w, r, v, status, "operations-console", "SQL", page)
}

func (c *consolePage) take(rows *warehouse.Rows) error {
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		if len(c.Rows) == consoleShown {
			c.More = true
			break
		}
		line := make([]consoleCell, len(row))
		for i, cell := range row {
			text := cellText(cell)
			if len(text) > cellShown {
				text = strings.ToValidUTF8(text[:cellShown], "") + "…"
			}
			t := c.Columns[i].Type
			line[i] = consoleCell{Text: text, Number: t == contract.Int64 || t == contract.Float64, Null: cell == nil}
		}
		c.Rows = append(c.Rows, line)
	}
	return nil
}

// cellText is a cell as a person or a CSV file reads it.
func cellText(cell any) string {
	switch v := cell.(type) {
	case nil:
		return ""
	case time.Time:
		return mesh.At(v).String()
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return fmt.Sprint(v)
		}
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return fmt.Sprint(cell)
}

// consoleCSV answers with a file. What fails once it has begun breaks it off, so that
// nobody takes a part for the whole.
func (p *Portal) consoleCSV(w http.ResponseWriter, rows *warehouse.Rows) error {
	out := csv.NewWriter(w)
	header := make([]string, len(rows.Columns))
	for i, c := range rows.Columns {
		header[i] = c.Name
	}
	n := 0
	line := make([]string, len(header))
	for row, err := range rows.All {
		if err != nil && n == 0 {
			if mesh.IsPermanent(err) {
				return badRequest(err.Error())
			}
			return err
		}
		if err == nil && n == consoleFile {
			err = fmt.Errorf("more than %d rows", consoleFile)
		}
		if err != nil {
			p.log.Warn("CSV broken off", "error", err)
			panic(http.ErrAbortHandler)
		}
		if n++; n == 1 {
			p.beginCSV(w, out, header)
		}
		for i, cell := range row {
			line[i] = cellText(cell)
		}
		if out.Write(line) != nil {
			return nil // nobody is there
		}
	}
	if n == 0 {
		p.beginCSV(w, out, header)
	}
	out.Flush()
	return nil
}

func (p *Portal) beginCSV(w http.ResponseWriter, out *csv.Writer, header []string) {
	attachment(w, "answer.csv")
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	out.Write(header) // what it returns, the next Write returns
}
