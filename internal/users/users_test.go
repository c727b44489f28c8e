package users

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/database/databasetest"
)

func TestMain(m *testing.M) { databasetest.Main(m) }

const password = "correct horse battery"

var (
	home     = Origin{Address: "192.0.2.1"}
	stranger = Origin{Address: "198.51.100.7"}
	boss     = By{"boss", "192.0.2.9"}
)

// fixture is a store whose clock stands still until it is moved.
type fixture struct {
	*Store
	t      *testing.T
	at     atomic.Int64 // microseconds
	hashes atomic.Int64
}

// each runs a test on both databases.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	databasetest.Each(t, func(t *testing.T, address string) { test(t, open(t, address)) })
}

func open(t *testing.T, address string) *fixture {
	t.Helper()
	db, err := database.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	f := &fixture{t: t}
	f.at.Store(time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC).UnixMicro())
	now := func() time.Time { return time.UnixMicro(f.at.Load()) }
	f.Store = New(db, audit.New(db, now), now)
	f.hashed = func() { f.hashes.Add(1) }
	return f
}

func (f *fixture) pass(d time.Duration) { f.at.Add(d.Microseconds()) }

// must gives what was done without an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// secret is that of the user's device.
func (f *fixture) secret(id string) string {
	f.t.Helper()
	var secret string
	if err := f.db.QueryRow("SELECT secret FROM users WHERE id = $1", id).Scan(&secret); err != nil {
		f.t.Fatal(err)
	}
	return secret
}

// code is what a device shows now.
func (f *fixture) code(secret string) string {
	f.t.Helper()
	return must[string](f.t)(totp.GenerateCode(secret, f.now()))
}

// ready adds a user who can log in, and gives their recovery codes. The code of
// the moment is taken by that.
func (f *fixture) ready(name string, role access.Role, tenants ...string) (User, []string) {
	f.t.Helper()
	_, link, err := f.Add(f.t.Context(), boss, name, role, tenants)
	if err != nil {
		f.t.Fatal(err)
	}
	pending := must[Pending](f.t)(f.Pending(f.t.Context(), link.Token))
	u, recovery, err := f.SetUp(f.t.Context(), home.Address, link.Token, "", password, f.code(pending.Secret))
	if err != nil {
		f.t.Fatal(err)
	}
	f.pass(30 * time.Second)
	return u, recovery
}

// logIn takes both steps.
func (f *fixture) logIn(o Origin, u User) (User, error) {
	f.t.Helper()
	now, err := f.Password(f.t.Context(), o, u.Name, password)
	if err != nil {
		return now, err
	}
	return f.Code(f.t.Context(), o, now, f.code(f.secret(u.ID)))
}

// noted gives the actions of the audit log after the first skip ones.
func (f *fixture) noted(skip int) []string {
	f.t.Helper()
	all, err := f.log.List(f.t.Context(), 0, 1000)
	if err != nil {
		f.t.Fatal(err)
	}
	slices.Reverse(all)
	var out []string
	for _, e := range all[skip:] {
		out = append(out, fmt.Sprintf("%s|%s|%s|%s|%s", e.Who, e.From, e.Action, e.Object, e.Detail))
	}
	return out
}

func limited(err error) bool {
	var l *Limited
	return errors.As(err, &l)
}

func TestFirstAdminByALink(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		var links []Link
		for range 3 { // pods start, and each prints one
			l, ok, err := f.First(ctx)
			if err != nil || !ok {
				t.Fatalf("First = %v, %v", ok, err)
			}
			links = append(links, l)
		}
		old := links[0]
		f.pass(forFirst)
		if _, err := f.Pending(ctx, old.Token); !errors.Is(err, ErrLink) {
			t.Errorf("an expired link: %v", err)
		}
		links = nil
		for range 4 {
			l, _, err := f.First(ctx)
			if err != nil {
				t.Fatal(err)
			}
			links = append(links, l)
		}
		// All are used at the same time: one makes an admin.
		var made atomic.Int64
		var all sync.WaitGroup
		var codes []string
		for _, l := range links {
			codes = append(codes, f.code(must[Pending](t)(f.Pending(ctx, l.Token)).Secret))
		}
		for i, l := range links {
			all.Go(func() {
				u, recovery, err := f.SetUp(ctx, home.Address, l.Token, fmt.Sprint("Admin", i), password, codes[i])
				switch {
				case err == nil && u.Role == access.Admin && u.SetUp && len(recovery) == recoveries && u.Name == fmt.Sprint("admin", i):
					made.Add(1)
				case !errors.Is(err, ErrLink):
					t.Errorf("SetUp = %+v, %d codes, %v", u, len(recovery), err)
				}
			})
		}
		all.Wait()
		if users := must[[]User](t)(f.List(ctx)); made.Load() != 1 || len(users) != 1 {
			t.Errorf("%d admins made, users %v; want one", made.Load(), users)
		}
		if _, ok, err := f.First(ctx); ok || err != nil {
			t.Errorf("First with a user = %v, %v", ok, err)
		}
	})
}

