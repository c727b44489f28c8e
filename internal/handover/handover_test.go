package handover_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/handover"
	"github.com/telemesh/telemesh/internal/mesh"
)

var errAway = errors.New("away")

// to makes a handover of texts with room for two of them and four bytes.
func to(post func(context.Context, event.Event) error) *handover.Handover[string] {
	cfg := batch.Config{MaxMessages: 10, MaxBytes: 100, Linger: time.Millisecond}
	return handover.New(cfg, 2, 4, func(c batch.Config) *batch.Batcher[string] {
		return batch.Of(c, func(s *string) int { return len(*s) }, func(_ string, all []string) (event.Event, error) {
			return mesh.NewEvent("t", "/s", nil, all...), nil
		}, post)
	})
}

// endless is a context that package context watches by a goroutine, until what was
// derived of it ends: synctest sees one that is left.
type endless struct{ context.Context }

func (endless) Done() <-chan struct{} { return make(chan struct{}) }

func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := to(func(context.Context, event.Event) error { return nil })
		place, err := h.Reserve(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Reserve(soon, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Reserve without room = %v", err)
		}
		if messages, bytes := h.Waiting(); messages != 1 || bytes != 3 {
			t.Errorf("%d messages and %d bytes wait, want 1 and 3", messages, bytes)
		}
		all := make(chan error)
		go func() {
			place, err := h.Reserve(endless{t.Context()}, 1000) // heavier than all: it waits for all
			if err == nil {
				h.Go("", place, "heavy", func(err error) { all <- err })
			}
		}()
		synctest.Wait()
		h.Go("", place, "a", func(error) {})
		if err := <-all; err != nil {
			t.Error(err)
		}
		if messages, bytes := h.Waiting(); messages != 0 || bytes != 0 {
			t.Errorf("%d messages and %d bytes wait, want none", messages, bytes)
		}
		if err := h.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := h.Reserve(t.Context(), 1); !errors.Is(err, handover.ErrClosed) {
			t.Errorf("Reserve behind Close = %v", err)
		}
	})
}

// What is refused is tried again until it is accepted, less and less often; at the
// end at once, and until the time is up.
func TestTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, refusals := time.Now(), 5
		h := to(func(context.Context, event.Event) error {
			if refusals--; refusals >= 0 {
				return mesh.Permanent(errAway)
			}
			return nil
		})
		bring := func(message string) <-chan error {
			done := make(chan error, 1)
			place, err := h.Reserve(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			h.Go("", place, message, func(err error) { done <- err })
			return done
		}
		if err := <-bring("a"); err != nil {
			t.Error(err)
		}
		if took, want := time.Since(began), 3100*time.Millisecond; took < want || took > want+time.Second {
			t.Errorf("after five refusals %s, want about %s", took, want)
		}
		refusals = 8
		late := bring("b")
		time.Sleep(4 * time.Second) // the next attempt is far
		ending := time.Now()
		if err := h.Close(t.Context()); err != nil || <-late != nil {
			t.Errorf("Close = %v", err)
		}
		if took := time.Since(ending); took > time.Second {
			t.Errorf("the end takes %s, want it to try at once", took)
		}

		refusals = 1 << 30
		h = to(func(context.Context, event.Event) error { return errAway })
		never := bring("c")
		soon, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := h.Close(soon); err == nil {
			t.Error("Close does not tell what was not accepted")
		}
		if err := <-never; !errors.Is(err, handover.ErrClosed) {
			t.Errorf("done(%v), want ErrClosed", err)
		}
	})
}
