package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/mqtt/mqtttest"
)

func config(ingress *mqtttest.Ingress, topics string) IntakeConfig {
	return IntakeConfig{Sink: ingress.URL, Topics: topics, Config: batch.Config{MaxMessages: 500, MaxBytes: 1 << 18, Linger: time.Millisecond}}
}

func ports() function.Ports {
	return function.Ports{Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler)}
}

func newIntake(t *testing.T, cfg IntakeConfig) *Intake {
	t.Helper()
	in, err := NewIntake(cfg, "mqtt://h/", ports(), func(topic string, _ []byte) { t.Errorf("asked %s", topic) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(t.Context()) })
	return in
}

// took takes p and gives what done is told.
func took(in *Intake, p Publish) <-chan error {
	done := make(chan error, 1)
	in.Take(p, func(err error) { done <- err })
	return done
}

func TestMessage(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	in := newIntake(t, config(ingress, "a/{device_id}?format=json,#"))
	many := [][2]string{{"id", "m-1"}, {"time", "2026-03-01T09:00:00Z"}, {"topic", "forged"}, {"retain", "true"}, {"sender", "forged"},
		{"device_id", "forged"}, {"format", "forged"}, {"long", strings.Repeat("x", maxProperty+1)}}
	for i := range 40 {
		many = append(many, [2]string{fmt.Sprintf("p%02d", i), "v"})
	}
	kept := map[string]string{"topic": "a/desk", "time": "2026-03-01T09:00:00Z"}
	for i := range maxProperties - 8 {
		kept[fmt.Sprintf("p%02d", i)] = "v"
	}
	const payload = `{"co2":812}`
	for _, test := range []struct {
		p    Publish
		want mesh.Message
	}{
		{Publish{Topic: "x", Payload: []byte(payload)},
			mesh.Message{ID: mesh.Hash("mqtt://h/", "x", payload), Attributes: map[string]string{"topic": "x"}, Payload: []byte(payload)}},
		{Publish{Topic: "a/desk", Payload: []byte(payload), Properties: many},
			mesh.Message{ID: "m-1", DeviceID: "desk", Format: "json", Attributes: kept, Payload: []byte(payload)}},
		{Publish{Topic: "x", Payload: []byte{0xff}, ContentType: "application/cbor; x=y", Retained: true},
			mesh.Message{ID: mesh.Hash("mqtt://h/", "x", "\xff"), ContentType: "application/cbor", Attributes: map[string]string{"topic": "x", "retain": "true"}, Payload: []byte{0xff}}},
		// An id that every reading would repeat at any length is none.
		{Publish{Topic: "x", Payload: []byte(payload), Properties: [][2]string{{"id", strings.Repeat("i", mesh.MaxIdentity+1)}}},
			mesh.Message{ID: mesh.Hash("mqtt://h/", "x", payload), Attributes: map[string]string{"topic": "x"}, Payload: []byte(payload)}},
	} {
		if err := mqtttest.Await(t, took(in, test.p), "acceptance"); err != nil {
			t.Fatal(err)
		}
		test.want.Source = "mqtt://h/"
		messages := ingress.Messages()
		if diff := cmp.Diff(test.want, messages[len(messages)-1], cmpopts.IgnoreFields(mesh.Message{}, "ReceivedAt")); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", test.p, diff)
		}
	}
}

// Messages that tell no time take that of their receipt: two of one instant
// would be two values of one reading.
func TestNoTwoMessagesOfOneInstant(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	in := newIntake(t, config(ingress, "#"))
	const n = 2000
	for range n {
		took(in, Publish{Topic: "a", Payload: []byte("1")})
	}
	instants := map[mesh.Instant]bool{}
	for _, m := range ingress.Await(t, n) {
		instants[m.ReceivedAt] = true
	}
	if len(instants) != n {
		t.Errorf("%d messages of %d instants", n, len(instants))
	}
}

