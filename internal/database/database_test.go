package database

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/database/databasetest"
)

func TestMain(m *testing.M) { databasetest.Main(m) }

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
		all, err := steps(dialed(t, address).kind)
		if err != nil {
			t.Fatal(err)
		}
		for version := range all {
			address := databasetest.Another(t, address)
			if err := dialed(t, address).migrate(t.Context(), all[:version]); err != nil {
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

// A step that fails leaves nothing behind.
func TestMigratesWholeOrNotAtAll(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		db := dialed(t, address)
		err := db.migrate(t.Context(), []step{{1, "CREATE TABLE kept (x BIGINT)"}, {2, "CREATE TABLE other (x BIGINT); SELECT nothing FROM nowhere"}})
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
