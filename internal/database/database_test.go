package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/database/databasetest"
)

// Another process runs the statement of this variable of its environment on the
// database of its first argument.
const statement = "DATABASE_TEST_STATEMENT"

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(statement); ok {
		if err := outside(os.Args[1], text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	databasetest.Main(m)
}

// locked asks whether some process holds a lock on bytes of the file.
func locked(first, size int64) string { return fmt.Sprintf("locked %d %d", first, size) }

func outside(address, text string) error {
	lock := syscall.Flock_t{Type: syscall.F_WRLCK}
	if n, _ := fmt.Sscanf(text, "locked %d %d", &lock.Start, &lock.Len); n == 2 {
		f, err := os.Open(strings.TrimPrefix(address, "sqlite:"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
			return err
		}
		if lock.Type == syscall.F_UNLCK {
			return errors.New("nobody has the lock")
		}
		return nil
	}
	db, err := Open(context.Background(), address)
	if err != nil {
		return err
	}
	_, err = db.Exec(text)
	return errors.Join(err, db.Close())
}

// A process has its database open twice, as telemesh up does, and another one uses
// it meanwhile: what each writes the others see, and it stays.
func TestOpenTwiceAndElsewhere(t *testing.T) {
	address := "sqlite:" + filepath.Join(t.TempDir(), "portal.db")
	open := func() *DB {
		t.Helper()
		db, err := Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	elsewhere := func(text string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0], address)
		cmd.Env = append(os.Environ(), statement+"="+text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
	}
	has := func(db *DB, want int) {
		t.Helper()
		var n int
		if err := db.QueryRow("SELECT count(*) FROM t").Scan(&n); err != nil || n != want {
			t.Errorf("%d rows, %v; want %d", n, err, want)
		}
	}
	write := func(db *DB) {
		t.Helper()
		if _, err := db.Exec("INSERT INTO t (x) VALUES (1)"); err != nil {
			t.Error(err)
		}
	}
	portal := open()
	if _, err := portal.Exec("CREATE TABLE t (x BIGINT)"); err != nil {
		t.Fatal(err)
	}
	second := open()
	write(second)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	// SQLite's shared lock, as another process sees it: without it, one that closes
	// the file believes to be the last one, and deletes the journal.
	const sharedFirst, sharedSize = 0x40000000 + 2, 510
	elsewhere(locked(sharedFirst, sharedSize))
	elsewhere("SELECT count(*) FROM t")
	if program, err := exec.LookPath("sqlite3"); err == nil {
		if out, err := exec.CommandContext(t.Context(), program, strings.TrimPrefix(address, "sqlite:"), "SELECT count(*) FROM t").CombinedOutput(); err != nil {
			t.Errorf("sqlite3: %v\n%s", err, out)
		}
	}
	if _, err := os.Stat(strings.TrimPrefix(address, "sqlite:") + "-wal"); err != nil {
		t.Errorf("the journal of an open database: %v", err)
	}
	write(portal)
	elsewhere("INSERT INTO t (x) VALUES (1)")
	has(portal, 3)
	write(portal)
	elsewhere("INSERT INTO t (x) VALUES (1)")
	has(portal, 5)
	if err := portal.Close(); err != nil {
		t.Fatal(err)
	}
	again := open()
	defer again.Close()
	has(again, 5)
}

func dialed(t *testing.T, address string) *DB {
	t.Helper()
	db, err := dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestMigratesFromEachVersion(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		all, err := users.steps(dialed(t, address).kind)
		if err != nil {
			t.Fatal(err)
		}
		for version := range all {
			address := databasetest.Another(t, address)
			if err := dialed(t, address).migrate(t.Context(), users.Done, all[:version]); err != nil {
				t.Fatalf("to version %d: %v", version, err)
			}
			db, err := Open(t.Context(), address)
			if err != nil {
				t.Fatalf("from version %d: %v", version, err)
			}
			defer db.Close()
			var n, last int
			if err := db.QueryRow("SELECT count(*), max(version) FROM migrations").Scan(&n, &last); err != nil || n != len(all) || last != len(all) {
				t.Errorf("from version %d: %d migrations, the last %d, %v; want %d", version, n, last, err, len(all))
			}
		}
	})
}

// Pods start at the same time.
func TestMigratesOnce(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				db, err := Open(t.Context(), address)
				if err != nil {
					t.Error(err)
					return
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
}

func TestRefusesALaterVersion(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		db, err := Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec("INSERT INTO migrations (version, at) VALUES (1000, 0)"); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), address); !errors.Is(err, ErrNewer) {
			t.Errorf("Open = %v, want ErrNewer", err)
		}
	})
}

