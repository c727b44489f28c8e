package batch

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

func TestIdleKeysAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{MaxMessages: 2, MaxBytes: 1000, Linger: time.Millisecond}, "x", func(context.Context, event.Event) error { return nil })
		for i := range 3000 { // keys of one message and of two, and none
			b.Go(fmt.Sprint("k", i%2000), mesh.Message{}, func(error) {})
			b.Go("", mesh.Message{}, func(error) {})
		}
		if n := waiting(b); n < 1000 {
			t.Errorf("%d keys wait, want those of one message at least", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := waiting(b); n != 0 {
			t.Errorf("%d keys are remembered of which nothing waits", n)
		}
	})
}

func waiting(b *Batcher[mesh.Message]) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lanes)
}
