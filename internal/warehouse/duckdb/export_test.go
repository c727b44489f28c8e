package duckdb

// Exec runs SQL on the writer's connection.
func (d *DB) Exec(sql string) error {
	d.write.Lock()
	defer d.write.Unlock()
	return d.writer.exec(sql)
}

// ReadAtOnce has an hour read as soon as a row falls into it, of tables that
// are applied after.
func (d *DB) ReadAtOnce() { d.worth = 1 }

// Hold bounds how many rows of a table are known in memory.
func (d *DB) Hold(table string, rows int) { d.tables[table].seen.limit = rows }

// Held says how many are, and in how many hours.
func (d *DB) Held(table string) (rows, hours int) {
	d.write.Lock()
	defer d.write.Unlock()
	for _, b := range d.tables[table].seen.buckets {
		rows += len(b.rows)
	}
	return rows, len(d.tables[table].seen.buckets)
}

// RememberEvents sets how many events a generation of the ledger has.
func (d *DB) RememberEvents(n int) { d.ledger.size = n }

// FoldFrom has new rows of views that are kept folded from so many on.
func (d *DB) FoldFrom(rows int64) {
	d.folding.Lock()
	defer d.folding.Unlock()
	d.write.Lock()
	defer d.write.Unlock()
	d.foldRows = rows
}

// FoldStale folds the stale hours, and leaves new rows where they are.
func (d *DB) FoldStale() error {
	d.folding.Lock()
	defer d.folding.Unlock()
	for _, k := range d.kept {
		if _, err := k.folding(d.folder, false, 20); err != nil {
			return err
		}
	}
	return nil
}

// Fold folds all there is, and sorts from twenty hours on.
func (d *DB) Fold() error {
	d.folding.Lock()
	defer d.folding.Unlock()
	for _, k := range d.kept {
		for {
			if some, err := k.folding(d.folder, true, 20); !some || err != nil {
				return err
			}
		}
	}
	return nil
}