// A link works once, for its user, until it expires; what was wrong may be
// tried again.
func TestSetUp(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, link, err := f.Add(ctx, boss, "Ann@Example.com", access.Tenant, []string{"school"})
		if err != nil || u.Name != "ann@example.com" || u.SetUp {
			t.Fatalf("Add = %+v, %v", u, err)
		}
		pending := must[Pending](t)(f.Pending(ctx, link.Token))
		if pending.Name != u.Name {
			t.Errorf("the link is of %q", pending.Name)
		}
		good := f.code(pending.Secret)
		for name, test := range map[string]struct {
			token, password, code string
			want                  error
		}{
			"another link":     {"x", password, good, ErrLink},
			"short password":   {link.Token, "elevenchars", good, ErrPassword},
			"long password":    {link.Token, strings.Repeat("long ", 60), good, ErrPassword},
			"one letter":       {link.Token, "aaaaaaaaaaaaaaaaa", good, ErrPassword},
			"name as password": {link.Token, "Ann@example.com", good, ErrPassword},
			"wrong code":       {link.Token, password, "000000", ErrCode},
			"no code":          {link.Token, password, "", ErrCode},
		} {
			if test.want == ErrCode && test.code == good {
				continue
			}
			if _, _, err := f.SetUp(ctx, home.Address, test.token, "other", test.password, test.code); !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", name, err, test.want)
			}
		}
		if _, err := f.Password(ctx, home, u.Name, password); !errors.Is(err, ErrWrong) {
			t.Errorf("a user who is not set up logs in: %v", err)
		}
		var done atomic.Int64
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if set, _, err := f.SetUp(ctx, home.Address, link.Token, "other", password, good); err == nil && set.ID == u.ID && set.Name == u.Name {
					done.Add(1)
				} else if !errors.Is(err, ErrLink) {
					t.Errorf("SetUp = %+v, %v", set, err)
				}
			})
		}
		all.Wait()
		if done.Load() != 1 {
			t.Errorf("a link was used %d times", done.Load())
		}
		// The code that set the device up is used.
		pend, err := f.Password(ctx, home, u.Name, password)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Code(ctx, home, pend, good); !errors.Is(err, ErrWrong) {
			t.Errorf("the code of the set-up again: %v", err)
		}
		_, late, err := f.Add(ctx, boss, "late", access.Analyst, nil)
		if err != nil {
			t.Fatal(err)
		}
		f.pass(forUsers)
		if _, err := f.Pending(ctx, late.Token); !errors.Is(err, ErrLink) {
			t.Errorf("an expired link: %v", err)
		}
	})
}

func TestAddChecks(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.ready("ann", access.Admin)
		for _, test := range []struct {
			name    string
			role    access.Role
			tenants []string
			want    error
		}{
			{"", access.Analyst, nil, ErrName},
			{"-a", access.Analyst, nil, ErrName},
			{"a b", access.Analyst, nil, ErrName},
			{"é", access.Analyst, nil, ErrName},
			{strings.Repeat("a", 65), access.Analyst, nil, ErrName},
			{"<b>", access.Analyst, nil, ErrName},
			{"ANN", access.Analyst, nil, ErrTaken},
			{"bob", "", nil, ErrRole},
			{"bob", "root", nil, ErrRole},
			{"bob", access.Tenant, nil, ErrTenants},
			{"bob", access.Tenant, []string{""}, ErrTenants},
			{"bob", access.Analyst, []string{"school"}, ErrTenants},
		} {
			if _, _, err := f.Add(ctx, boss, test.name, test.role, test.tenants); !errors.Is(err, test.want) {
				t.Errorf("Add(%q, %q, %q) = %v, want %v", test.name, test.role, test.tenants, err, test.want)
			}
		}
		if _, err := f.Get(ctx, "nobody"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Get = %v", err)
		}
	})
}

func TestLogIn(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, _ := f.ready("ann", access.Tenant, "school", "o'ffice")
		if diff := cmp.Diff([]string{"school", "o'ffice"}, u.Viewer().Tenants); diff != "" {
			t.Errorf("tenants (-want +got):\n%s", diff)
		}
		before := len(f.noted(0))
		got, err := f.logIn(home, u)
		if err != nil || got.ID != u.ID {
			t.Fatalf("logIn = %+v, %v", got, err)
		}
		if _, err := f.Password(ctx, home, " ANN ", password); err != nil {
			t.Errorf("the name in capitals: %v", err)
		}
		for _, wrong := range []string{"", password + " ", strings.ToUpper(password), strings.Repeat("x", 1<<20)} {
			if _, err := f.Password(ctx, home, "ann", wrong); !errors.Is(err, ErrWrong) {
				t.Errorf("password %.30q: %v, want ErrWrong", wrong, err)
			}
		}
		want := []string{"ann|192.0.2.1|login|ann|"}
		for range 4 {
			want = append(want, "|192.0.2.1|login failed|ann|password")
		}
		if diff := cmp.Diff(want, f.noted(before)); diff != "" {
			t.Errorf("audit log (-want +got):\n%s", diff)
		}
	})
}

