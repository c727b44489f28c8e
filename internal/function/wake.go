package function

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Quiet is how long nothing may be posted before the next event wakes. A Service
// is at zero when no request came for its idle window, which has to be longer:
// then whoever has posted an event within Quiet leads to Services that run.
// internal/manifest refuses another window.
const Quiet = 20 * time.Second

// wakeWithin is how long a Service may take to start before nobody waits for it
// any more. It starts all the same.
const wakeWithin = time.Minute

// wakeAgent is the User-Agent of a request that only wakes. Functions answer it
// before anything else, and as Kubernetes does not send it, Knative starts them
// for it as for an event.
const wakeAgent = "telemesh-wake"

// waker wakes Services along with what is posted to the Brokers at an ingress,
// after a quiet time. Without it those that an event leads to start one after the
// other, each when the one before has answered.
type waker struct {
	scheme, host string // of the ingress
	services     []string
	next         http.RoundTripper

	mu   sync.Mutex
	last time.Time // that the Services were given a reason to run
}

// withWaking is next, or where there are Services to wake a waker before it.
func withWaking(next http.RoundTripper, sink string, services []string) (http.RoundTripper, error) {
	if len(services) == 0 {
		return next, nil
	}
	u, err := url.Parse(sink)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("WAKE: it says what to wake along with what goes to K_SINK, which is %q", sink)
	}
	for _, service := range services {
		if u, err := url.Parse(service); err != nil || u.Host == "" {
			return nil, fmt.Errorf("WAKE: %q is no address of a Service: give http://NAME.NAMESPACE.svc.cluster.local, separated by commas", service)
		}
	}
	return &waker{scheme: u.Scheme, host: u.Host, services: services, next: next}, nil
}

func (w *waker) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != w.scheme || r.URL.Host != w.host || r.Header.Get("Ce-Type") == mesh.TelemetryRejected {
		// Rejections go to the table of rejections and no further. Messages that are
		// rejected behind the Broker cannot be told from others here: while a device
		// sends nothing else, what comes after them in the path is started by the next
		// event that can be read, as without waking.
		return w.next.RoundTrip(r)
	}
	begun := time.Now()
	if w.reason(begun, Quiet) {
		for _, service := range w.services {
			go w.wake(service)
		}
	}
	resp, err := w.next.RoundTrip(r)
	if err == nil && resp.StatusCode/100 == 2 {
		// As of its beginning: a Broker may answer long after the first of the
		// Services had the event.
		w.reason(begun, 0)
	}
	return resp, err
}

// reason notes that the Services have a reason to run as of an instant, if the one
// before is longer ago than that, and says whether it is. An event that the Broker
// refuses is none: events that are refused for long wake again and again, so that
// the first one that is taken finds Services that run.
func (w *waker) reason(at time.Time, after time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at.Sub(w.last) <= after {
		return false
	}
	w.last = at
	return true
}

// wake gives a Service a reason to run. If that fails the event will.
func (w *waker) wake(service string) {
	ctx, cancel := context.WithTimeout(context.Background(), wakeWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, service, nil)
	if err != nil {
		return
	}
	req.Header.Set("User-Agent", wakeAgent)
	resp, err := w.next.RoundTrip(req)
	if err != nil {
		return
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}
