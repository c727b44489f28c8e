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
	return &Index{base: b.table(), version: version}, nil
}

// Read is NewIndex for lines as AppendLine writes them, ordered by device and
// interval.
func Read(lines io.Reader, version int64) (*Index, error) {
	var b builder
	if err := decode(lines, b.add); err != nil {
		return nil, err
	}
	return &Index{base: b.table(), version: version}, nil
}

func newTable(assignments []mesh.Assignment) (*table, error) {
	order := func(a, b mesh.Assignment) int {
		return cmp.Or(cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ValidFrom, b.ValidFrom))
	}
	if !slices.IsSortedFunc(assignments, order) {
		assignments = slices.Clone(assignments)
		slices.SortFunc(assignments, order)
	}
	var b builder
	b.intervals = make([]interval, 0, len(assignments))
	for i := range assignments {
		if err := b.add(&assignments[i]); err != nil {
			return nil, err
		}
	}
	return b.table(), nil
}

// At gives who held a device at an instant, and since which version of the
// placements that is so. An empty tenant is nobody; a version of 0 says that
// nothing was ever said.
func (x *Index) At(device string, t mesh.Instant) (tenant string, version int64) {
	if x.over != nil {
		if of := x.over.device(device); of != nil {
			return x.over.at(of, t)
		}
	}
	if of := x.base.device(device); of != nil {
		return x.base.at(of, t)
	}
	return "", 0
}

// Version is the version of the placements that the index knows.
func (x *Index) Version() int64 { return x.version }

// Device gives the assignments of a device in the order of their intervals.
func (x *Index) Device(device string) []mesh.Assignment {
	t := x.over
	var of []interval
	if t != nil {
		of = t.device(device)
	}
	if of == nil {
		t = x.base
		of = t.device(device)
	}
	var out []mesh.Assignment
	for i := range of {
		out = append(out, t.assignment(&of[i]))
	}
	return out
}

// All yields all assignments, ordered by device and interval.
func (x *Index) All() iter.Seq[mesh.Assignment] {
	return func(yield func(mesh.Assignment) bool) {
		for t, of := range x.devices() {
			for i := range of {
				if !yield(t.assignment(&of[i])) {
					return
				}
			}
		}
	}
}

// Since yields the assignments, whole, of each device of which one is newer
// than a version: what an index of that version has to be given by With.
func (x *Index) Since(version int64) iter.Seq[mesh.Assignment] {
	return func(yield func(mesh.Assignment) bool) {
		for t, of := range x.devices() {
			if !slices.ContainsFunc(of, func(i interval) bool { return i.version > version }) {
				continue
			}
			for i := range of {
				if !yield(t.assignment(&of[i])) {
					return
				}
			}
		}
	}
}

// devices yields the intervals of each device and the table they stand in,
// ordered by device.
func (x *Index) devices() iter.Seq2[*table, []interval] {
	return func(yield func(*table, []interval) bool) {
		base := x.base.intervals
		if x.over != nil {
			for over := x.over.intervals; len(over) > 0; {
				device := x.over.name(over[0].name)
				for len(base) > 0 && x.base.name(base[0].name) < device {
					n := run(base)
					if !yield(x.base, base[:n]) {
						return
					}
					base = base[n:]
				}
				if len(base) > 0 && x.base.name(base[0].name) == device {
					base = base[run(base):]
				}
				n := run(over)
				if !yield(x.over, over[:n]) {
					return
				}
				over = over[n:]
			}
		}
		for len(base) > 0 {
			n := run(base)
			if !yield(x.base, base[:n]) {
				return
			}
			base = base[n:]
		}
	}
}

// run is how many of the intervals are of the first one's device.
func run(intervals []interval) int {
	n := 1
	for n < len(intervals) && intervals[n].name == intervals[0].name {
		n++
	}
	return n
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
	if len(over.intervals) > len(x.base.intervals)/foldAt {
		base, err := next.fold()
		if err != nil {
			return nil, err
		}
		next = &Index{base: base, version: version}
	}
	return next, nil
}

// fold makes the two tables one.
func (x *Index) fold() (*table, error) {
	var b builder
	b.intervals = make([]interval, 0, len(x.base.intervals)+len(x.over.intervals))
	for a := range x.All() {
		if err := b.add(&a); err != nil {
			return nil, err
		}
	}
	return b.table(), nil
}

// Size is what the index takes, in bytes.
func (x *Index) Size() int {
	size := x.base.size()
	if x.over != nil {
		size += x.over.size()
	}
	return size
}
