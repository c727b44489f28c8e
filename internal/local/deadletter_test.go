package local

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

func letters(t testing.TB, d *DeadLetters) []DeadLetter {
	t.Helper()
	var all []DeadLetter
	for l, err := range d.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	n, err := d.Count(t.Context())
	if err != nil || n != len(all) {
		t.Errorf("Count = %d, %v, want %d", n, err, len(all))
	}
	return all
}

// failing fails the events whose data says so.
func failing(got *inbox, healed *atomic.Bool) function.Handler {
	return func(ctx context.Context, e event.Event) ([]event.Event, error) {
		if !healed.Load() {
			switch string(e.Data()) {
			case "permanent":
				return nil, mesh.Permanentf("bad data")
			case "passing":
				return nil, errors.New("not now")
			case "panic":
				panic("no such thing")
			}
		}
		return got.handle(ctx, e)
	}
}

func TestDeadLettersKeepTheCauseAndAreRedriven(t *testing.T) {
	var got, other inbox
	var healed atomic.Bool
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("sink")+serviceYAML("other")+
			triggerYAML("sink", "a", toService("sink"), "")+triggerYAML("other", "a", toService("other"), "")),
		Functions: handlers(map[string]function.Handler{"sink": failing(&got, &healed), "other": other.handle}),
	})
	for _, data := range []string{"permanent", "passing", "panic", "good"} {
		post(t, m.Client(), newEvent(data, "a", data))
	}
	idle(t, m)
	want := map[string]string{
		"permanent": "400 after 1: bad data",
		"passing":   "503 after 3: not now",
		"panic":     "500 after 3: panic: no such thing",
	}
	all := letters(t, m.DeadLetters())
	if len(all) != len(want) {
		t.Fatalf("%d dead letters, want %d", len(all), len(want))
	}
	for _, l := range all {
		id := l.Event.ID()
		if cause := fmt.Sprintf("%d after %d: %s", l.Cause.Status, l.Attempts, l.Cause.Text); cause != want[id] {
			t.Errorf("%s: %s, want %s", id, cause, want[id])
		}
		if string(l.Event.Data()) != id || l.Event.Type() != "a" {
			t.Errorf("%s: the event is %v", id, l.Event)
		}
		if l.Trigger != (manifest.Ref{Namespace: "iot", Name: "sink"}) || l.Cause.Destination != "http://sink.iot.svc.cluster.local" || l.At.IsZero() {
			t.Errorf("%s: %+v", id, l)
		}
	}
	status := m.Status().Triggers[1]
	if status.Delivered != 1 || status.DeadLettered != 3 || status.Retried != 4 || status.Pending != 0 {
		t.Errorf("status %+v, want 1 delivered, 3 dead letters, 4 retries, 0 pending", status)
	}
	if failures := m.Status().Failures; len(failures) != 7 {
		t.Errorf("%d failures, want 7 attempts", len(failures))
	}

	healed.Store(true)
	for _, l := range all {
		if err := m.DeadLetters().Redrive(t.Context(), l.ID); err != nil {
			t.Errorf("Redrive(%s) = %v", l.ID, err)
		}
	}
	idle(t, m)
	ids := got.ids()
	slices.Sort(ids)
	if fmt.Sprint(ids) != "[good panic passing permanent]" {
		t.Errorf("delivered after the redrive: %v", ids)
	}
	if n := len(other.ids()); n != 4 {
		t.Errorf("the other trigger got %d events, want 4: a redrive is for the one that failed", n)
	}
	if left := letters(t, m.DeadLetters()); len(left) != 0 {
		t.Errorf("%d dead letters left", len(left))
	}
	if err := m.DeadLetters().Redrive(t.Context(), all[0].ID); !errors.Is(err, ErrNoDeadLetter) {
		t.Errorf("Redrive of one that is gone = %v, want ErrNoDeadLetter", err)
	}
}

func TestARedriveThatFailsIsADeadLetterAgain(t *testing.T) {
	var got inbox
	var never atomic.Bool
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), "")),
		Functions: handlers(map[string]function.Handler{"sink": failing(&got, &never)}),
	})
	post(t, m.Client(), newEvent("1", "a", "permanent"))
	idle(t, m)
	first := letters(t, m.DeadLetters())[0]
	if err := m.DeadLetters().Redrive(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	idle(t, m)
	again := letters(t, m.DeadLetters())
	if len(again) != 1 || again[0].ID == first.ID || again[0].Event.ID() != "1" {
		t.Errorf("dead letters %+v, want event 1 once, as a new one", again)
	}
}

