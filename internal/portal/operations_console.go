package portal

import (
	"bytes"
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
	consoleShown = 1000     // rows
	consoleFile  = 100_000  // rows of a CSV
	cellShown    = 2000     // bytes
	consoleLarge = 32 << 20 // bytes of a CSV, about; of a page an eighth
	// How long a statement that has to end may take to do so before it is said that it
	// was ended.
	consoleGrace = 2 * time.Second
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
	Shown   int64
	File    int64
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
// the audit log before it runs. One runs at a time: in one process with the mesh, it
// takes memory and processor from all else.
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
	select {
	case p.consoleFree <- struct{}{}:
	default:
		page := newConsole(sql)
		page.Wrong = "Another statement is running. One runs at a time: try again when it has ended."
		return p.page(w, r, v, http.StatusTooManyRequests, "operations-console", "SQL", page)
	}
	ended := func() { <-p.consoleFree }
	if err := p.record(r, v, action, "SQL console", sql); err != nil {
		ended()
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), consoleLasts)
	defer cancel()
	began := time.Now()
	answers := make(chan consoleAnswer, 1)
	go func() { // which may outlast the request: no other statement runs until it has ended
		a := p.answerConsole(ctx, v, sql, file)
		ended() // before who asked knows, and asks the next
		answers <- a
	}()
	var a consoleAnswer
	select {
	case a = <-answers:
	case <-ctx.Done():
		select {
		case a = <-answers:
		case <-time.After(consoleGrace):
			a.err = ctx.Err()
		}
	}
	switch {
	case a.err == nil && file:
		attachment(w, "answer.csv")
		w.Header().Set("Content-Type", "text/csv; charset=utf-8")
		w.Write(a.csv.Bytes()) // a client that is gone needs no answer
		return nil
	case errors.Is(a.err, access.ErrForbidden) || r.Context().Err() != nil:
		return a.err
	}
	page, status := a.page, http.StatusOK
	page.Ran, page.Took = a.err == nil, took(mesh.Instant(time.Since(began)/time.Microsecond))
	switch {
	case a.err == nil:
	case ctx.Err() != nil:
		page = newConsole(sql)
		page.Wrong, status = fmt.Sprintf("It took longer than %s.", consoleLasts), http.StatusBadRequest
	case mesh.IsPermanent(a.err):
		page.Wrong, status = a.err.Error(), http.StatusBadRequest
	default:
		return a.err
	}
	return p.page(w, r, v, status, "operations-console", "SQL", page)
}

// consoleAnswer is what came of a statement: rows for the page, or a file.
type consoleAnswer struct {
	page consolePage
	csv  bytes.Buffer
	err  error
}

func (p *Portal) answerConsole(ctx context.Context, v access.Viewer, sql string, file bool) (a consoleAnswer) {
	a.page = newConsole(sql)
	rows, err := p.counted.Whole(warehouse.WithMostBytes(ctx, p.consoleBytes), v, sql)
	switch {
	case err != nil:
		a.err = err
	case file:
		a.err = writeAnswer(&a.csv, rows)
	default:
		a.page.Columns = rows.Columns
		a.err = a.page.take(rows)
	}
	return a
}

func (c *consolePage) take(rows *warehouse.Rows) error {
	size := 0
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		if len(c.Rows) == consoleShown || size > consoleLarge/8 {
			c.More = true
			break
		}
		line := make([]consoleCell, len(row))
		for i, cell := range row {
			text := cellText(cell)
			if len(text) > cellShown {
				text = strings.ToValidUTF8(text[:cellShown], "") + "…"
			}
			size += len(text)
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

// writeAnswer writes a file, of which there is all or nothing.
func writeAnswer(w *bytes.Buffer, rows *warehouse.Rows) error {
	out := csv.NewWriter(w)
	line := make([]string, len(rows.Columns))
	for i, c := range rows.Columns {
		line[i] = inert(c.Name)
	}
	n := 0
	err := out.Write(line)
	for row, failed := range rows.All {
		if err = failed; err != nil {
			return err
		}
		if n++; n > consoleFile || w.Len() > consoleLarge {
			return mesh.Permanentf("the file has more than %d rows, or %s: ask for less", consoleFile, bytesOf(consoleLarge))
		}
		for i, cell := range row {
			line[i] = cellText(cell)
			if _, ok := cell.(string); ok {
				line[i] = inert(line[i])
			}
		}
		if err = out.Write(line); err != nil {
			return err
		}
	}
	out.Flush()
	return errors.Join(err, out.Error())
}
