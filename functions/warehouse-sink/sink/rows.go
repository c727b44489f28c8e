package sink

import (
	"encoding/base64"
	"encoding/json"
	"unicode/utf8"

	w "github.com/telemesh/telemesh/internal/warehouse"

	"github.com/telemesh/telemesh/internal/mesh"
)

// The rows give their cells in the order of the contracts in products/, which
// a test compares. recorded_at is the store's.

type reading mesh.Reading

func (r *reading) Cells(dst []w.Cell) []w.Cell {
	value, valueString, valueBool, judged := w.Null, w.Optional(r.ValueString), w.Null, w.Null
	if r.Judged != 0 {
		judged = w.Int(r.Judged)
	}
	switch r.Kind {
	case mesh.Number:
		value = w.Float(r.Value)
	case mesh.Boolean:
		value, valueBool = w.Float(r.Value), w.Bool(r.Value != 0)
	case mesh.Text:
		valueString = w.String(r.ValueString)
	}
	return append(dst,
		w.String(r.ReadingID),
		w.Optional(r.TenantID),
		w.String(r.DeviceID),
		w.String(r.Metric),
		value,
		valueString,
		valueBool,
		w.Optional(r.Unit),
		w.Instant(r.ObservedAt),
		w.Instant(r.ReceivedAt),
		w.Null, // recorded_at
		w.Int(r.Revision),
		w.Int(r.AssignmentVersion),
		w.Optional(r.Quality),
		judged,
		w.Optional(r.EventSource),
		w.Optional(r.EventID),
		w.Optional(r.Attributes),
	)
}

type joined mesh.JoinedReading

func (r *joined) Cells(dst []w.Cell) []w.Cell {
	dst = append((*reading)(&r.Reading).Cells(dst),
		w.Optional(r.Building),
		w.Optional(r.Floor),
		w.Optional(r.Room),
		optionalInt(r.Persons),
		optionalFloat(r.OutsideCO2),
		w.Optional(r.CustomerName),
	)
	if r.LastAction == "" {
		dst = append(dst, w.Null, w.Null, w.Null)
	} else {
		dst = append(dst,
			w.String(r.LastAction),
			w.Instant(r.LastActionAt),
			w.Float((*mesh.JoinedReading)(r).MinutesSinceAction()),
		)
	}
	return append(dst,
		w.Int(r.JoinVersion),
		w.Bool(r.TenantID == ""), // deleted: withdrawn
	)
}

type rejection struct {
	*mesh.Rejection
	eventSource, eventID string
}

func (r rejection) Cells(dst []w.Cell) []w.Cell {
	attributes := w.Null
	if len(r.Attributes) > 0 {
		b, err := json.Marshal(r.Attributes)
		if err == nil { // a map of strings always is JSON
			attributes = w.String(string(b))
		}
	}
	payload, binary := string(r.Payload), !utf8.Valid(r.Payload)
	if binary {
		payload = base64.StdEncoding.EncodeToString(r.Payload)
	}
	position := w.Null
	if offset := r.Position.Offset(); offset >= 0 {
		position = w.Int(int64(offset))
	}
	return append(dst,
		w.String(r.ID),
		w.String(r.Source),
		w.Optional(r.DeviceID),
		w.Optional(r.Format),
		w.Optional(r.ContentType),
		w.Instant(r.ReceivedAt),
		w.Null, // recorded_at
		w.String(r.Cause),
		w.String(payload),
		w.Bool(binary),
		attributes,
		w.Optional(r.eventSource),
		w.Optional(r.eventID),
		w.Optional(r.Reader),
		position,
		optionalInt(r.Readings),
	)
}

type placement mesh.Placement

func (p *placement) Cells(dst []w.Cell) []w.Cell {
	validTo := w.Null
	if p.ValidTo != nil {
		validTo = w.Instant(*p.ValidTo)
	}
	return append(dst,
		w.String(p.DeviceID),
		w.String(p.TenantID),
		w.Optional(p.Building),
		w.Optional(p.Floor),
		w.Optional(p.Room),
		optionalInt(p.Persons),
		optionalFloat(p.OutsideCO2),
		w.Instant(p.ValidFrom),
		validTo,
		w.Int(p.Version),
		w.Bool(p.Deleted),
	)
}

type action mesh.Action

func (a *action) Cells(dst []w.Cell) []w.Cell {
	return append(dst,
		w.String(a.ActionID),
		w.Optional(a.TenantID),
		w.Optional(a.DeviceID),
		w.Optional(a.Building),
		w.Optional(a.Room),
		w.String(a.Action),
		w.Instant(a.TakenAt),
		w.Null, // recorded_at
		w.Int(a.Version),
		w.Bool(a.Deleted),
	)
}

type customer mesh.Customer

func (c *customer) Cells(dst []w.Cell) []w.Cell {
	return append(dst,
		w.String(c.CustomerID),
		w.String(c.Name),
		w.Optional(c.Sector),
		w.Optional(c.Country),
		w.Int(c.Version),
		w.Bool(c.Deleted),
	)
}

type rejectedRow mesh.RejectedRow

func (r *rejectedRow) Cells(dst []w.Cell) []w.Cell {
	return append(dst,
		w.String(r.Sheet),
		w.Int(r.Row),
		w.String(r.Column), // of the key, so never NULL
		w.String(r.Reason),
		w.String(string(r.Severity)),
		w.Int(r.Version),
		w.Bool(r.Deleted),
	)
}

func optionalInt(i *int64) w.Cell {
	if i == nil {
		return w.Null
	}
	return w.Int(*i)
}

func optionalFloat(f *float64) w.Cell {
	if f == nil {
		return w.Null
	}
	return w.Float(*f)
}
