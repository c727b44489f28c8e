package remote

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
)

var errClosed = errors.New("warehouse is closed")

// Warehouse is a warehouse that another process serves.
type Warehouse struct {
	url    string
	client *http.Client
	token  string
	closed atomic.Bool
}

// Open gives the warehouse that Handler serves at url, reached by client (nil:
// http.DefaultClient), with the token if one is wanted. It does not connect.
func Open(url string, client *http.Client, token string) *Warehouse {
	if client == nil {
		client = http.DefaultClient
	}
	return &Warehouse{url: strings.TrimSuffix(url, "/"), client: client, token: token}
}

// Close refuses what comes after it. The warehouse itself stays open.
func (w *Warehouse) Close() error {
	w.closed.Store(true)
	return nil
}

// Apply has the warehouse make the tables, output ports and views.
func (w *Warehouse) Apply(ctx context.Context, products []contract.Product) error {
	body, err := json.Marshal(products)
	if err != nil {
		return err
	}
	return w.send(ctx, "/apply", "application/json", body)
}

// Append sends the batch, and returns when the warehouse has stored it.
func (w *Warehouse) Append(ctx context.Context, batch warehouse.Batch) (version int64, err error) {
	body, err := encodeBatch(&batch)
	if err != nil {
		return 0, err
	}
	response, err := w.do(ctx, "/append", ndjson, body)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var a appended
	text, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return 0, fmt.Errorf("append to %s: read the answer: %w", batch.Table, err)
	case json.Unmarshal(text, &a) != nil || response.StatusCode >= 300 && a.Error == "":
		return 0, fmt.Errorf("warehouse at %s answers %s: %.200q", w.url, response.Status, text)
	}
	return a.Version, a.err()
}

func (w *Warehouse) send(ctx context.Context, path, contentType string, body []byte) error {
	response, err := w.post(ctx, path, contentType, body)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// do sends a request, and gives the response.
func (w *Warehouse) do(ctx context.Context, path, contentType string, body []byte) (*http.Response, error) {
	if w.closed.Load() {
		return nil, errClosed
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", contentType)
	if w.token != "" {
		request.Header.Set("Authorization", "Bearer "+w.token)
	}
	response, err := w.client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("reach the warehouse: %w", err)
	}
	return response, nil
}

// post sends a request, and gives the response if it is a good one.
func (w *Warehouse) post(ctx context.Context, path, contentType string, body []byte) (*http.Response, error) {
	response, err := w.do(ctx, path, contentType, body)
	if err != nil || response.StatusCode < 300 {
		return response, err
	}
	defer response.Body.Close()
	var e end
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil || json.Unmarshal(text, &e) != nil || e.Error == "" {
		return nil, fmt.Errorf("warehouse at %s answers %s: %.200q", w.url, response.Status, text)
	}
	return nil, e.err()
}

// Query runs a statement there. Its columns are asked first, so that nothing
// is open while nobody reads the rows.
func (w *Warehouse) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	a, err := w.ask(ctx, "/query?columns=only", sql)
	if err != nil {
		return nil, err
	}
	a.close()
	return &warehouse.Rows{Columns: a.columns, All: func(yield func([]any, error) bool) {
		if err := w.stream(ctx, sql, yield); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			yield(nil, err)
		}
	}}, nil
}

// response is an answer whose columns are read.
type response struct {
	columns []contract.Column
	body    io.Closer
	lines   *bufio.Reader
}

func (a *response) close() { a.body.Close() }

func (w *Warehouse) ask(ctx context.Context, path, sql string) (*response, error) {
	r, err := w.post(ctx, path, "application/sql", []byte(sql))
	if err != nil {
		return nil, err
	}
	a := &response{body: r.Body, lines: bufio.NewReaderSize(r.Body, 64<<10)}
	line, err := a.lines.ReadBytes('\n')
	var first columns
	if err == nil {
		err = json.Unmarshal(line, &first)
	}
	if err != nil {
		a.close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("read the columns from the warehouse: %w", err)
	}
	a.columns = first.Columns
	return a, nil
}

func (w *Warehouse) stream(ctx context.Context, sql string, yield func([]any, error) bool) error {
	a, err := w.ask(ctx, "/query", sql)
	if err != nil {
		return err
	}
	defer a.close()
	row := make([]any, len(a.columns))
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := a.lines.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("read row %d from the warehouse: %w", n, noEnd(err))
		}
		if line[0] == '{' {
			var last end
			if err := json.Unmarshal(line, &last); err != nil {
				return fmt.Errorf("read the end of the answer from the warehouse: %w", err)
			}
			if last.Error != "" {
				return last.err()
			}
			if last.Rows == nil || *last.Rows != n {
				return fmt.Errorf("read from the warehouse: %d rows came, it says %s", n, line)
			}
			return nil
		}
		if err := decodeAnswer(line, a.columns, row); err != nil {
			return fmt.Errorf("read row %d from the warehouse: %w", n, err)
		}
		if !yield(row, nil) {
			return nil
		}
	}
}

// noEnd names the end of a body that had no end line.
func noEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
