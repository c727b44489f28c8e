package classify

import (
	"cmp"
	"container/list"
	"slices"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

const (
	// maxKeys bounds how many keys are remembered: some 20 MB. The one that was not
	// heard for the longest time is forgotten; its next record finds what was before it
	// in the history.
	maxKeys = 10_000
	// maxReadings of a member are kept. One that comes so late that so many newer ones
	// are known changes nothing.
	maxReadings = 64
	// maxSilence is how long a member is remembered that does not count any more: what
	// it measured and comes late follows what was before.
	maxSilence = 24 * time.Hour
	// maxChanges of a key are kept, to be told again when what made them comes again.
	maxChanges = 128
)

// measured is what a rule reads of a record.
type measured struct {
	record *object
	tenant string // whose it is, by itself or by its event; empty: nobody says
	value  float64
	at     mesh.Instant
	lo, hi int // the level by the value alone, and the highest that hysteresis may keep
	key    []string
	member string
}

// memory is what is known of keys.
type memory struct {
	keys map[string]*list.Element
	used list.List // of *key, the last used in front
}

// get gives a key that is remembered, nil: it is not.
func (m *memory) get(name string) *key {
	e := m.keys[name]
	if e == nil {
		return nil
	}
	m.used.MoveToFront(e)
	return e.Value.(*key)
}

// add remembers a new key.
func (m *memory) add(name string) *key {
	k := &key{name: name, level: none, members: map[string]*member{}}
	if m.keys == nil {
		m.keys = map[string]*list.Element{}
	}
	m.keys[name] = m.used.PushFront(k)
	for len(m.keys) > maxKeys {
		last := m.used.Back()
		delete(m.keys, m.used.Remove(last).(*key).name)
	}
	return k
}

// none is the level of what has none yet.
const none = -1

// key is what is known of whose level it is.
type key struct {
	name    string
	now     mesh.Instant // the last one that something was measured at
	level   int
	members map[string]*member
	changes []change // the last ones, in the order of their instants
}

// change is that of a key to another level.
type change struct {
	at       mesh.Instant // no two of a key have the same
	from, to int
	member   string // and when it measured what made the change
	measured mesh.Instant
}

// member is what is known of one of those whose levels make that of a key.
type member struct {
	readings []reading // the last ones, in the order of their instants
	before   int       // the level before the first of them
	until    mesh.Instant
	level    int // after the last of them
}

type reading struct {
	at     mesh.Instant
	lo, hi int8
}

// next is the level that a reading makes of the one before it.
func (r reading) next(level int, gap bool) int {
	if level == none || gap {
		return int(r.lo)
	}
	return min(max(level, int(r.lo)), int(r.hi))
}

// take adds the records of one instant to the key, and gives the change that they make,
// if they make one. What comes again makes what it made before.
func (k *key) take(rule *Rule, records []*measured) (tell []told) {
	var fresh []*measured
	for _, r := range records {
		for _, c := range k.changes {
			if c.measured == r.at && c.member == r.member {
				tell = append(tell, told{c, r})
			}
		}
		if k.add(rule, r) {
			fresh = append(fresh, r)
		}
	}
	if len(fresh) == 0 {
		return tell
	}
	k.now = max(k.now, fresh[0].at)
	level := k.worst(rule)
	if level == k.level {
		return tell
	}
	c := change{at: k.now, from: k.level, to: level}
	if n := len(k.changes); n > 0 && c.at <= k.changes[n-1].at {
		c.at = k.changes[n-1].at + 1
	}
	// Of several it is one that has the level; where none has, all went below it.
	by := fresh[0]
	for _, r := range fresh {
		if m := k.members[r.member]; m != nil && m.level == level {
			by = r
			break
		}
	}
	c.member, c.measured = by.member, by.at
	if len(k.changes) == maxChanges {
		k.changes = slices.Delete(k.changes, 0, maxChanges/2)
	}
	k.level, k.changes = level, append(k.changes, c)
	return append(tell, told{c, by})
}

// told is a change and the record that made it.
type told struct {
	change
	record *measured
}

// worst is the most severe level of the members that were heard lately. It forgets those
// that were silent for very long.
func (k *key) worst(rule *Rule) int {
	level := none
	for name, m := range k.members {
		silent := k.now - m.readings[len(m.readings)-1].at
		if rule.Stale > 0 && silent > micros(rule.Stale) {
			if silent > micros(rule.Stale+maxSilence) {
				delete(k.members, name)
			}
			continue
		}
		if level == none || rule.severer(m.level, level) {
			level = m.level
		}
	}
	return level
}

// severer says whether level a is before b where only one can count.
func (r *Rule) severer(a, b int) bool {
	return cmp.Or(cmp.Compare(r.Levels[a].Number, r.Levels[b].Number), cmp.Compare(a, b)) > 0
}

// add takes a record, and says whether it is new.
func (k *key) add(rule *Rule, r *measured) bool {
	m := k.members[r.member]
	if m == nil {
		m = &member{before: none, level: none}
		k.members[r.member] = m
	}
	at, known := slices.BinarySearchFunc(m.readings, r.at, func(r reading, at mesh.Instant) int { return cmp.Compare(r.at, at) })
	if known || m.before != none && r.at <= m.until {
		return false
	}
	m.readings = slices.Insert(m.readings, at, reading{r.at, int8(r.lo), int8(r.hi)})
	if at == len(m.readings)-1 {
		gap := at > 0 && m.gap(rule, at)
		m.level = m.readings[at].next(m.level, gap)
	} else {
		m.level = m.fold(rule, len(m.readings))
	}
	if len(m.readings) == maxReadings {
		m.before, m.until = m.fold(rule, maxReadings/2), m.readings[maxReadings/2-1].at
		m.readings = slices.Delete(m.readings, 0, maxReadings/2)
	}
	return true
}

// fold gives the level after the first n readings.
func (m *member) fold(rule *Rule, n int) int {
	level := m.before
	for i := range n {
		level = m.readings[i].next(level, m.gap(rule, i))
	}
	return level
}

// gap says whether so much time is before reading i that what was before it does not count.
func (m *member) gap(rule *Rule, i int) bool {
	before := m.until
	if i > 0 {
		before = m.readings[i-1].at
	} else if m.before == none {
		return false
	}
	return rule.Stale > 0 && m.readings[i].at-before > micros(rule.Stale)
}

func micros(d time.Duration) mesh.Instant { return mesh.Instant(d.Microseconds()) }
