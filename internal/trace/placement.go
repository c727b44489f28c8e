package trace

import (
	"context"
	"fmt"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Placement is a version of a placement that is, or was, for the instant of the
// reading.
type Placement struct {
	mesh.Placement
	RecordedAt mesh.Instant `json:"recorded_at"`
	// Log is the version that the placements had by it: how many rows were
	// recorded up to and with it.
	Log int64 `json:"placements_version"`
	// Holder is who held the device at the instant, as far as it was known then;
	// empty: nobody.
	Holder string `json:"holder"`
	// Decides: it made the holder another one, so that Log is an
	// assignment_version.
	Decides bool `json:"decides"`
	// Stamps: the row that counts was made with this assignment_version.
	Stamps bool   `json:"stamps"`
	By     *Event `json:"by"` // the event that brought it; nil: the log has it no more
}

// placements finds what was ever said of the device for the instant of the
// reading, and follows who held it as that was said.
func (s *Story) placements(ctx context.Context, w warehouse.Warehouse, log eventLog) error {
	s.Placements = []Placement{}
	rows, err := w.Query(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE device_id = %s AND valid_from <= %s ORDER BY recorded_at, valid_from, version",
		tenancy.Columns, Internal("iot_metadata.placements"), literal.Text(s.DeviceID), literal.Time(s.ObservedAt)))
	if err != nil {
		return err
	}
	// All versions of those of which one covered the instant: a later one may
	// have ended it.
	var all []Placement
	covered := map[mesh.Instant]bool{}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		r := tenancy.FromRow(row)
		p := Placement{Placement: r.Placement, RecordedAt: r.RecordedAt}
		all = append(all, p)
		covered[p.ValidFrom] = covered[p.ValidFrom] || s.covers(&p)
	}
	all = slices.DeleteFunc(all, func(p Placement) bool { return !covered[p.ValidFrom] })

	var stamped int64
	for _, r := range s.Ports[0].Revisions {
		if r.Counts {
			stamped = r.Row.Int("assignment_version")
		}
	}
	counts := map[mesh.Instant]*Placement{} // the highest version of each
	holder := ""
	for from := 0; from < len(all); {
		// What was recorded together came together.
		step := all[from:]
		if to := slices.IndexFunc(step, func(p Placement) bool { return p.RecordedAt != step[0].RecordedAt }); to >= 0 {
			step = step[:to]
		}
		from += len(step)
		n, err := query(ctx, w, fmt.Sprintf("SELECT count(*) AS n FROM %s WHERE recorded_at <= %s", Internal("iot_metadata.placements"), literal.Time(step[0].RecordedAt)))
		if err != nil {
			return err
		}
		for i := range step {
			if p := &step[i]; counts[p.ValidFrom] == nil || counts[p.ValidFrom].Version <= p.Version {
				counts[p.ValidFrom] = p
			}
		}
		now := s.holder(counts)
		for i := range step {
			p := &step[i]
			p.Log, p.Holder, p.Decides = n[0].Int("n"), now, now != holder
			p.Stamps = p.Decides && p.Log == stamped
		}
		holder = now
	}
	for i := range all {
		if all[i].By, err = s.broughtBy(ctx, log, &all[i]); err != nil {
			return err
		}
	}
	s.Placements = append(s.Placements, all...)
	return nil
}

// covers says whether a placement is for the instant of the reading.
func (s *Story) covers(p *Placement) bool {
	return p.ValidFrom <= s.ObservedAt && (p.ValidTo == nil || s.ObservedAt < *p.ValidTo)
}

// holder gives whose the device was by the placements that count; "": nobody's,
// or more than one tenant's, which no source says.
func (s *Story) holder(counts map[mesh.Instant]*Placement) (tenant string) {
	n := 0
	for _, p := range counts {
		if !p.Deleted && s.covers(p) {
			tenant = p.TenantID
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return tenant
}

// broughtBy finds the event that brought a version of a placement.
func (s *Story) broughtBy(ctx context.Context, log eventLog, p *Placement) (*Event, error) {
	return log.first(ctx, []window{{p.RecordedAt - nearby, p.RecordedAt + skew}, until(p.RecordedAt)},
		"type = "+literal.Text(mesh.PlacementsChanged)+" AND "+has(p.DeviceID), func(e *Event) bool {
			data, err := mesh.Decode[mesh.Placements](e.data)
			if err != nil {
				return false // the sink refused it
			}
			return slices.ContainsFunc(data.Placements, func(said mesh.Placement) bool {
				return said.DeviceID == p.DeviceID && said.ValidFrom == p.ValidFrom && said.Version == p.Version && said.TenantID == p.TenantID && said.Deleted == p.Deleted
			})
		})
}
