package bigquery

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/civil"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Query runs one statement that only reads: a query, since nothing else can
// stand in the parentheses of a WITH. That is asked of BigQuery by a dry run,
// which is not billed and tells the columns.
//
// Nothing passes by closing the parenthesis early. It would take a first
// statement with one parenthesis too many, with which BigQuery does not run it;
// and where the parentheses of a statement match, a semicolon behind it stands
// inside the one around it. Strings and comments cannot hide any of this: the
// statement begins on a line of its own, so that it is read alike alone and in
// parentheses, and one that is not closed swallows the closing parenthesis.
func (w *Warehouse) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	if err := w.use(); err != nil {
		return nil, err
	}
	defer w.users.Done()
	sql = trim(sql)
	columns, err := w.columns(ctx, sql)
	if err != nil {
		return nil, err
	}
	return &warehouse.Rows{Columns: columns, All: func(yield func([]any, error) bool) {
		if err := w.stream(ctx, sql, yield); err != nil {
			yield(nil, err)
		}
	}}, nil
}

// columns gives the columns of the answer to a statement that only reads.
func (w *Warehouse) columns(ctx context.Context, sql string) ([]contract.Column, error) {
	ctx, cancel := w.whileOpen(ctx)
	defer cancel()
	q := w.newQuery("WITH answer AS (\n" + sql + "\n) SELECT * FROM answer LIMIT 0")
	q.DryRun = true
	job, err := q.Run(ctx)
	if err == nil {
		err = job.LastStatus().Err()
	}
	if err != nil {
		return nil, failed(ctx, fmt.Errorf("query (its first line counts as line 2): %w", err))
	}
	statistics, ok := job.LastStatus().Statistics.Details.(*bigquery.QueryStatistics)
	if !ok || statistics.StatementType != "SELECT" {
		return nil, mesh.Permanentf("query: the statement does more than read; only one query runs here")
	}
	columns := make([]contract.Column, len(statistics.Schema))
	for i, field := range statistics.Schema {
		columns[i] = contract.Column{Name: field.Name, Type: typeOf(field)}
	}
	return columns, nil
}

// stream runs a statement in a job that has a name from the start, so that it
// can be stopped; jobs.query is one request less but names its job after ten
// seconds. Its rows come by pages of the REST API: the Storage Read API is
// faster for answers of many MB, which are files' business and not a query's.
func (w *Warehouse) stream(ctx context.Context, sql string, yield func([]any, error) bool) error {
	if err := w.use(); err != nil {
		return err
	}
	defer w.users.Done()
	ctx, cancel := w.whileOpen(ctx)
	defer cancel()
	q := w.newQuery(sql)
	q.MaxBytesBilled = warehouse.MostBytes(ctx)
	q.JobID = "telemesh-" + rand.Text()
	job, err := q.Run(ctx)
	if reason(err) == "duplicate" { // the answer to an earlier try was lost
		job, err = w.client.JobFromID(ctx, q.JobID)
	}
	var rows *bigquery.RowIterator
	if err == nil {
		rows, err = job.Read(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			w.stop(ctx, q.JobID)
		}
		return failed(ctx, fmt.Errorf("query: %w", err))
	}
	var values []bigquery.Value
	var row []any
	for {
		switch err := rows.Next(&values); {
		case errors.Is(err, iterator.Done):
			return nil
		case err != nil:
			return failed(ctx, fmt.Errorf("query: %w", err))
		}
		// A page is at hand also when nobody wants it any more.
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		row = row[:0]
		for i, value := range values {
			cell, err := cellOf(value, rows.Schema[i])
			if err != nil {
				return mesh.Permanentf("query: column %s: %w", rows.Schema[i].Name, err)
			}
			row = append(row, cell)
		}
		if !yield(row, nil) {
			return nil
		}
	}
}

