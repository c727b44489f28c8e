package audit_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/database/databasetest"
)

func TestMain(m *testing.M) { databasetest.Main(m) }

func open(t *testing.T, address string) *database.DB {
	t.Helper()
	db, err := database.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// fill appends n entries.
func fill(t *testing.T, l *audit.Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(t.Context(), audit.Entry{Who: "ann", From: "192.0.2.1", Action: audit.Query, Object: fmt.Sprint("table ", i), Detail: "SELECT 1"}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestList(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		l := audit.New(open(t, address), time.Now)
		if all, err := l.List(t.Context(), 0, 10); err != nil || len(all) != 0 {
			t.Errorf("List of an empty log = %v, %v", all, err)
		}
		fill(t, l, 5)
		all, err := l.List(t.Context(), 0, 2)
		if err != nil {
			t.Fatal(err)
		}
		want := []audit.Entry{
			{Seq: 5, Who: "ann", From: "192.0.2.1", Action: audit.Query, Object: "table 4", Detail: "SELECT 1"},
			{Seq: 4, Who: "ann", From: "192.0.2.1", Action: audit.Query, Object: "table 3", Detail: "SELECT 1"},
		}
		if diff := cmp.Diff(want, all, cmpopts.IgnoreFields(audit.Entry{}, "At", "Hash")); diff != "" {
			t.Errorf("List (-want +got):\n%s", diff)
		}
		if age := time.Since(all[0].At); age < 0 || age > time.Minute {
			t.Errorf("an entry of %v ago", age)
		}
		if all, err := l.List(t.Context(), 3, 10); err != nil || len(all) != 2 || all[0].Seq != 2 {
			t.Errorf("List before 3 = %v, %v", all, err)
		}
	})
}

// What strangers send is stored, and still the same when it is read.
func TestAnyBytes(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		l := audit.New(open(t, address), time.Now)
		for _, s := range []string{"", "a\x00b", "\xff\xfe", "é\u2028", strings.Repeat("é", 100_000), "x\x1b[2J"} {
			if err := l.Append(t.Context(), audit.Entry{Who: s, From: s, Action: audit.Action(s), Object: s, Detail: s}); err != nil {
				t.Errorf("Append %.20q: %v", s, err)
			}
		}
		if _, err := l.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		all, err := l.List(t.Context(), 0, 1)
		if err != nil || len(all) != 1 || strings.Contains(all[0].Detail, "\x1b") {
			t.Errorf("List = %v, %v", all, err)
		}
	})
}

// What was asked for is in the log whole, or not done.
func TestQueriesAreKeptWhole(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		l := audit.New(open(t, address), time.Now)
		for _, action := range []audit.Action{audit.Query, audit.Export} {
			for _, e := range []audit.Entry{
				{Detail: strings.Repeat("x", audit.MaxDetail+1)}, {Detail: "SELECT 1\x00"}, {Detail: "\xff"}, {Detail: "\x1b[2J"},
				{Detail: strings.Repeat(" ", audit.MaxDetail) + "FROM customers.customers"}, {Object: strings.Repeat("x", 513)},
			} {
				e.Action = action
				if err := l.Append(t.Context(), e); !errors.Is(err, audit.ErrNotKept) {
					t.Errorf("Append of %s %.20q %.20q: %v, want ErrNotKept", action, e.Object, e.Detail, err)
				}
			}
			whole := strings.Repeat("é", audit.MaxDetail/2)
			if err := l.Append(t.Context(), audit.Entry{Action: action, Detail: whole}); err != nil {
				t.Fatal(err)
			}
			if all, err := l.List(t.Context(), 0, 1); err != nil || len(all) != 1 || all[0].Detail != whole {
				t.Errorf("the log does not keep %d bytes whole: %v", audit.MaxDetail, err)
			}
		}
		if head, err := l.Verify(t.Context()); err != nil || head.Seq != 2 {
			t.Errorf("Verify = %v, %v; want 2 entries", head, err)
		}
	})
}

