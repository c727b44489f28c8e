package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/feed"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// ingestAt is where device messages go in.
var ingestAt = address("telemetry-ingest", "iot")

func replayCommand() *cobra.Command {
	var (
		o       options
		s       sheets
		columns feed.Columns
		log     fromLog
		to      asEvents
	)
	cmd := &cobra.Command{
		Use:   "replay FILE… | --from-log CESQL",
		Short: "Feed files of device messages, or logged events, through the mesh and wait for the end",
		Long: `Feeds files through the mesh, waits until every message is delivered, parked,
rejected or dead-lettered, and says what became of them.

  .ndjson   a JSON message a line
  .json     an array of messages, or one
  .csv      a wide table: --device-columns name the columns that make the
            device id (joined by /), --time-column the event time, every other
            column is a metric

Replaying the same files again adds no row: a reading is known by its device,
metric and event time. (A message without a time takes that of its receipt; one
that is rejected is kept each time it comes, see telemesh rejected.)
Ended in the middle, the same command goes on.

With --broker the files hold data of events of your own: each message becomes an
event of the type --type, which goes to that Broker. The same data make the same
event.

With --from-log it sends events of event_log.events again, also to a mesh that
runs on the folder or to the Broker of a cluster: those for which the CESQL
expression holds, as in the filter of a Trigger (it does not for an event that
lacks an attribute it reads), in the order they were received, with all their
attributes. An event that several Brokers had goes to the one that had it first.
The log keeps no data of events that carry readings: send
dev.telemesh.telemetry.received.v1, of which the mesh makes them anew. This adds
no row, either.

Exits 1 if anything was dead-lettered.`,
		Example: `  telemesh replay --placements placements.csv messages.ndjson
  telemesh replay --device-columns id,source --time-column timestamp wide.csv
  telemesh replay --manifests shop --products shop/products --broker sales/sales --type dev.telemesh.orders.received.v1 orders.ndjson
  telemesh replay --from-log "type = 'dev.telemesh.telemetry.received.v1'" --since 2026-03-01
  telemesh query 'SELECT metric, count(*) FROM iot_telemetry.readings GROUP BY ALL'`,
		Args: checkReplay,
		RunE: func(cmd *cobra.Command, files []string) (err error) {
			ctx := cmd.Context()
			if len(files) == 0 {
				return log.replay(ctx, &o, s, cmd.OutOrStdout())
			}
			to.broker = log.broker
			if err := to.check(); err != nil {
				return err
			}
			feeds, err := openFeeds(files, columns)
			if err != nil {
				return err
			}
			defer func() {
				for _, f := range feeds {
					err = errors.Join(err, f.Close())
				}
			}()
			in, err := o.open(ctx, s)
			if err != nil {
				return interrupted(ctx, err)
			}
			defer func() { err = errors.Join(err, in.close()) }()
			if to.broker != "" {
				return interrupted(ctx, in.replayTo(ctx, to, feeds, cmd.OutOrStdout()))
			}
			return interrupted(ctx, in.replay(ctx, feeds, cmd.OutOrStdout()))
		},
	}
	o.flags(cmd)
	s.flags(cmd)
	log.flags(cmd)
	cmd.Flags().StringSliceVar(&columns.Device, "device-columns", nil, "columns of a CSV that make the device id")
	cmd.Flags().StringVar(&to.eventType, "type", "", "make events of this type of what the files hold, for the Broker of --broker")
	cmd.Flags().StringVar(&columns.Time, "time-column", "", "column of a CSV that holds the event time")
	return cmd
}

func openFeeds(files []string, columns feed.Columns) ([]*feed.Feed, error) {
	var feeds []*feed.Feed
	for _, file := range files {
		if strings.EqualFold(filepath.Ext(file), ".csv") && (len(columns.Device) == 0 || columns.Time == "") {
			return nil, hint(fmt.Errorf("%s: which columns are the device and the time?", file),
				"for example --device-columns id,source --time-column timestamp")
		}
		f, err := feed.Open(file, columns)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, hint(err, "`telemesh replay` takes files of messages; `telemesh simulate --out FOLDER` makes some")
		}
		if err != nil {
			return nil, err
		}
		feeds = append(feeds, f)
	}
	return feeds, nil
}