// Programs that share a database have their tables at versions of their own.
func TestProgramsShareADatabase(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		other := Tables{Of: "things", Done: "thing_migrations", Steps: fstest.MapFS{"migrations/0001_things.sql": {Data: []byte("CREATE TABLE things (x BIGINT)")}}}
		for range 2 {
			for _, tables := range []Tables{users, other} {
				db, err := OpenTables(t.Context(), address, tables)
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				for _, table := range []string{"users", "things"} {
					if tables.Of == "users" && table == "things" {
						continue
					}
					if _, err := db.Exec("SELECT * FROM " + table); err != nil {
						t.Errorf("%s beside %s: %v", table, tables.Of, err)
					}
				}
			}
		}
	})
}

// A step that fails leaves nothing behind.
func TestMigratesWholeOrNotAtAll(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		db := dialed(t, address)
		err := db.migrate(t.Context(), users.Done, []step{{1, "CREATE TABLE kept (x BIGINT)"}, {2, "CREATE TABLE other (x BIGINT); SELECT nothing FROM nowhere"}})
		if err == nil || !strings.Contains(err.Error(), "version 2") {
			t.Fatalf("migrate = %v", err)
		}
		if _, err := db.Exec("SELECT x FROM kept"); err == nil {
			t.Error("a table of a migration that failed is there")
		}
	})
}

func TestBothHaveTheSameTables(t *testing.T) {
	found := map[string][]string{}
	databasetest.Each(t, func(t *testing.T, address string) {
		db, err := Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		query := "SELECT table_name, column_name, upper(data_type), is_nullable = 'NO' FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
		if db.kind == sqlite {
			// A key says NOT NULL by being one.
			query = `SELECT m.name, c.name, c.type, c."notnull" OR c.pk > 0 FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY 1, 2`
		}
		rows, err := db.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var table, column, kind string
			var required bool
			if err := rows.Scan(&table, &column, &kind, &required); err != nil {
				t.Fatal(err)
			}
			found[db.kind] = append(found[db.kind], fmt.Sprintf("%s.%s %s %v", table, column, kind, required))
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	})
	if len(found[sqlite]) == 0 {
		t.Fatal("no tables")
	}
	if found[postgres] == nil {
		t.Skip("no PostgreSQL to compare with")
	}
	if diff := cmp.Diff(found[sqlite], found[postgres]); diff != "" {
		t.Errorf("columns (-SQLite +PostgreSQL):\n%s", diff)
	}
}

// The file holds what passwords and codes are made of.
func TestFileIsItsOwners(t *testing.T) {
	// What a URI would read as something else.
	file := filepath.Join(t.TempDir(), "of users?#%41 é.db")
	db, err := Open(t.Context(), "sqlite:"+file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	names, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*"))
	if err != nil || len(names) < 2 {
		t.Fatalf("files %q, %v", names, err)
	}
	for _, name := range names {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 || !strings.HasPrefix(name, file) {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, address := range []string{"", "sqlite:", "mysql://host/name", "portal.db"} {
		if _, err := Open(t.Context(), address); !errors.Is(err, ErrAddress) {
			t.Errorf("Open(%q) = %v, want ErrAddress", address, err)
		}
	}
	secret := "postgres://user:secret@host:port/name"
	if _, err := Open(t.Context(), secret); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("Open of an address that cannot be read = %v, want an error without the password", err)
	}
}

// A transaction that is refused leaves the connection as it was.
func TestTx(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		db := dialed(t, address)
		if _, err := db.Exec("CREATE TABLE t (x BIGINT)"); err != nil {
			t.Fatal(err)
		}
		refused := errors.New("refused")
		for _, want := range []error{refused, nil} {
			err := db.Tx(t.Context(), func(tx *sql.Tx) error {
				if _, err := tx.Exec("INSERT INTO t (x) VALUES (1)"); err != nil {
					return err
				}
				return want
			})
			if !errors.Is(err, want) {
				t.Errorf("Tx = %v, want %v", err, want)
			}
		}
		var n int
		if err := db.QueryRow("SELECT count(*) FROM t").Scan(&n); err != nil || n != 1 {
			t.Errorf("%d rows, %v; want 1", n, err)
		}
	})
}
