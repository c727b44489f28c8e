package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/rejected"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// running is the mesh and the warehouse of a folder: in this process or in the
// one that holds the folder.
type running struct {
	warehouse warehouse.Warehouse
	client    *http.Client
	brokers   string // where events go in: the URL of a Broker without its NAMESPACE/NAME
	leads     func(context.Context) (deadletter.Leads, error)
	idle      func(context.Context) error // waits until nothing is on its way
	close     func() error

	// Of another process that holds the folder, else nil: which sheet of
	// placements it reads by itself (empty: none), and how it is told to.
	placementsSheet func(context.Context) (string, error)
	tellSheets      func(context.Context) error
}

// run reaches the mesh of a folder, or starts it.
func (o *options) run(ctx context.Context) (*running, error) { return o.runWith(ctx, sheets{}) }

// runWith does so with sheets, which a mesh that runs has its own of.
func (o *options) runWith(ctx context.Context, s sheets) (*running, error) {
	if err := folderExists(o.data); err != nil {
		return nil, err
	}
	if client, err := dialFolder(ctx, o.data); err == nil {
		if s != (sheets{}) {
			return nil, hint(fmt.Errorf("a telemesh that runs on %s reads its own sheets", o.data), "leave --placements, --actions, --customers and --timezone out, or stop it")
		}
		return elsewhere(client), nil
	}
	in, err := o.open(ctx, s)
	if errors.Is(err, duckdb.ErrInUse) || errors.Is(err, local.ErrInUse) {
		// It may have started in between.
		if client, dialed := dialFolder(ctx, o.data); dialed == nil {
			return elsewhere(client), nil
		}
	}
	if err != nil {
		return nil, err
	}
	return &running{
		warehouse: in.warehouse, client: in.mesh.Client(), brokers: "http://" + manifest.IngressHost + "/", idle: in.mesh.Idle, close: in.close,
		leads: func(context.Context) (deadletter.Leads, error) { return leadsOf(in.config.Manifests), nil },
	}, nil
}

// elsewhere reaches the process that holds a folder by what control serves.
func elsewhere(client *http.Client) *running {
	ask := func(ctx context.Context, method, path string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, method, "http://telemesh/"+path, nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			return nil, function.StatusError(resp)
		}
		return io.ReadAll(resp.Body)
	}
	idle := func(ctx context.Context) error {
		_, err := ask(ctx, http.MethodGet, "idle")
		return err
	}
	return &running{
		warehouse: remote.Open("http://telemesh/warehouse", client, ""), client: client,
		brokers: "http://telemesh/brokers/", idle: idle,
		close: func() error { client.CloseIdleConnections(); return nil },
		leads: func(ctx context.Context) (deadletter.Leads, error) {
			body, err := ask(ctx, http.MethodGet, "triggers")
			if err != nil {
				return nil, err
			}
			var out deadletter.Leads
			if err := json.Unmarshal(body, &out); err != nil {
				return nil, fmt.Errorf("read Triggers of the mesh: %w", err)
			}
			return out, nil
		},
		placementsSheet: func(ctx context.Context) (string, error) {
			at, err := ask(ctx, http.MethodGet, "sheets/placements")
			return string(at), err
		},
		tellSheets: func(ctx context.Context) error {
			body, err := ask(ctx, http.MethodPost, "sheets/read")
			if err != nil {
				return err
			}
			var read sheetsReading
			if err := json.Unmarshal(body, &read); err != nil {
				return fmt.Errorf("read what changed: %w", err)
			}
			return read.err()
		},
	}
}

// retryPatience is how long a mesh that is busy is waited for without anything
// coming of it.
const retryPatience = time.Minute

// post hands an event over to Broker iot/iot.
func (r *running) post(ctx context.Context, e event.Event) error {
	return function.PostPatiently(ctx, r.client, r.brokers+"iot/iot", e)
}

// wait returns when missing gives 0, or nothing more can come: the mesh is
// idle, or so busy with other events for so long that these would have come.
func (r *running) wait(ctx context.Context, missing func() (int, error)) error {
	last, since := -1, time.Now()
	for {
		moment, cancel := context.WithTimeout(ctx, time.Second)
		err := r.idle(moment)
		passed := moment.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !passed:
			return fmt.Errorf("wait for the mesh: %w", err)
		}
		n, failed := missing()
		if failed != nil || n == 0 || err == nil {
			return failed
		}
		if n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > retryPatience {
			return nil
		}
	}
}

