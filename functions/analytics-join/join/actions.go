package join

import (
	"cmp"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Logbook is an immutable index of actions by who took them and where. An
// action of another tenant is never found: what was done in a room before it
// changed hands is its former tenant's.
type Logbook struct {
	devices map[atDevice][]mesh.Action // by TakenAt, then ActionID
	rooms   map[inRoom][]mesh.Action
}

type atDevice struct{ tenant, device string }

type inRoom struct{ tenant, building, room string }

// NewLogbook builds a logbook.
func NewLogbook(actions []mesh.Action) (*Logbook, error) {
	l := &Logbook{map[atDevice][]mesh.Action{}, map[inRoom][]mesh.Action{}}
	actions = slices.Clone(actions)
	slices.SortFunc(actions, func(a, b mesh.Action) int {
		return cmp.Or(cmp.Compare(a.TakenAt, b.TakenAt), cmp.Compare(a.ActionID, b.ActionID))
	})
	for _, a := range actions {
		if a.DeviceID != "" {
			key := atDevice{a.TenantID, a.DeviceID}
			l.devices[key] = append(l.devices[key], a)
		}
		if a.Room != "" {
			key := inRoom{a.TenantID, a.Building, a.Room}
			l.rooms[key] = append(l.rooms[key], a)
		}
	}
	return l, nil
}

// Last gives the latest action taken at or before t at the device or in the
// room of its placement, nil if there is none. Of two at the same instant the
// greater id counts.
func (l *Logbook) Last(p *mesh.Placement, t mesh.Instant) *mesh.Action {
	device := last(l.devices[atDevice{p.TenantID, p.DeviceID}], t)
	if p.Room == "" {
		return device
	}
	room := last(l.rooms[inRoom{p.TenantID, p.Building, p.Room}], t)
	switch {
	case device == nil:
		return room
	case room == nil:
		return device
	case cmp.Or(cmp.Compare(device.TakenAt, room.TakenAt), cmp.Compare(device.ActionID, room.ActionID)) < 0:
		return room
	}
	return device
}

func last(actions []mesh.Action, t mesh.Instant) *mesh.Action {
	n, _ := slices.BinarySearchFunc(actions, t, func(a mesh.Action, t mesh.Instant) int {
		if a.TakenAt <= t {
			return -1
		}
		return 1
	})
	if n == 0 {
		return nil
	}
	return &actions[n-1]
}
