package bigquery

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/iterator"
)

// versions says how many rows were recorded in tables. One question is under
// way at a time; who asks meanwhile shares the next one, so that the answer was
// asked after they did.
type versions struct {
	w   *Warehouse
	sql string

	mu            sync.Mutex
	running, next *question
}

type question struct {
	done    chan struct{}
	version int64
	err     error
}

func newVersions(w *Warehouse, tables []string) *versions {
	counts := make([]string, len(tables))
	for i, name := range tables {
		product, table, _ := strings.Cut(name, ".")
		// COUNT(*) of a whole table reads its metadata alone, and is billed as 0
		// bytes.
		// https://cloud.google.com/bigquery/docs/best-practices-costs
		counts[i] = fmt.Sprintf("(SELECT COUNT(*) FROM `%s.%s_internal.%s`)", w.config.Project, product, table)
	}
	return &versions{w: w, sql: "SELECT " + strings.Join(counts, " + ")}
}

// after gives a version that the tables have after it was called. Of no tables
// it is 0.
func (v *versions) after(ctx context.Context) (int64, error) {
	if v == nil {
		return 0, nil
	}
	v.mu.Lock()
	q := &v.running
	if v.running != nil {
		q = &v.next
	}
	if *q == nil {
		*q = &question{done: make(chan struct{})}
		if q == &v.running {
			go v.run(*q)
		}
	}
	mine := *q
	v.mu.Unlock()
	select {
	case <-mine.done:
		return mine.version, mine.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// run answers the question, and those that were asked meanwhile.
func (v *versions) run(q *question) {
	for q != nil {
		q.version, q.err = v.ask()
		close(q.done)
		v.mu.Lock()
		v.running, v.next = v.next, nil
		q = v.running
		v.mu.Unlock()
	}
}

func (v *versions) ask() (version int64, err error) {
	err = v.w.again(v.w.link.answerWithin, func(ctx context.Context) error {
		var row []bigquery.Value
		rows, err := v.w.run(ctx, v.sql)
		if err != nil {
			return err
		}
		if err := rows.Next(&row); err != nil {
			if err == iterator.Done {
				return fmt.Errorf("%s: no row", v.sql)
			}
			return err
		}
		var ok bool
		if version, ok = row[0].(int64); !ok {
			return fmt.Errorf("%s: %v is no number", v.sql, row[0])
		}
		return nil
	})
	return version, err
}

// again does f until it succeeds, fails for good or patience ends. One try takes
// no longer than within.
func (w *Warehouse) again(within time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(w.link.ctx, w.link.patience)
	defer cancel()
	for failures := 1; ; failures++ {
		try, cancel := context.WithTimeout(ctx, within)
		err := f(try)
		cancel()
		if err == nil || !passes(err) || pause(ctx, failures) != nil {
			return err
		}
	}
}

// run runs a statement or a script, and gives the rows of a statement.
func (w *Warehouse) run(ctx context.Context, sql string) (*bigquery.RowIterator, error) {
	q := w.client.Query(sql)
	q.Location = w.config.Location
	q.DisableQueryCache = true
	q.Labels = map[string]string{"telemesh": "append"}
	return q.Read(ctx)
}
