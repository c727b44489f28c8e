package tenancy

import (
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Columns are those of iot_metadata_internal.placements that FromRow reads.
const Columns = "device_id, tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to, version, deleted, recorded_at"

// FromRow makes a row of Columns, as a warehouse gives it, what it says. The
// contract has no NULL where none is looked for.
func FromRow(row []any) Recorded {
	text := func(v any) string { s, _ := v.(string); return s }
	r := Recorded{RecordedAt: mesh.At(row[11].(time.Time))}
	r.DeviceID, r.TenantID = row[0].(string), row[1].(string)
	r.Building, r.Floor, r.Room = text(row[2]), text(row[3]), text(row[4])
	if n, ok := row[5].(int64); ok {
		r.Persons = &n
	}
	if f, ok := row[6].(float64); ok {
		r.OutsideCO2 = &f
	}
	r.ValidFrom = mesh.At(row[7].(time.Time))
	if to, ok := row[8].(time.Time); ok {
		at := mesh.At(to)
		r.ValidTo = &at
	}
	r.Version, r.Deleted = row[9].(int64), row[10].(bool)
	return r
}