func TestTopicOfNoFilterIsDropped(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	in := newIntake(t, config(ingress, "a/#"))
	if err := mqtttest.Await(t, took(in, Publish{Topic: "b", PacketID: 1}), "the answer"); err != nil {
		t.Errorf("done(%v), want nil: it would come again for ever", err)
	}
	if got := ingress.Messages(); len(got) != 0 {
		t.Errorf("handed over: %v", got)
	}
}

// Whatever the broker answers, nothing is given up: a refusal for good of an
// event is of a size or a right that somebody has to see to.
func TestRefusedIsTriedAgain(t *testing.T) {
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusRequestEntityTooLarge, http.StatusForbidden} {
		ingress := mqtttest.NewIngress(t)
		ingress.Refuse(status)
		in := newIntake(t, config(ingress, "#"))
		done := took(in, Publish{Topic: "a", PacketID: 1, Payload: []byte("1")})
		mqtttest.Await(t, ingress.Refused, "first refusal")
		mqtttest.Await(t, ingress.Refused, "second refusal")
		select {
		case err := <-done:
			t.Fatalf("%d: done(%v) before it was accepted", status, err)
		default:
		}
		ingress.Refuse(0)
		if err := mqtttest.Await(t, done, "acceptance"); err != nil {
			t.Errorf("%d: done(%v), want nil", status, err)
		}
		if got := ingress.Messages(); len(got) != 1 {
			t.Errorf("%d: %d messages, want 1", status, len(got))
		}
	}
}

// A PUBLISH that comes again since its acknowledgement was not seen is not
// another reading, before and after it is accepted.
func TestAgainIsTheSame(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	in := newIntake(t, config(ingress, "#"))
	release := ingress.Hold()
	defer release()
	p := Publish{Session: "s", PacketID: 7, Topic: "a", Payload: []byte("1")}
	again := p
	again.Duplicate = true

	first := took(in, p)
	second := took(in, again)
	if err := mqtttest.Await(t, first, "the answer to the first"); !errors.Is(err, ErrAgain) {
		t.Errorf("first: done(%v), want ErrAgain", err)
	}
	release()
	if err := mqtttest.Await(t, second, "the answer to the second"); err != nil {
		t.Errorf("second: done(%v), want nil", err)
	}
	if err := mqtttest.Await(t, took(in, again), "the answer to the third"); err != nil {
		t.Errorf("third: done(%v), want nil", err)
	}

	// These are others: not sent again, or of another session, or with another
	// content under a packet id that was free again.
	other, session, content := p, again, again
	session.Session, content.Payload = "other", []byte("2")
	for _, p := range []Publish{other, session, content} {
		if err := mqtttest.Await(t, took(in, p), "acceptance"); err != nil {
			t.Error(err)
		}
	}
	if got := len(ingress.Messages()); got != 4 {
		t.Errorf("%d messages, want 4", got)
	}
}

// ingress answers a request without a network, so that time can be made to pass.
type ingress func() (status int)

func (in ingress) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: in(), Body: http.NoBody, Request: r}, nil
}

// intakeTo makes an intake whose log goes to log.
func intakeTo(t *testing.T, in ingress, log io.Writer) *Intake {
	t.Helper()
	cfg := IntakeConfig{Sink: "http://ingress", Topics: "#", Config: batch.Config{MaxMessages: 1, MaxBytes: 1 << 18, Linger: time.Millisecond}}
	ports := function.Ports{Client: &http.Client{Transport: in}, Log: slog.New(slog.NewTextHandler(log, nil))}
	intake, err := NewIntake(cfg, "mqtt://h/", ports, func(string, []byte) {})
	if err != nil {
		t.Fatal(err)
	}
	return intake
}

