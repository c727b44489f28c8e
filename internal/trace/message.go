package trace

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Message is a message that brought the reading.
type Message struct {
	Source     string       `json:"event_source"`
	ID         string       `json:"event_id"`
	ReceivedAt mesh.Instant `json:"received_at"`

	// In is the event that it came in; nil: the log has it no more, and with it
	// all below.
	In          *Event            `json:"in"`
	DeviceID    string            `json:"device_id,omitempty"` // where the transport named it
	Format      string            `json:"format,omitempty"`    // where the transport named it
	ContentType string            `json:"content_type,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	Bytes       int               `json:"bytes"`
	Text        string            `json:"payload,omitempty"`        // the bytes, where they are UTF-8
	Binary      []byte            `json:"payload_base64,omitempty"` // where they are not
	Decoded     *Decoded          `json:"decoded,omitempty"`
}

// Payload gives the bytes as they were received.
func (m *Message) Payload() []byte { return append([]byte(m.Text), m.Binary...) }

// Brought says whether a row of readings came by the message.
func (m *Message) Brought(r Row) bool {
	return r.Text("event_source") == m.Source && r.Text("event_id") == m.ID && r.Instant("received_at") == m.ReceivedAt
}

// Decoded is what a message gives when it is read now.
type Decoded struct {
	Formats  []string `json:"formats"` // what read it, and what the messages packed in it
	Readings int      `json:"readings"`
	Found    []Row    `json:"found"`           // of the reading, the columns that a message gives
	Error    string   `json:"error,omitempty"` // why it cannot be read any more
	Again    bool     `json:"again"`           // it gives the rows that are stored of it again
}

// nearby is how long after a message was received its event is looked for
// first.
const nearby = mesh.Instant(10 * time.Minute / time.Microsecond)

// messages finds what the rows came in, and reads it again.
func (s *Story) messages(ctx context.Context, log eventLog, parser *device.Parser) error {
	s.Messages = []Message{}
	rows := map[int][]Row{} // by message
	for _, port := range s.Ports {
		for _, r := range port.Revisions {
			i := slices.IndexFunc(s.Messages, func(m Message) bool { return m.Brought(r.Row) })
			if i < 0 {
				i = len(s.Messages)
				s.Messages = append(s.Messages, Message{Source: r.Row.Text("event_source"), ID: r.Row.Text("event_id"), ReceivedAt: r.Row.Instant("received_at")})
			}
			rows[i] = append(rows[i], r.Row)
		}
	}
	for i := range s.Messages {
		m := &s.Messages[i]
		stored := rows[i][0].Instant(contract.RecordedAt) // the first of a port comes first
		var found mesh.Message
		var err error
		m.In, err = log.first(ctx, []window{
			{m.ReceivedAt - skew, m.ReceivedAt + nearby},
			{m.ReceivedAt - skew, stored + skew},
			until(stored),
		}, "type = "+literal.Text(mesh.TelemetryReceived)+" AND "+has(m.ID), func(e *Event) bool {
			all, err := mesh.DecodeMessages(e.data)
			if err != nil {
				return false // telemetry-flatten refused it
			}
			i := slices.IndexFunc(all, func(other mesh.Message) bool {
				return other.Source == m.Source && other.ID == m.ID && other.ReceivedAt == m.ReceivedAt
			})
			if i >= 0 {
				found = all[i]
			}
			return i >= 0
		})
		if err != nil {
			return err
		}
		if m.In == nil {
			continue
		}
		m.DeviceID, m.Format, m.ContentType, m.Attributes, m.Bytes = found.DeviceID, found.Format, found.ContentType, found.Attributes, len(found.Payload)
		if utf8.Valid(found.Payload) {
			m.Text = string(found.Payload)
		} else {
			m.Binary = found.Payload
		}
		m.Decoded = s.decode(parser, &found, rows[i])
	}
	slices.SortStableFunc(s.Messages, func(a, b Message) int { return cmp.Compare(a.ReceivedAt, b.ReceivedAt) })
	return nil
}

// decode reads a message as telemetry-flatten does. stored is what it gave.
func (s *Story) decode(parser *device.Parser, m *mesh.Message, stored []Row) *Decoded {
	readings, _, err := parser.Parse(nil, m)
	d := &Decoded{Formats: parser.Formats(), Readings: len(readings), Found: []Row{}}
	if err != nil {
		d.Error = err.Error()
		return d
	}
	for i := range readings {
		if readings[i].ReadingID == s.ReadingID {
			d.Found = append(d.Found, measured(&readings[i]))
		}
	}
	d.Again = !slices.ContainsFunc(stored, func(row Row) bool {
		// A judgement is of a message, and says more.
		return row.Int("judged") == 0 && !slices.ContainsFunc(d.Found, func(found Row) bool {
			return compare(row, found, "value", "value_string", "value_bool", "unit", "quality") == 0
		})
	})
	return d
}

// measured gives the columns of a reading that its message gives.
func measured(r *mesh.Reading) Row {
	row := Row{}
	if r.Kind != mesh.Text {
		row["value"] = r.Value
	}
	if r.Kind == mesh.Text || r.ValueString != "" {
		row["value_string"] = r.ValueString
	}
	if r.Kind == mesh.Boolean {
		row["value_bool"] = r.Value != 0
	}
	for column, text := range map[string]string{"unit": r.Unit, "quality": r.Quality} {
		if text != "" {
			row[column] = text
		}
	}
	return row
}

// Summary says in words what reading a message again gives.
func (d *Decoded) Summary() string {
	switch {
	case d.Error != "":
		return "it is rejected now: " + d.Error
	case len(d.Found) == 0:
		return fmt.Sprintf("%d readings, this one not among them any more", d.Readings)
	case !d.Again:
		return fmt.Sprintf("%d readings; this one says something else than what is stored", d.Readings)
	}
	return fmt.Sprintf("%d readings; this one gives the stored row again", d.Readings)
}