// Codes of the step before and after are taken, further ones are not; digits with
// a space are what apps show.
func TestCodesOfOneStep(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, _ := f.ready("ann", access.Analyst)
		f.pass(time.Hour)
		secret := f.secret(u.ID)
		for _, test := range []struct {
			steps int
			want  bool
		}{{-2, false}, {2, false}, {-1, true}, {0, true}, {1, true}} {
			code := must[string](t)(totp.GenerateCode(secret, f.now().Add(time.Duration(test.steps)*30*time.Second)))
			if ok, recovery, err := f.takeCode(ctx, f.db, u.ID, secret, " "+code[:3]+" "+code[3:]); ok != test.want || err != nil || recovery == test.want {
				t.Errorf("code of step %+d: %v, %v; want %v", test.steps, ok, err, test.want)
			}
		}
		// RFC 6238, appendix B, in six digits.
		seed := "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
		for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 20000000000: "353130"} {
			if step, err := stepOf(seed, want, time.Unix(at, 0)); err != nil || step != at/30 {
				t.Errorf("code %s at %d is of step %d, %v; want %d", want, at, step, err, at/30)
			}
		}
	})
}

// A code counts once, also if many come with it at the same time, and so does a
// recovery code.
func TestCodesCountOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, recovery := f.ready("ann", access.Analyst)
		for name, code := range map[string]string{"code": f.code(f.secret(u.ID)), "recovery code": strings.ToUpper(recovery[3])} {
			var taken atomic.Int64
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					ok, _, err := f.takeCode(ctx, f.db, u.ID, f.secret(u.ID), code)
					if err != nil {
						t.Error(err)
					}
					if ok {
						taken.Add(1)
					}
				})
			}
			all.Wait()
			if taken.Load() != 1 {
				t.Errorf("one %s was taken %d times", name, taken.Load())
			}
		}
		if left := must[int](t)(f.RecoveryLeft(ctx, u.ID)); left != recoveries-1 {
			t.Errorf("%d recovery codes left, want %d", left, recoveries-1)
		}
		other, _ := f.ready("bob", access.Analyst)
		if ok, _, err := f.takeCode(ctx, f.db, other.ID, f.secret(other.ID), recovery[4]); ok || err != nil {
			t.Errorf("a recovery code of another user is taken: %v", err)
		}
		fresh, err := f.NewRecovery(ctx, home, u, password)
		if err != nil || len(fresh) != recoveries {
			t.Fatalf("NewRecovery = %q, %v", fresh, err)
		}
		if ok, _, err := f.takeCode(ctx, f.db, u.ID, f.secret(u.ID), recovery[4]); ok || err != nil {
			t.Errorf("an old recovery code is taken: %v", err)
		}
		if ok, _, err := f.takeCode(ctx, f.db, u.ID, f.secret(u.ID), fresh[0]); !ok || err != nil {
			t.Errorf("a new recovery code is not taken: %v", err)
		}
	})
}

func TestRecoveryCodeLogsIn(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, recovery := f.ready("ann", access.Analyst)
		before := len(f.noted(0))
		for i := range 2 {
			step, err := f.Password(t.Context(), home, "ann", password)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Code(t.Context(), home, step, recovery[0])
			if (err == nil && got.ID == u.ID) != (i == 0) {
				t.Errorf("use %d of a recovery code: %v", i+1, err)
			}
		}
		want := []string{"ann|192.0.2.1|recovery code used|ann|", "ann|192.0.2.1|login|ann|", "|192.0.2.1|login failed|ann|code"}
		if diff := cmp.Diff(want, f.noted(before)); diff != "" {
			t.Errorf("audit log (-want +got):\n%s", diff)
		}
	})
}

// By what it does, nobody can tell whether there is a user: as many hashes are
// made, with the same work, and the answer is the same.
func TestUnknownUsersCostTheSame(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.ready("ann", access.Analyst)
		off, _ := f.ready("off", access.Analyst)
		if _, err := f.Change(ctx, boss, off.ID, access.Analyst, nil, true); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.Add(ctx, boss, "new", access.Analyst, nil); err != nil {
			t.Fatal(err)
		}
		if err := f.AddDemo(ctx, boss, "demo", access.Analyst, nil); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ann", "off", "new", "demo", "nobody", "", "é", strings.Repeat("x", 10_000)} {
			for what, try := range map[string]func() error{
				"Password": func() error { _, err := f.Password(ctx, stranger, name, "not the password"); return err },
				"NewToken": func() error { _, _, err := f.NewToken(ctx, stranger, name, "not the password", "123456"); return err },
			} {
				f.hashes.Store(0)
				f.pass(2 * time.Hour)
				if err := try(); err == nil || err.Error() != ErrWrong.Error() || f.hashes.Load() != 1 {
					t.Errorf("%s of %.20q: %v with %d hashes, want %v with 1", what, name, err, f.hashes.Load(), ErrWrong)
				}
			}
		}
	})
	if _, params, err := argon2id.CheckHash("", nobodys); err != nil || *params != *strength {
		t.Errorf("the hash of nobody has %+v, %v; want %+v", params, err, strength)
	}
	// A name that is nobody's may be a password.
	each(t, func(t *testing.T, f *fixture) {
		f.Password(t.Context(), stranger, "hunter2hunter2", "x")
		if got := f.noted(0); len(got) != 1 || strings.Contains(got[0], "hunter2") {
			t.Errorf("audit log %q", got)
		}
	})
}