func (w *Warehouse) newQuery(sql string) *bigquery.Query {
	q := w.client.Query(sql)
	q.Labels = map[string]string{"telemesh": "query"} // so that bills show what queries cost
	return q
}

// whileOpen gives a context that ends with the warehouse, too.
func (w *Warehouse) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(w.ctx, func() { cancel(errClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// stop ends a job that nobody waits for. If it cannot, the job runs to its end.
func (w *Warehouse) stop(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if job, err := w.client.JobFromID(ctx, id); err == nil {
		job.Cancel(ctx)
	}
}

// fault are the reasons that say that a statement will fail again. What is not
// found is not among them: telemesh apply may be about to make it.
//
// https://cloud.google.com/bigquery/docs/error-messages
var fault = []string{"invalid", "invalidQuery", "badRequest", "resourcesExceeded", "responseTooLarge", "billingTierLimitExceeded", "bytesBilledLimitExceeded"}

// failed gives the error of a query: why it was ended if it was, and Permanent if
// it is the statement's fault.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if slices.Contains(fault, reason(err)) {
		return mesh.Permanent(err)
	}
	return hint(err)
}

// reason is the word that BigQuery has for an error; empty: none.
func reason(err error) string {
	if e, ok := errors.AsType[*bigquery.Error](err); ok {
		return e.Reason
	}
	if e, ok := errors.AsType[*googleapi.Error](err); ok && len(e.Errors) > 0 && e.Code < http.StatusInternalServerError {
		return e.Errors[0].Reason
	}
	return ""
}

// typeOf is the nearest type that a cell can have.
func typeOf(field *bigquery.FieldSchema) contract.Type {
	if field.Repeated {
		return contract.JSON
	}
	switch field.Type {
	case bigquery.FloatFieldType, bigquery.NumericFieldType, bigquery.BigNumericFieldType:
		return contract.Float64
	case bigquery.IntegerFieldType:
		return contract.Int64
	case bigquery.BooleanFieldType:
		return contract.Bool
	case bigquery.TimestampFieldType:
		return contract.Timestamp
	case bigquery.JSONFieldType, bigquery.RecordFieldType, bigquery.RangeFieldType:
		return contract.JSON
	}
	return contract.String
}

// cellOf gives a value as warehouse.Rows has it.
func cellOf(value bigquery.Value, field *bigquery.FieldSchema) (any, error) {
	if value == nil {
		return nil, nil
	}
	if typeOf(field) == contract.JSON && (field.Repeated || field.Type != bigquery.JSONFieldType) {
		b, err := appendJSON(nil, value, field)
		return string(b), err
	}
	switch v := value.(type) {
	case string, float64, int64, bool:
		return v, nil
	case time.Time:
		return v.UTC(), nil
	case *big.Rat:
		f, _ := v.Float64() // the nearest
		return f, nil
	case []byte:
		return base64.StdEncoding.EncodeToString(v), nil
	case civil.DateTime:
		return bigquery.CivilDateTimeString(v), nil
	case civil.Time:
		return bigquery.CivilTimeString(v), nil
	case fmt.Stringer: // civil.Date, *bigquery.IntervalValue
		return v.String(), nil
	}
	return nil, fmt.Errorf("a %s came as %T", field.Type, value)
}

// appendJSON writes arrays, structs and ranges and what is in them.
func appendJSON(dst []byte, value bigquery.Value, field *bigquery.FieldSchema) ([]byte, error) {
	if value == nil {
		return append(dst, "null"...), nil
	}
	if field.Repeated {
		values, ok := value.([]bigquery.Value)
		if !ok {
			return nil, fmt.Errorf("an array of %s came as %T", field.Type, value)
		}
		element := *field
		element.Repeated = false
		return appendList(dst, '[', ']', values, func(dst []byte, i int) ([]byte, error) { return appendJSON(dst, values[i], &element) })
	}
	switch field.Type {
	case bigquery.RecordFieldType:
		values, ok := value.([]bigquery.Value)
		if !ok || len(values) != len(field.Schema) {
			return nil, fmt.Errorf("a struct of %d fields came as %v", len(field.Schema), value)
		}
		return appendList(dst, '{', '}', values, func(dst []byte, i int) ([]byte, error) {
			return appendJSON(appendText(dst, field.Schema[i].Name, ':'), values[i], field.Schema[i])
		})
	case bigquery.RangeFieldType:
		r, ok := value.(*bigquery.RangeValue)
		if !ok || field.RangeElementType == nil {
			return nil, fmt.Errorf("a range came as %T", value)
		}
		ends := []bigquery.Value{r.Start, r.End}
		element := &bigquery.FieldSchema{Type: field.RangeElementType.Type}
		return appendList(dst, '{', '}', ends, func(dst []byte, i int) ([]byte, error) {
			return appendJSON(appendText(dst, [...]string{"start", "end"}[i], ':'), ends[i], element)
		})
	}
	cell, err := cellOf(value, field)
	if err != nil {
		return nil, err
	}
	switch v := cell.(type) {
	case string:
		if field.Type == bigquery.JSONFieldType {
			return append(dst, v...), nil
		}
		return appendText(dst, v), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case time.Time:
		return appendText(dst, v.Format(time.RFC3339Nano)), nil
	case float64:
		if rat, ok := value.(*big.Rat); ok {
			return append(dst, strings.TrimRight(strings.TrimRight(rat.FloatString(38), "0"), ".")...), nil
		}
		if b, err := json.Marshal(v); err == nil {
			return append(dst, b...), nil
		}
		return appendText(dst, strconv.FormatFloat(v, 'g', -1, 64)), nil // NaN and infinities
	}
	return nil, fmt.Errorf("a %s came as %T", field.Type, value)
}

func appendList(dst []byte, open, closing byte, values []bigquery.Value, add func([]byte, int) ([]byte, error)) (_ []byte, err error) {
	dst = append(dst, open)
	for i := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = add(dst, i); err != nil {
			return nil, err
		}
	}
	return append(dst, closing), nil
}

