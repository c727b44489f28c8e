package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/telemesh/telemesh/internal/audit"
)

// Origin is where an attempt to log in comes from.
type Origin struct {
	Address string // IP address
	Device  string // what Remember gave the browser; empty or unknown: a stranger's
}

const (
	freeByAccount  = 5   // people mistype
	freeByAddress  = 20  // many people have one address
	freeByPrograms = 200 // of an account, of all networks
	tidyEvery      = 10 * time.Minute
	longestDelay   = 15 * time.Minute
	forgotten      = time.Hour // after which failures no longer count
	remembered     = 90 * 24 * time.Hour
)

// Limited is the error of an attempt that came too early after failed ones.
type Limited struct{ Wait time.Duration }

func (e *Limited) Error() string {
	return fmt.Sprintf("too many attempts have failed: wait %s", e.Wait.Round(time.Second)+time.Second)
}

// delay is how long after so many failures the next attempt is looked at: 1 s after
// those that are free, then twice as long each time.
func delay(failures, free int) time.Duration {
	n := failures - free
	switch {
	case n <= 0:
		return 0
	case n > 10:
		return longestDelay
	}
	return min(time.Second<<(n-1), longestDelay)
}

// network is what of an address one person has: a whole /64 of IPv6.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap().WithZone(""); a.Is4() {
		return a.String()
	}
	return netip.PrefixFrom(a, 64).Masked().String()
}

// attempt is one that is looked at: counted as failed until it is known not to be.
type attempt struct {
	names []string // it is counted by
}

// begin counts an attempt to log in as name, or gives Limited. Counting it before
// it is looked at keeps many at the same time from all being looked at. From a
// browser that has been logged in to the account it counts for that browser alone:
// a stranger cannot delay it, and is not delayed less by it.
//
// A program has no browser that is known. It counts by its network and the account
// together, so that a stranger elsewhere does not delay it, and by the account with
// a bound that only many networks reach.
func (s *Store) begin(ctx context.Context, o Origin, name string, program bool) (*attempt, error) {
	if now, last := s.now(), s.tidied.Load(); now.Sub(time.UnixMicro(last)) > tidyEvery && s.tidied.CompareAndSwap(last, now.UnixMicro()) {
		if err := s.tidy(ctx); err != nil { // else a flood of wrong names stays
			return nil, err
		}
	}
	var known bool
	err := s.db.QueryRowContext(ctx, "SELECT count(*) > 0 FROM devices d JOIN users u ON u.id = d.user_id WHERE d.hash = $1 AND u.name = $2 AND d.expires_at > $3",
		digest(o.Device), name, s.now().UnixMicro()).Scan(&known)
	if err != nil {
		return nil, fmt.Errorf("count attempts: %w", err)
	}
	free := map[string]int{"address " + network(o.Address): freeByAddress, "account at " + digest(name+" "+network(o.Address)): freeByAccount}
	if program {
		free["programs of "+digest(name)] = freeByPrograms
	} else {
		free["account "+digest(name)] = freeByAccount
	}
	if known {
		free = map[string]int{"device " + digest(o.Device): freeByAccount}
	}
	a := &attempt{}
	for n := range free {
		a.names = append(a.names, n)
	}
	slices.Sort(a.names) // each transaction locks rows in this order
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		now := s.now()
		var limited *Limited
		for _, n := range a.names {
			var failures int
			var openAt, changedAt int64
			// Changes nothing of a row that is there, but locks it.
			err := tx.QueryRowContext(ctx, `INSERT INTO attempts (name, failures, open_at, refused, changed_at) VALUES ($1, 0, 0, FALSE, $2)
				ON CONFLICT (name) DO UPDATE SET failures = attempts.failures RETURNING failures, open_at, changed_at`, n, now.UnixMicro()).Scan(&failures, &openAt, &changedAt)
			if err != nil {
				return fmt.Errorf("count attempts: %w", err)
			}
			if wait := time.UnixMicro(openAt).Sub(now); wait > 0 && (limited == nil || wait > limited.Wait) {
				limited = &Limited{wait}
			}
			if now.Sub(time.UnixMicro(changedAt)) > forgotten {
				failures = 0
			}
			failures++
			_, err = tx.ExecContext(ctx, "UPDATE attempts SET failures = $2, open_at = $3, refused = FALSE, changed_at = $4 WHERE name = $1",
				n, failures, now.Add(delay(failures, free[n])).UnixMicro(), now.UnixMicro())
			if err != nil {
				return fmt.Errorf("count attempts: %w", err)
			}
		}
		if limited != nil {
			return limited // and nothing of it is counted
		}
		return nil
	})
	if limited := (*Limited)(nil); errors.As(err, &limited) {
		return nil, errors.Join(err, s.noteDelayed(ctx, o, name, a))
	}
	return a, err
}

