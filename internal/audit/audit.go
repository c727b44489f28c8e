// Package audit keeps who did what, when and from where, in a table that grows
// only at its end and whose rows are chained: the hash of each is over what it
// says and the hash of the row before.
//
// The database refuses to change or delete a row, as long as nobody takes its
// triggers away. Who does so, and changes, removes, adds or swaps rows, is found
// by Verify. Who can write all of the database can also make a whole new chain:
// only a hash that was noted elsewhere tells it from the old one, wherefore
// Verify takes one.
package audit

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/telemesh/telemesh/internal/database"
)

// Action is what was done.
type Action string

// The actions.
const (
	Login        Action = "login"
	LoginFailed  Action = "login failed"
	LoginDelayed Action = "login delayed" // the first attempt that came too early after failed ones
	Logout       Action = "logout"
	TokenMade    Action = "token made"
	TokenRevoked Action = "token revoked"
	UserAdded    Action = "user added"
	UserChanged  Action = "user changed"
	UserReset    Action = "user reset"
	UserSetUp    Action = "user set up"
	Password     Action = "password changed"
	Codes        Action = "one-time codes changed"
	Recovery     Action = "recovery codes made"
	RecoveryUsed Action = "recovery code used"
	SessionsOut  Action = "logged out everywhere"
	Refused      Action = "refused" // asked for what is not theirs
	Export       Action = "export"
	Query        Action = "query" // looked at what is of persons, or of all tenants
	Acted        Action = "acted" // redriven, retried: what changes the mesh
)

// Entry is a row of the log.
type Entry struct {
	Seq    int64     // 1, 2, 3, …; given by Append
	At     time.Time // given by Append, in microseconds
	Who    string    // log-in name; empty: nobody had logged in
	From   string    // address; a command of this machine: "command line"
	Action Action
	Object string // what it was done to: a user, a tenant, a file, a table
	Detail string // more of it, such as the SQL of a query
	Hash   string // given by Append
}

// Log is the log in a database.
type Log struct {
	db  *database.DB
	now func() time.Time
}

// New gives the log of a database. now is time.Now, but in tests.
func New(db *database.DB, now func() time.Time) *Log { return &Log{db, now} }

// MaxObject and MaxDetail are how many bytes of an Object and a Detail the log keeps.
const (
	MaxObject = 512
	MaxDetail = 16 << 10
)

// ErrNotKept is that of an Export or a Query whose object or detail the log cannot
// keep as it is: too long, or with control characters in it. What the log does not
// say must not be done; of all else, which strangers may have sent, it keeps what it
// can.
var ErrNotKept = errors.New("the audit log cannot keep this as it is")

// Append adds an entry. It is kept also if ctx ends meanwhile: nobody goes
// unseen by not waiting for the answer.
func (l *Log) Append(ctx context.Context, e Entry) error {
	ctx = context.WithoutCancel(ctx)
	return l.db.Tx(ctx, func(tx *sql.Tx) error { return l.AppendIn(ctx, tx, e) })
}

// AppendIn adds an entry in a transaction, as the last that is done in it: from
// here to its end nobody else can append.
func (l *Log) AppendIn(ctx context.Context, tx *sql.Tx, e Entry) error {
	object, detail := clean(e.Object, MaxObject), clean(e.Detail, MaxDetail)
	if (e.Action == Export || e.Action == Query) && (object != e.Object || detail != e.Detail) {
		return fmt.Errorf("%w: %d bytes, with a detail of %d", ErrNotKept, len(e.Object), len(e.Detail))
	}
	e.Object, e.Detail = object, detail
	var previous string
	err := tx.QueryRowContext(ctx, "UPDATE audit_head SET seq = seq + 1 WHERE id = 1 RETURNING seq, hash").Scan(&e.Seq, &previous)
	if err != nil {
		return fmt.Errorf("append to the audit log: %w", err)
	}
	e.At = l.now().UTC().Truncate(time.Microsecond)
	e.Who, e.From, e.Action = clean(e.Who, 128), clean(e.From, 128), Action(clean(string(e.Action), 64))
	e.Hash = e.sum(previous)
	_, err = tx.ExecContext(ctx, "INSERT INTO audit (seq, at, who, origin, action, object, detail, previous, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
		e.Seq, e.At.UnixMicro(), e.Who, e.From, string(e.Action), e.Object, e.Detail, previous, e.Hash)
	if err == nil {
		_, err = tx.ExecContext(ctx, "UPDATE audit_head SET hash = $1 WHERE id = 1", e.Hash)
	}
	if err != nil {
		return fmt.Errorf("append to the audit log: %w", err)
	}
	return nil
}