// Hashes of less work are renewed when their user logs in, and not before.
func TestHashesGrow(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.ready("ann", access.Analyst)
		weak := *strength
		weak.Iterations, weak.Memory = 1, 1<<10
		old := must[string](t)(argon2id.CreateHash(password, &weak))
		if _, err := f.db.Exec("UPDATE users SET password = $1 WHERE id = $2", old, u.ID); err != nil {
			t.Fatal(err)
		}
		stored := func() (hash string) {
			if err := f.db.QueryRow("SELECT password FROM users WHERE id = $1", u.ID).Scan(&hash); err != nil {
				t.Fatal(err)
			}
			return hash
		}
		if _, err := f.Password(t.Context(), home, "ann", "not the password"); !errors.Is(err, ErrWrong) || stored() != old {
			t.Errorf("a wrong password: %v, and the hash is %s", err, stored())
		}
		if _, err := f.Password(t.Context(), home, "ann", password); err != nil {
			t.Fatal(err)
		}
		if hash := stored(); !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
			t.Errorf("after the log-in the hash is %s", hash)
		}
		if _, err := f.Password(t.Context(), home, "ann", password); err != nil {
			t.Errorf("with the new hash: %v", err)
		}
	})
}

// Log-ins take memory by turns; who waits for too long is told so.
func TestHashingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hashed := 0
		s := &Store{hashing: make(chan struct{}, hashers), hashed: func() { hashed++ }}
		var done []func()
		for range hashers {
			d, err := s.turn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			done = append(done, d)
		}
		began := time.Now()
		if _, err := s.turn(t.Context()); !errors.Is(err, ErrBusy) || time.Since(began) != queued {
			t.Errorf("turn without room = %v after %v, want ErrBusy after %v", err, time.Since(began), queued)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.turn(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("turn of who is gone = %v", err)
		}
		go func() {
			time.Sleep(queued / 2) // of the clock that stands still
			done[0]()
		}()
		if d, err := s.turn(t.Context()); err != nil {
			t.Errorf("turn once there is room: %v", err)
		} else {
			d()
		}
		if hashed != hashers+1 {
			t.Errorf("%d were let in, want %d", hashed, hashers+1)
		}
	})
}

// A log-in that could not be looked at is not one that failed, and one that comes
// to a long queue is refused at once.
func TestBusyIsNoFailure(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.ready("ann", access.Analyst)
		for range hashers {
			f.hashing <- struct{}{}
		}
		for range 3 * freeByAddress {
			ctx, cancel := context.WithCancel(t.Context())
			f.waiting.Store(0)
			var all sync.WaitGroup
			all.Go(func() {
				if _, err := f.Password(ctx, stranger, "ann", password); !errors.Is(err, context.Canceled) {
					t.Errorf("of who is gone: %v", err)
				}
			})
			for f.waiting.Load() == 0 {
				runtime.Gosched()
			}
			cancel()
			all.Wait()
		}
		f.waiting.Store(longestQueue)
		if _, err := f.Password(t.Context(), stranger, "ann", password); !errors.Is(err, ErrBusy) {
			t.Errorf("where many wait: %v", err)
		}
		f.waiting.Store(0)
		for range hashers {
			<-f.hashing
		}
		if _, err := f.logIn(stranger, u); err != nil {
			t.Errorf("once there is room: %v", err)
		}
	})
}

// A flood of names that are nobody's does not stay in the database.
func TestAttemptsAreForgottenByTime(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for i := range 10 {
			f.Password(t.Context(), Origin{Address: fmt.Sprintf("203.0.113.%d", i)}, fmt.Sprint("nobody", i), "wrong")
		}
		f.pass(forgotten + time.Second)
		f.Password(t.Context(), stranger, "nobody", "wrong")
		var n int
		if err := f.db.QueryRow("SELECT count(*) FROM attempts").Scan(&n); err != nil || n != 3 {
			t.Errorf("%d attempts, %v; want those of the last one, 3", n, err)
		}
	})
}

// A stranger does not keep a program out, and many of them guess ever more seldom.
func TestAStrangerDelaysNoProgram(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.ready("ann", access.Analyst)
		for i := range freeByPrograms {
			from := Origin{Address: fmt.Sprintf("203.0.%d.%d", i/250, i%250)}
			if i%2 == 0 {
				f.Password(t.Context(), from, "ann", "wrong")
			}
			if _, _, err := f.NewToken(t.Context(), from, "ann", "wrong", "000000"); !errors.Is(err, ErrWrong) {
				t.Fatalf("attempt %d: %v", i, err)
			}
		}
		if _, _, err := f.NewToken(t.Context(), home, "ann", password, f.code(f.secret(u.ID))); err != nil {
			t.Errorf("the program: %v", err)
		}
		f.pass(time.Minute)
		for range freeByAccount + 1 {
			f.NewToken(t.Context(), stranger, "ann", "wrong", "000000")
		}
		if _, _, err := f.NewToken(t.Context(), stranger, "ann", password, f.code(f.secret(u.ID))); !limited(err) {
			t.Errorf("a network that guesses: %v, want Limited", err)
		}
	})
}

