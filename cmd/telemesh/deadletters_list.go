package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

func deadlettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deadletters",
		Short: "Show what could not be delivered, deliver it again or give it up",
		Long: `A dead letter is an event that a function refused for good or that all retries
could not deliver, or a request that was no CloudEvent. It is kept with its cause
until it is redriven (delivered again, to the subscriber that failed and to no
other) or discarded. What Triggers could not deliver stands in the warehouse; on
one machine the embedded broker keeps what it could not bring there.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(deadlettersList(), deadlettersShow(), deadlettersRedrive(), deadlettersDiscard())
	return cmd
}

// postbox is all dead letters of a mesh: those of its warehouse, and those that an
// embedded broker keeps.
type postbox struct {
	warehouse warehouse.Warehouse
	kept      letters // nil: the mesh is on a cluster
}

// withPostbox has the dead letters of a folder, or of another warehouse, for as long
// as do runs.
func withPostbox(ctx context.Context, at *warehouseAt, do func(postbox) error) error {
	return at.with(ctx, func(w warehouse.Warehouse) error {
		if at.warehouse != "" {
			return do(postbox{warehouse: w})
		}
		o := options{data: at.data}
		return o.withLetters(ctx, func(l letters) error { return do(postbox{w, l}) })
	})
}

func (o *options) withLetters(ctx context.Context, do func(letters) error) error {
	l, err := attachLetters(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(do(l), l.Close())
}

// list yields the dead letters that are open: those of the warehouse, then those
// that the embedded broker keeps, each oldest first.
func (p postbox) list(ctx context.Context, each func(shown) error) error {
	for l, err := range deadletter.Open(ctx, p.warehouse) {
		if err != nil {
			return err
		}
		if err := each(shownLetter(&l)); err != nil {
			return err
		}
	}
	if p.kept == nil {
		return nil
	}
	return p.kept.list(ctx, each)
}

// shownLetter is a letter of the warehouse as it is shown, without its event.
func shownLetter(l *deadletter.Letter) shown {
	d := shown{ID: l.ID, At: l.RecordedAt.Time().UTC().Format(time.RFC3339), Trigger: l.Namespace, Status: int(l.Status), By: l.Destination, Cause: l.Cause}
	if l.Namespace != "" {
		d.Broker = l.Namespace + "/" + l.Namespace
	}
	if l.Trigger != "" {
		d.Trigger += "/" + l.Trigger
	}
	return d
}

// keptID is the id of a letter that the embedded broker keeps. Those of the warehouse
// are hexadecimal, and shown with twelve digits.
var keptID = regexp.MustCompile(`^r?[0-9]{1,11}$`)

// keeps says whether an id is of a letter that the embedded broker keeps.
func (p postbox) keeps(id string) bool { return p.kept != nil && keptID.MatchString(id) }

// find gives the whole id of a letter of the warehouse.
func (p postbox) find(ctx context.Context, id string) (string, error) {
	if !hexID.MatchString(id) {
		return "", fmt.Errorf("%w: %q", deadletter.ErrNone, id)
	}
	ids, err := deadletter.Find(ctx, p.warehouse, id)
	switch {
	case err != nil:
		return "", err
	case len(ids) == 0:
		return "", fmt.Errorf("%w: %q", deadletter.ErrNone, id)
	case len(ids) > 1:
		return "", fmt.Errorf("several dead letters have an id that begins with %q: %s", id, strings.Join(ids, ", "))
	}
	return ids[0], nil
}

func (p postbox) get(ctx context.Context, id string) (shown, error) {
	if p.keeps(id) {
		return p.kept.get(ctx, id)
	}
	id, err := p.find(ctx, id)
	if err != nil {
		return shown{}, err
	}
	l, err := deadletter.Get(ctx, p.warehouse, id)
	if err != nil {
		return shown{}, err
	}
	d := shownLetter(&l)
	if d.Event, err = json.Marshal(l.Event); err != nil {
		return d, fmt.Errorf("dead letter %s: %w", id, err)
	}
	history, err := deadletter.History(ctx, p.warehouse, id)
	for _, o := range history {
		d.Outcomes = append(d.Outcomes, became{o.DoneAt.Time().UTC().Format(time.RFC3339), o.Outcome, o.Destination, o.Status, o.Cause})
	}
	return d, err
}

// requestSource is the source of what this command asks for and does.
var requestSource = mesh.Source("deadletters")

func (p postbox) discard(ctx context.Context, id string) error {
	if p.keeps(id) {
		return p.kept.discard(ctx, id)
	}
	id, err := p.find(ctx, id)
	if err != nil {
		return err
	}
	for _, err := range deadletter.OpenOf(ctx, p.warehouse, []string{id}) {
		if err != nil {
			return err
		}
		return deadletter.Record(ctx, p.warehouse, deadletter.Outcome{
			LetterID: id, Outcome: deadletter.Discarded, RequestSource: requestSource, RequestID: rand.Text(), DoneAt: mesh.At(time.Now()),
		})
	}
	ends, err := deadletter.Ends(ctx, p.warehouse, []string{id})
	if err != nil {
		return err
	}
	return fmt.Errorf("it was %s at %s", ends[id].Outcome, ends[id].DoneAt)
}

const idsHint = "`telemesh deadletters list` gives the ids"

func deadlettersList() *cobra.Command {
	var (
		at     warehouseAt
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "One line for each dead letter that is open, oldest first",
		Args:  arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withPostbox(cmd.Context(), &at, func(p postbox) error {
				if asJSON {
					out := json.NewEncoder(cmd.OutOrStdout())
					return p.list(cmd.Context(), func(d shown) error { return out.Encode(d) })
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				n := 0
				err := p.list(cmd.Context(), func(d shown) error {
					if n++; n == 1 {
						fmt.Fprintln(table, "ID\tAT\tTRIGGER\tBY\tCAUSE")
					}
					_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", shownName(d.ID), d.At, orDash(d.Trigger), orDash(plain(d.By)), statusAndCause(int64(d.Status), d.Cause))
					return err
				})
				if n == 0 && err == nil {
					_, err = fmt.Fprintln(table, "no dead letters")
				}
				return errors.Join(err, table.Flush())
			})
		},
	}
	at.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "an object a line, with the whole ids and causes")
	return cmd
}

// shownName is an id as it is shown in a line.
func shownName(id string) string { return id[:min(len(id), shownID)] }

func statusAndCause(status int64, cause string) string {
	text := short(cause)
	if status != 0 {
		text = strings.TrimSpace(fmt.Sprint(status, " ", text))
	}
	return orDash(text)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// short is the first line of a cause, of a length that a terminal shows.
func short(cause string) string {
	const most = 120
	for i, r := range cause {
		if r == '\n' && strings.TrimSpace(cause[i:]) == "" {
			return plain(cause[:i])
		}
		if r == '\n' || i >= most {
			return plain(cause[:i]) + " …"
		}
	}
	return plain(cause)
}

func deadlettersShow() *cobra.Command {
	var at warehouseAt
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "All of one dead letter and what became of it, as JSON",
		Args:  arguments(cobra.ExactArgs(1), "the id of a dead letter"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withPostbox(cmd.Context(), &at, func(p postbox) error {
				d, err := p.get(cmd.Context(), args[0])
				if err != nil {
					return hint(err, idsHint)
				}
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(d)
			})
		},
	}
	at.flags(cmd)
	return cmd
}

func deadlettersDiscard() *cobra.Command {
	var at warehouseAt
	cmd := &cobra.Command{
		Use:   "discard ID…",
		Short: "Give dead letters up",
		Long: `Gives dead letters up. Those of the warehouse are not open any more, and stand
there until their time is over; those that the embedded broker keeps are gone.`,
		Args: arguments(cobra.MinimumNArgs(1), "the ids of dead letters"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return withPostbox(cmd.Context(), &at, func(p postbox) error {
				n, err := each(ids, func(id string) error { return p.discard(cmd.Context(), id) })
				fmt.Fprintf(cmd.OutOrStdout(), "%d discarded\n", n)
				return err
			})
		},
	}
	at.flags(cmd)
	return cmd
}

// each does all it can and gives for how many ids it was done.
func each(ids []string, do func(id string) error) (done int, err error) {
	var errs []error
	for _, id := range ids {
		if err := do(id); err != nil {
			errs = append(errs, fmt.Errorf("dead letter %s: %w", id, err))
		}
	}
	return len(ids) - len(errs), hint(errors.Join(errs...), idsHint)
}
