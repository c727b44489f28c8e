package tenancy

import (
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// table is assignments in arenas, without a pointer per device: a million
// devices are nothing to the garbage collector, and a lookup reads three places
// of memory: the slot, the name and an interval.
type table struct {
	seed      maphash.Seed
	slots     []slot     // a power of two of them, at most two thirds in use; open addressing
	names     string     // of the devices, each behind its length (two bytes)
	tenants   []string   // [0] is nobody
	intervals []interval // ordered by device and instant
}

// slot is where a device is found.
type slot struct {
	tag   uint32 // of the hash of its name, other bits than those that choose the slot
	name  uint32 // place in names
	first uint32 // place in intervals
	n     uint32 // how many; 0: the slot is empty
}

type interval struct {
	from, to mesh.Instant
	version  int64
	tenant   uint32 // place in tenants
	name     uint32 // place in names of its device
}

const (
	lengthSize = 2
	maxName    = math.MaxUint16
)

// name gives the device whose name is at a place.
func (t *table) name(at uint32) string {
	from := int(at) + lengthSize
	return t.names[from : from+(int(t.names[at])<<8|int(t.names[at+1]))]
}

// device gives the intervals of a device; nil: there are none.
func (t *table) device(device string) []interval {
	hash := maphash.String(t.seed, device)
	mask := len(t.slots) - 1
	for i := int(hash) & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		if s.n == 0 {
			return nil
		}
		if s.tag == uint32(hash>>32) && t.name(s.name) == device {
			return t.intervals[s.first : s.first+s.n]
		}
	}
}

// at finds the instant in the intervals of a device.
func (t *table) at(of []interval, at mesh.Instant) (tenant string, version int64) {
	// Most readings are new: the last interval first, and a few before it.
	i := len(of) - 1
	for few := max(0, i-4); i >= few && of[i].from > at; {
		i--
	}
	if i >= 0 && of[i].from > at {
		low, high := 0, i // of[low:high] are those of which it is open whether they begin by then
		for low < high {
			if middle := int(uint(low+high) >> 1); of[middle].from <= at {
				low = middle + 1
			} else {
				high = middle
			}
		}
		i = low - 1
	}
	if i < 0 || at >= of[i].to {
		return "", 0
	}
	return t.tenants[of[i].tenant], of[i].version
}

func (t *table) assignment(i *interval) mesh.Assignment {
	a := mesh.Assignment{DeviceID: t.name(i.name), TenantID: t.tenants[i.tenant], ValidFrom: i.from, Version: i.version}
	if i.to != forever {
		to := i.to
		a.ValidTo = &to
	}
	return a
}

// size is what the table takes, in bytes.
func (t *table) size() int {
	const slotSize, intervalSize, stringSize = 16, 32, 16
	size := cap(t.slots)*slotSize + cap(t.intervals)*intervalSize + len(t.names) + cap(t.tenants)*stringSize
	for _, tenant := range t.tenants {
		size += len(tenant)
	}
	return size
}

// builder makes a table of assignments that come ordered by device and
// instant. It keeps nothing of what it is given.
type builder struct {
	names     []byte
	tenants   []string
	places    map[string]uint32 // of tenants
	intervals []interval
	devices   int
	last      string // tenant of the last assignment: mostly that of the next one
	place     uint32 // where it is
}

func (b *builder) add(a *mesh.Assignment) error {
	next := interval{from: a.ValidFrom, to: forever, version: a.Version}
	if a.ValidTo != nil {
		next.to = *a.ValidTo
	}
	if next.to <= next.from || next.version < 1 {
		return fmt.Errorf("device %q: the assignment to %q from %s has no length or no version", a.DeviceID, a.TenantID, a.ValidFrom)
	}
	same := false
	if n := len(b.intervals); n > 0 {
		last := &b.intervals[n-1]
		name := b.names[last.name+lengthSize:]
		same = string(name) == a.DeviceID
		switch {
		case !same && string(name) > a.DeviceID:
			return fmt.Errorf("device %q comes behind %q", a.DeviceID, name)
		case same && next.from < last.to:
			return fmt.Errorf("device %q: the assignment to %q from %s begins before the last one ends", a.DeviceID, a.TenantID, a.ValidFrom)
		case same:
			next.name = last.name
		}
	}
	if !same {
		if len(a.DeviceID) > maxName || len(b.names) > math.MaxUint32-maxName-lengthSize {
			return fmt.Errorf("device %.40q: a name of %d bytes behind %d bytes of names is more than an index has room for",
				a.DeviceID, len(a.DeviceID), len(b.names))
		}
		next.name = uint32(len(b.names))
		b.names = append(b.names, byte(len(a.DeviceID)>>8), byte(len(a.DeviceID)))
		b.names = append(b.names, a.DeviceID...)
		b.devices++
	}
	if b.tenants == nil || a.TenantID != b.last {
		b.last, b.place = b.intern(a.TenantID)
	}
	next.tenant = b.place
	b.intervals = append(b.intervals, next)
	return nil
}

// intern gives the one copy of a tenant's name, and its place.
func (b *builder) intern(tenant string) (string, uint32) {
	if b.tenants == nil {
		b.tenants, b.places = []string{""}, map[string]uint32{"": 0}
	}
	place, ok := b.places[tenant]
	if !ok {
		place = uint32(len(b.tenants))
		b.tenants = append(b.tenants, strings.Clone(tenant))
		b.places[b.tenants[place]] = place
	}
	return b.tenants[place], place
}

// table ends the building.
func (b *builder) table() *table {
	t := &table{
		seed:      maphash.MakeSeed(), // nobody can choose names that collide
		slots:     make([]slot, 1<<bits.Len(uint(b.devices+b.devices/2))),
		names:     string(b.names),
		tenants:   b.tenants,
		intervals: b.intervals,
	}
	if cap(t.intervals) > len(t.intervals)+len(t.intervals)/8 {
		t.intervals = slices.Clone(t.intervals)
	}
	mask := len(t.slots) - 1
	for first := 0; first < len(t.intervals); {
		n := run(t.intervals[first:])
		name := t.intervals[first].name
		hash := maphash.String(t.seed, t.name(name))
		i := int(hash) & mask
		for t.slots[i].n > 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = slot{uint32(hash >> 32), name, uint32(first), uint32(n)}
		first += n
	}
	return t
}
