package outlier

import (
	"cmp"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// perVersion is how much higher the judgements of a version are than those of the
// one before: more rows than a window ever has.
const perVersion = 1_000_000_000

// Judge gives the readings in [from, to) that are to be sent again, each as it was
// measured, with the flag that it should have and a Judged that is higher than that
// of every judgement that knew less. rows are what is stored of one metric of one
// device in [from-2w, to+2w), w being the metric's Window, in any order and as often
// as they were stored: what was judged before is among them, and what has the right
// flag is left out.
func (m Metric) Judge(rows []mesh.Reading, from, to mesh.Instant) []mesh.Reading {
	stored := collect(rows)
	var points []point
	var of []int // the index in stored
	for i := range stored {
		if r := stored[i].measured; r.Kind == mesh.Number && (r.Quality == mesh.QualityOK || r.Quality == mesh.QualityNoTime) {
			points, of = append(points, point{r.ObservedAt, r.Value}), append(of, i)
		}
	}
	flags := m.judge(points)
	window := mesh.Instant(m.Window().Microseconds())
	var out []mesh.Reading
	first, last := 0, 0
	var known int64
	for i, p := range points {
		for last < len(stored) && stored[last].measured.ObservedAt <= p.at+window {
			known += stored[last].contents
			last++
		}
		for stored[first].measured.ObservedAt < p.at-window {
			known -= stored[first].contents
			first++
		}
		if p.at < from || p.at >= to {
			continue
		}
		s := &stored[of[i]]
		quality := cmp.Or(flags[i], s.measured.Quality)
		if quality == s.shown.Quality {
			continue
		}
		r := *s.measured
		r.Quality, r.Judged = quality, Version*perVersion+known
		r.TenantID, r.AssignmentVersion = "", 0
		out = append(out, r)
	}
	return out
}

// reading is what is stored of one.
type reading struct {
	measured *mesh.Reading // of what messages said, what counts
	shown    *mesh.Reading // of that and the judgements of it, what counts
	contents int64         // how many different things messages said
}

// collect gives the readings of rows by instant. Of a reading of which no message is
// there, but a judgement alone, nothing is known.
func collect(rows []mesh.Reading) []reading {
	order := make([]*mesh.Reading, len(rows))
	for i := range rows {
		order[i] = &rows[i]
	}
	slices.SortFunc(order, func(a, b *mesh.Reading) int {
		return cmp.Or(cmp.Compare(a.ObservedAt, b.ObservedAt), said(a, b),
			cmp.Compare(b.ReceivedAt, a.ReceivedAt), strings.Compare(b.EventSource, a.EventSource), strings.Compare(b.EventID, a.EventID))
	})
	var out []reading
	for len(order) > 0 {
		n := 1
		for n < len(order) && order[n].ObservedAt == order[0].ObservedAt {
			n++
		}
		if r := counts(order[:n]); r.measured != nil {
			out = append(out, r)
		}
		order = order[n:]
	}
	return out
}

// counts gives what counts of the rows of one reading, which are in the order of
// what they say.
func counts(rows []*mesh.Reading) (r reading) {
	for _, row := range rows {
		if row.Judged == 0 {
			if r.measured == nil || said(r.measured, row) != 0 {
				r.contents++
			}
			r.measured = row
		}
	}
	if r.measured == nil {
		return r
	}
	for _, row := range rows {
		if value(r.measured, row) != 0 {
			continue
		}
		// The store compares who held the device before the judgement.
		if s := r.shown; s == nil || cmp.Or(cmp.Compare(row.AssignmentVersion, s.AssignmentVersion),
			cmp.Compare(row.Judged, s.Judged), strings.Compare(row.Unit, s.Unit), strings.Compare(row.Quality, s.Quality)) >= 0 {
			r.shown = row
		}
	}
	return r
}

// value orders rows of one reading by revision and value, as the store does.
func value(a, b *mesh.Reading) int {
	number := func(r *mesh.Reading) bool { return r.Kind != mesh.Text }
	order := cmp.Compare(a.Revision, b.Revision)
	switch {
	case order != 0:
	case number(a) && number(b):
		order = cmp.Compare(a.Value, b.Value)
	case number(a) || number(b): // NULL is the least
		return cmp.Compare(b.Kind, a.Kind)
	}
	return cmp.Or(order, strings.Compare(a.ValueString, b.ValueString), cmp.Compare(a.Kind, b.Kind))
}

// said orders rows of one reading by what was measured, as the store does.
func said(a, b *mesh.Reading) int {
	return cmp.Or(value(a, b), strings.Compare(a.Unit, b.Unit), strings.Compare(a.Quality, b.Quality))
}