// The delay of an account grows with its failures, is the same for all pods, ends,
// and is gone after a log-in. Other accounts are as before.
func TestDelayOfAnAccount(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, _ := f.ready("ann", access.Analyst)
		other, _ := f.ready("bob", access.Analyst)
		pod := New(f.db, f.log, f.now) // another one
		// Each from another address: only the account counts.
		n := 0
		from := func() Origin { n++; return Origin{Address: fmt.Sprintf("203.0.113.%d", n)} }
		for range freeByAccount {
			if _, err := f.Password(ctx, from(), "ann", "wrong"); !errors.Is(err, ErrWrong) {
				t.Fatalf("attempt %d: %v", n, err)
			}
		}
		var waits []time.Duration
		for range 13 {
			if _, err := pod.Password(ctx, from(), "Ann", "wrong"); !errors.Is(err, ErrWrong) {
				t.Fatalf("attempt %d after its delay: %v", n, err)
			}
			_, err := f.Password(ctx, from(), "ann", password)
			var l *Limited
			if !errors.As(err, &l) {
				t.Fatalf("attempt %d, too early: %v, want Limited", n, err)
			}
			waits = append(waits, l.Wait)
			f.pass(l.Wait)
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}
		for i := range want {
			want[i] *= time.Second
		}
		want = append(want, longestDelay, longestDelay, longestDelay)
		if diff := cmp.Diff(want, waits); diff != "" {
			t.Errorf("delays (-want +got):\n%s", diff)
		}
		if _, err := f.Password(ctx, from(), "bob", password); err != nil {
			t.Errorf("another account: %v", err)
		}
		if _, err := f.logIn(from(), u); err != nil {
			t.Errorf("the right password after the delay: %v", err)
		}
		for range freeByAccount {
			if _, err := f.Password(ctx, from(), "ann", "wrong"); !errors.Is(err, ErrWrong) {
				t.Errorf("after a log-in: %v", err)
			}
		}
		if _, err := f.logIn(from(), other); err != nil {
			t.Errorf("another account: %v", err)
		}
	})
}

// The first that comes too early is in the audit log, those after it are not: a
// stranger does not fill it.
func TestDelayedIsNotedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.ready("ann", access.Analyst)
		for range freeByAccount + 1 {
			f.Password(t.Context(), stranger, "ann", "wrong")
		}
		before := len(f.noted(0))
		for range 5 {
			if _, err := f.Password(t.Context(), stranger, "ann", password); !limited(err) {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]string{"|198.51.100.7|login delayed|ann|"}, f.noted(before)); diff != "" {
			t.Errorf("audit log (-want +got):\n%s", diff)
		}
	})
}

// Of many at the same time no more are looked at than one after the other.
func TestDelayAtTheSameTime(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.ready("ann", access.Analyst)
		step := must[User](t)(f.Password(t.Context(), stranger, "ann", password))
		var wrong, delayed atomic.Int64
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				switch _, err := f.Code(t.Context(), stranger, step, fmt.Sprint(i)); {
				case errors.Is(err, ErrWrong):
					wrong.Add(1)
				case limited(err):
					delayed.Add(1)
				default:
					t.Errorf("Code = %v", err)
				}
			})
		}
		all.Wait()
		if wrong.Load() > freeByAccount+1 || wrong.Load()+delayed.Load() != 40 {
			t.Errorf("%d codes of %s were looked at, %d were not", wrong.Load(), u.Name, delayed.Load())
		}
	})
}

// One address that tries many accounts is delayed, and log-ins of its own do not
// end that. A network of IPv6 is one address.
func TestDelayOfAnAddress(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, _ := f.ready("mallory", access.Analyst)
		victim, _ := f.ready("ann", access.Analyst)
		from := func(i int) Origin { return Origin{Address: fmt.Sprintf("2001:db8:0:1::%x", i)} }
		for i := range freeByAddress {
			if _, err := f.Password(ctx, from(i), fmt.Sprint("user", i), "wrong"); !errors.Is(err, ErrWrong) {
				t.Fatalf("attempt %d: %v", i, err)
			}
		}
		if _, err := f.logIn(from(1), u); err != nil {
			t.Fatalf("a log-in within what is free: %v", err)
		}
		if _, err := f.Password(ctx, from(2), "user0", "wrong"); !errors.Is(err, ErrWrong) {
			t.Fatal(err)
		}
		if _, err := f.Password(ctx, from(3), "user1", "wrong"); !limited(err) {
			t.Errorf("after a log-in of its own the address is not delayed: %v", err)
		}
		if _, err := f.Password(ctx, Origin{Address: "2001:db8:0:2::1"}, "ann", password); err != nil {
			t.Errorf("another network: %v", err)
		}
		f.pass(forgotten + time.Second)
		if _, err := f.logIn(from(4), victim); err != nil {
			t.Errorf("once it is forgotten: %v", err)
		}
	})
	for address, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::/64", "fe80::1%eth0": "fe80::/64", "x": "x"} {
		if got := network(address); got != want {
			t.Errorf("network(%s) = %s, want %s", address, got, want)
		}
	}
}

