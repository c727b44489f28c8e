// Package batch fills events with the messages that a source takes, and hands
// them to the broker: telemetry.received events, or those that the source makes.
//
// An event has at most BATCH_MAX_MESSAGES messages and about BATCH_MAX_BYTES
// bytes of them. It is handed over when it is full, or when its first message
// has waited BATCH_LINGER. At most 128 events are handed over at a time.
//
// Messages without a key share events, which are handed over side by side: they
// have no order. Messages of one key come in events of that key alone, with the
// extension partitionkey, one after the other: each is handed over when the
// broker has accepted the one before. What comes in between lies in the next. A
// key of which nothing waits costs nothing.
//
// An event that is not accepted fails its messages. With it fails what waits of
// its key at that moment: it would come before what is sent again. No others
// fail. Nothing is tried again here: whoever sent the messages does that.
package batch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Config is the bounds of an event, for a source's own Config to embed.
type Config struct {
	MaxMessages int           `envconfig:"BATCH_MAX_MESSAGES" default:"500"`
	MaxBytes    int           `envconfig:"BATCH_MAX_BYTES" default:"262144"` // of payload and attributes
	Linger      time.Duration `envconfig:"BATCH_LINGER" default:"50ms"`
}

// Validate says which bound is none.
func (c Config) Validate() error {
	switch {
	case c.MaxMessages < 1:
		return fmt.Errorf("BATCH_MAX_MESSAGES is %d: it has to be at least 1", c.MaxMessages)
	case c.MaxBytes < 1:
		return fmt.Errorf("BATCH_MAX_BYTES is %d: it has to be at least 1", c.MaxBytes)
	case c.Linger < 0:
		return fmt.Errorf("BATCH_LINGER is %s: it cannot be negative", c.Linger)
	}
	return nil
}

// postTimeout bounds one hand-over to the broker. The sender learns of it and
// sends again.
const postTimeout = 30 * time.Second

// maxPosts bounds the connections to the broker, however many keys there are.
const maxPosts = 128

var errClosed = errors.New("the batcher is closed")

// Batcher fills events with messages. Its methods may be called from several
// goroutines.
type Batcher[M any] struct {
	cfg   Config
	weigh func(*M) int
	event func(key string, messages []M) (event.Event, error)
	post  func(context.Context, event.Event) error

	ctx     context.Context // of the posts: they belong to several callers
	abandon context.CancelFunc
	slots   chan struct{}
	posting sync.WaitGroup

	mu     sync.Mutex
	closed bool
	lanes  map[string]*lane[M] // by key; those with something in them
}

// lane is what waits of one key. Of the key "" nothing waits to be posted.
type lane[M any] struct {
	key     string
	filling *group[M]
	full    []*group[M] // in order, behind the one that is posted
	posting bool
}

// group is the messages of one event.
type group[M any] struct {
	messages []M
	done     []func(error)
	bytes    int
	timer    *time.Timer
	lingered bool // while another of its lane was posted
	settled  chan struct{}
	err      error // once settled
}

// New makes a batcher of a source's device messages. post returns once the broker
// has accepted the event.
func New(cfg Config, name string, post func(context.Context, event.Event) error) *Batcher[mesh.Message] {
	return Of(cfg, weight, received(mesh.Source(name)), post)
}

// Of makes a batcher of any messages. weigh gives what counts of one towards
// MaxBytes, event makes the event of those of a key.
func Of[M any](cfg Config, weigh func(*M) int, event func(key string, messages []M) (event.Event, error), post func(context.Context, event.Event) error) *Batcher[M] {
	b := &Batcher[M]{cfg: cfg, weigh: weigh, event: event, post: post, slots: make(chan struct{}, maxPosts), lanes: map[string]*lane[M]{}}
	b.ctx, b.abandon = context.WithCancel(context.Background())
	return b
}

