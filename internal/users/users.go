// Package users knows who may use the portal: their accounts, how they show who
// they are, and for how long that is believed.
//
// A user has a password and a device that makes one-time codes (RFC 6238); ten
// recovery codes stand in for the device, each once. An admin adds a user and
// hands over a link, by which the user sets both up; nobody else ever knows
// them. What a session or a token shows counts until it expires, and ends at
// once when the user is disabled, reset, given another role or other tenants, or
// changes the password: each such change begins a new epoch of the user.
//
// The package claims that
//   - a password is never stored, but as argon2id; of codes, links, sessions and
//     tokens a hash is. The secret of one-time codes is stored as it is, since
//     codes are computed from it: who reads the database can make them;
//   - a code, a recovery code and a link work once, however many use them at the
//     same time, of however many pods;
//   - log-ins that fail are looked at ever more seldom, by account and by address,
//     and what strangers do does not delay a browser that the user has logged in
//     from before;
//   - an unknown name costs the same work as a known one;
//   - each change and each attempt is in the audit log.
package users

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/database"
)

// Store is the users of a database.
type Store struct {
	db  *database.DB
	log *audit.Log
	now func() time.Time
	// hashing has room for each password that is hashed at a time: each takes
	// memory of its own.
	hashing chan struct{}
	waiting atomic.Int64 // for that
	tidied  atomic.Int64 // when what has expired was deleted last, in microseconds
	hashed  func()       // called for each password that is hashed; for tests
}

// New gives the users of a database. now is time.Now, but in tests.
func New(db *database.DB, log *audit.Log, now func() time.Time) *Store {
	return &Store{db: db, log: log, now: now, hashing: make(chan struct{}, hashers), hashed: func() {}}
}

// User is an account.
type User struct {
	ID                   string
	Name                 string // that they log in with
	Role                 access.Role
	Tenants              []string // of the role tenant: those whose data they see
	Disabled             bool
	Demo                 bool // entered without a password where the portal is for trying out, and nowhere else
	SetUp                bool // has a password and a device for codes
	Epoch                int64
	CreatedAt, ChangedAt time.Time
}

// Viewer is the user as package access sees them.
func (u User) Viewer() access.Viewer {
	return access.Viewer{ID: u.ID, Name: u.Name, Role: u.Role, Tenants: u.Tenants}
}

// By is who makes a change, for the audit log.
type By struct{ Who, From string }

// The errors of what cannot be done as asked; their texts are for who asked.
var (
	ErrNotFound  = errors.New("there is no such user")
	ErrTaken     = errors.New("there is a user of this name")
	ErrName      = errors.New("a name has 1 to 64 of a-z, 0-9 and . _ @ + -, and begins with a letter or digit")
	ErrRole      = errors.New("a role is admin, analyst or tenant")
	ErrTenants   = errors.New("a user of the role tenant has one tenant or more, one of another role has none")
	ErrLastAdmin = errors.New("this is the only admin who can log in: make another one first")
	ErrLink      = errors.New("this link does not work any more: it works once, and for a limited time")
	ErrDemo      = errors.New("a user of the demo has no password and no codes")
)

var named = regexp.MustCompile(`^[a-z0-9][a-z0-9._@+-]{0,63}$`)

// fold is the name as it is stored: people do not mind its case.
func fold(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

// nobody says of a name or an ID that there cannot be such a user: a database need
// not take it.
func nobody(name, id string) bool {
	return name != "" && !named.MatchString(name) || id != "" && uuid.Validate(id) != nil
}

func check(role access.Role, tenants []string) error {
	if role != access.Admin && role != access.Analyst && role != access.Tenant {
		return ErrRole
	}
	if (role == access.Tenant) != (len(tenants) > 0) || slices.ContainsFunc(tenants, noTenant) {
		return ErrTenants
	}
	return nil
}

func noTenant(id string) bool {
	return id == "" || strings.Contains(id, "\x00") || !utf8.ValidString(id)
}

const (
	userColumns = "SELECT id, name, role, tenants, disabled, demo, password <> '' AND secret <> '', epoch, created_at, changed_at FROM users "
	userByID    = userColumns + "WHERE id = $1"
	userByName  = userColumns + "WHERE name = $1"
)

// queryer is a database or a transaction.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func scanUser(scan func(...any) error) (u User, err error) {
	var tenants string
	var created, changed int64
	err = scan(&u.ID, &u.Name, &u.Role, &tenants, &u.Disabled, &u.Demo, &u.SetUp, &u.Epoch, &created, &changed)
	if errors.Is(err, sql.ErrNoRows) {
		return u, ErrNotFound
	}
	if err != nil {
		return u, fmt.Errorf("read user: %w", err)
	}
	u.CreatedAt, u.ChangedAt = time.UnixMicro(created).UTC(), time.UnixMicro(changed).UTC()
	if err := json.Unmarshal([]byte(tenants), &u.Tenants); err != nil {
		return u, fmt.Errorf("read user %s: tenants: %w", u.ID, err)
	}
	return u, nil
}

