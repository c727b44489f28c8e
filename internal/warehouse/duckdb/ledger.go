package duckdb

import (
	"fmt"

	"github.com/telemesh/telemesh/internal/warehouse"
)

// ledger remembers the last events that were stored, the cheap answer to a
// redelivery. It holds two generations of up to generationSize and forgets the
// older when the younger is full; an event that is older still finds its rows
// stored.
type ledger struct {
	conn       conn
	appender   *appender
	generation int64
	size       int // of a generation
	young, old map[warehouse.EventHash]struct{}
	added      []warehouse.EventHash // in this transaction
	dropOld    bool                  // rows of generations before the old one are to be deleted
}

const generationSize = 1 << 19

const (
	ledgerSchema = "warehouse_internal"
	ledgerTable  = "stored_events"
)

func openLedger(c conn) (*ledger, error) {
	l := &ledger{conn: c, size: generationSize, young: map[warehouse.EventHash]struct{}{}, old: map[warehouse.EventHash]struct{}{}}
	if err := c.exec(fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %[1]s; CREATE TABLE IF NOT EXISTS %[1]s.%[2]s "+
		"(table_name VARCHAR, event_source VARCHAR, event_id VARCHAR, generation BIGINT)", ledgerSchema, ledgerTable)); err != nil {
		return nil, err
	}
	row, err := c.one(fmt.Sprintf("SELECT coalesce(max(generation), 0) FROM %s.%s", ledgerSchema, ledgerTable))
	if err != nil {
		return nil, err
	}
	l.generation = row[0]
	err = c.query(fmt.Sprintf("SELECT table_name, event_source, event_id, generation FROM %s.%s", ledgerSchema, ledgerTable),
		func(row []warehouse.Cell) error {
			h := (&warehouse.Batch{Table: row[0].Text(), EventSource: row[1].Text(), EventID: row[2].Text()}).Hash()
			if row[3].Int() == l.generation {
				l.young[h] = struct{}{}
			} else {
				l.old[h] = struct{}{}
			}
			return nil
		})
	return l, err
}

func (l *ledger) has(h warehouse.EventHash) bool {
	if _, ok := l.young[h]; ok {
		return true
	}
	_, ok := l.old[h]
	return ok
}

func (l *ledger) add(h warehouse.EventHash, b *warehouse.Batch) error {
	if l.appender == nil {
		var err error
		if l.appender, err = newAppender(l.conn, "", ledgerSchema, ledgerTable, nil); err != nil {
			return err
		}
	}
	l.young[h] = struct{}{}
	l.added = append(l.added, h)
	return l.appender.append([]warehouse.Cell{
		warehouse.String(b.Table), warehouse.String(b.EventSource), warehouse.String(b.EventID), warehouse.Int(l.generation),
	})
}

// flush is the last of a transaction that the ledger does.
func (l *ledger) flush() error {
	if len(l.added) == 0 {
		return nil
	}
	if l.dropOld {
		if err := l.conn.exec(fmt.Sprintf("DELETE FROM %s.%s WHERE generation < %d",
			ledgerSchema, ledgerTable, l.generation-1)); err != nil {
			return err
		}
	}
	return l.appender.flush()
}

func (l *ledger) committed() {
	l.added, l.dropOld = l.added[:0], false
	if len(l.young) >= l.size {
		l.old, l.young = l.young, map[warehouse.EventHash]struct{}{}
		l.generation++
		l.dropOld = true
	}
}

func (l *ledger) rolledBack() {
	for _, h := range l.added {
		delete(l.young, h)
	}
	l.added = l.added[:0]
	l.close()
}

func (l *ledger) close() {
	l.appender.close()
	l.appender = nil
}