// tally is what the mesh holds: no readings where no product is of readings.
type tally struct{ stored, parked, rejected, deadlettered int64 }

func (in *instance) tally(ctx context.Context) (t tally, err error) {
	counts := map[string]*int64{
		"SELECT count(*) FROM iot_telemetry.readings":                                                   &t.stored,
		"SELECT count(*) FROM iot_telemetry.readings WHERE tenant_id IS NULL":                           &t.parked,
		"SELECT count(DISTINCT (received_at, source, message_id)) FROM iot_telemetry_internal.rejected": &t.rejected,
	}
	if !in.has("iot-telemetry") {
		clear(counts)
	}
	for sql, n := range counts {
		if *n, err = scalar(ctx, in.warehouse, sql); err != nil {
			return t, err
		}
	}
	t.deadlettered, err = in.deadLetters(ctx)
	return t, err
}

// deadLetters says how many are open, in the warehouse and kept by the broker.
func (in *instance) deadLetters(ctx context.Context) (int64, error) {
	stored, err := deadletter.Count(ctx, in.warehouse)
	if err != nil {
		return 0, err
	}
	kept, err := in.mesh.DeadLetters().Count(ctx)
	return stored + int64(kept), err
}

// interrupted says what an interrupt means, in place of where it was noticed.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return hint(errors.New("interrupted"), "nothing is lost: the same command goes on; only messages without a time come twice then")
	}
	return err
}

// replay sends what the feeds hold, waits and reports what came since the
// folder was opened.
func (in *instance) replay(ctx context.Context, feeds []*feed.Feed, out io.Writer) error {
	before := in.found
	began := time.Now()
	messages, err := in.send(ctx, feeds)
	if err != nil {
		return err
	}
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	after, err := in.tally(ctx)
	if err != nil {
		return err
	}
	stored := after.stored - before.stored
	fmt.Fprintf(out, "messages       %9d\n", messages)
	fmt.Fprintf(out, "readings       %9d new, %d of them parked: no tenant held the device then\n", stored, after.parked-before.parked)
	fmt.Fprintf(out, "rejected       %9d\n", after.rejected-before.rejected)
	fmt.Fprintf(out, "dead-lettered  %9d\n", after.deadlettered-before.deadlettered)
	fmt.Fprintf(out, "seconds        %9.2f\n", seconds)
	fmt.Fprintf(out, "readings/s     %9.0f\n", float64(stored)/seconds)
	if n := after.deadlettered - before.deadlettered; n > 0 {
		return hint(fmt.Errorf("%d events were dead-lettered", n), "see `telemesh deadletters list --data %s`", in.dir)
	}
	return nil
}

// asEvents says that messages are the data of events.
type asEvents struct{ broker, eventType string }

func (a asEvents) check() error {
	if (a.broker == "") != (a.eventType == "") {
		return hint(errors.New("--broker and --type belong together"), "for example --broker sales/sales --type dev.telemesh.orders.received.v1")
	}
	if namespace, name, _ := strings.Cut(a.broker, "/"); a.broker != "" && (namespace == "" || name == "") {
		return hint(fmt.Errorf("--broker %q is not NAMESPACE/NAME", a.broker), "for example --broker sales/sales")
	}
	return nil
}

