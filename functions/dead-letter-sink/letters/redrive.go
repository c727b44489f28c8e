package letters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/sync/errgroup"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

const (
	// atOnce is how many letters of a request are delivered at once.
	atOnce = 8
	// inMemory is how many bytes of data of letters are read by one query; a letter
	// that has more is read alone.
	inMemory = 8 << 20
	// deliverWithin is how long a subscriber may take: a little less than Knative
	// lets this function take (timeoutSeconds), so that an outcome is recorded.
	deliverWithin = 9 * time.Minute
	// maxReply bounds a reply: no Broker takes more.
	maxReply = 64 << 20
	// maxCause is how much of an answer is kept, as Knative keeps of it.
	maxCause = 1024

	extTTL = "knativebrokerttl" // knative.dev/eventing/pkg/broker.TTLAttribute
)

type redriver struct {
	warehouse warehouse.Warehouse
	client    *http.Client
	ingress   url.URL
}

func newRedriver(w warehouse.Warehouse, client *http.Client, ingress string) (*redriver, error) {
	u, err := url.Parse(ingress)
	if err != nil {
		return nil, fmt.Errorf("K_SINK: %w", err)
	}
	own := *client
	own.Timeout = 0 // a subscriber has deliverWithin
	// Who answers with another address is not where the letter was to go.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &redriver{w, &own, url.URL{Scheme: u.Scheme, Host: u.Host}}, nil
}

// redrive delivers the letters that a request names, and records what came of each.
func (r *redriver) redrive(ctx context.Context, in event.Event) error {
	request, err := mesh.Decode[mesh.Redrive](in.Data())
	if err != nil {
		return mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
	}
	if len(request.Letters) == 0 {
		return nil
	}
	subscribers := map[string]string{}
	for _, l := range request.Letters {
		subscribers[l.ID] = l.Subscriber
	}
	done, err := deadletter.Outcomes(ctx, r.warehouse, in.Source(), in.ID())
	if err != nil {
		return err
	}
	var open []deadletter.Letter
	for l, err := range deadletter.OpenOf(ctx, r.warehouse, slices.Sorted(maps.Keys(subscribers))) {
		if err != nil {
			return err
		}
		if _, is := done[l.ID]; !is {
			open = append(open, l)
		}
	}
	for len(open) > 0 {
		var ids []string
		for size := int64(0); len(open) > 0 && (len(ids) == 0 || size+open[0].Size <= inMemory); open = open[1:] {
			ids = append(ids, open[0].ID)
			size += open[0].Size
		}
		if err := r.deliverAll(ctx, in, ids, subscribers); err != nil {
			return err
		}
	}
	return nil
}

// deliverAll delivers letters for a request.
func (r *redriver) deliverAll(ctx context.Context, request event.Event, ids []string, subscribers map[string]string) error {
	letters, err := deadletter.Whole(ctx, r.warehouse, ids)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, l := range letters {
		group.Go(func() error {
			outcome := r.deliver(ctx, l, subscribers[l.ID])
			if ctx.Err() != nil { // it is nothing that came of the letter
				return ctx.Err()
			}
			outcome.LetterID, outcome.RequestSource, outcome.RequestID = l.ID, request.Source(), request.ID()
			outcome.DoneAt = mesh.At(time.Now())
			return deadletter.Record(ctx, r.warehouse, outcome)
		})
	}
	return group.Wait()
}