// sum is SHA-256 of the entry and of the hash before it, as a JSON list: no two
// entries make the same one.
func (e *Entry) sum(previous string) string {
	text, err := json.Marshal([]any{e.Seq, e.At.UnixMicro(), e.Who, e.From, e.Action, e.Object, e.Detail, previous})
	if err != nil {
		panic(err) // of texts and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// clean is what both databases store as it is, of at most max bytes: text that a
// stranger sent may hold any bytes, and any number of them.
func clean(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if r == 0 || unicode.IsControl(r) && r != '\n' && r != '\t' {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
	if len(s) <= max {
		return s
	}
	const more = "…"
	s = s[:max-len(more)]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + more
}

const columns = "SELECT seq, at, who, origin, action, object, detail, previous, hash FROM audit "

// scan reads a row of columns.
func scan(rows *sql.Rows) (e Entry, previous string, err error) {
	var at int64
	err = rows.Scan(&e.Seq, &at, &e.Who, &e.From, &e.Action, &e.Object, &e.Detail, &previous, &e.Hash)
	e.At = time.UnixMicro(at).UTC()
	return e, previous, err
}

// List gives at most n entries, the newest first: those before the one with Seq
// before, or with 0 the last ones.
func (l *Log) List(ctx context.Context, before int64, n int) (_ []Entry, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the audit log: %w", err)
		}
	}()
	rows, err := l.db.QueryContext(ctx, columns+"WHERE seq < $1 OR $1 = 0 ORDER BY seq DESC LIMIT $2", before, n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Entry
	for rows.Next() {
		e, _, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, rows.Err()
}

// Head names an entry by its number and hash: SEQ:HASH. Noted elsewhere, it
// tells later that the log up to there is still the same.
type Head struct {
	Seq  int64
	Hash string
}

func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Seq, h.Hash) }

// ParseHead reads SEQ:HASH.
func ParseHead(s string) (Head, error) {
	var h Head
	number, hash, ok := strings.Cut(s, ":")
	if _, err := fmt.Sscanf(number, "%d", &h.Seq); err != nil || !ok || h.Seq < 1 || len(hash) != 2*sha256.Size {
		return h, fmt.Errorf("%q is not SEQ:HASH", s)
	}
	h.Hash = hash
	return h, nil
}

// ErrTampered is that of a log which is not as it was written.
var ErrTampered = errors.New("the audit log was tampered with")

// Verify reads the whole log and gives its last entry. It is ErrTampered if a
// row is not what was appended, is missing, is in another place, or is too many,
// or if an entry noted earlier is not in it. A log from whose end rows were taken
// is found by the table audit_head, unless that was changed with them; then only a
// noted entry tells.
func (l *Log) Verify(ctx context.Context, noted ...Head) (Head, error) {
	var head, last Head
	// Of one moment: entries are appended while this reads.
	err := l.db.QueryRowContext(ctx, "SELECT seq, hash FROM audit_head WHERE id = 1").Scan(&head.Seq, &head.Hash)
	if errors.Is(err, sql.ErrNoRows) {
		return last, fmt.Errorf("audit_head is empty: %w", ErrTampered)
	}
	if err != nil {
		return last, fmt.Errorf("verify the audit log: %w", err)
	}
	rows, err := l.db.QueryContext(ctx, columns+"ORDER BY seq")
	if err != nil {
		return last, fmt.Errorf("verify the audit log: %w", err)
	}
	defer rows.Close()
	known := map[int64]string{}
	for _, h := range append(noted, head) {
		if before, ok := known[h.Seq]; ok && before != h.Hash {
			return last, fmt.Errorf("entry %d has another hash than was noted: %w", h.Seq, ErrTampered)
		}
		known[h.Seq] = h.Hash
	}
	for rows.Next() {
		e, previous, err := scan(rows)
		if err != nil {
			return last, fmt.Errorf("verify the audit log: %w", err)
		}
		switch noted, ok := known[e.Seq]; {
		case e.Seq != last.Seq+1:
			return last, fmt.Errorf("entry %d is missing: %w", last.Seq+1, ErrTampered)
		case previous != last.Hash:
			return last, fmt.Errorf("entry %d does not follow the one before it: %w", e.Seq, ErrTampered)
		case e.sum(previous) != e.Hash:
			return last, fmt.Errorf("entry %d is not what was written: %w", e.Seq, ErrTampered)
		case ok && noted != e.Hash:
			return last, fmt.Errorf("entry %d has another hash than was noted: %w", e.Seq, ErrTampered)
		}
		delete(known, e.Seq)
		last = Head{e.Seq, e.Hash}
	}
	if err := rows.Err(); err != nil {
		return last, fmt.Errorf("verify the audit log: %w", err)
	}
	// Read after the rows: none of them can be later.
	if err := l.db.QueryRowContext(ctx, "SELECT seq, hash FROM audit_head WHERE id = 1").Scan(&head.Seq, &head.Hash); err != nil {
		return last, fmt.Errorf("verify the audit log: %w", err)
	}
	if last.Seq > head.Seq {
		return last, fmt.Errorf("entry %d was never appended: %w", last.Seq, ErrTampered)
	}
	delete(known, 0) // of an empty log
	for seq := range known {
		return last, fmt.Errorf("entry %d and those after %d are missing: %w", seq, last.Seq, ErrTampered)
	}
	return last, nil
}
