package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/mesh"
)

func deadlettersRedrive() *cobra.Command {
	var (
		o       options
		at      warehouseAt
		through clusterBrokers
		all     bool
		wait    time.Duration
	)
	cmd := &cobra.Command{
		Use:   "redrive ID… | --all",
		Short: "Deliver dead letters again, to the subscriber that failed",
		Long: `Delivers dead letters again, each to the subscriber of the Trigger that failed and
to no other. What it replies goes on as always. It waits for what comes of each and
says it. A Trigger that leads elsewhere since brings it there.

With --warehouse the mesh is on a cluster: its dead-letter-sink is asked to, by an
event to the Broker of each letter's namespace, through the cluster of the
kubeconfig: by who can read its Triggers, forward ports of pods in knative-eventing
and, where Brokers ask who posts, make tokens of ServiceAccount
platform/dead-letter-sink. --brokers is for Brokers that ask nobody: their
Triggers then are those of --manifests. On one machine a mesh that does not run is
started for as long as it takes.

Exits 1 if any letter was not delivered.`,
		Example: `  telemesh deadletters redrive --all
  telemesh deadletters redrive --warehouse 'bigquery://my-project?location=EU' --context production 3f0a62c11b9e`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return hint(errors.New("which dead letters?"), "name their ids, or all of them by --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, ids []string) error {
			ctx := cmd.Context()
			if at.warehouse == "" {
				for _, name := range []string{"brokers", "kubeconfig", "context"} {
					if cmd.Flags().Changed(name) {
						return hint(fmt.Errorf("--%s goes with --warehouse", name), "the dead letters of a cluster stand in its warehouse: name it")
					}
				}
				return o.redrive(ctx, ids, all, wait, cmd.OutOrStdout())
			}
			through.manifests = o.manifests
			defer through.close()
			return withPostbox(ctx, &at, func(p postbox) error {
				r := &redrive{postbox: p, leads: through.leads, post: through.post, firstLook: firstQuery, patience: wait}
				return r.run(ctx, ids, all, cmd.OutOrStdout())
			})
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&at.warehouse, "warehouse", "", "the mesh is on a cluster, and this is its warehouse: "+warehouseForms)
	through.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all that were events, but for requests to redrive")
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long nothing may come of any before it gives up waiting")
	return cmd
}

// redrive delivers dead letters of a folder, by the mesh that runs there or by one
// that is started.
func (o *options) redrive(ctx context.Context, ids []string, all bool, wait time.Duration, out io.Writer) (err error) {
	in, err := o.run(ctx)
	if err != nil {
		return brokenOff(ctx, err)
	}
	defer func() { err = errors.Join(err, in.close()) }()
	return o.withLetters(ctx, func(l letters) error {
		r := &redrive{postbox: postbox{in.warehouse, l}, firstLook: firstLook, patience: wait, idle: in.idle}
		r.leads = func(ctx context.Context, _ []string) (leads, error) { return in.leads(ctx) }
		r.post = func(ctx context.Context, namespace string, e event.Event) error {
			return postPatiently(ctx, in.client, in.brokers+namespace+"/"+namespace, e)
		}
		return r.run(ctx, ids, all, out)
	})
}

// brokenOff says what an interrupt means, in place of where it was noticed.
func brokenOff(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return hint(errors.New("interrupted"), "what was asked for goes on; `telemesh deadletters list` says what is open")
	}
	return err
}

// redrive asks for dead letters to be delivered again, and waits.
type redrive struct {
	postbox
	leads     func(ctx context.Context, namespaces []string) (leads, error)    // of these at least
	post      func(ctx context.Context, namespace string, e event.Event) error // to the Broker of a namespace
	idle      func(context.Context) error                                      // until the mesh has nothing to do; of letters that it keeps
	firstLook time.Duration                                                    // for outcomes, after a request
	patience  time.Duration
	table     *tabwriter.Writer
	counts    counts
}

// counts are how many letters came to what.
type counts struct {
	redriven, failed int
	before           int // that were not open any more
	discarded        int // of these
	waiting, unasked int
}

func (c counts) String() string {
	out := fmt.Sprintf("%d redriven, %d failed", c.redriven, c.failed)
	for _, more := range []struct {
		n    int
		what string
	}{{c.before, "closed before"}, {c.waiting, "without an outcome yet"}, {c.unasked, "not asked for"}} {
		if more.n > 0 {
			out += fmt.Sprintf(", %d %s", more.n, more.what)
		}
	}
	return out
}

// err says that letters are not delivered, if any are.
func (c counts) err() error {
	n := c.failed + c.discarded + c.waiting + c.unasked
	if n == 0 {
		return nil
	}
	hints := "what failed stays open"
	if c.discarded > 0 {
		hints += ", what was discarded does not"
	}
	if c.waiting > 0 {
		hints += "; what has no outcome yet may get one"
	}
	return hint(fmt.Errorf("%d of %d dead letters are not delivered", n, n+c.redriven+c.before-c.discarded), "%s; `telemesh deadletters show ID` says all about it", hints)
}

