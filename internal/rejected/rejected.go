// Package rejected is the messages that could not be read, as the warehouse keeps
// them (iot_telemetry_internal.rejected), and how they are read again.
package rejected

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Reader answers SQL, as a warehouse does.
type Reader interface {
	Query(ctx context.Context, sql string) (*warehouse.Rows, error)
}

const table = "iot_telemetry_internal.rejected"

// SQL begins a statement on messages, in SQL that both warehouses know: these are
// those that something was found about, each with the latest of it.
const SQL = `WITH messages AS (
	SELECT received_at, source, message_id, device_id, format, content_type, attributes, payload, payload_base64, reader, position, cause,
		FIRST_VALUE(event_source) OVER (PARTITION BY received_at, source, message_id, device_id, format, content_type, payload ORDER BY recorded_at) AS refused_by,
		LAST_VALUE(readings IGNORE NULLS) OVER (PARTITION BY received_at, source, message_id, device_id, format, content_type, payload
			ORDER BY recorded_at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS readings
	FROM ` + table + `
	QUALIFY ROW_NUMBER() OVER (PARTITION BY received_at, source, message_id, device_id, format, content_type, payload ORDER BY recorded_at DESC) = 1
)
`

// Key is the key of a message in its contract.
type Key struct {
	ReceivedAt mesh.Instant
	Source, ID string
}

// KeyOf reads the columns that messages begin with.
func KeyOf(row []any) (k Key) {
	if at, ok := row[0].(time.Time); ok {
		k.ReceivedAt = mesh.At(at)
	}
	k.Source, _ = row[1].(string)
	k.ID, _ = row[2].(string)
	return k
}

// Name is the id of the message, 32 hexadecimal digits: the warehouses have no hash
// of one notation, so it is made here.
func (k Key) Name() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s", k.ReceivedAt, k.Source, k.ID))
	return hex.EncodeToString(sum[:16])
}

func (k Key) condition() string {
	return fmt.Sprintf("(received_at = %s AND source = %s AND message_id = %s)", literal.Time(k.ReceivedAt), literal.Text(k.Source), literal.Text(k.ID))
}

// Message is a row of messages.
type Message struct {
	Name string // Key.Name
	mesh.Rejection
	RefusedBy string // source of the event that reported it first
}

// Read reads a row of messages.
func Read(row []any) (m Message, err error) {
	text := func(i int) string { s, _ := row[i].(string); return s }
	key := KeyOf(row)
	m.Name, m.ReceivedAt, m.Source, m.ID = key.Name(), key.ReceivedAt, key.Source, key.ID
	m.DeviceID, m.Format, m.ContentType = text(3), text(4), text(5)
	if s := text(6); s != "" {
		if err := json.Unmarshal([]byte(s), &m.Attributes); err != nil {
			return m, fmt.Errorf("rejected message %s: attributes: %w", m.Name, err)
		}
	}
	m.Payload = []byte(text(7))
	if binary, _ := row[8].(bool); binary {
		if m.Payload, err = base64.StdEncoding.DecodeString(text(7)); err != nil {
			return m, fmt.Errorf("rejected message %s: payload: %w", m.Name, err)
		}
	}
	m.Reader, m.Cause, m.RefusedBy = text(9), text(11), text(12)
	if position, ok := row[10].(int64); ok {
		m.Position = mesh.PositionAt(int(position))
	}
	if readings, ok := row[13].(int64); ok {
		m.Readings = &readings
	}
	return m, nil
}

