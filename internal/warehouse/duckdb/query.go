package duckdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	duck "github.com/duckdb/duckdb-go-bindings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Query runs one statement that only reads, on a connection of its own and in
// a transaction that DuckDB keeps from writing.
func (d *DB) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	if err := d.use(); err != nil {
		return nil, err
	}
	defer d.users.Done()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	q, err := d.prepare(ctx, sql)
	if err != nil {
		return nil, err
	}
	defer q.close()
	return &warehouse.Rows{Columns: q.columns, All: func(yield func([]any, error) bool) {
		if err := d.stream(ctx, sql, yield); err != nil {
			yield(nil, err)
		}
	}}, nil
}

func (d *DB) stream(ctx context.Context, sql string, yield func([]any, error) bool) error {
	if err := d.use(); err != nil {
		return err
	}
	defer d.users.Done()
	q, err := d.prepare(ctx, sql)
	if err != nil {
		return err
	}
	defer q.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(errClosed) })()
	if err := q.run(ctx, yield); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

// query is a prepared statement in its own transaction.
type query struct {
	conn      conn
	statement duck.PreparedStatement
	columns   []contract.Column
}

func (q *query) close() {
	duck.DestroyPrepare(&q.statement)
	q.conn.close() // ends the transaction
}

func (d *DB) prepare(ctx context.Context, sql string) (_ *query, err error) {
	if strings.IndexByte(sql, 0) >= 0 {
		return nil, mesh.Permanentf("query: the statement contains a NUL")
	}
	q := &query{}
	if q.conn, err = d.connect(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			q.close()
		}
	}()
	if err := q.conn.exec("BEGIN TRANSACTION READ ONLY"); err != nil {
		return nil, err
	}
	defer q.interrupt(ctx)() // what is constant in a statement is computed here
	if err := q.prepare(sql); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, mesh.Permanent(err)
	}
	asIs, list := true, make([]string, 0, 16)
	for i := range duck.PreparedStatementColumnCount(q.statement) {
		column, cast := q.column(i)
		q.columns = append(q.columns, column)
		asIs = asIs && cast == ""
		list = append(list, fmt.Sprintf(castOf(cast), fmt.Sprintf("c%d", i)))
	}
	if asIs {
		return q, nil
	}
	// Types that no Cell has are cast around the statement, whose columns may
	// have no name or the same one twice.
	duck.DestroyPrepare(&q.statement)
	var aliases []string
	for i := range list {
		aliases = append(aliases, fmt.Sprintf("c%d", i))
	}
	cast := fmt.Sprintf("SELECT %s FROM (%s\n) AS answer(%s)", strings.Join(list, ", "), q.trim(sql), strings.Join(aliases, ", "))
	if err := q.prepare(cast); err != nil {
		return nil, mesh.Permanentf("query: the answer has columns of types that have to be cast: %w", err)
	}
	return q, nil
}

// prepare prepares the one statement of sql if it reads. The transaction, too,
// allows nothing else; but what is refused here is told in better words.
func (q *query) prepare(sql string) error {
	var statements duck.ExtractedStatements
	n := duck.ExtractStatements(q.conn.c, sql, &statements)
	defer duck.DestroyExtracted(&statements)
	if n != 1 {
		if message := duck.ExtractStatementsError(statements); message != "" {
			return errors.New(message)
		}
		return fmt.Errorf("query: %d statements, want one", n)
	}
	if duck.PrepareExtractedStatement(q.conn.c, statements, 0, &q.statement) == duck.StateError {
		return errors.New(duck.PrepareError(q.statement))
	}
	switch duck.PreparedStatementType(q.statement) {
	case duck.StatementTypeSelect, duck.StatementTypeExplain:
		return nil
	}
	return errors.New("query: the statement does more than read; only SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN run here")
}

// trim drops what ends a statement, so that it can stand in parentheses: the
// first semicolon that nothing but semicolons and comments follow.
func (q *query) trim(sql string) string {
	for at := range len(sql) {
		if sql[at] != ';' {
			continue
		}
		var statements duck.ExtractedStatements
		n := duck.ExtractStatements(q.conn.c, sql[at+1:], &statements)
		nothing := n == 0 && duck.ExtractStatementsError(statements) == ""
		duck.DestroyExtracted(&statements)
		if nothing {
			return sql[:at]
		}
	}
	return sql
}

