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
	"sync"
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
	// beginWithin is for how long a request begins to deliver letters, of the ten
	// minutes that its Service's timeoutSeconds leave it: those that it has begun have
	// six. What is left is for the next attempt.
	beginWithin = 4 * time.Minute
	// deliverWithin is how long a subscriber may take: longer than any Service may, and
	// shorter than a request and the grace after it.
	deliverWithin = 10*time.Minute + 30*time.Second
	// grace is for how long letters stay with their subscribers when the request has
	// ended, before they are left to the next attempt: what ends the process waits for it.
	grace = time.Minute
	// recordWithin is how long the warehouse may take.
	recordWithin = 2 * time.Minute
	// maxReply bounds a reply: no Broker takes more.
	maxReply = 64 << 20
	// maxCause is how much of an answer is kept, as Knative keeps of it.
	maxCause = 1024

	extTTL = "knativebrokerttl" // knative.dev/eventing/pkg/broker.TTLAttribute

	// requestTrigger is the name of the Triggers that bring requests here.
	requestTrigger = "dead-letter-redrive"
)

type redriver struct {
	warehouse warehouse.Warehouse
	client    *http.Client
	ingress   url.URL
	memory    memory
	grace     time.Duration
	claims    claims
}

func newRedriver(w warehouse.Warehouse, client *http.Client, ingress string, m memory) (*redriver, error) {
	u, err := url.Parse(ingress)
	if err != nil {
		return nil, fmt.Errorf("K_SINK: %w", err)
	}
	own := *client
	own.Timeout = 0 // a subscriber has deliverWithin
	// Who answers with another address is not where the letter was to go.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &redriver{warehouse: w, client: &own, ingress: url.URL{Scheme: u.Scheme, Host: u.Host}, memory: m, grace: grace}, nil
}

// redrive delivers the letters that a request names, or gives them up as it says, and
// records what came of each.
func (r *redriver) redrive(ctx context.Context, in event.Event) error {
	request, err := mesh.Decode[mesh.Redrive](in.Data())
	if err != nil {
		return mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
	}
	subscribers, discard := map[string]string{}, map[string]string{}
	for _, l := range request.Letters {
		subscribers[l.ID], discard[l.ID] = l.Subscriber, l.Discard
	}
	life, end := outlive(ctx, r.grace)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, beginWithin)
	defer cancel()
	// What an attempt before has begun goes on after its request was given up.
	release, err := r.claims.take(ctx, slices.Collect(maps.Keys(subscribers)))
	if err != nil {
		return fmt.Errorf("wait for another request that delivers the same letters: %w", err)
	}
	defer release()
	done, err := deadletter.Outcomes(ctx, r.warehouse, 0, in.Source(), in.ID())
	if err != nil {
		return err
	}
	maps.DeleteFunc(subscribers, func(id, _ string) bool { _, is := done[id]; return is })
	if len(subscribers) == 0 {
		return nil
	}
	var open []deadletter.Letter
	for l, err := range deadletter.OpenOf(ctx, r.warehouse, slices.Sorted(maps.Keys(subscribers))) {
		if err != nil {
			return err
		}
		open = append(open, l)
	}
	errs := []error{r.leave(ctx, in, subscribers, open)}
	open = slices.DeleteFunc(open, func(l deadletter.Letter) bool {
		why := discard[l.ID]
		if why != "" {
			errs = append(errs, r.record(ctx, in, l.ID, deadletter.Outcome{Outcome: deadletter.Discarded, Cause: why}))
		}
		return why != ""
	})
	for len(open) > 0 && ctx.Err() == nil {
		var ids []string
		size := int64(0)
		for ; len(open) > 0 && (len(ids) == 0 || size+open[0].Size <= inMemory); open = open[1:] {
			ids = append(ids, open[0].ID)
			size += open[0].Size
		}
		var letters []deadletter.Read
		err := r.memory.hold(ctx, size, func() (err error) {
			letters, err = deadletter.Whole(ctx, r.warehouse, ids)
			return err
		})
		errs = append(errs, err, each(letters, func(l deadletter.Read) error {
			if ctx.Err() != nil {
				return nil
			}
			outcome := r.deliver(life, l, subscribers[l.ID])
			if outcome.Outcome == deadletter.Failed && life.Err() != nil { // it is nothing that came of the letter
				return fmt.Errorf("deliver dead letter %s: %w", l.ID, life.Err())
			}
			return r.record(ctx, in, l.ID, outcome)
		}))
	}
	if ctx.Err() != nil {
		errs = append(errs, fmt.Errorf("what has no outcome yet is left to the next attempt: %w", ctx.Err()))
	}
	return errors.Join(errs...)
}