// An outage is told, and not once for each event and attempt; what is refused
// for good is told beside it.
func TestRefusalsAreToldSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var status atomic.Int32
		status.Store(http.StatusServiceUnavailable)
		in := intakeTo(t, func() int { return int(status.Load()) }, &log)
		for i := range 100 {
			took(in, Publish{Topic: "a", Payload: fmt.Append(nil, i)})
		}
		synctest.Wait()
		if got := strings.Count(log.String(), "\n"); got != 1 || !strings.Contains(log.String(), "others=0") {
			t.Errorf("at once %d lines, want the first:\n%s", got, log.String())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Count(log.String(), "\n"); got < 2 || got > 7 || strings.Count(log.String(), "others=0") != 1 {
			t.Errorf("after a minute %d lines, want one in 10 s at most, with how many others:\n%s", got, log.String())
		}
		status.Store(http.StatusBadRequest)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := strings.Count(log.String(), "permanent=true"); got < 1 || got > 2 {
			t.Errorf("%d refusals for good are told, want 1 or 2:\n%s", got, log.String())
		}
		status.Store(http.StatusAccepted)
		if err := in.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A packet id is free again once it is acknowledged: what comes under it much
// later, marked as sent again, is another PUBLISH of which the first was lost.
func TestAgainMuchLaterIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		posts := 0
		in := intakeTo(t, func() int { posts++; return http.StatusAccepted }, io.Discard)
		p := Publish{Session: "s", PacketID: 7, Topic: "a", Payload: []byte("1"), Properties: [][2]string{{"id", strings.Repeat("i", mesh.MaxIdentity)}}}
		for _, test := range []struct {
			after time.Duration
			want  int
		}{{0, 1}, {againTime, 1}, {time.Second, 2}, {time.Minute, 2}} {
			time.Sleep(test.after)
			if err := <-took(in, p); err != nil || posts != test.want {
				t.Errorf("after another %s: done(%v), %d handed over, want nil and %d", test.after, err, posts, test.want)
			}
			p.Duplicate = true
		}
		for _, kept := range in.young {
			if len(kept.id) > 32 {
				t.Errorf("%d bytes are kept of an id", len(kept.id))
			}
		}
		if err := in.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What is in flight is bounded: who brings more waits.
func TestIntakeHoldsBack(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	release := ingress.Hold()
	defer release()
	cfg := config(ingress, "#")
	in := newIntake(t, cfg)
	for range cfg.inFlight() {
		took(in, Publish{Topic: "a", Payload: []byte("1")})
	}
	over := make(chan (<-chan error))
	go func() { over <- took(in, Publish{Topic: "a", Payload: []byte("1")}) }()
	select {
	case <-over:
		t.Fatal("taken without room")
	default:
	}
	release()
	if err := mqtttest.Await(t, mqtttest.Await(t, over, "room"), "acceptance"); err != nil {
		t.Error(err)
	}
	ingress.Await(t, cfg.inFlight()+1)
}

// Few large messages are held back as many small ones are. One that is heavier
// than all comes alone.
func TestIntakeHoldsBackBytes(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	release := ingress.Hold()
	defer release()
	in := newIntake(t, config(ingress, "#"))
	const n = 32
	large := Publish{Topic: "a", Payload: bytes.Repeat([]byte("x"), maxBytes/n-len("a")-len("idm-00"))}
	for i := range n {
		large.Properties = [][2]string{{"id", fmt.Sprintf("m-%02d", i)}}
		took(in, large)
	}
	over := make(chan (<-chan error))
	go func() {
		over <- took(in, Publish{Topic: "a", Payload: []byte("1")})
		over <- took(in, Publish{Topic: "a", Payload: make([]byte, maxBytes+1)})
	}()
	for messages, _ := in.flight.Waiting(); messages <= n; messages, _ = in.flight.Waiting() { // it has its slot, and waits for bytes
		runtime.Gosched()
	}
	if _, taken := in.flight.Waiting(); taken != maxBytes {
		t.Fatalf("%d bytes are in flight, want 32 MiB", taken)
	}
	select {
	case <-over:
		t.Fatal("taken without room")
	default:
	}
	release()
	for range 2 {
		if err := mqtttest.Await(t, mqtttest.Await(t, over, "room"), "acceptance"); err != nil {
			t.Error(err)
		}
	}
	ingress.Await(t, n+2)
	if _, taken := in.flight.Waiting(); taken != 0 {
		t.Errorf("%d bytes are taken and nothing is in flight", taken)
	}
}

// Who waits for room when the intake closes is told so, and leaves nothing.
func TestCloseEndsWaiting(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	in := newIntake(t, config(ingress, "#"))
	if _, err := in.flight.Reserve(t.Context(), maxBytes); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan (<-chan error))
	go func() { waiting <- took(in, Publish{Topic: "a"}) }()
	for messages, _ := in.flight.Waiting(); messages < 2; messages, _ = in.flight.Waiting() {
		runtime.Gosched()
	}
	in.flight.Stop()
	err := <-mqtttest.Await(t, waiting, "the answer")
	if messages, _ := in.flight.Waiting(); !errors.Is(err, ErrClosed) || messages != 1 {
		t.Errorf("done(%v) with %d slots taken, want ErrClosed and the one that was", err, messages)
	}
}