func TestDeadLettersOfAClosedMesh(t *testing.T) {
	var got inbox
	var healed atomic.Bool
	cfg := Config{
		Dir:       t.TempDir(),
		Manifests: manifests(t, brokerYAML+serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), "")),
		Functions: handlers(map[string]function.Handler{"sink": failing(&got, &healed)}),
		Log:       testLog(t),
	}
	m := open(t, cfg)
	post(t, m.Client(), newEvent("1", "a", "permanent"))
	idle(t, m)
	if _, err := OpenDeadLetters(t.Context(), cfg.Dir, cfg.Log); !errors.Is(err, ErrInUse) {
		t.Errorf("OpenDeadLetters of a running mesh = %v, want ErrInUse", err)
	}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("a second Open = %v, want ErrInUse", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	d, err := OpenDeadLetters(t.Context(), cfg.Dir, cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	all := letters(t, d)
	if len(all) != 1 || all[0].Event.ID() != "1" {
		t.Fatalf("dead letters %+v, want event 1", all)
	}
	if err := d.Redrive(t.Context(), all[0].ID); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}

	healed.Store(true)
	m = open(t, cfg)
	idle(t, m)
	if ids := got.ids(); fmt.Sprint(ids) != "[1]" {
		t.Errorf("delivered by the next run: %v, want event 1", ids)
	}
}

func TestRefusedRequestsAreKept(t *testing.T) {
	m := open(t, Config{Manifests: manifests(t, brokerYAML)})
	body := strings.Repeat("x", maxRefusedBody+1)
	for _, text := range []string{"{}", body} {
		req, err := http.NewRequest(http.MethodPost, ingressURL, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Ce-Specversion", "1.0")
		req.Header.Set("Ce-Type", "a")
		for _, secret := range []string{"Authorization", "Cookie", "X-Api-Key"} {
			req.Header.Set(secret, "secret")
		}
		resp, err := m.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("status %d, want 400", resp.StatusCode)
		}
	}
	all := letters(t, m.DeadLetters())
	if len(all) != 2 {
		t.Fatalf("%d dead letters, want 2", len(all))
	}
	l, err := m.DeadLetters().Get(t.Context(), all[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if l.Event != nil || string(l.Request.Body) != "{}" || l.Request.Truncated || l.Request.Header.Get("ce-type") != "a" ||
		len(l.Request.Header) != 2 || l.Cause.Status != 400 || !strings.Contains(l.Cause.Text, "id: MUST be a non-empty string") {
		t.Errorf("refused request %+v, cause %+v", l.Request, l.Cause)
	}
	if long := all[1].Request; len(long.Body) != maxRefusedBody || !long.Truncated {
		t.Errorf("a long body is kept with %d bytes, truncated %v", len(long.Body), long.Truncated)
	}
	err = m.DeadLetters().Redrive(t.Context(), l.ID)
	if !errors.Is(err, ErrNotRedrivable) || !strings.Contains(err.Error(), "correct the sender") {
		t.Errorf("Redrive = %v, want that it cannot be and what to do", err)
	}
	if s := m.Status().Brokers[0]; s.Accepted != 0 || s.Refused != 2 {
		t.Errorf("status %+v, want 2 refused", s)
	}
	for _, id := range []string{"", "x", "0", "r99", "99"} {
		if _, err := m.DeadLetters().Get(t.Context(), id); !errors.Is(err, ErrNoDeadLetter) {
			t.Errorf("Get(%q) = %v, want ErrNoDeadLetter", id, err)
		}
	}
}

// A dead letter sink may be a Service, a Broker, or one that fails.
func TestDeadLetterSinks(t *testing.T) {
	var morgue, crm inbox
	refuse := func(context.Context, event.Event) ([]event.Event, error) { return nil, mesh.Permanentf("no") }
	sink := func(to string) string { return "  delivery: {retry: 1, deadLetterSink: " + to + "}\n" }
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+strings.ReplaceAll(brokerYAML, "iot", "crm")+
			serviceYAML("refuse")+serviceYAML("morgue")+serviceYAML("crm")+
			triggerYAML("to-service", "a", toService("refuse"), sink(toService("morgue")))+
			triggerYAML("to-broker", "a", toService("refuse"), sink("{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: crm, namespace: crm}}"))+
			triggerYAML("to-nobody", "a", toService("refuse"), sink(toService("refuse")))+
			strings.NewReplacer("namespace: iot}\nspec", "namespace: crm}\nspec", "broker: iot", "broker: crm", "name: crm}}", "name: crm, namespace: iot}}").
				Replace(triggerYAML("crm", "a", toService("crm"), ""))),
		Functions: handlers(map[string]function.Handler{"refuse": refuse, "morgue": morgue.handle, "crm": crm.handle}),
	})
	post(t, m.Client(), newEvent("1", "a", "x"))
	idle(t, m)
	for name, box := range map[string]*inbox{"Service": &morgue, "Broker": &crm} {
		if len(box.events) != 1 {
			t.Errorf("%s got %d dead letters, want 1", name, len(box.events))
			continue
		}
		if got := fmt.Sprint(box.events[0].Extensions()[extErrorCode], " ", box.events[0].Extensions()[extErrorDest]); got != "400 http://refuse.iot.svc.cluster.local" {
			t.Errorf("%s got a dead letter with %s", name, got)
		}
	}
	all := letters(t, m.DeadLetters())
	if len(all) != 1 || all[0].Trigger.Name != "to-nobody" {
		t.Errorf("dead letters %+v, want the one whose sink fails", all)
	}
}

