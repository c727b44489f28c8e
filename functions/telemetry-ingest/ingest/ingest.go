// Package ingest takes device messages over HTTP, one or many at a time, and
// hands them to the broker in micro-batches.
//
// POST / takes a JSON object, a JSON array of messages, NDJSON, or CloudEvents
// in binary, structured or batched mode. It makes telemetry.received events of
// at most BATCH_MAX_MESSAGES messages and about BATCH_MAX_BYTES bytes, filled
// by all requests of the moment, waiting at most BATCH_LINGER for more. A
// message is not read here: one that nobody can read becomes
// telemetry.rejected further on, and its neighbours are not held up by it.
//
// 202 says that the broker has accepted every message of the request:
//
//	{"accepted":3}
//
// 400 says the same of all that could be accepted. The others claim to be
// CloudEvents and are none, or have a source or id over 1 KiB; they are kept as
// telemetry.rejected, and are not to be sent again as they are. Events are
// counted from 0, at most 100 causes are told:
//
//	{"accepted":2,"refused":1,"causes":[{"event":1,"cause":"…"}]}
//
// After 5xx, or no answer, the sender sends the request again: not all of it
// is accepted or kept. Messages that were accepted in spite of it come twice.
// Those that tell their time, in the payload or as a CloudEvent's time, do no
// harm, since their readings have the same ids; those that tell none are
// readings of another instant each time.
package ingest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/jsonsplit"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Config is the function's environment.
type Config struct {
	Sink             string        `envconfig:"K_SINK" required:"true"` // the broker's ingress
	BatchMaxMessages int           `envconfig:"BATCH_MAX_MESSAGES" default:"500"`
	BatchMaxBytes    int           `envconfig:"BATCH_MAX_BYTES" default:"262144"` // of payload
	BatchLinger      time.Duration `envconfig:"BATCH_LINGER" default:"50ms"`
	MaxBodyBytes     int64         `envconfig:"MAX_BODY_BYTES" default:"16777216"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	if cfg.BatchMaxMessages < 1 || cfg.BatchMaxBytes < 1 || cfg.MaxBodyBytes < 1 {
		return nil, errors.New("BATCH_MAX_MESSAGES, BATCH_MAX_BYTES and MAX_BODY_BYTES have to be at least 1")
	}
	post := func(ctx context.Context, e event.Event) error { return function.Post(ctx, ports.Client, cfg.Sink, e) }
	s := New(cfg, post, ports.Log)
	return &function.Function{HTTP: s, Close: s.Close}, nil
}

const name = "telemetry-ingest"

// Server is the ingest endpoint.
type Server struct {
	maxBody int64
	batcher *batcher
	post    func(context.Context, event.Event) error
	log     *slog.Logger
}

// New makes a server that hands events to post, which returns once the broker
// has accepted them.
func New(cfg Config, post func(context.Context, event.Event) error, log *slog.Logger) *Server {
	return &Server{maxBody: cfg.MaxBodyBytes, batcher: newBatcher(cfg, post), post: post, log: log}
}

// Close hands over what still lingers.
func (s *Server) Close(ctx context.Context) error { return s.batcher.close(ctx) }

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.Error(w, fmt.Sprintf("no endpoint %s: POST messages to /", r.URL.Path), http.StatusNotFound)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "POST messages to /", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, fmt.Sprintf("body over %d bytes: send it in parts, or raise MAX_BODY_BYTES", tooLarge.Limit), http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, fmt.Sprintf("read body: %v", err), http.StatusBadRequest)
		return
	}
	if len(bytes.TrimSpace(body)) == 0 && r.Header.Get("Ce-Specversion") == "" {
		http.Error(w, "no message in the body", http.StatusBadRequest)
		return
	}
	messages, refused, err := Split(r.Header, body, mesh.At(time.Now()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	if err := errors.Join(s.batcher.add(r.Context(), messages), s.keep(r.Context(), refused)); err != nil {
		s.log.Warn("messages not accepted", "messages", len(messages), "refused", len(refused), "error", err)
		if mesh.IsPermanent(err) {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if len(refused) == 0 {
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "{\"accepted\":%d}\n", len(messages))
		return
	}
	w.WriteHeader(http.StatusBadRequest)
	answer := answer{Accepted: len(messages), Refused: len(refused)}
	for _, r := range refused[:min(len(refused), maxCauses)] {
		answer.Causes = append(answer.Causes, cause{r.Event, r.Cause})
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.log.Debug("answer not written", "error", err)
	}
}

// answer is what a sender is told whose request was not accepted whole.
type answer struct {
	Accepted int     `json:"accepted"`
	Refused  int     `json:"refused"`
	Causes   []cause `json:"causes"`
}

type cause struct {
	Event int    `json:"event"`
	Cause string `json:"cause"`
}

// maxCauses is enough to see what is wrong with a sender.
const maxCauses = 100

// keep hands over what is refused.
func (s *Server) keep(ctx context.Context, refused []Refusal) error {
	for len(refused) > 0 {
		n, size := 0, 0
		for n < len(refused) && n < s.batcher.maxMessages && (n == 0 || size < s.batcher.maxBytes) {
			size += len(refused[n].Message.Payload) + len(refused[n].Cause)
			n++
		}
		some := refused[:n]
		refused = refused[n:]
		rejections := make([]mesh.Rejection, len(some))
		var id []string
		for i, r := range some {
			rejections[i] = r.Rejection
			id = append(id, r.Message.ID, r.Cause)
		}
		e := mesh.NewEvent(mesh.TelemetryRejected, mesh.Source(name), mesh.EncodeRejections(rejections), id...)
		if err := s.post(ctx, e); err != nil {
			return fmt.Errorf("keep %d refused events: %w", len(some), err)
		}
	}
	return nil
}

// Refusal is what claims to be a CloudEvent and is none.
type Refusal struct {
	mesh.Rejection
	Event int // its place in the request, from 0
}

// Split makes messages of one request that came at now. They are received one
// after the other, a microsecond apart: those that tell no time take this one,
// and must not all say something of the same instant. The error is that of a
// body of more than 100,000 messages.
func Split(header http.Header, body []byte, now mesh.Instant) ([]mesh.Message, []Refusal, error) {
	contentType := header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		mediaType = contentType
	}
	switch {
	case mediaType == event.ApplicationCloudEventsBatchJSON:
		return fromBatch(header, body, now)
	case mediaType == event.ApplicationCloudEventsJSON || header.Get("Ce-Specversion") != "":
		e, err := cehttp.NewEventFromHTTPRequest(&http.Request{Header: header, Body: io.NopCloser(bytes.NewReader(body))})
		if err != nil {
			return nil, []Refusal{refuse(kept(header), body, now, 0, fmt.Errorf("read CloudEvent: %w", err))}, nil
		}
		m, err := fromEvent(e, now)
		if err != nil {
			return nil, []Refusal{refuse(kept(header), body, now, 0, err)}, nil
		}
		return []mesh.Message{m}, nil, nil
	}
	// JSON needs no content type further on: it is what a message is by default.
	var parts [][]byte
	switch mediaType {
	case "application/x-ndjson", "application/ndjson", "application/jsonl":
		parts, mediaType = lines(body), ""
	case "", "application/json", "text/json", "application/x-www-form-urlencoded": // curl -d says the last of these
		parts, mediaType = elements(body), ""
	default:
		parts = [][]byte{body}
	}
	if len(parts) > maxParts {
		return nil, nil, errTooMany
	}
	messages := make([]mesh.Message, len(parts))
	for i, part := range parts {
		messages[i] = newMessage(mesh.Source(name), part, mediaType, now+mesh.Instant(i))
	}
	return messages, nil, nil
}

// maxParts, messages of a request, bounds what a small body of very many may
// take in memory.
const maxParts = 100_000

var errTooMany = fmt.Errorf("more than %d messages in one request: send them in parts", maxParts)

func newMessage(source string, payload []byte, contentType string, now mesh.Instant) mesh.Message {
	return mesh.Message{ID: mesh.Hash(source, string(payload)), Source: source, ContentType: contentType, ReceivedAt: now, Payload: payload}
}

// elements splits JSON of unknown shape: arrays into their elements, and values
// that stand after each other. Where one of them is broken and there are whole
// lines, the lines are the messages; else what is broken is a message of its
// own, as far as brackets tell its end.
func elements(body []byte) [][]byte {
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] != '[' && json.Valid(body) {
		return [][]byte{body}
	}
	var parts [][]byte
	whole := true
	values := jsonsplit.New(bufio.NewReader(bytes.NewReader(body)), len(body))
	for {
		_, part, err := values.Next()
		if err != nil { // the end: bytes give no other error
			whole = whole && err == io.EOF
			break
		}
		whole = whole && json.Valid(part)
		if parts = append(parts, bytes.Clone(part)); len(parts) > maxParts {
			return parts
		}
	}
	switch {
	case !whole && areLines(body):
		return lines(body)
	case !whole && len(parts) == 0:
		return [][]byte{body}
	}
	return parts
}

// areLines says whether one of the lines in body is a message. Objects within
// what is printed over several lines are none: they are indented, or they stand
// in an array, behind a bracket or comma or before one.
func areLines(body []byte) bool {
	array := body[0] == '['
	within := false // the line before ends within an array
	found := false  // the line before is a message, unless this one goes on with the array
	for line := range bytes.Lines(body) {
		text := bytes.TrimSpace(line)
		if len(text) == 0 {
			continue
		}
		if found && text[0] != ',' && text[0] != ']' {
			return true
		}
		found = !within && (line[0] == '{' || line[0] == '[') && json.Valid(text)
		last := text[len(text)-1]
		within = array && (last == ',' || last == '[')
	}
	return found
}

func lines(body []byte) [][]byte {
	var parts [][]byte
	for line := range bytes.Lines(body) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if parts = append(parts, line); len(parts) > maxParts {
				break
			}
		}
	}
	return parts
}

// fromBatch makes messages of CloudEvents in batched mode. One that is broken
// takes no other with it.
func fromBatch(header http.Header, body []byte, now mesh.Instant) (messages []mesh.Message, refused []Refusal, err error) {
	attributes := kept(header)
	if trimmed := bytes.TrimSpace(body); len(trimmed) == 0 || trimmed[0] != '[' {
		return nil, []Refusal{refuse(attributes, body, now, 0, errors.New("read CloudEvents batch: no JSON array"))}, nil
	}
	parts := elements(body)
	if len(parts) > maxParts {
		return nil, nil, errTooMany
	}
	for i, part := range parts {
		at := now + mesh.Instant(i)
		var e event.Event
		err := json.Unmarshal(part, &e)
		if err != nil {
			err = fmt.Errorf("read CloudEvent: %w", err)
		}
		var m mesh.Message
		if err == nil {
			m, err = fromEvent(&e, at)
		}
		if err != nil {
			refused = append(refused, refuse(attributes, part, at, i, err))
			continue
		}
		messages = append(messages, m)
	}
	return messages, refused, nil
}

// maxIdentity, in bytes, of an event's source and of its id: every reading of
// it repeats them.
const maxIdentity = 1 << 10

// fromEvent makes an event a message with its own identity; its other
// attributes stay with it.
func fromEvent(e *event.Event, now mesh.Instant) (mesh.Message, error) {
	switch err := e.Validate(); {
	case err != nil:
		return mesh.Message{}, fmt.Errorf("CloudEvent: %w", err)
	case len(e.Source()) > maxIdentity:
		return mesh.Message{}, fmt.Errorf("CloudEvent: its source has %d bytes, at most %d are accepted", len(e.Source()), maxIdentity)
	case len(e.ID()) > maxIdentity:
		return mesh.Message{}, fmt.Errorf("CloudEvent: its id has %d bytes, at most %d are accepted", len(e.ID()), maxIdentity)
	}
	attributes := map[string]string{"type": e.Type()}
	if s := e.Subject(); s != "" {
		attributes["subject"] = s
	}
	if t := e.Time(); !t.IsZero() {
		attributes["time"] = t.Format(time.RFC3339Nano)
	}
	for name, value := range e.Extensions() {
		attributes[name] = fmt.Sprint(value)
	}
	contentType := e.DataContentType()
	if contentType == event.ApplicationJSON {
		contentType = ""
	}
	return mesh.Message{ID: e.ID(), Source: e.Source(), ContentType: contentType, Attributes: attributes, ReceivedAt: now, Payload: e.Data()}, nil
}

// kept is what may be kept of a header, as attributes of what is refused.
func kept(header http.Header) map[string]string {
	attributes := map[string]string{}
	for name, values := range function.KeptHeader(header) {
		// A long one would be repeated by every refusal of a batch.
		if value := values[0]; len(value) <= maxIdentity {
			attributes[name] = value
		}
	}
	return attributes
}

// refuse makes the refusal of what stands at place i of a request. A cause may
// quote what is wrong at any length; the bytes are kept besides.
func refuse(attributes map[string]string, body []byte, now mesh.Instant, i int, err error) Refusal {
	m := newMessage(mesh.Source(name), body, attributes["Content-Type"], now)
	m.Attributes = attributes
	cause := strings.TrimSpace(err.Error())
	if len(cause) > maxIdentity {
		cause = strings.ToValidUTF8(cause[:maxIdentity], "") + " …"
	}
	return Refusal{mesh.Rejection{Message: m, Cause: cause}, i}
}