// Add returns when the broker has accepted all messages, or not one of them,
// or when ctx ends: they may be accepted still.
func (b *Batcher[M]) Add(ctx context.Context, messages []M) error {
	groups, err := b.put("", messages, nil)
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range groups {
		select {
		case <-g.settled:
			errs = append(errs, g.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// Go takes a message without waiting. done is called once, by another
// goroutine, when the broker has accepted the event that holds the message, or
// has not: with the error. The messages of a key other than "" are handed over,
// and done is called for them, in the order in which Go was called: when an
// event of a key fails, done is called for its messages, then for all that came
// until then. Who takes no more of a key from the first such call on, until what
// failed comes again, keeps its order. done must not wait for anything: it holds
// up its key.
func (b *Batcher[M]) Go(key string, m M, done func(error)) {
	if _, err := b.put(key, []M{m}, done); err != nil {
		go done(err)
	}
}

// put gives the groups that the messages are in.
func (b *Batcher[M]) put(key string, messages []M, done func(error)) ([]*group[M], error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	l := b.lanes[key]
	if l == nil {
		l = &lane[M]{key: key}
		b.lanes[key] = l
	}
	var groups []*group[M]
	for i := range messages {
		m := &messages[i]
		size := b.weigh(m)
		if l.filling != nil && l.filling.bytes+size > b.cfg.MaxBytes {
			b.flush(l)
		}
		if l.filling == nil {
			l.filling = &group[M]{settled: make(chan struct{}), messages: make([]M, 0, min(b.cfg.MaxMessages, len(messages)-i))}
		}
		g := l.filling
		if len(groups) == 0 || groups[len(groups)-1] != g {
			groups = append(groups, g)
		}
		g.messages = append(g.messages, *m)
		g.bytes += size
		if done != nil {
			g.done = append(g.done, done)
		}
		if len(g.messages) >= b.cfg.MaxMessages || g.bytes >= b.cfg.MaxBytes {
			b.flush(l)
		}
	}
	if g := l.filling; g != nil && g.timer == nil {
		g.timer = time.AfterFunc(b.cfg.Linger, func() { b.linger(l, g) })
	}
	b.drop(l)
	return groups, nil
}

// weight is what counts of a message towards MaxBytes.
func weight(m *mesh.Message) int {
	size := len(m.Payload)
	for name, value := range m.Attributes {
		size += len(name) + len(value)
	}
	return size
}

// linger ends the waiting of g, if it has not been flushed.
func (b *Batcher[M]) linger(l *lane[M], g *group[M]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case l.filling != g:
	case l.posting: // it can go on filling
		g.lingered = true
	default:
		b.flush(l)
		b.drop(l)
	}
}

// flush hands over what fills l; b.mu is held.
func (b *Batcher[M]) flush(l *lane[M]) {
	g := l.filling
	l.filling = nil
	if g.timer != nil {
		g.timer.Stop()
	}
	if l.key == "" {
		b.posting.Go(func() { b.settle("", g) })
		return
	}
	l.full = append(l.full, g)
	if !l.posting {
		l.posting = true
		b.posting.Go(func() { b.follow(l) })
	}
}

// follow hands over the groups of l until none is left.
func (b *Batcher[M]) follow(l *lane[M]) {
	for {
		b.mu.Lock()
		if len(l.full) == 0 && l.filling != nil && l.filling.lingered {
			b.flush(l)
		}
		if len(l.full) == 0 {
			l.posting = false
			b.drop(l)
			b.mu.Unlock()
			return
		}
		g := l.full[0]
		l.full[0] = nil
		l.full = l.full[1:]
		b.mu.Unlock()
		if b.settle(l.key, g); g.err != nil {
			b.failBehind(l, g.err)
		}
	}
}

// failBehind fails what waits in l.
func (b *Batcher[M]) failBehind(l *lane[M], cause error) {
	b.mu.Lock()
	behind := l.full
	if g := l.filling; g != nil {
		if g.timer != nil {
			g.timer.Stop()
		}
		behind = append(behind, g)
	}
	l.full, l.filling = nil, nil
	b.mu.Unlock()
	for _, g := range behind {
		g.tell(fmt.Errorf("behind one of its key that was not accepted: %w", cause))
	}
}

// drop forgets l if nothing is in it; b.mu is held.
func (b *Batcher[M]) drop(l *lane[M]) {
	if l.filling == nil && !l.posting {
		delete(b.lanes, l.key)
	}
}

// settle hands g over and tells who waits for it.
func (b *Batcher[M]) settle(key string, g *group[M]) { g.tell(b.hand(key, g.messages)) }

func (g *group[M]) tell(err error) {
	g.err = err
	close(g.settled)
	for _, done := range g.done {
		done(err)
	}
}

func (b *Batcher[M]) hand(key string, messages []M) error {
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(b.ctx, postTimeout)
	defer cancel()
	e, err := b.event(key, messages)
	if err != nil {
		return err
	}
	return b.post(ctx, e)
}

// received makes the event of device messages. The receive time is part of its
// id: a device that sends the same bytes twice, without a time in them, has
// measured twice.
func received(source string) func(key string, messages []mesh.Message) (event.Event, error) {
	return func(key string, messages []mesh.Message) (event.Event, error) {
		id := make([]string, 0, 3*len(messages))
		for i := range messages {
			m := &messages[i]
			id = append(id, m.Source, m.ID, strconv.FormatInt(int64(m.ReceivedAt), 10))
		}
		e := mesh.NewEvent(mesh.TelemetryReceived, source, mesh.EncodeMessages(messages), id...)
		if key != "" {
			if !mesh.Verbatim(key) {
				key = mesh.Hash(key)
			}
			e.SetExtension(mesh.ExtPartitionKey, key)
		}
		return e, nil
	}
}

// Close hands over what still waits and returns when the broker has it. When
// ctx ends before, what has not been accepted fails. Messages that come later
// fail.
func (b *Batcher[M]) Close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	for _, l := range b.lanes {
		if l.filling != nil {
			b.flush(l)
			b.drop(l)
		}
	}
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		b.posting.Wait()
		b.abandon()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		b.abandon()
		return ctx.Err()
	}
}
