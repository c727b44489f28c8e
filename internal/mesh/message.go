package mesh

import (
	"bytes"
	"encoding/base64"
	stdjson "encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

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
// A payload that is JSON stands in it byte for byte; any other as base64, so
// that every payload comes out of it as it was.
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
	if embeddable(m.Payload) {
		b = append(append(b, `,"payload":`...), m.Payload...)
	} else {
		b = append(b, `,"payload_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, m.Payload)
		b = append(b, '"')
	}
	return append(b, '}')
}

// embeddable says whether a payload can stand in JSON and come out of it as it
// was. White space around a value is no part of it, and a string that is no
// UTF-8, or a value too deep for decoders, makes the whole event no JSON.
func embeddable(payload []byte) bool {
	return len(payload) > 0 && payload[0] > ' ' && payload[len(payload)-1] > ' ' &&
		utf8.Valid(payload) && stdjson.Valid(payload) && !deep(payload)
}

// maxEmbedded is half the depth that decoders take: events have a few levels
// of their own, structured ones one more.
const maxEmbedded = 5000

// deep says whether a JSON value is nested deeper than maxEmbedded.
func deep(value []byte) bool {
	if bytes.Count(value, []byte("["))+bytes.Count(value, []byte("{")) <= maxEmbedded {
		return false
	}
	depth := 0
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '"':
			for i++; value[i] != '"'; i++ {
				if value[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			if depth++; depth > maxEmbedded {
				return true
			}
		case ']', '}':
			depth--
		}
	}
	return false
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
	for i := range *general.Messages {
		out = append(out, (*general.Messages)[i].message())
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

func (m *jsonMessage) message() Message {
	payload := []byte(m.Payload)
	if m.Payload == nil {
		payload = m.PayloadBase64
	}
	return Message{
		ID: m.ID, Source: m.Source, DeviceID: m.DeviceID, Format: m.Format, ContentType: m.ContentType,
		Attributes: m.Attributes, ReceivedAt: m.ReceivedAt, Payload: payload,
	}
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
		p.attributes(m)
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

// attributes consumes the attributes of m. Those with escapes are read by the
// general parser, and they alone.
func (p *scan) attributes(m *Message) {
	text := p.value()
	if strings.IndexByte(text, '\\') >= 0 {
		if err := json.Unmarshal([]byte(text), &m.Attributes); err != nil {
			p.ok = false
		}
		return
	}
	a := scan{s: text, ok: p.ok}
	m.Attributes = make(map[string]string, 1+strings.Count(text, ","))
	for a.must("{"); a.ok; a.must(",") {
		a.must(`"`)
		name := a.str()
		a.must(`:"`)
		m.Attributes[name] = a.str()
		if a.lit("}") {
			break
		}
	}
	p.ok = a.ok && a.s == ""
}

// Rejection is a message that could not be read, with the cause.
type Rejection struct {
	Message
	Cause    string   // what is wrong with it, and where
	Reader   string   // the format it was read as; empty: none was chosen
	Position Position // where in Payload the cause is
	// Readings is how many readings the message gave when it was read after all;
	// nil: it was not. Cause is why it had been rejected, then.
	Readings *int64
}

// Position is a place in a payload, as 1 + the offset of a byte. The zero
// Position is none: the cause is the payload as a whole, or nobody knows.
type Position int

// PositionAt gives the position of the byte at an offset, none if offset is
// negative.
func PositionAt(offset int) Position { return Position(max(offset, -1) + 1) }

// Offset gives the offset of the byte, -1 if there is none.
func (p Position) Offset() int { return int(p) - 1 }

// EncodeRejections gives the data of a telemetry.rejected event:
//
//	{"rejected":[{"cause","reader"?,"position"?,"readings"?, …the message as in
//	  EncodeMessages}]}
//
// position is the offset of a byte.
func EncodeRejections(rejections []Rejection) []byte {
	b := []byte(`{"rejected":[`)
	for i := range rejections {
		r := &rejections[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, "\n"+`{"cause":`...), r.Cause)
		b = appendMember(b, `,"reader":`, r.Reader)
		if offset := r.Position.Offset(); offset >= 0 {
			b = appendInt(b, `,"position":`, int64(offset))
		}
		if r.Readings != nil {
			b = appendInt(b, `,"readings":`, *r.Readings)
		}
		at := len(b)
		b = r.Message.appendJSON(b)
		b[at] = ',' // the brace that opens the message continues the object
	}
	return append(b, "]}"...)
}

// DecodeRejections reads the data of a telemetry.rejected event.
func DecodeRejections(data []byte) ([]Rejection, error) {
	var general struct {
		Rejected *[]struct {
			Cause       string `json:"cause"`
			Reader      string `json:"reader"`
			Position    *int   `json:"position"`
			Readings    *int64 `json:"readings"`
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
		rejection := Rejection{Message: r.jsonMessage.message(), Cause: r.Cause, Reader: r.Reader, Readings: r.Readings}
		if r.Position != nil {
			rejection.Position = PositionAt(*r.Position)
		}
		out = append(out, rejection)
	}
	return out, nil
}
