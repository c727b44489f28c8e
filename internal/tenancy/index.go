package tenancy

import (
	"cmp"
	"io"
	"iter"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Index is an immutable set of assignments as of a version, looked up by
// device and instant.
type Index struct {
	base    *table
	over    *table // devices that have changed since base was built; nil: none. It hides what base has of them.
	version int64
}

// NewIndex builds an index of assignments as of a version of the placements.
// It is fastest if they are ordered by device and interval. Two of one device
// that overlap are an error: no history ends with such.
func NewIndex(assignments []mesh.Assignment, version int64) (*Index, error) {
	base, err := newTable(assignments)
	if err != nil {
		return nil, err
	}
	return &Index{base: base, version: version}, nil
}

func newTable(assignments []mesh.Assignment) (*table, error) {
	order := func(a, b mesh.Assignment) int {
		return cmp.Or(cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ValidFrom, b.ValidFrom))
	}
	if !slices.IsSortedFunc(assignments, order) {
		assignments = slices.Clone(assignments)
		slices.SortFunc(assignments, order)
	}
	const names = 8 // a name of 32 bytes for each four intervals: what is too much is given back
	b := builder{records: make([]byte, 0, len(assignments)*(intervalSize+names))}
	for i := range assignments {
		if err := b.add(&assignments[i]); err != nil {
			return nil, err
		}
	}
	return b.table()
}

// Collect is NewIndex for assignments that come one by one, ordered by device
// and interval.
func Collect(assignments iter.Seq2[mesh.Assignment, error], version int64) (*Index, error) {
	var b builder
	for a, err := range assignments {
		if err == nil {
			err = b.add(&a)
		}
		if err != nil {
			return nil, err
		}
	}
	base, err := b.table()
	return &Index{base: base, version: version}, err
}

// Read is NewIndex for lines as AppendLine writes them, ordered by device and
// interval.
func Read(lines io.Reader, version int64) (*Index, error) {
	var b builder
	if err := decode(lines, b.add); err != nil {
		return nil, err
	}
	base, err := b.table()
	return &Index{base: base, version: version}, err
}

// find gives the intervals of a device and the table that they stand in.
func (x *Index) find(device string) (*table, intervals) {
	if x.over != nil {
		if of := x.over.device(device); of != nil {
			return x.over, of
		}
	}
	return x.base, x.base.device(device)
}

// At gives who held a device at an instant, and since which version of the
// placements that is so. An empty tenant is nobody; a version of 0 says that
// nothing was ever said.
func (x *Index) At(device string, t mesh.Instant) (tenant string, version int64) {
	table, of := x.find(device)
	return table.at(of, t)
}

// Version is the version of the placements that the index knows.
func (x *Index) Version() int64 { return x.version }

// Device gives the assignments of a device in the order of their intervals.
func (x *Index) Device(device string) []mesh.Assignment {
	t, of := x.find(device)
	return slices.Collect(t.assignments(device, of))
}

// All yields all assignments, ordered by device and interval.
func (x *Index) All() iter.Seq[mesh.Assignment] {
	return x.devices(func(intervals) bool { return true })
}

// Since yields the assignments, whole, of each device of which one is newer
// than a version: what an index of that version has to be given by With.
func (x *Index) Since(version int64) iter.Seq[mesh.Assignment] {
	return x.devices(func(of intervals) bool {
		for i := range of.len() {
			if of.at(i).version > version {
				return true
			}
		}
		return false
	})
}

// devices yields the assignments of the devices that are wanted, ordered by
// device and interval.
func (x *Index) devices(wanted func(intervals) bool) iter.Seq[mesh.Assignment] {
	return func(yield func(mesh.Assignment) bool) {
		base, over := cursor{table: x.base}, cursor{table: x.over}
		base.next()
		over.next()
		for base.name != nil || over.name != nil {
			c := &base
			if base.name == nil || over.name != nil && string(over.name) <= string(base.name) {
				c = &over
				if string(base.name) == string(over.name) && base.name != nil {
					base.next()
				}
			}
			if wanted(c.of) {
				for a := range c.table.assignments(string(c.name), c.of) {
					if !yield(a) {
						return
					}
				}
			}
			c.next()
		}
	}
}

// cursor goes through the records of a table; nil: there are none.
type cursor struct {
	table *table
	name  []byte // nil: behind the last record
	of    intervals
	at    int
}

func (c *cursor) next() {
	if c.table == nil || c.at == len(c.table.records) {
		c.name, c.of = nil, nil
		return
	}
	c.name, c.of, c.at = c.table.record(c.at)
}

// foldAt is which part of an index may have changed since its base was built:
// one in so many intervals. Each change copies what has changed so far, and a
// fold all.
const foldAt = 16

// With gives an index in which the changed assignments are all there are of
// their devices, as of a version. It shares what has not changed with x.
func (x *Index) With(changed []mesh.Assignment, version int64) (*Index, error) {
	if len(changed) == 0 {
		return &Index{base: x.base, over: x.over, version: version}, nil
	}
	over, err := newTable(changed)
	if err != nil {
		return nil, err
	}
	if x.over != nil {
		if over, err = (&Index{base: x.over, over: over}).fold(); err != nil {
			return nil, err
		}
	}
	next := &Index{base: x.base, over: over, version: version}
	if over.rows > x.base.rows/foldAt {
		base, err := next.fold()
		return &Index{base: base, version: version}, err
	}
	return next, nil
}

// fold makes the two tables one.
func (x *Index) fold() (*table, error) {
	b := builder{records: make([]byte, 0, len(x.base.records)+len(x.over.records))}
	for a := range x.All() {
		if err := b.add(&a); err != nil {
			return nil, err
		}
	}
	return b.table()
}
