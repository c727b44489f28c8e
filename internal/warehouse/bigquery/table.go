package bigquery

import (
	"errors"
	"fmt"
	"slices"

	"cloud.google.com/go/bigquery/storage/managedwriter"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// table is a table of a contract, and what appends to it.
type table struct {
	contract.Table
	rank     warehouse.Ranking
	check    *warehouse.Check
	encoder  *encoder
	sender   *sender
	recorder *recorder // of an ordered table; nil: it is none
	versions *versions // of what the table is made from; nil: of nothing
}

func (w *Warehouse) newTable(ct *contract.Table) (*table, error) {
	t := &table{Table: *ct, rank: warehouse.NewRanking(ct), check: warehouse.NewCheck(ct)}
	if t.Ordered && (t.rank.Knowledge >= 0 || t.rank.Received >= 0 || len(t.rank.Provenance) > 0) {
		return nil, errors.New("others are made from its rows, so that none may take another's place: it cannot have columns of knowledge or provenance")
	}
	var err error
	if t.encoder, err = newEncoder(schema.AppendedColumns(ct)); err != nil {
		return nil, err
	}
	t.sender = newSender(w.link, managedwriter.TableParentFromParts(w.config.Project, schema.Internal(ct), schema.Appended(ct)), t.encoder)
	if t.Ordered {
		t.recorder = newRecorder(w, t)
	}
	if len(t.MadeFrom) > 0 {
		t.versions = newVersions(w, t.MadeFrom)
	}
	return t, nil
}

// close returns when nothing is under way any more.
func (t *table) close() {
	if t.recorder != nil {
		t.recorder.close()
	}
	t.sender.close()
}

// maxRow is the longest row. An append request may have 10 MB, of which its
// header, with the schema, takes some kB.
//
// https://cloud.google.com/bigquery/quotas#write-api-limits
const maxRow = 10_000_000 - 64<<10

// rows are the rows of a batch as they are sent.
type rows struct {
	bytes   [][]byte
	numbers []int // in the batch
}

// encode gives the rows of a batch that can be stored.
func (t *table) encode(batch *warehouse.Batch, staged *staged, now mesh.Instant) (r rows, rejected warehouse.Rejected, err error) {
	r = rows{make([][]byte, 0, len(batch.Rows)), make([]int, 0, len(batch.Rows))}
	var bytes []byte
	var arena arena
	rejected, err = t.check.Batch(batch, func(i int, cells []warehouse.Cell) error {
		bytes = t.encoder.append(bytes[:0], t.stamp(cells, staged, i, now))
		if len(bytes) > maxRow {
			return fmt.Errorf("%d bytes, BigQuery takes no row over %d", len(bytes), maxRow)
		}
		r.bytes, r.numbers = append(r.bytes, arena.add(bytes)), append(r.numbers, i)
		return nil
	})
	return r, rejected, err
}

// stamp makes a row of cells one of schema.AppendedColumns.
func (t *table) stamp(row []warehouse.Cell, staged *staged, i int, now mesh.Instant) []warehouse.Cell {
	if t.AppendOnly {
		return t.stampTime(row, now)
	}
	content, origin := t.rank.Content(row), t.rank.Origin(row)
	if t.Ordered {
		if t.rank.RecordedAt < len(row) {
			row = slices.Delete(row, t.rank.RecordedAt, t.rank.RecordedAt+1)
		}
		return append(row, warehouse.Int(content), warehouse.String(staged.batch), warehouse.Int(int64(i)), warehouse.Instant(now))
	}
	return append(t.stampTime(row, now), warehouse.Int(content), warehouse.Int(origin))
}

func (t *table) stampTime(row []warehouse.Cell, now mesh.Instant) []warehouse.Cell {
	if t.rank.RecordedAt == len(row) {
		return append(row, warehouse.Instant(now))
	}
	row[t.rank.RecordedAt] = warehouse.Instant(now)
	return row
}
