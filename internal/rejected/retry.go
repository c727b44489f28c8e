package rejected

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Retry reads messages again, after a reader or a mapping was fixed: those that can
// be read go through the mesh as they were received. A message that is retried
// twice adds nothing the second time.
type Retry struct {
	Warehouse Reader
	Parser    *device.Parser
	Post      func(context.Context, event.Event) error // to the Broker of messages
	// Wait returns when missing gives 0, or when nothing more can come of what was
	// posted.
	Wait func(ctx context.Context, missing func() (int, error)) error
	Say  func([]*Attempt) // what became of some messages, in their order
}

// Result is what became of messages.
type Result struct {
	Messages   int
	Read       int // with all their readings stored
	Unreadable int
	Refused    int // that were no messages
	Incomplete int // read, and not all of their readings are stored
	Expected   int // readings
	Found      int // of them, rows
}

// Attempt is a message that is retried.
type Attempt struct {
	Message
	Cause string // why it is not read; empty: it is
	Found int    // of its readings, in the warehouse

	readings map[string][]mesh.Reading // by id; several where a message says several values at one instant
}

// Expected is how many readings the message gives.
func (a *Attempt) Expected() int { return len(a.readings) }

// Bounds of what is retried at once.
const (
	retryMessages = 2000
	retryReadings = 20_000
	retryBytes    = 4 << 20
)

// Run retries the messages of a selection.
func (r *Retry) Run(ctx context.Context, s Selection) (result Result, err error) {
	var (
		attempts        []*Attempt
		readings, bytes int
	)
	flush := func() error {
		err := r.again(ctx, attempts, &result)
		attempts, readings, bytes = attempts[:0], 0, 0
		return err
	}
	// In the order they came: some formats name in one message what others hold.
	for m, err := range Select(ctx, r.Warehouse, s, "received_at, source, message_id") {
		if err != nil {
			return result, err
		}
		a := &Attempt{Message: m}
		r.parse(a, &result)
		attempts, readings, bytes = append(attempts, a), readings+len(a.readings), bytes+len(a.Payload)
		if len(attempts) == retryMessages || readings >= retryReadings || bytes >= retryBytes {
			if err := flush(); err != nil {
				return result, err
			}
		}
	}
	return result, flush()
}

// parse reads a message as telemetry-flatten will.
func (r *Retry) parse(a *Attempt, result *Result) {
	result.Messages++
	if !a.IsMessage() {
		result.Refused++
		a.Cause = "not retried: " + a.WhyNotRetried()
		return
	}
	readings, _, err := r.Parser.Parse(nil, &a.Rejection.Message)
	if err != nil {
		result.Unreadable++
		now := device.Reject(a.Rejection.Message, err)
		a.Cause = Why(&now)
		return
	}
	a.readings = map[string][]mesh.Reading{}
	for _, reading := range readings {
		a.readings[reading.ReadingID] = append(a.readings[reading.ReadingID], reading)
	}
}

// again sends what can be read through the mesh, and says what became of it.
func (r *Retry) again(ctx context.Context, attempts []*Attempt, result *Result) error {
	if len(attempts) == 0 {
		return nil
	}
	var readable []*Attempt
	for _, a := range attempts {
		if a.Cause == "" {
			readable = append(readable, a)
		}
	}
	measuring := slices.DeleteFunc(slices.Clone(readable), func(a *Attempt) bool { return len(a.readings) == 0 })
	// Their rows are there once or not at all, whatever the event's id: with one
	// of its own, nobody takes it for an event that was handled before, when
	// fewer of its messages could be read.
	if _, err := r.inEvents(ctx, measuring, mesh.TelemetryReceived, func(some []*Attempt) []byte {
		messages := make([]mesh.Message, len(some))
		for i, a := range some {
			messages[i] = a.Rejection.Message
		}
		return mesh.EncodeMessages(messages)
	}); err != nil {
		return err
	}
	if len(measuring) > 0 {
		if err := r.Wait(ctx, func() (int, error) { return r.count(ctx, measuring) }); err != nil {
			return err
		}
	}

	var done []*Attempt
	for _, a := range readable {
		result.Expected += len(a.readings)
		result.Found += a.Found
		if a.Found < len(a.readings) {
			result.Incomplete++
			continue
		}
		result.Read++
		if a.Readings == nil || *a.Readings != int64(a.Found) {
			n := int64(a.Found)
			a.Readings = &n
			done = append(done, a)
		}
	}
	ids, err := r.inEvents(ctx, done, mesh.TelemetryRejected, func(some []*Attempt) []byte {
		rejections := make([]mesh.Rejection, len(some))
		for i, a := range some {
			rejections[i] = a.Rejection
		}
		return mesh.EncodeRejections(rejections)
	})
	if err != nil {
		return err
	}
	r.Say(attempts)
	if len(ids) == 0 {
		return nil
	}
	return r.Wait(ctx, func() (int, error) {
		stored, err := r.scalar(ctx, fmt.Sprintf("SELECT count(*) FROM %s WHERE event_source = %s AND event_id IN (%s)",
			table, literal.Text(retrySource), strings.Join(ids, ",")))
		return len(done) - int(stored), err
	})
}

