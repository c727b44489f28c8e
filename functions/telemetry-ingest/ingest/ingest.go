// Package ingest takes device messages over HTTP, one or many at a time, and
// hands them to the broker in micro-batches.
//
// # Ways in
//
// POST / takes a JSON object, a JSON array of messages, NDJSON, CSV, any other
// format as one message, or CloudEvents in binary, structured or batched mode. A
// SenML pack is one message though it is an array. What is said to be CSV, by its
// content type or ?format=csv, is split into messages of up to 16 KiB, each with
// the header line; with ?format=line-protocol lines are split so.
//
// POST /v1/tts takes The Things Stack's webhooks, POST /v1/chirpstack the HTTP
// integration of ChirpStack: as POST /, with the format named. POST /v1/pubsub
// takes one message pushed by Pub/Sub, wrapped or unwrapped.
//
// Query parameters are attributes of every message of the request, unless the
// message tells its own: at most 32, each name and value at most 256 bytes. Of
// them format and device_id are the message's Format and DeviceID. The headers
// X-Sensor and X-Pin are attributes, too.
//
// The body may be compressed: Content-Encoding gzip. MAX_BODY_BYTES bounds what
// comes out of it.
//
// A message is not read here: one that nobody can read becomes
// telemetry.rejected further on, and its neighbours are not held up by it. It
// becomes part of a telemetry.received event; package batch says of which.
//
// OPTIONS answers the validation request of CloudEvents webhooks: any origin may
// deliver, if it has a token.
//
// # Who may send
//
// INGEST_TOKENS names the senders, NAME:HASH,NAME:HASH,… where HASH is what
// printf %s TOKEN | sha256sum prints; a name may stand there with several. A
// request shows its token as Authorization: Bearer TOKEN. The name becomes the
// attribute sender of its messages, which nothing else can set.
//
// Without INGEST_TOKENS only this machine may send: from and to a loopback
// address, not through a proxy, not from a page of another site in a browser. On
// Knative nothing is taken without them.
//
// With PUBSUB_AUDIENCE set, POST /v1/pubsub takes no such token but the OIDC
// token that Pub/Sub pushes with: signed with RS256 by a key of PUBSUB_JWKS_URL
// (https://www.googleapis.com/oauth2/v3/certs), issued by PUBSUB_ISSUER
// (https://accounts.google.com), for that audience, not expired, and of a
// verified account of PUBSUB_EMAILS, separated by commas. The account is the
// sender.
//
// # Answers
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
// /v1/pubsub says that with 202: Pub/Sub would push again what is kept already.
//
// 401 is for no token, or one that is not known or cannot be verified; 403 for
// the OIDC token of another account or audience; 413 and 415 for a body that is
// too large or compressed otherwise. Nothing is taken of these, nor of a 400 in
// plain text.
//
// At most two bodies of MAX_BODY_BYTES, or as many smaller ones, are taken at a
// time; what would be more waits, and after a while is 503.
//
// After 5xx, or no answer, the sender sends the request again: not all of it
// is accepted or kept. Messages that were accepted in spite of it come twice.
// Those that tell their time, in the payload or as a CloudEvent's time, do no
// harm, since their readings have the same ids; those that tell none are
// readings of another instant each time.
package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/semaphore"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Config is the function's environment.
type Config struct {
	batch.Config
	Sink           string   `envconfig:"K_SINK" required:"true"` // the broker's ingress
	MaxBodyBytes   int64    `envconfig:"MAX_BODY_BYTES" default:"16777216"`
	Tokens         string   `envconfig:"INGEST_TOKENS"`
	Service        string   `envconfig:"K_SERVICE"` // which Knative sets
	PubsubAudience string   `envconfig:"PUBSUB_AUDIENCE"`
	PubsubEmails   []string `envconfig:"PUBSUB_EMAILS"`
	PubsubIssuer   string   `envconfig:"PUBSUB_ISSUER" default:"https://accounts.google.com"`
	PubsubJWKSURL  string   `envconfig:"PUBSUB_JWKS_URL" default:"https://www.googleapis.com/oauth2/v3/certs"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	post := func(ctx context.Context, e event.Event) error { return function.Post(ctx, ports.Client, cfg.Sink, e) }
	s, err := New(cfg, ports.Client, post, ports.Log)
	if err != nil {
		return nil, err
	}
	return &function.Function{HTTP: s, Close: s.batcher.Close}, nil
}

const name = "telemetry-ingest"

// paths are the endpoints, with the format that a path names.
var paths = map[string]string{"/": "", "/v1/tts": "ttn-v3", "/v1/chirpstack": "chirpstack-v4", pushPath: ""}

const pushPath = "/v1/pubsub"

// sensorHeaders are the headers that become attributes: those by which the stations of
// sensor.community name themselves and their sensor, to whatever API.
var sensorHeaders = [...]string{"X-Sensor", "X-Pin"}

// Server is the ingest endpoint.
type Server struct {
	cfg     Config
	memory  *semaphore.Weighted // bytes of bodies, read or on their way
	senders senders
	pushers *pushers // nil: pushes come with a sender's token
	batcher *batch.Batcher[mesh.Message]
	post    func(context.Context, event.Event) error
	log     *slog.Logger
}

// New makes a server that hands events to post, which returns once the broker
// has accepted them. The keys of OIDC tokens are fetched by client.
func New(cfg Config, client *http.Client, post func(context.Context, event.Event) error, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxBodyBytes < 1 {
		return nil, fmt.Errorf("MAX_BODY_BYTES is %d: it has to be at least 1", cfg.MaxBodyBytes)
	}
	senders, err := parseSenders(cfg.Tokens)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, memory: semaphore.NewWeighted(2 * cfg.MaxBodyBytes), senders: senders, batcher: batch.New(cfg.Config, name, post), post: post, log: log}
	if cfg.PubsubAudience != "" {
		if s.pushers, err = newPushers(cfg, client); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// problem is why nothing of a request is taken.
type problem struct {
	status int
	text   string
	header [2]string // name and value; empty: none
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in, p := s.read(w, r)
	if in != nil {
		defer s.memory.Release(in.reserved)
	}
	if p != nil {
		if p.header[0] != "" {
			w.Header().Set(p.header[0], p.header[1])
		}
		http.Error(w, p.text, p.status)
		return
	}
	if in == nil { // a validation request
		return
	}
	messages, refused, err := in.split()
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	if err := errors.Join(s.batcher.Add(r.Context(), messages), s.keep(r.Context(), refused)); err != nil {
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
	if in.push {
		w.WriteHeader(http.StatusAccepted)
	} else {
		w.WriteHeader(http.StatusBadRequest)
	}
	answer := answer{Accepted: len(messages), Refused: len(refused)}
	for _, r := range refused[:min(len(refused), maxCauses)] {
		answer.Causes = append(answer.Causes, cause{r.event, r.Cause})
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.log.Debug("answer not written", "error", err)
	}
}

// read checks who sends, and reads the body of those who may. It answers a
// validation request itself.
func (s *Server) read(w http.ResponseWriter, r *http.Request) (*request, *problem) {
	format, ok := paths[r.URL.Path]
	if !ok {
		return nil, &problem{status: http.StatusNotFound, text: fmt.Sprintf("no endpoint %s: POST messages to /, /v1/tts, /v1/chirpstack or /v1/pubsub", r.URL.Path)}
	}
	switch r.Method {
	case http.MethodPost:
	case http.MethodOptions:
		allow(w, r.Header)
		return nil, nil
	default:
		return nil, &problem{http.StatusMethodNotAllowed, "POST messages to " + r.URL.Path, [2]string{"Allow", allowed}}
	}
	in := &request{header: r.Header, format: format, fixed: format != "", push: r.URL.Path == pushPath, now: mesh.At(time.Now())}
	sender, p := s.sender(r)
	if p != nil {
		return nil, p
	}
	if err := in.query(r.URL.RawQuery); err != nil {
		return nil, &problem{status: http.StatusBadRequest, text: err.Error()}
	}
	for _, name := range sensorHeaders {
		if value := r.Header.Get(name); value != "" && len(value) <= maxParameterBytes && in.said[name] == "" {
			in.said[name] = value
		}
	}
	if sender != "" {
		in.said[mesh.AttributeSender] = sender
	}
	if in.reserved, p = s.reserve(r); p != nil {
		return nil, p
	}
	if in.body, p = readBody(w, r, s.cfg.MaxBodyBytes); p != nil {
		s.memory.Release(in.reserved)
		return nil, p
	}
	if len(bytes.TrimSpace(in.body)) == 0 && !in.push && r.Header.Get("Ce-Specversion") == "" {
		s.memory.Release(in.reserved)
		return nil, &problem{status: http.StatusBadRequest, text: "no message in the body"}
	}
	return in, nil
}

// reserve waits until there is room for what the body may become: a request
// takes what it says that it has, one that does not say or is compressed all that
// it may have. What comes of a small body can be much more than the body.
func (s *Server) reserve(r *http.Request) (int64, *problem) {
	need := s.cfg.MaxBodyBytes
	if r.ContentLength >= 0 && r.Header.Get("Content-Encoding") == "" {
		need = min(need, r.ContentLength)
	}
	ctx, cancel := context.WithTimeout(r.Context(), reserveTimeout)
	defer cancel()
	if err := s.memory.Acquire(ctx, need); err != nil {
		return 0, &problem{http.StatusServiceUnavailable, "too much is being taken now: send again", [2]string{"Retry-After", "1"}}
	}
	return need, nil
}

// reserveTimeout is how long a request waits for those before it.
const reserveTimeout = 10 * time.Second

// sender says who sends, or why they may not; empty: this machine.
func (s *Server) sender(r *http.Request) (string, *problem) {
	switch {
	case r.URL.Path == pushPath && s.pushers != nil:
		email, p, err := s.pushers.check(r)
		if err != nil {
			s.log.Warn("push refused", "status", p.status, "error", err)
		}
		return email, p
	case s.cfg.Service != "" && len(s.senders) == 0:
		return "", unauthorized("Bearer", "this Service takes nothing yet: set INGEST_TOKENS to NAME:HASH, where HASH is what `printf %s TOKEN | sha256sum` prints")
	case len(s.senders) > 0 && !(r.RemoteAddr == "" && checkOpen(r) == nil): // a server names every caller but those of its own process
		return s.senders.check(r)
	}
	return "", checkOpen(r)
}

const allowed = "OPTIONS, POST"

// allow answers the validation request of CloudEvents HTTP WebHooks, section 4:
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md
// The permission is for anyone, since it is the token that counts.
func allow(w http.ResponseWriter, header http.Header) {
	w.Header().Set("Allow", allowed)
	if origin := header.Get("WebHook-Request-Origin"); origin != "" {
		w.Header().Set("WebHook-Allowed-Origin", origin)
		if header.Get("WebHook-Request-Rate") != "" {
			w.Header().Set("WebHook-Allowed-Rate", "*")
		}
	}
	w.WriteHeader(http.StatusOK)
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
func (s *Server) keep(ctx context.Context, refused []refusal) error {
	for len(refused) > 0 {
		n, size := 0, 0
		for n < len(refused) && n < s.cfg.MaxMessages && (n == 0 || size < s.cfg.MaxBytes) {
			r := &refused[n]
			size += len(r.Message.Payload) + len(r.Cause)
			for name, value := range r.Message.Attributes {
				size += len(name) + len(value)
			}
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
