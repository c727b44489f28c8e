package function

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"golang.org/x/net/http/httpguts"
	"knative.dev/pkg/network/handlers"

	"github.com/telemesh/telemesh/internal/mesh"
)

// serving is the configuration that every function has.
type serving struct {
	Port string   `envconfig:"PORT" default:"8080"`
	Sink string   `envconfig:"K_SINK"` // where several events of one handler call go, or the ingress alone
	Wake []string `envconfig:"WAKE"`   // addresses of the Services that what goes to Sink leads to, to be woken along with it
	Data string   `envconfig:"KO_DATA_PATH"`
}

// Main runs a function as a process: it serves on PORT until SIGTERM or an
// interrupt, lets running requests end, and what Run took be handed over, and
// exits.
func Main(name string, start Start) {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("function", name)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // who asks again does not want to wait
	err := run(ctx, log, start)
	stop()
	if err != nil {
		log.Error("function ended", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, start Start) error {
	cfg, err := Config[serving]()
	if err != nil {
		return err
	}
	transport, err := withTokens(http.DefaultTransport, cfg.Sink, tokenFolder)
	if err != nil {
		return err
	}
	if transport, err = withWaking(transport, cfg.Sink, cfg.Wake); err != nil {
		return err
	}
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	ports := Ports{Client: client, Log: log}
	if cfg.Data != "" {
		ports.Data = os.DirFS(cfg.Data)
	}
	fn, err := start(ports)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("", cfg.Port))
	if err != nil {
		return err
	}
	return serve(ctx, listener, log, fn, cfg.Sink, client)
}

// The queue-proxy has Kubernetes send SIGTERM when no request has come for 30
// seconds; some that came before may still run. The quiet period covers what
// reaches the process by another way.
const (
	quietPeriod   = time.Second
	shutdownAfter = 30 * time.Second // for what is no request
	// Longer than queue-proxy and gateways keep a connection that nobody uses (90 s):
	// they close it, and no request meets one that was closed here.
	idleTimeout = 2 * time.Minute
)

func serve(ctx context.Context, listener net.Listener, log *slog.Logger, fn *Function, sink string, client *http.Client) error {
	drainer := &handlers.Drainer{Inner: fn.Serve(log, sink, client), QuietPeriod: quietPeriod, HealthCheckUAPrefixes: []string{wakeAgent}}
	server := &http.Server{Handler: drainer, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTimeout}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	running, stop := context.WithCancel(ctx)
	ran := make(chan error, 1) // closed behind what Run returns
	if fn.Run != nil {
		go func() {
			ran <- fn.Run(running)
			close(ran)
		}()
	}
	log.Info("serving", "address", listener.Addr().String())
	var failed error
	select {
	case failed = <-ended:
	case failed = <-ran:
		if failed == nil && ctx.Err() == nil {
			failed = errors.New("the source ended by itself")
		}
	case <-ctx.Done():
		log.Info("ending")
		drainer.Drain()
		// However long a request takes: Kubernetes knows how long it may, the
		// timeoutSeconds of its Service, and ends the process after that.
		failed = server.Shutdown(context.Background())
	}
	stop()
	ctx, cancel := context.WithTimeout(context.Background(), shutdownAfter)
	defer cancel()
	if fn.Run != nil {
		select {
		case err := <-ran:
			failed = errors.Join(failed, err)
		case <-ctx.Done():
			failed = errors.Join(failed, fmt.Errorf("end the source: %w", ctx.Err()))
		}
	}
	failed = errors.Join(failed, server.Shutdown(ctx))
	if fn.Close != nil {
		failed = errors.Join(failed, fn.Close(ctx))
	}
	return failed
}

// Serve serves events by the handler and everything else by HTTP. Several events
// of one handler call are posted to sink.
func (fn *Function) Serve(log *slog.Logger, sink string, client *http.Client) http.Handler {
	switch {
	case fn.Handler == nil && fn.HTTP == nil: // a source: its probes are all that comes
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	case fn.Handler == nil:
		return fn.HTTP
	case fn.HTTP == nil:
		return Events(fn.Handler, log, sink, client)
	}
	events := Events(fn.Handler, log, sink, client)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/" {
			events.ServeHTTP(w, r)
			return
		}
		fn.HTTP.ServeHTTP(w, r)
	})
}

// retryAfter is what a passing failure asks the Broker to wait, in seconds.
const retryAfter = 1

