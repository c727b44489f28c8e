package trace

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// parts is what events of a type have to do with a reading.
var parts = map[string]string{
	mesh.TelemetryReceived:   "brought the message",
	mesh.TelemetryFlattened:  "made readings of it",
	mesh.TelemetryEnriched:   "says whose they are",
	mesh.TelemetryUnassigned: "says that they are nobody's",
	mesh.TelemetryOutdated:   "stored with an older version of the placements than there was",
	mesh.AnalyticsJoined:     "adds place, customer and last action",
	mesh.AnalyticsWithdrawn:  "takes them from who had them",
	mesh.AnalyticsOutdated:   "joined with older metadata than there were",
	mesh.TenancyRepaired:     "says that all is corrected",
	mesh.PlacementsChanged:   "says where devices stand",
	mesh.PlacementsRecorded:  "says that this is stored",
	mesh.ActionsLogged:       "says what was done",
	mesh.ActionsRecorded:     "says that this is stored",
	mesh.CustomersChanged:    "says who tenants are",
	mesh.CustomersRecorded:   "says that this is stored",
}

// outcomes are the types of the events that bring the rows of a port.
var outcomes = map[string][]string{
	telemetry: {mesh.TelemetryEnriched, mesh.TelemetryUnassigned},
	analytics: {mesh.AnalyticsJoined, mesh.AnalyticsWithdrawn},
}

// others are the types of events that are made of those with the reading, and whose data,
// which the log need not have, are of others: a level is that of the room's last reading.
var others = []string{mesh.TelemetryRejected, mesh.CO2Classified}

// walk is the events that the reading went through.
type walk struct {
	story  *Story
	log    eventLog
	to     mesh.Instant // when the last row was stored
	events map[eventKey]*Event
	gone   map[eventKey]bool // the log has them no more
}

// events follows the messages through what was made of them, and the rows that
// did not come that way back to what corrected them.
func (s *Story) events(ctx context.Context, log eventLog) error {
	w := &walk{story: s, log: log, events: map[eventKey]*Event{}, gone: map[eventKey]bool{}}
	for _, port := range s.Ports {
		for _, r := range port.Revisions {
			w.to = max(w.to, r.Row.Instant(contract.RecordedAt)+skew)
		}
	}
	var roots []*Event
	for _, m := range s.Messages {
		if m.In != nil {
			roots = append(roots, m.In)
		}
	}
	if err := w.follow(ctx, roots); err != nil {
		return err
	}
	choices := 0
	for _, port := range s.Ports {
		for _, r := range port.Revisions {
			if w.explains(port.Table, r.Row) {
				continue
			}
			repairs, err := w.repairs(ctx, port.Table, r.Row)
			if err != nil {
				return err
			}
			if len(repairs) < 2 {
				if err := w.follow(ctx, repairs); err != nil {
					return err
				}
				continue
			}
			choices++
			for _, e := range repairs {
				if w.events[e.key()] == nil {
					e.Choice = choices
					w.events[e.key()] = e
				}
			}
		}
	}
	if err := w.back(ctx); err != nil {
		return err
	}
	if err := w.ends(ctx); err != nil {
		return err
	}
	s.Events = []Event{}
	for _, e := range w.events {
		e.Part = cmp.Or(parts[e.Type], e.Part)
		s.Events = append(s.Events, *e)
	}
	slices.SortFunc(s.Events, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.at(), b.at()), cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
	})
	return nil
}

// follow adds events and all that was made of them that has the reading.
func (w *walk) follow(ctx context.Context, events []*Event) error {
	for len(events) > 0 {
		in := window{from: events[0].at(), to: w.to}
		var causes []string
		for _, e := range events {
			w.events[e.key()] = e
			in.from = min(in.from, e.at())
			causes = append(causes, fmt.Sprintf("(%s AND %s)", eventlog.ExtensionIs(mesh.ExtCauseID, e.ID), eventlog.ExtensionIs(mesh.ExtCauseSource, e.Source)))
		}
		in.from -= skew
		made, err := w.log.find(ctx, in, false, fmt.Sprintf("type NOT IN (%s) AND (%s)", list(others), strings.Join(causes, " OR ")))
		if err != nil {
			return err
		}
		events = slices.DeleteFunc(made, func(e *Event) bool { return w.events[e.key()] != nil || w.events[e.cause()] == nil || !w.has(e) })
	}
	return nil
}

// has says whether an event that was made of one with the reading has it too:
// readings of one event that are of several tenants, or none, go on in several.
func (w *walk) has(e *Event) bool {
	if slices.Contains(outcomes[analytics], e.Type) && e.Source == mesh.Source("analytics-join") {
		return true // one of one
	}
	for _, port := range w.story.Ports {
		for _, r := range port.Revisions {
			// A row of analytics was a row of telemetry first.
			if w.story.fits(e, port.Table, r.Row) || w.story.fits(e, telemetry, r.Row) {
				return true
			}
		}
	}
	return !slices.Contains(slices.Concat(outcomes[telemetry], outcomes[analytics]), e.Type)
}

// fits says whether a row is what an event would say of the reading: it is of
// the same tenant, and of the version of the metadata that the event was made
// with.
func (s *Story) fits(e *Event, table string, row Row) bool {
	if !slices.Contains(outcomes[table], e.Type) || e.Extensions[mesh.ExtTenant] != row.Text("tenant_id") || e.at() > row.Instant(contract.RecordedAt)+skew {
		return false
	}
	version, err := strconv.ParseInt(e.Extensions[mesh.ExtVersion], 10, 64)
	if err != nil {
		return true // it does not say
	}
	from, before := s.versions(table, row)
	return from <= version && version < before
}

