package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/telemesh/telemesh/internal/audit"
)

// ErrWrong is that of a log-in that fails. It does not say what was wrong.
var ErrWrong = errors.New("name, password or code is wrong")

// Password is the first step of logging in. It gives ErrWrong, Limited or ErrBusy
// where it fails; the user whom it gives has still to show a code.
func (s *Store) Password(ctx context.Context, o Origin, name, password string) (User, error) {
	a, u, err := s.password(ctx, o, name, password, false)
	if err != nil {
		return User{}, err
	}
	return u, s.forgive(ctx, a, false)
}

// password looks at a name and a password, and gives the attempt as which it
// counts.
func (s *Store) password(ctx context.Context, o Origin, name, password string, program bool) (_ *attempt, _ User, err error) {
	if s.waiting.Load() >= longestQueue {
		return nil, User{}, ErrBusy // before it costs more
	}
	if name = fold(name); nobody(name, "") {
		name = "" // which is nobody's either
	}
	a, err := s.begin(ctx, o, name, program)
	if err != nil {
		return nil, User{}, err
	}
	defer func() { err = s.settle(ctx, a, err) }()
	var id, hash string
	err = s.db.QueryRowContext(ctx, "SELECT id, password FROM users WHERE name = $1 AND NOT disabled AND secret <> ''", name).Scan(&id, &hash)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, User{}, fmt.Errorf("log in: %w", err)
	}
	ok, weak, err := s.matches(ctx, password, hash)
	if err != nil {
		return nil, User{}, err
	}
	if !ok {
		return nil, User{}, s.failed(ctx, o, s.known(ctx, name), "password")
	}
	if weak {
		if hash, err = s.hash(ctx, password); err != nil {
			return nil, User{}, err
		}
		if _, err := s.db.ExecContext(ctx, "UPDATE users SET password = $2 WHERE id = $1", id, hash); err != nil {
			return nil, User{}, fmt.Errorf("log in: %w", err)
		}
	}
	u, err := s.Get(ctx, id)
	return a, u, err
}

func (s *Store) failed(ctx context.Context, o Origin, name, what string) error {
	return errors.Join(ErrWrong, s.log.Append(ctx, audit.Entry{From: o.Address, Action: audit.LoginFailed, Object: name, Detail: what}))
}

// Code is the second step of logging in: a one-time code or a recovery code of
// a user whom Password gave. It fails as Password does, and also where the user
// was changed since.
func (s *Store) Code(ctx context.Context, o Origin, u User, code string) (User, error) {
	a, err := s.begin(ctx, o, u.Name, false)
	if err != nil {
		return User{}, err
	}
	now, err := s.code(ctx, o, u, code)
	if err != nil {
		return User{}, s.settle(ctx, a, err)
	}
	return now, errors.Join(s.loggedIn(ctx, o, a, now, audit.Login), s.tidy(ctx))
}

func (s *Store) code(ctx context.Context, o Origin, u User, code string) (User, error) {
	var secret string
	err := s.db.QueryRowContext(ctx, "SELECT secret FROM users WHERE id = $1 AND epoch = $2 AND NOT disabled", u.ID, u.Epoch).Scan(&secret)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, s.failed(ctx, o, u.Name, "changed meanwhile")
	}
	if err != nil {
		return User{}, fmt.Errorf("log in: %w", err)
	}
	ok, recovery, err := s.takeCode(ctx, s.db, u.ID, secret, code)
	if err != nil {
		return User{}, err
	}
	if !ok {
		return User{}, s.failed(ctx, o, u.Name, "code")
	}
	if recovery {
		if err := s.log.Append(ctx, audit.Entry{Who: u.Name, From: o.Address, Action: audit.RecoveryUsed, Object: u.Name}); err != nil {
			return User{}, err
		}
	}
	return s.Get(ctx, u.ID)
}

func (s *Store) loggedIn(ctx context.Context, o Origin, a *attempt, u User, action audit.Action) error {
	if err := s.forgive(ctx, a, true); err != nil {
		return err
	}
	return s.log.Append(ctx, audit.Entry{Who: u.Name, From: o.Address, Action: action, Object: u.Name})
}

// Enter logs a user of the demo in. Whoever may call it needs no password.
func (s *Store) Enter(ctx context.Context, o Origin, id string) (User, error) {
	u, err := s.Get(ctx, id)
	if err != nil || !u.Demo || u.Disabled {
		return User{}, errors.Join(err, ErrNotFound)
	}
	return u, s.log.Append(ctx, audit.Entry{Who: u.Name, From: o.Address, Action: audit.Login, Object: u.Name, Detail: "of the demo, without a password"})
}

// LoggedOut notes that a user has ended a session.
func (s *Store) LoggedOut(ctx context.Context, by By) error {
	return s.log.Append(ctx, audit.Entry{Who: by.Who, From: by.From, Action: audit.Logout, Object: by.Who})
}

// tokenLasts is how long a bearer token works.
const tokenLasts = time.Hour

// Token is what a program shows instead of a session.
type Token struct {
	Text      string
	ExpiresAt time.Time
}

