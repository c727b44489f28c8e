package notify

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/telemesh/telemesh/internal/mesh"
)

const (
	// senders is how many messages are sent at once: one that nobody answers holds up
	// no others.
	senders = 4
	// givenUp is when a message is no news any more.
	givenUp = 24 * time.Hour
	// Between attempts: half of what the Broker waits between deliveries of an event
	// (triggers/alert.yaml), so that each of these finds it due.
	firstWait = 100 * time.Millisecond
	mostWait  = 10 * time.Minute
	// within is how long a tick sends. Less than the Service's timeoutSeconds.
	within = 4 * time.Minute
)

// lease is how long a process may be at a message before another one takes it to have
// died. An SMTP server has the timeout twice: for its greeting, and for the message.
func (n *Notifier) lease() time.Duration { return 4 * n.cfg.Timeout }

// delivery is a message that this process is to send.
type delivery struct {
	id, alert, lease string
	kind             string
	severity         int
	attempts         int
	dueAt, createdAt int64
	tenant, address  string
	message          message
}

// ofEvent chooses what is kept of an event, and what keeps that from being sent.
const ofEvent = "alert IN (SELECT alert FROM alert_deliveries WHERE event = $4)"

// tell sends what is to be sent of an event; the error says what could not be.
func (n *Notifier) tell(ctx context.Context, event string) error {
	if err := n.revive(ctx, event); err != nil {
		return fmt.Errorf("look for alerts to send: %w", err)
	}
	if _, err := n.send(ctx, ofEvent, event); err != nil {
		return err
	}
	return n.left(ctx, event)
}

// revive has what was refused tried again, once all else of its event is told: it is in a dead
// letter then, which was brought again. What is no news by now is dropped.
func (n *Notifier) revive(ctx context.Context, event string) error {
	return n.db.Tx(ctx, func(tx *sql.Tx) error {
		const refused = `event = $1 AND state = 'failed' AND NOT EXISTS (SELECT 1 FROM alert_deliveries p WHERE p.event = $1 AND p.state = 'pending')`
		now := n.now().UnixMicro()
		_, err := tx.ExecContext(ctx, `UPDATE alert_deliveries SET state = 'dropped', cause = $3, changed_at = $2 WHERE `+refused+`
			AND (EXISTS (SELECT 1 FROM alert_deliveries l WHERE l.alert = alert_deliveries.alert AND l.seq > alert_deliveries.seq)
				OR kind = $4 AND EXISTS (SELECT 1 FROM alerts a WHERE a.id = alert_deliveries.alert AND a.cleared_at IS NOT NULL))`, event, now, over, opened)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE alert_deliveries SET state = 'pending', attempts = 0, cause = '', due_at = $2, next_at = $2, changed_at = $2 WHERE "+refused, event, now)
		return err
	})
}

// left says what of an event is not told, and should be by now.
func (n *Notifier) left(ctx context.Context, event string) error {
	rows, err := n.db.QueryContext(ctx, `SELECT d.state, d.cause, d.severity, a.tenant, a.address FROM alert_deliveries d JOIN alerts a ON a.id = d.alert
		WHERE d.event = $1 AND d.state IN ('pending', 'failed') ORDER BY d.id`, event)
	if err != nil {
		return err
	}
	defer rows.Close()
	var passing, permanent []string
	for rows.Next() {
		var state, cause, tenant, id string
		var severity int
		if err := rows.Scan(&state, &cause, &severity, &tenant, &id); err != nil {
			return err
		}
		to, ok := n.address(tenant, id)
		switch {
		case state == "failed":
			permanent = append(permanent, cause)
		case !ok || to.until(n.now(), severity).After(n.now()): // held back
		case cause == "":
			passing = append(passing, fmt.Sprintf("tell %s: a message before it, or another process, is at it", to))
		default:
			passing = append(passing, cause)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(passing) > 0 {
		return errors.New(strings.Join(passing, "; "))
	}
	if len(permanent) > 0 {
		return mesh.Permanentf("%s", strings.Join(permanent, "; "))
	}
	return nil
}

// tick sends all that is due, and forgets what is long over. What cannot be sent is tried
// by the next one.
func (n *Notifier) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := n.forget(ctx); err != nil {
		return fmt.Errorf("forget old alerts: %w", err)
	}
	permanent, err := n.send(ctx, "$4 = ''", "")
	if err != nil && ctx.Err() == nil {
		return err
	}
	if len(permanent) > 0 {
		return mesh.Permanentf("%s", strings.Join(permanent, "; "))
	}
	return nil
}

// send sends what is chosen and due, once each, and gives what was refused for good.
// What passes it leaves for later.
func (n *Notifier) send(ctx context.Context, chosen string, value string) (permanent []string, err error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	start := n.now() // what is tried again is due after it
	for range senders {
		all.Go(func() {
			for ctx.Err() == nil {
				d, found, e := n.claim(ctx, start, chosen, value)
				var refusal string
				if e == nil && found {
					refusal, e = n.deliver(ctx, d)
				}
				mu.Lock()
				err = errors.Join(err, e)
				if refusal != "" {
					permanent = append(permanent, refusal)
				}
				mu.Unlock()
				if e != nil || !found {
					return
				}
			}
		})
	}
	all.Wait()
	if err != nil {
		return permanent, fmt.Errorf("send alerts: %w", err)
	}
	return permanent, nil
}

// claim takes a message that is due at an instant, and before which none of its alert is
// left, so that no other process sends it, too.
func (n *Notifier) claim(ctx context.Context, at time.Time, chosen, value string) (d delivery, found bool, err error) {
	now := n.now()
	d.lease = uuid.NewString()
	var text string
	// What was due when it was chosen may have been tried meanwhile: all is asked of the row
	// once more, when this transaction has it.
	err = n.db.Tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `UPDATE alert_deliveries SET lease = $2, leased_until = $3, attempts = attempts + 1, changed_at = $5
			WHERE state = 'pending' AND next_at <= $1 AND leased_until <= $1 AND id = (
				SELECT id FROM alert_deliveries d WHERE state = 'pending' AND next_at <= $1 AND leased_until <= $1 AND `+chosen+`
				AND NOT EXISTS (SELECT 1 FROM alert_deliveries e WHERE e.alert = d.alert AND e.seq < d.seq AND e.state = 'pending')
				ORDER BY next_at, seq, id LIMIT 1)
			RETURNING id, alert, kind, severity, message, attempts, due_at, created_at`, at.UnixMicro(), d.lease, now.Add(n.lease()).UnixMicro(), value, now.UnixMicro()).
			Scan(&d.id, &d.alert, &d.kind, &d.severity, &text, &d.attempts, &d.dueAt, &d.createdAt)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, "SELECT tenant, address FROM alerts WHERE id = $1", d.alert).Scan(&d.tenant, &d.address)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return d, false, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &d.message)
	}
	return d, err == nil, err
}

