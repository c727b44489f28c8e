package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Key is what tells events apart.
type Key struct{ Source, ID string }

// Key gives that of the event.
func (e *Event) Key() Key { return Key{e.Source(), e.ID()} }

// Cause gives that of the event it was made of; empty: it names none.
func (e *Event) Cause() Key {
	text := func(name string) string { s, _ := types.Format(e.Extensions()[name]); return s }
	return Key{text(mesh.ExtCauseSource), text(mesh.ExtCauseID)}
}

// ErrNone says that the log has no such event.
var ErrNone = errors.New("the event log has no such event")

// Link is an event in a chain, and what was made of it.
type Link struct {
	*Event           // at the Broker that had it first
	Brokers []*Event // as each Broker had it, in the order they did
	Made    []*Link  // of it, in the order they came
	Of      *Link    // nil: the first
}

// Chain is what an event came from and what came of it.
type Chain struct {
	First *Link // which the log knows no cause of
	This  *Link
	// Lost is the cause of the first that the log has no more; empty: it has none.
	Lost Key
	Cut  bool // more came of it than is here
}

const (
	maxLinks = 300
	maxDepth = 32
	skew     = mesh.Instant(60_000_000)  // between the clocks of two Brokers
	nearby   = mesh.Instant(600_000_000) // how long before an event its cause is looked for first
)

// Find gives an event as each Broker had it, in the order they did. at is when one of
// them did, about which it is looked for first; 0: nobody knows.
func (f *Feed) Find(ctx context.Context, v access.Viewer, k Key, at mesh.Instant) ([]*Event, error) {
	is := fmt.Sprintf("source = %s AND event_id = %s", literal.Text(k.Source), literal.Text(k.ID))
	for _, within := range about(at) {
		events, err := f.find(ctx, v, within+is, 0)
		if err != nil || len(events) > 0 {
			return events, err
		}
	}
	return nil, fmt.Errorf("%w: %s %s", ErrNone, k.Source, k.ID)
}

// about are conditions on the time, each wider than the one before: a warehouse reads
// less for the first.
func about(at mesh.Instant) []string {
	if at == 0 {
		return []string{""}
	}
	return []string{fmt.Sprintf("received_at BETWEEN %s AND %s AND ", literal.Time(at-nearby), literal.Time(at+nearby)), ""}
}

// find gives events for which a condition holds, the first first; most 0: all.
func (f *Feed) find(ctx context.Context, v access.Viewer, where string, most int) ([]*Event, error) {
	sql := fmt.Sprintf("SELECT %s FROM {event_log.events} WHERE %s ORDER BY received_at, broker, source, event_id", Columns, where)
	if most > 0 {
		sql += fmt.Sprintf(" LIMIT %d", most)
	}
	rows, err := f.data.Query(ctx, v, sql)
	if err != nil {
		return nil, fmt.Errorf("read the event log: %w", err)
	}
	var events []*Event
	for row, err := range rows.All {
		if err != nil {
			return nil, fmt.Errorf("read the event log: %w", err)
		}
		e, err := Read(row)
		if err != nil {
			f.log.Warn("event of the log cannot be rebuilt", "event.id", e.ID(), "event.type", e.Type(), "error", err)
		}
		events = append(events, e)
	}
	return events, nil
}

// Chain gives what an event came from and what came of it, as far as the log has it.
func (f *Feed) Chain(ctx context.Context, v access.Viewer, k Key, at mesh.Instant) (*Chain, error) {
	there, err := f.Find(ctx, v, k, at)
	if err != nil {
		return nil, err
	}
	this := &Link{Event: there[0], Brokers: there}
	c := &Chain{First: this, This: this}
	links := map[Key]*Link{k: this}
	for range maxDepth {
		cause := c.First.Cause()
		if cause.ID == "" || links[cause] != nil {
			break
		}
		there, err := f.Find(ctx, v, cause, c.First.ReceivedAt)
		if errors.Is(err, ErrNone) {
			c.Lost = cause
			break
		}
		if err != nil {
			return nil, err
		}
		above := &Link{Event: there[0], Brokers: there, Made: []*Link{c.First}}
		c.First.Of, links[cause] = above, above
		c.First = above
	}
	return c, f.made(ctx, v, c, links)
}

// made adds what was made of the first link, one generation after the other.
func (f *Feed) made(ctx context.Context, v access.Viewer, c *Chain, links map[Key]*Link) error {
	generation, known := []*Link{c.First}, map[*Link]bool{c.First: true}
	for range maxDepth {
		if len(generation) == 0 {
			return nil
		}
		var causes []string
		from := generation[0].ReceivedAt
		for _, l := range generation {
			causes, from = append(causes, l.ID()), min(from, l.ReceivedAt)
		}
		found, err := f.find(ctx, v, fmt.Sprintf("received_at >= %s AND %s", literal.Time(from-skew), eventlog.ExtensionIs(mesh.ExtCauseID, causes...)), 4*maxLinks)
		if err != nil {
			return err
		}
		c.Cut = c.Cut || len(found) == 4*maxLinks
		var next []*Link
		for _, e := range found {
			of := links[e.Cause()]
			if of == nil || !slices.Contains(generation, of) {
				continue // of another source, with the same id
			}
			l := links[e.Key()]
			if l == nil {
				if len(links) == maxLinks {
					c.Cut = true
					continue
				}
				l = &Link{Event: e, Of: of}
				links[e.Key()], of.Made = l, append(of.Made, l)
			}
			if !known[l] {
				known[l], next = true, append(next, l)
			}
			if !slices.ContainsFunc(l.Brokers, func(b *Event) bool { return b.Broker == e.Broker && b.ReceivedAt == e.ReceivedAt }) {
				l.Brokers = append(l.Brokers, e)
			}
		}
		for _, l := range generation {
			slices.SortStableFunc(l.Made, func(a, b *Link) int { return cmp.Compare(a.ReceivedAt, b.ReceivedAt) })
		}
		generation = next
	}
	return nil
}

