package repair

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/functions/analytics-join/join"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/repair"
)

// touched gives conditions for repair.Rows that together hold for all readings
// whose surroundings may not be those that are known, because of the change.
//
// They look at the row that the output port shows: which action it has tells
// which other actions it may lack. What a row lacks or has wrongly because of
// another change is found by who works on that one.
func (c *change) touched(known *join.Known) []string {
	var f finder
	f.placements(c.placements, known)
	for i := range c.actions {
		f.action(&c.actions[i])
	}
	for i := range c.customers {
		f.customer(c.customers[i].CustomerID, known)
	}
	return f.conditions()
}

// alternative is a condition on rows of which a column has a value.
type alternative struct{ column, value, where string }

// finder collects what rows to look for.
type finder struct {
	devices      []string // whose place may have changed
	alternatives []alternative
}

// One condition has at most so many devices, whose names are looked up, and
// alternatives, which are tried one after the other.
const maxDevices, maxAlternatives = 2000, 500

func (f *finder) conditions() (all []string) {
	for devices := range slices.Chunk(f.devices, maxDevices) {
		// The place of each reading is held against the placements themselves.
		all = append(all, shown("JOIN iot_metadata.placements AS p ON p.device_id = r.device_id AND p.tenant_id = r.tenant_id",
			fmt.Sprintf("r.device_id IN (%s) AND r.observed_at >= p.valid_from AND (p.valid_to IS NULL OR r.observed_at < p.valid_to) AND "+
				"(r.building IS DISTINCT FROM p.building OR r.floor IS DISTINCT FROM p.floor OR r.room IS DISTINCT FROM p.room OR "+
				"r.persons IS DISTINCT FROM p.persons OR r.outside_co2 IS DISTINCT FROM p.outside_co2)", strings.Join(devices, ", "))))
	}
	// Those of one column stand together: most rows have none of its values.
	slices.SortFunc(f.alternatives, func(a, b alternative) int {
		return cmp.Or(strings.Compare(a.column, b.column), strings.Compare(a.value, b.value), strings.Compare(a.where, b.where))
	})
	f.alternatives = slices.Compact(f.alternatives)
	for rest := f.alternatives; len(rest) > 0; {
		var values, where []string
		n := 0
		for n < min(len(rest), maxAlternatives) && rest[n].column == rest[0].column {
			values, where = append(values, rest[n].value), append(where, fmt.Sprintf("(r.%s = %s AND %s)", rest[n].column, rest[n].value, rest[n].where))
			n++
		}
		all = append(all, shown("", fmt.Sprintf("r.%s IN (%s) AND (%s)", rest[0].column, strings.Join(slices.Compact(values), ", "), strings.Join(where, " OR "))))
		rest = rest[n:]
	}
	return all
}

// shown is the condition that the port shows a row of the reading for which
// where holds. The three columns are equal in all rows of a reading; by each of
// them a warehouse may skip rows.
func shown(with, where string) string {
	return fmt.Sprintf("EXISTS (SELECT 1 FROM iot_analytics.readings AS r %s WHERE r.reading_id = readings.reading_id AND "+
		"r.device_id = readings.device_id AND r.observed_at = readings.observed_at AND %s)", with, where)
}

// customer looks for readings of a tenant that have another name than it.
func (f *finder) customer(id string, known *join.Known) {
	where := "r.customer_name IS NOT NULL"
	if name := known.CustomerName(id); name != "" {
		where = "r.customer_name IS DISTINCT FROM " + repair.Text(name)
	}
	f.alternatives = append(f.alternatives, alternative{"tenant_id", repair.Text(id), where})
}

// action looks for readings after a was taken, there, that have no later action.
func (f *finder) action(a *mesh.Action) {
	at := repair.Time(a.TakenAt)
	where := fmt.Sprintf("r.observed_at >= %s AND (r.last_action_at IS NULL OR r.last_action_at <= %[1]s)", at)
	if a.DeviceID != "" {
		f.alternatives = append(f.alternatives, alternative{"device_id", repair.Text(a.DeviceID), where})
	}
	if a.Room != "" {
		f.alternatives = append(f.alternatives, alternative{"room", repair.Text(a.Room), inBuilding(a.Building) + " AND " + where})
	}
}

func inBuilding(building string) string {
	if building == "" {
		return "r.building IS NULL"
	}
	return "r.building = " + repair.Text(building)
}

