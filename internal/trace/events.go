package trace

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/repair"
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

// maxRepairs bounds how many events of a repair are told that may have brought
// a row: the log has no readings, and so it does not say which it was.
const maxRepairs = 5

// walk is the events that the reading went through.
type walk struct {
	log     eventLog
	tenants string // a condition: events of the tenants that the reading was ever stored for
	in      window
	events  map[eventKey]*Event
}

// events follows the messages through what was made of them, and the rows that
// did not come that way back to what corrected them.
func (s *Story) events(ctx context.Context, log eventLog) error {
	w := &walk{log: log, events: map[eventKey]*Event{}}
	tenants := map[string]bool{}
	for _, port := range s.Ports {
		for _, r := range port.Revisions {
			tenants[r.Row.Text("tenant_id")] = true
			w.in.to = max(w.in.to, r.Row.Instant(contract.RecordedAt)+skew)
		}
	}
	tenant := extension(mesh.ExtTenant)
	w.tenants = fmt.Sprintf("(%s IS NULL OR %[1]s IN (%s))", tenant, list(slices.Sorted(maps.Keys(tenants))))

	var roots []*Event
	for _, m := range s.Messages {
		if m.In != nil {
			roots = append(roots, m.In)
		}
	}
	if err := w.follow(ctx, roots); err != nil {
		return err
	}
	for _, port := range s.Ports {
		for _, r := range port.Revisions {
			if w.explains(port.Table, r.Row) {
				continue
			}
			repairs, err := w.repairs(ctx, port.Table, r.Row)
			if err != nil {
				return err
			}
			if err := w.follow(ctx, repairs); err != nil {
				return err
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

// follow adds events and all that was made of them.
func (w *walk) follow(ctx context.Context, events []*Event) error {
	for len(events) > 0 {
		in := window{from: events[0].at(), to: w.in.to}
		var causes []string
		for _, e := range events {
			w.events[e.key()] = e
			in.from = min(in.from, e.at())
			causes = append(causes, fmt.Sprintf("(%s = %s AND %s = %s)", extension(mesh.ExtCauseID), repair.Text(e.ID), extension(mesh.ExtCauseSource), repair.Text(e.Source)))
		}
		in.from -= skew
		made, err := w.log.find(ctx, in, false, fmt.Sprintf("type <> %s AND %s AND (%s)", repair.Text(mesh.TelemetryRejected), w.tenants, strings.Join(causes, " OR ")))
		if err != nil {
			return err
		}
		events = slices.DeleteFunc(made, func(e *Event) bool { return w.events[e.key()] != nil })
	}
	return nil
}

// knew is the version of the metadata that an event was made with; -1: it does
// not say.
func knew(e *Event) int64 {
	n, err := strconv.ParseInt(e.Extensions[mesh.ExtVersion], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// explains says whether an event that was found can have brought a row.
func (w *walk) explains(table string, row Row) bool {
	for _, e := range w.events {
		if !slices.Contains(outcomes[table], e.Type) || e.Extensions[mesh.ExtTenant] != row.Text("tenant_id") || e.at() > row.Instant(contract.RecordedAt)+skew {
			continue
		}
		switch version := knew(e); {
		case version < 0, table == telemetry && version >= row.Int("assignment_version"), table == analytics && version == row.Int("join_version"):
			return true
		}
	}
	return false
}

// repairs finds the events of a repair that may have brought a row, the latest
// before it was stored.
func (w *walk) repairs(ctx context.Context, table string, row Row) ([]*Event, error) {
	version := fmt.Sprintf("CAST(%s AS BIGINT)", extension(mesh.ExtVersion))
	enough := fmt.Sprintf("%s >= %d", version, row.Int("assignment_version"))
	if table == analytics {
		enough = fmt.Sprintf("%s = %d", version, row.Int("join_version"))
	}
	tenant := extension(mesh.ExtTenant)
	of := tenant + " IS NULL"
	if id := row.Text("tenant_id"); id != "" {
		of = tenant + " = " + repair.Text(id)
	}
	// The message was received before anybody could correct what came of it.
	in := window{row.Instant("received_at") - skew, row.Instant(contract.RecordedAt) + skew}
	found, err := w.log.find(ctx, in, false, fmt.Sprintf("type IN (%s) AND source IN (%s) AND %s AND %s",
		list(outcomes[table]), list([]string{mesh.Source("tenancy-repair"), mesh.Source("analytics-repair")}), of, enough))
	if err != nil {
		return nil, err
	}
	before := slices.DeleteFunc(slices.Clone(found), func(e *Event) bool { return e.at() > row.Instant(contract.RecordedAt) })
	if len(before) > 0 { // otherwise clocks differ
		found = before
	}
	if n := len(found); n > maxRepairs {
		found = found[n-maxRepairs:]
	}
	return found, nil
}

// back adds what the events that were found came of.
func (w *walk) back(ctx context.Context) error {
	for events := slices.Collect(maps.Values(w.events)); len(events) > 0; {
		e := events[0]
		events = events[1:]
		cause := e.cause()
		if cause.id == "" || w.events[cause] != nil {
			continue
		}
		in, err := w.log.first(ctx, []window{{e.at() - nearby, e.at() + skew}, until(e.at())},
			fmt.Sprintf("event_id = %s AND source = %s", repair.Text(cause.id), repair.Text(cause.source)), func(*Event) bool { return true })
		if err != nil {
			return err
		}
		if in != nil {
			w.events[cause] = in
			events = append(events, in)
		}
	}
	return nil
}

// ends adds what tells the end of the repairs that were found.
func (w *walk) ends(ctx context.Context) error {
	in := window{from: w.in.to}
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
	ends, err := w.log.find(ctx, in, false, fmt.Sprintf("type = %s AND %s IN (%s)", repair.Text(mesh.TenancyRepaired), extension(mesh.ExtCauseID), list(causes)))
	for _, e := range ends {
		w.events[e.key()] = e
	}
	return err
}

// list is strings in SQL.
func list(all []string) string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = repair.Text(s)
	}
	return strings.Join(out, ", ")
}
