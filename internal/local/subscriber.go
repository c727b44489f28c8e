package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// result is how a subscriber answered, in the terms of HTTP.
type result struct {
	status     int
	text       string // what it said of a failure
	retryAfter time.Duration
	replies    []event.Event
}

func (r result) failed() bool { return r.status < 200 || r.status > 299 }

// subscriber takes one event. It must not keep or change it.
type subscriber interface {
	deliver(ctx context.Context, e event.Event) result
}

// subscriber finds out who answers at an address. A Service is called in the
// process where its function takes events: at its root, and at every path if it
// serves nothing else.
func (m *Mesh) subscriber(target manifest.Target, namespace string, structured bool) (subscriber, error) {
	none := manifest.Ref{}
	switch {
	case target.Broker != none:
		b := m.brokers[target.Broker]
		if b == nil {
			return nil, fmt.Errorf("there is no Broker %s", target.Broker)
		}
		return b, nil
	case target.Service != none:
		s := m.services[target.Service]
		if s == nil {
			return nil, fmt.Errorf("there is no Service %s", target.Service)
		}
		if s.function == nil {
			return nil, fmt.Errorf("nothing here runs Service %s: its image is no function of telemesh", target.Service)
		}
		path := "/" + strings.TrimPrefix(target.URL.Path, "/")
		if s.function.Handler != nil && (path == "/" || s.function.HTTP == nil) {
			return called{s, path}, nil
		}
	}
	return &remote{m.client, target.URL.String(), namespace, structured}, nil
}

// called is a Service that is called at a path, in this process.
type called struct {
	*service
	path string
}

// deliver calls the function. Its errors become the statuses that it would
// answer with as a process.
func (s called) deliver(ctx context.Context, e event.Event) (r result) {
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("function panicked", "event.id", e.ID(), "event.type", e.Type(), "error", p, "stack", string(debug.Stack()))
			r = result{status: http.StatusInternalServerError, text: fmt.Sprintf("panic: %v", p)}
		}
	}()
	replies, err := s.function.Handler(function.WithPath(inside(ctx), s.path), e)
	switch {
	case err == nil:
		return result{status: http.StatusOK, replies: replies}
	case mesh.IsPermanent(err):
		return result{status: http.StatusBadRequest, text: err.Error()}
	}
	return result{status: http.StatusServiceUnavailable, text: err.Error()}
}

// deliver brings the event to another broker, where it starts with a TTL of
// its own, unless it is a dead letter.
func (b *broker) deliver(ctx context.Context, e event.Event) result {
	if err := b.accept(ctx, arrivingTTL(&e), e); err != nil {
		return result{status: statusOf(err), text: err.Error()}
	}
	return result{status: http.StatusAccepted}
}

// remote is a subscriber that HTTP leads to.
type remote struct {
	client     *http.Client
	url        string
	namespace  string // of the trigger
	structured bool
}

// remoteTimeout is what Knative's channels give a delivery that says nothing.
// knative.dev/eventing/pkg/channel/fanout
const remoteTimeout = 15 * time.Minute

func (s *remote) deliver(ctx context.Context, e event.Event) result {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, nil)
	if err != nil {
		return result{status: http.StatusInternalServerError, text: err.Error()}
	}
	write := binding.WithForceBinary
	if s.structured {
		write = binding.WithForceStructured
	}
	if err := cehttp.WriteRequest(write(ctx), binding.ToMessage(&e), req); err != nil {
		return result{status: http.StatusInternalServerError, text: err.Error()}
	}
	req.Header.Set("Prefer", "reply")
	req.Header.Set("Kn-Namespace", s.namespace)
	resp, err := s.client.Do(req)
	if err != nil {
		// Knative gives an error of the connection this status and text.
		return result{status: http.StatusInternalServerError, text: "dispatch error: " + err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxEvent))
	r := result{status: resp.StatusCode, retryAfter: retryAfter(resp)}
	switch {
	case r.failed():
		r.text = string(body)
		return r
	case err != nil:
		return result{status: http.StatusInternalServerError, text: "read reply: " + err.Error()}
	}
	// A reply is an event or nothing, by knative.dev/eventing/pkg/broker/filter.
	message := cehttp.NewMessage(resp.Header, io.NopCloser(bytes.NewReader(body)))
	if message.ReadEncoding() == binding.EncodingUnknown {
		if len(body) > 0 {
			return result{status: http.StatusBadGateway, text: "the reply has a body and is no CloudEvent: " + beginning(body)}
		}
		return r
	}
	reply, err := binding.ToEvent(ctx, message)
	if err != nil {
		return result{status: http.StatusBadGateway, text: "read reply: " + err.Error()}
	}
	r.replies = []event.Event{*reply}
	return r
}

func beginning(b []byte) string {
	const most = 200
	if len(b) > most {
		return strings.ToValidUTF8(string(b[:most]), "") + "…"
	}
	return string(b)
}
