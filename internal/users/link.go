package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
)

const (
	forUsers = 72 * time.Hour // a link is handed over by mail, over a weekend
	forFirst = time.Hour      // the one that makes an admin is read where it is printed
)

// Link is what a user sets up password and codes by, once. The page is
// /setup/TOKEN.
type Link struct {
	Token     string
	ExpiresAt time.Time
}

// Path is that of the page, below the portal's address.
func (l Link) Path() string { return "/setup/" + l.Token }

// link makes a link for a user, in place of those they have; with no user, one
// that makes the first admin.
func (s *Store) link(ctx context.Context, q queryer, id string, lasts time.Duration) (Link, error) {
	l := Link{random(), s.now().Add(lasts).UTC().Truncate(time.Microsecond)}
	if _, err := q.ExecContext(ctx, "DELETE FROM links WHERE user_id = $1 OR expires_at <= $2", id, s.now().UnixMicro()); err != nil {
		return l, fmt.Errorf("make link: %w", err)
	}
	_, err := q.ExecContext(ctx, "INSERT INTO links (hash, user_id, secret, expires_at) VALUES ($1, $2, $3, $4)",
		digest(l.Token), sql.NullString{String: id, Valid: id != ""}, newSecret(), l.ExpiresAt.UnixMicro())
	if err != nil {
		return l, fmt.Errorf("make link: %w", err)
	}
	return l, nil
}

// First gives a link that makes the first admin, while there are no users; ok is
// false when there are. Others that it gave still work, until one is used.
func (s *Store) First(ctx context.Context) (l Link, ok bool, err error) {
	if ok, err = s.None(ctx); err != nil || !ok {
		return l, false, err
	}
	l, err = s.link(ctx, s.db, "", forFirst)
	return l, err == nil, err
}

// Pending is what a link sets up.
type Pending struct {
	Name   string // empty: the first admin, who chooses one
	Secret string // of the one-time codes that the user will have
}

// Pending gives what a link sets up, or ErrLink.
func (s *Store) Pending(ctx context.Context, token string) (p Pending, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT coalesce(u.name, ''), l.secret FROM links l LEFT JOIN users u ON u.id = l.user_id
		WHERE l.hash = $1 AND l.expires_at > $2`, digest(token), s.now().UnixMicro()).Scan(&p.Name, &p.Secret)
	if errors.Is(err, sql.ErrNoRows) {
		return p, ErrLink
	}
	if err != nil {
		return p, fmt.Errorf("read link: %w", err)
	}
	return p, nil
}

// ErrCode is that of a code which the new device does not make.
var ErrCode = errors.New("this is not the code of the device: see that its clock is right, and take the next one")

// SetUp uses a link: it gives its user a password and the device that makes code,
// and the recovery codes. A first admin takes the name; else it is that of the
// link's user. Where it gives an error, the link works still.
func (s *Store) SetUp(ctx context.Context, from, token, name, password, code string) (u User, recovery []string, err error) {
	pending, err := s.Pending(ctx, token)
	if err != nil {
		return u, nil, err
	}
	first := pending.Name == ""
	if !first {
		name = pending.Name
	}
	if err := acceptable(password, name); err != nil {
		return u, nil, err
	}
	step, err := stepOf(pending.Secret, typed(code), s.now())
	if err != nil {
		return u, nil, err
	}
	if step == 0 {
		return u, nil, ErrCode
	}
	hash, err := s.hash(ctx, password)
	if err != nil {
		return u, nil, err
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		id, err := s.useLink(ctx, tx, token, first)
		if err != nil {
			return err
		}
		if first {
			// Two links may be used at the same time, but useLink has let one of them in.
			if ok, err := none(ctx, tx); err != nil || !ok {
				return errors.Join(err, ErrLink)
			}
			if u, err = s.insert(ctx, tx, name, access.Admin, nil, false); err != nil {
				return err
			}
			id = u.ID
		}
		if _, err := tx.ExecContext(ctx, "UPDATE users SET password = $2, secret = $3, step = $4 WHERE id = $1", id, hash, pending.Secret, step); err != nil {
			return fmt.Errorf("set up user: %w", err)
		}
		if recovery, err = s.newRecovery(ctx, tx, id); err != nil {
			return err
		}
		if u, err = s.renew(ctx, tx, id); err != nil {
			return err
		}
		return s.note(ctx, tx, By{u.Name, from}, audit.UserSetUp, u)
	})
	return u, recovery, err
}

// useLink takes a link away, and gives its user. The first that makes an admin
// takes all of its kind.
func (s *Store) useLink(ctx context.Context, tx *sql.Tx, token string, first bool) (id string, err error) {
	now := s.now().UnixMicro()
	if !first {
		err := tx.QueryRowContext(ctx, "DELETE FROM links WHERE hash = $1 AND expires_at > $2 AND user_id IS NOT NULL RETURNING user_id", digest(token), now).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return "", ErrLink
		}
		return id, err
	}
	rows, err := tx.QueryContext(ctx, "DELETE FROM links WHERE user_id IS NULL RETURNING hash, expires_at")
	if err != nil {
		return "", fmt.Errorf("use link: %w", err)
	}
	defer rows.Close()
	found := false
	for rows.Next() {
		var hash string
		var expires int64
		if err := rows.Scan(&hash, &expires); err != nil {
			return "", fmt.Errorf("use link: %w", err)
		}
		found = found || hash == digest(token) && expires > now
	}
	if err := rows.Err(); err != nil || !found {
		return "", errors.Join(err, ErrLink)
	}
	return "", nil
}
