package function

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

var silent = slog.New(slog.DiscardHandler)

// sink is a broker's ingress that keeps the ids it accepts, or answers status.
type sink struct {
	*httptest.Server
	status int

	mu  sync.Mutex
	ids []string
}

func newSink(t *testing.T, status int) *sink {
	s := &sink{status: status}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := cehttp.NewEventFromHTTPRequest(r)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ids = append(s.ids, e.ID())
		w.WriteHeader(s.status)
		io.WriteString(w, "said the sink")
	}))
	t.Cleanup(s.Close)
	return s
}

func made(ids ...string) Handler {
	return func(_ context.Context, in event.Event) ([]event.Event, error) {
		var out []event.Event
		for _, id := range ids {
			e := mesh.Derive(in, "test", "made", id, []byte(`{}`))
			e.SetID(id)
			out = append(out, e)
		}
		return out, nil
	}
}

func deliver(t *testing.T, handler http.Handler) *http.Response {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	req, err := cehttp.NewHTTPRequestFromEvent(t.Context(), server.URL, mesh.NewEvent("given", "/test", []byte(`{}`), "1"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// Knative takes one event as the reply; a 2xx with any other body becomes 502.
func TestReplies(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		resp := deliver(t, Events(made(), silent, "", http.DefaultClient))
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusNoContent || len(body) != 0 {
			t.Errorf("answer %d %q, want 204 without body", resp.StatusCode, body)
		}
	})
	t.Run("one", func(t *testing.T) {
		resp := deliver(t, Events(made("a"), silent, "", http.DefaultClient))
		e, err := cehttp.NewEventFromHTTPResponse(resp)
		if err != nil || resp.StatusCode != http.StatusOK || e.ID() != "a" || e.Type() != "made" {
			t.Errorf("answer %d %v, %v, want 200 with event a", resp.StatusCode, e, err)
		}
	})
	t.Run("several", func(t *testing.T) {
		s := newSink(t, http.StatusAccepted)
		resp := deliver(t, Events(made("a", "b", "c"), silent, s.URL, http.DefaultClient))
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusAccepted || len(body) != 0 {
			t.Errorf("answer %d %q, want 202 without body", resp.StatusCode, body)
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, s.ids); diff != "" {
			t.Errorf("posted (-want +got):\n%s", diff)
		}
	})
}

// The status decides whether the Broker delivers the event again.
func TestErrorsDecideDelivery(t *testing.T) {
	fail := func(err error) Handler {
		return func(context.Context, event.Event) ([]event.Event, error) { return nil, err }
	}
	for _, test := range []struct {
		name    string
		handler http.Handler
		status  int
		again   bool
	}{
		{"permanent", Events(fail(mesh.Permanentf("field ts: no time")), silent, "", nil), http.StatusBadRequest, false},
		{"passing", Events(fail(errors.New("field ts: away")), silent, "", nil), http.StatusServiceUnavailable, true},
		{"several and no sink", Events(made("a", "b"), silent, "", nil), http.StatusServiceUnavailable, true},
		{"sink is full", Events(made("a", "b"), silent, newSink(t, http.StatusTooManyRequests).URL, http.DefaultClient), http.StatusServiceUnavailable, true},
		// A right that is missing is given one day; an event that is given up is lost.
		{"sink knows no sender", Events(made("a", "b"), silent, newSink(t, http.StatusUnauthorized).URL, http.DefaultClient), http.StatusServiceUnavailable, true},
		{"sink refuses the sender", Events(made("a", "b"), silent, newSink(t, http.StatusForbidden).URL, http.DefaultClient), http.StatusServiceUnavailable, true},
		{"sink refuses for good", Events(made("a", "b"), silent, newSink(t, http.StatusRequestEntityTooLarge).URL, http.DefaultClient), http.StatusBadRequest, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp := deliver(t, test.handler)
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != test.status || len(body) == 0 {
				t.Errorf("answer %d %q, want %d with the cause", resp.StatusCode, body, test.status)
			}
			if Retriable(resp.StatusCode) != test.again || (resp.Header.Get("Retry-After") != "") != test.again {
				t.Errorf("delivered again: %v, Retry-After %q, want %v", Retriable(resp.StatusCode), resp.Header.Get("Retry-After"), test.again)
			}
		})
	}
}

// Knative's in-memory channels end when an answer is longer than 768 bytes.
func TestCauseFitsIntoADeadLetter(t *testing.T) {
	for _, length := range []int{1, 766, 767, 768, 5000} {
		cause := strings.Repeat("ü", length/2) + strings.Repeat("x", length%2)
		resp := deliver(t, Events(func(context.Context, event.Event) ([]event.Event, error) {
			return nil, mesh.Permanentf("%s", cause)
		}, silent, "", nil))
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.TrimSuffix(string(body), "\n")
		if len(body) > 768 || !utf8.ValidString(text) {
			t.Errorf("a cause of %d bytes is answered with %d bytes: %q", length, len(body), body)
		}
		if length < 768 && text != cause || !strings.HasPrefix(cause, strings.TrimSuffix(text, "…")) {
			t.Errorf("a cause of %d bytes is answered with %q", length, text)
		}
	}
}

