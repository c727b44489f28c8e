package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/mesh"
)

// broker takes an event in a while, unless it holds a payload that it fails.
type broker struct {
	t     *testing.T
	takes time.Duration
	fails string

	mu        sync.Mutex
	events    []event.Event
	accepted  []string // KEY: PAYLOADS of each event, in the order in which they were accepted
	now, most int      // events under way
}

var errAway = errors.New("away")

func (b *broker) post(ctx context.Context, e event.Event) error {
	b.mu.Lock()
	b.now++
	b.most = max(b.most, b.now)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.now--
		b.mu.Unlock()
	}()
	select {
	case <-time.After(b.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := e.Validate(); err != nil {
		b.t.Errorf("event: %v", err)
	}
	messages, err := mesh.DecodeMessages(e.Data())
	if err != nil {
		b.t.Error(err)
	}
	var payloads []string
	for _, m := range messages {
		payloads = append(payloads, string(m.Payload))
		if string(m.Payload) == b.fails {
			return errAway
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
	key, _ := e.Extensions()[mesh.ExtPartitionKey].(string)
	b.accepted = append(b.accepted, key+": "+strings.Join(payloads, " "))
	return nil
}

func message(payload int) mesh.Message {
	return mesh.Message{ID: fmt.Sprint(payload), Source: "/x", ReceivedAt: mesh.Instant(payload), Payload: fmt.Append(nil, payload)}
}

func newBatcher(b *broker, cfg batch.Config) *batch.Batcher[mesh.Message] {
	if cfg.MaxMessages == 0 {
		cfg.MaxMessages = 500
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 18
	}
	cfg.Linger = 50 * time.Millisecond
	return batch.New(cfg, "some-source", b.post)
}

// run runs f in a bubble that ends only when no goroutine is left in it.
func run(t *testing.T, b *broker, cfg batch.Config, f func(t *testing.T, batcher *batch.Batcher[mesh.Message])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b.t = t
		batcher := newBatcher(b, cfg)
		f(t, batcher)
		if err := batcher.Close(t.Context()); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
}

// Whatever the bounds: each key's messages are accepted in the order of Go,
// and done is called in that order, with no two events of a key under way.
func TestKeyKeepsItsOrder(t *testing.T) {
	for _, cfg := range []batch.Config{{}, {MaxMessages: 1}, {MaxMessages: 7}, {MaxBytes: 5}} {
		b := &broker{takes: 20 * time.Millisecond}
		var mu sync.Mutex
		told := map[string][]int{}
		run(t, b, cfg, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
			for i := range 300 {
				key := fmt.Sprint("k", i%3)
				batcher.Go(key, message(i), func(err error) {
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Errorf("message %d: %v", i, err)
					}
					told[key] = append(told[key], i)
				})
				if i%10 == 9 {
					time.Sleep(3 * time.Millisecond)
				}
			}
		})
		accepted := map[string]string{}
		for _, line := range b.accepted {
			key, payloads, _ := strings.Cut(line, ": ")
			accepted[key] += payloads + " "
		}
		for k := range 3 {
			key, want := fmt.Sprint("k", k), ""
			for i := k; i < 300; i += 3 {
				want += fmt.Sprint(i) + " "
			}
			if accepted[key] != want {
				t.Errorf("%+v: the broker accepted of %s %s, want %s", cfg, key, accepted[key], want)
			}
			if got := strings.Trim(fmt.Sprint(told[key]), "[]") + " "; got != want {
				t.Errorf("%+v: done was called of %s for %s, want %s", cfg, key, got, want)
			}
		}
		if b.most > 3 {
			t.Errorf("%+v: %d events of 3 keys under way at a time", cfg, b.most)
		}
	}
}

// While an event of a key is handed over, the next one fills, though its
// messages have waited long enough: a slow broker gets few events.
func TestKeyFillsWhileItsEventIsPosted(t *testing.T) {
	b := &broker{takes: time.Second}
	run(t, b, batch.Config{}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		for i := range 10 {
			batcher.Go("k", message(i), func(error) {})
			time.Sleep(100 * time.Millisecond)
		}
	})
	if diff := cmp.Diff([]string{"k: 0", "k: 1 2 3 4 5 6 7 8 9"}, b.accepted); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestKeysDoNotWaitForEachOther(t *testing.T) {
	b := &broker{takes: time.Second}
	run(t, b, batch.Config{MaxMessages: 1}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		began := time.Now()
		for i := range 300 {
			batcher.Go(fmt.Sprint("k", i), message(i), func(error) {})
		}
		if err := batcher.Add(t.Context(), []mesh.Message{message(300)}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the broker took 301 events of 1 s in %s: want 128 at a time", took)
		}
	})
	if b.most != 128 {
		t.Errorf("%d events under way at a time, want 128", b.most)
	}
}

