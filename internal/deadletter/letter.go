// Package deadletter keeps what Triggers could not deliver, in two tables of the
// warehouse: the events with their causes (event_log_internal.dead_letters), and
// what became of each since (event_log_internal.dead_letter_outcomes). Nothing in
// them is changed: a letter is open unless it was redriven or discarded after it
// was recorded.
package deadletter

import (
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/mesh"
	w "github.com/telemesh/telemesh/internal/warehouse"
)

// The extensions by which a Broker says how it failed to deliver an event.
// knative.dev/eventing/pkg/kncloudevents/attributes. It leaves them out where it
// does not know: when an attempt ended without an answer, or with one that is
// neither empty nor an event.
const (
	extDestination = "knativeerrordest"
	extCode        = "knativeerrorcode"
	extData        = "knativeerrordata"
)

// Letter is an event that a Trigger could not deliver.
type Letter struct {
	ID          string
	Namespace   string // of the Trigger, or of the Broker; empty: nobody said
	Trigger     string // empty: one without a dead letter sink of its own
	Destination string // that failed; empty: the Broker did not say
	Status      int64  // of HTTP, that it answered; 0: the Broker did not say
	Cause       string // the beginning of its answer
	Event       event.Event
	Size        int64        // bytes of data that the event has, read or not
	ReceivedAt  mesh.Instant // by the Broker
	RecordedAt  mesh.Instant // here; 0: it is not yet
}

// New reads a dead letter as a Broker sends it to path, /NAMESPACE/TRIGGER or
// /NAMESPACE. It shares the data with the event, which may be large.
func New(in event.Event, path string, now time.Time) Letter {
	l := Letter{Event: in, Size: int64(len(in.Data())), ReceivedAt: mesh.At(now)}
	l.Event.Context = in.Context.Clone()
	l.Namespace, l.Trigger, _ = strings.Cut(strings.Trim(path, "/"), "/")
	take := func(name string) string {
		text, err := types.Format(l.Event.Extensions()[name])
		l.Event.SetExtension(name, nil)
		if err != nil {
			return ""
		}
		return text
	}
	l.Destination = take(extDestination)
	if code, err := types.ParseInteger(take(extCode)); err == nil {
		l.Status = int64(code)
	}
	l.Cause = decodeCause(take(extData))
	arrival := ""
	if value, ok := in.Extensions()[eventlog.ExtArrival]; ok {
		if at, err := types.ToTime(value); err == nil && now.Sub(at) < oldest && at.Sub(now) < newest {
			l.ReceivedAt, arrival = mesh.At(at), types.FormatTime(at)
		}
	}
	l.ID = mesh.Hash(l.Namespace, l.Trigger, in.Source(), in.ID(), arrival)
	return l
}

// An instant of arrival that is older or newer than this is none: the row would
// be dropped at once, or refused.
const (
	oldest = 14 * 24 * time.Hour
	newest = 24 * time.Hour
)

// decodeCause reads the base64 of which a Broker keeps 1024 bytes, which cuts a
// character of four.
func decodeCause(text string) string {
	whole := len(text) / 4 * 4
	data, err := base64.StdEncoding.DecodeString(text[:whole])
	if err != nil {
		return strings.ToValidUTF8(text, "�")
	}
	for cut := 0; cut < utf8.UTFMax && !utf8.Valid(data); cut++ {
		if r, size := utf8.DecodeLastRune(data); r != utf8.RuneError || size != 1 {
			break
		}
		data = data[:len(data)-1]
	}
	return strings.ToValidUTF8(string(data), "�")
}

// partBytes bounds the data of a part: BigQuery takes no row beyond 10 MB. It is
// a multiple of three, so that the base64 of parts is that of the whole.
const partBytes = 3 << 19

// rows gives the rows of a letter.
func (l *Letter) rows() ([]w.Row, error) {
	base, err := eventlog.NewRow(&l.Event)
	if err != nil {
		return nil, err
	}
	data := l.Event.Data()
	binary := !utf8.Valid(data)
	var rows []w.Row
	for part := int64(0); part == 0 || len(data) > 0; part++ {
		n := min(len(data), partBytes)
		for !binary && n < len(data) && !utf8.RuneStart(data[n]) {
			n--
		}
		row := &row{letter: l, part: part, event: base}
		row.event.KeepPart(data[:n], binary)
		rows = append(rows, row)
		data = data[n:]
	}
	return rows, nil
}

// row is a row of dead_letters.
type row struct {
	letter *Letter
	part   int64
	event  eventlog.Row
}

func (r *row) Cells(dst []w.Cell) []w.Cell {
	l := r.letter
	dst = append(dst,
		w.String(l.ID),
		w.Int(r.part),
		w.Optional(l.Namespace),
		w.Optional(l.Trigger),
		w.Optional(l.Destination),
		optionalInt(l.Status),
		w.Optional(l.Cause),
	)
	return append(r.event.Cells(dst),
		w.Instant(l.ReceivedAt),
		w.Null, // recorded_at
	)
}

func optionalInt(i int64) w.Cell {
	if i == 0 {
		return w.Null
	}
	return w.Int(i)
}

// What became of a letter, or of a request for it.
const (
	Redriven  = "redriven"
	Failed    = "failed"
	Discarded = "discarded"
	Closed    = "closed" // nothing was done: it was redriven or discarded before
)

// Outcome is what became of a letter.
type Outcome struct {
	LetterID      string
	Outcome       string // of those above
	Destination   string // that failed; empty: none
	Status        int64  // that it answered; 0: none
	Cause         string
	RequestSource string // of the event that asked for it
	RequestID     string
	DoneAt        mesh.Instant
}

func (o *Outcome) Cells(dst []w.Cell) []w.Cell {
	return append(dst,
		w.String(o.LetterID),
		w.String(o.Outcome),
		w.Optional(o.Destination),
		optionalInt(o.Status),
		w.Optional(o.Cause),
		w.String(o.RequestSource),
		w.String(o.RequestID),
		w.Instant(o.DoneAt),
		w.Null, // recorded_at
	)
}
