package repair

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/functions/analytics-join/join"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/repair"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// touched finds the readings whose surroundings may not be those that are known,
// because of the change. Of a device they are between the first and the last one:
// what is between them and is right is left by who joins it.
//
// It looks at the rows that the output port shows: which action one has tells
// which other actions it may lack. What a row lacks or has wrongly because of
// another change is found by who works on that one.
func (c *change) touched(ctx context.Context, w warehouse.Warehouse, known *join.Known) ([]repair.Range, error) {
	// The sheets of a new mesh come before its readings.
	if some, err := shows(ctx, w); err != nil || !some {
		return nil, err
	}
	var f finder
	f.placements(c.placements, known)
	for i := range c.actions {
		f.action(&c.actions[i])
	}
	for i := range c.customers {
		f.customer(c.customers[i].CustomerID, known)
	}
	found := map[string]repair.Range{}
	for _, where := range f.conditions() {
		if err := find(ctx, w, where, found); err != nil {
			return nil, fmt.Errorf("look for touched readings: %w", err)
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// shows says whether the output port shows anything.
func shows(ctx context.Context, w warehouse.Warehouse) (bool, error) {
	answer, err := w.Query(ctx, "SELECT 1 AS one FROM iot_analytics.readings LIMIT 1")
	if err != nil {
		return false, err
	}
	for _, err := range answer.All {
		return err == nil, err
	}
	return false, nil
}

// find adds the devices for whose readings as the port shows them a condition
// holds.
func find(ctx context.Context, w warehouse.Warehouse, where string, found map[string]repair.Range) error {
	answer, err := w.Query(ctx, "SELECT r.device_id, MIN(r.observed_at), MAX(r.observed_at) FROM iot_analytics.readings AS r "+where+" GROUP BY r.device_id")
	if err != nil {
		return err
	}
	for row, err := range answer.All {
		if err != nil {
			return err
		}
		device, isText := row[0].(string)
		first, isTime := row[1].(time.Time)
		last, areTimes := row[2].(time.Time)
		if !isText || !isTime || !areTimes {
			return fmt.Errorf("a row is %T, %T, %T, want a device and two instants", row[0], row[1], row[2])
		}
		r := repair.Range{Device: device, From: mesh.At(first), To: mesh.At(last) + 1}
		if other, ok := found[device]; ok {
			r.From, r.To = min(r.From, other.From), max(r.To, other.To)
		}
		found[device] = r
	}
	return nil
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

// maxText bounds the text of the alternatives in a condition, in bytes: a
// warehouse refuses a long statement for good, BigQuery one of 1 MB.
const maxText = 256 << 10

func (f *finder) conditions() (all []string) {
	for devices := range slices.Chunk(f.devices, maxDevices) {
		// The place of each reading is held against the placements themselves.
		all = append(all, fmt.Sprintf("JOIN iot_metadata.placements AS p ON p.device_id = r.device_id AND p.tenant_id = r.tenant_id "+
			"WHERE r.device_id IN (%s) AND r.observed_at >= p.valid_from AND (p.valid_to IS NULL OR r.observed_at < p.valid_to) AND "+
			"(r.building IS DISTINCT FROM p.building OR r.floor IS DISTINCT FROM p.floor OR r.room IS DISTINCT FROM p.room OR "+
			"r.persons IS DISTINCT FROM p.persons OR r.outside_co2 IS DISTINCT FROM p.outside_co2)", strings.Join(devices, ", ")))
	}
	// Those of one column stand together: most rows have none of its values.
	slices.SortFunc(f.alternatives, func(a, b alternative) int {
		return cmp.Or(strings.Compare(a.column, b.column), strings.Compare(a.value, b.value), strings.Compare(a.where, b.where))
	})
	f.alternatives = slices.Compact(f.alternatives)
	for rest := f.alternatives; len(rest) > 0; {
		var values, where []string
		n, text := 0, 0
		for n < min(len(rest), maxAlternatives) && rest[n].column == rest[0].column && text < maxText {
			values, where = append(values, rest[n].value), append(where, fmt.Sprintf("(r.%s = %s AND %s)", rest[n].column, rest[n].value, rest[n].where))
			text += len(values[n]) + len(where[n])
			n++
		}
		all = append(all, fmt.Sprintf("WHERE r.%s IN (%s) AND (%s)", rest[0].column, strings.Join(slices.Compact(values), ", "), strings.Join(where, " OR ")))
		rest = rest[n:]
	}
	return all
}

// customer looks for readings of a tenant that have another name than it.
func (f *finder) customer(id string, known *join.Known) {
	where := "r.customer_name IS NOT NULL"
	if name := known.CustomerName(id); name != "" {
		where = "r.customer_name IS DISTINCT FROM " + literal.Text(name)
	}
	f.alternatives = append(f.alternatives, alternative{"tenant_id", literal.Text(id), where})
}

// action looks for readings after a was taken, there, that have no later action.
func (f *finder) action(a *mesh.Action) {
	at := literal.Time(a.TakenAt)
	where := fmt.Sprintf("r.observed_at >= %s AND (r.last_action_at IS NULL OR r.last_action_at <= %[1]s)", at)
	if a.DeviceID != "" {
		f.alternatives = append(f.alternatives, alternative{"device_id", literal.Text(a.DeviceID), where})
	}
	if a.Room != "" {
		f.alternatives = append(f.alternatives, alternative{"room", literal.Text(a.Room), inBuilding(a.Building) + " AND " + where})
	}
}

func inBuilding(building string) string {
	if building == "" {
		return "r.building IS NULL"
	}
	return "r.building = " + literal.Text(building)
}

// placements looks for readings of the devices with another place, and for
// readings at the devices and in the rooms whose last action may have become, or
// ceased to be, their tenant's.
func (f *finder) placements(placements []mesh.Placement, known *join.Known) {
	slices.SortFunc(placements, func(a, b mesh.Placement) int {
		return cmp.Or(strings.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ValidFrom, b.ValidFrom))
	})
	taken := map[spot][]mesh.Instant{}
	if len(placements) > 0 {
		for _, a := range known.Actions() {
			for _, s := range [...]spot{atDevice(a.DeviceID), inRoom(a.Building, a.Room)} {
				taken[s] = append(taken[s], a.TakenAt)
			}
		}
	}
	for rest := placements; len(rest) > 0; {
		device, from := rest[0].DeviceID, rest[0].ValidFrom
		if text := literal.Text(device); len(f.devices) == 0 || f.devices[len(f.devices)-1] != text {
			f.devices = append(f.devices, text)
		}
		// The versions of one key: who held what during any of them.
		held := map[holding]bool{}
		hold := func(p *mesh.Placement) {
			held[holding{p.TenantID, atDevice(device)}] = true
			if p.Room != "" {
				held[holding{p.TenantID, inRoom(p.Building, p.Room)}] = true
			}
		}
		to := from
		for len(rest) > 0 && rest[0].DeviceID == device && rest[0].ValidFrom == from {
			to = max(to, end(&rest[0]))
			hold(&rest[0])
			rest = rest[1:]
		}
		for _, p := range known.Placements(device) {
			if p.ValidFrom < to && from < end(&p) {
				hold(&p)
			}
		}
		for h := range held {
			// Without an action that is known to be taken there and then, a reading
			// has at most one that was changed itself.
			if first, _ := slices.BinarySearch(taken[h.spot], from); first < len(taken[h.spot]) && taken[h.spot][first] < to {
				f.handedOver(h, known, from, to)
			}
		}
	}
}

// spot is where an action is taken: at a device, or in a room of a building.
type spot struct{ device, building, room string }

func atDevice(device string) spot { return spot{device: device} }

func inRoom(building, room string) spot { return spot{building: building, room: room} }

// holding is a spot that a tenant held.
type holding struct {
	tenant string
	spot
}

func end(p *mesh.Placement) mesh.Instant {
	if p.ValidTo == nil {
		return repair.Forever
	}
	return *p.ValidTo
}

// maxActions bounds the actions that a condition names.
const maxActions = 50

// handedOver looks for readings of a tenant at a spot that it held for a part of
// [from, to), or does now: those whose last action was taken then and is none of
// its own, and those that lack one of its own.
func (f *finder) handedOver(h holding, known *join.Known, from, to mesh.Instant) {
	there, own := alternative{"device_id", literal.Text(h.device), ""}, known.ActionsAt(h.tenant, h.device)
	if h.room != "" {
		there, own = alternative{"room", literal.Text(h.room), inBuilding(h.building) + " AND "}, known.ActionsIn(h.tenant, h.building, h.room)
	}
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
	within := "r.last_action_at >= " + literal.Time(from)
	if to != repair.Forever {
		within += " AND r.last_action_at < " + literal.Time(to)
	}
	wrong := []string{within}
	if len(last) > maxActions {
		wrong = append(wrong, "r.last_action_at IS NULL", "r.last_action_at < "+literal.Time(last[len(last)-1].TakenAt))
	} else if len(last) > 0 {
		var is, newest strings.Builder
		for i, a := range last {
			at := literal.Time(a.TakenAt)
			if i > 0 {
				is.WriteString(" OR ")
			}
			fmt.Fprintf(&is, "r.last_action_at = %s AND r.last_action = %s", at, literal.Text(a.Action))
			fmt.Fprintf(&newest, " WHEN r.observed_at >= %s THEN %[1]s", literal.Time(last[len(last)-1-i].TakenAt))
		}
		wrong = []string{
			fmt.Sprintf("r.last_action_at IS NULL AND r.observed_at >= %s", literal.Time(last[0].TakenAt)),
			fmt.Sprintf("r.last_action_at < CASE%s END", newest.String()),
			fmt.Sprintf("%s AND NOT (%s)", within, is.String()),
		}
	}
	there.where += fmt.Sprintf("r.tenant_id = %s AND r.observed_at >= %s AND (%s)", literal.Text(h.tenant), literal.Time(from), strings.Join(wrong, " OR "))
	f.alternatives = append(f.alternatives, there)
}
