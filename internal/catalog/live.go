package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/elapsed"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Live says what is true of the rows of output ports now, of those that a viewer
// may see. It never says more than it is sure of: what took too long, or failed,
// is not known.
type Live struct {
	data *access.Data
	now  func() time.Time
	turn chan struct{} // as many queries at once as it holds

	mu      sync.Mutex
	facts   map[string]*kept[any]
	results map[string]*Results // by port
}

// NewLive reads the warehouse by data.
func NewLive(data *access.Data, now func() time.Time) *Live {
	return &Live{data: data, now: now, turn: make(chan struct{}, atOnce), facts: map[string]*kept[any]{}, results: map[string]*Results{}}
}

const (
	atOnce  = 3                // queries for the catalog, of all viewers together
	timeout = 5 * time.Second  // of a fact
	fresh   = 10 * time.Second // how long one is good, at least
	maxKept = 2000
)

// kept is an answer that is good for a while, and whoever waits for it.
type kept[T any] struct {
	done  chan struct{}
	value T
	err   error
	until time.Time
}

// ask gives an answer that is kept, for viewers of one scope and for what is
// asked, or the one that load finds. An answer is good for as long as the
// warehouse worked for it twenty times over, so that pages which are watched are
// not what it works for. A caller that leaves does not end it for others.
func (l *Live) ask(ctx context.Context, v access.Viewer, what string, load func(context.Context) (any, error)) (any, error) {
	key := v.Scope() + "\n" + what
	l.mu.Lock()
	k := l.facts[key]
	if k == nil || !k.until.IsZero() && l.now().After(k.until) {
		if len(l.facts) >= maxKept {
			clear(l.facts)
		}
		k = &kept[any]{done: make(chan struct{})}
		l.facts[key] = k
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
			defer cancel()
			var took time.Duration
			select {
			case l.turn <- struct{}{}:
				began := time.Now()
				k.value, k.err = load(ctx)
				took = time.Since(began)
				<-l.turn
			case <-ctx.Done():
				k.err = ctx.Err()
			}
			if errors.Is(k.err, context.DeadlineExceeded) {
				k.err = ErrSlow
			}
			l.mu.Lock()
			k.until = l.now().Add(max(fresh, 20*took))
			l.mu.Unlock()
			close(k.done)
		}()
	}
	l.mu.Unlock()
	select {
	case <-k.done:
		return k.value, k.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ErrSlow is that of a fact that takes too long to be found.
var ErrSlow = errors.New("the warehouse did not answer in time")

// Known is a fact, or why it is not known.
type Known[T any] struct {
	Value T
	Err   error // nil: Value is known
}

// Facts are what is true of a port.
type Facts struct {
	Rows   Known[int64]
	Recent Known[Recent]
}

// Recent is what the latest rows say.
type Recent struct {
	Newest time.Time // zero: there is no row
	By     string    // the column that says so; empty: none does
	// How long rows of the last day took from received_at to recorded_at, of
	// readings of the last two days: a backlog that is read later took long for
	// other reasons. Timed is how many there are; 0: none, or no such columns.
	Timed    int64
	P50, P95 time.Duration
}

// lookback is how far rows are looked at that the newest ones are sought among.
const lookback = 48 * time.Hour

// Facts of a port for a viewer. What the viewer may not read is
// access.ErrForbidden.
func (l *Live) Facts(ctx context.Context, v access.Viewer, p *Port) Facts {
	var f Facts
	var group sync.WaitGroup
	group.Go(func() { f.Rows = known[int64](l.ask(ctx, v, "rows "+p.Name, l.rows(v, p))) })
	group.Go(func() { f.Recent = known[Recent](l.ask(ctx, v, "recent "+p.Name, l.recent(v, p))) })
	group.Wait()
	return f
}

func known[T any](value any, err error) Known[T] {
	k := Known[T]{Err: err}
	if err == nil {
		k.Value, _ = value.(T)
	}
	return k
}

// All gives the facts of several ports.
func (l *Live) All(ctx context.Context, v access.Viewer, ports []*Port) map[*Port]Facts {
	all := make([]Facts, len(ports))
	var group sync.WaitGroup
	for i, p := range ports {
		group.Go(func() { all[i] = l.Facts(ctx, v, p) })
	}
	group.Wait()
	out := map[*Port]Facts{}
	for i, p := range ports {
		out[p] = all[i]
	}
	return out
}

// shown is the rows of a table that a viewer may see, as what stands behind FROM.
func shown(table string) string { return "{" + table + "} AS t" }

// one runs a query that gives one row.
func (l *Live) one(ctx context.Context, v access.Viewer, sql string) ([]any, error) {
	rows, err := l.data.Query(ctx, v, sql)
	if err != nil {
		return nil, err
	}
	for row, err := range rows.All {
		return row, err
	}
	return nil, errors.New("the query gave no row")
}

func (l *Live) rows(v access.Viewer, p *Port) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		row, err := l.one(ctx, v, "SELECT COUNT(*) FROM "+shown(p.Name))
		if err != nil {
			return nil, err
		}
		n, _ := row[0].(int64)
		return n, nil
	}
}