const (
	// A request is answered when all its letters are delivered, where Brokers keep no
	// events: there are as many in it as are delivered at once.
	lettersOfRequest = 8
	requestsAtOnce   = 4
	// How often outcomes are looked for, from a request on, and of one that takes
	// long. Each time costs a query, which BigQuery is paid for.
	firstLook, firstQuery, lastLook = 100 * time.Millisecond, time.Second, 10 * time.Second
	// clocks is how much that of this machine may differ from those of the cluster.
	clocks = time.Hour
)

func (r *redrive) run(ctx context.Context, ids []string, all bool, out io.Writer) error {
	r.table = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	letters, kept, err := r.choose(ctx, ids, all)
	if err == nil {
		err = r.ask(ctx, letters)
	}
	if err == nil {
		err = r.again(ctx, kept)
	}
	err = errors.Join(err, r.table.Flush())
	if err == nil || r.counts != (counts{}) {
		fmt.Fprintln(out, r.counts)
	}
	if err != nil {
		return brokenOff(ctx, err)
	}
	return r.counts.err()
}

// say says what came of a letter, and counts it.
func (r *redrive) say(id, outcome string, status int, cause string) {
	switch outcome {
	case deadletter.Redriven:
		r.counts.redriven++
	case noOutcome:
		r.counts.waiting++
	default:
		r.counts.failed++
	}
	r.line(id, outcome, status, cause)
}

func (r *redrive) line(id, outcome string, status int, cause string) {
	if status == 0 && cause == "" {
		fmt.Fprintf(r.table, "%s\t%s\n", shownName(id), outcome)
		return
	}
	fmt.Fprintf(r.table, "%s\t%s\t%s\n", shownName(id), outcome, statusAndCause(status, cause))
}

const noOutcome = "no outcome yet"

