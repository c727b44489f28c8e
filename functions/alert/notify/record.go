package notify

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

// change is a room that has got another level.
type change struct {
	room     string // hash of the rule and the key
	event    string // hash of source and id of the event that says so
	severity int
	at       mesh.Instant
	turn     int // of changes at one instant the greatest is the last
	facts    facts
}

func newChange(rule, tenant string, c *mesh.Classified) (change, error) {
	if len(c.Key) == 0 {
		return change{}, fmt.Errorf("rule %s has no key: an alert is of a room, from when it gets bad until it is good again", rule)
	}
	if c.SeverityNumber < 1 || c.SeverityNumber > 24 {
		return change{}, fmt.Errorf("severity_number %d is none of 1 to 24", c.SeverityNumber)
	}
	key, err := json.Marshal(c.Key) // its members are sorted
	if err != nil {
		return change{}, err
	}
	f, err := newFacts(rule, tenant, c)
	if err != nil {
		return change{}, err
	}
	out := change{room: mesh.Hash(rule, string(key)), severity: c.SeverityNumber, at: c.At, turn: c.SeverityNumber, facts: f}
	// A room has the worst level of its devices. Those that report at one instant change
	// it one after the other: what has risen is as bad as that afterwards, what has fallen may fall on.
	if c.SeverityNumber < c.PreviousSeverityNumber {
		out.turn = -c.SeverityNumber
	}
	return out, nil
}

