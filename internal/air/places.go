package air

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Stay is a device at a place: one placement that is the tenant's.
type Stay struct {
	Device  string    `json:"device"`
	Room    Room      `json:"place"`
	Persons int64     `json:"persons"` // that the room is meant for; 0: not known
	From    time.Time `json:"from"`
	To      time.Time `json:"-"` // zero: it is there still
}

// At says whether the device is there at t.
func (s *Stay) At(t time.Time) bool {
	return !t.Before(s.From) && (s.To.IsZero() || t.Before(s.To))
}

// Places is where a tenant's devices are and were.
type Places struct {
	Stays []Stay // by device, then time
}

// Places reads all placements of the tenant.
func (a *Air) Places(ctx context.Context) (*Places, error) {
	p := &Places{}
	err := a.each(ctx, `SELECT device_id, building, floor, room, persons, valid_from, valid_to FROM {iot_metadata.placements}`, func(row []any) {
		p.Stays = append(p.Stays, Stay{
			Device: text(row[0]), Room: Room{text(row[1]), text(row[2]), text(row[3])}, Persons: whole(row[4]), From: at(row[5]), To: at(row[6]),
		})
	})
	slices.SortFunc(p.Stays, func(a, b Stay) int { return cmp.Or(cmp.Compare(a.Device, b.Device), a.From.Compare(b.From)) })
	return p, err
}

// Buildings gives the names of the buildings.
func (p *Places) Buildings() (names []string) {
	for _, s := range p.Stays {
		if s.Room.Building != "" {
			names = append(names, s.Room.Building)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Rooms gives the rooms that have a name.
func (p *Places) Rooms() (rooms []Room) {
	for _, s := range p.Stays {
		if s.Room.Name != "" {
			rooms = append(rooms, s.Room)
		}
	}
	slices.SortFunc(rooms, Room.compare)
	return slices.Compact(rooms)
}

// Single gives the room that all devices were in, if there is one.
func (p *Places) Single() *Room {
	rooms := p.Rooms()
	if len(rooms) != 1 || slices.ContainsFunc(p.Stays, func(s Stay) bool { return s.Room != rooms[0] }) {
		return nil
	}
	return &rooms[0]
}

// Devices gives those that were ever within a part of what the tenant has.
func (p *Places) Devices(w Where) (ids []string) {
	for _, s := range p.Stays {
		if w.Has(s.Room, s.Device) {
			ids = append(ids, s.Device)
		}
	}
	return slices.Compact(ids)
}

// Persons gives how many persons a room is meant for, as its last placement
// says; 0: not known.
func (p *Places) Persons(r Room) (n int64) {
	var last time.Time
	for _, s := range p.Stays {
		if s.Room == r && s.Persons > 0 && !s.From.Before(last) {
			n, last = s.Persons, s.From
		}
	}
	return n
}

// Move is a device that came to a place or left it.
type Move struct {
	At     time.Time `json:"-"`
	Device string    `json:"device"`
	Room   Room      `json:"place"` // which it came to or left
	Came   bool      `json:"came"`
	Other  *Room     `json:"other"` // of the same tenant, where it was until then, or is from then on
}

// Moves gives who came and went within [from, to), in the order of time.
func (p *Places) Moves(w Where, from, to time.Time) (moves []Move) {
	in := func(t time.Time) bool { return !t.IsZero() && !t.Before(from) && t.Before(to) }
	for i, s := range p.Stays {
		if !w.Has(s.Room, s.Device) {
			continue
		}
		var before, after *Stay
		if i > 0 && p.Stays[i-1].Device == s.Device && p.Stays[i-1].To.Equal(s.From) {
			before = &p.Stays[i-1]
		}
		if i+1 < len(p.Stays) && p.Stays[i+1].Device == s.Device && p.Stays[i+1].From.Equal(s.To) {
			after = &p.Stays[i+1]
		}
		// A placement that goes on as another one of the same room moved nothing.
		if in(s.From) && (before == nil || before.Room != s.Room) {
			moves = append(moves, Move{At: s.From, Device: s.Device, Room: s.Room, Came: true, Other: before.room()})
		}
		if in(s.To) && (after == nil || after.Room != s.Room) {
			moves = append(moves, Move{At: s.To, Device: s.Device, Room: s.Room, Other: after.room()})
		}
	}
	slices.SortStableFunc(moves, func(a, b Move) int { return a.At.Compare(b.At) })
	return moves
}

func (s *Stay) room() *Room {
	if s == nil {
		return nil
	}
	return &s.Room
}

// Metric is one of those that the tenant's devices measure.
type Metric struct {
	Name, Unit string
	Readings   int64
}

// Metrics gives the metrics of which there are numbers in [from, to), most
// readings first.
func (a *Air) Metrics(ctx context.Context, w Where, from, to time.Time) (all []Metric, err error) {
	err = a.each(ctx, `SELECT metric, MAX(unit) AS unit, SUM(readings) AS readings
FROM {iot_analytics.readings_hourly}
WHERE `+hoursOf(from, to)+w.conditions()+`
GROUP BY metric`, func(row []any) {
		all = append(all, Metric{text(row[0]), text(row[1]), whole(row[2])})
	})
	slices.SortFunc(all, func(a, b Metric) int {
		return cmp.Or(-cmp.Compare(a.Readings, b.Readings), cmp.Compare(a.Name, b.Name))
	})
	return all, err
}

// Last gives the end of the last hour in which a metric was measured; zero: it
// never was.
func (a *Air) Last(ctx context.Context, w Where, metric string) (last time.Time, err error) {
	s := Selection{Where: w, Metric: metric, To: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	err = a.each(ctx, `SELECT MAX(hour_start) AS hour_start
FROM {iot_analytics.readings_hourly}
WHERE `+s.hours(), func(row []any) {
		if t := at(row[0]); !t.IsZero() {
			last = t.Add(time.Hour)
		}
	})
	return last, err
}