func TestMessagesShareEvents(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  batch.Config
		key  string
		want []string
	}{
		{"all", batch.Config{}, "", []string{": 10 11 12 13 14"}},
		{"messages", batch.Config{MaxMessages: 2}, "k", []string{"k: 10 11", "k: 12 13", "k: 14"}},
		{"bytes", batch.Config{MaxBytes: 5}, "k", []string{"k: 10 11", "k: 12 13", "k: 14"}},
		{"larger than an event", batch.Config{MaxBytes: 1}, "k", []string{"k: 10", "k: 11", "k: 12", "k: 13", "k: 14"}},
		{"a key no header can carry", batch.Config{}, "Straße 1\n", []string{mesh.Hash("Straße 1\n") + ": 10 11 12 13 14"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &broker{}
			run(t, b, test.cfg, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
				for i := 10; i < 15; i++ {
					batcher.Go(test.key, message(i), func(error) {})
				}
			})
			if diff := cmp.Diff(test.want, b.accepted); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// What stands beside the payloads counts, or small messages with much said of
// them made an event that no broker takes.
func TestAttributesCount(t *testing.T) {
	b := &broker{}
	run(t, b, batch.Config{MaxBytes: 1000}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		for i := range 3 {
			m := message(i)
			m.Attributes = map[string]string{"a": strings.Repeat("x", 600)}
			batcher.Go("k", m, func(error) {})
		}
	})
	if len(b.accepted) != 3 {
		t.Errorf("events = %v, want one for each message", b.accepted)
	}
}

func TestFirstMessageLingers(t *testing.T) {
	b := &broker{}
	run(t, b, batch.Config{}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		began := time.Now()
		var calls sync.WaitGroup
		for i := range 3 {
			calls.Go(func() {
				time.Sleep(time.Duration(i) * 20 * time.Millisecond)
				if err := batcher.Add(t.Context(), []mesh.Message{message(i)}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if waited := time.Since(began); waited != 50*time.Millisecond || len(b.events) != 1 {
			t.Errorf("%d events after %s, want 1 after 50ms", len(b.events), waited)
		}
	})
}

// The same messages make the same event, so that who hands them in twice is
// seen to. Received at another time they are others.
func TestSameMessagesMakeTheSameEvent(t *testing.T) {
	b := &broker{}
	run(t, b, batch.Config{MaxMessages: 2}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		later := message(1)
		later.ReceivedAt++
		for _, second := range []mesh.Message{message(1), message(1), later, message(2)} {
			if err := batcher.Add(t.Context(), []mesh.Message{message(0), second}); err != nil {
				t.Fatal(err)
			}
		}
	})
	var same []bool
	for _, e := range b.events {
		if e.Source() != "/telemesh/some-source" || e.Type() != mesh.TelemetryReceived {
			t.Errorf("event of %s from %s", e.Type(), e.Source())
		}
		same = append(same, e.ID() == b.events[0].ID())
	}
	if diff := cmp.Diff([]bool{true, true, false, false}, same); diff != "" {
		t.Errorf("events with the id of the first (-want +got):\n%s", diff)
	}
}

func TestFailureFailsItsMessagesAlone(t *testing.T) {
	b := &broker{fails: "2"}
	var mu sync.Mutex
	var failed []int
	run(t, b, batch.Config{MaxMessages: 2}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		for i := range 6 {
			key := ""
			if i >= 4 {
				key = "k"
			}
			batcher.Go(key, message(i), func(err error) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, errAway):
					failed = append(failed, i)
				case err != nil:
					t.Error(err)
				}
			})
		}
	})
	slices.Sort(failed)
	if diff := cmp.Diff([]int{2, 3}, failed); diff != "" {
		t.Errorf("failed messages (-want +got):\n%s", diff)
	}
	slices.Sort(b.accepted)
	if diff := cmp.Diff([]string{": 0 1", "k: 4 5"}, b.accepted); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
}

