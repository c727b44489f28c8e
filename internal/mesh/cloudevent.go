package mesh

import (
	"fmt"
	"mime"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// MaxIdentity, in bytes, of a message's source and of its id: every reading of
// it repeats them.
const MaxIdentity = 1 << 10

// AttributeSender is the attribute that names whose token a message came with.
// No sender can set it.
const AttributeSender = "sender"

// FromEvent makes a CloudEvent the message it carries, with the identity of the
// event. Its other attributes stay with it. The error says what keeps it from
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
		m.Describe(name, fmt.Sprint(value))
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