// What is redriven to nobody, what the ingress refused and what the disk
// damaged must not stay for ever, nor hide the others.
func TestDiscard(t *testing.T) {
	refuse := func(context.Context, event.Event) ([]event.Event, error) { return nil, mesh.Permanentf("no") }
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), "")),
		Functions: handlers(map[string]function.Handler{"sink": refuse}),
	})
	if _, err := m.store.js.Publish(t.Context(), lettersStream, []byte("\xff damaged")); err != nil {
		t.Fatal(err)
	}
	post(t, m.Client(), newEvent("1", "a", "x"))
	resp, err := m.Client().Post(ingressURL, "text/plain", strings.NewReader("junk"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	idle(t, m)
	d := m.DeadLetters()
	all := letters(t, d)
	if len(all) != 3 || !strings.Contains(all[0].Cause.Text, "damaged") || all[1].Event.ID() != "1" {
		t.Fatalf("dead letters %+v, want a damaged one, event 1 and a refused request", all)
	}
	if err := d.Redrive(t.Context(), all[0].ID); !errors.Is(err, ErrNotRedrivable) {
		t.Errorf("Redrive of a damaged one = %v, want ErrNotRedrivable", err)
	}
	for _, l := range all {
		if err := d.Discard(t.Context(), l.ID); err != nil {
			t.Errorf("Discard(%s) = %v", l.ID, err)
		}
		if err := d.Discard(t.Context(), l.ID); !errors.Is(err, ErrNoDeadLetter) {
			t.Errorf("Discard(%s) again = %v, want ErrNoDeadLetter", l.ID, err)
		}
	}
	if left := letters(t, d); len(left) != 0 {
		t.Errorf("%d dead letters left", len(left))
	}
}

// Junk at the ingress must not hide what was an event, nor be read to find it.
func TestLatestDeadLetters(t *testing.T) {
	refuse := func(context.Context, event.Event) ([]event.Event, error) { return nil, mesh.Permanentf("no") }
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), "")),
		Functions: handlers(map[string]function.Handler{"sink": refuse}),
	})
	d := m.DeadLetters()
	latest := func(n int) string {
		t.Helper()
		some, err := d.Latest(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		ids := []string{}
		for _, l := range some {
			ids = append(ids, l.ID)
		}
		return fmt.Sprint(ids)
	}
	if got := latest(3); got != "[]" {
		t.Errorf("Latest of none = %s", got)
	}
	for i := range 5 {
		post(t, m.Client(), newEvent(strconv.Itoa(i), "a", "x"))
		idle(t, m)
		resp, err := m.Client().Post(ingressURL, "text/plain", strings.NewReader("junk"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for _, id := range []string{"4", "2", "r5"} {
		if err := d.Discard(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for n, want := range map[int]string{2: "[5 3]", 5: "[5 3 1 r4 r3]", 20: "[5 3 1 r4 r3 r2 r1]"} {
		if got := latest(n); got != want {
			t.Errorf("Latest(%d) = %s, want %s", n, got, want)
		}
	}
	for _, l := range letters(t, d) {
		if err := d.Discard(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := latest(3); got != "[]" {
		t.Errorf("Latest of none any more = %s", got)
	}
}
