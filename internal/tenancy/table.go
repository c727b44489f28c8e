package tenancy

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"math/bits"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// table is assignments in one arena, without a pointer per device: a million
// devices are nothing to the garbage collector, and a lookup mostly reads two
// lines of memory, the slot and the beginning of the record. What it waits for
// is memory.
type table struct {
	seed    maphash.Seed
	slots   []slot   // a power of two of them, at most two thirds in use; open addressing
	records []byte   // one per device, ordered by device
	tenants []string // [0] is nobody
	rows    int      // how many assignments there are
}

// slot is where a device is found.
// It says how long the record is too, so that name and interval are fetched
// from memory at once, and not one after the other.
type slot struct {
	tag   uint32 // of the hash of its name, other bits than those that choose the slot
	at    uint32 // its record, see record
	count uint32 // of its intervals; 0: the slot is empty
	name  uint32 // length of its name
}

// A record is the length of the device's name and the number of its intervals,
// both little-endian, the name, and the intervals from the newest to the oldest:
// most readings are new. An interval is from, to and version of 8 bytes and the
// place of the tenant of 4. A record begins at a multiple of 8, so that 32 bits
// name one in 32 GiB.
const (
	headSize     = 2 + 4
	intervalSize = 8 + 8 + 8 + 4
	alignment    = 8
	maxName      = math.MaxUint16
)

type interval struct {
	from, to mesh.Instant
	version  int64
	tenant   uint32 // place in tenants
}

func (i *interval) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(i.from))
	b = binary.LittleEndian.AppendUint64(b, uint64(i.to))
	b = binary.LittleEndian.AppendUint64(b, uint64(i.version))
	return binary.LittleEndian.AppendUint32(b, i.tenant)
}

// intervals is those of one device, the newest first.
type intervals []byte

func (v intervals) len() int { return len(v) / intervalSize }

func (v intervals) from(i int) mesh.Instant {
	return mesh.Instant(binary.LittleEndian.Uint64(v[i*intervalSize:]))
}

func (v intervals) at(i int) interval {
	b := v[i*intervalSize:][:intervalSize]
	return interval{
		from:    mesh.Instant(binary.LittleEndian.Uint64(b)),
		to:      mesh.Instant(binary.LittleEndian.Uint64(b[8:])),
		version: int64(binary.LittleEndian.Uint64(b[16:])),
		tenant:  binary.LittleEndian.Uint32(b[24:]),
	}
}

// record gives what stands at a place of records, and the place behind it.
func (t *table) record(at int) (name []byte, of intervals, next int) {
	b := t.records[at:]
	behind := headSize + int(binary.LittleEndian.Uint16(b))
	end := behind + int(binary.LittleEndian.Uint32(b[2:]))*intervalSize
	return b[headSize:behind], intervals(b[behind:end]), at + (end+alignment-1)&^(alignment-1)
}

// device gives the intervals of a device; nil: there are none.
func (t *table) device(device string) intervals {
	hash := maphash.String(t.seed, device)
	mask := len(t.slots) - 1
	for i := int(hash) & mask; ; i = (i + 1) & mask {
		s := t.slots[i]
		if s.count == 0 {
			return nil
		}
		if s.tag == uint32(hash>>32) && int(s.name) == len(device) {
			b := t.records[int(s.at)*alignment+headSize:]
			if string(b[:len(device)]) == device {
				return intervals(b[len(device) : len(device)+int(s.count)*intervalSize])
			}
		}
	}
}

// at finds the instant in the intervals of a device.
func (t *table) at(of intervals, at mesh.Instant) (tenant string, version int64) {
	const few = 8
	i, n := 0, of.len()
	for i < min(n, few) && of.from(i) > at {
		i++
	}
	if i == few { // of those from few on, the first that has begun by then
		for end := n; i < end; {
			if middle := int(uint(i+end) >> 1); of.from(middle) > at {
				i = middle + 1
			} else {
				end = middle
			}
		}
	}
	if i == n {
		return "", 0
	}
	found := of.at(i)
	if at >= found.to {
		return "", 0
	}
	return t.tenants[found.tenant], found.version
}

