// Package simulate is a fleet of air quality devices in rooms with people in
// them: what the devices measure follows from a mass balance of the room's
// air, what happens to their messages from a scenario of what goes wrong in
// the field.
//
// The same Options give the same fleet, message for message: nothing is taken
// from the wall clock, and every random draw is of its own generator, seeded
// with what it is about. So a fleet can be entered at any instant and goes on
// as if it had been running.
package simulate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Options says what a fleet is like.
type Options struct {
	Seed     uint64
	Tenants  int
	Devices  int           // each in a room of its own, shared out among the tenants in turn
	Start    time.Time     // of the first measurements; its location is where the people live
	Duration time.Duration // over which relocations are spread; Actions and WriteFiles end with it
	Interval time.Duration // between the measurements of a device

	// Relocations is how many devices move, once each, to another room: of the
	// next tenant, if there is one. Every second one is on the way for two and
	// a half hours, during which nobody holds it.
	Relocations int
	// Skewed is how many devices take local time for UTC: their clocks are one
	// hour ahead.
	Skewed int
	// Timeless is how many devices lose their clock on the second day: for two
	// hours their messages carry no time.
	Timeless int

	// Crowded is how many rooms, the first ones, are crowded once: on the first working
	// day, from 10 to 11, twice as many people are in as the room is made for, the
	// ventilation is off and the windows stay shut.
	Crowded int

	Late       float64 // share of days on which a device is offline for hours and then sends, the newest first
	Duplicated float64 // share of messages that are sent twice
	Reordered  float64 // share of messages that are overtaken by later ones
}

// Sample is the default: a week of three tenants with eight devices each.
func Sample() Options {
	return Options{
		Seed: 1, Tenants: 3, Devices: 24,
		Start: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), Duration: 7 * 24 * time.Hour, Interval: 5 * time.Minute,
		Relocations: 2, Skewed: 1, Timeless: 1,
		Late: 0.05, Duplicated: 0.01, Reordered: 0.01,
	}
}

const (
	clockSkew      = time.Hour
	timelessFrom   = 34 * time.Hour // after the first midnight: 10:00 on the second day
	timelessUntil  = 36 * time.Hour
	transit        = 150 * time.Minute
	day            = 24 * time.Hour
	maxLatency     = 1500 * time.Millisecond
	maxTenants     = 1000
	maxDevices     = 1_000_000
	backlogSpacing = 100 * time.Millisecond
)

// Fleet is a simulated fleet. It is never changed once it is made.
type Fleet struct {
	Options
	origin  time.Time // midnight before Start: the rooms are empty then, their air is that outside
	tenants []tenant
	rooms   []room
	devices []device
}

type tenant struct {
	id, name string
	kind     *kind
}

type room struct {
	tenant         int
	building       string
	floor, name    string
	persons        int64
	volume         float64 // m³
	airChange      float64 // per hour, with the windows shut
	outsideCO2     float64 // ppm
	airedByDevice  bool    // the logbook names the device, not the room
	windowOpenings float64 // share of the hours with people in which somebody opens the windows
}

type device struct {
	id    string
	form  form
	phase time.Duration // of its measurements within the interval
	stays []stay
	skew  time.Duration
	loses bool // its clock, from timelessFrom to timelessUntil
}

// stay is a device in a room for [from, to).
type stay struct {
	room     int
	from, to time.Time // to zero: open
}

