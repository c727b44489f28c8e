package live

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
	"github.com/telemesh/telemesh/products"
)

var team = access.Viewer{ID: "1", Name: "ann", Role: access.Analyst}

// logged is a warehouse with an event log, which shows what rows says: all, if it is
// empty.
type logged struct {
	warehouse.Warehouse
	t testing.TB

	mu      sync.Mutex
	rows    string
	fails   error
	queries int
}

func newLog(t testing.TB) *logged { return &logged{Warehouse: duckdbtest.Open(t), t: t} }

func (l *logged) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queries++
	if l.fails != nil {
		return nil, l.fails
	}
	if l.rows != "" {
		sql = strings.ReplaceAll(sql, "event_log.events", l.rows)
	}
	return l.Warehouse.Query(ctx, sql)
}

func (l *logged) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// store logs an event as Broker iot/iot had it; tenant "": of none.
func (l *logged) store(id, tenant string) {
	l.t.Helper()
	e := mesh.NewEvent("com.example.a", "/test", []byte(`{"secret": "`+tenant+`"}`))
	e.SetID(id)
	if tenant != "" {
		e.SetExtension(mesh.ExtTenant, tenant)
	}
	if _, err := sink.NewLog(l.Warehouse, nil)(function.WithPath(l.t.Context(), "/iot/iot"), e); err != nil {
		l.t.Fatal(err)
	}
}

func (l *logged) feed(t testing.TB, cfg Config) *Feed {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	f := New(access.New(l, all), cfg, slog.New(slog.DiscardHandler))
	t.Cleanup(f.Close)
	return f
}

// Rows become visible in any order: each event is told once, if it became visible no
// later than the overlap after rows that were recorded after it.
func TestEachEventOnce(t *testing.T) {
	const n, overlap = 40, 10 * time.Second
	log := newLog(t)
	for i := range n {
		log.store(fmt.Sprint(i), "")
	}
	begin := time.Now().Add(-time.Hour).Truncate(time.Second)
	rapid.Check(t, func(t *rapid.T) {
		type row struct {
			id                string
			recorded, visible time.Duration
		}
		var rows []row
		for i := range n {
			recorded := time.Duration(rapid.IntRange(0, 60_000).Draw(t, "recorded")) * time.Millisecond
			late := time.Duration(rapid.IntRange(0, int(overlap/time.Millisecond)-1).Draw(t, "late")) * time.Millisecond
			rows = append(rows, row{fmt.Sprint(i), recorded, recorded + late})
		}
		slices.SortFunc(rows, func(a, b row) int { return int(a.visible - b.visible) })
		show := func(some []row) {
			var values []string
			for _, r := range some {
				values = append(values, fmt.Sprintf("('%s', %s)", r.id, literal.Time(mesh.At(begin.Add(r.recorded)))))
			}
			log.set(func() {
				log.rows = "(SELECT * FROM event_log.events WHERE FALSE)"
				if len(values) > 0 {
					log.rows = "(SELECT e.* REPLACE (v.recorded AS recorded_at) FROM event_log.events AS e JOIN (VALUES " +
						strings.Join(values, ", ") + ") AS v(id, recorded) ON e.event_id = v.id)"
				}
			})
		}
		there := rapid.IntRange(0, n).Draw(t, "there before")
		show(rows[:there])
		p := newPoller(log.feed(log.t, Config{Overlap: overlap}))
		if err := p.begin(log.t.Context()); err != nil {
			t.Fatal(err)
		}
		var got, want []string
		for _, r := range rows[there:] {
			want = append(want, r.id)
		}
		for shown := there; ; {
			if err := p.read(log.t.Context(), func(some []*Event) {
				for _, e := range some {
					got = append(got, e.ID())
				}
			}); err != nil {
				t.Fatal(err)
			}
			if shown == n {
				break
			}
			shown = rapid.IntRange(shown, n).Draw(t, "visible at the next reading")
			show(rows[:shown])
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("told of (-stored later +told):\n%s", diff)
		}
	})
}

