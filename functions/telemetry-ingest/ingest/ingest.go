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
// 202 says that the broker has accepted every message of the request. After
// any other answer the sender sends again; messages that were accepted in
// spite of it do no harm, since ids are deterministic. 400 is a CloudEvent
// that is none; what it said is kept as telemetry.rejected.
package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/function"
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
	messages, err := Split(r.Header, body, mesh.At(time.Now()))
	if err != nil {
		s.reject(w, r, body, err)
		return
	}
	if err := s.batcher.add(r.Context(), messages); err != nil {
		s.log.Warn("messages not accepted", "messages", len(messages), "error", err)
		if mesh.IsPermanent(err) {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, "{\"accepted\":%d}\n", len(messages))
}

// reject keeps a body that is no CloudEvent though it says so, and answers 400.
func (s *Server) reject(w http.ResponseWriter, r *http.Request, body []byte, cause error) {
	m := newMessage(mesh.Source(name), body, r.Header.Get("Content-Type"), mesh.At(time.Now()))
	m.Attributes = map[string]string{}
	for header := range r.Header {
		m.Attributes[header] = r.Header.Get(header)
	}
	delete(m.Attributes, "Authorization") // a secret is no part of what is kept
	e := mesh.NewEvent(mesh.TelemetryRejected, mesh.Source(name),
		mesh.EncodeRejections([]mesh.Rejection{{Message: m, Cause: cause.Error()}}), m.ID, cause.Error())
	if err := s.post(r.Context(), e); err != nil {
		s.log.Warn("rejected request not kept", "error", err)
	}
	http.Error(w, cause.Error(), http.StatusBadRequest)
}

// Split makes messages of one request that came at now. They are received one
// after the other, a microsecond apart: those that tell no time take this one,
// and must not all say something of the same instant. It fails only for what
// claims to be a CloudEvent and is none.
func Split(header http.Header, body []byte, now mesh.Instant) ([]mesh.Message, error) {
	contentType := header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		mediaType = contentType
	}
	switch {
	case mediaType == event.ApplicationCloudEventsBatchJSON:
		var events []event.Event
		if err := json.Unmarshal(body, &events); err != nil {
			return nil, fmt.Errorf("read CloudEvents batch: %w", err)
		}
		return fromEvents(events, now)
	case mediaType == event.ApplicationCloudEventsJSON || header.Get("Ce-Specversion") != "":
		e, err := cehttp.NewEventFromHTTPRequest(&http.Request{Header: header, Body: io.NopCloser(bytes.NewReader(body))})
		if err != nil {
			return nil, fmt.Errorf("read CloudEvent: %w", err)
		}
		return fromEvents([]event.Event{*e}, now)
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
	messages := make([]mesh.Message, len(parts))
	for i, part := range parts {
		messages[i] = newMessage(mesh.Source(name), part, mediaType, now+mesh.Instant(i))
	}
	return messages, nil
}

func newMessage(source string, payload []byte, contentType string, now mesh.Instant) mesh.Message {
	return mesh.Message{ID: mesh.Hash(source, string(payload)), Source: source, ContentType: contentType, ReceivedAt: now, Payload: payload}
}

// elements splits JSON of unknown shape: an array into its elements, several
// lines that begin with JSON into lines. What is neither, broken JSON too, is
// one message.
func elements(body []byte) [][]byte {
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	if len(trimmed) > 0 && trimmed[0] == '[' {
		if parts, ok := array(trimmed); ok {
			return parts
		}
		return [][]byte{body}
	}
	if first, rest, found := bytes.Cut(trimmed, []byte{'\n'}); found && len(bytes.TrimSpace(rest)) > 0 && json.Valid(first) {
		return lines(trimmed)
	}
	return [][]byte{body}
}

func array(body []byte) (parts [][]byte, ok bool) {
	decoder := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if _, err := decoder.ReadToken(); err != nil {
		return nil, false
	}
	for decoder.PeekKind() != ']' {
		part, err := decoder.ReadValue()
		if err != nil {
			return nil, false
		}
		parts = append(parts, bytes.Clone(part))
	}
	if _, err := decoder.ReadToken(); err != nil {
		return nil, false
	}
	_, err := decoder.ReadToken()
	return parts, err == io.EOF
}

func lines(body []byte) [][]byte {
	parts := make([][]byte, 0, bytes.Count(body, []byte{'\n'})+1)
	for line := range bytes.Lines(body) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			parts = append(parts, line)
		}
	}
	return parts
}

// fromEvents makes each event a message with its own identity; its other
// attributes stay with it.
func fromEvents(events []event.Event, now mesh.Instant) ([]mesh.Message, error) {
	messages := make([]mesh.Message, len(events))
	for i := range events {
		e := &events[i]
		if err := e.Validate(); err != nil {
			return nil, fmt.Errorf("CloudEvent %d of %d: %w", i+1, len(events), err)
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
		messages[i] = mesh.Message{ID: e.ID(), Source: e.Source(), ContentType: contentType, Attributes: attributes, ReceivedAt: now + mesh.Instant(i), Payload: e.Data()}
	}
	return messages, nil
}
