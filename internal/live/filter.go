package live

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/cesql"
	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Filter says which events are meant: those for which all holds that it names. One
// goroutine at a time uses it.
type Filter struct {
	Expression           *cesql.Expression // nil: every event
	Broker, Type, Tenant string            // empty: any
}

// Matches says whether an event is meant.
func (f *Filter) Matches(e *Event) bool {
	return (f.Broker == "" || f.Broker == e.Broker) && (f.Type == "" || f.Type == e.Type()) && (f.Tenant == "" || f.Tenant == e.Tenant()) &&
		(f.Expression == nil || f.Expression.Matches(e.Event))
}

// where is what must hold in SQL of the rows of these events.
func (f *Filter) where() string {
	conditions := []string{"TRUE"}
	for column, value := range map[string]string{"broker": f.Broker, "type": f.Type} {
		if value != "" {
			conditions = append(conditions, column+" = "+literal.Text(value))
		}
	}
	if f.Tenant != "" {
		conditions = append(conditions, eventlog.ExtensionIs(mesh.ExtTenant, f.Tenant))
	}
	if f.Expression != nil {
		conditions = append(conditions, f.Expression.Conditions()...)
	}
	return strings.Join(conditions, " AND ")
}

// searched is how many of the latest events are looked at for those that match.
const searched = 5000

// Recent gives at most n of the latest events that are meant, the latest first. It
// looks at some thousands, and where each reading of a day is paid for, at those of the
// last one.
func (f *Feed) Recent(ctx context.Context, v access.Viewer, of *Filter, n int) ([]*Event, error) {
	where := of.where()
	if f.cfg.Late > 0 {
		where += " AND received_at >= " + literal.Time(mesh.At(time.Now().Add(-first)))
	}
	rows, err := f.data.Query(ctx, v, fmt.Sprintf("SELECT %s FROM {event_log.events} WHERE %s ORDER BY received_at DESC, broker, source, event_id LIMIT %d", Columns, where, searched))
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
		if !of.Matches(e) {
			continue
		}
		if events = append(events, e); len(events) == n {
			break
		}
	}
	return events, nil
}
