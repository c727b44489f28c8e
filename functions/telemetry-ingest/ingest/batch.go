package ingest

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// postTimeout bounds one hand-over to the broker. The sender learns of it as
// 503 and sends again.
const postTimeout = 30 * time.Second

// batcher fills micro-batches with the messages of all requests.
type batcher struct {
	maxMessages, maxBytes int
	linger                time.Duration
	post                  func(context.Context, event.Event) error

	mu      sync.Mutex
	filling *batch
	posting sync.WaitGroup
}

type batch struct {
	messages []mesh.Message
	bytes    int
	timer    *time.Timer
	accepted chan struct{} // closed when err is set
	err      error
}

func newBatcher(cfg Config, post func(context.Context, event.Event) error) *batcher {
	return &batcher{maxMessages: cfg.BatchMaxMessages, maxBytes: cfg.BatchMaxBytes, linger: cfg.BatchLinger, post: post}
}

// add returns when the broker has accepted all messages, or did not accept one.
func (b *batcher) add(ctx context.Context, messages []mesh.Message) error {
	var mine []*batch
	b.mu.Lock()
	for i := range messages {
		m := &messages[i]
		if b.filling != nil && b.filling.bytes+len(m.Payload) > b.maxBytes {
			b.flush()
		}
		if b.filling == nil {
			b.filling = &batch{accepted: make(chan struct{}), messages: make([]mesh.Message, 0, min(b.maxMessages, len(messages)-i))}
		}
		f := b.filling
		if len(mine) == 0 || mine[len(mine)-1] != f {
			mine = append(mine, f)
		}
		f.messages = append(f.messages, *m)
		f.bytes += len(m.Payload)
		if len(f.messages) >= b.maxMessages || f.bytes >= b.maxBytes {
			b.flush()
		}
	}
	if f := b.filling; f != nil && f.timer == nil {
		f.timer = time.AfterFunc(b.linger, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.filling == f {
				b.flush()
			}
		})
	}
	b.mu.Unlock()

	var errs []error
	for _, f := range mine {
		select {
		case <-f.accepted:
			errs = append(errs, f.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// flush hands the filling batch over; b.mu is held.
func (b *batcher) flush() {
	f := b.filling
	b.filling = nil
	if f.timer != nil {
		f.timer.Stop()
	}
	b.posting.Go(func() {
		// Not the context of a request: the batch belongs to several.
		ctx, cancel := context.WithTimeout(context.Background(), postTimeout)
		defer cancel()
		f.err = b.post(ctx, received(f.messages))
		close(f.accepted)
	})
}

// received makes the event of a batch. The receive time is part of its id: a
// device that sends the same bytes twice, without a time in them, has measured
// twice.
func received(messages []mesh.Message) event.Event {
	id := make([]string, 0, 3*len(messages))
	for i := range messages {
		m := &messages[i]
		id = append(id, m.Source, m.ID, strconv.FormatInt(int64(m.ReceivedAt), 10))
	}
	return mesh.NewEvent(mesh.TelemetryReceived, mesh.Source(name), mesh.EncodeMessages(messages), id...)
}

func (b *batcher) close(ctx context.Context) error {
	b.mu.Lock()
	if b.filling != nil {
		b.flush()
	}
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		b.posting.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