// While a stranger tries one account without end, its user logs in from a browser
// that has done so before.
func TestAStrangerLocksNobodyOut(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, _ := f.ready("ann", access.Analyst)
		f.ready("bob", access.Analyst)
		known := home
		var err error
		if known.Device, _, err = f.Remember(ctx, u.ID); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			f.Password(ctx, home, "ann", "wrong") // of the very address of the user
		}
		if _, err := f.logIn(home, u); !limited(err) {
			t.Fatalf("another browser of the address: %v, want Limited", err)
		}
		if _, err := f.logIn(known, u); err != nil {
			t.Errorf("the browser that is known: %v", err)
		}
		for range freeByAccount + 1 {
			f.Password(ctx, known, "bob", "wrong")
		}
		if _, err := f.Password(ctx, home, "bob", password); !limited(err) {
			t.Errorf("what it does to another account counts as a stranger's: %v, want Limited", err)
		}
		// What a known browser gets wrong delays it, too, and it alone.
		stolen := Origin{Address: "203.0.113.5", Device: known.Device}
		for range freeByAccount + 1 {
			if _, err := f.Password(ctx, stolen, "ann", "wrong"); !errors.Is(err, ErrWrong) {
				t.Fatal(err)
			}
		}
		if _, err := f.Password(ctx, stolen, "ann", password); !limited(err) {
			t.Errorf("a known browser guesses on: %v", err)
		}
		f.pass(remembered)
		for range freeByAccount + 1 {
			f.Password(ctx, home, "ann", "wrong")
		}
		if _, err := f.logIn(known, u); !limited(err) {
			t.Errorf("a browser that was known 90 days ago: %v, want Limited", err)
		}
	})
}

// What logged in is so no more once the user is another.
func TestChangesEndWhatIsLoggedIn(t *testing.T) {
	change := func(f *fixture, u User, role access.Role, tenants []string, disabled bool) error {
		_, err := f.Change(f.t.Context(), boss, u.ID, role, tenants, disabled)
		return err
	}
	for name, do := range map[string]func(f *fixture, u User) error{
		"disabled": func(f *fixture, u User) error { return change(f, u, access.Tenant, u.Tenants, true) },
		"role":     func(f *fixture, u User) error { return change(f, u, access.Analyst, nil, false) },
		"tenants":  func(f *fixture, u User) error { return change(f, u, access.Tenant, []string{"office"}, false) },
		"reset":    func(f *fixture, u User) error { _, _, err := f.Reset(f.t.Context(), boss, u.ID); return err },
		"log out everywhere": func(f *fixture, u User) error {
			_, err := f.LogOut(f.t.Context(), By{u.Name, "192.0.2.1"}, u.ID)
			return err
		},
		"password": func(f *fixture, u User) error {
			_, err := f.SetPassword(f.t.Context(), home, u, password, "another long password")
			return err
		},
		"codes": func(f *fixture, u User) error {
			secret := NewSecret()
			_, err := f.SetCodes(f.t.Context(), home, u, password, secret, f.code(secret))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, f *fixture) {
				ctx := t.Context()
				u, _ := f.ready("ann", access.Tenant, "school")
				bystander, _ := f.ready("bob", access.Analyst)
				f.pass(time.Minute)
				token, _, err := f.NewToken(ctx, home, "ann", password, f.code(f.secret(u.ID)))
				if err != nil {
					t.Fatal(err)
				}
				others, _, err := f.NewToken(ctx, home, "bob", password, f.code(f.secret(bystander.ID)))
				if err != nil {
					t.Fatal(err)
				}
				kept := f.Sessions()
				session := func(id string) []byte {
					return must[[]byte](t)(kept.Encode(f.now().Add(SessionLasts), map[string]any{UserKey: id}))
				}
				for hash, id := range map[string]string{"anns": u.ID, "bobs": bystander.ID} {
					if err := kept.CommitCtx(ctx, hash, session(id), f.now().Add(SessionLasts)); err != nil {
						t.Fatal(err)
					}
				}
				half := must[User](t)(f.Password(ctx, home, "ann", password))

				if err := do(f, u); err != nil {
					t.Fatal(err)
				}
				now := must[User](t)(f.Get(ctx, u.ID))
				if now.Epoch <= u.Epoch {
					t.Errorf("epoch %d, before %d", now.Epoch, u.Epoch)
				}
				if _, err := f.Bearer(ctx, token.Text); !errors.Is(err, ErrNotFound) {
					t.Errorf("the token is that of %v", err)
				}
				if _, found, err := kept.FindCtx(ctx, "anns"); found || err != nil {
					t.Errorf("the session is there: %v", err)
				}
				// A request that was on its way writes what it had.
				if err := kept.CommitCtx(ctx, "anns", session(u.ID), f.now().Add(SessionLasts)); err != nil {
					t.Error(err)
				}
				if _, found, err := kept.FindCtx(ctx, "anns"); found || err != nil {
					t.Errorf("the session came back: %v", err)
				}
				f.pass(time.Minute)
				code := "000000"
				if secret := f.secret(u.ID); secret != "" {
					code = f.code(secret)
				}
				if _, err := f.Code(ctx, home, half, code); !errors.Is(err, ErrWrong) {
					t.Errorf("who had shown the password before: %v", err)
				}
				if _, found, err := kept.FindCtx(ctx, "bobs"); !found || err != nil {
					t.Errorf("the session of another user: %v, %v", found, err)
				}
				if _, err := f.Bearer(ctx, others.Text); err != nil {
					t.Errorf("the token of another user: %v", err)
				}
			})
		})
	}
}

