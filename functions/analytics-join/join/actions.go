package join

import (
	"cmp"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Actions is an immutable list of what was done, by TakenAt, then ActionID.
type Actions struct {
	version int64
	list    []mesh.Action
}

// NewActions makes the list of a version.
func NewActions(actions []mesh.Action, version int64) (*Actions, error) {
	slices.SortFunc(actions, compareActions)
	return &Actions{version, actions}, nil
}

func compareActions(a, b mesh.Action) int {
	return cmp.Or(cmp.Compare(a.TakenAt, b.TakenAt), cmp.Compare(a.ActionID, b.ActionID))
}

// logbook is an immutable index of actions by whose they are and where they
// were taken. An action belongs to who held the device, or the room by the
// placement of any device, at the instant it was taken: what was done in a room
// before it changed hands is its former tenant's, whatever holds now. One that
// names a tenant who held neither is nobody's.
type logbook struct {
	places  *Places // of which it is made
	actions *Actions
	devices map[atDevice][]*mesh.Action // by TakenAt, then ActionID
	rooms   map[inRoom][]*mesh.Action
}

type atDevice struct{ tenant, device string }

type inRoom struct {
	tenant string
	room   room
}

func newLogbook(places *Places, actions *Actions) *logbook {
	l := &logbook{places, actions, map[atDevice][]*mesh.Action{}, map[inRoom][]*mesh.Action{}}
	rooms := map[room]map[string][]interval{}
	for i := range actions.list {
		if a := &actions.list[i]; a.Room != "" {
			rooms[room{a.Building, a.Room}] = map[string][]interval{}
		}
	}
	places.holders(rooms)
	for i := range actions.list {
		a := &actions.list[i]
		if p := places.At(a.DeviceID, a.TakenAt); p != nil && (a.TenantID == "" || a.TenantID == p.TenantID) {
			key := atDevice{p.TenantID, a.DeviceID}
			l.devices[key] = append(l.devices[key], a)
		}
		where := room{a.Building, a.Room}
		held := func(tenant string, intervals []interval) {
			if contains(intervals, a.TakenAt) {
				key := inRoom{tenant, where}
				l.rooms[key] = append(l.rooms[key], a)
			}
		}
		if a.TenantID != "" {
			held(a.TenantID, rooms[where][a.TenantID])
			continue
		}
		for tenant, intervals := range rooms[where] {
			held(tenant, intervals)
		}
	}
	return l
}

// last gives the latest action taken at or before t at the device or in the
// room of its placement, nil if there is none. Of two at the same instant the
// greater id counts.
func (l *logbook) last(p *mesh.Placement, t mesh.Instant) *mesh.Action {
	device := last(l.devices[atDevice{p.TenantID, p.DeviceID}], t)
	if p.Room == "" {
		return device
	}
	inRoom := last(l.rooms[inRoom{p.TenantID, room{p.Building, p.Room}}], t)
	switch {
	case device == nil:
		return inRoom
	case inRoom == nil || compareActions(*device, *inRoom) >= 0:
		return device
	}
	return inRoom
}

func last(actions []*mesh.Action, t mesh.Instant) *mesh.Action {
	n, _ := slices.BinarySearchFunc(actions, t, func(a *mesh.Action, t mesh.Instant) int {
		if a.TakenAt <= t {
			return -1
		}
		return 1
	})
	if n == 0 {
		return nil
	}
	return actions[n-1]
}
