// Package duckdb is the warehouse of one machine: a DuckDB file.
//
// A table of a contract is two tables here. <name>_current has the one row of
// each key that counts, so that an output port costs what its table costs; it
// is as it was appended unless resolved is set. <name>_revised has the rows as
// they were appended of all keys that have more than one. A row that joins a
// key moves what was there to the latter, in the transaction that stores it.
//
// All rows go through one goroutine that puts what is waiting into one
// transaction, since a commit costs about a millisecond whatever it holds.
// Which rows are stored already is mostly known in memory (seen.go). Another one
// keeps the hours of views ready (kept.go).
//
// DuckDB is reached by its C interface and not by database/sql: rows are
// written into its vectors directly, and answers are streamed.
package duckdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	duck "github.com/duckdb/duckdb-go-bindings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
)

// ErrInUse says that another DB, of this process or another, has the file
// open: a DuckDB file belongs to one.
var ErrInUse = errors.New("warehouse is in use")

var errClosed = errors.New("warehouse is closed")

// settings of the database. Queries come from users: nothing but the file
// itself is in their reach, and no query can change that.
var settings = map[string]string{
	"enable_external_access":       "false",
	"autoinstall_known_extensions": "false",
	"autoload_known_extensions":    "false",
	// The first whose new files compress long texts (zstd): the events in a log
	// take a tenth.
	"storage_compatibility_version": "v1.2.0",
	// The mesh shares the machine, of which DuckDB would take four fifths. What
	// does not fit, as the rows of a large ORDER BY, goes to FILE.tmp and is read
	// again: 10 million readings in order are no slower for it.
	"memory_limit": "2GB",
	// Half a second of work for a million rows; less would write the last row
	// group of a table, which is rewritten each time, too often. A log of this
	// size is read again in about a second after a kill.
	"checkpoint_threshold": "256MB",
}

// DB is a warehouse in a DuckDB file.
type DB struct {
	file string
	lock *os.File
	db   duck.Database

	write  sync.Mutex // held by who uses writer and what is below
	writer conn
	ledger *ledger
	last   mesh.Instant // recorded_at of the last transaction
	// Of each table that another one is made from: how many rows were recorded.
	versions map[string]int64
	worth    int // of what is seen of each table

	folding  sync.Mutex // held by who uses folder, or changes kept; before write
	folder   conn
	kept     map[string]*kept // by table; changed with write held, too
	foldRows int64            // new rows that are folded at once
	due      chan struct{}    // there are as many
	folded   chan struct{}    // closed when the goroutine that folds has ended

	transactions atomic.Int64 // that stored rows

	mu     sync.RWMutex
	tables map[string]*table
	closed bool
	users  sync.WaitGroup // calls that have not returned

	requests chan *request
	done     chan struct{}      // closed when the writing goroutine has ended
	ctx      context.Context    // of all queries
	cancel   context.CancelFunc // ends them
}

// Open opens the database in file, and makes it and its folder if missing. It
// returns ErrInUse while another has it open.
func Open(file string) (*DB, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("open warehouse: %w", err)
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open warehouse: %w", err)
	}
	// DuckDB's own lock does not keep two openers within one process apart.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	d := &DB{
		file: file, lock: lock, tables: map[string]*table{}, versions: map[string]int64{},
		requests: make(chan *request, maxGroup), done: make(chan struct{}),
		kept: map[string]*kept{}, foldRows: foldRows, due: make(chan struct{}, 1), folded: make(chan struct{}),
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.open(); err != nil {
		d.release()
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	go d.run()
	go d.keep()
	return d, nil
}

func (d *DB) open() error {
	var config duck.Config
	if duck.CreateConfig(&config) == duck.StateError {
		return errors.New("no memory for a configuration")
	}
	defer duck.DestroyConfig(&config)
	for name, value := range settings {
		if duck.SetConfig(config, name, value) == duck.StateError {
			return fmt.Errorf("DuckDB has no setting %s", name)
		}
	}
	var message string
	if duck.OpenExt(d.file, &d.db, config, &message) == duck.StateError {
		return errors.New(message)
	}
	var err error
	if d.writer, err = d.connect(); err != nil {
		return err
	}
	for _, sql := range []string{
		"SET GLOBAL TimeZone = 'UTC'",
		"SET GLOBAL lock_configuration = true",
	} {
		if err := d.writer.exec(sql); err != nil {
			return err
		}
	}
	if d.folder, err = d.connect(); err != nil {
		return err
	}
	d.ledger, err = openLedger(d.writer)
	return err
}

