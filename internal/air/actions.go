package air

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Action is an entry of the logbook that is the tenant's: who held the device or
// the room when it was taken.
type Action struct {
	ID     string    `json:"id"`
	At     time.Time `json:"-"`
	Text   string    `json:"action"`
	Device string    `json:"device,omitempty"` // empty: it was taken for a room
	Room   Room      `json:"place"`            // where it was taken, or where the device stood
}

// Actions gives those that were taken within [from, to) at a place, in the order
// of time. An action that was taken for a room is one of the devices that stood
// there.
func (a *Air) Actions(ctx context.Context, p *Places, w Where, from, to time.Time) (all []Action, err error) {
	err = a.each(ctx, `SELECT action_id, action, device_id, building, floor, room, taken_at
FROM {iot_analytics.actions_placed}
WHERE `+within("taken_at", from, to), func(row []any) {
		x := Action{ID: text(row[0]), Text: text(row[1]), Device: text(row[2]), Room: Room{text(row[3]), text(row[4]), text(row[5])}, At: at(row[6])}
		if p.touches(w, x) {
			all = append(all, x)
		}
	})
	slices.SortFunc(all, func(a, b Action) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID), a.Room.compare(b.Room))
	})
	return all, err
}

// touches says whether an action was taken at a place.
func (p *Places) touches(w Where, x Action) bool {
	if w.Device == "" || x.Device != "" {
		return w.Has(x.Room, x.Device)
	}
	at := Where{Building: w.Building, Room: w.Room}
	return at.Has(x.Room, "") && slices.ContainsFunc(p.Stays, func(s Stay) bool {
		return s.Device == w.Device && s.Room == x.Room && s.At(x.At)
	})
}