// replayTo sends messages as events to a Broker, waits, and reports what became of
// them.
func (in *instance) replayTo(ctx context.Context, to asEvents, feeds []*feed.Feed, out io.Writer) error {
	namespace, name, _ := strings.Cut(to.broker, "/")
	if in.config.Manifests.Broker(manifest.Ref{Namespace: namespace, Name: name}) == nil {
		return hint(fmt.Errorf("--broker %s: there is no such Broker", to.broker), "there are %s", in.brokers())
	}
	if !in.taken(manifest.Ref{Namespace: namespace, Name: name}, to.eventType) {
		return hint(fmt.Errorf("--type %s: no Trigger of Broker %s takes such events but the log's", to.eventType, to.broker),
			"correct the type; `telemesh new product` makes a table that such events fill")
	}
	url := "http://" + manifest.IngressHost + "/" + to.broker
	events := 0
	for _, f := range feeds {
		for m, err := range f.All() {
			if err != nil {
				return err
			}
			e := mesh.NewEvent(to.eventType, "/telemesh/replay", m.Body, string(m.Body))
			if err := function.PostPatiently(ctx, in.mesh.Client(), url, e); err != nil {
				return err
			}
			events++
		}
	}
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	after, err := in.tally(ctx)
	if err != nil {
		return err
	}
	failed := after.deadlettered - in.found.deadlettered
	fmt.Fprintf(out, "events         %9d\n", events)
	fmt.Fprintf(out, "dead-lettered  %9d\n", failed)
	if failed > 0 {
		return hint(fmt.Errorf("%s dead-lettered", counted(failed, "event")), "see `telemesh deadletters list --data %s`", in.dir)
	}
	return nil
}

// taken says whether somebody takes events of a type on a Broker, to do more than to
// keep whatever comes.
func (in *instance) taken(broker manifest.Ref, eventType string) bool {
	return slices.ContainsFunc(in.config.Manifests.Triggers, func(t *manifest.Trigger) bool {
		return t.BrokerOf() == broker && t.Annotations[manifest.Keeps] != "everything" && t.Reads(eventType)
	})
}

const (
	sendMessages = 2000 // a request: some micro-batches
	sendAtOnce   = 4    // requests
)

// send posts all messages and returns when the broker has accepted them.
func (in *instance) send(ctx context.Context, feeds []*feed.Feed) (messages int64, err error) {
	bar := newProgress(feeds)
	defer bar.finish()
	posts, ctx := errgroup.WithContext(ctx)
	posts.SetLimit(sendAtOnce)
	var body bytes.Buffer
	waiting := 0
	flush := func() {
		request := bytes.Clone(body.Bytes())
		body.Reset()
		waiting = 0
		posts.Go(func() error { return postMessages(ctx, in.mesh.Client(), ingestAt, request) })
		bar.update()
	}
feeding:
	for _, f := range feeds {
		for m, err := range f.All() {
			if err != nil {
				if waiting > 0 {
					flush()
				}
				return messages, errors.Join(err, posts.Wait())
			}
			body.Write(m.Body)
			body.WriteByte('\n')
			messages++
			if waiting++; waiting == sendMessages || body.Len() > 4<<20 {
				flush()
			}
			if ctx.Err() != nil {
				break feeding
			}
		}
	}
	if waiting > 0 {
		flush()
	}
	return messages, posts.Wait()
}

// postMessages posts NDJSON and waits out a mesh that is busy, saying so now
// and then.
func postMessages(ctx context.Context, client *http.Client, url string, body []byte) error {
	for attempt := 1; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-ndjson")
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("send messages: %w", err)
		}
		if resp.StatusCode < 300 {
			return resp.Body.Close()
		}
		err = errors.Join(fmt.Errorf("send messages to %s: %w", url, function.StatusError(resp)), resp.Body.Close())
		if !function.Retriable(resp.StatusCode) {
			return err
		}
		if attempt%10 == 0 {
			fmt.Fprintf(os.Stderr, "telemesh: waiting: %v\nhint: an interrupt ends the replay, the same command goes on; is the disk full?\n", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct {
	bar   *progressbar.ProgressBar
	feeds []*feed.Feed
}

func newProgress(feeds []*feed.Feed) *progress {
	p := &progress{feeds: feeds}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		var size int64
		for _, f := range feeds {
			size += f.Size()
		}
		p.bar = progressbar.DefaultBytes(size, "replaying")
	}
	return p
}

func (p *progress) update() {
	if p.bar == nil {
		return
	}
	var read int64
	for _, f := range p.feeds {
		read += f.BytesRead()
	}
	p.bar.Set64(read)
}

func (p *progress) finish() {
	if p.bar != nil {
		p.bar.Finish()
	}
}
