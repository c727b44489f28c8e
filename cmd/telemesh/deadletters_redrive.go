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
		Long: `Delivers dead letters again, each to the subscriber that failed and to no other.
What it replies goes on as always. It waits for what comes of each and says it.

With --warehouse the mesh is on a cluster: its dead-letter-sink is asked to, by an
event to the Broker of each letter's namespace. That Broker is reached at
--brokers, or through the cluster of the kubeconfig by who can forward ports of
pods in knative-eventing. On one machine a mesh that does not run is started for
as long as it takes.

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
			return withPostbox(ctx, &at, func(p postbox) error {
				return (&redrive{postbox: p, post: through.post, patience: wait}).run(ctx, ids, all, cmd.OutOrStdout())
			})
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&at.warehouse, "warehouse", "", "the mesh is on a cluster, and this is its warehouse: "+warehouseForms)
	through.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all that were events")
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long nothing may come of any before it gives up waiting")
	return cmd
}

// redrive delivers dead letters of a folder, by the mesh that runs there or by one
// that is started.
func (o *options) redrive(ctx context.Context, ids []string, all bool, wait time.Duration, out io.Writer) (err error) {
	in, err := o.run(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, in.close()) }()
	return o.withLetters(ctx, func(l letters) error {
		r := &redrive{postbox: postbox{in.warehouse, l}, patience: wait, idle: in.idle, post: func(ctx context.Context, namespace string, e event.Event) error {
			return postPatiently(ctx, in.client, in.brokers+namespace+"/"+namespace, e)
		}}
		return r.run(ctx, ids, all, out)
	})
}

// redrive asks for dead letters to be delivered again, and waits.
type redrive struct {
	postbox
	post              func(ctx context.Context, namespace string, e event.Event) error // to the Broker of a namespace
	idle              func(context.Context) error                                      // until the mesh has nothing to do; of letters that it keeps
	patience          time.Duration
	delivered, failed int
	table             *tabwriter.Writer
}

const (
	// A request is answered when all its letters are delivered.
	lettersOfRequest = 50
	requestsAtOnce   = 4
	// How often outcomes are looked for: each time costs a query.
	firstLook, lastLook = 100 * time.Millisecond, 5 * time.Second
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
	if err := errors.Join(err, r.table.Flush()); err != nil {
		return interrupted(ctx, err)
	}
	fmt.Fprintf(out, "%d redriven, %d failed\n", r.delivered, r.failed)
	if r.failed > 0 {
		return hint(fmt.Errorf("%d of %d dead letters are not delivered", r.failed, r.delivered+r.failed), "what failed stays open; `telemesh deadletters show ID` says all about it")
	}
	return nil
}

// say says what came of a letter.
func (r *redrive) say(id, outcome string, status int, cause string) {
	if outcome == deadletter.Redriven {
		r.delivered++
	} else {
		r.failed++
	}
	if status == 0 && cause == "" {
		fmt.Fprintf(r.table, "%s\t%s\n", shownName(id), outcome)
		return
	}
	fmt.Fprintf(r.table, "%s\t%s\t%s\n", shownName(id), outcome, statusAndCause(status, cause))
}

// choose gives the letters of the warehouse, and those that the embedded broker
// keeps. What cannot be redriven is said.
func (r *redrive) choose(ctx context.Context, ids []string, all bool) (letters []deadletter.Letter, kept []shown, err error) {
	keep := func(l deadletter.Letter) {
		l.Event = event.Event{} // there may be many
		letters = append(letters, l)
	}
	if all {
		for l, err := range deadletter.Open(ctx, r.warehouse) {
			if err != nil {
				return nil, nil, err
			}
			keep(l)
		}
		if r.kept == nil {
			return letters, nil, nil
		}
		err = r.kept.list(ctx, func(d shown) error {
			if d.Trigger != "" {
				kept = append(kept, d)
			}
			return nil
		})
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
	for _, id := range wanted {
		if !open[id] {
			open[id] = true // said once
			if err := r.closed(ctx, id); err != nil {
				return nil, nil, err
			}
		}
	}
	return letters, kept, nil
}

// closed says what became of a letter that is not open. One that was redriven before
// is no failure.
func (r *redrive) closed(ctx context.Context, id string) error {
	last, err := r.last(ctx, id)
	if err != nil {
		return err
	}
	r.say(id, last.Outcome, 0, "before, at "+last.DoneAt.String())
	return nil
}

// ask has letters of the warehouse delivered by dead-letter-sink.
func (r *redrive) ask(ctx context.Context, letters []deadletter.Letter) error {
	var requests [][]deadletter.Letter
	last := map[string]int{} // request by namespace
	for _, l := range letters {
		if l.Namespace == "" {
			r.say(l.ID, deadletter.Failed, 0, "who delivered the letter did not say of which namespace it is: there is no Broker to ask")
			continue
		}
		i, is := last[l.Namespace]
		if !is || len(requests[i]) == lettersOfRequest {
			i = len(requests)
			last[l.Namespace] = i
			requests = append(requests, nil)
		}
		requests[i] = append(requests[i], l)
	}
	run := rand.Text()
	waiting := map[string]map[string]bool{} // letters without an outcome, by request
	asked, look, progress := 0, firstLook, time.Now()
	for {
		for asked < len(requests) && len(waiting) < requestsAtOnce {
			id := run + "-" + strconv.Itoa(asked)
			if err := r.request(ctx, id, requests[asked]); err != nil {
				return err
			}
			waiting[id] = map[string]bool{}
			for _, l := range requests[asked] {
				waiting[id][l.ID] = true
			}
			asked++
		}
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
		look = min(2*look, lastLook)
		outcomes, err := deadletter.Outcomes(ctx, r.warehouse, requestSource, slices.Sorted(maps.Keys(waiting))...)
		if err != nil {
			return err
		}
		for _, o := range outcomes {
			if letters := waiting[o.RequestID]; letters[o.LetterID] {
				r.say(o.LetterID, o.Outcome, int(o.Status), o.Cause)
				look, progress = firstLook, time.Now()
				if delete(letters, o.LetterID); len(letters) == 0 {
					delete(waiting, o.RequestID)
				}
			}
		}
		if time.Since(progress) > r.patience {
			for _, letters := range waiting {
				for id := range letters {
					r.say(id, "no outcome yet", 0, fmt.Sprintf("nothing came of it in %s: does Trigger dead-letter-redrive bring events to dead-letter-sink?", r.patience))
				}
			}
			return nil
		}
	}
}

// request asks for some letters of one namespace.
func (r *redrive) request(ctx context.Context, id string, letters []deadletter.Letter) error {
	var data mesh.Redrive
	for _, l := range letters {
		data.Letters = append(data.Letters, mesh.RedriveLetter{ID: l.ID, Subscriber: l.Destination})
	}
	e := mesh.NewEvent(mesh.RedriveRequested, requestSource, mesh.Encode(data))
	e.SetID(id)
	return r.post(ctx, letters[0].Namespace, e)
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
			r.say(d.ID, "no outcome yet", 0, fmt.Sprintf("the mesh is busy since %s", r.patience))
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
