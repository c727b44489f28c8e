package duckdb

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

const (
	// maxGroup is how many batches, and maxRows from how many rows on, are put
	// into one transaction: more gains nothing, and who waits waits longer.
	maxGroup = 1024
	maxRows  = 32 << 10
)

// request is a batch that waits to be stored.
type request struct {
	ctx    context.Context
	table  *table
	batch  *warehouse.Batch
	hash   warehouse.EventHash
	rows   []warehouse.Row // those of the batch that can be stored
	prints []print         // of rows
	bad    warehouse.Rejected
	answer chan answer
}

// answer is what Append returns.
type answer struct {
	version int64
	err     error
}

// Append stores the rows of a batch and returns once they are durable.
func (d *DB) Append(ctx context.Context, batch warehouse.Batch) (version int64, err error) {
	if err := d.use(); err != nil {
		return 0, err
	}
	defer d.users.Done()
	r, err := d.request(ctx, &batch)
	if err != nil {
		return 0, err
	}
	if len(r.rows) == 0 {
		d.write.Lock()
		defer d.write.Unlock()
		return d.version(r.table), batch.Refuse(r.bad)
	}
	select {
	case d.requests <- r:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	// The rows are the caller's again when Append returns, so it waits for the
	// writer even if nobody waits for the answer any more.
	a := <-r.answer
	if a.err == nil {
		a.err = batch.Refuse(r.bad)
	}
	return a.version, a.err
}

// version is that of the tables that t is made from. The caller holds d.write.
func (d *DB) version(t *table) (version int64) {
	for _, name := range t.MadeFrom {
		version += d.versions[name]
	}
	return version
}

// request checks the batch and computes what the writer needs to know of it,
// beside what other callers do.
func (d *DB) request(ctx context.Context, batch *warehouse.Batch) (*request, error) {
	d.mu.RLock()
	t, tables := d.tables[batch.Table], len(d.tables)
	d.mu.RUnlock()
	switch {
	case t == nil && tables == 0:
		return nil, fmt.Errorf("append to %s: no product was applied yet", batch.Table)
	case t == nil:
		return nil, mesh.Permanentf("append to %s: no product has this table", batch.Table)
	}
	r := &request{ctx: ctx, table: t, batch: batch, hash: batch.Hash(), answer: make(chan answer, 1)}
	r.rows, r.prints = make([]warehouse.Row, 0, len(batch.Rows)), make([]print, 0, len(batch.Rows))
	var err error
	r.bad, err = t.check.Batch(batch, func(i int, cells []warehouse.Cell) error {
		r.rows, r.prints = append(r.rows, batch.Rows[i]), append(r.prints, t.printOf(cells))
		return nil
	})
	if len(r.bad) > 0 && t.Ordered {
		r.rows, r.prints = nil, nil
	}
	return r, err
}

// run is the goroutine that writes. What waits while a transaction commits is
// the next transaction.
func (d *DB) run() {
	defer close(d.done)
	var group []*request
	for r := range d.requests {
		group = append(group[:0], r)
		rows := len(r.prints)
	waiting:
		for rows < maxRows && len(group) < maxGroup {
			select {
			case r, ok := <-d.requests:
				if !ok {
					break waiting
				}
				group = append(group, r)
				rows += len(r.prints)
			default:
				break waiting
			}
		}
		d.storeGroup(group)
	}
}

func (d *DB) storeGroup(group []*request) {
	d.write.Lock()
	defer d.write.Unlock()
	group = slices.DeleteFunc(group, func(r *request) bool {
		err := r.ctx.Err()
		if err != nil {
			r.answer <- answer{err: err}
		}
		return err != nil
	})
	if len(group) == 0 {
		return
	}
	err := d.store(group)
	if err != nil && len(group) > 1 {
		// One event may spoil the transaction of all: store each by itself.
		for _, r := range group {
			err := d.store([]*request{r})
			r.answer <- answer{d.version(r.table), err}
		}
		return
	}
	for _, r := range group {
		r.answer <- answer{d.version(r.table), err}
	}
}

// store stores the batches of a group in one transaction.
func (d *DB) store(group []*request) error {
	// Two transactions never have the same time, so that a table that changed
	// has another greatest recorded_at.
	d.last = max(d.last+1, mesh.At(time.Now()))
	tables := map[*table][]*request{}
	versions := map[string]int64{}
	err := d.writer.transaction(func() error {
		for _, r := range group {
			if d.ledger.has(r.hash) {
				continue
			}
			// An event with bad rows may come again, mended.
			if len(r.bad) == 0 {
				if err := d.ledger.add(r.hash, r.batch); err != nil {
					return err
				}
			}
			tables[r.table] = append(tables[r.table], r)
		}
		for t, requests := range tables {
			t.kept = d.kept[t.FullName()]
			if err := t.store(d.writer, requests, d.last); err != nil {
				return fmt.Errorf("append to %s: %w", t.FullName(), err)
			}
			if _, ok := d.versions[t.FullName()]; ok {
				var err error
				if versions[t.FullName()], err = t.version(d.writer); err != nil {
					return fmt.Errorf("append to %s: %w", t.FullName(), err)
				}
			}
		}
		return d.ledger.flush()
	})
	if err != nil {
		d.ledger.rolledBack()
		for t := range tables {
			t.seen.reset()
			t.closeAppenders()
			if t.kept != nil {
				t.kept.close()
			}
		}
		return err
	}
	d.ledger.committed()
	maps.Copy(d.versions, versions)
	d.transactions.Add(1)
	for t := range tables {
		if t.kept == nil {
			continue
		}
		if t.kept.stored(t.appended); d.toFold(t.kept) {
			d.wake()
		}
	}
	return nil
}

func (t *table) store(c conn, requests []*request, recorded mesh.Instant) error {
	prints := make([][]print, len(requests))
	for i, r := range requests {
		prints[i] = r.prints
	}
	if err := t.prepare(c, prints); err != nil {
		return err
	}
	if err := t.open(c); err != nil {
		return err
	}
	t.disputed, t.appended = t.disputed[:0], 0
	var row []warehouse.Cell
	for _, r := range requests {
		for i := range r.prints {
			p := &r.prints[i]
			b := t.seen.buckets[p.bucket]
			known, ok := b.rows[p.key]
			if ok && known.content == p.content && known.received <= p.received {
				continue
			}
			row = t.stamp(r.rows[i].Cells(row[:0]), recorded)
			if ok || b.rows == nil {
				t.disputed = append(t.disputed, append([]warehouse.Cell(nil), row...))
				continue
			}
			t.seen.put(b, *p)
			t.appended++
			if err := t.current.append(append(row, warehouse.Bool(false))); err != nil {
				return err
			}
		}
	}
	if err := t.current.flush(); err != nil {
		return err
	}
	for disputed := t.disputed; len(disputed) > 0; {
		n := min(len(disputed), maxDisputed)
		if err := t.settle(c, disputed[:n], recorded); err != nil {
			return err
		}
		disputed = disputed[n:]
	}
	if t.kept != nil {
		return t.kept.flush()
	}
	return nil
}

// stamp makes a row of cells one to be stored.
func (t *table) stamp(row []warehouse.Cell, recorded mesh.Instant) []warehouse.Cell {
	if t.ranking.RecordedAt == len(row) {
		return append(row, warehouse.Instant(recorded))
	}
	row[t.ranking.RecordedAt] = warehouse.Instant(recorded)
	return row
}
