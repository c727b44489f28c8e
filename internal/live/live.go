// Package live tells watchers of events as they are stored in the event log.
//
// One poller reads event_log.events for all watchers of a process, for as long
// as there is one. It reads attributes and no data: these are most of the bytes,
// and who wants those of one event asks for that one.
//
// Rows become visible in another order than that in which they were recorded:
// several processes write, each by its clock, and a write takes a while. So the
// poller reads again what was recorded within an overlap of the latest row, and
// knows what it has seen of that. A watcher gets each event that is stored after
// Watch returned once, if it became visible within the overlap.
package live

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Event is an event as the log has it, without its data.
type Event struct {
	event.Event
	Broker     string       // NAMESPACE/NAME that had it: one that several had is several events here
	ReceivedAt mesh.Instant // by the Broker
	RecordedAt mesh.Instant // in the log
	Size       int64        // bytes of data that it has
}

// Tenant is the tenant whose data the event carries; empty: nobody's, or of
// several.
func (e *Event) Tenant() string {
	text, _ := types.Format(e.Extensions()[mesh.ExtTenant])
	return text
}

// Columns are those that Read reads, in its order.
var Columns = eventlog.Attributes + ", broker, received_at, recorded_at"

var eventColumns = 1 + strings.Count(eventlog.Columns, ",")

// Read reads a row that begins with Columns. Of an event that cannot be rebuilt it
// gives what can, with the error.
func Read(row []any) (*Event, error) {
	rest := row[eventColumns:]
	e := &Event{}
	e.Broker, _ = rest[0].(string)
	e.ReceivedAt, e.RecordedAt = instant(rest[1]), instant(rest[2])
	var err error
	e.Event, e.Size, err = eventlog.Read(row)
	return e, err
}

func instant(cell any) mesh.Instant {
	if at, ok := cell.(time.Time); ok {
		return mesh.At(at)
	}
	return 0
}

// Config is how the log is read.
type Config struct {
	Interval time.Duration // from one reading to the next
	// Overlap is how long after it was recorded a row may become visible, with the
	// differences of the writers' clocks.
	Overlap time.Duration
	// Late is how long before it was recorded a Broker may have accepted an event:
	// older partitions of the table are not read. 0: as long as it wants.
	Late time.Duration
}

// For gives the Config for the warehouse at a URL, read once in an interval; 0:
// as often as the warehouse is read for little.
func For(url string, interval time.Duration) Config {
	if strings.HasPrefix(url, "bigquery:") {
		// A row is recorded by the clock of who appends it, and tried for a while. Each
		// reading is paid for: 10 MB at least, and all attributes of a day's events.
		return Config{Interval: cmp.Or(interval, 5*time.Second), Overlap: 2 * time.Minute, Late: time.Hour}
	}
	// DuckDB has one writer, whose transactions take as long as their rows.
	return Config{Interval: cmp.Or(interval, time.Second), Overlap: 10 * time.Second}
}

const (
	maxSeen    = 100_000 // events of the overlap that are known: where there are more, it is shorter
	maxPending = 1000    // events that a watcher has not taken yet
	chunk      = 256     // events that are given at once
	first      = 24 * time.Hour
	maxWait    = 30 * time.Second // between readings that fail
)

// Feed tells watchers of events.
type Feed struct {
	data *access.Data
	cfg  Config
	log  *slog.Logger

	mu     sync.Mutex
	poller *poller // nil: nobody watches
	closed bool
}

// New makes a feed, which reads nothing before somebody watches.
func New(data *access.Data, cfg Config, log *slog.Logger) *Feed {
	return &Feed{data: data, cfg: cfg, log: log}
}

// Close ends all watching.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.poller == nil {
		return
	}
	for w := range f.poller.watchers {
		w.tell(func() { w.closed = true })
	}
	f.poller.stop()
	f.poller = nil
}

// Watcher is told of events.
type Watcher struct {
	feed   *Feed
	poller *poller
	viewer access.Viewer
	match  func(*Event) bool

	mu     sync.Mutex
	some   Some
	err    error // of the last reading
	told   bool  // of it
	closed bool
	ready  chan struct{} // of one
}

// Some is what came to a watcher since it asked last.
type Some struct {
	Events []*Event // in the order in which they became visible, shared by all watchers: not to be changed
	Missed int      // so many more that came while it did not ask
	Err    error    // why the log cannot be read at the moment; nil: it is read
}

// ErrClosed says that the feed was closed.
var ErrClosed = errors.New("the portal is ending")

// Watch begins to watch. The watcher is told of the events for which match holds and
// that the viewer may see: one who sees the data of all tenants all events, anybody
// else those that carry the data of a tenant of theirs. match is called by one
// goroutine; nil: all. Who watches closes the Watcher.
func (f *Feed) Watch(ctx context.Context, v access.Viewer, match func(*Event) bool) (*Watcher, error) {
	w := &Watcher{feed: f, viewer: v, match: match, told: true, ready: make(chan struct{}, 1)}
	joined, err := f.join(w, nil)
	if joined || err != nil {
		return w, err
	}
	p := newPoller(f)
	if err := p.begin(ctx); err != nil {
		return nil, fmt.Errorf("read the event log: %w", err)
	}
	_, err = f.join(w, p)
	return w, err
}

// join adds a watcher to the poller, or where there is none to another one, which is
// started.
func (f *Feed) join(w *Watcher, other *poller) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return false, ErrClosed
	case f.poller == nil && other == nil:
		return false, nil
	case f.poller == nil:
		f.poller = other
		var ctx context.Context
		ctx, other.stop = context.WithCancel(context.Background())
		go other.run(ctx)
	}
	w.poller = f.poller
	w.poller.watchers[w] = struct{}{}
	return true, nil
}