// At the end, too, a refusal is not the last word: neither for what waits to be
// tried again nor for what was never tried.
func TestCloseTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var accepts atomic.Bool
		in := intakeTo(t, func() int {
			if accepts.Load() {
				return http.StatusAccepted
			}
			return http.StatusServiceUnavailable
		}, io.Discard)
		old := took(in, Publish{Topic: "a", Payload: []byte("old")})
		time.Sleep(time.Hour) // its next attempt is seconds away
		fresh := took(in, Publish{Topic: "a", Payload: []byte("fresh")})
		time.AfterFunc(5*time.Second, func() { accepts.Store(true) })
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), drainTime)
		defer cancel()
		if err := in.Close(ctx); err != nil {
			t.Errorf("Close = %v, want nil", err)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("Close took %s after a long outage, want attempts as at its begin", took)
		}
		for name, done := range map[string]<-chan error{"old": old, "fresh": fresh} {
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("%s: done(%v), want nil", name, err)
				}
			default:
				t.Errorf("%s: not told before Close returns", name)
			}
		}
	})
}

// What is not accepted in time is counted, and told so.
func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := intakeTo(t, func() int { return http.StatusServiceUnavailable }, io.Discard)
		var told []<-chan error
		for range 3 {
			told = append(told, took(in, Publish{Topic: "a"}))
		}
		ctx, cancel := context.WithTimeout(t.Context(), drainTime)
		defer cancel()
		begin := time.Now()
		err := in.Close(ctx)
		if err == nil || !strings.Contains(err.Error(), "not accepted 3 of") || time.Since(begin) != drainTime {
			t.Errorf("Close = %v after %s, want 3 messages not accepted after %s", err, time.Since(begin), drainTime)
		}
		for _, done := range told {
			if err := <-done; !errors.Is(err, ErrClosed) {
				t.Errorf("done(%v), want ErrClosed", err)
			}
		}
	})
}

func TestCloseHandsOver(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	cfg := config(ingress, "#")
	cfg.Linger = time.Hour
	in := newIntake(t, cfg)
	done := took(in, Publish{Topic: "a", Payload: []byte("1")})
	if err := in.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || len(ingress.Messages()) != 1 {
		t.Errorf("done(%v), %d messages, want nil and 1", err, len(ingress.Messages()))
	}
	if err := <-took(in, Publish{Topic: "a", Payload: []byte("1")}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: done(%v), want ErrClosed", err)
	}

	ingress.Refuse(http.StatusServiceUnavailable)
	in = newIntake(t, cfg)
	p := Publish{Session: "s", PacketID: 1, Topic: "a", Payload: []byte("1")}
	done = took(in, p)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-ingress.Refused
		cancel()
	}()
	if err := in.Close(ctx); err == nil || !strings.Contains(err.Error(), "not accepted 1 of") {
		t.Errorf("Close = %v, want how many were not accepted", err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("refused at the end: done(%v), want ErrClosed", err)
	}
	p.Duplicate = true
	if err := <-took(in, p); !errors.Is(err, ErrClosed) {
		t.Errorf("again after the end: done(%v), want ErrClosed", err)
	}
}
