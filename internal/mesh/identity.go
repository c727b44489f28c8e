package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// idBytes is how much of a SHA-256 an id keeps: 128 bits, so that nobody can
// make two readings share a row by choosing device names.
const idBytes = 16

// ReadingID is the identity of the reading that device made of metric at an
// instant: 32 hexadecimal digits, the first half of
//
//	SHA-256(observed_at in µs ":" length of device in bytes ":" device ":" metric)
//
// which no two different triples share by construction, and which SQL can
// compute too.
func ReadingID(device, metric string, observedAt Instant) string {
	var id [2 * idBytes]byte
	return string(AppendReadingID(id[:0], device, metric, observedAt))
}

// AppendReadingID appends ReadingID(device, metric, observedAt) to id.
func AppendReadingID(id []byte, device, metric string, observedAt Instant) []byte {
	var buf [128]byte
	b := strconv.AppendInt(buf[:0], int64(observedAt), 10)
	b = append(b, ':')
	b = strconv.AppendInt(b, int64(len(device)), 10)
	b = append(b, ':')
	b = append(b, device...)
	b = append(b, ':')
	b = append(b, metric...)
	sum := sha256.Sum256(b)
	return hex.AppendEncode(id, sum[:idBytes])
}

// Hash names the sequence of parts by 32 hexadecimal digits. Two different
// sequences have different names: each part is hashed with its length.
func Hash(parts ...string) string {
	h := sha256.New()
	var length [20]byte
	for _, part := range parts {
		h.Write(append(strconv.AppendInt(length[:0], int64(len(part)), 10), ':'))
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil)[:idBytes])
}

// Verbatim says whether an HTTP header carries text unchanged as an attribute: the
// characters that it escapes are not in it, and it is not empty.
// https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/http-protocol-binding.md#3132-http-header-values
func Verbatim(text string) bool {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			return false
		}
	}
	return text != ""
}

// NewEvent makes an event with JSON data and an id of the given parts, so
// that making it again gives the same event.
func NewEvent(eventType, source string, data []byte, id ...string) event.Event {
	e := event.New()
	e.SetID(Hash(id...))
	e.SetType(eventType)
	e.SetSource(source)
	e.SetDataContentType(event.ApplicationJSON)
	e.DataEncoded = data
	return e
}

// Derive makes an event that function makes of in. Its id is a hash of in's
// source and id, the new type and what tells it from its siblings of the same
// type (a tenant, or nothing): a redelivered input gives the same event. It
// names in as its cause; the trace and the partition key of in go on.
func Derive(in event.Event, function, eventType, sibling string, data []byte) event.Event {
	out := NewEvent(eventType, Source(function), data, in.Source(), in.ID(), eventType, sibling)
	SetCause(&out, in)
	for _, name := range [...]string{ExtTraceParent, ExtPartitionKey} {
		if v, ok := in.Extensions()[name]; ok {
			out.SetExtension(name, v)
		}
	}
	return out
}

// SetCause names in as the event that e was made of.
func SetCause(e *event.Event, in event.Event) {
	e.SetExtension(ExtCauseSource, in.Source())
	e.SetExtension(ExtCauseID, in.ID())
}

// SetVersion says with which version of the metadata e was made (ExtVersion).
func SetVersion(e *event.Event, version int64) {
	e.SetExtension(ExtVersion, strconv.FormatInt(version, 10))
}

// Version gives what SetVersion said; 0 if nobody did.
func Version(e event.Event) (int64, error) {
	value, ok := e.Extensions()[ExtVersion]
	if !ok {
		return 0, nil
	}
	text, err := types.Format(value)
	if err != nil {
		return 0, fmt.Errorf("extension %s: %w", ExtVersion, err)
	}
	version, err := strconv.ParseInt(text, 10, 64)
	if err != nil || version < 0 {
		return 0, fmt.Errorf("extension %s: %q is no version", ExtVersion, text)
	}
	return version, nil
}

// Source is the CloudEvents source of the events a function makes.
func Source(function string) string { return "/telemesh/" + function }
