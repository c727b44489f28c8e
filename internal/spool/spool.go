// Package spool keeps records in a file until they are sent: a queue of bounded
// size for a machine that loses its network, its power and its patience.
//
// What Append has taken survives the death of the process at any instruction. A
// machine that loses power may lose the records since the last Sync, and no
// others: it never finds half a record, nor one behind a lost one. Records come
// out in the order in which they were taken, and stay until they are deleted;
// who dies between sending and deleting finds them again.
//
// It is made for an SD card: a record is written once to the end of a journal of
// SQLite, and nothing is waited for. It does not encrypt, and one process has it
// at a time.
package spool

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"modernc.org/sqlite" // without cgo, also on ARM
	sqlite3 "modernc.org/sqlite/lib"
)

// Keep says what a full spool keeps.
type Keep string

// What is kept: KeepNewest makes room by dropping the oldest records, KeepOldest
// refuses new ones.
const (
	KeepNewest Keep = "newest"
	KeepOldest Keep = "oldest"
)

// Config bounds a spool.
type Config struct {
	// MaxBytes of records, each with Overhead: about what the file has at most. Its
	// journal has up to 1 MiB more.
	MaxBytes int64
	Keep     Keep
}

// Overhead, in bytes, is what a record costs besides its own.
const Overhead = 24

// Record is one that waits.
type Record struct {
	Seq  int64 // ascends; not the same after the spool was empty and opened anew
	Data []byte
}

// Note is a text kept beside the records, by its name.
type Note struct{ Name, Value string }

// Stats is what a spool holds, and what it could not hold since it was opened.
type Stats struct {
	Records, Bytes   int64
	Dropped, Refused int64 // records, because it was full
}

// ErrInUse is that of a spool which another process has open.
var ErrInUse = errors.New("another process has it open")

// Spool is an open spool. Its methods may be called from several goroutines.
type Spool struct {
	file string
	cfg  Config
	lock *os.File
	db   *sql.DB

	mu    sync.Mutex
	stats Stats
	next  int64
	dirty bool // since the last Sync
}

// Open opens the spool in a folder, which it makes if it is not there. A file
// that is no spool any more, as after a failure of the card, is put aside under
// the name that damaged gives; empty: it was whole.
func Open(dir string, cfg Config) (s *Spool, damaged string, err error) {
	switch {
	case cfg.MaxBytes < 1<<16:
		return nil, "", fmt.Errorf("open spool %s: %d bytes are too few: want at least 65536", dir, cfg.MaxBytes)
	case cfg.Keep != KeepNewest && cfg.Keep != KeepOldest:
		return nil, "", fmt.Errorf("open spool %s: keep %q is neither newest nor oldest", dir, cfg.Keep)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("open spool: %w", err)
	}
	s = &Spool{file: filepath.Join(dir, "spool.db"), cfg: cfg}
	if s.lock, err = lock(filepath.Join(dir, "lock")); err != nil {
		return nil, "", fmt.Errorf("open spool %s: %w", dir, err)
	}
	if err = s.open(); isDamage(err) {
		damaged, err = s.anew()
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("open spool %s: %w", dir, err), s.lock.Close())
	}
	return s, damaged, nil
}

// anew puts the file aside, which is closed, and opens a new one.
func (s *Spool) anew() (damaged string, err error) {
	damaged = fmt.Sprintf("%s.damaged-%s", s.file, time.Now().UTC().Format("20060102T150405.000000"))
	if err := s.putAside(damaged); err != nil {
		return "", err
	}
	return damaged, s.open()
}

// DamagedError is that of a spool whose file was found to be none any more while it
// was open. It is put aside and a new one begun: what was to be done can be done again.
type DamagedError struct {
	File string // where it is now
	err  error
}

func (e DamagedError) Error() string { return e.err.Error() + ": put aside as " + e.File }

func (e DamagedError) Unwrap() error { return e.err }

// heal begins a new file where err says that this one is damaged, and gives what is
// to be said of it.
func (s *Spool) heal(err error) error {
	if !isDamage(err) {
		return err
	}
	lost := s.stats
	s.db.Close() // what it says is known
	damaged, bad := s.anew()
	if bad != nil {
		return errors.Join(err, bad)
	}
	s.stats.Dropped, s.stats.Refused = lost.Dropped, lost.Refused
	return DamagedError{damaged, err}
}

// lock holds a file for this process. The system lets it go when the process
// ends, however it ends.
func lock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// pageBytes is small: what is appended costs the page it stands in, and a card is
// worn by what is written.
const pageBytes = 1024

func (s *Spool) open() (err error) {
	address := url.URL{Scheme: "file", Opaque: (&url.URL{Path: s.file}).EscapedPath(), RawQuery: "_txlock=immediate"}
	if s.db, err = sql.Open("sqlite", address.String()); err != nil {
		return err
	}
	s.db.SetMaxOpenConns(1) // what is said of the connection below holds for all
	defer func() {
		if err != nil {
			err = errors.Join(err, s.db.Close())
		}
	}()
	for _, statement := range []string{
		fmt.Sprintf("PRAGMA page_size = %d", pageBytes), // of a file that is made now
		"PRAGMA locking_mode = EXCLUSIVE",               // no shared memory in a file
		"PRAGMA journal_mode = WAL",
		"PRAGMA synchronous = NORMAL", // a record is written, and not waited for
		"PRAGMA journal_size_limit = 1048576",
		"CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT",
		"CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
	} {
		if _, err := s.db.Exec(statement); err != nil {
			return err
		}
	}
	var check string
	if err := s.db.QueryRow("PRAGMA quick_check(1)").Scan(&check); err != nil {
		return err
	}
	if check != "ok" {
		return damage{check}
	}
	s.stats, s.next = Stats{}, 0
	return s.db.QueryRow("SELECT count(*), coalesce(sum(length(data) + ?), 0), coalesce(max(seq), 0) + 1 FROM records", Overhead).
		Scan(&s.stats.Records, &s.stats.Bytes, &s.next)
}