// Whoever goes away before the answer is in the log all the same.
func TestAppendsForWhoIsGone(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		l := audit.New(open(t, address), time.Now)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Append(gone, audit.Entry{Action: audit.LoginFailed}); err != nil {
			t.Error(err)
		}
	})
}

func TestOneChainOfMany(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		const pods, each = 4, 25
		var all sync.WaitGroup
		for range pods {
			l := audit.New(open(t, address), time.Now)
			all.Go(func() {
				for range each {
					if err := l.Append(t.Context(), audit.Entry{Action: audit.Login}); err != nil {
						t.Error(err)
					}
					if _, err := l.Verify(t.Context()); err != nil {
						t.Error(err) // also while others append
					}
				}
			})
		}
		all.Wait()
		if head, err := audit.New(open(t, address), time.Now).Verify(t.Context()); err != nil || head.Seq != pods*each {
			t.Errorf("Verify = %v, %v; want %d entries", head, err, pods*each)
		}
	})
}

// An entry of a transaction that is not kept is none.
func TestAppendIn(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		db := open(t, address)
		l := audit.New(db, time.Now)
		refused := errors.New("refused")
		err := db.Tx(t.Context(), func(tx *sql.Tx) error {
			return errors.Join(l.AppendIn(t.Context(), tx, audit.Entry{Action: audit.UserAdded}), refused)
		})
		if !errors.Is(err, refused) {
			t.Fatal(err)
		}
		fill(t, l, 1)
		if head, err := l.Verify(t.Context()); err != nil || head.Seq != 1 {
			t.Errorf("Verify = %v, %v", head, err)
		}
	})
}

// triggers are what the database refuses changes by.
var triggers = map[string][]string{
	"sqlite":   {"DROP TRIGGER audit_update", "DROP TRIGGER audit_delete", "DROP TRIGGER audit_insert", "DROP TRIGGER audit_head_delete", "DROP TRIGGER audit_head_update"},
	"postgres": {"ALTER TABLE audit DISABLE TRIGGER ALL", "ALTER TABLE audit_head DISABLE TRIGGER ALL"},
}

func TestAppendOnly(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		db := open(t, address)
		l := audit.New(db, time.Now)
		fill(t, l, 2)
		statements := []string{
			"UPDATE audit SET who = 'bob'", "UPDATE audit SET who = 'bob' WHERE seq = 1", "DELETE FROM audit", "DELETE FROM audit WHERE seq = 2",
			"DELETE FROM audit_head", "UPDATE audit_head SET seq = 0",
			"INSERT INTO audit SELECT seq, at, 'bob', origin, action, object, detail, previous, hash FROM audit",
		}
		if strings.HasPrefix(address, "sqlite:") {
			statements = append(statements, "REPLACE INTO audit SELECT seq, at, 'bob', origin, action, object, detail, previous, hash FROM audit")
		} else {
			statements = append(statements, "TRUNCATE audit", "TRUNCATE audit_head")
		}
		for _, s := range statements {
			if _, err := db.Exec(s); err == nil {
				t.Errorf("%s is not refused", s)
			}
		}
		if head, err := l.Verify(t.Context()); err != nil || head.Seq != 2 {
			t.Errorf("Verify = %v, %v", head, err)
		}
	})
}

