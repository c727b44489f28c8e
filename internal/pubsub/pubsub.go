// Package pubsub reads Pub/Sub messages as pushes and pulls give them, and
// makes device messages of them.
//
// It knows the forms of a push, https://cloud.google.com/pubsub/docs/push and
// https://cloud.google.com/pubsub/docs/payload-unwrapping, and the CloudEvents
// binding, https://github.com/google/knative-gcp/blob/main/docs/spec/pubsub-protocol-binding.md.
// It needs no client of Pub/Sub.
package pubsub

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Message is a Pub/Sub message.
type Message struct {
	ID           string // empty: the push does not tell it
	Data         []byte
	Attributes   map[string]string
	PublishTime  time.Time // zero: the push does not tell it
	OrderingKey  string
	Subscription string // projects/PROJECT/subscriptions/NAME
}

// ErrNotWrapped is the error of ParsePush for what is no wrapped push at all.
var ErrNotWrapped = errors.New(`no JSON object with the member "message"`)

var errEmpty = errors.New("the Pub/Sub message has neither data nor attributes")

// reason says where in a JSON value what is wrong. The text of the library's
// error is another one in some processes, on purpose, and a message is rejected
// for the same cause each time.
func reason(err error) error {
	e, ok := errors.AsType[*json.SemanticError](err)
	switch {
	case !ok:
		return fmt.Errorf(": %w", err)
	case e.Err != nil:
		return fmt.Errorf("%s: %w", e.JSONPointer, e.Err)
	}
	return fmt.Errorf("%s: a JSON %v, want a %v", e.JSONPointer, e.JSONKind, e.GoType)
}

// ParsePush reads the body of a wrapped push. Of the two spellings of a member
// that Pub/Sub sends, messageId and message_id, one is enough.
func ParsePush(body []byte) (Message, error) {
	var push struct {
		Message      jsontext.Value `json:"message"`
		Subscription jsontext.Value `json:"subscription"`
	}
	if err := json.Unmarshal(body, &push); err != nil || len(push.Message) == 0 || push.Message[0] != '{' {
		return Message{}, fmt.Errorf("read Pub/Sub push: %w", ErrNotWrapped)
	}
	var in struct {
		Attributes     map[string]string `json:"attributes"`
		Data           []byte            `json:"data"`
		MessageID      string            `json:"messageId"`
		MessageIDOld   string            `json:"message_id"`
		PublishTime    time.Time         `json:"publishTime"`
		PublishTimeOld time.Time         `json:"publish_time"`
		OrderingKey    string            `json:"orderingKey"`
		OrderingKeyOld string            `json:"ordering_key"`
	}
	if err := json.Unmarshal(push.Message, &in); err != nil {
		return Message{}, fmt.Errorf("read Pub/Sub push: message%w", reason(err))
	}
	m := Message{ID: in.MessageID, Data: in.Data, Attributes: in.Attributes, PublishTime: in.PublishTime, OrderingKey: in.OrderingKey}
	if len(push.Subscription) > 0 {
		if err := json.Unmarshal(push.Subscription, &m.Subscription); err != nil {
			return Message{}, fmt.Errorf("read Pub/Sub push: subscription%w", reason(err))
		}
	}
	if m.ID == "" {
		m.ID = in.MessageIDOld
	}
	if m.PublishTime.IsZero() {
		m.PublishTime = in.PublishTimeOld
	}
	if m.OrderingKey == "" {
		m.OrderingKey = in.OrderingKeyOld
	}
	if len(m.Data) == 0 && len(m.Attributes) == 0 {
		return Message{}, fmt.Errorf("read Pub/Sub push %s: %w", m.ID, errEmpty)
	}
	return m, nil
}

// metadata is the beginning of the headers that a push with written metadata
// has.
const metadata = "X-Goog-Pubsub-"

// IsUnwrapped says whether a request is an unwrapped push with written
// metadata.
func IsUnwrapped(header http.Header) bool {
	for name := range header {
		if strings.HasPrefix(name, metadata) {
			return true
		}
	}
	return false
}

// ParseUnwrapped reads an unwrapped push. Where the push writes its metadata
// into headers, a header that is neither of them, nor of HTTP or a proxy, is an
// attribute of the message; else the content type and those of a CloudEvent
// are.
//
// HTTP does not keep the case of a header's name: attributes come in lower case,
// but for those that Cloud IoT Core, UDMI and ChirpStack set.
func ParseUnwrapped(header http.Header, body []byte) (Message, error) {
	m := Message{
		ID: header.Get(metadata + "Message-Id"), Data: body, Attributes: map[string]string{},
		OrderingKey: header.Get(metadata + "Ordering-Key"), Subscription: header.Get(metadata + "Subscription-Name"),
	}
	if text := header.Get(metadata + "Publish-Time"); text != "" {
		var err error
		if m.PublishTime, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return Message{}, fmt.Errorf("read Pub/Sub push %s: publish time: %w", m.ID, err)
		}
	}
	written := IsUnwrapped(header)
	for name, values := range header {
		lower := strings.ToLower(name)
		if lower == "content-type" || strings.HasPrefix(lower, "ce-") || written && !ofHTTP(lower) {
			m.Attributes[attributeName(lower)] = values[0]
		}
	}
	if len(m.Data) == 0 && len(m.Attributes) == 0 {
		return Message{}, fmt.Errorf("read Pub/Sub push %s: %w", m.ID, errEmpty)
	}
	return m, nil
}