// damage is what a check of the file finds.
type damage struct{ found string }

func (d damage) Error() string { return d.found }

func isDamage(err error) bool {
	var found damage
	var code *sqlite.Error
	return errors.As(err, &found) ||
		errors.As(err, &code) && slices.Contains([]int{sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}, code.Code()&0xff)
}

// putAside renames the file and its journal.
func (s *Spool) putAside(name string) error {
	if err := os.Rename(s.file, name); err != nil {
		return err
	}
	if err := os.Rename(s.file+"-wal", name+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Append takes records, and notes with them: all of it, or nothing where it
// gives an error. It gives how many records were taken. The others had no room
// where the oldest are kept, or have none in an empty spool; they are counted.
func (s *Spool) Append(records [][]byte, notes ...Note) (taken int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats, next := s.stats, s.next
	err = s.tx(func(tx *sql.Tx) error {
		for _, data := range records {
			size := int64(len(data)) + Overhead
			if size > s.cfg.MaxBytes || s.cfg.Keep == KeepOldest && stats.Bytes+size > s.cfg.MaxBytes {
				stats.Refused++
				continue
			}
			if _, err := tx.Exec("INSERT INTO records (seq, data) VALUES (?, ?)", next, data); err != nil {
				return err
			}
			next++
			taken++
			stats.Records++
			stats.Bytes += size
		}
		if err := makeRoom(tx, &stats, s.cfg.MaxBytes); err != nil {
			return err
		}
		for _, n := range notes {
			if _, err := tx.Exec("INSERT INTO notes (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", n.Name, n.Value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, s.heal(fmt.Errorf("append to spool %s: %w", s.file, err))
	}
	s.stats, s.next, s.dirty = stats, next, true
	return taken, nil
}

// makeRoom deletes the oldest records until the others have room.
func makeRoom(tx *sql.Tx, stats *Stats, most int64) error {
	for stats.Bytes > most {
		var seq, size int64
		if err := tx.QueryRow("DELETE FROM records WHERE seq = (SELECT min(seq) FROM records) RETURNING seq, length(data)").Scan(&seq, &size); err != nil {
			return err
		}
		stats.Records--
		stats.Bytes -= size + Overhead
		stats.Dropped++
	}
	return nil
}

func (s *Spool) tx(f func(*sql.Tx) error) error {
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		tx.Rollback() // what f says is the cause
		return err
	}
	return tx.Commit()
}

// Peek gives the oldest records, at most so many and of so many bytes together,
// but at least one if there is one.
func (s *Spool) Peek(most int, bytes int) ([]Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := s.peek(most, bytes)
	if err != nil {
		return nil, s.heal(fmt.Errorf("read spool %s: %w", s.file, err))
	}
	return out, nil
}

func (s *Spool) peek(most int, bytes int) (out []Record, err error) {
	rows, err := s.db.Query("SELECT seq, data FROM records ORDER BY seq LIMIT ?", most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r Record
		if err := rows.Scan(&r.Seq, &r.Data); err != nil {
			return nil, err
		}
		if bytes -= len(r.Data); bytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, r)
	}
	return out, errors.Join(rows.Err(), rows.Close())
}

// Delete deletes records that are sent. Those that were dropped meanwhile are no
// error.
func (s *Spool) Delete(records []Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	err := s.tx(func(tx *sql.Tx) error {
		statement, err := tx.Prepare("DELETE FROM records WHERE seq = ?")
		if err != nil {
			return err
		}
		defer statement.Close()
		for _, r := range records {
			result, err := statement.Exec(r.Seq)
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			if err != nil {
				return err
			}
			stats.Records -= n
			stats.Bytes -= n * (int64(len(r.Data)) + Overhead)
		}
		return nil
	})
	if err != nil {
		return s.heal(fmt.Errorf("delete from spool %s: %w", s.file, err))
	}
	s.stats, s.dirty = stats, true
	return nil
}

// Note gives the value of a note, empty if there is none.
func (s *Spool) Note(name string) (value string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.db.QueryRow("SELECT value FROM notes WHERE name = ?", name).Scan(&value)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("read spool %s: %w", s.file, err)
	}
	return value, nil
}

// Stats gives what it holds.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Sync returns when the card holds what was appended before, so that it survives
// a loss of power.
//
// The journal is synced by a handle of its own: SQLite has its locks on the other
// file, so that closing this one drops none of them.
func (s *Spool) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return nil
	}
	f, err := os.Open(s.file + "-wal")
	if err != nil {
		return fmt.Errorf("sync spool: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync spool: %w", err)
	}
	s.dirty = false
	return nil
}

// Close writes the journal into the file, syncs both and lets others open it.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.db.Close(), s.lock.Close()); err != nil {
		return fmt.Errorf("close spool %s: %w", s.file, err)
	}
	return nil
}
