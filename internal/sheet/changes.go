package sheet

import (
	"cmp"
	"slices"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Changes compares what a sheet says now with the rows stored, and gives those
// that are new, changed or gone (Deleted), sorted by what they are about. All
// carry one version, higher than last and than every stored one. Nothing
// changed gives nothing.
//
// last is the highest version that was ever given out for this kind, 0 if
// none. The rows of an output port do not tell: a row deleted last took a
// version and is not among them. Stored rows that are marked deleted count as
// gone.
//
// While a row is refused, what it said before must not look deleted. So a group
// (the placements of one device, one action, one customer) that would lose a
// row keeps what is stored, with nothing changed, for as long as the sheet has
// a refused row that names this group or whose group cannot be told.
func (k Kind[R]) Changes(sheet Sheet[R], stored []R, last int64) []R {
	groups := map[string]*change[R]{}
	group := func(row *R) *change[R] {
		name := k.groupOf(row)
		if groups[name] == nil {
			groups[name] = &change[R]{stored: map[string]R{}}
		}
		return groups[name]
	}
	for _, row := range stored {
		last = max(last, *k.version(&row))
		if !*k.deleted(&row) {
			group(&row).stored[k.key(&row)] = row
		}
	}
	for _, row := range sheet.Rows {
		g, key := group(&row), k.key(&row)
		if before, ok := g.stored[key]; !ok || !k.same(&row, &before) {
			g.rows = append(g.rows, row)
		}
		delete(g.stored, key)
	}
	var changes []R
	for name, g := range groups {
		if len(g.stored) > 0 && (sheet.refused[name] || sheet.refused[""]) {
			continue
		}
		for _, row := range g.stored {
			g.rows = append(g.rows, k.gone(&row))
		}
		changes = append(changes, g.rows...)
	}
	for i := range changes {
		*k.version(&changes[i]) = last + 1
	}
	slices.SortFunc(changes, func(a, b R) int {
		return cmp.Or(cmp.Compare(k.groupOf(&a), k.groupOf(&b)), cmp.Compare(k.key(&a), k.key(&b)))
	})
	return changes
}

// change is what happens to one group.
type change[R any] struct {
	rows   []R          // new or changed
	stored map[string]R // by key: the rest is gone
}

// same says whether two rows have the same cells.
func (k Kind[R]) same(a, b *R) bool {
	for _, c := range k.columns {
		if c.get(a) != c.get(b) {
			return false
		}
	}
	return true
}

// maxEventBytes is well under what brokers accept, which is 1 MB at some.
const maxEventBytes = 512 << 10

// Events makes the events of function that tell of changes: placements.changed,
// actions.logged or customers.changed. Their ids follow from the content, so
// telling the same change again makes the same events. The rows of one group
// stay in one event: who reads it never sees half of a device's move.
func (k Kind[R]) Events(function string, changes []R) []event.Event {
	return events(k.eventType, function, changes, k.encode, k.groupOf)
}

// events parts rows, which are sorted by group, by what they take encoded.
func events[R any](eventType, function string, rows []R, encode func([]R) []byte, group func(*R) string) (out []event.Event) {
	emit := func(rows []R) {
		data := encode(rows)
		out = append(out, mesh.NewEvent(eventType, mesh.Source(function), data, eventType, string(data)))
	}
	first, size := 0, 0 // of the event that is being filled
	for at := 0; at < len(rows); {
		next, bytes := at, 0
		for next < len(rows) && group(&rows[next]) == group(&rows[at]) {
			bytes += len(encode(rows[next : next+1]))
			next++
		}
		if size > 0 && size+bytes > maxEventBytes {
			emit(rows[first:at])
			first, size = at, 0
		}
		at, size = next, size+bytes
	}
	if len(rows) > 0 {
		emit(rows[first:])
	}
	return out
}
