// Package air answers what a tenant asks of the air in their rooms: how it went
// on, how it is now, at which hours it is bad, and what an action did to it.
//
// All of it is read through package access as one tenant: what others have is
// in no answer, whoever asks. How far a question reaches decides what is read:
// single readings where there are few, means over minutes where there are more,
// and from an hour on the hourly sums of iot_analytics.readings_hourly, which
// are all that a year costs.
package air

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Air is that of one tenant.
type Air struct {
	data   *access.Data
	viewer access.Viewer // who sees this tenant alone
}

// Of gives a tenant's air to who may see it, and else access.ErrForbidden.
func Of(data *access.Data, v access.Viewer, tenant string) (*Air, error) {
	v, err := v.As(tenant)
	if err != nil {
		return nil, err
	}
	return &Air{data, v}, nil
}

// Tenant is one of those whose air a viewer sees.
type Tenant struct{ ID, Name string }

// Tenants gives those that a viewer may choose from, by name: who is a customer,
// and who has a device.
func Tenants(ctx context.Context, data *access.Data, v access.Viewer) ([]Tenant, error) {
	var all []Tenant
	err := each(ctx, data, v, `SELECT tenant_id, MAX(name) AS name
FROM (
	SELECT customer_id AS tenant_id, name FROM {customers.customers}
	UNION ALL
	SELECT tenant_id, CAST(NULL AS STRING) AS name FROM {iot_metadata.placements}
) AS known
GROUP BY tenant_id`, func(row []any) {
		t := Tenant{text(row[0]), text(row[1])}
		if t.Name == "" {
			t.Name = t.ID
		}
		all = append(all, t)
	})
	slices.SortFunc(all, func(a, b Tenant) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return all, err
}

// Room is where readings are from. Without a name it is a building or a floor of
// which no room is known; all empty, a device of which no place is.
type Room struct {
	Building string `json:"building"`
	Floor    string `json:"floor"`
	Name     string `json:"room"`
}

func (r Room) compare(o Room) int {
	return cmp.Or(cmp.Compare(r.Building, o.Building), cmp.Compare(r.Floor, o.Floor), cmp.Compare(r.Name, o.Name))
}

// Key is the room in an address: what ParseRoom reads.
func (r Room) Key() string {
	return escaped.Replace(r.Building) + "/" + escaped.Replace(r.Floor) + "/" + escaped.Replace(r.Name)
}

var escaped = strings.NewReplacer("%", "%25", "/", "%2F")

// ParseRoom reads what Key writes.
func ParseRoom(key string) (Room, error) {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return Room{}, fmt.Errorf("room %q is not BUILDING/FLOOR/ROOM, each of them percent-encoded", key)
	}
	for i := range parts {
		var err error
		if parts[i], err = url.PathUnescape(parts[i]); err != nil {
			return Room{}, fmt.Errorf("room %q: %w", key, err)
		}
	}
	return Room{parts[0], parts[1], parts[2]}, nil
}

// Where is a part of what a tenant has; zero: all of it.
type Where struct {
	Building string
	Room     *Room
	Device   string
}

// Selection says which readings are meant: of a metric, of [From, To).
type Selection struct {
	Where
	Metric   string
	From, To time.Time
}

func is(column, value string) string {
	if value == "" {
		return column + " IS NULL"
	}
	return column + " = " + literal.Text(value)
}

// conditions is the part of a WHERE that chooses the place.
func (w Where) conditions() string {
	var b strings.Builder
	if w.Building != "" {
		b.WriteString(" AND " + is("building", w.Building))
	}
	if w.Room != nil {
		b.WriteString(" AND " + is("building", w.Room.Building) + " AND " + is("floor", w.Room.Floor) + " AND " + is("room", w.Room.Name))
	}
	if w.Device != "" {
		b.WriteString(" AND " + is("device_id", w.Device))
	}
	return b.String()
}

// Has says whether something at a place belongs to what is meant.
func (w Where) Has(r Room, device string) bool {
	return (w.Building == "" || w.Building == r.Building) && (w.Room == nil || *w.Room == r) && (w.Device == "" || w.Device == device)
}

// within is the condition that a column of times is in [from, to).
func within(column string, from, to time.Time) string {
	return fmt.Sprintf("%[1]s >= %[2]s AND %[1]s < %[3]s", column, instant(from), instant(to))
}

// readings is the WHERE of single readings.
func (s *Selection) readings() string {
	return within("observed_at", s.From, s.To) + " AND metric = " + literal.Text(s.Metric) + s.conditions()
}

// hours is the WHERE of the hours that have an instant of the selection.
func (s *Selection) hours() string {
	return hoursOf(s.From, s.To) + " AND metric = " + literal.Text(s.Metric) + s.conditions()
}

// hoursOf are those of [from, to), by the day too, which BigQuery reads no other of.
func hoursOf(from, to time.Time) string {
	return within("day_start", from.Truncate(24*time.Hour), to) + " AND " + within("hour_start", from.Truncate(time.Hour), to)
}

func instant(t time.Time) string { return literal.Time(mesh.At(t)) }

// each runs a statement and gives its rows one after the other.
func each(ctx context.Context, data *access.Data, v access.Viewer, sql string, row func([]any)) error {
	rows, err := data.Query(ctx, v, sql)
	if err != nil {
		return err
	}
	for cells, err := range rows.All {
		if err != nil {
			return err
		}
		row(cells)
	}
	return nil
}

func (a *Air) each(ctx context.Context, sql string, row func([]any)) error {
	return each(ctx, a.data, a.viewer, sql, row)
}

func text(cell any) string { s, _ := cell.(string); return s }

func number(cell any) float64 {
	switch v := cell.(type) {
	case float64:
		return v
	case int64:
		return float64(v)
	}
	return 0
}

func optional(cell any) *float64 {
	if cell == nil {
		return nil
	}
	v := number(cell)
	return &v
}

func whole(cell any) int64 { n, _ := cell.(int64); return n }

func at(cell any) time.Time { t, _ := cell.(time.Time); return t }
