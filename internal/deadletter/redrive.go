package deadletter

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Redrive has letters delivered again, or given up: it asks the Brokers of their namespaces, by
// events, and waits for what comes of each.
type Redrive struct {
	Warehouse Reader
	Source    string                                                           // CloudEvents source of what it asks
	Leads     func(ctx context.Context, namespaces []string) (Leads, error)    // of these at least
	Post      func(ctx context.Context, namespace string, e event.Event) error // to the Broker of a namespace
	Discard   string                                                           // why letters are given up, and not delivered; empty: they are delivered
	FirstLook time.Duration                                                    // for outcomes, after a request
	Patience  time.Duration                                                    // with letters of which nothing comes
	Say       func(id, outcome string, status int64, cause string)             // what came of a letter; status 0: none
	Looked    func() error                                                     // is called when outcomes were looked for; nil: nobody asks

	Counts Counts // what came of the letters so far
}

// Counts are how many letters came to what.
type Counts struct {
	Redriven, Failed int
	Before           int // that were not open any more
	Discarded        int // of these
	Waiting, Unasked int
	GivenUp          int // as was asked
}

func (c Counts) String() string {
	out := fmt.Sprintf("%d redriven, %d failed", c.Redriven, c.Failed)
	for _, more := range []struct {
		n    int
		what string
	}{{c.Before, "closed before"}, {c.Waiting, "without an outcome yet"}, {c.Unasked, "not asked for"}} {
		if more.n > 0 {
			out += fmt.Sprintf(", %d %s", more.n, more.what)
		}
	}
	return out
}

// Undelivered is how many are not delivered, of all.
func (c Counts) Undelivered() (n, all int) {
	n = c.Failed + c.Discarded + c.Waiting + c.Unasked
	return n, n + c.Redriven + c.Before - c.Discarded
}

const (
	// LettersOfRequest are in a request at most. It is answered when all its letters are
	// delivered, where Brokers keep no events: there are as many in it as are delivered at
	// once.
	LettersOfRequest = 8
	// RequestsAtOnce wait for outcomes.
	RequestsAtOnce = 4

	// How often outcomes are looked for, of a letter that takes long. Each time costs a
	// query, which BigQuery is paid for.
	lastLook = 10 * time.Second
	// clocks is how much that of this machine may differ from those of the cluster.
	clocks = time.Hour
)

// NoOutcome is said of a letter of which nothing came in the time that was waited.
const NoOutcome = "no outcome yet"

// Tell says what came of a letter, and counts it.
func (r *Redrive) Tell(id, outcome string, status int64, cause string) {
	switch {
	case outcome == Redriven:
		r.Counts.Redriven++
	case outcome == Discarded && r.Discard != "":
		r.Counts.GivenUp++
	case outcome == NoOutcome:
		r.Counts.Waiting++
	default:
		r.Counts.Failed++
	}
	r.Say(id, outcome, status, cause)
}

// Closed says what became of letters that are not open any more. Those that were
// redriven are no failure.
func (r *Redrive) Closed(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	ends, err := Ends(ctx, r.Warehouse, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		end := ends[id]
		r.Counts.Before++
		if end.Outcome == Discarded {
			r.Counts.Discarded++
		}
		r.Say(id, end.Outcome, 0, "before, at "+end.DoneAt.String())
	}
	return nil
}

// request is some letters of one namespace that are asked for together.
type request struct {
	namespace string
	letters   []mesh.RedriveLetter
	waiting   map[string]string // letters without an outcome, and what is to be said of one that is redriven
	err       error             // why the Broker did not take it
}

func (q *request) event(source, id string) event.Event {
	e := mesh.NewEvent(mesh.RedriveRequested, source, mesh.Encode(mesh.Redrive{Letters: q.letters}))
	e.SetID(id)
	return e
}

