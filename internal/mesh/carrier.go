package mesh

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ContentCarrier is the datacontenttype of a carrier: an event whose data are
// events of its own type, as an array of the JSON format. It is the micro-batch
// of what is no device message. It is not application/cloudevents-batch+json,
// though its data have that form: as the Content-Type of an event in binary mode
// that says that the request is many events, which Brokers refuse.
const ContentCarrier = "application/vnd.telemesh.events+json"

// Carry makes one event of events of a type: a carrier of them, whose id is a hash
// of theirs, or of a single one that event itself. It fails for none, for one of
// another type and for one that is no CloudEvent.
func Carry(eventType, source string, events []event.Event) (event.Event, error) {
	size, id := 2, make([]string, 0, 2*len(events))
	for i := range events {
		e := &events[i]
		if err := e.Validate(); err != nil {
			return event.Event{}, fmt.Errorf("carry event %d: %w", i, err)
		}
		if e.Type() != eventType {
			return event.Event{}, fmt.Errorf("carry event %d: it is %s, not %s", i, e.Type(), eventType)
		}
		size += len(e.Data()) + 256
		id = append(id, e.Source(), e.ID())
	}
	switch len(events) {
	case 0:
		return event.Event{}, fmt.Errorf("carry events of %s: there is none", eventType)
	case 1:
		return events[0], nil
	}
	data := append(make([]byte, 0, size), '[')
	for i := range events {
		var err error
		if data, err = appendEvent(append(data, '\n'), &events[i]); err != nil {
			return event.Event{}, fmt.Errorf("carry event %d: %w", i, err)
		}
		data = append(data, ',')
	}
	data[len(data)-1] = '\n'
	out := NewEvent(eventType, source, append(data, ']'), id...)
	out.SetDataContentType(ContentCarrier)
	return out, nil
}

// Carried gives the events that e carries, or e itself if it is no carrier. One
// that is no CloudEvent, or of another type than e, is an error: Triggers and
// policies saw the type of e alone.
func Carried(e event.Event) ([]event.Event, error) {
	if e.DataContentType() != ContentCarrier {
		return []event.Event{e}, nil
	}
	var texts []jsontext.Value
	if err := json.Unmarshal(e.Data(), &texts, lenient...); err != nil {
		return nil, fmt.Errorf("read carrier: %w", err)
	}
	if len(texts) == 0 {
		return nil, errors.New("read carrier: it carries no event")
	}
	out := make([]event.Event, len(texts))
	for i, text := range texts {
		carried, err := ParseEvent(text)
		if err == nil {
			err = carried.Validate()
		}
		if err == nil && carried.Type() != e.Type() {
			err = fmt.Errorf("it is %s, the carrier is %s", carried.Type(), e.Type())
		}
		if err != nil {
			return nil, fmt.Errorf("read carrier: event %d: %w", i, err)
		}
		out[i] = *carried
	}
	return out, nil
}

// appendEvent appends e in the JSON format. Data that are JSON stand in it byte
// for byte, any other as base64, and so does null, which is no data there.
func appendEvent(b []byte, e *event.Event) ([]byte, error) {
	b = appendString(append(b, `{"specversion":`...), e.SpecVersion())
	b = appendMember(b, `,"id":`, e.ID())
	b = appendMember(b, `,"source":`, e.Source())
	b = appendMember(b, `,"type":`, e.Type())
	b = appendMember(b, `,"datacontenttype":`, e.DataContentType())
	b = appendMember(b, `,"dataschema":`, e.DataSchema())
	b = appendMember(b, `,"subject":`, e.Subject())
	if at := e.Time(); !at.IsZero() {
		b = appendMember(b, `,"time":`, types.FormatTime(at))
	}
	extensions := e.Extensions()
	for _, name := range slices.Sorted(maps.Keys(extensions)) {
		b = append(appendString(append(b, ','), name), ':')
		switch value := extensions[name].(type) {
		case bool:
			b = strconv.AppendBool(b, value)
		case int32:
			b = strconv.AppendInt(b, int64(value), 10)
		default:
			text, err := types.Format(value)
			if err != nil {
				return nil, fmt.Errorf("extension %s: %w", name, err)
			}
			b = appendString(b, text)
		}
	}
	switch data := e.Data(); {
	case len(data) == 0:
	case isJSON(e.DataContentType()) && embeddable(data) && string(data) != "null":
		b = append(append(b, `,"data":`...), data...)
	default:
		b = base64.StdEncoding.AppendEncode(append(b, `,"data_base64":"`...), data)
		b = append(b, '"')
	}
	return append(b, '}'), nil
}