// ofHTTP says whether a header, named in lower case, is one of HTTP, of a
// proxy, or of what may hold a secret.
func ofHTTP(name string) bool {
	for _, prefix := range [...]string{"accept", "access-control-", "content-", "if-", "k-", "proxy-", "sec-", "x-amzn-", "x-b3-",
		"x-cloud-", "x-envoy-", "x-forwarded-", "x-goog-", "x-request-", "x-serverless-", "x-original-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{"authorization", "b3", "cache-control", "connection", "cookie", "date", "expect", "forwarded", "from", "host",
		"keep-alive", "origin", "pragma", "range", "referer", "te", "traceparent", "tracestate", "trailer", "transfer-encoding",
		"upgrade", "user-agent", "via", "x-api-key", "x-real-ip"}, name)
}

// attributeName gives the spelling that the readers of formats know.
func attributeName(lower string) string {
	for _, name := range [...]string{"deviceId", "deviceNumId", "deviceRegistryId", "deviceRegistryLocation", "gatewayId", "projectId",
		"subFolder", "subType", "devEui"} {
		if strings.EqualFold(name, lower) {
			return name
		}
	}
	return lower
}

// Received makes a device message of m.
//
// Where m is a CloudEvent, by ce- attributes or by its content type, the message
// is what the event carries, with its id and source. Else its id is that of
// Pub/Sub, or a hash of source and data, and its source is
// //pubsub.googleapis.com/SUBSCRIPTION. Attributes stay as they are, but for
// format and device_id, which become the message's, and sender, which is no
// publisher's to set. The attribute time is the publish time, unless the
// publisher set one.
//
// With an error, which no retry can cure, the message is what to keep of m as
// rejected.
func (m Message) Received(now mesh.Instant) (mesh.Message, error) {
	plain := mesh.Message{ID: m.ID, Source: "//pubsub.googleapis.com/" + m.Subscription, ContentType: mesh.MediaType(m.attribute("content-type")), ReceivedAt: now, Payload: m.Data}
	identified := plain.CheckIdentity()
	if identified != nil {
		plain.Source = "//pubsub.googleapis.com/"
	}
	if plain.ID == "" || identified != nil {
		plain.ID = mesh.Hash(plain.Source, string(m.Data))
	}
	m.describe(&plain, "")
	if identified != nil {
		return plain, fmt.Errorf("Pub/Sub message: %w", identified)
	}
	e, err := m.event()
	if err != nil {
		return plain, fmt.Errorf("Pub/Sub message %s: %w", m.ID, err)
	}
	if e == nil {
		return plain, nil
	}
	out, err := mesh.FromEvent(e, now)
	if err != nil {
		return plain, fmt.Errorf("Pub/Sub message %s: %w", m.ID, err)
	}
	event := maps.Clone(out.Attributes)
	m.describe(&out, "ce-")
	maps.Copy(out.Attributes, event)
	return out, nil
}

// describe adds the attributes of m to out, but for those with the prefix.
func (m Message) describe(out *mesh.Message, but string) {
	if !m.PublishTime.IsZero() {
		out.Describe("time", m.PublishTime.UTC().Format(time.RFC3339Nano))
	}
	for name, value := range m.Attributes {
		if but == "" || !hasPrefixFold(name, but) {
			out.Describe(name, value)
		}
	}
}

// attribute gives the value of an attribute whose name is written in any case.
func (m Message) attribute(name string) string {
	if value, ok := m.Attributes[name]; ok {
		return value
	}
	for _, n := range slices.Sorted(maps.Keys(m.Attributes)) {
		if strings.EqualFold(n, name) {
			return m.Attributes[n]
		}
	}
	return ""
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// event gives the CloudEvent that m is, nil if it is none.
func (m Message) event() (*event.Event, error) {
	header := http.Header{}
	contentType := m.attribute("content-type")
	switch mediaType := mesh.MediaType(contentType); {
	case mediaType == event.ApplicationCloudEventsJSON:
		return mesh.ParseEvent(m.Data)
	case strings.HasPrefix(mediaType, "application/cloudevents"): // section 3 of the binding: it knows no batches
		return nil, fmt.Errorf("read CloudEvent: a Pub/Sub message cannot be %s", mediaType)
	case m.attribute("ce-specversion") == "":
		return nil, nil
	default:
		for name, value := range m.Attributes {
			if hasPrefixFold(name, "ce-") {
				header.Set(name, value)
			}
		}
		if t := header.Get("Ce-Datacontenttype"); t != "" {
			contentType = t
		}
		header.Del("Ce-Datacontenttype")
		header.Set("Content-Type", contentType)
	}
	e, err := cehttp.NewEventFromHTTPRequest(&http.Request{Header: header, Body: io.NopCloser(bytes.NewReader(m.Data))})
	if err != nil {
		return nil, fmt.Errorf("read CloudEvent (specversion %q): %w", m.attribute("ce-specversion"), err)
	}
	return e, nil
}
