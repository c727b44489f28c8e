package users

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/alexedwards/scs/v2"
)

const (
	// SessionLasts ends a session however much it is used.
	SessionLasts = 12 * time.Hour
	// sessionIdle ends one that is not used.
	sessionIdle = time.Hour
	// sessionSeen is how exactly it is known when a session was used last: more
	// often it is not written.
	sessionSeen = time.Minute
)

// UserKey is the value of a session that says whose it is.
const UserKey = "user"

// Sessions keeps sessions of scs in the database; the token is a hash already
// (HashTokenInStore). A session that has ended stays so: a request that was on
// its way then does not bring it back.
func (s *Store) Sessions() interface {
	scs.CtxStore
	scs.Codec
} {
	return &sessions{s}
}

type sessions struct{ *Store }

// unseen is the key of a context of what is asked for without somebody there.
type unseen struct{}

// Unseen marks what a page that is open asks for by itself: a session is not used
// by it, and ends as one that is left alone.
func Unseen(ctx context.Context) context.Context { return context.WithValue(ctx, unseen{}, true) }

// stored is a session as it is in the database.
type stored struct {
	Deadline time.Time         `json:"deadline"`
	Values   map[string]string `json:"values"`
}

func (*sessions) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	out := stored{deadline, map[string]string{}}
	for name, v := range values {
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("session: value %s is no text", name)
		}
		out.Values[name] = text
	}
	return json.Marshal(out)
}

func (*sessions) Decode(text []byte) (time.Time, map[string]any, error) {
	var in stored
	if err := json.Unmarshal(text, &in); err != nil {
		return time.Time{}, nil, fmt.Errorf("read session: %w", err)
	}
	values := map[string]any{}
	for name, v := range in.Values {
		values[name] = v
	}
	return in.Deadline, values, nil
}

func (s *sessions) FindCtx(ctx context.Context, hash string) ([]byte, bool, error) {
	now := s.now()
	var data string
	var seen int64
	err := s.db.QueryRowContext(ctx, "SELECT data, seen_at FROM sessions WHERE hash = $1 AND NOT ended AND expires_at > $2 AND seen_at > $3",
		hash, now.UnixMicro(), now.Add(-sessionIdle).UnixMicro()).Scan(&data, &seen)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err == nil && ctx.Value(unseen{}) == nil && now.Sub(time.UnixMicro(seen)) > sessionSeen {
		_, err = s.db.ExecContext(ctx, "UPDATE sessions SET seen_at = $2 WHERE hash = $1", hash, now.UnixMicro())
	}
	if err != nil {
		return nil, false, fmt.Errorf("find session: %w", err)
	}
	return []byte(data), true, nil
}

func (s *sessions) CommitCtx(ctx context.Context, hash string, data []byte, expires time.Time) error {
	var in stored
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("keep session: %w", err)
	}
	now := s.now().UnixMicro()
	_, err := s.db.ExecContext(ctx, `INSERT INTO sessions (hash, user_id, data, created_at, seen_at, expires_at, ended) VALUES ($1, $2, $3, $4, $4, $5, FALSE)
		ON CONFLICT (hash) DO UPDATE SET user_id = excluded.user_id, data = excluded.data, seen_at = excluded.seen_at, expires_at = excluded.expires_at WHERE NOT sessions.ended`,
		hash, in.Values[UserKey], string(data), now, expires.UnixMicro())
	if err != nil {
		return fmt.Errorf("keep session: %w", err)
	}
	return nil
}

func (s *sessions) DeleteCtx(ctx context.Context, hash string) error {
	if _, err := s.db.ExecContext(ctx, "UPDATE sessions SET ended = TRUE, data = '' WHERE hash = $1", hash); err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	return nil
}

// The methods without a context are of scs.Store, which calls those with one.

func (s *sessions) Find(hash string) ([]byte, bool, error) {
	return s.FindCtx(context.Background(), hash)
}
func (s *sessions) Delete(hash string) error { return s.DeleteCtx(context.Background(), hash) }
func (s *sessions) Commit(hash string, data []byte, expires time.Time) error {
	return s.CommitCtx(context.Background(), hash, data, expires)
}

// Session is where a user is logged in.
type Session struct {
	CreatedAt, SeenAt time.Time
	Values            map[string]string // what was kept when it began
}

// SessionsOf gives the sessions of a user, the one used last first, and no more than
// a page shows.
func (s *Store) SessionsOf(ctx context.Context, id string) ([]Session, error) {
	now := s.now()
	rows, err := s.db.QueryContext(ctx, "SELECT data, created_at, seen_at FROM sessions WHERE user_id = $1 AND NOT ended AND expires_at > $2 AND seen_at > $3 ORDER BY seen_at DESC LIMIT 50",
		id, now.UnixMicro(), now.Add(-sessionIdle).UnixMicro())
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	defer rows.Close()
	var all []Session
	for rows.Next() {
		var data string
		var created, seen int64
		if err := rows.Scan(&data, &created, &seen); err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		var in stored
		if err := json.Unmarshal([]byte(data), &in); err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		all = append(all, Session{time.UnixMicro(created).UTC(), time.UnixMicro(seen).UTC(), in.Values})
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return all, nil
}
