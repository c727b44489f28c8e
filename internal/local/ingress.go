package local

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telemesh/telemesh/internal/manifest"
)

const (
	extTTL     = "knativebrokerttl"   // knative.dev/eventing/pkg/broker.TTLAttribute
	extArrival = "knativearrivaltime" // knative.dev/eventing/pkg/broker.EventArrivalTime
	maxTTL     = 255                  // MAX_TTL of Knative's ingress
)

// broker is a Broker: a stream of JetStream that keeps an event until every
// trigger that reads its type has delivered it.
type broker struct {
	mesh     *Mesh
	ref      manifest.Ref
	stream   string
	triggers []*trigger
	accepted atomic.Int64
	refused  atomic.Int64
	// Events up to here were stored before this process began; they are not
	// in the backlog's bytes.
	before uint64
}

// streamName names the stream of a broker. Names in Kubernetes have no
// underscore, those of namespaces no dot, and those of streams neither dot
// nor slash.
func streamName(r manifest.Ref) string { return "broker_" + joined(r) }

func joined(r manifest.Ref) string { return r.Namespace + "_" + strings.ReplaceAll(r.Name, ".", "_") }

// typeSubject is the subject of events of a type. Types may have any
// characters and subjects not, so that it is a hash; a trigger that gets an
// event of another type with the same hash filters it out.
func (b *broker) typeSubject(eventType string) string {
	h := fnv.New64a()
	h.Write([]byte(eventType))
	return b.stream + ".type." + strconv.FormatUint(h.Sum64(), 16)
}

// refusal is an event that the ingress refuses for good, with its status.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

func statusOf(err error) int {
	if r, ok := errors.AsType[refusal](err); ok {
		return r.status
	}
	return http.StatusServiceUnavailable
}

func tooLarge(e *event.Event) refusal {
	return refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("event %s is larger than %d bytes: bring its data in several", e.ID(), maxEvent)}
}

// accept stores the events and returns when all of them are durable.
func (b *broker) accept(ctx context.Context, ttl int32, events ...event.Event) error {
	if ttl <= 0 {
		return refusal{http.StatusBadRequest, fmt.Sprintf("its TTL is used up: %d hops through brokers are a circle of events", maxTTL)}
	}
	frames := make([][]byte, len(events))
	now := time.Now()
	for i := range events {
		e := &events[i]
		// What is compressed here is not where it goes, nor in memory.
		if len(e.DataEncoded) > maxEvent {
			return tooLarge(e)
		}
		err := e.Validate()
		if err == nil {
			frames[i], err = frame(e, ttl, now)
		}
		if err != nil {
			return refusal{http.StatusBadRequest, fmt.Sprintf("no valid CloudEvent: %v", err)}
		}
		if len(frames[i]) > maxEvent {
			return tooLarge(e)
		}
	}
	type publication struct {
		future  jetstream.PubAckFuture
		readers []*trigger
		bytes   int
	}
	var waiting []publication
	var failed error
	settle := func(p publication, err error) {
		if err == nil {
			b.accepted.Add(1)
			return
		}
		failed = err
		b.expect(p.readers, -1, p.bytes)
	}
	for i, data := range frames {
		p := publication{readers: b.readers(events[i].Type()), bytes: len(data)}
		if len(p.readers) == 0 { // accepted, and nobody to keep it for
			settle(p, nil)
			continue
		}
		b.expect(p.readers, 1, p.bytes)
		var err error
		p.future, err = b.mesh.store.publish.PublishMsgAsync(&nats.Msg{Subject: b.typeSubject(events[i].Type()), Data: data})
		if err != nil {
			settle(p, err)
			continue
		}
		waiting = append(waiting, p)
	}
	for _, p := range waiting {
		select {
		case <-p.future.Ok():
			settle(p, nil)
		case err := <-p.future.Err():
			settle(p, err)
		case <-b.mesh.closed:
			failed = errClosed
		case <-ctx.Done():
			failed = ctx.Err()
			// It may be stored all the same: expect it until that is known.
			go func() {
				select {
				case <-p.future.Ok():
				case <-p.future.Err():
					b.expect(p.readers, -1, p.bytes)
				case <-b.mesh.closed:
				}
			}()
		}
	}
	if failed != nil {
		return fmt.Errorf("store events for Broker %s: %w", b.ref, failed)
	}
	return nil
}

func (b *broker) readers(eventType string) []*trigger {
	var readers []*trigger
	for _, t := range b.triggers {
		if t.reads(eventType) {
			readers = append(readers, t)
		}
	}
	return readers
}

