package function

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

// cluster is who answers at all addresses: Services that start for ever, and a
// Broker.
type cluster struct {
	woken, posted chan string
	status        int // of the Broker's answers
}

func (c *cluster) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == "broker" {
		c.posted <- r.URL.Path
		return &http.Response{StatusCode: c.status, Body: http.NoBody}, nil
	}
	c.woken <- r.Method + " " + r.URL.String() + " by " + r.UserAgent()
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// An event neither waits for what wakes along with it nor fails with it.
func TestWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{make(chan string, 20), make(chan string, 20), 0}
		transport, err := withWaking(c, "http://broker/iot/iot", []string{"http://a.iot", "http://b.crm"})
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: transport}
		taken := func(from chan string) (all []string) {
			synctest.Wait()
			for len(from) > 0 {
				all = append(all, <-from)
			}
			slices.Sort(all)
			return all
		}
		both := []string{"GET http://a.iot by telemesh-wake", "GET http://b.crm by telemesh-wake"}
		start := time.Now()
		const refused, accepted = http.StatusServiceUnavailable, http.StatusAccepted
		steps := []struct {
			after  time.Duration
			status int
			event  string
			woken  []string
		}{
			{0, accepted, "x", both},                           // the first event since the process started
			{time.Second, accepted, "x", nil},                  // what was woken runs
			{Quiet, accepted, "x", nil},                        // and still does, because of the event before
			{Quiet + 1, accepted, mesh.TelemetryRejected, nil}, // leads to none of them
			{0, accepted, "x", both},                           // they may be at zero again
			{Quiet - 1, refused, "x", nil},                     // reaches none of them
			{2, refused, "x", both},                            // nor did the one before
			{Quiet + 1, refused, "x", both},                    // nor did this
			{time.Second, accepted, "x", nil},                  // they run, though nothing has come for long
			{Quiet, refused, "x", nil},
			{1, accepted, "x", both},
		}
		for _, step := range steps {
			time.Sleep(step.after)
			before := time.Now()
			c.status = step.status
			if err := Post(t.Context(), client, "http://broker/iot/iot", mesh.NewEvent(step.event, "/s", nil, "1")); (err == nil) != (step.status == accepted) {
				t.Fatalf("after %v: Post = %v when the Broker answers %d", time.Since(start), err, step.status)
			}
			if d := time.Since(before); d != 0 {
				t.Errorf("after %v: the event took %v, want it not to wait", time.Since(start), d)
			}
			if diff := cmp.Diff(step.woken, taken(c.woken)); diff != "" {
				t.Errorf("after %v woken (-want +got):\n%s", time.Since(start), diff)
			}
		}
		if got := taken(c.posted); len(got) != len(steps) {
			t.Errorf("%d events were posted, want %d", len(got), len(steps))
		}
		// What is asked of others wakes nobody.
		time.Sleep(2 * Quiet)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://port/rows", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("GET = %v, want %v", err, context.DeadlineExceeded)
		}
		if got := taken(c.woken); len(got) != 1 {
			t.Errorf("a request to another address: %v, want itself alone", got)
		}
		time.Sleep(wakeWithin) // nothing waits any longer: synctest sees to it
	})
}

// What wakes a function is answered before the function is asked anything.
func TestWokenDoesNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var answered []int
	w := &waker{next: roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			answered = append(answered, resp.StatusCode)
		}
		return resp, err
	})}
	fn := &Function{Handler: made(), HTTP: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the function was asked")
	})}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, silent, fn, "", nil) }()
	w.wake("http://" + listener.Addr().String())
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !slices.Equal(answered, []int{http.StatusOK}) {
		t.Errorf("answered %v, want 200", answered)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestWakeNeedsAddresses(t *testing.T) {
	for _, test := range []struct {
		sink     string
		services []string
		says     string
	}{
		{"", []string{"http://a.iot"}, "K_SINK"},
		{"http://broker/iot/iot", []string{"http://a.iot", "b.crm"}, `"b.crm" is no address`},
	} {
		if _, err := withWaking(http.DefaultTransport, test.sink, test.services); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("withWaking(%q, %q) = %v, want an error that says %s", test.sink, test.services, err, test.says)
		}
	}
	if got, err := withWaking(http.DefaultTransport, "", nil); got != http.DefaultTransport || err != nil {
		t.Errorf("withWaking of nothing = %v, %v, want what it was given", got, err)
	}
}