// Get gives a user by ID, or ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (User, error) {
	if nobody("", id) {
		return User{}, ErrNotFound
	}
	return scanUser(s.db.QueryRowContext(ctx, userByID, id).Scan)
}

// Named gives a user by name, or ErrNotFound.
func (s *Store) Named(ctx context.Context, name string) (User, error) {
	if name = fold(name); nobody(name, "") {
		return User{}, ErrNotFound
	}
	return scanUser(s.db.QueryRowContext(ctx, userByName, name).Scan)
}

// List gives all users by name.
func (s *Store) List(ctx context.Context) ([]User, error) {
	rows, err := s.db.QueryContext(ctx, userColumns+"ORDER BY name")
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	defer rows.Close()
	var all []User
	for rows.Next() {
		u, err := scanUser(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return all, nil
}

// None says whether nobody could ever log in: there are no users, but those of
// the demo.
func (s *Store) None(ctx context.Context) (bool, error) { return none(ctx, s.db) }

func none(ctx context.Context, q queryer) (bool, error) {
	var n int
	if err := q.QueryRowContext(ctx, "SELECT count(*) FROM users WHERE NOT demo").Scan(&n); err != nil {
		return false, fmt.Errorf("count users: %w", err)
	}
	return n == 0, nil
}

// Add makes a user, who sets up what they log in with by the link.
func (s *Store) Add(ctx context.Context, by By, name string, role access.Role, tenants []string) (u User, link Link, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if u, err = s.insert(ctx, tx, name, role, tenants, false); err != nil {
			return err
		}
		if link, err = s.link(ctx, tx, u.ID, forUsers); err != nil {
			return err
		}
		return s.note(ctx, tx, by, audit.UserAdded, u)
	})
	return u, link, err
}

// AddDemo sees that there is a user who enters the demo without a password.
func (s *Store) AddDemo(ctx context.Context, by By, name string, role access.Role, tenants []string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		u, err := s.insert(ctx, tx, name, role, tenants, true)
		if errors.Is(err, ErrTaken) {
			return nil
		}
		if err != nil {
			return err
		}
		return s.note(ctx, tx, by, audit.UserAdded, u)
	})
}

