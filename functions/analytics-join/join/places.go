package join

import (
	"cmp"
	"log/slog"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Places is an immutable index of placements by device and instant.
type Places struct {
	version  int64
	devices  map[string][]mesh.Placement // by ValidFrom; they do not overlap
	disputed map[string][]mesh.Placement // the rows of devices of which some overlap
}

// NewPlaces gives what builds an index of placements of a version. Where several
// placements of a device overlap nobody holds it: sources refuse such rows, so
// that they are the fault of one, and are logged.
func NewPlaces(log *slog.Logger) func(placements []mesh.Placement, version int64) (*Places, error) {
	return func(placements []mesh.Placement, version int64) (*Places, error) {
		devices, disputed := map[string][]mesh.Placement{}, map[string][]mesh.Placement{}
		for _, p := range placements {
			devices[p.DeviceID] = append(devices[p.DeviceID], p)
		}
		for device, all := range devices {
			slices.SortFunc(all, func(a, b mesh.Placement) int { return cmp.Compare(a.ValidFrom, b.ValidFrom) })
			for i := 1; i < len(all); i++ {
				if a, b := &all[i-1], &all[i]; ends(a) > b.ValidFrom {
					log.Error("placements overlap, nobody holds the device meanwhile: correct their source", "device", device,
						"tenant", a.TenantID, "valid_from", a.ValidFrom.String(), "other.tenant", b.TenantID, "other.valid_from", b.ValidFrom.String())
					devices[device], disputed[device] = undisputed(all), all
					break
				}
			}
		}
		return &Places{version, devices, disputed}, nil
	}
}

// ends gives the end of a placement's interval.
func ends(p *mesh.Placement) mesh.Instant {
	if p.ValidTo == nil {
		return forever
	}
	return *p.ValidTo
}

// forever is after every instant of a reading.
const forever = mesh.Instant(1<<63 - 1)

// undisputed gives the parts of a device's placements that no other one of it
// covers.
func undisputed(placements []mesh.Placement) []mesh.Placement {
	type bound struct {
		at    mesh.Instant
		opens bool
		of    int
	}
	var bounds []bound
	for i := range placements {
		if p := &placements[i]; p.ValidFrom < ends(p) {
			bounds = append(bounds, bound{p.ValidFrom, true, i}, bound{ends(p), false, i})
		}
	}
	slices.SortFunc(bounds, func(a, b bound) int { return cmp.Compare(a.at, b.at) })
	var out []mesh.Placement
	covering := map[int]bool{}
	for i, b := range bounds {
		if b.opens {
			covering[b.of] = true
		} else {
			delete(covering, b.of)
		}
		if len(covering) != 1 || b.at == forever || bounds[i+1].at == b.at {
			continue
		}
		for of := range covering {
			part := placements[of]
			part.ValidFrom = b.at
			if to := bounds[i+1].at; to != forever {
				part.ValidTo = &to
			}
			out = append(out, part)
		}
	}
	return out
}

// At gives the placement of device whose interval [ValidFrom, ValidTo)
// contains t, nil if there is none. What it points to must not be changed.
func (x *Places) At(device string, t mesh.Instant) *mesh.Placement {
	placements := x.devices[device]
	// The last interval that began at or before t: mostly the newest one.
	i := len(placements) - 1
	if i > 0 && placements[i].ValidFrom > t {
		i, _ = slices.BinarySearchFunc(placements, t, func(p mesh.Placement, t mesh.Instant) int {
			if p.ValidFrom <= t {
				return -1
			}
			return 1
		})
		i--
	}
	if i < 0 || placements[i].ValidFrom > t || placements[i].ValidTo != nil && t >= *placements[i].ValidTo {
		return nil
	}
	return &placements[i]
}

// room is a room of a building. A building that is not named equals another
// one that is not.
type room struct{ building, room string }

// interval is [from, to).
type interval struct{ from, to mesh.Instant }

// holders gives who held each of the rooms by any placement, and when: intervals
// in order, apart from each other.
func (x *Places) holders(of map[room]map[string][]interval) {
	for _, placements := range x.devices {
		for i := range placements {
			p := &placements[i]
			if tenants, ok := of[room{p.Building, p.Room}]; ok && p.Room != "" {
				tenants[p.TenantID] = append(tenants[p.TenantID], interval{p.ValidFrom, ends(p)})
			}
		}
	}
	for _, tenants := range of {
		for tenant, intervals := range tenants {
			slices.SortFunc(intervals, func(a, b interval) int { return cmp.Compare(a.from, b.from) })
			merged := intervals[:1]
			for _, next := range intervals[1:] {
				if last := &merged[len(merged)-1]; next.from <= last.to {
					last.to = max(last.to, next.to)
				} else {
					merged = append(merged, next)
				}
			}
			tenants[tenant] = merged
		}
	}
}

func contains(intervals []interval, t mesh.Instant) bool {
	i, _ := slices.BinarySearchFunc(intervals, t, func(i interval, t mesh.Instant) int {
		if i.to <= t {
			return -1
		}
		return 1
	})
	return i < len(intervals) && intervals[i].from <= t
}
