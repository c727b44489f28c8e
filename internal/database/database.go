// Package database opens SQL databases: SQLite in a file, or PostgreSQL where several
// pods share it. That of the portal's users, sessions and audit log has its tables
// here; another program brings those that it has, and may keep them beside these.
//
// Both kinds have the same tables and take the same statements, with parameters as
// $1. An instant is a BIGINT of microseconds since 1970, a list JSON in a TEXT.
// Where the two differ, in how rows are kept from being changed, migrations/
// has a file for each.
package database

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // PostgreSQL
	_ "modernc.org/sqlite"             // SQLite, without cgo
)

//go:embed migrations/*.sql
var migrations embed.FS

// Tables are those of one program.
type Tables struct {
	Of    string // what they hold, for errors: "users"
	Steps fs.FS  // migrations/VERSION_NAME.sql and, of one kind of database alone, migrations/VERSION_NAME.KIND.sql
	// Done is the table that says which steps were taken. Each program that keeps
	// tables in one database has its own.
	Done string
}

var users = Tables{Of: "users", Steps: migrations, Done: "migrations"}

// DB is an open database with the tables of a program.
type DB struct {
	*sql.DB
	kind string // sqlite or postgres, as files of migrations/ say it
}

// The kinds of databases.
const (
	sqlite   = "sqlite"
	postgres = "postgres"
)

// ErrAddress is that of an address which names no database.
var ErrAddress = errors.New("no database of a kind that is known: want sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME")

// ErrNewer is that of a database which a later version of this program has made.
var ErrNewer = errors.New("made by a later version of telemesh")

// Open is OpenTables of the portal's users.
func Open(ctx context.Context, address string) (*DB, error) { return OpenTables(ctx, address, users) }

// OpenTables opens the database at sqlite:PATH or postgres://…, and brings its tables
// to what a program needs. Several processes may do so at once. A file that
// is not there is made, and is its owner's alone.
func OpenTables(ctx context.Context, address string, t Tables) (*DB, error) {
	db, err := dial(address)
	if err != nil {
		return nil, err
	}
	steps, err := t.steps(db.kind)
	if err == nil {
		err = db.migrate(ctx, t.Done, steps)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the %s database of %s: %w", db.kind, t.Of, err), db.Close())
	}
	return db, nil
}

// dial gives the database as it is.
func dial(address string) (*DB, error) {
	if file, ok := strings.CutPrefix(address, sqlite+":"); ok && file != "" {
		if err := create(file); err != nil {
			return nil, fmt.Errorf("make the database: %w", err)
		}
		// Others write at the same time: wait for them, and let a transaction take
		// the lock when it begins, so that none has to give up in its middle.
		query := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "foreign_keys(1)"}, "_txlock": {"immediate"}}
		db, err := sql.Open(sqlite, (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: query.Encode()}).String())
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(4)
		return &DB{db, sqlite}, nil
	}
	if strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://") {
		db, err := sql.Open("pgx", address)
		if err != nil {
			return nil, errors.New("the address of the PostgreSQL database cannot be read") // which has a password
		}
		db.SetMaxOpenConns(8) // of each pod
		db.SetConnMaxIdleTime(time.Minute)
		return &DB{db, postgres}, nil
	}
	return nil, ErrAddress
}

// creating is held while a file is made: see create.
var creating sync.Mutex

// create makes the file where there is none, so that nobody else can read it:
// SQLite would ask the umask. Its journal has the mode of the file.
//
// A file that is there is not opened but by SQLite. Closing it would drop the locks
// that this process has on it (fcntl(2)), by which others know that it is in use:
// the next one that closes it would delete the journal that this process writes to.
// https://www.sqlite.org/howtocorrupt.html, section 2.2
func create(file string) error {
	creating.Lock()
	defer creating.Unlock()
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// step brings the tables from the version before to version.
type step struct {
	version int
	text    string
}

// steps reads the migrations of a kind, in order.
func (t Tables) steps(kind string) ([]step, error) {
	names, err := fs.Glob(t.Steps, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []step
	for _, name := range names {
		base := strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql")
		if of := strings.SplitN(base, ".", 2); len(of) == 2 && of[1] != kind {
			continue
		}
		number, _, _ := strings.Cut(base, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != len(all)+1 {
			return nil, fmt.Errorf("%s is not version %d", name, len(all)+1)
		}
		text, err := fs.ReadFile(t.Steps, name)
		if err != nil {
			return nil, err
		}
		all = append(all, step{version, string(text)})
	}
	return all, nil
}

// migrating is the number of the lock of PostgreSQL under which tables change.
const migrating = 0x74656c656d657368

// migrate takes the steps that are still to be taken, of which the table done tells, in
// one transaction, and under a lock: in SQLite a transaction has it from its start.
func (db *DB) migrate(ctx context.Context, done string, steps []step) error {
	return db.Tx(ctx, func(tx *sql.Tx) error {
		if db.kind == postgres {
			if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", migrating); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS "+done+" (version BIGINT PRIMARY KEY, at BIGINT NOT NULL)"); err != nil {
			return err
		}
		var version int
		if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM "+done).Scan(&version); err != nil {
			return err
		}
		if version > len(steps) {
			return fmt.Errorf("its tables have version %d, of which this program knows %d: %w", version, len(steps), ErrNewer)
		}
		for _, s := range steps[version:] {
			if _, err := tx.ExecContext(ctx, s.text); err != nil {
				return fmt.Errorf("migrate to version %d: %w", s.version, err)
			}
			if _, err := tx.ExecContext(ctx, "INSERT INTO "+done+" (version, at) VALUES ($1, $2)", s.version, time.Now().UnixMicro()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Tx runs f in a transaction, which is kept if f gives no error.
func (db *DB) Tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		tx.Rollback() // what f says is the cause
		return err
	}
	return tx.Commit()
}