func (s *Store) insert(ctx context.Context, tx *sql.Tx, name string, role access.Role, tenants []string, demo bool) (User, error) {
	if name = fold(name); !named.MatchString(name) {
		return User{}, ErrName
	}
	if err := check(role, tenants); err != nil {
		return User{}, err
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	u := User{ID: uuid.NewString(), Name: name, Role: role, Tenants: tenants, Demo: demo, CreatedAt: now, ChangedAt: now}
	result, err := tx.ExecContext(ctx, `INSERT INTO users (id, name, role, tenants, disabled, demo, password, secret, step, epoch, created_at, changed_at)
		VALUES ($1, $2, $3, $4, FALSE, $5, '', '', 0, 0, $6, $6) ON CONFLICT (name) DO NOTHING`,
		u.ID, u.Name, string(role), list(tenants), demo, now.UnixMicro())
	if err != nil {
		return User{}, fmt.Errorf("add user %s: %w", name, err)
	}
	if added, err := one(result, err); err != nil || !added {
		return User{}, errors.Join(err, ErrTaken)
	}
	return u, nil
}

// one says whether a statement changed a row.
func one(result sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

func list(tenants []string) string {
	if tenants == nil {
		tenants = []string{}
	}
	text, err := json.Marshal(tenants)
	if err != nil {
		panic(err) // of texts
	}
	return string(text)
}

func (s *Store) note(ctx context.Context, tx *sql.Tx, by By, action audit.Action, u User) error {
	detail := "role " + string(u.Role)
	if len(u.Tenants) > 0 {
		detail += ", tenants " + strings.Join(u.Tenants, ", ")
	}
	if u.Disabled {
		detail += ", disabled"
	}
	if u.Demo {
		detail += ", of the demo"
	}
	return s.log.AppendIn(ctx, tx, audit.Entry{Who: by.Who, From: by.From, Action: action, Object: u.Name, Detail: detail})
}

// Change gives a user another role, other tenants, or takes or gives back the
// right to log in. The user's sessions and tokens end.
func (s *Store) Change(ctx context.Context, by By, id string, role access.Role, tenants []string, disabled bool) (u User, err error) {
	if err := check(role, tenants); err != nil {
		return User{}, err
	}
	if nobody("", id) {
		return User{}, ErrNotFound
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		before, err := scanUser(tx.QueryRowContext(ctx, userByID, id).Scan)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE users SET role = $2, tenants = $3, disabled = $4 WHERE id = $1", id, string(role), list(tenants), disabled)
		if err != nil {
			return fmt.Errorf("change user: %w", err)
		}
		if u, err = s.renew(ctx, tx, id); err != nil {
			return err
		}
		if err := s.note(ctx, tx, by, audit.UserChanged, u); err != nil {
			return err
		}
		if administers(before) && !administers(u) {
			return anAdmin(ctx, tx)
		}
		return nil
	})
	return u, err
}

// administers says whether the user can log in as an admin.
func administers(u User) bool { return u.Role == access.Admin && u.SetUp && !u.Disabled && !u.Demo }

// anAdmin refuses a change that leaves nobody to administer. It is asked after the
// change was noted, which no other transaction does before this one ends: two
// admins cannot disable each other at the same time.
func anAdmin(ctx context.Context, tx *sql.Tx) error {
	var left int
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM users WHERE role = 'admin' AND password <> '' AND secret <> '' AND NOT disabled AND NOT demo").Scan(&left)
	if err == nil && left == 0 {
		return ErrLastAdmin
	}
	return err
}

// renew begins a new epoch of a user: what was logged in is so no more.
func (s *Store) renew(ctx context.Context, tx *sql.Tx, id string) (User, error) {
	_, err := tx.ExecContext(ctx, "UPDATE users SET epoch = epoch + 1, changed_at = $2 WHERE id = $1", id, s.now().UnixMicro())
	if err == nil {
		_, err = tx.ExecContext(ctx, "UPDATE sessions SET ended = TRUE WHERE user_id = $1", id)
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM tokens WHERE user_id = $1", id)
	}
	if err != nil {
		return User{}, fmt.Errorf("change user: %w", err)
	}
	return scanUser(tx.QueryRowContext(ctx, userByID, id).Scan)
}

// Reset takes what a user logs in with away; the link sets it up anew.
func (s *Store) Reset(ctx context.Context, by By, id string) (u User, link Link, err error) {
	if nobody("", id) {
		return u, link, ErrNotFound
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE users SET password = '', secret = '', step = 0 WHERE id = $1", id)
		for _, table := range []string{"recovery_codes", "links", "devices"} {
			if err == nil {
				_, err = tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE user_id = $1", id)
			}
		}
		if err != nil {
			return fmt.Errorf("reset user: %w", err)
		}
		if u, err = s.renew(ctx, tx, id); err != nil {
			return err
		}
		if u.Demo {
			return ErrDemo
		}
		if link, err = s.link(ctx, tx, id, forUsers); err != nil {
			return err
		}
		return s.note(ctx, tx, by, audit.UserReset, u)
	})
	return u, link, err
}

// LogOut ends all sessions and tokens of a user, and gives the user for a new
// one.
func (s *Store) LogOut(ctx context.Context, by By, id string) (u User, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if u, err = s.renew(ctx, tx, id); err != nil {
			return err
		}
		return s.note(ctx, tx, by, audit.SessionsOut, u)
	})
	return u, err
}

// random is a text that nobody guesses: 256 bits.
func random() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// digest is what is stored of a random text. It needs no salt and no work: nobody
// can go through all of them.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