// Close ends the watching.
func (w *Watcher) Close() {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(w.poller.watchers, w)
	if len(w.poller.watchers) == 0 && f.poller == w.poller {
		w.poller.stop()
		f.poller = nil
	}
}

// Next waits until there is something to tell. The error is that of ctx, or
// ErrClosed.
func (w *Watcher) Next(ctx context.Context) (Some, error) {
	for {
		w.mu.Lock()
		some, told, closed := w.some, w.told, w.closed
		some.Err = w.err
		w.some, w.told = Some{}, true
		w.mu.Unlock()
		switch {
		case len(some.Events) > 0 || some.Missed > 0 || !told:
			return some, nil
		case closed:
			return Some{}, ErrClosed
		}
		select {
		case <-ctx.Done():
			return Some{}, ctx.Err()
		case <-w.ready:
		}
	}
}

func (w *Watcher) tell(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// give tells of events that the watcher may see.
func (w *Watcher) give(events []*Event) {
	var of []*Event
	for _, e := range events {
		if (w.viewer.SeesAll() || w.viewer.MaySee(e.Tenant())) && (w.match == nil || w.match(e)) {
			of = append(of, e)
		}
	}
	if len(of) == 0 {
		return
	}
	w.tell(func() {
		room := min(len(of), maxPending-len(w.some.Events))
		w.some.Events = append(w.some.Events, of[:room]...)
		w.some.Missed += len(of) - room
	})
}

// poller reads the log for watchers, who are those of its feed.
type poller struct {
	feed     *Feed
	watchers map[*Watcher]struct{}
	stop     context.CancelFunc

	high mesh.Instant         // the latest row
	low  mesh.Instant         // what was recorded before is not read any more
	seen map[key]mesh.Instant // when it was recorded, of all that was read since low
	most int                  // of these
}

func newPoller(f *Feed) *poller {
	return &poller{feed: f, watchers: map[*Watcher]struct{}{}, seen: map[key]mesh.Instant{}, most: maxSeen}
}

// key tells the rows of the log apart.
type key [16]byte

func keyOf(e *Event) (k key) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %q %q %q", e.ReceivedAt, e.Broker, e.Source(), e.ID()))
	copy(k[:], sum[:])
	return k
}

// reader reads for all watchers; what each may see is looked at when it is told.
var reader = access.Viewer{Name: "live", Role: access.Analyst}

// begin finds the end of the log: what is there is nothing new.
func (p *poller) begin(ctx context.Context) error {
	now := mesh.At(time.Now())
	ago := now - span(first)
	// By the clocks of those who write, and not by the one here.
	rows, err := p.feed.data.Query(ctx, reader, "SELECT MAX(recorded_at) AS latest FROM {event_log.events} WHERE received_at >= "+literal.Time(ago))
	if err != nil {
		return err
	}
	p.high = ago
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		if at, ok := row[0].(time.Time); ok {
			p.high = mesh.At(at)
		}
	}
	p.advance(now)
	return p.read(ctx, func([]*Event) {})
}

func span(d time.Duration) mesh.Instant { return mesh.Instant(d / time.Microsecond) }

// run reads until ctx is done.
func (p *poller) run(ctx context.Context) {
	wait := p.feed.cfg.Interval
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := p.read(ctx, p.give)
		wait = p.feed.cfg.Interval
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.feed.log.Warn("event log not read", "error", err)
			wait = max(wait, min(10*wait, maxWait))
		}
		p.each(func(w *Watcher) {
			if (err == nil) != (w.err == nil) {
				w.tell(func() { w.err, w.told = err, false })
			}
		})
	}
}

// each has all watchers of the poller.
func (p *poller) each(do func(*Watcher)) {
	p.feed.mu.Lock()
	defer p.feed.mu.Unlock()
	for w := range p.watchers {
		do(w)
	}
}

func (p *poller) give(events []*Event) {
	p.each(func(w *Watcher) { w.give(events) })
}

// read gives what was not seen before.
func (p *poller) read(ctx context.Context, give func([]*Event)) error {
	where := "recorded_at >= " + literal.Time(p.low)
	if late := p.feed.cfg.Late; late > 0 {
		where += " AND received_at >= " + literal.Time(p.low-span(late))
	}
	rows, err := p.feed.data.Query(ctx, reader, fmt.Sprintf("SELECT %s FROM {event_log.events} WHERE %s ORDER BY recorded_at, received_at, broker, source, event_id", Columns, where))
	if err != nil {
		return err
	}
	var some []*Event
	defer func() {
		give(some)
		p.advance(mesh.At(time.Now()))
	}()
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		e, err := Read(row)
		if err != nil { // it is shown as far as it can be
			p.feed.log.Warn("event of the log cannot be rebuilt", "event.id", e.ID(), "event.type", e.Type(), "error", err)
		}
		k := keyOf(e)
		if _, is := p.seen[k]; is {
			continue
		}
		p.seen[k] = e.RecordedAt
		p.high = max(p.high, e.RecordedAt)
		if some = append(some, e); len(some) == chunk {
			give(some)
			some = nil
		}
	}
	return nil
}

// advance forgets what is not read any more.
func (p *poller) advance(now mesh.Instant) {
	// A writer whose clock is ahead does not make the rows of others old.
	p.low = max(p.low, min(p.high, now)-span(p.feed.cfg.Overlap))
	if len(p.seen) > p.most {
		recorded := slices.Sorted(maps.Values(p.seen))
		p.low = max(p.low, recorded[len(recorded)-p.most/2]+1)
	}
	maps.DeleteFunc(p.seen, func(_ key, at mesh.Instant) bool { return at < p.low })
}
