package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// deadletter is a dead letter on the wire between two telemesh processes.
type deadletter struct {
	ID       string          `json:"id"`
	At       string          `json:"at"`
	Broker   string          `json:"broker"`
	Trigger  string          `json:"trigger,omitempty"`
	Attempts int             `json:"attempts,omitempty"`
	Status   int             `json:"status"`
	By       string          `json:"by,omitempty"`
	Cause    string          `json:"cause"`
	Event    json.RawMessage `json:"event,omitempty"`
	Header   http.Header     `json:"header,omitempty"`
	Body     string          `json:"body,omitempty"`
}

func newDeadletter(d local.DeadLetter) (deadletter, error) {
	out := deadletter{
		ID: d.ID, At: d.At.UTC().Format("2006-01-02T15:04:05Z"), Broker: d.Broker.String(),
		Attempts: d.Attempts, Status: d.Cause.Status, By: d.Cause.Destination, Cause: d.Cause.Text,
	}
	if d.Trigger.Name != "" {
		out.Trigger = d.Trigger.String()
	}
	if d.Request != nil {
		out.Header, out.Body = d.Request.Header, string(d.Request.Body)
	}
	if d.Event != nil {
		var err error
		if out.Event, err = json.Marshal(d.Event); err != nil {
			return out, fmt.Errorf("dead letter %s: %w", d.ID, err)
		}
	}
	return out, nil
}

// letters is the dead letters of a folder: in this process or in the one that
// holds the folder.
type letters interface {
	list(ctx context.Context, each func(deadletter) error) error
	get(ctx context.Context, id string) (deadletter, error)
	redrive(ctx context.Context, id string) error
	discard(ctx context.Context, id string) error
	Close() error
}

func attachLetters(ctx context.Context, o *options) (letters, error) {
	if err := folderExists(o.data); err != nil {
		return nil, err
	}
	return patiently(ctx, func() (letters, error) {
		if client, err := dialFolder(ctx, o.data); err == nil {
			return remoteLetters{client}, nil
		}
		store, err := local.OpenDeadLetters(ctx, filepath.Join(o.data, "broker"), o.log())
		if err != nil {
			return nil, inUse(fmt.Errorf("open dead letters of %s: %w", o.data, err))
		}
		return localLetters{store}, nil
	})
}

type localLetters struct{ *local.DeadLetters }

func (l localLetters) list(ctx context.Context, each func(deadletter) error) error {
	for d, err := range l.List(ctx) {
		if err != nil {
			return err
		}
		out, err := newDeadletter(d)
		if err != nil {
			return err
		}
		if err := each(out); err != nil {
			return err
		}
	}
	return nil
}

func (l localLetters) get(ctx context.Context, id string) (deadletter, error) {
	d, err := l.Get(ctx, id)
	if err != nil {
		return deadletter{}, err
	}
	return newDeadletter(d)
}

func (l localLetters) redrive(ctx context.Context, id string) error { return l.Redrive(ctx, id) }

func (l localLetters) discard(ctx context.Context, id string) error { return l.Discard(ctx, id) }

// remoteLetters speaks with control of the process that holds the folder.
type remoteLetters struct{ client *http.Client }

func (r remoteLetters) Close() error { r.client.CloseIdleConnections(); return nil }

func (r remoteLetters) do(ctx context.Context, method, path string, each func(deadletter) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://telemesh/deadletters"+path, nil)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		said, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return errors.Join(errors.New(string(bytes.TrimSpace(said))), err)
	}
	for lines := json.NewDecoder(resp.Body); ; {
		var d deadletter
		if err := lines.Decode(&d); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := each(d); err != nil {
			return err
		}
	}
}

func (r remoteLetters) list(ctx context.Context, each func(deadletter) error) error {
	return r.do(ctx, http.MethodGet, "", each)
}

func (r remoteLetters) get(ctx context.Context, id string) (out deadletter, err error) {
	err = r.do(ctx, http.MethodGet, "/"+url.PathEscape(id), func(d deadletter) error { out = d; return nil })
	return out, err
}

func (r remoteLetters) redrive(ctx context.Context, id string) error {
	return r.do(ctx, http.MethodPost, "/"+url.PathEscape(id)+"/redrive", nil)
}

func (r remoteLetters) discard(ctx context.Context, id string) error {
	return r.do(ctx, http.MethodDelete, "/"+url.PathEscape(id), nil)
}