// What waits behind a failure must not come before what is sent again: neither
// a full event nor one that fills. What is sent after the failure is told comes.
func TestFailureFailsWhatWaitsOfItsKey(t *testing.T) {
	b := &broker{fails: "2", takes: time.Second}
	var failed []int
	run(t, b, batch.Config{MaxMessages: 2}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		for i := range 7 {
			batcher.Go("k", message(i), func(err error) {
				switch {
				case errors.Is(err, errAway):
					failed = append(failed, i) // done of one key is never called by two at a time
				case err != nil:
					t.Error(err)
				}
			})
		}
		time.Sleep(3 * time.Second)
		batcher.Go("k", message(7), func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	})
	if diff := cmp.Diff([]int{2, 3, 4, 5, 6}, failed); diff != "" {
		t.Errorf("failed messages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"k: 0 1", "k: 7"}, b.accepted); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
}

// Of what was added at once, a part may be accepted; the whole is not.
func TestAddTellsOfAnyFailure(t *testing.T) {
	b := &broker{fails: "2"}
	run(t, b, batch.Config{MaxMessages: 2}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		if err := batcher.Add(t.Context(), []mesh.Message{message(0), message(1), message(2), message(3), message(4)}); !errors.Is(err, errAway) {
			t.Errorf("Add = %v, want %v", err, errAway)
		}
		if err := batcher.Add(t.Context(), nil); err != nil {
			t.Errorf("Add of nothing = %v", err)
		}
	})
}

func TestAddEndsWithItsContext(t *testing.T) {
	b := &broker{takes: time.Second}
	run(t, b, batch.Config{}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := batcher.Add(ctx, []mesh.Message{message(1)}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Add = %v, want the end of its context", err)
		}
	})
	if diff := cmp.Diff([]string{": 1"}, b.accepted); diff != "" {
		t.Errorf("accepted all the same (-want +got):\n%s", diff)
	}
}

func TestCloseHandsOverWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{t: t, takes: time.Second}
		batcher := newBatcher(b, batch.Config{MaxMessages: 2})
		began := time.Now()
		for i := range 5 {
			batcher.Go("k", message(i), func(error) {})
		}
		batcher.Go("", message(5), func(error) {})
		if err := batcher.Close(t.Context()); err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("Close = %v after %s, want it to wait for three events after each other", err, time.Since(began))
		}
		if len(b.accepted) != 4 {
			t.Errorf("accepted %v, want all", b.accepted)
		}
		told := make(chan error, 1)
		batcher.Go("k", message(6), func(err error) { told <- err })
		if err := <-told; err == nil {
			t.Error("a message is accepted after Close")
		}
		if err := batcher.Add(t.Context(), []mesh.Message{message(7)}); err == nil {
			t.Error("a message is added after Close")
		}
	})
}

// A broker that does not answer holds up the end of a source for as long as it
// is given, and what it has not accepted is told as failed.
func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{t: t, takes: time.Hour}
		batcher := newBatcher(b, batch.Config{MaxMessages: 1})
		var told []error
		for i := range 3 {
			batcher.Go("k", message(i), func(err error) { told = append(told, err) })
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := batcher.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close = %v, want the end of its context", err)
		}
		synctest.Wait()
		if len(told) != 3 || told[0] == nil || told[1] == nil || told[2] == nil {
			t.Errorf("done was called with %v, want three errors", told)
		}
	})
}

func TestHandOverIsBounded(t *testing.T) {
	b := &broker{takes: time.Hour}
	run(t, b, batch.Config{}, func(t *testing.T, batcher *batch.Batcher[mesh.Message]) {
		began := time.Now()
		err := batcher.Add(t.Context(), []mesh.Message{message(1)})
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 30*time.Second+50*time.Millisecond {
			t.Errorf("Add = %v after %s, want it to give up after 30 s", err, took)
		}
	})
}

func TestValidate(t *testing.T) {
	good := batch.Config{MaxMessages: 1, MaxBytes: 1}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, cfg := range map[string]batch.Config{
		"BATCH_MAX_MESSAGES": {MaxBytes: 1}, "BATCH_MAX_BYTES": {MaxMessages: 1}, "BATCH_LINGER": {MaxMessages: 1, MaxBytes: 1, Linger: -1},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Validate(%+v) = %v, want an error that names %s", cfg, err, name)
		}
	}
}