// address finds who is told of a tenant's alerts by its hash.
func (n *Notifier) address(tenant, id string) (address, bool) {
	all := n.routes.addresses(tenant)
	at := slices.IndexFunc(all, func(a address) bool { return a.id == id })
	if at < 0 {
		return address{}, false
	}
	return all[at], true
}

// deliver sends a message that was claimed, and writes down what came of it; why is what
// it was refused for. The error is that of the database.
func (n *Notifier) deliver(ctx context.Context, d delivery) (why string, err error) {
	to, ok := n.address(d.tenant, d.address)
	if !ok {
		return "", n.finish(ctx, d, "dropped", gone, time.Time{})
	}
	now := n.now()
	if at := to.until(now, d.severity); at.After(now) { // they have begun since it was kept
		return "", n.finish(ctx, d, "pending", "", at)
	}
	if d.kind == closed {
		var told bool
		if err := n.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM alert_deliveries WHERE alert = $1 AND state = 'sent')", d.alert).Scan(&told); err != nil {
			return "", err
		}
		if !told {
			return "", n.finish(ctx, d, "dropped", untold, time.Time{})
		}
	}
	// To its end, though nobody may wait for it any more: what is broken off may have come.
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.Timeout)
	defer cancel()
	if to.to != "" {
		err = n.mail.send(sending, to.to, to.zone, d.id, &d.message, time.UnixMicro(d.createdAt))
	} else {
		err = n.hooks.post(sending, to.Route, d.id, &d.message, now)
	}
	if err == nil {
		return "", n.finish(ctx, d, "sent", "", time.Time{})
	}
	cause := fmt.Sprintf("tell %s of %s, alert %s: %v", to, d.message.Data.place(), d.alert, err)
	now = n.now()
	if no := (refused{}); errors.As(err, &no) || now.Sub(time.UnixMicro(d.dueAt)) > givenUp {
		n.log.Error("alert not sent", "alert", d.alert, "delivery", d.id, "attempts", d.attempts, "error", cause)
		return cause, n.finish(ctx, d, "failed", cause, time.Time{})
	}
	n.log.Warn("alert not sent yet", "alert", d.alert, "delivery", d.id, "attempts", d.attempts, "error", cause)
	wait := min(firstWait<<min(d.attempts-1, 20), mostWait)
	if l := (later{}); errors.As(err, &l) {
		wait = max(wait, l.after)
	}
	return "", n.finish(ctx, d, "pending", cause, now.Add(wait))
}

// finish writes down what came of a message, unless it took so long that another
// process has it by now. It does so, too, where who asked waits no longer.
func (n *Notifier) finish(ctx context.Context, d delivery, state, cause string, next time.Time) error {
	at, due, attempts := n.now().UnixMicro(), d.dueAt, d.attempts
	if state == "pending" {
		at = next.UnixMicro()
		if cause == "" { // quiet hours: it was not tried
			due, attempts = at, attempts-1
		}
	}
	_, err := n.db.ExecContext(context.WithoutCancel(ctx), `UPDATE alert_deliveries SET state = $3, cause = $4, due_at = $5, next_at = $6, changed_at = $7, attempts = $8, leased_until = 0, lease = ''
		WHERE id = $1 AND lease = $2`, d.id, d.lease, state, cause, due, at, n.now().UnixMicro(), attempts)
	if err != nil {
		return fmt.Errorf("write down that %s is %s: %w", d.id, state, err)
	}
	return nil
}