// record keeps what follows of a change, in one transaction. A change that is not the
// latest of its room has no consequence.
func (n *Notifier) record(ctx context.Context, c change) error {
	return n.db.Tx(ctx, func(tx *sql.Tx) error {
		var at int64
		var turn int
		// Who writes to a row has it until the transaction ends: changes of a room take turns.
		err := tx.QueryRowContext(ctx, `INSERT INTO alert_rooms (id, severity, at, turn) VALUES ($1, 0, $2, 0)
			ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING at, turn`, c.room, int64(math.MinInt64)).Scan(&at, &turn)
		if err != nil {
			return err
		}
		if int64(c.at) < at || int64(c.at) == at && c.turn <= turn {
			return nil
		}
		if _, err := tx.ExecContext(ctx, "UPDATE alert_rooms SET severity = $2, at = $3, turn = $4 WHERE id = $1", c.room, c.severity, int64(c.at), c.turn); err != nil {
			return err
		}
		all, err := open(ctx, tx, c.room)
		if err != nil {
			return err
		}
		for _, to := range n.routes.addresses(c.facts.Tenant) {
			at := slices.IndexFunc(all, func(a alert) bool { return a.address == to.id })
			switch {
			case at >= 0:
				a := all[at]
				all = slices.Delete(all, at, at+1)
				err = n.goOn(ctx, tx, c, to, a)
			case c.severity >= to.severity:
				err = n.begin(ctx, tx, c, to)
			}
			if err != nil {
				return err
			}
		}
		for _, a := range all { // no route names the address any more
			if err := errors.Join(a.end(ctx, tx, c.at), n.drop(ctx, tx, a.id, gone)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Why messages are not sent.
const (
	gone    = "no route names this address for the tenant any more"
	old     = "it was history when it came"
	cleared = "it was cleared before it was told"
	higher  = "a higher level came before it was told"
	untold  = "the opening was not told"
	over    = "it is no news any more"
)

// alert is one that is open.
type alert struct {
	id, address string
	severity    int    // the highest that there was
	label       string // of it
	openedAt    mesh.Instant
}

// open gives the open alerts of a room.
func open(ctx context.Context, tx *sql.Tx, room string) (all []alert, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT id, address, severity, label, opened_at FROM alerts WHERE room = $1 AND cleared_at IS NULL", room)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var a alert
		if err := rows.Scan(&a.id, &a.address, &a.severity, &a.label, &a.openedAt); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, rows.Err()
}

func (a *alert) end(ctx context.Context, tx *sql.Tx, at mesh.Instant) error {
	_, err := tx.ExecContext(ctx, "UPDATE alerts SET cleared_at = $2 WHERE id = $1", a.id, int64(at))
	return err
}

// begin opens an alert.
func (n *Notifier) begin(ctx context.Context, tx *sql.Tx, c change, to address) error {
	a := alert{id: mesh.Hash(c.room, to.id, c.at.String()), severity: c.severity, label: c.facts.Label, openedAt: c.at}
	_, err := tx.ExecContext(ctx, "INSERT INTO alerts (id, room, tenant, address, severity, label, opened_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		a.id, c.room, c.facts.Tenant, to.id, a.severity, a.label, int64(a.openedAt))
	if err != nil {
		return err
	}
	return n.keep(ctx, tx, c, to, a, opened)
}

// goOn is what another level does to an open alert.
func (n *Notifier) goOn(ctx context.Context, tx *sql.Tx, c change, to address, a alert) error {
	switch {
	case c.severity < to.severity:
		if err := a.end(ctx, tx, c.at); err != nil {
			return err
		}
		if err := n.drop(ctx, tx, a.id, cleared); err != nil {
			return err
		}
		var told int // or may be by now
		err := tx.QueryRowContext(ctx, "SELECT count(*) FROM alert_deliveries WHERE alert = $1 AND state IN ('pending', 'sent')", a.id).Scan(&told)
		if err != nil || told == 0 {
			return err
		}
		return n.keep(ctx, tx, c, to, a, closed)
	case c.severity > a.severity:
		a.severity, a.label = c.severity, c.facts.Label
		if _, err := tx.ExecContext(ctx, "UPDATE alerts SET severity = $2, label = $3 WHERE id = $1", a.id, a.severity, a.label); err != nil {
			return err
		}
		if err := n.drop(ctx, tx, a.id, higher); err != nil {
			return err
		}
		return n.keep(ctx, tx, c, to, a, opened)
	}
	return nil
}

// drop gives up what of an alert was never tried to be sent.
func (n *Notifier) drop(ctx context.Context, tx *sql.Tx, alert, why string) error {
	_, err := tx.ExecContext(ctx, "UPDATE alert_deliveries SET state = 'dropped', cause = $2, changed_at = $3 WHERE alert = $1 AND state = 'pending' AND attempts = 0",
		alert, why, n.now().UnixMicro())
	return err
}

// What a message tells of an alert: that it is open, which may be at a higher level than it
// was, or that it is cleared.
const (
	opened = "alert.opened"
	closed = "alert.cleared"
)

// keep keeps a message that is to be sent.
func (n *Notifier) keep(ctx context.Context, tx *sql.Tx, c change, to address, a alert, kind string) error {
	now := n.now()
	m := message{Type: kind, At: c.at, Data: c.facts}
	m.Data.Alert, m.Data.Since, m.Data.Worst = a.id, a.openedAt, a.label
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	state, cause := "pending", ""
	if kind == opened && now.Sub(c.at.Time()) > n.cfg.Within {
		state, cause = "dropped", old
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO alert_deliveries (id, seq, alert, event, kind, severity, message, state, cause, attempts, due_at, next_at, leased_until, lease, created_at, changed_at)
		SELECT $1, coalesce(max(seq), 0) + 1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $9, 0, '', $10, $10 FROM alert_deliveries WHERE alert = $2`,
		mesh.Hash(a.id, kind, c.at.String(), c.facts.Label), a.id, c.event, kind, a.severity, string(text), state, cause, to.until(now, a.severity).UnixMicro(), now.UnixMicro())
	return err
}

// kept is how long alerts are kept after they were cleared.
const kept = 90 * 24 * time.Hour

// forget deletes alerts that were cleared long ago.
func (n *Notifier) forget(ctx context.Context) error {
	return n.db.Tx(ctx, func(tx *sql.Tx) error {
		before := n.now().Add(-kept).UnixMicro()
		if _, err := tx.ExecContext(ctx, "DELETE FROM alert_deliveries WHERE alert IN (SELECT id FROM alerts WHERE cleared_at < $1)", before); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM alerts WHERE cleared_at < $1", before)
		return err
	})
}