// deliver brings a letter to where it failed.
func (r *redriver) deliver(ctx context.Context, l deadletter.Read, subscriber string) deadletter.Outcome {
	failed := func(destination string, status int, cause string) deadletter.Outcome {
		cause = strings.TrimSpace(strings.ToValidUTF8(cause[:min(len(cause), maxCause)], "�"))
		return deadletter.Outcome{Outcome: deadletter.Failed, Destination: destination, Status: int64(status), Cause: cause}
	}
	if l.Err != nil {
		return failed("", 0, l.Err.Error())
	}
	address, err := r.addressOf(subscriber)
	if err != nil {
		return failed("", 0, err.Error())
	}
	e := l.Event
	ttl, bounded := e.Extensions()[extTTL]
	e.SetExtension(extTTL, nil)

	ctx, cancel := context.WithTimeout(ctx, deliverWithin)
	defer cancel()
	header := http.Header{"Prefer": {"reply"}}
	if l.Namespace != "" {
		header.Set("Kn-Namespace", l.Namespace)
	}
	a := r.post(ctx, address, e, header)
	switch {
	case a.failed():
		return failed(subscriber, a.status, a.text)
	case a.reply == nil:
		return deadletter.Outcome{Outcome: deadletter.Redriven}
	case l.Namespace == "":
		return failed(subscriber, a.status, "it replied an event, and who delivered the letter did not say of which namespace it is")
	}
	if bounded {
		a.reply.SetExtension(extTTL, ttl)
	}
	broker := r.ingress.JoinPath(l.Namespace, l.Namespace).String()
	if a = r.post(ctx, broker, *a.reply, http.Header{}); a.failed() {
		return failed(broker, a.status, a.text)
	}
	return deadletter.Outcome{Outcome: deadletter.Redriven}
}

// addressOf is where the subscriber of a letter is reached. A Broker is reached at
// the ingress that this function shows itself to.
func (r *redriver) addressOf(subscriber string) (string, error) {
	if subscriber == "" {
		return "", errors.New("the request names no subscriber: who asks says where the event goes")
	}
	u, err := url.Parse(subscriber)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return "", fmt.Errorf("%q is no address that an event is posted to", subscriber)
	}
	if namespace, name, is := brokerOf(u); is {
		return r.ingress.JoinPath(namespace, name).String(), nil
	}
	return subscriber, nil
}

// brokerOf says which Broker an address is of. Ingresses are named
// broker-ingress, those of other classes with the class before it.
func brokerOf(u *url.URL) (namespace, name string, is bool) {
	service, _, _ := strings.Cut(u.Hostname(), ".")
	namespace, name, is = strings.Cut(strings.Trim(u.Path, "/"), "/")
	return namespace, name, is && strings.HasSuffix(service, "broker-ingress") && !strings.Contains(name, "/")
}

// answer is what a subscriber or a Broker answered.
type answer struct {
	status int // 0: nothing
	text   string
	reply  *event.Event
}

func (a answer) failed() bool { return a.status < 200 || a.status > 299 }

// post sends an event as Knative does, and reads the answer by its rules: it is an
// event or empty. knative.dev/eventing/pkg/broker/filter
func (r *redriver) post(ctx context.Context, to string, e event.Event, header http.Header) answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, nil)
	if err != nil {
		return answer{text: err.Error()}
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if err := write(ctx, req, e); err != nil {
		return answer{text: err.Error()}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return answer{text: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxReply))
	a := answer{status: resp.StatusCode}
	switch {
	case a.failed():
		a.text = string(body)
		return a
	case err != nil:
		return answer{text: "read reply: " + err.Error()}
	}
	message := cehttp.NewMessage(resp.Header, io.NopCloser(bytes.NewReader(body)))
	if message.ReadEncoding() == binding.EncodingUnknown {
		if len(body) > 0 {
			return answer{http.StatusBadGateway, "the reply has a body and is no CloudEvent: " + string(body[:min(len(body), 200)]), nil}
		}
		return a
	}
	if a.reply, err = binding.ToEvent(ctx, message); err != nil {
		return answer{http.StatusBadGateway, "read reply: " + err.Error(), nil}
	}
	return a
}

// write puts an event into a request: in binary mode, unless it has what no header
// carries.
func write(ctx context.Context, req *http.Request, e event.Event) error {
	set := req.Header.Clone()
	if err := cehttp.WriteRequest(binding.WithForceBinary(ctx), binding.ToMessage(&e), req); err != nil {
		return err
	}
	for _, values := range req.Header {
		if !httpguts.ValidHeaderFieldValue(values[0]) {
			req.Header = set
			return cehttp.WriteRequest(binding.WithForceStructured(ctx), binding.ToMessage(&e), req)
		}
	}
	return nil
}
