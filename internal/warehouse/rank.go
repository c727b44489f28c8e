package warehouse

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
)

// Ranking says which of the rows of one key counts, for every warehouse alike.
// Columns are given by their place in Stored; -1: the table has none.
//
// The row counts that is the greatest by Order, Assigned, Values, Judged, Knowledge
// and Flags, in this order, NULL being the least; where all are equal and the rows do
// not say the same, it is the one with the greater Content. Of rows that say the same
// and knew the same the one counts that was Received first, else that with the
// lesser Origin.
type Ranking struct {
	Stored     []contract.Column // the cells of a row, and recorded_at behind them if it is not among them
	RecordedAt int
	Key        []int
	KeyOf      []int // what the key is made of: rows of one key have the same
	Order      int
	Assigned   int   // assignment_version
	Values     []int // what must not differ between rows of one Order and Assigned
	Quality    int   // where it is said that they do
	Judged     int   // judged
	Knowledge  int
	Flags      []int // of readings unit and quality; of other tables all that is left, the instants first
	Received   int   // the first column of provenance, where that is a TIMESTAMP
	Time       int   // a TIMESTAMP that a key is always with
	Says       []int // what a row says of its key: neither key nor what it is made of, provenance, knowledge nor recorded_at
	Provenance []int // but Received
	rank       []int // Order, Assigned, Values, Judged, Knowledge and Flags
	// Says and Provenance by the names of their columns.
	says, provenance []int
}

// NewRanking gives the ranking of a table.
func NewRanking(t *contract.Table) Ranking {
	r := Ranking{Stored: t.Cells(), Received: -1}
	index := func(name string) int {
		return slices.IndexFunc(r.Stored, func(c contract.Column) bool { return c.Name == name })
	}
	if r.RecordedAt = index(contract.RecordedAt); r.RecordedAt < 0 {
		r.RecordedAt = len(r.Stored)
		r.Stored = append(r.Stored[:r.RecordedAt:r.RecordedAt],
			contract.Column{Name: contract.RecordedAt, Type: contract.Timestamp, Required: true})
	}
	r.Key, r.KeyOf = existing(index, t.Key...), existing(index, t.KeyOf...)
	r.Order, r.Knowledge, r.Time, r.Assigned, r.Quality, r.Judged = index(t.Order), index(t.Knowledge), -1, -1, -1, -1
	if t.Order == contract.Revision {
		r.Time, r.Assigned, r.Quality, r.Judged = index(t.Time), index("assignment_version"), index("quality"), index("judged")
		r.Values = existing(index, "value", "value_string", "value_bool")
		r.Flags = existing(index, "unit", "quality")
	}
	if slices.Contains(t.Key, t.Time) {
		r.Time = index(t.Time)
	}
	for i, c := range r.Stored {
		switch {
		case c.Provenance && r.Received < 0 && r.Provenance == nil && c.Type == contract.Timestamp:
			r.Received = i
		case c.Provenance:
			r.Provenance = append(r.Provenance, i)
		case i != r.RecordedAt && i != r.Knowledge && !slices.Contains(r.Key, i) && !slices.Contains(r.KeyOf, i):
			r.Says = append(r.Says, i)
		}
	}
	if t.Order != contract.Revision {
		for _, instants := range []bool{true, false} {
			for _, i := range r.Says {
				if i != r.Order && instants == (r.Stored[i].Type == contract.Timestamp) {
					r.Flags = append(r.Flags, i)
				}
			}
		}
	}
	byName := func(a, b int) int { return strings.Compare(r.Stored[a].Name, r.Stored[b].Name) }
	r.says, r.provenance = slices.SortedFunc(slices.Values(r.Says), byName), slices.SortedFunc(slices.Values(r.Provenance), byName)
	for _, i := range slices.Concat([]int{r.Order, r.Assigned}, r.Values, []int{r.Judged, r.Knowledge}, r.Flags) {
		if i >= 0 {
			r.rank = append(r.rank, i)
		}
	}
	return r
}

func existing(index func(string) int, names ...string) (columns []int) {
	for _, name := range names {
		if i := index(name); i >= 0 {
			columns = append(columns, i)
		}
	}
	return columns
}

// Same says whether two rows of one key say the same.
func (r *Ranking) Same(a, b []Cell) bool { return compareBy(r.Says, a, b) == 0 }

// KnowsMore says whether a was made with more than b.
func (r *Ranking) KnowsMore(a, b []Cell) bool {
	return r.Knowledge >= 0 && a[r.Knowledge].Int() > b[r.Knowledge].Int()
}

// Conflict says whether the values of two rows of one key differ where neither
// is a correction of the other.
func (r *Ranking) Conflict(a, b []Cell) bool {
	for _, i := range []int{r.Order, r.Assigned} {
		if i >= 0 && compare(&a[i], &b[i]) != 0 {
			return false
		}
	}
	return compareBy(r.Values, a, b) != 0
}

// Compare is positive if of two rows of one key a counts and not b, and 0 if
// they differ in nothing.
func (r *Ranking) Compare(a, b []Cell) int {
	if c := compareBy(r.rank, a, b); c != 0 {
		return c
	}
	if !r.Same(a, b) {
		return cmp.Compare(r.Content(a), r.Content(b))
	}
	if r.Received >= 0 {
		if c := compare(&b[r.Received], &a[r.Received]); c != 0 {
			return c
		}
	}
	if compareBy(r.Provenance, a, b) == 0 {
		return 0
	}
	return cmp.Compare(r.Origin(b), r.Origin(a))
}

func compareBy(columns []int, a, b []Cell) int {
	for _, i := range columns {
		if c := compare(&a[i], &b[i]); c != 0 {
			return c
		}
	}
	return 0
}

// compare orders cells of a column: NULL comes first.
func compare(a, b *Cell) int {
	if c := cmp.Compare(a.kind, b.kind); c != 0 {
		return c
	}
	switch a.kind {
	case StringKind:
		return cmp.Compare(a.str, b.str)
	case FloatKind:
		return cmp.Compare(a.Float(), b.Float())
	}
	return cmp.Compare(a.Int(), b.Int())
}

// Content is a digest of what a row says: rows of one key that say the same
// have the same, others have not, but for one in 2^64.
func (r *Ranking) Content(row []Cell) int64 { return r.digest(row, r.says) }

// Origin is a digest of how a row came.
func (r *Ranking) Origin(row []Cell) int64 { return r.digest(row, r.provenance) }

// digest is the first 64 bits of a SHA-256 of the cells that are not NULL, each
// behind the name of its column, by name: so a column that a contract gains, or
// has in another place, changes no digest of the rows that are there.
func (r *Ranking) digest(row []Cell, columns []int) int64 {
	var buf [1024]byte
	b := buf[:0]
	for _, i := range columns {
		c := &row[i]
		if c.kind == NullKind {
			continue
		}
		b = append(b, r.Stored[i].Name...)
		b = append(b, byte(c.kind)) // no name has it
		if c.kind == StringKind {
			b = binary.AppendUvarint(b, uint64(len(c.str)))
			b = append(b, c.str...)
		} else {
			b = binary.BigEndian.AppendUint64(b, c.bits)
		}
	}
	sum := sha256.Sum256(b)
	return int64(binary.BigEndian.Uint64(sum[:8]))
}
