package prove

import (
	"context"
	"encoding/base64"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Messages adds to the report that the stored readings are those of the
// messages: each message of the event log is read again, and each reading of it
// has to be stored, with its value, and nothing else of that message. What was
// rejected and not retried is left out, and so is a row of whose message the log
// knows nothing.
//
// It holds 8 bytes in memory for each stored row, twice, and for each message.
func Messages(ctx context.Context, w warehouse.Warehouse, parser *device.Parser, r *Report) error {
	m := &messages{ctx: ctx, w: w, check: Check{Name: "messages", Says: "the stored readings are those of the messages that the event log holds, byte for byte, read again"}}
	for _, step := range []func() error{m.stored, m.rejected, func() error { return m.read(parser) }, m.invented} {
		if err := step(); err != nil {
			return fmt.Errorf("prove by the messages: %w", err)
		}
	}
	r.Checks = append(r.Checks, m.check)
	r.Holds = r.Holds && m.check.Different == 0
	return nil
}

type messages struct {
	ctx   context.Context
	w     warehouse.Warehouse
	check Check

	rows    hashes              // what is stored
	refused map[uint64]struct{} // messages that were rejected
	logged  hashes              // messages of the log
	told    hashes              // what they say
}

// seed is that of all hashes of a process: two rows that differ have the same
// one once in 2^64.
var seed = maphash.MakeSeed()

// hashes is a set, once it is sealed.
type hashes []uint64

func (h *hashes) seal() {
	slices.Sort(*h)
	*h = slices.Compact(*h)
}

func (h hashes) has(x uint64) bool {
	_, ok := slices.BinarySearch(h, x)
	return ok
}

func hashOf(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range parts {
		maphash.WriteComparable(&h, len(part))
		h.WriteString(part)
	}
	return h.Sum64()
}

// content names what was measured: a reading and its value.
func content(id, device, metric string, at mesh.Instant, value *float64, text string) uint64 {
	number := "none"
	if value != nil {
		number = fmt.Sprint(math.Float64bits(*value))
	}
	return hashOf(id, device, metric, fmt.Sprint(int64(at)), number, text)
}

const storedSQL = `SELECT reading_id, device_id, metric, observed_at, value, value_string, event_source, event_id FROM iot_telemetry_internal.readings`

// contentOf is content of a row of storedSQL.
func contentOf(row []any) uint64 {
	var value *float64
	if v, ok := row[4].(float64); ok {
		value = &v
	}
	text, _ := row[5].(string)
	return content(row[0].(string), row[1].(string), row[2].(string), mesh.At(row[3].(time.Time)), value, text)
}

func (m *messages) stored() error {
	err := query(m.ctx, m.w, storedSQL, func(row []any) error {
		m.rows = append(m.rows, contentOf(row))
		return nil
	})
	m.rows.seal()
	return err
}

func (m *messages) rejected() error {
	m.refused = map[uint64]struct{}{}
	return query(m.ctx, m.w, `SELECT source, message_id FROM iot_telemetry_internal.rejected GROUP BY source, message_id HAVING count(readings) = 0`, func(row []any) error {
		m.refused[hashOf(row[0].(string), row[1].(string))] = struct{}{}
		return nil
	})
}

func (m *messages) read(parser *device.Parser) error {
	var readings []mesh.Reading
	err := query(m.ctx, m.w, `SELECT data, data_base64, event_id FROM event_log.events WHERE type = '`+mesh.TelemetryReceived+`' AND data IS NOT NULL`, func(row []any) error {
		data := []byte(row[0].(string))
		if encoded, _ := row[1].(bool); encoded {
			var err error
			if data, err = base64.StdEncoding.DecodeString(string(data)); err != nil {
				return fmt.Errorf("event %s of the log: %w", row[2], err)
			}
		}
		received, err := mesh.DecodeMessages(data)
		if err != nil {
			return nil // a dead letter: nobody could read it
		}
		for i := range received {
			message := &received[i]
			name := hashOf(message.Source, message.ID)
			if _, ok := m.refused[name]; ok {
				continue
			}
			m.logged = append(m.logged, name)
			if readings, _, err = parser.Parse(readings[:0], message); err != nil {
				continue
			}
			for j := range readings {
				m.check.Rows++
				r := &readings[j]
				value := &r.Value
				if r.Kind == mesh.Text {
					value = nil
				}
				x := content(r.ReadingID, r.DeviceID, r.Metric, r.ObservedAt, value, r.ValueString)
				m.told = append(m.told, x)
				if !m.rows.has(x) {
					m.check.differ("expected", map[string]string{
						"reading_id": r.ReadingID, "device_id": r.DeviceID, "metric": r.Metric, "observed_at": r.ObservedAt.String(),
						"value": fmt.Sprint(r.Value), "event_source": message.Source, "event_id": message.ID,
					})
				}
			}
		}
		return nil
	})
	m.logged.seal()
	m.told.seal()
	return err
}

// invented looks for rows that their message does not say.
func (m *messages) invented() error {
	return query(m.ctx, m.w, storedSQL, func(row []any) error {
		source, _ := row[6].(string)
		id, _ := row[7].(string)
		if m.told.has(contentOf(row)) || !m.logged.has(hashOf(source, id)) {
			return nil
		}
		m.check.differ("found", map[string]string{
			"reading_id": row[0].(string), "device_id": row[1].(string), "metric": row[2].(string),
			"observed_at": mesh.At(row[3].(time.Time)).String(), "value": text(row[4]), "event_source": source, "event_id": id,
		})
		return nil
	})
}
