package bigquery

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// maxBatches is how many batches one transaction records: naming them takes
// 36 kB of the 1 MB that a statement may have.
const maxBatches = 1000

// recorder copies the batches of an ordered table from where they were appended
// into the log, in one transaction for all that wait while another one runs.
//
// Transactions of several processes take turns by the row of
// schema.RecordedTables that each of them changes first: of two that change a
// table at the same time BigQuery cancels one, which is tried again. INSERTs
// alone it would let run side by side. A script that fails before its COMMIT
// changes nothing.
//
// https://cloud.google.com/bigquery/docs/transactions#transaction_concurrency
type recorder struct {
	w       *Warehouse
	table   *table
	turn    bool // the row of schema.RecordedTables is there
	waiting chan *staged
	done    chan struct{}
}

// staged is a batch that is, or will be, where batches wait to be recorded.
type staged struct {
	ctx    context.Context // of who waits for it
	batch  string
	at     mesh.Instant // when it was appended
	answer chan error
}

func newRecorder(w *Warehouse, t *table) *recorder {
	r := &recorder{w: w, table: t, waiting: make(chan *staged), done: make(chan struct{})}
	go r.run()
	return r
}

func (r *recorder) close() {
	close(r.waiting)
	<-r.done
}

// stage names a batch. No recorder needs no name.
func (r *recorder) stage(ctx context.Context, at mesh.Instant) *staged {
	if r == nil {
		return nil
	}
	var id [16]byte
	rand.Read(id[:])
	return &staged{ctx: ctx, batch: hex.EncodeToString(id[:]), at: at, answer: make(chan error, 1)}
}

// record returns when the rows of a batch that was appended are recorded.
func (r *recorder) record(ctx context.Context, s *staged) error {
	select {
	case r.waiting <- s:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-s.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is the goroutine that records.
func (r *recorder) run() {
	defer close(r.done)
	for s := range r.waiting {
		group := []*staged{s}
	waiting:
		for len(group) < maxBatches {
			select {
			case s, ok := <-r.waiting:
				if !ok {
					break waiting
				}
				group = append(group, s)
			default:
				break waiting
			}
		}
		group = slices.DeleteFunc(group, func(s *staged) bool {
			err := s.ctx.Err()
			if err != nil {
				s.answer <- err
			}
			return err != nil
		})
		if len(group) == 0 {
			continue
		}
		err := r.store(group)
		for _, s := range group {
			s.answer <- err
		}
	}
}

// store records the batches of a group. It may be done several times: rows
// that are there say the same as those that would be.
func (r *recorder) store(group []*staged) error {
	if err := r.takeTurns(); err != nil {
		return err
	}
	script := r.script(group)
	// A script that is given up goes on, and would be in the way of the next one.
	return r.w.again(r.w.link.patience, func(ctx context.Context) error {
		_, err := r.w.run(ctx, script)
		return err
	})
}

// takeTurns makes the row that transactions take turns by, if it is missing. Of
// two processes that do so at once each may make one; a transaction changes
// both.
func (r *recorder) takeTurns() error {
	if r.turn {
		return nil
	}
	err := r.w.again(r.w.link.patience, func(ctx context.Context) error {
		_, err := r.w.run(ctx, fmt.Sprintf("INSERT INTO %[1]s (table_name, recorded_at) "+
			"SELECT '%[2]s', TIMESTAMP '1970-01-01 00:00:00+00' FROM (SELECT 1) "+
			"WHERE NOT EXISTS (SELECT 1 FROM %[1]s WHERE table_name = '%[2]s')", r.name(schema.RecordedTables), r.table.Name))
		return err
	})
	r.turn = err == nil
	return err
}

func (r *recorder) name(table string) string {
	return fmt.Sprintf("`%s.%s.%s`", r.w.config.Project, schema.Internal(&r.table.Table), table)
}

// script records batches. Rows get one recorded_at, later than any before it.
// A row that was appended twice is recorded once, as is one of several batches;
// one whose key has a row that says the same is not recorded.
func (r *recorder) script(group []*staged) string {
	first, last := group[0].at, group[0].at
	batches := make([]string, len(group))
	for i, s := range group {
		batches[i] = "'" + s.batch + "'"
		first, last = min(first, s.at), max(last, s.at)
	}
	var columns, values, key, same []string
	for _, c := range schema.RecordedColumns(&r.table.Table) {
		columns = append(columns, "`"+c.Name+"`")
		if c.Name == contract.RecordedAt {
			values = append(values, fmt.Sprintf("(SELECT MAX(recorded_at) FROM %s WHERE table_name = '%s')", r.name(schema.RecordedTables), r.table.Name))
		} else {
			values = append(values, "a.`"+c.Name+"`")
		}
	}
	for _, name := range append(r.table.Key[:len(r.table.Key):len(r.table.Key)], schema.Content) {
		key = append(key, "a.`"+name+"`")
		same = append(same, fmt.Sprintf("l.`%[1]s` = a.`%[1]s`", name))
	}
	return fmt.Sprintf(`BEGIN TRANSACTION;
UPDATE %[1]s SET recorded_at = GREATEST(CURRENT_TIMESTAMP(), TIMESTAMP_ADD(recorded_at, INTERVAL 1 MICROSECOND))
WHERE table_name = '%[2]s';
INSERT INTO %[3]s (%[4]s)
SELECT %[5]s
FROM %[6]s AS a
WHERE a.%[7]s BETWEEN TIMESTAMP '%[8]s' AND TIMESTAMP '%[9]s' AND a.%[10]s IN (%[11]s)
  AND NOT EXISTS (SELECT 1 FROM %[3]s AS l WHERE %[12]s)
QUALIFY ROW_NUMBER() OVER (PARTITION BY %[13]s ORDER BY a.%[7]s, a.%[10]s, a.%[14]s) = 1;
COMMIT TRANSACTION;`,
		r.name(schema.RecordedTables), r.table.Name, r.name(r.table.Name), strings.Join(columns, ", "), strings.Join(values, ", "),
		r.name(schema.Appended(&r.table.Table)), schema.AppendedAt, first, last, schema.Batch, strings.Join(batches, ", "),
		strings.Join(same, " AND "), strings.Join(key, ", "), schema.BatchRow)
}