func appendText(dst []byte, text string, after ...byte) []byte {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // every string can be written
	}
	return append(append(dst, b...), after...)
}

// trim drops what ends a statement: semicolons that nothing but comments follow.
// Others are left for BigQuery to refuse.
//
// https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical
func trim(sql string) string {
	end := -1 // of the statement
	for i := 0; i < len(sql); {
		rest := sql[i:]
		n := 1
		switch {
		case strings.HasPrefix(rest, "--"), rest[0] == '#':
			n = until(rest, "\n", 1)
		case strings.HasPrefix(rest, "/*"):
			n = until(rest, "*/", 2)
		case strings.HasPrefix(rest, `"""`), strings.HasPrefix(rest, "'''"):
			n, end = quoted(rest, rest[:3]), -1
		case rest[0] == '"', rest[0] == '\'', rest[0] == '`':
			n, end = quoted(rest, rest[:1]), -1
		case rest[0] == ';':
			if end < 0 {
				end = i
			}
		case strings.IndexByte(" \t\r\n\f\v", rest[0]) < 0:
			end = -1
		}
		i += n
	}
	if end < 0 {
		return sql
	}
	return sql[:end]
}

// until is how long text is up to the end of mark, which is looked for from a
// byte on.
func until(text, mark string, from int) int {
	if i := strings.Index(text[from:], mark); i >= 0 {
		return from + i + len(mark)
	}
	return len(text)
}

// quoted is how long the literal is that text begins with. A backslash keeps the
// byte behind it from ending it, in raw strings too.
func quoted(text, quote string) int {
	for i := len(quote); i < len(text); i++ {
		switch {
		case text[i] == '\\':
			i++
		case strings.HasPrefix(text[i:], quote):
			return i + len(quote)
		}
	}
	return len(text)
}
