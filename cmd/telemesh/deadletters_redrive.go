package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
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
				return newRedrive(p, through.leads, through.post, firstQuery, wait).run(ctx, ids, all, cmd.OutOrStdout())
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
		leads := func(ctx context.Context, _ []string) (deadletter.Leads, error) { return in.leads(ctx) }
		post := func(ctx context.Context, namespace string, e event.Event) error {
			return function.PostPatiently(ctx, in.client, in.brokers+namespace+"/"+namespace, e)
		}
		r := newRedrive(postbox{in.warehouse, l}, leads, post, firstLook, wait)
		r.idle = in.idle
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

// redrive has dead letters delivered again: those of the warehouse by an event, those
// that the embedded broker keeps by it.
type redrive struct {
	deadletter.Redrive
	postbox
	idle  func(context.Context) error // until the mesh has nothing to do; of letters that it keeps
	table *tabwriter.Writer
}

// newRedrive has letters delivered by a mesh: post hands an event over to the Broker of
// a namespace, leads says where its Triggers lead.
func newRedrive(p postbox, leads func(context.Context, []string) (deadletter.Leads, error), post func(context.Context, string, event.Event) error, firstLook, patience time.Duration) *redrive {
	return &redrive{postbox: p, Redrive: deadletter.Redrive{
		Warehouse: p.warehouse, Source: requestSource, Leads: leads, Post: post, FirstLook: firstLook, Patience: patience,
	}}
}

// undelivered says that letters are not delivered, if any are.
func undelivered(c deadletter.Counts) error {
	n, all := c.Undelivered()
	if n == 0 {
		return nil
	}
	hints := "what failed stays open"
	if c.Discarded > 0 {
		hints += ", what was discarded does not"
	}
	if c.Waiting > 0 {
		hints += "; what has no outcome yet may get one"
	}
	return hint(fmt.Errorf("%d of %d dead letters are not delivered", n, all), "%s; `telemesh deadletters show ID` says all about it", hints)
}

// How long after a request outcomes are looked for first. Each time costs a query,
// which BigQuery is paid for.
const firstLook, firstQuery = 100 * time.Millisecond, time.Second

func (r *redrive) run(ctx context.Context, ids []string, all bool, out io.Writer) error {
	r.table = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	r.Say, r.Looked = r.line, r.table.Flush
	letters, kept, err := r.choose(ctx, ids, all)
	if err == nil {
		err = r.Ask(ctx, letters)
	}
	if err == nil {
		err = r.again(ctx, kept)
	}
	err = errors.Join(err, r.table.Flush())
	if err == nil || r.Counts != (deadletter.Counts{}) {
		fmt.Fprintln(out, r.Counts)
	}
	if err != nil {
		return brokenOff(ctx, err)
	}
	return undelivered(r.Counts)
}

// line writes what came of a letter.
func (r *redrive) line(id, outcome string, status int64, cause string) {
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
				r.Tell(id, "unknown", 0, err.Error())
				continue
			}
			kept = append(kept, d)
			continue
		}
		whole, err := r.find(ctx, id)
		if errors.Is(err, deadletter.ErrNone) {
			r.Tell(id, "unknown", 0, err.Error())
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
	return letters, kept, r.Closed(ctx, closed)
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

// again gives letters that the embedded broker keeps to their Triggers. What fails
// again is a new dead letter.
func (r *redrive) again(ctx context.Context, kept []shown) error {
	var given []shown
	for _, d := range kept {
		if err := r.kept.redrive(ctx, d.ID); err != nil {
			r.Tell(d.ID, deadletter.Failed, 0, err.Error())
			continue
		}
		given = append(given, d)
	}
	if len(given) == 0 {
		return nil
	}
	some, cancel := context.WithTimeout(ctx, r.Patience)
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
			r.Tell(d.ID, deadletter.Failed, int64(again.Status), again.Cause)
		} else if some.Err() != nil {
			r.Tell(d.ID, deadletter.NoOutcome, 0, fmt.Sprintf("the mesh is busy since %s", r.Patience))
		} else {
			r.Tell(d.ID, deadletter.Redriven, 0, "")
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