func (l *Live) recent(v access.Viewer, p *Port) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		var r Recent
		switch {
		case p.has(contract.RecordedAt):
			r.By = contract.RecordedAt
		case p.Time() != "":
			r.By = p.Time()
		default:
			return r, nil
		}
		newest, recently := "SELECT MAX("+r.By+") AS newest FROM "+shown(p.Name), ""
		if p.Time() != "" {
			recently = " WHERE " + p.Time() + " >= " + literal.Time(mesh.At(l.now().Add(-lookback)))
		}
		row, err := l.one(ctx, v, newest+recently)
		if err == nil && row[0] == nil && recently != "" { // nothing of these days
			row, err = l.one(ctx, v, newest)
		}
		if err != nil {
			return nil, err
		}
		r.Newest, _ = row[0].(time.Time)
		if !p.has("received_at") || recently == "" || r.By != contract.RecordedAt {
			return r, nil
		}
		rows, err := l.data.Query(ctx, v, fmt.Sprintf("SELECT took, COUNT(*) AS timed FROM (SELECT %s AS took FROM %s%s AND recorded_at >= %s) AS timed GROUP BY took",
			elapsed.Bucket("received_at", "recorded_at"), shown(p.Name), recently, literal.Time(mesh.At(l.now().Add(-24*time.Hour)))))
		if err != nil {
			return nil, err
		}
		counts := elapsed.Counts{}
		for row, err := range rows.All {
			if err != nil {
				return nil, err
			}
			took, _ := row[0].(int64)
			counts[took], _ = row[1].(int64)
		}
		r.Timed, r.P50, r.P95 = counts.Total(), counts.Percentile(50), counts.Percentile(95)
		return r, nil
	}
}

// Sample is a few rows of a port.
type Sample struct {
	Columns []Column // with their types, also of views
	Rows    [][]any  // cells as warehouse.Rows gives them
}

// SampleSize is how many rows a sample has at most.
const SampleSize = 5

// Sample gives some of the newest rows that a viewer may see.
func (l *Live) Sample(ctx context.Context, v access.Viewer, p *Port) Known[Sample] {
	return known[Sample](l.ask(ctx, v, "sample "+p.Name, func(ctx context.Context) (any, error) {
		var names []string
		for _, c := range p.Columns {
			names = append(names, "t."+c.Name)
		}
		sql := "SELECT " + strings.Join(names, ", ") + " FROM " + shown(p.Name)
		limit := fmt.Sprintf(" LIMIT %d", SampleSize)
		if at := p.Time(); at != "" {
			s, err := l.sample(ctx, v, p, fmt.Sprintf("%s WHERE t.%s >= %s ORDER BY t.%[2]s DESC%[4]s", sql, at, literal.Time(mesh.At(l.now().Add(-lookback))), limit))
			if err != nil || len(s.Rows) > 0 {
				return s, err
			}
		}
		return l.sample(ctx, v, p, sql+limit)
	}))
}

func (l *Live) sample(ctx context.Context, v access.Viewer, p *Port, sql string) (Sample, error) {
	var s Sample
	rows, err := l.data.Query(ctx, v, sql)
	if err != nil {
		return s, err
	}
	for i, c := range p.Columns {
		c.Type = rows.Columns[i].Type
		s.Columns = append(s.Columns, c)
	}
	for row, err := range rows.All {
		if err != nil {
			return Sample{}, err
		}
		s.Rows = append(s.Rows, append([]any(nil), row...))
	}
	return s, nil
}