// assignments yields those of a device in the order of their intervals.
func (t *table) assignments(device string, of intervals) iter.Seq[mesh.Assignment] {
	return func(yield func(mesh.Assignment) bool) {
		for n := of.len() - 1; n >= 0; n-- {
			i := of.at(n)
			a := mesh.Assignment{DeviceID: device, TenantID: t.tenants[i.tenant], ValidFrom: i.from, Version: i.version}
			if i.to != forever {
				a.ValidTo = &i.to
			}
			if !yield(a) {
				return
			}
		}
	}
}

// builder makes a table of assignments that come ordered by device and
// instant. It keeps nothing of what it is given.
type builder struct {
	records []byte
	tenants []string
	places  map[string]uint32 // of tenants
	devices int
	rows    int

	device  []byte     // the last one, whose record is not written yet
	of      []interval // its own, the oldest first
	tenant  string     // of the last assignment: mostly that of the next one
	place   uint32     // where it is
	started bool
}

func (b *builder) add(a *mesh.Assignment) error {
	next := interval{from: a.ValidFrom, to: forever, version: a.Version}
	if a.ValidTo != nil {
		next.to = *a.ValidTo
	}
	if next.to <= next.from || next.version < 1 {
		return fmt.Errorf("device %q: the assignment to %q from %s has no length or no version", a.DeviceID, a.TenantID, a.ValidFrom)
	}
	switch {
	case b.started && string(b.device) == a.DeviceID:
		if next.from < b.of[len(b.of)-1].to {
			return fmt.Errorf("device %q: the assignment to %q from %s begins before the one before it ends", a.DeviceID, a.TenantID, a.ValidFrom)
		}
	case b.started && string(b.device) > a.DeviceID:
		return fmt.Errorf("device %q comes behind %q", a.DeviceID, b.device)
	default:
		if len(a.DeviceID) > maxName {
			return fmt.Errorf("device %.40q: its name has %d bytes, an index has room for %d", a.DeviceID, len(a.DeviceID), maxName)
		}
		if err := b.end(); err != nil {
			return err
		}
		b.device, b.started = append(b.device[:0], a.DeviceID...), true
	}
	if b.tenants == nil || a.TenantID != b.tenant {
		b.tenant, b.place = b.intern(a.TenantID)
	}
	next.tenant = b.place
	b.of = append(b.of, next)
	b.rows++
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

// end writes the record of the last device.
func (b *builder) end() error {
	if !b.started {
		return nil
	}
	if len(b.records)/alignment >= math.MaxUint32 {
		return fmt.Errorf("device %q: an index has no room for more than %d GiB", b.device, len(b.records)>>30)
	}
	b.records = binary.LittleEndian.AppendUint16(b.records, uint16(len(b.device)))
	b.records = binary.LittleEndian.AppendUint32(b.records, uint32(len(b.of)))
	b.records = append(b.records, b.device...)
	for i := len(b.of) - 1; i >= 0; i-- {
		b.records = b.of[i].append(b.records)
	}
	b.records = append(b.records, make([]byte, -len(b.records)&(alignment-1))...)
	b.of = b.of[:0]
	b.devices++
	return nil
}

// table ends the building.
func (b *builder) table() (*table, error) {
	if err := b.end(); err != nil {
		return nil, err
	}
	t := &table{
		seed:    maphash.MakeSeed(), // nobody can choose names that collide
		slots:   make([]slot, 1<<bits.Len(uint(b.devices+b.devices/2))),
		records: b.records,
		tenants: b.tenants,
		rows:    b.rows,
	}
	if spare := cap(t.records) - len(t.records); spare > len(t.records)/16 {
		t.records = append(make([]byte, 0, len(t.records)), t.records...)
	}
	mask := len(t.slots) - 1
	for at := 0; at < len(t.records); {
		name, of, next := t.record(at)
		hash := maphash.Bytes(t.seed, name)
		i := int(hash) & mask
		for t.slots[i].count > 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = slot{uint32(hash >> 32), uint32(at / alignment), uint32(of.len()), uint32(len(name))}
		at = next
	}
	return t, nil
}