// noteDelayed notes the first of those that come too early. The others cost a
// stranger nothing, and would fill the log.
func (s *Store) noteDelayed(ctx context.Context, o Origin, name string, a *attempt) error {
	first := false
	for _, n := range a.names {
		ok, err := one(s.db.ExecContext(ctx, "UPDATE attempts SET refused = TRUE WHERE name = $1 AND NOT refused AND open_at > $2", n, s.now().UnixMicro()))
		if err != nil {
			return fmt.Errorf("count attempts: %w", err)
		}
		first = first || ok
	}
	if !first {
		return nil
	}
	return s.log.Append(ctx, audit.Entry{From: o.Address, Action: audit.LoginDelayed, Object: s.known(ctx, name)})
}

// known is a name for the audit log. That of nobody may be a password, typed in
// the wrong field.
func (s *Store) known(ctx context.Context, name string) string {
	if u, err := s.Named(ctx, name); err == nil {
		return u.Name
	}
	return "(an unknown name)"
}

// settle gives an error of an attempt, which counts as failed only if it was wrong:
// one that could not be looked at says nothing about who made it.
func (s *Store) settle(ctx context.Context, a *attempt, err error) error {
	if err == nil || errors.Is(err, ErrWrong) {
		return err
	}
	return errors.Join(err, s.forgive(context.WithoutCancel(ctx), a, false)) // ctx may be the cause
}

// forgive takes back that an attempt counts. loggedIn: and all that failed for
// this account or browser before. The address keeps what failed: else who has an
// account would try others' passwords, and log in between.
func (s *Store) forgive(ctx context.Context, a *attempt, loggedIn bool) error {
	for _, n := range a.names {
		statement := "UPDATE attempts SET failures = failures - 1, open_at = 0 WHERE name = $1 AND failures > 0"
		if loggedIn && n[:8] != "address " {
			statement = "DELETE FROM attempts WHERE name = $1"
		}
		if _, err := s.db.ExecContext(ctx, statement, n); err != nil {
			return fmt.Errorf("count attempts: %w", err)
		}
	}
	return nil
}

// Remember gives a browser, in which a user has logged in, what makes it known.
// It lasts for 90 days.
func (s *Store) Remember(ctx context.Context, id string) (token string, expires time.Time, err error) {
	token, expires = random(), s.now().Add(remembered)
	_, err = s.db.ExecContext(ctx, "INSERT INTO devices (hash, user_id, expires_at) VALUES ($1, $2, $3)", digest(token), id, expires.UnixMicro())
	if err != nil {
		return "", time.Time{}, fmt.Errorf("remember browser: %w", err)
	}
	return token, expires, nil
}

// tidy deletes what has expired. It is called by who logs in, so that nothing has
// to run beside.
func (s *Store) tidy(ctx context.Context) error {
	now := s.now()
	for _, statement := range []string{
		"DELETE FROM sessions WHERE expires_at <= $1", "DELETE FROM tokens WHERE expires_at <= $1",
		"DELETE FROM devices WHERE expires_at <= $1", "DELETE FROM links WHERE expires_at <= $1",
	} {
		if _, err := s.db.ExecContext(ctx, statement, now.UnixMicro()); err != nil {
			return fmt.Errorf("delete what has expired: %w", err)
		}
	}
	if _, err := s.db.ExecContext(ctx, "DELETE FROM attempts WHERE changed_at <= $1", now.Add(-forgotten).UnixMicro()); err != nil {
		return fmt.Errorf("delete what has expired: %w", err)
	}
	return nil
}