// What a reading costs that finds a hundred events within the overlap, of which one is
// new, in a log of 10,000.
func BenchmarkReading(b *testing.B) {
	log := newLog(b)
	for i := range 9900 {
		log.store(fmt.Sprint("old ", i), "")
	}
	p := newPoller(log.feed(b, Config{Overlap: time.Hour}))
	if err := p.begin(b.Context()); err != nil {
		b.Fatal(err)
	}
	p.low = p.high // as if all of these were longer ago
	for i := range 100 {
		log.store(fmt.Sprint("new ", i), "")
	}
	n := 0
	for b.Loop() {
		p.seen = maps.Collect(take(p.seen, 99))
		if err := p.read(b.Context(), func(some []*Event) { n += len(some) }); err != nil {
			b.Fatal(err)
		}
	}
	if n < b.N {
		b.Errorf("%d events in %d readings, want one in each at least", n, b.N)
	}
}

func take(all map[key]mesh.Instant, n int) iter.Seq2[key, mesh.Instant] {
	return func(yield func(key, mesh.Instant) bool) {
		for k, at := range all {
			if n--; n < 0 || !yield(k, at) {
				return
			}
		}
	}
}

// What is known of is bounded, and nothing is told twice for it.
func TestSeenIsBounded(t *testing.T) {
	log := newLog(t)
	p := newPoller(log.feed(t, Config{Overlap: time.Hour}))
	p.most = 10
	if err := p.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range 50 {
		log.store(fmt.Sprint(i), "")
		if err := p.read(t.Context(), func(some []*Event) {
			for _, e := range some {
				got = append(got, e.ID())
			}
		}); err != nil {
			t.Fatal(err)
		}
		if len(p.seen) > p.most {
			t.Fatalf("%d events are known after %d, want %d at most", len(p.seen), i+1, p.most)
		}
	}
	for i, id := range got {
		if id != fmt.Sprint(i) {
			t.Fatalf("told of %v, want each once in order", got)
		}
	}
	if len(got) != 50 {
		t.Errorf("told of %d events, want 50", len(got))
	}
}

// watch gives the ids that a watcher is told of, once there are n.
func watch(t *testing.T, w *Watcher, n int) (ids []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(ids) < n {
		some, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("told of %v, then: %v", ids, err)
		}
		for _, e := range some.Events {
			ids = append(ids, e.ID())
		}
	}
	return ids
}