// Way gives the links from the first to this one.
func (c *Chain) Way() (way []*Link) {
	for l := c.This; l != nil; l = l.Of {
		way = append(way, l)
	}
	slices.Reverse(way)
	return way
}

// Data gives the data of an event as the log has it; kept is false where the event has
// data that the log left out.
func (f *Feed) Data(ctx context.Context, v access.Viewer, e *Event) (data []byte, kept bool, err error) {
	rows, err := f.data.Query(ctx, v, fmt.Sprintf("SELECT %s FROM {event_log.events} WHERE received_at = %s AND broker = %s AND source = %s AND event_id = %s",
		eventlog.Columns, literal.Time(e.ReceivedAt), literal.Text(e.Broker), literal.Text(e.Source()), literal.Text(e.ID())))
	if err != nil {
		return nil, false, fmt.Errorf("read the event log: %w", err)
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, false, fmt.Errorf("read the event log: %w", err)
		}
		whole, size, err := eventlog.Read(row)
		if err != nil && len(whole.Data()) == 0 && size > 0 {
			return nil, false, err
		}
		return slices.Clone(whole.Data()), int64(len(whole.Data())) == size, nil
	}
	return nil, false, fmt.Errorf("%w: %s %s", ErrNone, e.Source(), e.ID())
}

// Reading is a row of readings that an event carried.
type Reading struct {
	DeviceID, TenantID, Metric, Value, Unit string
	ObservedAt                              mesh.Instant
}

// carried are the tables that hold, row by row, what events of a type carry.
var carried = map[string]string{
	mesh.TelemetryFlattened:  "iot_telemetry.readings",
	mesh.TelemetryEnriched:   "iot_telemetry.readings",
	mesh.TelemetryUnassigned: "iot_telemetry.readings",
	mesh.AnalyticsJoined:     "iot_analytics.readings",
	mesh.AnalyticsWithdrawn:  "iot_analytics.readings",
}

// Carried names the table that holds what an event carried; empty: none is known to.
func (e *Event) Carried() string { return carried[e.Type()] }

// old is how long before its message was received a reading of it may have been taken
// to be looked for: the tables are partitioned by that.
const old = mesh.Instant(31 * 24 * 3600 * 1_000_000)

// Readings gives at most n readings that came of the messages at the begin of a chain,
// as the output port has them now, of the tenant that this event is of. They are the
// event's own where nothing was corrected since. None: the chain does not
// begin with messages, or nothing of them is stored.
func (f *Feed) Readings(ctx context.Context, v access.Viewer, c *Chain, n int) ([]Reading, error) {
	table := c.This.Carried()
	if table == "" || c.First.Type() != mesh.TelemetryReceived {
		return nil, nil
	}
	data, kept, err := f.Data(ctx, v, c.First.Event)
	if err != nil || !kept {
		return nil, err
	}
	messages, err := mesh.DecodeMessages(data)
	if err != nil || len(messages) == 0 {
		return nil, nil // telemetry-flatten refused it
	}
	var sources, ids []string
	from, to := messages[0].ReceivedAt, messages[0].ReceivedAt
	for i := range messages {
		m := &messages[i]
		sources, ids = append(sources, m.Source), append(ids, m.ID)
		from, to = min(from, m.ReceivedAt), max(to, m.ReceivedAt)
	}
	where := fmt.Sprintf("received_at BETWEEN %s AND %s AND observed_at >= %s AND event_source IN (%s) AND event_id IN (%s)",
		literal.Time(from), literal.Time(to), literal.Time(from-old), eventlog.Distinct(sources), eventlog.Distinct(ids))
	if tenant := c.This.Tenant(); tenant != "" {
		where += " AND tenant_id = " + literal.Text(tenant)
	}
	rows, err := f.data.Query(ctx, v, fmt.Sprintf(`SELECT device_id, tenant_id, metric, value, value_string, value_bool, unit, observed_at
FROM %s WHERE %s ORDER BY observed_at, device_id, metric LIMIT %d`, "{"+table+"}", where, n))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", table, err)
	}
	var all []Reading
	for row, err := range rows.All {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", table, err)
		}
		text := func(i int) string { s, _ := row[i].(string); return s }
		r := Reading{DeviceID: text(0), TenantID: text(1), Metric: text(2), Unit: text(6), Value: text(4)}
		if number, ok := row[3].(float64); ok {
			r.Value = cmp.Or(r.Value, strconv.FormatFloat(number, 'g', -1, 64))
		}
		if is, ok := row[5].(bool); ok {
			r.Value = fmt.Sprint(is)
		}
		r.ObservedAt = instant(row[7])
		all = append(all, r)
	}
	return all, nil
}
