package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/telemesh/telemesh/internal/mesh"
)

// refusal is what claims to be a CloudEvent and is none.
type refusal struct {
	mesh.Rejection
	event int // its place in the request, from 0
}

// fromEvent makes a message of a CloudEvent in binary or structured mode.
func (in *request) fromEvent(mediaType string) (mesh.Message, error) {
	if mediaType == event.ApplicationCloudEventsJSON {
		e, err := mesh.ParseEvent(in.body)
		if err != nil {
			return mesh.Message{}, err
		}
		return mesh.FromEvent(e, in.now)
	}
	header := in.header.Clone()
	for name, values := range header {
		if strings.HasPrefix(name, "Ce-") {
			header[name] = []string{decodeHeader(values[0])}
		}
	}
	switch version := header.Get("Ce-Specversion"); version {
	case event.CloudEventsVersionV1, event.CloudEventsVersionV03:
	default:
		return mesh.Message{}, fmt.Errorf("read CloudEvent: specversion %q is none that is known: it is 1.0", version)
	}
	e, err := cehttp.NewEventFromHTTPRequest(&http.Request{Header: header, Body: io.NopCloser(bytes.NewReader(in.body))})
	if err != nil {
		return mesh.Message{}, fmt.Errorf("read CloudEvent: %w", err)
	}
	return mesh.FromEvent(e, in.now)
}

// decodeHeader gives the value of an attribute as it was before it was made fit
// for a header: the inverse of section 3.1.3.2 of the HTTP binding, which the
// SDK leaves undone. What is no encoding stays as it is.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
func decodeHeader(value string) string {
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' { // RFC 9110 section 5.6.4
		var unquoted strings.Builder
		for i := 1; i < n-1; i++ {
			if value[i] == '\\' && i+1 < n-1 {
				i++
			}
			unquoted.WriteByte(value[i])
		}
		value = unquoted.String()
	}
	if !strings.Contains(value, "%") {
		return value
	}
	var decoded strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] == '%' && i+2 < len(value) {
			if high, low := hexDigit(value[i+1]), hexDigit(value[i+2]); high >= 0 && low >= 0 {
				decoded.WriteByte(byte(high<<4 | low))
				i += 2
				continue
			}
		}
		decoded.WriteByte(value[i])
	}
	if !utf8.ValidString(decoded.String()) {
		return value
	}
	return decoded.String()
}

func hexDigit(c byte) int {
	i := strings.IndexByte("0123456789abcdefABCDEF", c)
	if i > 15 {
		i -= 6
	}
	return i
}

// fromBatch makes messages of CloudEvents in batched mode. One that is broken
// takes no other with it.
func (in *request) fromBatch() (messages []mesh.Message, refused []refusal, err error) {
	if trimmed := bytes.TrimSpace(in.body); len(trimmed) == 0 || trimmed[0] != '[' {
		return nil, []refusal{in.refuse(in.body, 0, errors.New("read CloudEvents batch: no JSON array"))}, nil
	}
	parts := values(in.body)
	if len(parts) > maxParts {
		return nil, nil, errTooMany
	}
	for i, part := range parts {
		var m mesh.Message
		e, err := mesh.ParseEvent(part)
		if err == nil {
			m, err = mesh.FromEvent(e, in.now+mesh.Instant(i))
		}
		if err != nil {
			refused = append(refused, in.refuse(part, i, err))
			continue
		}
		in.describe(&m)
		messages = append(messages, m)
	}
	return messages, refused, nil
}

// refuse makes the refusal of what stands at place i of a request.
func (in *request) refuse(body []byte, i int, err error) refusal {
	m := newMessage(body, in.kept()["Content-Type"], in.now+mesh.Instant(i))
	m.Format, m.DeviceID, m.Attributes = in.format, in.deviceID, in.kept()
	return refusal{mesh.Rejection{Message: m, Cause: brief(err)}, i}
}

// brief bounds a cause: it may quote what is wrong at any length, and the bytes
// are kept besides.
func brief(err error) string {
	cause := strings.TrimSpace(err.Error())
	if len(cause) > mesh.MaxIdentity {
		cause = strings.ToValidUTF8(cause[:mesh.MaxIdentity], "") + " …"
	}
	return cause
}