func TestReset(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, recovery := f.ready("ann", access.Analyst)
		before := f.secret(u.ID)
		_, first, err := f.Reset(ctx, boss, u.ID)
		if err != nil {
			t.Fatal(err)
		}
		_, link, err := f.Reset(ctx, boss, u.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Pending(ctx, first.Token); !errors.Is(err, ErrLink) {
			t.Errorf("the link of an earlier reset: %v", err)
		}
		if _, err := f.Password(ctx, home, "ann", password); !errors.Is(err, ErrWrong) {
			t.Errorf("the old password: %v", err)
		}
		pending := must[Pending](t)(f.Pending(ctx, link.Token))
		if pending.Secret == before {
			t.Error("the secret is the old one")
		}
		if _, fresh, err := f.SetUp(ctx, home.Address, link.Token, "", password, f.code(pending.Secret)); err != nil || slices.Contains(fresh, recovery[0]) {
			t.Errorf("SetUp = %q, %v", fresh, err)
		}
		f.pass(30 * time.Second)
		if _, err := f.logIn(home, u); err != nil {
			t.Errorf("after the reset: %v", err)
		}
		if _, _, err := f.Reset(ctx, boss, "nobody"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Reset of nobody = %v", err)
		}
	})
}

// Somebody can always administer.
func TestTheLastAdminStays(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		a, _ := f.ready("a", access.Admin)
		if _, err := f.Change(ctx, boss, a.ID, access.Analyst, nil, false); !errors.Is(err, ErrLastAdmin) {
			t.Errorf("the only admin becomes an analyst: %v", err)
		}
		if _, _, err := f.Add(ctx, boss, "not-set-up", access.Admin, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Change(ctx, boss, a.ID, access.Admin, nil, true); !errors.Is(err, ErrLastAdmin) {
			t.Errorf("the only admin who can log in is disabled: %v", err)
		}
		if u := must[User](t)(f.Get(ctx, a.ID)); u.Role != access.Admin || u.Disabled || u.Epoch != a.Epoch {
			t.Errorf("a refused change has changed %+v", u)
		}
		b, _ := f.ready("b", access.Admin)
		var all sync.WaitGroup
		var refused atomic.Int64
		for _, u := range []User{a, b} {
			all.Go(func() {
				if _, err := f.Change(ctx, boss, u.ID, access.Admin, nil, true); errors.Is(err, ErrLastAdmin) {
					refused.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if refused.Load() != 1 {
			t.Errorf("of two admins who disable each other %d are refused, want 1", refused.Load())
		}
	})
}

func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, _ := f.ready("ann", access.Analyst)
		code := f.code(f.secret(u.ID))
		if _, _, err := f.NewToken(ctx, home, "ann", "wrong password", code); !errors.Is(err, ErrWrong) {
			t.Errorf("a wrong password: %v", err)
		}
		if _, _, err := f.NewToken(ctx, home, "ann", password, "000000"); !errors.Is(err, ErrWrong) {
			t.Errorf("a wrong code: %v", err)
		}
		// The attempt with a wrong password has not used up the code.
		token, got, err := f.NewToken(ctx, home, "ann", password, code)
		if err != nil || got.ID != u.ID {
			t.Fatalf("NewToken = %+v, %v", got, err)
		}
		if _, _, err := f.NewToken(ctx, home, "ann", password, code); !errors.Is(err, ErrWrong) {
			t.Errorf("the code again: %v", err)
		}
		var stored int
		if err := f.db.QueryRow("SELECT count(*) FROM tokens WHERE hash = $1", token.Text).Scan(&stored); err != nil || stored != 0 {
			t.Errorf("the token is in the database as it is: %v", err)
		}
		if got, err := f.Bearer(ctx, token.Text); err != nil || got.ID != u.ID {
			t.Errorf("Bearer = %+v, %v", got, err)
		}
		if _, err := f.Bearer(ctx, ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("no token: %v", err)
		}
		if err := f.Revoke(ctx, By{"ann", "192.0.2.1"}, token.Text); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Bearer(ctx, token.Text); !errors.Is(err, ErrNotFound) {
			t.Errorf("a revoked token: %v", err)
		}
		f.pass(time.Minute)
		token, _, err = f.NewToken(ctx, home, "ann", password, f.code(f.secret(u.ID)))
		if err != nil {
			t.Fatal(err)
		}
		f.pass(tokenLasts)
		if _, err := f.Bearer(ctx, token.Text); !errors.Is(err, ErrNotFound) {
			t.Errorf("an expired token: %v", err)
		}
	})
}

