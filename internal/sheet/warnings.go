package sheet

import (
	"fmt"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
)

// WarnOfTenants flags the placements of tenants that are no customers. They
// are taken: who a customer is comes from elsewhere, and may come later.
func WarnOfTenants(s *Sheet[mesh.Placement], customers []mesh.Customer) {
	known := map[string]bool{}
	for _, c := range customers {
		known[c.CustomerID] = true
	}
	for i, p := range s.Rows {
		if !known[p.TenantID] {
			s.warn(i, "tenant_id", fmt.Sprintf("%q is no customer", p.TenantID))
		}
	}
}

// WarnOfActions flags the actions that are nobody's: those of a tenant, or of
// none that is named, where that tenant, or anybody, did not hold the device or
// the room at the time.
func WarnOfActions(s *Sheet[mesh.Action], placements []mesh.Placement) {
	type room struct{ building, room string }
	devices, rooms := map[string][]mesh.Placement{}, map[room][]mesh.Placement{}
	for _, p := range placements {
		devices[p.DeviceID] = append(devices[p.DeviceID], p)
		rooms[room{p.Building, p.Room}] = append(rooms[room{p.Building, p.Room}], p)
	}
	for i, a := range s.Rows {
		at, place := rooms[room{a.Building, a.Room}], fmt.Sprintf("room %q", a.Room)
		if a.Building != "" {
			place += fmt.Sprintf(" of building %q", a.Building)
		}
		if a.DeviceID != "" {
			at, place = devices[a.DeviceID], fmt.Sprintf("device %q", a.DeviceID)
		}
		held := slices.ContainsFunc(at, func(p mesh.Placement) bool {
			return p.ValidFrom <= a.TakenAt && (p.ValidTo == nil || a.TakenAt < *p.ValidTo) && (a.TenantID == "" || a.TenantID == p.TenantID)
		})
		switch {
		case held:
		case a.TenantID == "":
			s.warn(i, "", fmt.Sprintf("nobody held %s at %s: the action is shown to nobody", place, a.TakenAt))
		default:
			s.warn(i, "tenant_id", fmt.Sprintf("%q did not hold %s at %s: the action is shown to nobody", a.TenantID, place, a.TakenAt))
		}
	}
}

// warn adds a finding about the i-th of Rows. Rows that no grid has told are not
// warned of: they have no number.
func (s *Sheet[R]) warn(i int, column, reason string) {
	if i < len(s.numbers) {
		s.find(s.numbers[i], column, reason, mesh.SeverityWarning)
	}
}