// column gives a column of the answer, and the type it must be cast to: none,
// a type, or JSON.
func (q *query) column(i duck.IdxT) (c contract.Column, cast string) {
	c.Name = duck.PreparedStatementColumnName(q.statement, i)
	logical := duck.PreparedStatementColumnLogicalType(q.statement, i)
	defer duck.DestroyLogicalType(&logical)
	switch duck.GetTypeId(logical) {
	case duck.TypeBoolean:
		c.Type = contract.Bool
	case duck.TypeBigInt:
		c.Type = contract.Int64
	case duck.TypeTinyInt, duck.TypeSmallInt, duck.TypeInteger, duck.TypeUTinyInt, duck.TypeUSmallInt, duck.TypeUInteger,
		duck.TypeUBigInt, duck.TypeHugeInt, duck.TypeUHugeInt:
		c.Type, cast = contract.Int64, "BIGINT"
	case duck.TypeDouble:
		c.Type = contract.Float64
	case duck.TypeFloat, duck.TypeDecimal:
		c.Type, cast = contract.Float64, "DOUBLE"
	case duck.TypeTimestamp:
		c.Type = contract.Timestamp
	case duck.TypeTimestampTZ, duck.TypeTimestampS, duck.TypeTimestampMS, duck.TypeTimestampNS:
		c.Type, cast = contract.Timestamp, "TIMESTAMP"
	case duck.TypeVarchar:
		c.Type = contract.String
		if duck.LogicalTypeGetAlias(logical) == "JSON" {
			c.Type = contract.JSON
		}
	case duck.TypeList, duck.TypeStruct, duck.TypeMap, duck.TypeArray, duck.TypeUnion:
		c.Type, cast = contract.JSON, "JSON"
	default:
		c.Type, cast = contract.String, "VARCHAR"
	}
	return c, cast
}

func castOf(to string) string {
	switch to {
	case "":
		return "%s"
	case "JSON":
		return "to_json(%s)"
	}
	return "CAST(%s AS " + to + ")"
}

// run runs the statement until its end, an error, ctx is done or yield returns
// false.
func (q *query) run(ctx context.Context, yield func([]any, error) bool) error {
	var pending duck.PendingResult
	defer duck.DestroyPending(&pending)
	if duck.PendingPreparedStreaming(q.statement, &pending) == duck.StateError {
		return mesh.Permanentf("%s", duck.PendingError(pending))
	}
	defer q.interrupt(ctx)()
	var result duck.Result
	defer duck.DestroyResult(&result)
	if duck.ExecutePending(pending, &result) == duck.StateError {
		return q.failed(&result)
	}
	row := make([]any, len(q.columns))
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := duck.FetchChunk(result)
		if chunk.Ptr == nil {
			if duck.ResultError(&result) != "" {
				return q.failed(&result)
			}
			return nil
		}
		more, err := give(chunk, row, yield)
		if err != nil || !more {
			return err
		}
	}
}

// interrupt makes DuckDB end what the connection does when ctx is done. The
// caller calls the function it returns before it closes the connection.
func (q *query) interrupt(ctx context.Context) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		// DuckDB forgets an interrupt that comes between two steps of a query.
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for {
			duck.Interrupt(q.conn.c)
			select {
			case <-done:
				return
			case <-again.C:
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// failed gives the error of a result: Permanent unless the same statement may
// run the next time.
func (q *query) failed(result *duck.Result) error {
	err := errors.New(duck.ResultError(result))
	switch duck.ResultErrorType(result) {
	case duck.ErrorTypeErrorIO, duck.ErrorTypeOutOfMemory, duck.ErrorTypeInterrupt, duck.ErrorTypeInternal,
		duck.ErrorTypeFatal, duck.ErrorTypeConnection, duck.ErrorTypeTransaction:
		return err
	}
	return mesh.Permanent(err)
}

// maxText bounds a text of an answer, far beyond what is stored: DuckDB makes texts of
// 4 GB, of which each reader would have a copy.
const maxText = 64 << 20

// give yields the rows of a chunk, and destroys it.
func give(chunk duck.DataChunk, row []any, yield func([]any, error) bool) (more bool, err error) {
	defer duck.DestroyDataChunk(&chunk)
	columns, err := columnsOf(chunk)
	if err != nil {
		return false, err
	}
	for i := range int(duck.DataChunkGetSize(chunk)) {
		for j := range columns {
			cell := columns[j].cell(i)
			switch cell.Kind() {
			case warehouse.NullKind:
				row[j] = nil
			case warehouse.BoolKind:
				row[j] = cell.Bool()
			case warehouse.IntKind:
				row[j] = cell.Int()
			case warehouse.FloatKind:
				row[j] = cell.Float()
			case warehouse.InstantKind:
				row[j] = cell.Instant().Time()
			case warehouse.StringKind:
				if n := len(cell.Text()); n > maxText {
					return false, mesh.Permanentf("query: a text of %d bytes: %d are the most", n, maxText)
				}
				row[j] = strings.Clone(cell.Text())
			}
		}
		if !yield(row, nil) {
			return false, nil
		}
	}
	return true, nil
}