// choose gives the letters of the warehouse, and those that the embedded broker
// keeps. What cannot be redriven is said.
func (r *redrive) choose(ctx context.Context, ids []string, all bool) (letters []deadletter.Letter, kept []shown, err error) {
	keep := func(l deadletter.Letter) {
		l.Event = event.Event{} // there may be many
		letters = append(letters, l)
	}
	if all {
		requests := 0
		for l, err := range deadletter.Open(ctx, r.warehouse) {
			switch {
			case err != nil:
				return nil, nil, err
			case l.Event.Type() == mesh.RedriveRequested:
				requests++
			default:
				keep(l)
			}
		}
		if r.kept != nil {
			err = r.kept.list(ctx, func(d shown) error {
				is, err := isRequest(d)
				switch {
				case is:
					requests++
				case d.Trigger != "":
					kept = append(kept, d)
				}
				return err
			})
		}
		if requests > 0 {
			fmt.Fprintf(r.table, "%d left out that are requests to redrive: the letters they name are in the list themselves\n", requests)
		}
		return letters, kept, err
	}
	var wanted []string
	for _, id := range ids {
		if r.keeps(id) {
			d, err := r.kept.get(ctx, id)
			if err != nil {
				r.say(id, "unknown", 0, err.Error())
				continue
			}
			kept = append(kept, d)
			continue
		}
		whole, err := r.find(ctx, id)
		if errors.Is(err, deadletter.ErrNone) {
			r.say(id, "unknown", 0, err.Error())
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		wanted = append(wanted, whole)
	}
	if len(wanted) == 0 {
		return nil, kept, nil
	}
	open := map[string]bool{}
	for l, err := range deadletter.OpenOf(ctx, r.warehouse, wanted) {
		if err != nil {
			return nil, nil, err
		}
		open[l.ID] = true
		keep(l)
	}
	var closed []string
	for _, id := range wanted {
		if !open[id] {
			open[id] = true // said once
			closed = append(closed, id)
		}
	}
	return letters, kept, r.closed(ctx, closed)
}

// isRequest says whether a letter that the embedded broker keeps is a request to
// redrive others.
func isRequest(d shown) (bool, error) {
	if d.Event == nil {
		return false, nil
	}
	var e struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(d.Event, &e); err != nil {
		return false, fmt.Errorf("dead letter %s: %w", d.ID, err)
	}
	return e.Type == mesh.RedriveRequested, nil
}

// closed says what became of letters that are not open any more. Those that were
// redriven are no failure.
func (r *redrive) closed(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	ends, err := deadletter.Ends(ctx, r.warehouse, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		end := ends[id]
		r.counts.before++
		if end.Outcome == deadletter.Discarded {
			r.counts.discarded++
		}
		r.line(id, end.Outcome, 0, "before, at "+end.DoneAt.String())
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

func (q *request) event(id string) event.Event {
	e := mesh.NewEvent(mesh.RedriveRequested, requestSource, mesh.Encode(mesh.Redrive{Letters: q.letters}))
	e.SetID(id)
	return e
}

// requests makes requests of letters. Those that nobody can be asked for are said.
func (r *redrive) requests(ctx context.Context, letters []deadletter.Letter) (out []*request, err error) {
	if len(letters) == 0 {
		return nil, nil
	}
	namespaces := map[string]*request{} // the last of each
	for _, l := range letters {
		if l.Namespace != "" {
			namespaces[l.Namespace] = nil
		}
	}
	all, err := r.leads(ctx, slices.Sorted(maps.Keys(namespaces)))
	if err != nil {
		return nil, err
	}
	for _, l := range letters {
		address, moved, err := all.of(&l)
		if err != nil {
			r.say(l.ID, deadletter.Failed, 0, err.Error())
			continue
		}
		told := ""
		if moved {
			told = fmt.Sprintf("to %s, where Trigger %s/%s leads now", address, l.Namespace, l.Trigger)
		}
		q := namespaces[l.Namespace]
		if q == nil || len(q.letters) == lettersOfRequest {
			q = &request{namespace: l.Namespace, waiting: map[string]string{}}
			namespaces[l.Namespace] = q
			out = append(out, q)
		}
		q.letters = append(q.letters, mesh.RedriveLetter{ID: l.ID, Subscriber: address})
		q.waiting[l.ID] = told
	}
	return out, nil
}

// ask has letters of the warehouse delivered by dead-letter-sink. A Broker that keeps
// no events answers when all letters of a request are delivered, so that outcomes are
// looked for meanwhile.
func (r *redrive) ask(ctx context.Context, letters []deadletter.Letter) error {
	requests, err := r.requests(ctx, letters)
	if err != nil {
		return err
	}
	since, run := mesh.At(time.Now().Add(-clocks)), rand.Text()
	open := map[string]*request{}
	next := 0
	defer func() {
		for _, q := range open {
			r.counts.waiting += len(q.waiting)
		}
		for _, q := range requests[next:] {
			r.counts.unasked += len(q.waiting)
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
	look, progress := r.firstLook, time.Now()
	for {
		for refused == nil && next < len(requests) && len(open) < requestsAtOnce {
			id, q := run+"-"+strconv.Itoa(next), requests[next]
			open[id] = q
			next++
			look, progress = r.firstLook, time.Now()
			posting.Go(func() { answers <- answer{id, r.post(posts, q.namespace, q.event(id))} })
		}
		if len(open) == 0 {
			return refused
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-answers:
			look = r.firstLook
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
		outcomes, err := deadletter.Outcomes(ctx, r.warehouse, since, requestSource, slices.Sorted(maps.Keys(open))...)
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
			case deadletter.Closed: // by somebody else, after it was chosen
				closed = append(closed, o.LetterID)
			case deadletter.Redriven:
				r.say(o.LetterID, o.Outcome, 0, told)
			default:
				r.say(o.LetterID, o.Outcome, int(o.Status), o.Cause)
			}
		}
		if err := r.closed(ctx, closed); err != nil {
			return err
		}
		for id, q := range open {
			if q.err != nil {
				r.counts.unasked += len(q.waiting)
			} else if len(q.waiting) > 0 {
				continue
			}
			delete(open, id)
		}
		if time.Since(progress) > r.patience {
			for _, q := range open {
				for _, id := range slices.Sorted(maps.Keys(q.waiting)) {
					r.say(id, noOutcome, 0, fmt.Sprintf("nothing came of it in %s: does Trigger dead-letter-redrive bring events to dead-letter-sink?", r.patience))
				}
			}
			clear(open)
			return refused
		}
		if err := r.table.Flush(); err != nil {
			return err
		}
	}
}

// again gives letters that the embedded broker keeps to their Triggers. What fails
// again is a new dead letter.
func (r *redrive) again(ctx context.Context, kept []shown) error {
	var given []shown
	for _, d := range kept {
		if err := r.kept.redrive(ctx, d.ID); err != nil {
			r.say(d.ID, deadletter.Failed, 0, err.Error())
			continue
		}
		given = append(given, d)
	}
	if len(given) == 0 {
		return nil
	}
	some, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	if err := r.idle(some); err != nil && (some.Err() == nil || ctx.Err() != nil) {
		return err
	}
	failed := map[string]shown{}
	err := r.list(ctx, func(d shown) error {
		id, err := nameOf(d)
		if id != "" {
			failed[id] = d
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range given {
		id, err := nameOf(d)
		if err != nil {
			return err
		}
		if again, is := failed[id]; is {
			r.say(d.ID, deadletter.Failed, again.Status, again.Cause)
		} else if some.Err() != nil {
			r.say(d.ID, noOutcome, 0, fmt.Sprintf("the mesh is busy since %s", r.patience))
		} else {
			r.say(d.ID, deadletter.Redriven, 0, "")
		}
	}
	return nil
}

// nameOf gives the id of a letter as the warehouse has it, also of one that the
// embedded broker keeps; empty: it is no event.
func nameOf(d shown) (string, error) {
	if !keptID.MatchString(d.ID) {
		return d.ID, nil
	}
	if d.Event == nil {
		return "", nil
	}
	var e event.Event
	if err := json.Unmarshal(d.Event, &e); err != nil {
		return "", fmt.Errorf("dead letter %s: %w", d.ID, err)
	}
	return deadletter.New(e, "/"+d.Trigger, time.Now()).ID, nil
}
