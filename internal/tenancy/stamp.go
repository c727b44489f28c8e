package tenancy

import (
	"strconv"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Stamp is whose a reading is, and since which version of the placements.
type Stamp struct {
	Tenant  string // empty: nobody's
	Version int64  // 0: nothing was ever said of its device at that instant
}

// Stamps gives the stamp of each reading, and whether every one has a tenant.
func (x *Index) Stamps(readings []mesh.Entry) (stamps []Stamp, complete bool) {
	stamps = make([]Stamp, len(readings))
	complete = true
	for i := range readings {
		r, s := &readings[i], &stamps[i]
		// The metrics of one message share device and instant.
		if i > 0 && r.ObservedAt == readings[i-1].ObservedAt && r.DeviceID == readings[i-1].DeviceID {
			*s = stamps[i-1]
			continue
		}
		s.Tenant, s.Version = x.At(r.DeviceID, r.ObservedAt)
		complete = complete && s.Tenant != ""
	}
	return stamps, complete
}

// share is the readings of one tenant; its id is empty for those of nobody.
type share struct {
	id        string
	withdrawn bool // one of them was a tenant's, or might have been
	size      int  // of its readings, in bytes
	readings  mesh.ReadingsWriter
}

// stampSize is about what the members of a tenancy take.
const stampSize = 64

// Events makes the readings, stamped, events of function: one
// telemetry.enriched per tenant and one telemetry.unassigned of those of
// nobody, in the order of their first reading. version is the one of the index
// that gave the stamps. The same input makes other events with another
// version; part tells apart what is made of one input in several parts.
func Events(in event.Event, function, part string, readings []mesh.Entry, stamps []Stamp, version int64) []event.Event {
	shares := split(readings, stamps)
	out := make([]event.Event, 0, len(shares))
	for _, s := range shares {
		sibling := s.id + "@" + strconv.FormatInt(version, 10)
		if part != "" {
			sibling += "/" + part
		}
		eventType := mesh.TelemetryEnriched
		if s.id == "" {
			eventType = mesh.TelemetryUnassigned
		}
		e := mesh.Derive(in, function, eventType, sibling, s.readings.Data())
		mesh.SetVersion(&e, version)
		if s.id != "" {
			e.SetExtension(mesh.ExtTenant, s.id)
		} else if s.withdrawn {
			e.SetExtension(mesh.ExtWithdrawn, "true")
		}
		out = append(out, e)
	}
	return out
}

func split(readings []mesh.Entry, stamps []Stamp) (shares []*share) {
	shareOf := func(id string) *share {
		for _, s := range shares {
			if s.id == id {
				return s
			}
		}
		shares = append(shares, &share{id: id})
		return shares[len(shares)-1]
	}
	// Readings of one stamp mostly follow each other.
	type run struct {
		mine     *share
		from, to int
	}
	runs := make([]run, 0, 64)
	for i := 0; i < len(stamps); {
		s := stamps[i]
		r := run{mine: shareOf(s.Tenant), from: i}
		for ; i < len(stamps) && stamps[i] == s; i++ {
			r.mine.size += readings[i].Size() + stampSize
		}
		r.to = i
		r.mine.withdrawn = r.mine.withdrawn || s.Tenant == "" && s.Version > 0
		runs = append(runs, r)
	}
	var stamp []byte
	for _, r := range runs {
		stamp = mesh.AppendTenancy(stamp[:0], stamps[r.from].Tenant, stamps[r.from].Version)
		r.mine.readings.Grow(r.mine.size)
		for i := r.from; i < r.to; i++ {
			r.mine.readings.AddTenancy(&readings[i], stamp)
		}
	}
	return shares
}
