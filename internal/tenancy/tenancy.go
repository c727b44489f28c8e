// Package tenancy answers who held a device at an instant: the as-of lookup
// that everything in Telemesh stands on.
package tenancy

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Index is an immutable set of placements, looked up by device and instant.
type Index struct {
	devices map[string][]mesh.Placement // by ValidFrom
}

// NewIndex builds an index. A device of which two placements overlap is left
// out, since nobody can tell whose it was: its readings are parked. The error
// names these; the index is good for all other devices. Sources refuse such
// placements, so that this is the fault of one.
func NewIndex(placements []mesh.Placement) (*Index, error) {
	var overlaps []error
	devices := map[string][]mesh.Placement{}
	for _, p := range placements {
		devices[p.DeviceID] = append(devices[p.DeviceID], p)
	}
	for device, intervals := range devices {
		slices.SortFunc(intervals, func(a, b mesh.Placement) int { return cmp.Compare(a.ValidFrom, b.ValidFrom) })
		for i := 1; i < len(intervals); i++ {
			if a, b := intervals[i-1], intervals[i]; a.ValidTo == nil || *a.ValidTo > b.ValidFrom {
				overlaps = append(overlaps, fmt.Errorf("device %q: the placement at %q from %s overlaps the one at %q from %s",
					device, a.TenantID, a.ValidFrom, b.TenantID, b.ValidFrom))
				delete(devices, device)
				break
			}
		}
	}
	return &Index{devices}, errors.Join(overlaps...)
}

// Build is NewIndex for who goes on without the devices that are left out, and
// has them logged.
func Build(log *slog.Logger) func([]mesh.Placement) (*Index, error) {
	return func(placements []mesh.Placement) (*Index, error) {
		index, err := NewIndex(placements)
		if err != nil {
			log.Error("placements overlap, the readings of these devices are parked: correct their source", "error", err)
		}
		return index, nil
	}
}

// At gives the placement of device whose interval [ValidFrom, ValidTo)
// contains t, nil if there is none. What it points to must not be changed.
func (x *Index) At(device string, t mesh.Instant) *mesh.Placement {
	intervals := x.devices[device]
	// The last interval that began at or before t: mostly the newest one.
	i := len(intervals) - 1
	if i > 0 && intervals[i].ValidFrom > t {
		i, _ = slices.BinarySearchFunc(intervals, t, func(p mesh.Placement, t mesh.Instant) int {
			if p.ValidFrom <= t {
				return -1
			}
			return 1
		})
		i--
	}
	if i < 0 || intervals[i].ValidFrom > t || intervals[i].ValidTo != nil && t >= *intervals[i].ValidTo {
		return nil
	}
	return &intervals[i]
}