func TestNoCloudEventIs400(t *testing.T) {
	server := httptest.NewServer(Events(made(), silent, "", nil))
	defer server.Close()
	for name, header := range map[string]string{"none": "", "without id": "1.0"} {
		req, _ := http.NewRequest(http.MethodPost, server.URL, strings.NewReader("{}"))
		if header != "" {
			req.Header.Set("Ce-Specversion", header)
			req.Header.Set("Ce-Type", "t")
			req.Header.Set("Ce-Source", "/s")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", name, resp.StatusCode)
		}
	}
}

// A request that runs when the process is told to end is answered.
func TestShutdownWaitsForRequests(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	closed := false
	fn := &Function{
		HTTP: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			stop()
			io.WriteString(w, "answered")
		}),
		Close: func(context.Context) error { closed = true; return nil },
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, silent, fn, "", nil) }()
	resp, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "answered" {
		t.Errorf("body %q, want answered", body)
	}
	if err := <-ended; err != nil || !closed {
		t.Errorf("serve = %v, closed %v, want nil and closed", err, closed)
	}
}

// pipes is a listener whose connections are in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// A repair takes minutes. One that runs when the process is told to end is
// answered, and what it needs is closed after it.
func TestShutdownWaitsForLongRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const long = 9 * time.Minute
		ctx, stop := context.WithCancel(t.Context())
		var order []string
		fn := &Function{
			HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				stop()
				select {
				case <-time.After(long):
					order = append(order, "answered")
				case <-r.Context().Done():
					order = append(order, "given up")
				}
			}),
			Close: func(ctx context.Context) error { order = append(order, "closed"); return ctx.Err() },
		}
		listener := make(pipes)
		ended := make(chan error, 1)
		go func() { ended <- serve(ctx, listener, silent, fn, "", nil) }()
		client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			listener <- there
			return here, nil
		}}}
		resp, err := client.Get("http://function/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if err := <-ended; err != nil {
			t.Errorf("serve = %v, want nil", err)
		}
		if diff := cmp.Diff([]string{"answered", "closed"}, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}

// A source answers its probes while it runs, and hands over what it took before
// what it needs for that is closed.
func TestSourceRunsUntilTheProcessEnds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var order []string
	fn := &Function{
		Run: func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, "drained")
			return nil
		},
		Close: func(context.Context) error { order = append(order, "closed"); return nil },
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, silent, fn, "", nil) }()
	resp, err := http.Get("http://" + listener.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("probe: status %d, want 200", resp.StatusCode)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("serve = %v, want nil", err)
	}
	if diff := cmp.Diff([]string{"drained", "closed"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// A process that serves probes and fetches nothing would look well for ever.
func TestSourceThatEndsEndsTheProcess(t *testing.T) {
	for name, err := range map[string]error{"with an error": errors.New("no such host"), "by itself": nil} {
		listener, listenErr := net.Listen("tcp", "127.0.0.1:0")
		if listenErr != nil {
			t.Fatal(listenErr)
		}
		closed := false
		fn := &Function{
			Run:   func(context.Context) error { return err },
			Close: func(context.Context) error { closed = true; return nil },
		}
		got := serve(t.Context(), listener, silent, fn, "", nil)
		if got == nil || err != nil && !errors.Is(got, err) || !closed {
			t.Errorf("%s: serve = %v, closed %v, want its error and closed", name, got, closed)
		}
	}
}

func TestConfigNamesWhatIsMissing(t *testing.T) {
	type config struct {
		URL string `envconfig:"SOME_URL" required:"true"`
	}
	if _, err := Config[config](); err == nil || !strings.Contains(err.Error(), "SOME_URL") {
		t.Errorf("Config = %v, want an error that names SOME_URL", err)
	}
	t.Setenv("SOME_URL", "http://x")
	if c, err := Config[config](); err != nil || c.URL != "http://x" {
		t.Errorf("Config = %+v, %v", c, err)
	}
}

func TestPath(t *testing.T) {
	var got string
	server := httptest.NewServer(Events(func(ctx context.Context, _ event.Event) ([]event.Event, error) {
		got = Path(ctx)
		return nil, nil
	}, silent, "", nil))
	t.Cleanup(server.Close)
	if err := Post(t.Context(), http.DefaultClient, server.URL+"/iot/iot", mesh.NewEvent("given", "/test", []byte(`{}`), "1")); err != nil {
		t.Fatal(err)
	}
	if got != "/iot/iot" {
		t.Errorf("path %q, want that of the request", got)
	}
	if path := Path(t.Context()); path != "" {
		t.Errorf("path %q of no request", path)
	}
}