// Events serves a handler over the CloudEvents HTTP binding and Knative's
// reply rules: no new event is 204, one is the reply, several are posted to
// sink before 202 is answered. A permanent error is 400, any other 503.
func Events(handle Handler, log *slog.Logger, sink string, client *http.Client) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in, err := cehttp.NewEventFromHTTPRequest(r)
		if err == nil {
			err = in.Validate()
		}
		if err != nil {
			refuse(w, fmt.Sprintf("read CloudEvent: %v", err), http.StatusBadRequest)
			return
		}
		out, err := handle(WithPath(r.Context(), r.URL.Path), *in)
		if err == nil && len(out) > 1 {
			err = postAll(r.Context(), client, sink, out)
		}
		switch {
		case err != nil:
			log.Warn("event not handled", "event.id", in.ID(), "event.type", in.Type(),
				"permanent", mesh.IsPermanent(err), "error", err)
			status := http.StatusServiceUnavailable
			if mesh.IsPermanent(err) {
				status = http.StatusBadRequest
			} else {
				w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
			}
			refuse(w, err.Error(), status)
		case len(out) == 0:
			w.WriteHeader(http.StatusNoContent)
		case len(out) == 1:
			if err := cehttp.WriteResponseWriter(r.Context(), (*binding.EventMessage)(&out[0]), http.StatusOK, w); err != nil {
				log.Warn("reply not written", "event.id", in.ID(), "event.type", in.Type(), "error", err)
			}
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	})
}

// maxCause is what fits into the knativeerrordata of a dead letter. A longer
// answer ends the process of Knative's in-memory channels (v0.50.0,
// pkg/kncloudevents/event_dispatcher.go, dispatchExecutionInfoTransformers), and
// with it the events of the whole cluster that are in them.
const maxCause = 768

func refuse(w http.ResponseWriter, cause string, status int) {
	const most = maxCause - len("\n") // of http.Error
	if len(cause) > most {
		const more = "…"
		cause = strings.ToValidUTF8(cause[:most-len(more)], "") + more
	}
	http.Error(w, cause, status)
}

type pathKey struct{}

// Path is the path of the request that brought a Handler its event. A Trigger
// says by it, as the uri beside the ref of its subscriber, what no event says of
// itself: which Broker it comes from. Empty: ctx is of no such request.
func Path(ctx context.Context) string {
	path, _ := ctx.Value(pathKey{}).(string)
	return path
}

// WithPath is ctx for a Handler whose event comes by no request, or to another
// path than the caller was asked for.
func WithPath(ctx context.Context, path string) context.Context {
	return context.WithValue(ctx, pathKey{}, path)
}

func postAll(ctx context.Context, client *http.Client, sink string, events []event.Event) error {
	if sink == "" {
		return fmt.Errorf("%d events to post and no K_SINK: set it to the broker's ingress", len(events))
	}
	for i := range events {
		if err := Post(ctx, client, sink, events[i]); err != nil {
			return err
		}
	}
	return nil
}

// Post sends e to url in binary mode. The error is permanent where the
// receiver says that the event can never be accepted. That it is not accepted
// from this sender says nothing of the event: when somebody has seen to it, the
// same event is.
func Post(ctx context.Context, client *http.Client, url string, e event.Event) error {
	req, err := cehttp.NewHTTPRequestFromEvent(ctx, url, e)
	if err != nil {
		return mesh.Permanentf("post %s %s: %w", e.Type(), e.ID(), err)
	}
	// What no header can carry fails in the client, where it looks as if the
	// network had failed.
	for header, values := range req.Header {
		if !httpguts.ValidHeaderFieldValue(values[0]) {
			return mesh.Permanentf("post %s %s: attribute %s: %q cannot be sent as a header", e.Type(), e.ID(), strings.ToLower(strings.TrimPrefix(header, "Ce-")), values[0])
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("post %s %s: %w", e.Type(), e.ID(), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		return nil
	}
	err = fmt.Errorf("post %s %s to %s: %w", e.Type(), e.ID(), url, StatusError(resp))
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%w: who sends shows a token of its ServiceAccount, mounted below %s", err, tokenFolder)
	case resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: no EventPolicy lets the ServiceAccount of who sends send this type there", err)
	case !Retriable(resp.StatusCode):
		return mesh.Permanent(err)
	}
	return err
}

// Retriable says whether Knative delivers an event again after this status.
// https://knative.dev/docs/eventing/features/delivery-timeout and
// knative.dev/eventing/pkg/kncloudevents: 404, 408, 409, 429 and 5xx.
func Retriable(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}