// placements looks for readings of the devices with another place, and for
// readings at the devices and in the rooms whose last action may have become, or
// ceased to be, their tenant's.
func (f *finder) placements(placements []mesh.Placement, known *join.Known) {
	slices.SortFunc(placements, func(a, b mesh.Placement) int {
		return cmp.Or(strings.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ValidFrom, b.ValidFrom))
	})
	for rest := placements; len(rest) > 0; {
		device, from := rest[0].DeviceID, rest[0].ValidFrom
		if text := repair.Text(device); len(f.devices) == 0 || f.devices[len(f.devices)-1] != text {
			f.devices = append(f.devices, text)
		}
		// The versions of one key: who held what during any of them.
		var held []holding
		to, n := from, 0
		for n < len(rest) && rest[n].DeviceID == device && rest[n].ValidFrom == from {
			to = max(to, end(&rest[n]))
			held = append(held, holdingOf(&rest[n]))
			n++
		}
		rest = rest[n:]
		// With one version nothing ends, unless it overlaps another placement.
		ended := n > 1
		for _, p := range known.Placements(device) {
			if p.ValidFrom < to && from < end(&p) {
				held = append(held, holdingOf(&p))
				ended = ended || p.ValidFrom != from
			}
		}
		slices.SortFunc(held, compareHoldings)
		for _, h := range slices.Compact(held) {
			f.handedOver(alternative{"device_id", repair.Text(device), ""}, h.tenant, known.ActionsAt(h.tenant, device), from, to, ended)
			if h.room != "" {
				f.handedOver(alternative{"room", repair.Text(h.room), inBuilding(h.building) + " AND "}, h.tenant,
					known.ActionsIn(h.tenant, h.building, h.room), from, to, ended)
			}
		}
	}
}

// holding is who held a device, and in which room.
type holding struct{ tenant, building, room string }

func holdingOf(p *mesh.Placement) holding { return holding{p.TenantID, p.Building, p.Room} }

func compareHoldings(a, b holding) int {
	return cmp.Or(strings.Compare(a.tenant, b.tenant), strings.Compare(a.building, b.building), strings.Compare(a.room, b.room))
}

func end(p *mesh.Placement) mesh.Instant {
	if p.ValidTo == nil {
		return repair.Forever
	}
	return *p.ValidTo
}

// maxActions bounds the actions that a condition names.
const maxActions = 200

// handedOver looks for readings of tenant at a device or in a room that it held
// for a part of [from, to), or does now: those whose last action was taken then
// and is none of its own, where something ended, and those that lack one of its
// own. own are its actions there.
func (f *finder) handedOver(there alternative, tenant string, own []*mesh.Action, from, to mesh.Instant, ended bool) {
	// Of those taken at one instant the last counts.
	var last []*mesh.Action
	for _, a := range own {
		switch {
		case a.TakenAt < from || a.TakenAt >= to:
		case len(last) > 0 && last[len(last)-1].TakenAt == a.TakenAt:
			last[len(last)-1] = a
		default:
			last = append(last, a)
		}
	}
	within := "r.last_action_at >= " + repair.Time(from)
	if to != repair.Forever {
		within += " AND r.last_action_at < " + repair.Time(to)
	}
	var wrong []string
	switch {
	case len(last) > maxActions:
		wrong = []string{"r.last_action_at IS NULL", "r.last_action_at < " + repair.Time(last[len(last)-1].TakenAt), within}
	case len(last) > 0:
		var is, newest strings.Builder
		for i, a := range last {
			at := repair.Time(a.TakenAt)
			if i > 0 {
				is.WriteString(" OR ")
			}
			fmt.Fprintf(&is, "r.last_action_at = %s AND r.last_action = %s", at, repair.Text(a.Action))
			fmt.Fprintf(&newest, " WHEN r.observed_at >= %s THEN %[1]s", repair.Time(last[len(last)-1-i].TakenAt))
		}
		missing := fmt.Sprintf("CASE%s END", newest.String())
		wrong = []string{
			fmt.Sprintf("r.last_action_at IS NULL AND r.observed_at >= %s", repair.Time(last[0].TakenAt)),
			"r.last_action_at < " + missing,
			fmt.Sprintf("%s AND NOT (%s)", within, is.String()),
		}
	case ended:
		wrong = []string{within}
	default:
		return
	}
	there.where += fmt.Sprintf("r.tenant_id = %s AND r.observed_at >= %s AND (%s)", repair.Text(tenant), repair.Time(from), strings.Join(wrong, " OR "))
	f.alternatives = append(f.alternatives, there)
}
