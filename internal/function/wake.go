package function

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// A Service is at zero when no request came for its idle window, which is 30
// seconds in config/: whoever has posted nothing for less than that leads to
// Services that run.
const quiet = 20 * time.Second

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
	last         atomic.Int64 // when something was posted, in nanoseconds since 1970
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
	if r.URL.Scheme == w.scheme && r.URL.Host == w.host {
		now := time.Now().UnixNano()
		if now-w.last.Swap(now) > int64(quiet) {
			for _, service := range w.services {
				go w.wake(service)
			}
		}
	}
	return w.next.RoundTrip(r)
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