var retrySource = mesh.Source("rejected-retry")

// inEvents posts what is made of the attempts, some in each event, and gives the
// ids of the events in SQL.
func (r *Retry) inEvents(ctx context.Context, attempts []*Attempt, eventType string, encode func([]*Attempt) []byte) (ids []string, err error) {
	const maxMessages, maxBytes = 500, 256 << 10 // as the sources have it
	for len(attempts) > 0 {
		n, size := 0, 0
		for n < len(attempts) && n < maxMessages && (n == 0 || size+len(attempts[n].Payload) <= maxBytes) {
			size += len(attempts[n].Payload)
			n++
		}
		e := mesh.NewEvent(eventType, retrySource, encode(attempts[:n]), eventType, attempts[0].Name, strconv.FormatInt(time.Now().UnixNano(), 10))
		if err := r.Post(ctx, e); err != nil {
			return nil, err
		}
		ids, attempts = append(ids, literal.Text(e.ID())), attempts[n:]
	}
	return ids, nil
}

// count counts the readings of the attempts that are stored, and gives how many
// are not. A reading is stored if a row of its key says the same, whichever
// message brought it.
func (r *Retry) count(ctx context.Context, attempts []*Attempt) (missing int, err error) {
	const most = 10_000 // ids in a statement
	stored := map[string][]string{}
	var ids []string
	ask := func() error {
		rows, err := r.Warehouse.Query(ctx, "SELECT reading_id, value, value_string, value_bool FROM iot_telemetry_internal.readings WHERE reading_id IN ("+strings.Join(ids, ",")+")")
		if err != nil {
			return err
		}
		for row, err := range rows.All {
			if err != nil {
				return err
			}
			id, _ := row[0].(string)
			stored[id] = append(stored[id], fmt.Sprint(row[1:]...))
		}
		ids = ids[:0]
		return nil
	}
	for _, a := range attempts {
		for id := range a.readings {
			if ids = append(ids, literal.Text(id)); len(ids) == most {
				if err := ask(); err != nil {
					return 0, err
				}
			}
		}
	}
	if len(ids) > 0 {
		if err := ask(); err != nil {
			return 0, err
		}
	}
	for _, a := range attempts {
		a.Found = 0
		for id, readings := range a.readings {
			if slices.ContainsFunc(readings, func(reading mesh.Reading) bool { return slices.Contains(stored[id], said(&reading)) }) {
				a.Found++
			}
		}
		missing += len(a.readings) - a.Found
	}
	return missing, nil
}

// said is what a row of a reading says, as count reads it.
func said(r *mesh.Reading) string {
	var value, valueString, valueBool any
	if r.ValueString != "" || r.Kind == mesh.Text {
		valueString = r.ValueString
	}
	if r.Kind != mesh.Text {
		value = r.Value
	}
	if r.Kind == mesh.Boolean {
		valueBool = r.Value != 0
	}
	return fmt.Sprint(value, valueString, valueBool)
}

func (r *Retry) scalar(ctx context.Context, sql string) (n int64, err error) {
	rows, err := r.Warehouse.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	for row, err := range rows.All {
		if err != nil {
			return 0, err
		}
		n, _ = row[0].(int64)
	}
	return n, nil
}