// NewToken gives a program, which has a user's name, password and a code, a token.
// It fails as Password and Code do.
func (s *Store) NewToken(ctx context.Context, o Origin, name, password, code string) (t Token, u User, err error) {
	a, u, err := s.password(ctx, o, name, password, true)
	if err != nil {
		return t, u, err
	}
	if u, err = s.code(ctx, o, u, code); err != nil {
		return t, User{}, s.settle(ctx, a, err)
	}
	t = Token{"tm_" + random(), s.now().Add(tokenLasts).UTC().Truncate(time.Microsecond)}
	_, err = s.db.ExecContext(ctx, "INSERT INTO tokens (hash, user_id, epoch, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
		digest(t.Text), u.ID, u.Epoch, s.now().UnixMicro(), t.ExpiresAt.UnixMicro())
	if err != nil {
		return Token{}, User{}, fmt.Errorf("make token: %w", err)
	}
	return t, u, errors.Join(s.loggedIn(ctx, o, a, u, audit.TokenMade), s.tidy(ctx))
}

// Bearer gives the user of a token, or ErrNotFound.
func (s *Store) Bearer(ctx context.Context, token string) (User, error) {
	return scanUser(s.db.QueryRowContext(ctx, userColumns+`WHERE NOT disabled AND NOT demo AND
		(id, epoch) = (SELECT user_id, epoch FROM tokens WHERE hash = $1 AND expires_at > $2)`, digest(token), s.now().UnixMicro()).Scan)
}

// Revoke ends a token.
func (s *Store) Revoke(ctx context.Context, by By, token string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		ended, err := one(tx.ExecContext(ctx, "DELETE FROM tokens WHERE hash = $1", digest(token)))
		if err != nil || !ended {
			return err
		}
		return s.log.AppendIn(ctx, tx, audit.Entry{Who: by.Who, From: by.From, Action: audit.TokenRevoked, Object: by.Who})
	})
}

// confirm sees that who has a session has the password, too.
func (s *Store) confirm(ctx context.Context, o Origin, u User, password string) error {
	a, _, err := s.password(ctx, o, u.Name, password, false)
	if err != nil {
		return err
	}
	return s.forgive(ctx, a, false)
}

// SetPassword gives a user who has the old password a new one. All sessions and
// tokens of the user end; the user whom it gives is for a new session. It fails as
// Password does, or with ErrPassword.
func (s *Store) SetPassword(ctx context.Context, o Origin, u User, old, fresh string) (User, error) {
	if err := acceptable(fresh, u.Name); err != nil {
		return User{}, err
	}
	return s.set(ctx, o, u, old, audit.Password, func(tx *sql.Tx, hash string) error {
		_, err := tx.ExecContext(ctx, "UPDATE users SET password = $2 WHERE id = $1", u.ID, hash)
		return err
	}, fresh)
}

// NewSecret is a secret for the one-time codes of a new device.
func NewSecret() string { return newSecret() }

// SetCodes makes a device that has secret, and shows so by a code, the one whose
// codes count. It asks for the password and ends sessions as SetPassword does,
// and gives ErrCode if it is not the device's code.
func (s *Store) SetCodes(ctx context.Context, o Origin, u User, password, secret, code string) (User, error) {
	step, err := stepOf(secret, typed(code), s.now())
	if err != nil {
		return User{}, err
	}
	if step == 0 {
		return User{}, ErrCode
	}
	return s.set(ctx, o, u, password, audit.Codes, func(tx *sql.Tx, _ string) error {
		_, err := tx.ExecContext(ctx, "UPDATE users SET secret = $2, step = $3 WHERE id = $1", u.ID, secret, step)
		return err
	}, "")
}

// set changes what a user who has the password logs in with. change gets the
// hash of a new password, if there is one.
func (s *Store) set(ctx context.Context, o Origin, u User, password string, action audit.Action, change func(tx *sql.Tx, hash string) error, fresh string) (User, error) {
	if err := s.confirm(ctx, o, u, password); err != nil {
		return User{}, err
	}
	hash := ""
	if fresh != "" {
		var err error
		if hash, err = s.hash(ctx, fresh); err != nil {
			return User{}, err
		}
	}
	err := s.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		if err := change(tx, hash); err != nil {
			return fmt.Errorf("change user: %w", err)
		}
		if u, err = s.renew(ctx, tx, u.ID); err != nil {
			return err
		}
		return s.log.AppendIn(ctx, tx, audit.Entry{Who: u.Name, From: o.Address, Action: action, Object: u.Name})
	})
	return u, err
}

// NewRecovery gives a user who has the password new recovery codes. It fails as
// Password does.
func (s *Store) NewRecovery(ctx context.Context, o Origin, u User, password string) (recovery []string, err error) {
	if err := s.confirm(ctx, o, u, password); err != nil {
		return nil, err
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if recovery, err = s.newRecovery(ctx, tx, u.ID); err != nil {
			return err
		}
		return s.log.AppendIn(ctx, tx, audit.Entry{Who: u.Name, From: o.Address, Action: audit.Recovery, Object: u.Name})
	})
	return recovery, err
}