// leave records outcomes of those letters that a request names and that are not open.
func (r *redriver) leave(ctx context.Context, request event.Event, named map[string]string, open []deadletter.Letter) error {
	closed := maps.Clone(named)
	for _, l := range open {
		delete(closed, l.ID)
	}
	if len(closed) == 0 {
		return nil
	}
	ids := slices.Sorted(maps.Keys(closed))
	ends, err := deadletter.Ends(ctx, r.warehouse, ids)
	if err != nil {
		return err
	}
	return each(ids, func(id string) error {
		o := failed("", 0, "there is no such dead letter")
		if end, is := ends[id]; is {
			o = deadletter.Outcome{Outcome: deadletter.Closed, Cause: end.Outcome + " before, at " + end.DoneAt.String()}
		}
		return r.record(ctx, request, id, o)
	})
}

// record stores what a request led to for a letter, also when the request was given up
// meanwhile: on in-memory channels that is when who posted it goes away.
func (r *redriver) record(ctx context.Context, request event.Event, id string, o deadletter.Outcome) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWithin)
	defer cancel()
	o.LetterID, o.RequestSource, o.RequestID = id, request.Source(), request.ID()
	o.DoneAt = mesh.At(time.Now())
	if err := deadletter.Record(ctx, r.warehouse, o); err != nil {
		return fmt.Errorf("record that dead letter %s is %s: %w", id, o.Outcome, err)
	}
	return nil
}

// outlive gives a context that is done a while after another is.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(by):
			end()
		case <-life.Done():
		}
	})
	return life, func() {
		stop()
		end()
	}
}

// each does something with all of some things, a few at once, and gives all errors.
func each[T any](all []T, do func(T) error) error {
	errs := make([]error, len(all))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, one := range all {
		group.Go(func() error {
			errs[i] = do(one)
			return nil
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// claims are the letters that requests are at, in this process.
type claims struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // by which request: closed when it is done
}

// take waits until no other request is at any of some letters, and takes them all.
func (c *claims) take(ctx context.Context, ids []string) (release func(), err error) {
	mine := make(chan struct{})
	for {
		busy := c.try(ids, mine)
		if busy == nil {
			return func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				maps.DeleteFunc(c.taken, func(_ string, by chan struct{}) bool { return by == mine })
				close(mine)
			}, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// try takes all of some letters or gives a request that is at one of them.
func (c *claims) try(ids []string, mine chan struct{}) (busy <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if by, is := c.taken[id]; is {
			return by
		}
	}
	if c.taken == nil {
		c.taken = map[string]chan struct{}{}
	}
	for _, id := range ids {
		c.taken[id] = mine
	}
	return nil
}

func failed(destination string, status int, cause string) deadletter.Outcome {
	cause = strings.TrimSpace(strings.ToValidUTF8(cause[:min(len(cause), maxCause)], "�"))
	return deadletter.Outcome{Outcome: deadletter.Failed, Destination: destination, Status: int64(status), Cause: cause}
}

// deliver brings a letter to the subscriber of its Trigger.
func (r *redriver) deliver(ctx context.Context, l deadletter.Read, subscriber string) deadletter.Outcome {
	if l.Err != nil {
		return failed("", 0, l.Err.Error())
	}
	// Its letters are open, and may be asked for by the request that this one is: they
	// would be delivered by both.
	if l.Event.Type() == mesh.RedriveRequested && l.Trigger == requestTrigger {
		return deadletter.Outcome{Outcome: deadletter.Discarded, Cause: "a request is not made again by a redrive: of the letters that it names, ask for those that are open"}
	}
	address, err := r.addressOf(subscriber)
	if err != nil {
		return failed("", 0, err.Error())
	}
	e := l.Event
	ttl, bounded := e.Extensions()[extTTL]
	e.SetExtension(extTTL, nil)

	header := http.Header{"Prefer": {"reply"}}
	if l.Namespace != "" {
		header.Set("Kn-Namespace", l.Namespace)
	}
	a := r.post(ctx, address, e, header)
	switch {
	case a.failed():
		return failed(address, a.status, a.text)
	case a.reply == nil:
		return deadletter.Outcome{Outcome: deadletter.Redriven}
	case l.Namespace == "":
		return failed(address, a.status, "it replied an event, and who delivered the letter did not say of which namespace it is")
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
// event or empty (knative.dev/eventing/pkg/broker/filter).
func (r *redriver) post(ctx context.Context, to string, e event.Event, header http.Header) answer {
	ctx, cancel := context.WithTimeout(ctx, deliverWithin)
	defer cancel()
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
