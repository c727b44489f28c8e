package mesh

import (
	"bytes"
	"encoding/base64"
	stdjson "encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Message is what a device sent, untouched, with what the transport told of
// it.
type Message struct {
	ID          string            // the transport's id, else a hash of source and bytes
	Source      string            // who handed it in: a URI reference, CloudEvents source
	DeviceID    string            // where the transport names the device
	Format      string            // a name of the device package's table; empty: by content type, then shape
	ContentType string            // media type of Payload; empty: application/json
	Attributes  map[string]string // what the transport said besides
	ReceivedAt  Instant           // when Telemesh first saw it
	Payload     []byte            // the bytes as received
}

// EncodeMessages gives the data of a telemetry.received event:
//
//	{"messages":[{"id","source","device_id"?,"format"?,"content_type"?,
//	  "attributes"?,"received_at","payload" or "payload_base64"}]}
//
// A payload that is valid JSON stands in it byte for byte; any other as
// base64.
func EncodeMessages(messages []Message) []byte {
	size := 32
	for i := range messages {
		size += len(messages[i].Payload) + 256
	}
	b := append(make([]byte, 0, size), `{"messages":[`...)
	for i := range messages {
		b = append(b, "\n"...)
		b = messages[i].appendJSON(b)
		b = append(b, ',')
	}
	if len(messages) > 0 {
		b = append(b[:len(b)-1], '\n')
	}
	return append(b, `]}`...)
}

func (m *Message) appendJSON(b []byte) []byte {
	b = appendString(append(b, `{"id":`...), m.ID)
	b = appendMember(b, `,"source":`, m.Source)
	b = appendMember(b, `,"device_id":`, m.DeviceID)
	b = appendMember(b, `,"format":`, m.Format)
	b = appendMember(b, `,"content_type":`, m.ContentType)
	if len(m.Attributes) > 0 {
		b = append(b, `,"attributes":{`...)
		for _, name := range slices.Sorted(maps.Keys(m.Attributes)) {
			b = appendString(b, name)
			b = appendString(append(b, ':'), m.Attributes[name])
			b = append(b, ',')
		}
		b[len(b)-1] = '}'
	}
	b = appendInstant(b, `,"received_at":`, m.ReceivedAt)
	if stdjson.Valid(m.Payload) {
		b = append(append(b, `,"payload":`...), m.Payload...)
	} else {
		b = append(b, `,"payload_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, m.Payload)
		b = append(b, '"')
	}
	return append(b, '}')
}

// DecodeMessages reads the data of a telemetry.received event. Payload is a
// copy: it does not alias data.
func DecodeMessages(data []byte) ([]Message, error) {
	p := scan{s: string(data)}
	payloads := bytes.Clone(data)
	out := make([]Message, 0, 1+len(data)/256)
	var same sameInstant
	p.list(`"messages"`, func() {
		out = append(out, Message{})
		p.message(&out[len(out)-1], payloads, &same)
	})
	if p.ok {
		return out, nil
	}
	var general struct {
		Messages *[]jsonMessage `json:"messages"`
	}
	if err := json.Unmarshal(data, &general, lenient...); err != nil {
		return nil, fmt.Errorf("decode messages: %w", err)
	}
	if general.Messages == nil {
		return nil, fmt.Errorf(`decode messages: no member "messages"`)
	}
	out = out[:0]
	for _, m := range *general.Messages {
		payload := []byte(m.Payload)
		if m.Payload == nil {
			payload = m.PayloadBase64
		}
		out = append(out, Message{
			ID: m.ID, Source: m.Source, DeviceID: m.DeviceID, Format: m.Format, ContentType: m.ContentType,
			Attributes: m.Attributes, ReceivedAt: m.ReceivedAt, Payload: payload,
		})
	}
	return out, nil
}

// A payload may say a name twice or hold bytes that are no UTF-8; that is for
// its reader to judge, and no reason to lose its neighbours.
var lenient = []json.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

type jsonMessage struct {
	ID            string            `json:"id"`
	Source        string            `json:"source"`
	DeviceID      string            `json:"device_id"`
	Format        string            `json:"format"`
	ContentType   string            `json:"content_type"`
	Attributes    map[string]string `json:"attributes"`
	ReceivedAt    Instant           `json:"received_at"`
	Payload       jsontext.Value    `json:"payload"`
	PayloadBase64 []byte            `json:"payload_base64"`
}

// message consumes a message; payloads is what p scans, in bytes that the
// messages may have.
func (p *scan) message(m *Message, payloads []byte, same *sameInstant) {
	p.must(`{"id":"`)
	m.ID = p.str()
	if p.lit(`,"source":"`) {
		m.Source = p.str()
	}
	if p.lit(`,"device_id":"`) {
		m.DeviceID = p.str()
	}
	if p.lit(`,"format":"`) {
		m.Format = p.str()
	}
	if p.lit(`,"content_type":"`) {
		m.ContentType = p.str()
	}
	if p.lit(`,"attributes":`) {
		if err := json.Unmarshal([]byte(p.value()), &m.Attributes); err != nil {
			p.ok = false
		}
	}
	p.must(`,"received_at":"`)
	m.ReceivedAt = p.instant(same)
	switch {
	case p.lit(`,"payload":`):
		from := len(payloads) - len(p.s)
		to := from + len(p.value())
		m.Payload = payloads[from:to:to]
	case p.lit(`,"payload_base64":"`):
		payload, err := base64.StdEncoding.DecodeString(p.str())
		if err != nil {
			p.ok = false
		}
		m.Payload = payload
	}
	p.must(`}`)
}

// Rejection is a message that could not be read, with the cause.
type Rejection struct {
	Message
	Cause string // what is wrong with it, and where
}

// EncodeRejections gives the data of a telemetry.rejected event:
// {"rejected":[{"cause", …the message as it was received}]}.
func EncodeRejections(rejections []Rejection) []byte {
	b := []byte(`{"rejected":[`)
	for i := range rejections {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, "\n"+`{"cause":`...), rejections[i].Cause)
		at := len(b)
		b = rejections[i].Message.appendJSON(b)
		b[at] = ',' // the brace that opens the message continues the object
	}
	return append(b, "]}"...)
}

// DecodeRejections reads the data of a telemetry.rejected event.
func DecodeRejections(data []byte) ([]Rejection, error) {
	var general struct {
		Rejected *[]struct {
			Cause       string `json:"cause"`
			jsonMessage `json:",inline"`
		} `json:"rejected"`
	}
	if err := json.Unmarshal(data, &general, lenient...); err != nil {
		return nil, fmt.Errorf("decode rejections: %w", err)
	}
	if general.Rejected == nil {
		return nil, fmt.Errorf(`decode rejections: no member "rejected"`)
	}
	var out []Rejection
	for _, r := range *general.Rejected {
		payload := []byte(r.Payload)
		if r.Payload == nil {
			payload = r.PayloadBase64
		}
		out = append(out, Rejection{Cause: r.Cause, Message: Message{
			ID: r.ID, Source: r.Source, DeviceID: r.DeviceID, Format: r.Format, ContentType: r.ContentType,
			Attributes: r.Attributes, ReceivedAt: r.ReceivedAt, Payload: payload,
		}})
	}
	return out, nil
}