// requests makes requests of letters. Those that nobody can be asked for are said.
func (r *Redrive) requests(ctx context.Context, letters []Letter) (out []*request, err error) {
	if len(letters) == 0 {
		return nil, nil
	}
	namespaces := map[string]*request{} // the last of each
	for _, l := range letters {
		if l.Namespace != "" {
			namespaces[l.Namespace] = nil
		}
	}
	var all Leads
	if r.Discard == "" {
		if all, err = r.Leads(ctx, slices.Sorted(maps.Keys(namespaces))); err != nil {
			return nil, err
		}
	}
	for _, l := range letters {
		address, moved, err := "", false, error(nil)
		switch {
		case r.Discard == "":
			address, moved, err = all.Of(&l)
		case l.Namespace == "":
			err = errNamespace
		}
		if err != nil {
			r.Tell(l.ID, Failed, 0, err.Error())
			continue
		}
		told := ""
		if moved {
			told = fmt.Sprintf("to %s, where Trigger %s/%s leads now", address, l.Namespace, l.Trigger)
		}
		q := namespaces[l.Namespace]
		if q == nil || len(q.letters) == LettersOfRequest {
			q = &request{namespace: l.Namespace, waiting: map[string]string{}}
			namespaces[l.Namespace] = q
			out = append(out, q)
		}
		q.letters = append(q.letters, mesh.RedriveLetter{ID: l.ID, Subscriber: address, Discard: r.Discard})
		q.waiting[l.ID] = told
	}
	return out, nil
}

// Ask has letters that are open delivered by dead-letter-sink. A Broker that keeps
// no events answers when all letters of a request are delivered, so that outcomes are
// looked for meanwhile.
func (r *Redrive) Ask(ctx context.Context, letters []Letter) error {
	requests, err := r.requests(ctx, letters)
	if err != nil {
		return err
	}
	since, run := mesh.At(time.Now().Add(-clocks)), rand.Text()
	open := map[string]*request{}
	next := 0
	defer func() {
		for _, q := range open {
			r.Counts.Waiting += len(q.waiting)
		}
		for _, q := range requests[next:] {
			r.Counts.Unasked += len(q.waiting)
		}
	}()
	var posting sync.WaitGroup
	defer posting.Wait()
	posts, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		id  string
		err error
	}
	answers := make(chan answer, len(requests))
	var refused error // the first that was; nothing more is asked for then
	look, progress := r.FirstLook, time.Now()
	for {
		for refused == nil && next < len(requests) && len(open) < RequestsAtOnce {
			id, q := run+"-"+strconv.Itoa(next), requests[next]
			open[id] = q
			next++
			look, progress = r.FirstLook, time.Now()
			posting.Go(func() { answers <- answer{id, r.Post(posts, q.namespace, q.event(r.Source, id))} })
		}
		if len(open) == 0 {
			return refused
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-answers:
			look = r.FirstLook
			if a.err == nil || open[a.id] == nil {
				continue
			}
			// What it led to all the same is looked for once more.
			open[a.id].err = a.err
			if refused == nil {
				refused = a.err
			}
		case <-time.After(look):
			look = min(2*look, lastLook)
		}
		outcomes, err := Outcomes(ctx, r.Warehouse, since, r.Source, slices.Sorted(maps.Keys(open))...)
		if err != nil {
			return err
		}
		var closed []string
		for _, o := range outcomes {
			q := open[o.RequestID]
			told, waits := q.waiting[o.LetterID]
			if !waits {
				continue
			}
			delete(q.waiting, o.LetterID)
			progress = time.Now()
			switch o.Outcome {
			case Closed: // by somebody else, after it was chosen
				closed = append(closed, o.LetterID)
			case Redriven:
				r.Tell(o.LetterID, o.Outcome, 0, told)
			default:
				r.Tell(o.LetterID, o.Outcome, o.Status, o.Cause)
			}
		}
		if err := r.Closed(ctx, closed); err != nil {
			return err
		}
		for id, q := range open {
			if q.err != nil {
				r.Counts.Unasked += len(q.waiting)
			} else if len(q.waiting) > 0 {
				continue
			}
			delete(open, id)
		}
		if time.Since(progress) > r.Patience {
			for _, q := range open {
				for _, id := range slices.Sorted(maps.Keys(q.waiting)) {
					r.Tell(id, NoOutcome, 0, fmt.Sprintf("nothing came of it in %s: does Trigger dead-letter-redrive bring events to dead-letter-sink?", r.Patience))
				}
			}
			clear(open)
			return refused
		}
		if r.Looked == nil {
			continue
		}
		if err := r.Looked(); err != nil {
			return err
		}
	}
}