// Close ends queries, stores what was appended and closes the file.
func (d *DB) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.users.Wait()
	close(d.requests)
	<-d.done
	<-d.folded
	d.release()
	return nil
}

func (d *DB) release() {
	d.cancel()
	for _, t := range d.tables {
		t.closeAppenders()
	}
	for _, k := range d.kept {
		k.close()
	}
	if d.ledger != nil {
		d.ledger.close()
	}
	d.folder.close()
	d.writer.close()
	duck.Close(&d.db)
	d.lock.Close()
}

// use says that a call has begun; the caller calls d.users.Done at its end.
func (d *DB) use() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return errClosed
	}
	d.users.Add(1)
	return nil
}

// Apply makes the tables, output ports and views of the products where they
// are missing.
func (d *DB) Apply(ctx context.Context, products []contract.Product) error {
	if err := d.use(); err != nil {
		return err
	}
	defer d.users.Done()
	d.folding.Lock()
	defer d.folding.Unlock()
	d.write.Lock()
	defer d.write.Unlock()
	var tables []*table
	var views []*kept
	versions := map[string]int64{}
	err := d.writer.transaction(func() error {
		for _, p := range products {
			for i := range p.Tables {
				t := newTable(&p.Tables[i])
				t.seen.worth = d.worth
				if err := t.create(d.writer); err != nil {
					return fmt.Errorf("make table %s: %w", t.FullName(), err)
				}
				tables = append(tables, t)
			}
		}
		for _, t := range tables {
			for _, from := range t.MadeFrom {
				source := d.find(from, tables)
				if source == nil {
					return fmt.Errorf("make table %s: it is made from %s, which no product has", t.FullName(), from)
				}
				var err error
				if versions[from], err = source.version(d.writer); err != nil {
					return fmt.Errorf("make table %s: %w", t.FullName(), err)
				}
			}
		}
		for _, p := range products {
			if err := forgetKept(d.writer, &p); err != nil {
				return err
			}
			for _, v := range p.Views {
				if v.Kept != nil {
					t := d.find(v.Kept.Table, tables)
					if t == nil {
						return fmt.Errorf("make view %s: it is made of %s, which no product has", v.FullName(), v.Kept.Table)
					}
					k, err := newKept(d.writer, &v, t)
					if err != nil {
						return fmt.Errorf("make view %s: %w", v.FullName(), err)
					}
					views = append(views, k)
					continue
				}
				if err := d.writer.exec(fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %s; CREATE OR REPLACE VIEW %s.%s AS\n%s",
					name(v.Schema), name(v.Schema), name(v.Name), v.DuckDB)); err != nil {
					return fmt.Errorf("make view %s.%s: %w", v.Schema, v.Name, err)
				}
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	maps.Copy(d.versions, versions)
	for _, t := range tables {
		if k := d.kept[t.FullName()]; k != nil {
			k.close()
			delete(d.kept, t.FullName())
		}
	}
	for _, k := range views {
		last, err := k.count(d.writer)
		if err != nil {
			return fmt.Errorf("make view %s: %w", k.view.FullName(), err)
		}
		// A clock that was set back must not make new rows old ones.
		d.last = max(d.last, last)
		d.kept[k.table.FullName()] = k
		if d.toFold(k) {
			d.wake()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range tables {
		if old := d.tables[t.FullName()]; old != nil {
			if reflect.DeepEqual(old.Table, t.Table) {
				continue
			}
			old.closeAppenders()
		}
		d.tables[t.FullName()] = t
	}
	return nil
}

// find gives a table that is being applied, or was before.
func (d *DB) find(fullName string, applied []*table) *table {
	for _, t := range applied {
		if t.FullName() == fullName {
			return t
		}
	}
	return d.tables[fullName]
}

// name quotes an identifier.
func name(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// literal quotes a string. SQL text ends at a NUL: one inside is written as a
// call.
func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.IndexByte(s, 0) >= 0 {
		return "('" + strings.ReplaceAll(s, "\x00", "' || chr(0) || '") + "')"
	}
	return "'" + s + "'"
}
