package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	duckv1 "knative.dev/eventing/pkg/apis/duck/v1"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
)

func TestARunGoesOnWhereTheLastOneEnded(t *testing.T) {
	var got, late inbox
	var up atomic.Bool
	tried := make(chan string, 100)
	cfg := Config{
		Dir: t.TempDir(),
		Manifests: manifests(t, strings.Replace(brokerYAML, "PT0.1S", "PT1H", 1)+
			serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), "")),
		Functions: handlers(map[string]function.Handler{
			"sink": func(ctx context.Context, e event.Event) ([]event.Event, error) {
				if !up.Load() {
					tried <- e.ID()
					return nil, errors.New("down")
				}
				return got.handle(ctx, e)
			},
			"late": late.handle,
		}),
	}
	m := open(t, cfg)
	for i := range 10 {
		post(t, m.Client(), newEvent(fmt.Sprint(i), "a", "x"))
	}
	for range 10 {
		<-tried // linear backoff: the first retry comes at once, the second in an hour
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	// A trigger added now sees new events only; the other sees the old ones at
	// once, not in an hour.
	up.Store(true)
	cfg.Manifests = manifests(t, brokerYAML+serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), "")+
		serviceYAML("late")+triggerYAML("late", "a", toService("late"), ""))
	m = open(t, cfg)
	post(t, m.Client(), newEvent("new", "a", "x"))
	idle(t, m)
	ids := got.ids()
	slices.Sort(ids)
	if diff := cmp.Diff([]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "new"}, ids); diff != "" {
		t.Errorf("delivered by the second run (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"new"}, late.ids()); diff != "" {
		t.Errorf("delivered to the new trigger (-want +got):\n%s", diff)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	// A trigger that is gone keeps no event.
	cfg.Manifests = manifests(t, brokerYAML+serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), ""))
	m = open(t, cfg)
	post(t, m.Client(), newEvent("last", "a", "x"))
	idle(t, m)
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	store, err := openStore(cfg.Dir, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer store.close()
	stream, err := store.js.Stream(t.Context(), streamName(manifest.Ref{Namespace: "iot", Name: "iot"}))
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.Consumers != 1 || state.Msgs != 0 {
		t.Errorf("the store has %d consumers and %d events, want 1 and 0", state.Consumers, state.Msgs)
	}
	consumer, err := store.js.Consumer(t.Context(), stream.CachedInfo().Config.Name, "iot_sink")
	if err != nil {
		t.Fatal(err)
	}
	if info := consumer.CachedInfo(); info.NumAckPending != 0 {
		t.Errorf("%d events would be delivered again after an orderly end, want 0", info.NumAckPending)
	}
}

func TestEventsThatNobodyReadsAreAccepted(t *testing.T) {
	m := open(t, Config{Manifests: manifests(t, brokerYAML)})
	if status := post(t, m.Client(), newEvent("1", "unread", "x")); status != http.StatusAccepted {
		t.Errorf("status %d, want 202", status)
	}
	idle(t, m)
}

func TestTheMeshPushesBack(t *testing.T) {
	entered, release := make(chan struct{}, 10), make(chan struct{})
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("first")+serviceYAML("slow")+
			triggerYAML("first", "a", toService("first"), "")+triggerYAML("slow", "b", toService("slow"), "")),
		Functions: map[string]function.Start{
			// It posts what comes of an event, as a function with K_SINK does.
			"first": func(ports function.Ports) (*function.Function, error) {
				return &function.Function{Handler: func(ctx context.Context, e event.Event) ([]event.Event, error) {
					return nil, function.Post(ctx, ports.Client, ingressURL, newEvent("of "+e.ID(), "b", "x"))
				}}, nil
			},
			"slow": func(function.Ports) (*function.Function, error) {
				return &function.Function{Handler: func(context.Context, event.Event) ([]event.Event, error) {
					entered <- struct{}{}
					<-release
					return nil, nil
				}}, nil
			},
		},
	})
	m.backlog.mu.Lock()
	m.backlog.maxPairs = 1
	m.backlog.mu.Unlock()
	if status := post(t, m.Client(), newEvent("1", "a", "x")); status != http.StatusAccepted {
		t.Fatalf("status %d, want 202", status)
	}
	// The backlog is full, and what comes of event 1 gets in all the same, or
	// the mesh would stand still.
	<-entered

	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the patience of the ingress, used up
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/iot/iot", strings.NewReader("x"))
	r.Header = http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"2"}, "Ce-Type": {"a"}, "Ce-Source": {"/s"}}
	m.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "too much to deliver") {
		t.Errorf("a full mesh answers %d %s with %v, want 503 with Retry-After and why", w.Code, w.Body, w.Header())
	}

	accepted := make(chan int)
	go func() { accepted <- post(t, m.Client(), newEvent("3", "a", "x")) }()
	select {
	case status := <-accepted:
		t.Errorf("a full mesh answers %d at once to a client inside, want it to wait", status)
	default:
	}
	close(release)
	if status := <-accepted; status != http.StatusAccepted {
		t.Errorf("after there is room: %d, want 202", status)
	}
	idle(t, m)
	if n := len(letters(t, m.DeadLetters())); n != 0 {
		t.Errorf("%d dead letters: what is pushed back is none", n)
	}
}

