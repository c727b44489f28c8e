package trace

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Event is an event as the log has it.
type Event struct {
	Source     string            `json:"source"`
	ID         string            `json:"id"`
	Type       string            `json:"type"`
	Accepted   []Accepted        `json:"accepted"`
	Time       *mesh.Instant     `json:"time,omitempty"` // CloudEvents time
	Subject    string            `json:"subject,omitempty"`
	Extensions map[string]string `json:"extensions,omitempty"`
	DataBytes  int64             `json:"data_bytes"`
	Part       string            `json:"part"` // what it has to do with the reading
	// Choice is the same for events of which one has the reading, and the log
	// does not say which; 0: this one has it.
	Choice int `json:"choice,omitempty"`

	data []byte // where the log has it
}

// Accepted is when a Broker took an event.
type Accepted struct {
	Broker     string       `json:"broker"`
	ReceivedAt mesh.Instant `json:"received_at"`
}

// eventKey is what tells events apart.
type eventKey struct{ source, id string }

func (e *Event) key() eventKey { return eventKey{e.Source, e.ID} }

func (e *Event) cause() eventKey {
	return eventKey{e.Extensions[mesh.ExtCauseSource], e.Extensions[mesh.ExtCauseID]}
}

// at is when the first Broker took it.
func (e *Event) at() mesh.Instant { return e.Accepted[0].ReceivedAt }

// skew is how far the clocks of two machines may be apart.
const skew = mesh.Instant(time.Minute / time.Microsecond)

// window is a time in which Brokers accepted events; 0 is no bound.
type window struct{ from, to mesh.Instant }

// until is all that was accepted by the time a row was stored that came of it.
func until(recorded mesh.Instant) window { return window{to: recorded + skew} }

func (w window) String() string {
	bounds := []string{"TRUE"}
	if w.from != 0 {
		bounds = append(bounds, "received_at >= "+literal.Time(w.from))
	}
	if w.to != 0 {
		bounds = append(bounds, "received_at <= "+literal.Time(w.to))
	}
	return strings.Join(bounds, " AND ")
}

// eventLog reads event_log.events.
type eventLog struct{ w warehouse.Warehouse }

const logColumns = "source, event_id, type, subject, time, extensions, data_base64, data_bytes, broker, received_at"

// find gives the events accepted in a window for which a condition holds, the
// first first.
func (l eventLog) find(ctx context.Context, in window, withData bool, where string) ([]*Event, error) {
	columns := logColumns
	if withData {
		columns += ", data"
	}
	rows, err := query(ctx, l.w, fmt.Sprintf("SELECT %s FROM event_log.events WHERE %s AND %s ORDER BY received_at, broker", columns, in, where))
	if err != nil {
		return nil, err
	}
	var events []*Event
	known := map[eventKey]*Event{}
	for _, row := range rows {
		e := &Event{Source: row.Text("source"), ID: row.Text("event_id"), Type: row.Text("type"), Subject: row.Text("subject"), DataBytes: row.Int("data_bytes")}
		if at, ok := row["time"].(mesh.Instant); ok {
			e.Time = &at
		}
		if extensions, ok := row["extensions"].(json.RawMessage); ok {
			if err := json.Unmarshal(extensions, &e.Extensions); err != nil {
				return nil, fmt.Errorf("event %s %s: extensions: %w", e.Source, e.ID, err)
			}
		}
		e.data = []byte(row.Text("data"))
		if binary, _ := row["data_base64"].(bool); binary {
			if e.data, err = base64.StdEncoding.DecodeString(row.Text("data")); err != nil {
				return nil, fmt.Errorf("event %s %s: data: %w", e.Source, e.ID, err)
			}
		}
		if earlier := known[e.key()]; earlier != nil {
			e = earlier
		} else {
			known[e.key()] = e
			events = append(events, e)
		}
		e.Accepted = append(e.Accepted, Accepted{row.Text("broker"), row.Instant("received_at")})
	}
	return events, nil
}

// first gives the first event in the narrowest of some windows for which holds
// says yes; nil: there is none.
func (l eventLog) first(ctx context.Context, windows []window, where string, holds func(*Event) bool) (*Event, error) {
	for _, in := range windows {
		events, err := l.find(ctx, in, true, where)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if holds(e) {
				return e, nil
			}
		}
	}
	return nil, nil
}

// has is a condition on data that is JSON and has a string in it, true where
// that cannot be told from the bytes alone: there it may stand with escapes.
func has(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\<>&/`, r) }) {
		return "data IS NOT NULL"
	}
	return fmt.Sprintf("STRPOS(data, %s) > 0", literal.Text(`"`+s+`"`))
}

// query runs a statement and gives all its rows.
func query(ctx context.Context, w warehouse.Warehouse, sql string) ([]Row, error) {
	answer, err := w.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	var rows []Row
	for cells, err := range answer.All {
		if err != nil {
			return nil, err
		}
		row := Row{}
		for i, cell := range cells {
			column := answer.Columns[i]
			switch v := cell.(type) {
			case nil:
				continue
			case time.Time:
				cell = mesh.At(v)
			case string:
				if column.Type == contract.JSON {
					cell = json.RawMessage(v)
				}
			}
			row[column.Name] = cell
		}
		rows = append(rows, row)
	}
	return rows, nil
}
