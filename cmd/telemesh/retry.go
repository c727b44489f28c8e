package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// running is the mesh and the warehouse of a folder: in this process or in the
// one that holds the folder.
type running struct {
	warehouse warehouse.Warehouse
	client    *http.Client
	brokers   string // where events go in: the URL of a Broker without its NAMESPACE/NAME
	leads     func(context.Context) (leads, error)
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
		leads: func(context.Context) (leads, error) { return leadsOf(in.config.Manifests), nil },
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
		leads: func(ctx context.Context) (leads, error) {
			body, err := ask(ctx, http.MethodGet, "triggers")
			if err != nil {
				return nil, err
			}
			var out leads
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
	return postPatiently(ctx, r.client, r.brokers+"iot/iot", e)
}

// postPatiently hands an event over, again while the mesh has no room. A Broker
// that is not there, or does not let this sender post, is not waited for.
func postPatiently(ctx context.Context, client *http.Client, url string, e event.Event) error {
	for began := time.Now(); ; {
		err := function.Post(ctx, client, url, e)
		if err == nil || mesh.IsPermanent(err) || function.IsNotFound(err) || isRefused(err) || time.Since(began) > retryPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// isRefused says whether a Broker did not let the sender post.
func isRefused(err error) bool {
	status := function.Status(err)
	return status == http.StatusUnauthorized || status == http.StatusForbidden
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
		s selection
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
			switch chosen := s.all || s.filtered(); {
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
			again := &retry{running: r, parser: formats.Parser(), named: len(ids) > 0, out: cmd.OutOrStdout()}
			return interrupted(ctx, again.run(ctx, selection{keys: keys, cause: s.cause, reader: s.reader, device: s.device}))
		},
	}
	o.flags(cmd)
	s.flags(cmd)
	cmd.Flags().BoolVar(&s.all, "all", false, "all that are not read yet")
	return cmd
}

// retry reads rejected messages again.
type retry struct {
	*running
	parser *device.Parser
	named  bool // the messages were named one by one
	out    io.Writer

	messages, read, unreadable, refused, incomplete int
	expected, found                                 int // readings, rows
}

// attempt is a message that is retried.
type attempt struct {
	rejected
	cause    string                    // why it is not read; empty: it is
	readings map[string][]mesh.Reading // by id; several where a message says several values at one instant
	found    int                       // of them, in the warehouse
}

// Bounds of what is retried at once.
const (
	retryMessages = 2000
	retryReadings = 20_000
	retryBytes    = 4 << 20
)

func (r *retry) run(ctx context.Context, s selection) error {
	// In the order they came: some formats name in one message what others hold.
	rows, err := r.warehouse.Query(ctx, rejectedSQL+"SELECT * FROM messages WHERE "+s.where()+" ORDER BY received_at, source, message_id")
	if err != nil {
		return err
	}
	var (
		attempts        []*attempt
		readings, bytes int
	)
	flush := func() error {
		err := r.again(ctx, attempts)
		attempts, readings, bytes = attempts[:0], 0, 0
		return err
	}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		a := &attempt{}
		if a.rejected, err = readRejected(row); err != nil {
			return err
		}
		r.parse(a)
		attempts, readings, bytes = append(attempts, a), readings+len(a.readings), bytes+len(a.Payload)
		if len(attempts) == retryMessages || readings >= retryReadings || bytes >= retryBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return r.report()
}

// parse reads a message as telemetry-flatten will.
func (r *retry) parse(a *attempt) {
	r.messages++
	if !a.isMessage() {
		r.refused++
		a.cause = "not retried: " + a.whyNotRetried()
		return
	}
	readings, _, err := r.parser.Parse(nil, &a.Message)
	if err != nil {
		r.unreadable++
		now := rejected{Rejection: flatten.Reject(a.Message, err)}
		a.cause = now.why()
		return
	}
	a.readings = map[string][]mesh.Reading{}
	for _, reading := range readings {
		a.readings[reading.ReadingID] = append(a.readings[reading.ReadingID], reading)
	}
}

// again sends what can be read through the mesh, and writes what became of it.
func (r *retry) again(ctx context.Context, attempts []*attempt) error {
	var readable []*attempt
	for _, a := range attempts {
		if a.cause == "" {
			readable = append(readable, a)
		}
	}
	measuring := slices.DeleteFunc(slices.Clone(readable), func(a *attempt) bool { return len(a.readings) == 0 })
	// Their rows are there once or not at all, whatever the event's id: with one
	// of its own, nobody takes it for an event that was handled before, when
	// fewer of its messages could be read.
	if _, err := r.inEvents(ctx, measuring, mesh.TelemetryReceived, func(some []*attempt) []byte {
		messages := make([]mesh.Message, len(some))
		for i, a := range some {
			messages[i] = a.Message
		}
		return mesh.EncodeMessages(messages)
	}); err != nil {
		return err
	}
	if len(measuring) > 0 {
		if err := r.wait(ctx, func() (int, error) { return r.count(ctx, measuring) }); err != nil {
			return err
		}
	}

	var done []*attempt
	for _, a := range readable {
		r.expected += len(a.readings)
		r.found += a.found
		if a.found < len(a.readings) {
			r.incomplete++
			continue
		}
		r.read++
		if a.Readings == nil || *a.Readings != int64(a.found) {
			n := int64(a.found)
			a.Readings = &n
			done = append(done, a)
		}
	}
	ids, err := r.inEvents(ctx, done, mesh.TelemetryRejected, func(some []*attempt) []byte {
		rejections := make([]mesh.Rejection, len(some))
		for i, a := range some {
			rejections[i] = a.Rejection
		}
		return mesh.EncodeRejections(rejections)
	})
	if err != nil {
		return err
	}
	r.write(attempts)
	if len(ids) == 0 {
		return nil
	}
	return r.wait(ctx, func() (int, error) {
		stored, err := scalar(ctx, r.warehouse, fmt.Sprintf("SELECT count(*) FROM iot_telemetry_internal.rejected WHERE event_source = %s AND event_id IN (%s)",
			literal.Text(retrySource), strings.Join(ids, ",")))
		return len(done) - int(stored), err
	})
}

var retrySource = mesh.Source("rejected-retry")

// inEvents posts what is made of the attempts, some in each event, and gives the
// ids of the events in SQL.
func (r *retry) inEvents(ctx context.Context, attempts []*attempt, eventType string, encode func([]*attempt) []byte) (ids []string, err error) {
	const maxMessages, maxBytes = 500, 256 << 10 // as the sources have it
	for len(attempts) > 0 {
		n, size := 0, 0
		for n < len(attempts) && n < maxMessages && (n == 0 || size+len(attempts[n].Payload) <= maxBytes) {
			size += len(attempts[n].Payload)
			n++
		}
		e := mesh.NewEvent(eventType, retrySource, encode(attempts[:n]), eventType, attempts[0].id, strconv.FormatInt(time.Now().UnixNano(), 10))
		if err := r.post(ctx, e); err != nil {
			return nil, err
		}
		ids, attempts = append(ids, literal.Text(e.ID())), attempts[n:]
	}
	return ids, nil
}

// count counts the readings of the attempts that are stored, and gives how many
// are not. A reading is stored if a row of its key says the same, whichever
// message brought it.
func (r *retry) count(ctx context.Context, attempts []*attempt) (missing int, err error) {
	const most = 10_000 // ids in a statement
	stored := map[string][]string{}
	var ids []string
	ask := func() error {
		rows, err := r.warehouse.Query(ctx, "SELECT reading_id, value, value_string, value_bool FROM iot_telemetry_internal.readings WHERE reading_id IN ("+strings.Join(ids, ",")+")")
		if err != nil {
			return err
		}
		for row, err := range rows.All {
			if err != nil {
				return err
			}
			id := text(row[0])
			stored[id] = append(stored[id], fmt.Sprint(row[1:]...))
		}
		ids = ids[:0]
		return nil
	}
	for _, a := range attempts {
		for id := range a.readings {
			if ids = append(ids, literal.Text(id)); len(ids) == most {
				if err := ask(); err != nil {
					return 0, err
				}
			}
		}
	}
	if len(ids) > 0 {
		if err := ask(); err != nil {
			return 0, err
		}
	}
	for _, a := range attempts {
		a.found = 0
		for id, readings := range a.readings {
			if slices.ContainsFunc(readings, func(reading mesh.Reading) bool { return slices.Contains(stored[id], said(&reading)) }) {
				a.found++
			}
		}
		missing += len(a.readings) - a.found
	}
	return missing, nil
}

// said is what a row of a reading says, as count reads it.
func said(r *mesh.Reading) string {
	var value, valueString, valueBool any
	if r.ValueString != "" || r.Kind == mesh.Text {
		valueString = r.ValueString
	}
	if r.Kind != mesh.Text {
		value = r.Value
	}
	if r.Kind == mesh.Boolean {
		valueBool = r.Value != 0
	}
	return fmt.Sprint(value, valueString, valueBool)
}

// write writes what became of messages, one a line.
func (r *retry) write(attempts []*attempt) {
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	if r.messages == len(attempts) && len(attempts) > 0 { // the first ones
		fmt.Fprintln(table, "ID\tREADINGS\tROWS\tCAUSE")
	}
	for _, a := range attempts {
		if a.cause != "" {
			fmt.Fprintf(table, "%s\t-\t-\t%s\n", a.name(), plain(short(a.cause)))
			continue
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t-\n", a.name(), len(a.readings), a.found)
	}
	table.Flush()
}

// report writes the sum, and is an error where something is left.
func (r *retry) report() error {
	if r.messages == 0 {
		fmt.Fprintln(r.out, noRejected)
		return nil
	}
	fmt.Fprintf(r.out, "messages  %9d, %d of them read now\n", r.messages, r.read)
	fmt.Fprintf(r.out, "readings  %9d expected\n", r.expected)
	fmt.Fprintf(r.out, "rows      %9d found\n", r.found)
	unreadable := r.unreadable
	if r.named {
		unreadable += r.refused
	}
	switch {
	case r.incomplete > 0:
		return hint(fmt.Errorf("%d messages are read and not all of their readings are stored; %d remain unreadable", r.incomplete, unreadable),
			"does a mesh of another version or with other --mappings run on the folder? Start it again; and see `telemesh deadletters list`")
	case unreadable > 0:
		return hint(fmt.Errorf("%d messages remain unreadable", unreadable), "`telemesh rejected show ID` shows where the cause is; --mappings takes a folder with mappings of your own")
	}
	return nil
}