func TestServicesStartWithTheirEnvironment(t *testing.T) {
	t.Setenv("TEST_B", "of the process")
	var seen []string
	start := func(function.Ports) (*function.Function, error) {
		seen = append(seen, fmt.Sprint(os.Getenv("TEST_NAME"), " ", os.Getenv("TEST_B"), " ", os.Getenv("TEST_C")))
		return &function.Function{HTTP: http.NotFoundHandler()}, nil
	}
	needs := strings.Replace(serviceYAML("a"), "{name: TEST_NAME, value: a}", "{name: TEST_NAME, value: a}, {name: TEST_B, value: 'http://b.iot.svc.cluster.local'}", 1)
	open(t, Config{
		Manifests: manifests(t, needs+serviceYAML("b")),
		Functions: map[string]function.Start{"a": start, "b": start},
		Set:       map[manifest.Ref]map[string]string{{Namespace: "iot", Name: "b"}: {"TEST_C": "set"}},
	})
	want := []string{"b of the process set", "a http://b.iot.svc.cluster.local "} // b first: a needs it
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("environments (-want +got):\n%s", diff)
	}
	if got := fmt.Sprint(os.Getenv("TEST_B"), os.Getenv("TEST_NAME"), os.Getenv("TEST_C")); got != "of the process" {
		t.Errorf("the environment afterwards has %q", got)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	sink := handlers(map[string]function.Handler{"sink": nil})
	secret := strings.Replace(serviceYAML("sink"), "value: sink}]", "valueFrom: {secretKeyRef: {name: s, key: k}}}]", 1)
	foreign := strings.Replace(serviceYAML("sink"), "ko://github.com/telemesh/telemesh/functions/sink", "example.com/other", 1)
	fails := func(function.Ports) (*function.Function, error) { return nil, errors.New("no config") }
	for name, test := range map[string]struct {
		yaml      string
		functions map[string]function.Start
		want      string
	}{
		"no function":    {serviceYAML("sink"), nil, `test/mesh.yaml:3: Service iot/sink: there is no function "sink"`},
		"secret":         {secret, sink, "TEST_NAME comes from the cluster: set a value"},
		"start fails":    {serviceYAML("sink"), map[string]function.Start{"sink": fails}, "start Service iot/sink: no config"},
		"no subscriber":  {brokerYAML + triggerYAML("sink", "a", toService("sink"), ""), nil, "Trigger iot/sink: there is no Service iot/sink"},
		"no broker":      {triggerYAML("sink", "a", "{uri: 'http://example.com'}", ""), nil, "there is no Broker iot/iot"},
		"not run here":   {brokerYAML + foreign + triggerYAML("sink", "a", toService("sink"), ""), nil, "its image is no function"},
		"no sink broker": {brokerYAML + triggerYAML("sink", "a", "{uri: 'http://example.com'}", "  delivery: {deadLetterSink: {uri: 'http://"+manifest.IngressHost+"/a/b'}}\n"), nil, "dead letter sink: there is no Broker a/b"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Open(t.Context(), Config{Dir: dir, Manifests: manifests(t, test.yaml), Functions: test.functions})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open = %v, want an error with %q", err, test.want)
			}
			// What was begun is ended: the folder can be opened again.
			m, err := Open(t.Context(), Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestClientReachesServicesAndTheNetwork(t *testing.T) {
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "outside") }))
	defer outside.Close()
	var closed atomic.Bool
	m := open(t, Config{
		Manifests: manifests(t, serviceYAML("port")),
		Functions: map[string]function.Start{"port": func(function.Ports) (*function.Function, error) {
			return &function.Function{
				HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("ETag", "1")
					w.WriteHeader(http.StatusTeapot)
					w.Header().Set("Late", "1")
					fmt.Fprint(w, r.Method, " ", r.Host, " ", r.RequestURI)
				}),
				Close: func(context.Context) error { closed.Store(true); return nil },
			}, nil
		}},
	})
	get := func(url string) string {
		resp, err := m.Client().Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d %q %q %s", resp.StatusCode, resp.Header.Get("ETag"), resp.Header.Get("Late"), strings.TrimSpace(string(body)))
	}
	for url, want := range map[string]string{
		"http://port.iot.svc.cluster.local/a?b=c": `418 "1" "" GET port.iot.svc.cluster.local /a?b=c`,
		"http://none.iot.svc.cluster.local/":      `404 "" "" Service iot/none does not exist`,
		outside.URL:                               `200 "" "" outside`,
	} {
		if got := get(url); got != want {
			t.Errorf("GET %s: %s, want %s", url, got, want)
		}
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !closed.Load() {
		t.Error("the function is not closed with the mesh")
	}
	if status := post(t, m.Client(), newEvent("1", "a", "x")); status != http.StatusNotFound {
		t.Errorf("a Broker that is not there answers %d, want 404", status)
	}
}

