// Package trace follows a reading back: from the row that a data product shows
// to the message it came in, through every revision that was stored, the
// placements that said whose it is, and the events it went through.
//
// It reads what is stored and nothing else: the internal tables, where no
// version of a row is lost, and event_log.events. What the log has no more is
// missing from the story, and the story says so. The log is read by time and
// type, from the moment the message was received to the moment its rows were
// stored; it is read further only for what is not found there. Where clocks of
// several machines differ, skew is allowed for.
package trace

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Story is all that is known of a reading.
type Story struct {
	ReadingID  string       `json:"reading_id"`
	DeviceID   string       `json:"device_id"`
	Metric     string       `json:"metric"`
	ObservedAt mesh.Instant `json:"observed_at"`
	Ports      []Port       `json:"ports"`
	Messages   []Message    `json:"messages"`   // in the order they were received
	Placements []Placement  `json:"placements"` // in the order they were recorded
	Events     []Event      `json:"events"`     // in the order they were accepted
}

// Port is what an output port says of the reading, and why.
type Port struct {
	Table     string     `json:"table"`
	State     State      `json:"state"`
	Row       Row        `json:"row,omitempty"` // as the port shows it
	Revisions []Revision `json:"revisions"`     // in the order they were recorded
}

// State says how a reading stands in an output port.
type State string

// The states.
const (
	Shown     State = "shown"     // to its tenant
	Parked    State = "parked"    // kept, of no tenant
	Withdrawn State = "withdrawn" // it was a tenant's before a correction
	Absent    State = "absent"    // no row of it was ever stored
)

// Revision is a row as it was appended.
type Revision struct {
	Row    Row    `json:"row"`
	Counts bool   `json:"counts"`
	Why    string `json:"why"`
}

// Row is the cells of a row that are not NULL, by column: string, float64,
// int64, bool, mesh.Instant, or json.RawMessage.
type Row map[string]any

// Text gives a cell that is a string, "" where there is none.
func (r Row) Text(column string) string { s, _ := r[column].(string); return s }

// Int gives a cell that is an integer, 0 where there is none.
func (r Row) Int(column string) int64 { n, _ := r[column].(int64); return n }

// Instant gives a cell that is a time, 0 where there is none.
func (r Row) Instant(column string) mesh.Instant { at, _ := r[column].(mesh.Instant); return at }

// Value gives the value of a row of readings.
func (r Row) Value() any {
	for _, column := range []string{"value_bool", "value_string", "value"} {
		if v, ok := r[column]; ok {
			return v
		}
	}
	return nil
}

const (
	telemetry = "iot_telemetry.readings"
	analytics = "iot_analytics.readings"
)

// Internal gives the name of the table in which a port's rows stand as they were
// appended.
func Internal(table string) string {
	schema, name, _ := strings.Cut(table, ".")
	return schema + "_internal." + name
}

// MinPrefix is how many digits of a reading_id are enough, if no other reading
// begins with them.
const MinPrefix = 8

var prefix = regexp.MustCompile(fmt.Sprintf("^[0-9a-f]{%d,32}$", MinPrefix))

// IsID says whether id is a reading_id or the begin of one.
func IsID(id string) bool { return prefix.MatchString(id) }

// Find gives the ids of the readings that begin with id, at most two of them.
func Find(ctx context.Context, w warehouse.Warehouse, id string) ([]string, error) {
	if !IsID(id) {
		return nil, nil
	}
	rows, err := query(ctx, w, fmt.Sprintf("SELECT reading_id FROM %s WHERE %s UNION DISTINCT SELECT reading_id FROM %s WHERE %[2]s ORDER BY 1 LIMIT 2",
		Internal(telemetry), begins("reading_id", id), Internal(analytics)))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, row := range rows {
		ids = append(ids, row.Text("reading_id"))
	}
	return ids, nil
}

func begins(column, prefix string) string {
	return fmt.Sprintf("starts_with(%s, %s)", column, literal.Text(prefix))
}

// Tell gives the story of a reading that is stored. The parser reads its
// messages again.
func Tell(ctx context.Context, w warehouse.Warehouse, parser *device.Parser, readingID string) (*Story, error) {
	s := &Story{ReadingID: readingID}
	for _, table := range []string{telemetry, analytics} {
		p, err := s.port(ctx, w, table)
		if err != nil {
			return nil, err
		}
		s.Ports = append(s.Ports, p)
	}
	if s.DeviceID == "" {
		return nil, fmt.Errorf("no reading %s", readingID)
	}
	log := eventLog{w}
	if err := s.messages(ctx, log, parser); err != nil {
		return nil, err
	}
	if err := s.placements(ctx, w, log); err != nil {
		return nil, err
	}
	if err := s.events(ctx, log); err != nil {
		return nil, err
	}
	return s, nil
}

// port reads what a port shows of the reading, and what is behind it.
func (s *Story) port(ctx context.Context, w warehouse.Warehouse, table string) (Port, error) {
	p := Port{Table: table, State: Absent, Revisions: []Revision{}}
	where := "reading_id = " + literal.Text(s.ReadingID)
	if s.DeviceID != "" {
		where += " AND observed_at = " + literal.Time(s.ObservedAt) // what both ports and their partitions go by
	}
	rows, err := query(ctx, w, fmt.Sprintf("SELECT * FROM %s WHERE %s", Internal(table), where))
	if err != nil || len(rows) == 0 {
		return p, err
	}
	s.DeviceID, s.Metric, s.ObservedAt = rows[0].Text("device_id"), rows[0].Text("metric"), rows[0].Instant("observed_at")
	shown, err := query(ctx, w, fmt.Sprintf("SELECT * FROM %s WHERE %s", table, where))
	if err != nil {
		return p, err
	}
	if len(shown) > 0 {
		p.Row = shown[0]
	}
	p.Revisions = judge(rows, p.Row)
	switch {
	case p.Row != nil && p.Row.Text("tenant_id") != "":
		p.State = Shown
	case slices.ContainsFunc(rows, func(r Row) bool { return r.Text("tenant_id") != "" }):
		p.State = Withdrawn
	default:
		p.State = Parked
	}
	return p, nil
}