// control serves the other commands of the folder, over its socket.
func (in *instance) control() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/warehouse/", http.StripPrefix("/warehouse", remote.Handler(in.warehouse, "")))
	letters := localLetters{in.mesh.DeadLetters()}
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		}
	}
	mux.Handle("POST /brokers/", http.StripPrefix("/brokers", in.mesh.Handler()))
	mux.HandleFunc("GET /idle", func(w http.ResponseWriter, r *http.Request) {
		answer(w, in.mesh.Idle(r.Context()))
	})
	mux.HandleFunc("GET /sheets/placements", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, in.placementsSheet())
	})
	mux.HandleFunc("POST /sheets/read", func(w http.ResponseWriter, r *http.Request) {
		readings, err := in.readSheets(r.Context())
		if err == nil {
			err = json.NewEncoder(w).Encode(readings)
		}
		answer(w, err)
	})
	mux.HandleFunc("GET /deadletters", func(w http.ResponseWriter, r *http.Request) {
		out := json.NewEncoder(w)
		answer(w, letters.list(r.Context(), func(d deadletter) error { return out.Encode(d) }))
	})
	mux.HandleFunc("GET /deadletters/{id}", func(w http.ResponseWriter, r *http.Request) {
		d, err := letters.get(r.Context(), r.PathValue("id"))
		if err == nil {
			err = json.NewEncoder(w).Encode(d)
		}
		answer(w, err)
	})
	mux.HandleFunc("POST /deadletters/{id}/redrive", func(w http.ResponseWriter, r *http.Request) {
		answer(w, letters.redrive(r.Context(), r.PathValue("id")))
	})
	mux.HandleFunc("DELETE /deadletters/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, letters.discard(r.Context(), r.PathValue("id")))
	})
	return mux
}

func deadlettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deadletters",
		Short: "Show what could not be delivered, deliver it again or give it up",
		Long: `A dead letter is an event that a function refused for good or that all retries
could not deliver, or a request that was no CloudEvent. It is kept with its cause
until it is redriven (delivered again, to the trigger that failed and to no
other) or discarded.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(deadlettersList(), deadlettersShow(), deadlettersRedrive(), deadlettersDiscard())
	return cmd
}

func deadlettersList() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "list",
		Short: "One line for each dead letter, oldest first",
		Args:  arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.withLetters(cmd.Context(), func(l letters) error {
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				n := 0
				err := l.list(cmd.Context(), func(d deadletter) error {
					if n++; n == 1 {
						fmt.Fprintln(table, "ID\tAT\tTRIGGER\tATTEMPTS\tCAUSE")
					}
					_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d %s\n", d.ID, d.At, orDash(d.Trigger), d.Attempts, d.Status, short(d.Cause))
					return err
				})
				if n == 0 && err == nil {
					_, err = fmt.Fprintln(table, "no dead letters")
				}
				return errors.Join(err, table.Flush())
			})
		},
	}
	dataFlag(cmd, &o.data)
	return cmd
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
		if r == '\n' || i >= most {
			return cause[:i] + " …"
		}
	}
	return cause
}

func deadlettersShow() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "All of one dead letter, as JSON",
		Args:  arguments(cobra.ExactArgs(1), "the id of a dead letter"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.withLetters(cmd.Context(), func(l letters) error {
				d, err := l.get(cmd.Context(), args[0])
				if err != nil {
					return hint(err, "`telemesh deadletters list` gives the ids")
				}
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(d)
			})
		},
	}
	dataFlag(cmd, &o.data)
	return cmd
}

func deadlettersRedrive() *cobra.Command {
	var (
		o   options
		all bool
	)
	cmd := &cobra.Command{
		Use:   "redrive ID… | --all",
		Short: "Deliver dead letters again, to the trigger that failed",
		Args: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return hint(errors.New("which dead letters?"), "name their ids, or all of them by --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, ids []string) error {
			return o.withLetters(cmd.Context(), func(l letters) error {
				if all {
					err := l.list(cmd.Context(), func(d deadletter) error {
						if d.Trigger != "" {
							ids = append(ids, d.ID)
						}
						return nil
					})
					if err != nil {
						return err
					}
				}
				n, err := each(ids, func(id string) error { return l.redrive(cmd.Context(), id) })
				fmt.Fprintf(cmd.OutOrStdout(), "%d redriven; delivered while the mesh runs\n", n)
				return err
			})
		},
	}
	dataFlag(cmd, &o.data)
	cmd.Flags().BoolVar(&all, "all", false, "all that were events")
	return cmd
}

func deadlettersDiscard() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "discard ID…",
		Short: "Give dead letters up: they are gone",
		Args:  arguments(cobra.MinimumNArgs(1), "the ids of dead letters"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return o.withLetters(cmd.Context(), func(l letters) error {
				n, err := each(ids, func(id string) error { return l.discard(cmd.Context(), id) })
				fmt.Fprintf(cmd.OutOrStdout(), "%d discarded\n", n)
				return err
			})
		},
	}
	dataFlag(cmd, &o.data)
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
	return len(ids) - len(errs), hint(errors.Join(errs...), "`telemesh deadletters list` gives the ids and the causes")
}

func (o *options) withLetters(ctx context.Context, do func(letters) error) error {
	l, err := attachLetters(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(do(l), l.Close())
}