// Who takes the triggers away can change the log, and is found.
func TestVerifyFindsTampering(t *testing.T) {
	tampering := map[string][]string{
		"number":            {"UPDATE audit SET seq = 100 WHERE seq = 3"},
		"instant":           {"UPDATE audit SET at = at + 1 WHERE seq = 3"},
		"who":               {"UPDATE audit SET who = 'bob' WHERE seq = 3"},
		"from where":        {"UPDATE audit SET origin = '192.0.2.2' WHERE seq = 3"},
		"action":            {"UPDATE audit SET action = 'login' WHERE seq = 3"},
		"object":            {"UPDATE audit SET object = 'x' WHERE seq = 3"},
		"detail":            {"UPDATE audit SET detail = '' WHERE seq = 3"},
		"moved text":        {"UPDATE audit SET object = object || detail, detail = '' WHERE seq = 3"},
		"previous hash":     {"UPDATE audit SET previous = '' WHERE seq = 3"},
		"hash":              {"UPDATE audit SET hash = '' WHERE seq = 3"},
		"first removed":     {"DELETE FROM audit WHERE seq = 1"},
		"removed":           {"DELETE FROM audit WHERE seq = 3"},
		"removed, numbered": {"DELETE FROM audit WHERE seq = 3", "UPDATE audit SET seq = 3 WHERE seq = 4", "UPDATE audit SET seq = 4 WHERE seq = 5"},
		"swapped":           {"UPDATE audit SET seq = 100 WHERE seq = 3", "UPDATE audit SET seq = 3 WHERE seq = 4", "UPDATE audit SET seq = 4 WHERE seq = 100"},
		"end removed":       {"DELETE FROM audit WHERE seq = 5"},
		"all removed":       {"DELETE FROM audit"},
		"head removed":      {"DELETE FROM audit_head"},
		"added":             {"INSERT INTO audit SELECT 6, at, who, origin, action, object, detail, hash, hash FROM audit WHERE seq = 5"},
	}
	databasetest.Each(t, func(t *testing.T, address string) {
		for name, statements := range tampering {
			t.Run(name, func(t *testing.T) {
				db := open(t, databasetest.Another(t, address))
				l := audit.New(db, time.Now)
				fill(t, l, 5)
				if head, err := l.Verify(t.Context()); err != nil || head.Seq != 5 {
					t.Fatalf("Verify = %v, %v", head, err)
				}
				kind, _, _ := strings.Cut(address, ":")
				for _, s := range append(triggers[kind], statements...) {
					if _, err := db.Exec(s); err != nil {
						t.Fatalf("%s: %v", s, err)
					}
				}
				if head, err := l.Verify(t.Context()); !errors.Is(err, audit.ErrTampered) {
					t.Errorf("Verify = %v, %v; want ErrTampered", head, err)
				}
			})
		}
	})
}

// What only an entry noted elsewhere tells: that the end was taken away with what
// says where it is, or that all of it was written anew.
func TestVerifyKnowsWhatWasNoted(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, address string) {
		db := open(t, address)
		l := audit.New(db, time.Now)
		fill(t, l, 5)
		noted, err := l.Verify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		again, err := audit.ParseHead(noted.String())
		if err != nil || again != noted {
			t.Errorf("ParseHead(%s) = %v, %v", noted, again, err)
		}
		fill(t, l, 1)
		if _, err := l.Verify(t.Context(), noted); err != nil {
			t.Errorf("Verify of a log that has grown: %v", err)
		}
		kind, _, _ := strings.Cut(address, ":")
		for _, s := range append(triggers[kind], "DELETE FROM audit WHERE seq > 2", "UPDATE audit_head SET seq = 2, hash = (SELECT hash FROM audit WHERE seq = 2)") {
			if _, err := db.Exec(s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		if _, err := l.Verify(t.Context()); err != nil {
			t.Errorf("Verify = %v: what is documented not to be found is", err)
		}
		if _, err := l.Verify(t.Context(), noted); !errors.Is(err, audit.ErrTampered) {
			t.Errorf("Verify of a log that was cut = %v, want ErrTampered", err)
		}
		fill(t, l, 4)
		if _, err := l.Verify(t.Context(), noted); !errors.Is(err, audit.ErrTampered) {
			t.Errorf("Verify of a log that was written anew = %v, want ErrTampered", err)
		}
	})
	for _, s := range []string{"", "5", "5:", "x:" + strings.Repeat("0", 64), "0:" + strings.Repeat("0", 64), ":"} {
		if h, err := audit.ParseHead(s); err == nil {
			t.Errorf("ParseHead(%q) = %v", s, h)
		}
	}
}
