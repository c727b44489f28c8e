package mesh

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"mime"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxIdentity, in bytes, of a message's source and of its id: every reading of
// it repeats them.
const MaxIdentity = 1 << 10

// AttributeSender is the attribute that names whose token a message came with.
// No sender can set it.
const AttributeSender = "sender"

// FromEvent makes a CloudEvent the message it carries, with the identity of the
// event. The extension deviceid names its device; its other attributes stay with
// it. The error says what keeps it from
// being a CloudEvent, or which bound it breaks.
func FromEvent(e *event.Event, now Instant) (Message, error) {
	if err := e.Validate(); err != nil {
		return Message{}, fmt.Errorf("CloudEvent: %w", err)
	}
	m := Message{ID: e.ID(), Source: e.Source(), ContentType: MediaType(e.DataContentType()), ReceivedAt: now, Payload: e.Data()}
	if err := m.CheckIdentity(); err != nil {
		return Message{}, fmt.Errorf("CloudEvent: %w", err)
	}
	for name, value := range e.Extensions() {
		text, err := types.Format(value) // the canonical form of the CloudEvents type system
		if err != nil {
			return Message{}, fmt.Errorf("CloudEvent: extension %s: %w", name, err)
		}
		if name == "deviceid" { // device_id can be no name of an extension
			name = "device_id"
		}
		m.Describe(name, text)
	}
	m.Describe("type", e.Type())
	if s := e.Subject(); s != "" {
		m.Describe("subject", s)
	}
	if s := e.DataSchema(); s != "" {
		m.Describe("dataschema", s)
	}
	if t := e.Time(); !t.IsZero() {
		m.Describe("time", t.Format(time.RFC3339Nano))
	}
	return m, nil
}

// Describe adds what a transport says of m: format and device_id as its Format
// and DeviceID, all else as an attribute.
func (m *Message) Describe(name, value string) {
	switch name {
	case "format":
		m.Format = value
	case "device_id":
		m.DeviceID = value
	case AttributeSender:
	default:
		if m.Attributes == nil {
			m.Attributes = map[string]string{}
		}
		m.Attributes[name] = value
	}
}

// CheckIdentity says whether the source or the id is too long.
func (m *Message) CheckIdentity() error {
	if len(m.Source) > MaxIdentity {
		return fmt.Errorf("its source has %d bytes, at most %d are accepted", len(m.Source), MaxIdentity)
	}
	if len(m.ID) > MaxIdentity {
		return fmt.Errorf("its id has %d bytes, at most %d are accepted", len(m.ID), MaxIdentity)
	}
	return nil
}

// ParseEvent reads a CloudEvent in the JSON format, 1.0.2:
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
// The event is not validated. Data that is JSON stays byte for byte what it is
// in text.
//
// The SDK's own reader refuses data_base64 behind a blank and JSON of a +json
// type, and takes a fraction for an integer.
func ParseEvent(text []byte) (*event.Event, error) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(text, &members, lenient...); err != nil {
		return nil, fmt.Errorf("read CloudEvent: %w", err)
	}
	for name, value := range members {
		if value.Kind() == 'n' { // what is null is not set
			delete(members, name)
		}
	}
	str := func(name string) (string, error) {
		value, ok := members[name]
		if !ok {
			return "", nil
		}
		var s string
		if err := json.Unmarshal(value, &s, lenient...); err != nil {
			return "", fmt.Errorf("read CloudEvent: %s is no string", name)
		}
		return s, nil
	}
	switch version, err := str("specversion"); {
	case err != nil:
		return nil, err
	case version == event.CloudEventsVersionV03:
		var e event.Event
		if err := e.UnmarshalJSON(text); err != nil {
			return nil, fmt.Errorf("read CloudEvent: %w", err)
		}
		return &e, nil
	case version != event.CloudEventsVersionV1:
		return nil, fmt.Errorf("read CloudEvent: specversion %q is none that is known: it is 1.0", version)
	}
	e := event.New(event.CloudEventsVersionV1)
	for name, value := range members {
		var err error
		switch name {
		case "specversion", "data", "data_base64":
		case "id", "type", "source", "subject", "time", "dataschema", "datacontenttype":
			var s string
			if s, err = str(name); err == nil {
				err = setAttribute(&e, name, s)
			}
		default:
			var extension any
			if extension, err = extensionOf(name, value); err == nil {
				e.SetExtension(name, extension)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	data, ok := members["data"]
	base, err := str("data_base64")
	switch {
	case err != nil:
		return nil, err
	case ok && members["data_base64"] != nil:
		return nil, errors.New("read CloudEvent: it has data and data_base64")
	case !ok:
		if e.DataEncoded, err = base64.StdEncoding.DecodeString(base); err != nil {
			return nil, fmt.Errorf("read CloudEvent: data_base64: %w", err)
		}
	case data.Kind() == '"' && !isJSON(e.DataContentType()):
		s, err := str("data")
		if err != nil {
			return nil, err
		}
		e.DataEncoded = []byte(s)
	default:
		e.DataEncoded = data
	}
	return &e, nil
}

// setAttribute sets what is a string in JSON. The event keeps what is wrong with
// it for its validation, but for the time.
func setAttribute(e *event.Event, name, value string) error {
	switch name {
	case "id":
		e.SetID(value)
	case "type":
		e.SetType(value)
	case "source":
		e.SetSource(value)
	case "subject":
		e.SetSubject(value)
	case "dataschema":
		e.SetDataSchema(value)
	case "datacontenttype":
		e.SetDataContentType(value)
	case "time":
		at, err := types.ParseTime(value)
		if err != nil {
			return fmt.Errorf("read CloudEvent: time: %w", err)
		}
		e.SetTime(at)
	}
	return nil
}

// extensionOf gives the value of an extension: a string, a boolean or an
// integer of 32 bits.
func extensionOf(name string, value jsontext.Value) (any, error) {
	switch value.Kind() {
	case '"':
		var s string
		err := json.Unmarshal(value, &s, lenient...)
		return s, err
	case 't', 'f':
		return value.Kind() == 't', nil
	case '0':
		n, err := strconv.ParseFloat(string(value), 64)
		if err == nil && n == math.Trunc(n) && n >= math.MinInt32 && n <= math.MaxInt32 {
			return int32(n), nil
		}
	}
	return nil, fmt.Errorf("read CloudEvent: extension %s is no string, boolean or integer of 32 bits", name)
}

// isJSON says whether data of a media type stands in the JSON format as it is:
// section 3.1 of it.
func isJSON(contentType string) bool {
	mediaType := MediaType(contentType)
	return mediaType == "" || strings.HasSuffix(mediaType, "/json") || strings.HasSuffix(mediaType, "+json")
}

// MediaType gives a content type as Message.ContentType has it: without
// parameters, and empty for JSON.
func MediaType(contentType string) string {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		mediaType = contentType
	}
	if mediaType == event.ApplicationJSON || mediaType == event.TextJSON {
		return ""
	}
	return mediaType
}