// expect counts events that are about to be stored (sign 1), or were not
// (sign -1).
func (b *broker) expect(readers []*trigger, sign, bytes int) {
	for _, t := range readers {
		t.pending.Add(int64(sign))
	}
	pairs := int64(sign * len(readers))
	b.mesh.backlog.add(pairs, pairs*int64(bytes))
}

// pushBack is how long a request may wait for room before it is told to come
// again later.
const pushBack = 2 * time.Second

// Handler serves the ingress of all brokers, POST /NAMESPACE/BROKER, to the
// world outside of the process.
func (m *Mesh) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.ingress(w, r, func() error {
			ctx, cancel := context.WithTimeout(r.Context(), pushBack)
			defer cancel()
			return m.backlog.enter(ctx)
		})
	})
}

// ingress serves POST /NAMESPACE/BROKER as Knative's does. enter waits until
// the mesh has room. knative.dev/eventing/pkg/broker/ingress
func (m *Mesh) ingress(w http.ResponseWriter, r *http.Request, enter func() error) {
	w.Header().Set("Allow", "POST, OPTIONS")
	switch r.Method {
	case http.MethodPost:
	case http.MethodOptions:
		w.Header().Set("WebHook-Allowed-Origin", "*")
		w.Header().Set("WebHook-Allowed-Rate", "*")
		w.WriteHeader(http.StatusOK)
		return
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	uri := r.URL.RequestURI() // with the query, as Knative has it, and without what a handler before this one took off
	if uri == "/" {
		http.Error(w, "post events to /NAMESPACE/BROKER", http.StatusNotFound)
		return
	}
	parts := strings.Split(strings.TrimSuffix(uri, "/"), "/")
	if len(parts) != 3 {
		http.Error(w, "post events to /NAMESPACE/BROKER", http.StatusBadRequest)
		return
	}
	ref := manifest.Ref{Namespace: parts[1], Name: parts[2]}
	body, err := readBody(w, r)
	if err != nil {
		status := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, fmt.Sprintf("read request: %v", err), status)
		return
	}
	b := m.brokers[ref]
	e, err := readEvent(r, body)
	if err == nil && b == nil {
		http.Error(w, fmt.Sprintf("Broker %s does not exist", ref), http.StatusNotFound)
		return
	}
	if err == nil {
		if err = enter(); err != nil {
			err = fmt.Errorf("the mesh has too much to deliver: %w", err)
		}
	}
	if err == nil {
		err = b.accept(r.Context(), arrivingTTL(e), *e)
	}
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	status := statusOf(err)
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	} else {
		if b != nil {
			b.refused.Add(1)
		}
		if kept := m.letters.keepRefused(r, body, ref, err); kept != nil {
			m.store.log.tell(slog.LevelError, "refused request not kept", kept, "broker", ref.String())
		}
	}
	http.Error(w, err.Error(), status)
}

// arrivingTTL is the TTL of an event that arrives: one less than it came
// with. A value that is no number is as none. knative.dev/eventing/pkg/broker/ttl.go
func arrivingTTL(e *event.Event) int32 {
	value, ok := e.Extensions()[extTTL]
	if !ok {
		return maxTTL
	}
	ttl, err := types.ToInteger(value)
	if err != nil {
		return maxTTL
	}
	return ttl - 1
}

// readBody reads a request whole, with one allocation where its length is
// known.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	if r.ContentLength > maxEvent {
		return nil, &http.MaxBytesError{Limit: maxEvent}
	}
	if r.ContentLength > 0 {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
}

// readEvent reads an event in binary or structured mode. As Knative's ingress,
// it takes no batch.
func readEvent(r *http.Request, body []byte) (*event.Event, error) {
	message := cehttp.NewMessage(r.Header, io.NopCloser(strings.NewReader("")))
	if message.ReadEncoding() != binding.EncodingBinary {
		message = cehttp.NewMessage(r.Header, io.NopCloser(strings.NewReader(string(body))))
	}
	e, err := binding.ToEvent(r.Context(), message)
	switch {
	case message.ReadEncoding() == binding.EncodingBatch:
		err = errors.New("a Broker takes one event at a time, no batch")
	case errors.Is(err, binding.ErrUnknownEncoding):
		err = errors.New("neither ce- headers nor the content type application/cloudevents+json")
	}
	if err == nil {
		err = e.Validate()
	}
	if err != nil {
		return nil, refusal{http.StatusBadRequest, fmt.Sprintf("no valid CloudEvent: %v", err)}
	}
	if message.ReadEncoding() == binding.EncodingBinary && len(body) > 0 {
		e.DataEncoded = body
	}
	return e, nil
}