func TestContainerConcurrencyIsKept(t *testing.T) {
	var now, most atomic.Int64
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+strings.Replace(serviceYAML("sink"), "spec: {containers", "spec: {containerConcurrency: 2, containers", 1)+
			triggerYAML("sink", "a", toService("sink"), "")),
		Functions: handlers(map[string]function.Handler{"sink": func(context.Context, event.Event) ([]event.Event, error) {
			n := now.Add(1)
			defer now.Add(-1)
			for {
				m := most.Load()
				if n <= m || most.CompareAndSwap(m, n) {
					return nil, nil
				}
			}
		}}),
	})
	for i := range 100 {
		post(t, m.Client(), newEvent(fmt.Sprint(i), "a", "x"))
	}
	idle(t, m)
	if n := most.Load(); n > 2 {
		t.Errorf("%d events at once, want at most 2", n)
	}
}

func TestATimeoutIsAFailure(t *testing.T) {
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("sink")+
			triggerYAML("sink", "a", toService("sink"), "  delivery: {timeout: PT0.1S}\n")),
		Functions: handlers(map[string]function.Handler{"sink": func(ctx context.Context, _ event.Event) ([]event.Event, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}),
	})
	post(t, m.Client(), newEvent("1", "a", "x"))
	idle(t, m)
	if all := letters(t, m.DeadLetters()); len(all) != 1 || all[0].Cause.Status != 503 {
		t.Errorf("dead letters %+v, want one with 503", all)
	}
}

func TestBackoffIsKnatives(t *testing.T) {
	spec := func(policy, delay, most string) duckv1.DeliverySpec {
		s := duckv1.DeliverySpec{BackoffDelay: &delay}
		if policy != "" {
			p := duckv1.BackoffPolicyType(policy)
			s.BackoffPolicy = &p
		}
		if most != "" {
			s.RetryAfterMax = &most
		}
		return s
	}
	later := result{retryAfter: 5 * time.Second}
	for _, test := range []struct {
		spec duckv1.DeliverySpec
		r    result
		n    int
		want time.Duration
	}{
		{spec("exponential", "PT0.2S", ""), result{}, 0, 200 * time.Millisecond},
		{spec("exponential", "PT0.2S", ""), result{}, 3, 1600 * time.Millisecond},
		{spec("linear", "PT1S", ""), result{}, 0, 0},
		{spec("linear", "PT1S", ""), result{}, 3, 3 * time.Second},
		{spec("", "PT1S", ""), result{}, 3, 0},
		{spec("linear", "PT1S", ""), later, 1, time.Second}, // without retryAfterMax it is not heeded
		{spec("linear", "PT1S", "PT3S"), later, 1, 3 * time.Second},
		{spec("linear", "PT1S", "PT1M"), later, 1, 5 * time.Second},
		{spec("linear", "PT1S", "PT0S"), later, 1, time.Second},
		{spec("linear", "PT1M", "PT1H"), later, 1, time.Minute},
	} {
		d, err := newDelivery(test.spec, "iot")
		if err != nil {
			t.Fatal(err)
		}
		if got := d.backoff(test.n, test.r); got != test.want {
			t.Errorf("backoff %d of %+v = %v, want %v", test.n, d, got, test.want)
		}
	}
	huge, err := newDelivery(spec("exponential", "PT1H", ""), "iot")
	if err != nil {
		t.Fatal(err)
	}
	if got := huge.backoff(1000, result{}); got <= 0 {
		t.Errorf("backoff 1000 = %v, want no overflow", got)
	}
}

// Zeros are small where they are stored, and large wherever they are read.
func TestAnEventTooLargeInMemoryIsRefused(t *testing.T) {
	large := func(context.Context, event.Event) ([]event.Event, error) {
		e := newEvent("large", "b", "")
		e.DataEncoded = make([]byte, maxEvent+1)
		return []event.Event{e}, nil
	}
	var got inbox
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("large")+serviceYAML("sink")+
			triggerYAML("large", "a", toService("large"), "")+triggerYAML("sink", "b", toService("sink"), "")),
		Functions: handlers(map[string]function.Handler{"large": large, "sink": got.handle}),
	})
	post(t, m.Client(), newEvent("1", "a", "x"))
	idle(t, m)
	all := letters(t, m.DeadLetters())
	if len(all) != 1 || all[0].Cause.Status != http.StatusRequestEntityTooLarge || all[0].Attempts != 1 ||
		!strings.Contains(all[0].Cause.Text, "event large is larger than 67108864 bytes") || all[0].Event.ID() != "1" {
		t.Errorf("dead letters %+v, want event 1 after one attempt with 413", all)
	}
	if ids := got.ids(); len(ids) != 0 {
		t.Errorf("delivered: %v, want nothing", ids)
	}
	e := newEvent("2", "a", "")
	e.DataEncoded = make([]byte, maxEvent+1)
	if status := post(t, m.Client(), e); status != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d, want 413", status)
	}
}