func rejectedRetry() *cobra.Command {
	var (
		o options
		s rejected.Selection
	)
	cmd := &cobra.Command{
		Use:   "retry ID… | --all | --cause TEXT",
		Short: "Read rejected messages again, after a reader or a mapping was fixed",
		Long: `Reads rejected messages again. Those that can be read now go through the mesh as
they were received, and leave the list once all their readings are stored. A
message that is retried twice adds nothing the second time.

A mesh that runs on the folder reads them, too: it has to be of the same version
and have the same --mappings.

Exits 1 if a message remains unreadable or not all of its readings are stored.`,
		Args: func(cmd *cobra.Command, ids []string) error {
			switch chosen := s.All || s.Filtered(); {
			case !chosen && len(ids) == 0:
				return hint(errors.New("which rejected messages?"), "name their ids, choose by --cause, --reader or --device, or take --all")
			case chosen && len(ids) > 0:
				return hint(errors.New("ids and a choice of others"), "either name ids, or choose by --cause, --reader, --device or --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, ids []string) (err error) {
			ctx := cmd.Context()
			formats, err := flatten.ReadFormats(o.mappings)
			if err != nil {
				return err
			}
			r, err := o.run(ctx)
			if err != nil {
				return interrupted(ctx, err)
			}
			defer func() { err = errors.Join(err, r.close()) }()
			keys, err := keysOf(ctx, r.warehouse, ids)
			if err != nil {
				return err
			}
			again := &retry{out: cmd.OutOrStdout()}
			again.Retry = rejected.Retry{Warehouse: r.warehouse, Parser: formats.Parser(), Post: r.post, Wait: r.wait, Say: again.write}
			s.Keys, s.All = keys, false
			result, err := again.Run(ctx, s)
			if err != nil {
				return interrupted(ctx, err)
			}
			return again.report(result, len(ids) > 0)
		},
	}
	o.flags(cmd)
	selectionFlags(cmd, &s)
	cmd.Flags().BoolVar(&s.All, "all", false, "all that are not read yet")
	return cmd
}

// retry reads rejected messages again, and says what became of them.
type retry struct {
	rejected.Retry
	out   io.Writer
	begun bool // to say it
}

// write writes what became of messages, one a line.
func (r *retry) write(attempts []*rejected.Attempt) {
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	if !r.begun {
		fmt.Fprintln(table, "ID\tREADINGS\tROWS\tCAUSE")
		r.begun = true
	}
	for _, a := range attempts {
		if a.Cause != "" {
			fmt.Fprintf(table, "%s\t-\t-\t%s\n", a.Name[:shownID], plain(short(a.Cause)))
			continue
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t-\n", a.Name[:shownID], a.Expected(), a.Found)
	}
	table.Flush()
}

// report writes the sum, and is an error where something is left. named says that the
// messages were named one by one.
func (r *retry) report(sum rejected.Result, named bool) error {
	if sum.Messages == 0 {
		fmt.Fprintln(r.out, noRejected)
		return nil
	}
	fmt.Fprintf(r.out, "messages  %9d, %d of them read now\n", sum.Messages, sum.Read)
	fmt.Fprintf(r.out, "readings  %9d expected\n", sum.Expected)
	fmt.Fprintf(r.out, "rows      %9d found\n", sum.Found)
	unreadable := sum.Unreadable
	if named {
		unreadable += sum.Refused
	}
	switch {
	case sum.Incomplete > 0:
		return hint(fmt.Errorf("%d messages are read and not all of their readings are stored; %d remain unreadable", sum.Incomplete, unreadable),
			"does a mesh of another version or with other --mappings run on the folder? Start it again; and see `telemesh deadletters list`")
	case unreadable > 0:
		return hint(fmt.Errorf("%d messages remain unreadable", unreadable), "`telemesh rejected show ID` shows where the cause is; --mappings takes a folder with mappings of your own")
	}
	return nil
}