// Select yields messages, in an order of their columns.
func Select(ctx context.Context, w Reader, s Selection, order string) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		rows, err := w.Query(ctx, SQL+"SELECT * FROM messages WHERE "+s.Where()+" ORDER BY "+order)
		if err != nil {
			yield(Message{}, err)
			return
		}
		for row, err := range rows.All {
			var m Message
			if err == nil {
				m, err = Read(row)
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Found is what was found about a message once.
type Found struct {
	At          mesh.Instant
	Cause       string
	Readings    int64 // that it gave; -1: it was not read
	EventSource string
	EventID     string
}

// History gives what was found about a message, one after the other.
func History(ctx context.Context, w Reader, k Key) (all []Found, err error) {
	rows, err := w.Query(ctx, "SELECT recorded_at, cause, readings, event_source, event_id FROM "+table+" WHERE "+k.condition()+" ORDER BY recorded_at")
	if err != nil {
		return nil, err
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		f := Found{Readings: -1}
		if at, ok := row[0].(time.Time); ok {
			f.At = mesh.At(at)
		}
		f.Cause, _ = row[1].(string)
		if n, ok := row[2].(int64); ok {
			f.Readings = n
		}
		f.EventSource, _ = row[3].(string)
		f.EventID, _ = row[4].(string)
		all = append(all, f)
	}
	return all, nil
}

// IsMessage says whether it was a device's message when it was rejected.
// Sources refuse what is none: a broken CloudEvent, with all that is around the
// message.
func (m *Message) IsMessage() bool { return m.RefusedBy == mesh.Source("telemetry-flatten") }

// WhyNotRetried says why what is no message is not retried.
func (m *Message) WhyNotRetried() string {
	return fmt.Sprintf("%s refused it before it was a message: it is kept as it came in; its sender has to send it right",
		strings.TrimPrefix(m.RefusedBy, mesh.Source("")))
}

// Why is the cause of a rejection with its place.
func Why(r *mesh.Rejection) string {
	var at []string
	if r.Reader != "" {
		at = append(at, r.Reader)
	}
	if offset := r.Position.Offset(); offset >= 0 {
		at = append(at, fmt.Sprintf("byte %d", offset))
	}
	if len(at) == 0 {
		return r.Cause
	}
	return strings.Join(at, ", ") + ": " + r.Cause
}

// Selection says which messages are meant.
type Selection struct {
	Keys   []Key  // these, whatever else is said
	Cause  string // has this in it; * stands for anything
	Is     string // the cause, all of it
	Reader string // "-": none
	Device string // "-": the transport named none
	All    bool   // those that were read after all, too
}

// Filtered says whether it chooses by what messages have.
func (s *Selection) Filtered() bool {
	return s.Cause != "" || s.Is != "" || s.Reader != "" || s.Device != ""
}

// Where is the condition on messages.
func (s *Selection) Where() string {
	conditions := []string{"true"}
	if len(s.Keys) > 0 {
		var keys []string
		for _, k := range s.Keys {
			keys = append(keys, k.condition())
		}
		return "(" + strings.Join(keys, " OR ") + ")"
	}
	if !s.All {
		conditions = append(conditions, "readings IS NULL")
	}
	if s.Is != "" {
		conditions = append(conditions, "cause = "+literal.Text(s.Is))
	}
	if s.Cause != "" {
		// The dialects escape differently in a pattern: what would need it is made
		// other characters on both sides, of those that nobody uses.
		const special, instead = `\%_`, "\ue000\ue001\ue002"
		pattern := strings.NewReplacer(`\`, "\ue000", `%`, "\ue001", `_`, "\ue002", `*`, `%`).Replace(s.Cause)
		conditions = append(conditions, fmt.Sprintf("TRANSLATE(LOWER(cause), %s, %s) LIKE LOWER(%s)",
			literal.Text(special), literal.Text(instead), literal.Text("%"+pattern+"%")))
	}
	for column, value := range map[string]string{"reader": s.Reader, "device_id": s.Device} {
		switch value {
		case "":
		case "-":
			conditions = append(conditions, column+" IS NULL")
		default:
			conditions = append(conditions, column+" = "+literal.Text(value))
		}
	}
	return strings.Join(conditions, " AND ")
}

var hexID = regexp.MustCompile(`^[0-9a-f]{4,32}$`)

// UnknownError says that a name, or the begin of one, is not that of one message.
type UnknownError struct {
	Name    string
	Matches int // messages that it may be; 0: none
}

func (e *UnknownError) Error() string {
	if e.Matches == 0 {
		return fmt.Sprintf("no rejected message %q", e.Name)
	}
	return fmt.Sprintf("%d rejected messages have an id that begins with %q", e.Matches, e.Name)
}

// Keys gives the messages whose names begin with some. The error is an
// *UnknownError where one of these names no message, or more than one.
func Keys(ctx context.Context, w Reader, names []string) ([]Key, error) {
	if len(names) == 0 {
		return nil, nil
	}
	rows, err := w.Query(ctx, "SELECT DISTINCT received_at, source, message_id FROM "+table)
	if err != nil {
		return nil, err
	}
	keys, found := make([]Key, len(names)), make([]int, len(names))
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		key := KeyOf(row)
		whole := key.Name()
		for i, name := range names {
			if hexID.MatchString(name) && strings.HasPrefix(whole, name) {
				keys[i] = key
				found[i]++
			}
		}
	}
	for i, name := range names {
		if found[i] != 1 {
			return nil, &UnknownError{name, found[i]}
		}
	}
	return keys, nil
}

// IsUnknown says whether err is an UnknownError.
func IsUnknown(err error) bool { return errors.As(err, new(*UnknownError)) }