// A watcher is told of what it may see, of that what it asked for, and of nothing that
// was stored before.
func TestWatchersSeeTheirs(t *testing.T) {
	log := newLog(t)
	feed := log.feed(t, Config{Interval: time.Millisecond, Overlap: time.Minute})
	log.store("before", "north")
	as := func(tenant string) access.Viewer {
		v, err := team.As(tenant)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	watchers := map[string]*Watcher{}
	for name, of := range map[string]struct {
		viewer access.Viewer
		match  func(*Event) bool
	}{
		"team":    {team, nil},
		"as":      {as("north"), nil},
		"tenant":  {access.Viewer{Role: access.Tenant, Tenants: []string{"north", "east"}}, nil},
		"foreign": {access.Viewer{Role: access.Tenant, Tenants: []string{"south"}}, nil},
		"nobody":  {access.Viewer{}, nil},
		"chooses": {team, func(e *Event) bool { return e.ID() == "b" || e.ID() == "end" }},
	} {
		w, err := feed.Watch(t.Context(), of.viewer, of.match)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		watchers[name] = w
	}
	log.store("a", "north")
	log.store("b", "")
	log.store("c", "east")
	log.store("end", "south")
	for name, want := range map[string][]string{
		"team": {"a", "b", "c", "end"}, "as": {"a"}, "tenant": {"a", "c"}, "foreign": {"end"}, "chooses": {"b", "end"},
	} {
		if got := watch(t, watchers[name], len(want)); !slices.Equal(got, want) {
			t.Errorf("%s is told of %v, want %v", name, got, want)
		}
	}
	// All have been told of "end" by one reading, or were not to be told.
	for name, w := range watchers {
		w.mu.Lock()
		if n := len(w.some.Events); n > 0 {
			t.Errorf("%s is told of %d events more, the first %s", name, n, w.some.Events[0].ID())
		}
		w.mu.Unlock()
	}
}

// Who does not ask is told how many it missed, and nobody waits for it.
func TestSlowWatchers(t *testing.T) {
	log := newLog(t)
	feed := log.feed(t, Config{})
	slow, err := feed.Watch(t.Context(), team, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	e := func(i int) *Event {
		in := event.New()
		in.SetID(fmt.Sprint(i))
		return &Event{Event: in}
	}
	for i := range maxPending + 7 {
		slow.poller.give([]*Event{e(i)})
	}
	some, err := slow.Next(t.Context())
	if err != nil || len(some.Events) != maxPending || some.Missed != 7 || some.Events[0].ID() != "0" {
		t.Errorf("Next() = %d events, %d missed, %v, want %d and 7", len(some.Events), some.Missed, err, maxPending)
	}
	slow.poller.give([]*Event{e(-1)})
	if some, err = slow.Next(t.Context()); err != nil || len(some.Events) != 1 || some.Missed != 0 {
		t.Errorf("Next() = %d events, %d missed, %v, want one that came after", len(some.Events), some.Missed, err)
	}
}

// Nothing is read while nobody watches.
func TestReadingEndsWithTheLastWatcher(t *testing.T) {
	log := newLog(t)
	feed := log.feed(t, Config{Interval: time.Millisecond, Overlap: time.Minute})
	for round := range 2 {
		var watchers []*Watcher
		for range 2 {
			w, err := feed.Watch(t.Context(), team, nil)
			if err != nil {
				t.Fatal(err)
			}
			watchers = append(watchers, w)
		}
		if watchers[0].poller != watchers[1].poller {
			t.Error("two watchers have two pollers")
		}
		watchers[0].Close()
		id := fmt.Sprint("while one watches ", round)
		log.store(id, "")
		if got := watch(t, watchers[1], 1); !slices.Equal(got, []string{id}) {
			t.Errorf("told of %v, want %s", got, id)
		}
		watchers[1].Close()
		watchers[1].Close() // twice is once
		if feed.poller != nil {
			t.Error("the log is read for nobody")
		}
		log.store(fmt.Sprint("between ", round), "")
	}
}

func TestFailures(t *testing.T) {
	log := newLog(t)
	feed := log.feed(t, Config{Interval: time.Millisecond, Overlap: time.Minute})
	w, err := feed.Watch(t.Context(), team, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	away := errors.New("the warehouse is away")
	log.set(func() { log.fails = away })
	if some, err := w.Next(t.Context()); err != nil || !errors.Is(some.Err, away) {
		t.Errorf("Next() = %+v, %v, want that the log cannot be read", some, err)
	}
	if _, err := New(feed.data, Config{}, feed.log).Watch(t.Context(), team, nil); !errors.Is(err, away) {
		t.Errorf("Watch() = %v, want that the log cannot be read", err)
	}
	log.store("meanwhile", "")
	log.set(func() { log.fails = nil })
	told := false
	for ids := []string(nil); len(ids) == 0 || !told; {
		some, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		told = told || some.Err == nil
		for _, e := range some.Events {
			ids = append(ids, e.ID())
		}
	}
	feed.Close()
	if _, err := w.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Next() after the end = %v, want %v", err, ErrClosed)
	}
	if _, err := feed.Watch(t.Context(), team, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Watch() after the end = %v, want %v", err, ErrClosed)
	}
}
