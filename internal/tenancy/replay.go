package tenancy

import (
	"cmp"
	"math"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Recorded is a row of the history of placements: a version of one, and when
// it was recorded.
type Recorded struct {
	mesh.Placement
	RecordedAt mesh.Instant
}

// Assignments replays the whole history of placements, in any order, and
// gives the assignments that it ends with, ordered by device and interval.
func Assignments(history []Recorded) []mesh.Assignment {
	history = slices.Clone(history)
	slices.SortFunc(history, func(a, b Recorded) int { return cmp.Compare(a.RecordedAt, b.RecordedAt) })
	var steps Steps
	for _, r := range history {
		steps.Add(r.RecordedAt, 1)
	}
	slices.SortStableFunc(history, func(a, b Recorded) int { return cmp.Compare(a.DeviceID, b.DeviceID) })
	var all []mesh.Assignment
	for len(history) > 0 {
		n := 1
		for n < len(history) && history[n].DeviceID == history[0].DeviceID {
			n++
		}
		all = steps.Replay(all, history[:n])
		history = history[n:]
	}
	return all
}

// Steps is the log of placements in short: how many rows were recorded when.
type Steps struct {
	steps []step
}

type step struct {
	at   mesh.Instant
	rows int64 // recorded up to and including at
}

// Add adds rows recorded at an instant, which is none before the last one.
func (s *Steps) Add(at mesh.Instant, rows int64) {
	if n := len(s.steps); n == 0 || s.steps[n-1].at != at {
		s.steps = append(s.steps, step{at, s.Version()})
	}
	s.steps[len(s.steps)-1].rows += rows
}

// Until gives the steps before an instant.
func (s *Steps) Until(at mesh.Instant) Steps {
	n, _ := slices.BinarySearchFunc(s.steps, at, func(s step, at mesh.Instant) int { return cmp.Compare(s.at, at) })
	return Steps{slices.Clone(s.steps[:n])}
}

// Last gives the instant of the last step; 0 where there is none.
func (s *Steps) Last() mesh.Instant {
	if len(s.steps) == 0 {
		return 0
	}
	return s.steps[len(s.steps)-1].at
}

// Version is the version of the table after the last step.
func (s *Steps) Version() int64 {
	if len(s.steps) == 0 {
		return 0
	}
	return s.steps[len(s.steps)-1].rows
}

// versionAt is the version of the table after the step at an instant.
func (s *Steps) versionAt(at mesh.Instant) int64 {
	n, found := slices.BinarySearchFunc(s.steps, at, func(s step, at mesh.Instant) int { return cmp.Compare(s.at, at) })
	if !found {
		n--
	}
	if n < 0 {
		return 0
	}
	return s.steps[n].rows
}

// forever is the end of an open interval.
const forever = mesh.Instant(math.MaxInt64)

// piece is who held a device until an instant, from where the piece before it
// ends.
type piece struct {
	until   mesh.Instant
	tenant  string // empty: nobody
	version int64  // 0: nothing was ever said
}

// Replay appends the assignments of one device to all. history is everything
// recorded of it; it is put in the order of recording.
func (s *Steps) Replay(all []mesh.Assignment, history []Recorded) []mesh.Assignment {
	slices.SortStableFunc(history, func(a, b Recorded) int { return cmp.Compare(a.RecordedAt, b.RecordedAt) })
	var counting []*mesh.Placement // one per valid_from, ordered by it
	said, spare := []piece{{until: forever}}, []piece(nil)
	for i := 0; i < len(history); {
		at := history[i].RecordedAt
		for ; i < len(history) && history[i].RecordedAt == at; i++ {
			p := &history[i].Placement
			n, found := slices.BinarySearchFunc(counting, p.ValidFrom, func(p *mesh.Placement, from mesh.Instant) int {
				return cmp.Compare(p.ValidFrom, from)
			})
			switch {
			case !found:
				counting = slices.Insert(counting, n, p)
			case rank(p, counting[n]) > 0:
				counting[n] = p
			}
		}
		said, spare = amend(spare[:0], said, outcome(counting), s.versionAt(at)), said
	}
	from := mesh.Instant(math.MinInt64)
	for _, p := range said {
		if p.version > 0 {
			a := mesh.Assignment{DeviceID: history[0].DeviceID, TenantID: p.tenant, ValidFrom: from, Version: p.version}
			if p.until != forever {
				until := p.until
				a.ValidTo = &until
			}
			all = append(all, a)
		}
		from = p.until
	}
	return all
}

// outcome gives who holds the device by the rows that count: the tenant of the
// one that covers an instant, nobody where none or several do.
func outcome(counting []*mesh.Placement) []piece {
	type edge struct {
		at    mesh.Instant
		begin bool
		row   *mesh.Placement
	}
	var edges []edge
	for _, p := range counting {
		if p.Deleted || p.ValidTo != nil && *p.ValidTo <= p.ValidFrom {
			continue
		}
		edges = append(edges, edge{p.ValidFrom, true, p})
		if p.ValidTo != nil {
			edges = append(edges, edge{*p.ValidTo, false, p})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	var pieces []piece
	var covering []*mesh.Placement
	for i := 0; i < len(edges); {
		at := edges[i].at
		tenant := ""
		if len(covering) == 1 {
			tenant = covering[0].TenantID
		}
		pieces = append(pieces, piece{until: at, tenant: tenant})
		for ; i < len(edges) && edges[i].at == at; i++ {
			if edges[i].begin {
				covering = append(covering, edges[i].row)
			} else {
				covering = slices.DeleteFunc(covering, func(p *mesh.Placement) bool { return p == edges[i].row })
			}
		}
	}
	last := piece{until: forever}
	if len(covering) == 1 {
		last.tenant = covering[0].TenantID
	}
	return append(pieces, last)
}

// amend appends to dst what is said of the device now: where it is what was
// said before, by the version of then.
func amend(dst, said, now []piece, version int64) []piece {
	for len(said) > 0 && len(now) > 0 {
		p := piece{until: min(said[0].until, now[0].until), tenant: said[0].tenant, version: said[0].version}
		if now[0].tenant != p.tenant {
			p.tenant, p.version = now[0].tenant, version
		}
		if n := len(dst); n > 0 && dst[n-1].tenant == p.tenant && dst[n-1].version == p.version {
			dst[n-1].until = p.until
		} else {
			dst = append(dst, p)
		}
		if said[0].until == p.until {
			said = said[1:]
		}
		if now[0].until == p.until {
			now = now[1:]
		}
	}
	return dst
}

// rank compares two rows of a key: the greater one counts. The order is that of
// the warehouse, which has to have one for rows of equal version too, though
// no source makes such.
func rank(a, b *mesh.Placement) int {
	return cmp.Or(
		cmp.Compare(a.Version, b.Version),
		null(a.ValidTo, b.ValidTo),
		cmp.Compare(a.TenantID, b.TenantID),
		cmp.Compare(a.Building, b.Building),
		cmp.Compare(a.Floor, b.Floor),
		cmp.Compare(a.Room, b.Room),
		null(a.Persons, b.Persons),
		null(a.OutsideCO2, b.OutsideCO2),
		falseFirst(a.Deleted, b.Deleted),
	)
}

// null compares cells that may be NULL, which is less than all else.
func null[T cmp.Ordered](a, b *T) int {
	switch {
	case a != nil && b != nil:
		return cmp.Compare(*a, *b)
	case a != nil:
		return 1
	case b != nil:
		return -1
	}
	return 0
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