// versions gives the versions of the metadata, from one to before another, with
// which a row is made: of telemetry, those in which nothing else was decided
// about the tenant.
func (s *Story) versions(table string, row Row) (from, before int64) {
	if table == analytics {
		from = row.Int("join_version")
		return from, from + 1
	}
	from, before = row.Int("assignment_version"), math.MaxInt64
	for i := range s.Placements {
		if p := &s.Placements[i]; p.Decides && p.Log > from {
			before = min(before, p.Log)
		}
	}
	return from, before
}

// explains says whether an event that was found can have brought a row.
func (w *walk) explains(table string, row Row) bool {
	for _, e := range w.events {
		if w.story.fits(e, table, row) {
			return true
		}
	}
	return false
}

// repairs finds the events of a repair that may have brought a row. The log has
// no readings: where a repair made several events of a tenant it does not say
// which of them it was.
func (w *walk) repairs(ctx context.Context, table string, row Row) ([]*Event, error) {
	tenant := row.Text("tenant_id")
	of := eventlog.Extension(mesh.ExtTenant) + " IS NULL"
	if tenant != "" {
		of = eventlog.ExtensionIs(mesh.ExtTenant, tenant)
	}
	from, before := w.story.versions(table, row)
	// The message was received before anybody could correct what came of it.
	in := window{row.Instant("received_at") - skew, row.Instant(contract.RecordedAt) + skew}
	found, err := w.log.find(ctx, in, false, fmt.Sprintf("type IN (%s) AND source IN (%s) AND %s AND CAST(%s AS INT64) BETWEEN %d AND %d",
		list(outcomes[table]), list([]string{mesh.Source("tenancy-repair"), mesh.Source("analytics-repair"), mesh.Source("analytics-join")}),
		of, eventlog.Extension(mesh.ExtVersion), from, before-1))
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(e *Event) bool {
		return e.Extensions[mesh.ExtTenant] != tenant || e.Source == mesh.Source("analytics-join") && w.events[e.cause()] == nil
	})
	found = narrow(found, func(e *Event) bool { return e.at() <= row.Instant(contract.RecordedAt) }) // otherwise clocks differ
	if len(found) < 2 {
		return found, nil
	}

	// What was made of a change of other devices, or of other readings that were
	// outdated, has not this one.
	var ids []string
	for _, e := range found {
		ids = append(ids, e.cause().id)
	}
	causes, err := w.log.find(ctx, until(row.Instant(contract.RecordedAt)), false, fmt.Sprintf("event_id IN (%s) AND (type IN (%s) OR type = %s AND NOT %s)",
		eventlog.Distinct(ids), list([]string{mesh.TelemetryOutdated, mesh.AnalyticsOutdated}), literal.Text(mesh.PlacementsRecorded), has(w.story.DeviceID)))
	if err != nil {
		return nil, err
	}
	other := map[eventKey]bool{}
	for _, e := range causes {
		other[e.key()] = e.Type == mesh.PlacementsRecorded || w.events[e.cause()] == nil
	}
	return narrow(found, func(e *Event) bool { return !other[e.cause()] }), nil
}

// narrow keeps what holds of some events, or all if it holds of none.
func narrow(events []*Event, holds func(*Event) bool) []*Event {
	if !slices.ContainsFunc(events, holds) {
		return events
	}
	return slices.DeleteFunc(events, func(e *Event) bool { return !holds(e) })
}

// back adds what the events that were found came of.
func (w *walk) back(ctx context.Context) error {
	for {
		missing, ids := map[eventKey]bool{}, []string(nil)
		near := window{w.to, 0}
		for _, e := range w.events {
			if cause := e.cause(); cause.id != "" && w.events[cause] == nil && !w.gone[cause] {
				missing[cause] = true
				ids = append(ids, cause.id)
				near = window{min(near.from, e.at()-nearby), max(near.to, e.at()+skew)}
			}
		}
		if len(missing) == 0 {
			return nil
		}
		for _, in := range []window{near, until(near.to)} {
			found, err := w.log.find(ctx, in, false, fmt.Sprintf("event_id IN (%s)", eventlog.Distinct(ids)))
			if err != nil {
				return err
			}
			for _, e := range found {
				if missing[e.key()] {
					w.events[e.key()] = e
					delete(missing, e.key())
				}
			}
			if len(missing) == 0 {
				break
			}
		}
		maps.Copy(w.gone, missing)
	}
}

// ends adds what tells the end of the repairs that were found.
func (w *walk) ends(ctx context.Context) error {
	in := window{from: w.to}
	var causes []string
	for _, e := range w.events {
		if e.Type == mesh.PlacementsRecorded {
			in.from = min(in.from, e.at()-skew)
			causes = append(causes, e.ID)
		}
	}
	if len(causes) == 0 {
		return nil
	}
	ends, err := w.log.find(ctx, in, false, fmt.Sprintf("type = %s AND %s", literal.Text(mesh.TenancyRepaired), eventlog.ExtensionIs(mesh.ExtCauseID, causes...)))
	for _, e := range ends {
		if w.events[e.cause()] != nil {
			w.events[e.key()] = e
		}
	}
	return err
}

// list is strings in SQL.
func list(all []string) string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = literal.Text(s)
	}
	return strings.Join(out, ", ")
}