// New makes a fleet.
func New(o Options) (*Fleet, error) {
	switch {
	case o.Tenants < 1 || o.Tenants > maxTenants:
		return nil, fmt.Errorf("%d tenants: not 1 to %d", o.Tenants, maxTenants)
	case o.Devices < 1 || o.Devices > maxDevices:
		return nil, fmt.Errorf("%d devices: not 1 to %d", o.Devices, maxDevices)
	case o.Interval < time.Second:
		return nil, fmt.Errorf("interval %s: shorter than a second", o.Interval)
	case o.Duration < o.Interval:
		return nil, fmt.Errorf("duration %s: shorter than the interval %s", o.Duration, o.Interval)
	case o.Start.IsZero():
		return nil, errors.New("no start")
	case o.Relocations < 0 || o.Skewed < 0 || o.Timeless < 0:
		return nil, errors.New("a negative number of relocations or bad clocks")
	case o.Crowded < 0 || o.Crowded > o.Devices:
		return nil, fmt.Errorf("%d crowded rooms of %d", o.Crowded, o.Devices)
	case o.Relocations > 0 && o.Devices < 2:
		return nil, errors.New("a relocation needs a second room: have at least 2 devices")
	}
	for _, share := range []float64{o.Late, o.Duplicated, o.Reordered} {
		if !(share >= 0 && share <= 1) {
			return nil, fmt.Errorf("share %v of late, duplicated or reordered: not 0 to 1", share)
		}
	}
	o.Start = o.Start.Truncate(time.Second)
	f := &Fleet{Options: o, origin: midnight(o.Start)}
	if end := f.crowd().Add(time.Hour); o.Crowded > 0 && end.After(f.End()) {
		return nil, fmt.Errorf("duration %s: the rooms are crowded until %s, which is later", o.Duration, end.Format(time.RFC3339))
	}
	for i := range o.Tenants {
		f.tenants = append(f.tenants, newTenant(i))
	}
	for i := range o.Devices {
		f.rooms = append(f.rooms, f.newRoom(i))
		f.devices = append(f.devices, device{
			id:    deviceID(i),
			form:  formOf(i),
			phase: (time.Duration(i) * o.Interval / time.Duration(o.Devices)).Truncate(time.Second), // the resolution of their times
			stays: []stay{{room: i, from: o.Start}},
		})
	}
	if err := f.relocate(); err != nil {
		return nil, err
	}
	return f, f.spoilClocks()
}

// End is the end of the scenario.
func (f *Fleet) End() time.Time { return f.Start.Add(f.Duration) }

func midnight(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, t.Location())
}

func newTenant(i int) tenant {
	names := [...]struct{ id, name string }{
		{"linden-school", "Linden School"}, {"harbour-offices", "Harbour Offices"}, {"mill-clinic", "Mill Clinic"},
	}
	kind := &kinds[i%len(kinds)]
	if i < len(names) {
		return tenant{names[i].id, names[i].name, kind}
	}
	n := strconv.Itoa(i + 1)
	return tenant{"tenant-" + n, "Tenant " + n, kind}
}

// newRoom is the room that device i stands in at first.
func (f *Fleet) newRoom(i int) room {
	tenant := i % f.Tenants
	nth := i / f.Tenants // of its tenant
	floor := nth / 4 % 5
	k := f.tenants[tenant].kind
	r := f.draw(ofRoom, i, 0)
	persons := k.persons[0] + r.Int64N(k.persons[1]-k.persons[0]+1)
	return room{
		tenant:         tenant,
		building:       f.tenants[tenant].name + " " + string(rune('A'+nth/20%26)),
		floor:          strconv.Itoa(floor),
		name:           fmt.Sprintf("%d.%02d", floor, nth%4+1+nth/(20*26)*4),
		persons:        persons,
		volume:         float64(persons) * k.volume,
		airChange:      k.airChange[0] + r.Float64()*(k.airChange[1]-k.airChange[0]),
		outsideCO2:     float64(420 + 5*tenant%40), // global mean 2023: 419 ppm (NOAA); towns lie above it
		airedByDevice:  nth%4 == 3,
		windowOpenings: k.windowOpenings,
	}
}

// relocate moves devices, evenly over the duration.
func (f *Fleet) relocate() error {
	if f.Relocations > f.Devices {
		return fmt.Errorf("%d relocations of %d devices: each device moves once", f.Relocations, f.Devices)
	}
	for i := range f.Relocations {
		d := &f.devices[i]
		at := f.Start.Add(f.Duration / time.Duration(f.Relocations+1) * time.Duration(i+1)).Truncate(time.Minute)
		arrival := at
		if i%2 == 1 {
			arrival = at.Add(transit)
		}
		if !at.After(f.Start) {
			return fmt.Errorf("%d relocations in %s: less than a minute apart", f.Relocations, f.Duration)
		}
		d.stays[0].to = at
		d.stays = append(d.stays, stay{room: (i + 1) % f.Devices, from: arrival})
	}
	return nil
}