// A session ends when it is idle, when it is old, and when it is ended; while it is
// used it stays.
func TestSessions(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, _ := f.ready("ann", access.Analyst)
		kept := f.Sessions()
		begin := func(hash string) {
			t.Helper()
			data := must[[]byte](t)(kept.Encode(f.now().Add(SessionLasts), map[string]any{UserKey: u.ID, "address": "192.0.2.1"}))
			if err := kept.CommitCtx(ctx, hash, data, f.now().Add(SessionLasts)); err != nil {
				t.Fatal(err)
			}
		}
		found := func(hash string) bool {
			t.Helper()
			_, ok, err := kept.FindCtx(ctx, hash)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		begin("idle")
		begin("used")
		for range 2 * int(sessionIdle/time.Minute) / 45 {
			f.pass(45 * time.Minute)
			if !found("used") {
				t.Fatal("a session that is used has ended")
			}
		}
		if found("idle") {
			t.Error("an idle session goes on")
		}
		all, err := f.SessionsOf(ctx, u.ID)
		if err != nil {
			t.Fatal(err)
		}
		want := []Session{{Values: map[string]string{UserKey: u.ID, "address": "192.0.2.1"}}}
		if diff := cmp.Diff(want, all, cmpopts.IgnoreFields(Session{}, "CreatedAt", "SeenAt")); diff != "" {
			t.Errorf("SessionsOf (-want +got):\n%s", diff)
		}
		for range 24 {
			f.pass(30 * time.Minute)
			found("used")
		}
		if found("used") {
			t.Error("a session goes on for longer than it lasts")
		}
		begin("ended")
		if err := kept.DeleteCtx(ctx, "ended"); err != nil {
			t.Fatal(err)
		}
		begin("ended") // by a request that was on its way
		if found("ended") {
			t.Error("a session that was ended came back")
		}
		if err := f.tidy(ctx); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := f.db.QueryRow("SELECT count(*) FROM sessions").Scan(&n); err != nil || n != 1 {
			t.Errorf("%d sessions are kept, %v; want the one that has not expired", n, err)
		}
	})
}

// What must not be in the database as it is.
func TestNothingToLogInWithIsStored(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		u, recovery := f.ready("ann", access.Admin)
		device, _, err := f.Remember(ctx, u.ID)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := f.NewToken(ctx, home, "ann", password, f.code(f.secret(u.ID)))
		if err != nil {
			t.Fatal(err)
		}
		_, link, err := f.Add(ctx, boss, "bob", access.Analyst, nil)
		if err != nil {
			t.Fatal(err)
		}
		var dump bytes.Buffer
		for table, columns := range map[string]string{"users": "password || secret", "recovery_codes": "hash", "devices": "hash", "tokens": "hash", "links": "hash", "audit": "object || detail"} {
			rows, err := f.db.Query("SELECT " + columns + " FROM " + table)
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				var s string
				if err := rows.Scan(&s); err != nil {
					t.Fatal(err)
				}
				dump.WriteString(s + "\n")
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.Contains(dump.String(), f.secret(u.ID)) {
			t.Fatal("the dump lacks what is stored")
		}
		for what, text := range map[string]string{"password": password, "recovery code": recovery[0], "typed recovery code": typed(recovery[0]), "device": device, "token": token.Text, "link": link.Token} {
			if strings.Contains(dump.String(), text) {
				t.Errorf("the %s is stored as it is", what)
			}
		}
	})
}

func TestDemoUsers(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		for range 2 {
			if err := f.AddDemo(ctx, boss, "admin", access.Admin, nil); err != nil {
				t.Fatal(err)
			}
		}
		demo := must[User](t)(f.Named(ctx, "admin"))
		if none := must[bool](t)(f.None(ctx)); !none || !demo.Demo {
			t.Errorf("None = %v with %+v", none, demo)
		}
		if u, err := f.Enter(ctx, home, demo.ID); err != nil || u.ID != demo.ID {
			t.Errorf("Enter = %+v, %v", u, err)
		}
		if _, _, err := f.Reset(ctx, boss, demo.ID); !errors.Is(err, ErrDemo) {
			t.Errorf("Reset = %v", err)
		}
		u, _ := f.ready("ann", access.Analyst)
		if _, err := f.Enter(ctx, home, u.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("a user with a password enters without it: %v", err)
		}
	})
}

// The picture is read by what reads QR codes, and says what apps have to know.
func TestPicture(t *testing.T) {
	const secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
	for _, test := range []struct{ name, host, account string }{
		{"ann", "portal.example.com", "ann@portal.example.com"},
		{"ann+x@example.com", "portal.example.com", "ann+x@example.com"},
		{"", "", "admin"},
	} {
		file, err := Picture(secret, test.name, test.host)
		if err != nil {
			t.Fatal(err)
		}
		image, err := png.Decode(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		bitmap, err := gozxing.NewBinaryBitmapFromImage(image)
		if err != nil {
			t.Fatal(err)
		}
		read, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
		if err != nil {
			t.Fatal(err)
		}
		key, err := otp.NewKeyFromURL(read.GetText())
		if err != nil || key.Type() != "totp" || key.Secret() != secret || key.AccountName() != test.account || key.Issuer() != "Telemesh" || key.Period() != 30 || key.Digits() != 6 {
			t.Errorf("the picture says %s, %v", read.GetText(), err)
		}
	}
}

// Two pods on one database find one order of what they do.
func TestAuditOfUsersIsOneChain(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		pod := New(f.db, f.log, f.now)
		f.ready("ann", access.Admin)
		var all sync.WaitGroup
		for i, s := range []*Store{f.Store, pod, f.Store, pod} {
			all.Go(func() {
				for j := range 5 {
					if _, _, err := s.Add(t.Context(), boss, fmt.Sprintf("u%d-%d", i, j), access.Analyst, nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if head, err := f.log.Verify(t.Context()); err != nil || head.Seq != 22 {
			t.Errorf("Verify = %v, %v; want 22 entries", head, err)
		}
	})
}