// spoilClocks takes devices that stay where they are and set their own time:
// a network server's clock is right.
func (f *Fleet) spoilClocks() error {
	skewed, timeless := f.Skewed, f.Timeless
	for i := f.Relocations; i < f.Devices && skewed+timeless > 0; i++ {
		d := &f.devices[i]
		switch {
		case d.form.network():
		case skewed > 0:
			d.skew = clockSkew
			skewed--
		default:
			d.loses = true
			timeless--
		}
	}
	if skewed+timeless > 0 {
		return fmt.Errorf("too few devices for %d bad clocks: a third gets its time from a network server, and those that move keep theirs", f.Skewed+f.Timeless)
	}
	return nil
}

// Placements is where the devices stand, without version.
func (f *Fleet) Placements() []mesh.Placement {
	var out []mesh.Placement
	for _, d := range f.devices {
		for _, s := range d.stays {
			r := f.rooms[s.room]
			p := mesh.Placement{
				DeviceID: d.id, TenantID: f.tenants[r.tenant].id,
				Building: r.building, Floor: r.floor, Room: r.name, Persons: &r.persons, OutsideCO2: &r.outsideCO2,
				ValidFrom: mesh.At(s.from),
			}
			if !s.to.IsZero() {
				to := mesh.At(s.to)
				p.ValidTo = &to
			}
			out = append(out, p)
		}
	}
	return out
}

// Customers is who the tenants are, without version.
func (f *Fleet) Customers() []mesh.Customer {
	countries := [...]string{"NL", "DE", "BE"}
	var out []mesh.Customer
	for i, t := range f.tenants {
		out = append(out, mesh.Customer{CustomerID: t.id, Name: t.name, Sector: t.kind.sector, Country: countries[i%len(countries)]})
	}
	return out
}

// Actions is the logbook of the scenario in order of time, without version.
func (f *Fleet) Actions() []mesh.Action { return f.ActionsUntil(f.End()) }

// ActionsUntil is the logbook from Start to an instant.
func (f *Fleet) ActionsUntil(until time.Time) []mesh.Action {
	var out []mesh.Action
	for hour := int(f.Start.Sub(f.origin) / time.Hour); ; hour++ {
		begin := f.origin.Add(time.Duration(hour) * time.Hour)
		if !begin.Before(until) {
			break
		}
		for i := range f.rooms {
			in := f.hour(i, hour)
			at := begin.Add(time.Duration(in.open) * time.Minute)
			if in.open == in.shut || at.Before(f.Start) || !at.Before(until) {
				continue
			}
			d := f.occupant(i, at)
			if d == nil {
				continue // who holds no device in a room sees no air to log for
			}
			r := &f.rooms[i]
			a := mesh.Action{
				ActionID: fmt.Sprintf("%s/%s/%s/%s", f.tenants[r.tenant].id, r.building, r.name, at.UTC().Format("20060102T1504Z")),
				TenantID: f.tenants[r.tenant].id, Action: "window opened", TakenAt: mesh.At(at),
			}
			if r.airedByDevice {
				a.DeviceID = d.id
			} else {
				a.Building, a.Room = r.building, r.name
			}
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b mesh.Action) int { return int(a.TakenAt - b.TakenAt) })
	return out
}

// occupant is the device that has stood in a room from the beginning, if it is
// there at t.
func (f *Fleet) occupant(room int, t time.Time) *device {
	d := &f.devices[room]
	if s := d.stay(t); s != nil && s.room == room {
		return d
	}
	return nil
}

// stay is where the device is at t; nil: on the way.
func (d *device) stay(t time.Time) *stay {
	for i := range d.stays {
		if s := &d.stays[i]; !t.Before(s.from) && (s.to.IsZero() || t.Before(s.to)) {
			return s
		}
	}
	return nil
}

// What a draw is about.
const (
	ofRoom = iota + 1
	ofHour
	ofNoise
	ofOutage
	ofDelivery
)

// draw is the generator for the nth occasion of one thing.
func (f *Fleet) draw(about, thing, nth int) *rand.Rand {
	return rand.New(rand.NewPCG(f.Seed, uint64(about)<<60^uint64(thing)<<36^uint64(nth)))
}
