package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/cesql"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// fromLog is events of event_log.events that are sent again.
type fromLog struct {
	expression   string
	since, until string
	broker       string // NAMESPACE/NAME whose events they are; empty: any
	to           string // a Broker or its URL; empty: the one that had the event
	warehouse    string // where the log is, as --warehouse says it, or a data folder; empty: the mesh's
}

func (f *fromLog) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.expression, "from-log", "", "send the events of the event log again for which this CESQL expression holds; '' for all")
	flags.StringVar(&f.since, "since", "", "with --from-log: those received at this time or later, RFC 3339 or a day (default: from the first on)")
	flags.StringVar(&f.until, "until", "", "with --from-log: those received before this time (default: now)")
	flags.StringVar(&f.broker, "broker", "", "with --from-log: those that this Broker had, as iot/iot (default: of any, each where it was first); of files: the Broker that --type is for")
	flags.StringVar(&f.to, "to", "", "with --from-log: the Broker they go to, as iot/iot, or the URL of a cluster's (default: the one that had them)")
	flags.StringVar(&f.warehouse, "warehouse", "", "with --from-log: where the log is, "+warehouseForms+", or another data folder (default: in --data)")
}

// checkReplay says whether the flags and arguments of a replay go together.
func checkReplay(cmd *cobra.Command, files []string) error {
	if cmd.Flags().Changed("from-log") {
		if len(files) > 0 {
			return hint(errors.New("a replay is of files or of the event log, not of both"), "is the expression of --from-log in quotes?")
		}
		for _, name := range []string{"device-columns", "time-column", "type"} {
			if cmd.Flags().Changed(name) {
				return hint(fmt.Errorf("--%s goes with files, not with --from-log", name), "leave it out: events of the log are sent as they are")
			}
		}
		return nil
	}
	for _, name := range []string{"since", "until", "broker", "to", "warehouse"} {
		if cmd.Flags().Changed(name) && (name != "broker" || !cmd.Flags().Changed("type")) {
			return hint(fmt.Errorf("--%s goes with --from-log", name), "`telemesh replay --from-log ''` sends all that the event log has")
		}
	}
	return arguments(cobra.MinimumNArgs(1), "the files to feed: .ndjson, .json or .csv; or --from-log")(cmd, files)
}

// interval reads --since and --until.
func (f *fromLog) interval(now time.Time) (since, until mesh.Instant, err error) {
	until = mesh.At(now)
	for flag, at := range map[string]struct {
		text string
		to   *mesh.Instant
	}{"--since": {f.since, &since}, "--until": {f.until, &until}} {
		if at.text == "" {
			continue
		}
		if day, err := time.Parse(time.DateOnly, at.text); err == nil {
			*at.to = mesh.At(day)
		} else if *at.to, err = mesh.ParseInstant(at.text); err != nil {
			return 0, 0, hint(fmt.Errorf("%s: %w", flag, err), "for example %s 2026-03-01 or %[1]s 2026-03-01T09:00:00Z", flag)
		}
	}
	if f.since != "" && since >= until {
		return 0, 0, hint(fmt.Errorf("no time is between --since %s and --until %s", since, until), "--since is the earlier one, in UTC unless it says otherwise")
	}
	return since, until, nil
}

var brokerName = regexp.MustCompile(`^[a-z0-9.-]+/[a-z0-9.-]+$`)

// target gives the URL of a Broker as --to says it; empty: it names one of the
// mesh, or none.
func (f *fromLog) target() (url string, err error) {
	for flag, name := range map[string]string{"--broker": f.broker, "--to": f.to} {
		switch {
		case name == "" || brokerName.MatchString(name):
		case flag == "--to" && (strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")):
			url = name
		default:
			return "", hint(fmt.Errorf("%s %q is no Broker", flag, name), "%s takes NAMESPACE/NAME, as iot/iot; --to the URL that `kubectl get broker` shows, too", flag)
		}
	}
	return url, nil
}

// replay sends the events and says what became of them.
func (f *fromLog) replay(ctx context.Context, o *options, s sheets, out io.Writer) (err error) {
	match, err := cesql.Parse(f.expression)
	if err != nil {
		return hint(fmt.Errorf("CESQL expression %q: %w", f.expression, err), "for example \"type = 'dev.telemesh.telemetry.received.v1' AND subject LIKE 'building-1/%%'\"")
	}
	since, until, err := f.interval(time.Now())
	if err != nil {
		return err
	}
	url, err := f.target()
	if err != nil {
		return err
	}
	again := &refeed{fromLog: f, match: match, from: since, until: until, leftOut: map[string]int64{}}
	if url == "" && (f.warehouse == "" || sameFolder(f.warehouse, o.data)) {
		return again.throughMesh(ctx, o, s, nil, out)
	}
	log := warehouseAt{data: o.data, warehouse: f.warehouse}
	if f.warehouse != "" && !strings.Contains(f.warehouse, "://") {
		log = warehouseAt{data: f.warehouse}
	}
	return log.with(ctx, func(w warehouse.Warehouse) error {
		// Before a folder is made for what may not be there.
		if err := again.find(ctx, w); err != nil {
			return err
		}
		if url == "" {
			if err := os.MkdirAll(o.data, 0o755); err != nil {
				return fmt.Errorf("make data folder: %w", err)
			}
			return again.throughMesh(ctx, o, s, w, out)
		}
		// A cluster's Broker: nothing says here when its mesh is idle.
		again.client, again.url = http.DefaultClient, func(string) string { return url }
		if err := again.send(ctx, w); err != nil {
			return again.stopped(ctx, err)
		}
		again.report(out)
		return nil
	})
}

func sameFolder(a, b string) bool {
	one, err := os.Stat(a)
	other, failed := os.Stat(b)
	return err == nil && failed == nil && os.SameFile(one, other)
}

// throughMesh sends the events to the mesh of a folder, waits and says what
// became of them. log is what find was asked of; nil: the log is the mesh's own.
func (r *refeed) throughMesh(ctx context.Context, o *options, s sheets, log warehouse.Warehouse, out io.Writer) (err error) {
	in, err := o.runWith(ctx, s)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, in.close()) }()
	r.client, r.url = in.client, func(broker string) string {
		if r.to != "" {
			broker = r.to
		}
		return in.brokers + broker
	}
	if log == nil {
		log = in.warehouse
		if err := r.find(ctx, log); err != nil {
			return interrupted(ctx, err)
		}
	}
	before, err := in.outcome(ctx, o)
	if err != nil {
		return err
	}
	began := time.Now()
	err = r.send(ctx, log)
	if err == nil {
		err = in.settle(ctx)
	}
	if err != nil {
		return r.stopped(ctx, err)
	}
	seconds := time.Since(began).Seconds()
	after, err := in.outcome(ctx, o)
	if err != nil {
		return err
	}
	r.report(out)
	fmt.Fprintf(out, "readings       %9d new\n", after.readings-before.readings)
	fmt.Fprintf(out, "dead-lettered  %9d\n", after.deadlettered-before.deadlettered)
	fmt.Fprintf(out, "seconds        %9.2f\n", seconds)
	if n := after.deadlettered - before.deadlettered; n > 0 {
		return hint(fmt.Errorf("%d events were dead-lettered", n), "see `telemesh deadletters list --data %s`", o.data)
	}
	return nil
}

// settle waits until nothing is on its way in the mesh. One that runs by itself
// may have other events all the time: that is waited for a while.
func (r *running) settle(ctx context.Context) error {
	if r.placementsSheet == nil {
		return r.idle(ctx)
	}
	some, cancel := context.WithTimeout(ctx, retryPatience)
	defer cancel()
	err := r.idle(some)
	if err != nil && some.Err() != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "telemesh: the mesh has other events, too: what is still on its way is not counted here")
		return nil
	}
	return err
}

// outcome is what came of the events of a mesh.
type outcome struct{ readings, deadlettered int64 }

func (r *running) outcome(ctx context.Context, o *options) (now outcome, err error) {
	if now.readings, err = scalar(ctx, r.warehouse, "SELECT count(*) FROM iot_telemetry.readings"); err != nil {
		return now, err
	}
	if now.deadlettered, err = deadletter.Count(ctx, r.warehouse); err != nil {
		return now, err
	}
	err = o.withLetters(ctx, func(l letters) error {
		return l.list(ctx, func(shown) error { now.deadlettered++; return nil })
	})
	return now, err
}

// refeed is a replay of the log on its way.
type refeed struct {
	*fromLog
	match       *cesql.Expression
	from, until mesh.Instant
	client      *http.Client
	url         func(broker string) string // of a Broker, by that which had an event
	seen        seen

	condition string      // on the events, in SQL
	days      []time.Time // on which the log has some
	total     int64

	next    mesh.Instant     // all that was received before has been sent
	sent    int64            // events
	other   int64            // that do not match
	leftOut map[string]int64 // by type, of which the log has no data
}

const (
	refeedEvents = 256     // sent before their place is noted
	refeedBytes  = 8 << 20 // of their data, which are in memory meanwhile
)

// find asks the log what it has of the interval.
func (r *refeed) find(ctx context.Context, w warehouse.Warehouse) (err error) {
	where := append(r.match.Conditions(), "received_at < "+literal.Time(r.until))
	if r.since != "" {
		where = append(where, "received_at >= "+literal.Time(r.from))
	}
	if r.broker != "" {
		where = append(where, "broker = "+literal.Text(r.broker))
	}
	r.condition = strings.Join(where, " AND ")
	r.days, r.total, err = readDays(ctx, w, r.condition)
	return err
}

// send sends what was found, a day at a time: a day is what the log is
// partitioned by, and what a warehouse has to sort at once.
func (r *refeed) send(ctx context.Context, w warehouse.Warehouse) error {
	r.next = r.from
	var bar *progressbar.ProgressBar
	if term.IsTerminal(int(os.Stderr.Fd())) {
		bar = progressbar.Default(r.total, "sending")
		defer bar.Finish()
	}
	for _, day := range r.days {
		begin := mesh.At(day)
		sql := fmt.Sprintf("SELECT %s FROM event_log.events WHERE received_at >= %s AND received_at < %s AND %s ORDER BY received_at, broker, source, event_id",
			sink.LogColumns, literal.Time(begin), literal.Time(mesh.At(day.AddDate(0, 0, 1))), r.condition)
		if err := r.sendDay(ctx, w, sql, bar); err != nil {
			return err
		}
	}
	r.next = r.until
	return nil
}

// readDays gives the days on which the log has rows, and how many it has in all.
func readDays(ctx context.Context, w warehouse.Warehouse, condition string) (days []time.Time, total int64, err error) {
	rows, err := w.Query(ctx, "SELECT CAST(CAST(received_at AS DATE) AS STRING) AS day, COUNT(*) AS events FROM event_log.events WHERE "+condition+" GROUP BY 1 ORDER BY 1")
	if err != nil {
		return nil, 0, err
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, 0, err
		}
		day, err := time.Parse(time.DateOnly, text(row[0]))
		if err != nil {
			return nil, 0, fmt.Errorf("days of event_log.events: %w", err)
		}
		n, _ := row[1].(int64)
		days, total = append(days, day), total+n
	}
	return days, total, nil
}

func (r *refeed) sendDay(ctx context.Context, w warehouse.Warehouse, sql string, bar *progressbar.ProgressBar) error {
	rows, err := w.Query(ctx, sql)
	if err != nil {
		return err
	}
	var (
		batch []sink.Logged
		size  int
	)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		r.next = batch[0].ReceivedAt
		err := r.post(ctx, batch)
		batch, size = batch[:0], 0
		return err
	}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		if bar != nil {
			bar.Add(1)
		}
		e, err := sink.ReadLog(row)
		if err != nil {
			return err
		}
		switch {
		case r.seen.before(e.Source(), e.ID()):
			continue // at another Broker, or posted again
		case !r.match.Matches(e.Event):
			r.other++
			continue
		case e.LeftOut > 0:
			r.leftOut[e.Type()]++
			continue
		}
		batch, size = append(batch, e), size+len(e.Data())
		if len(batch) == refeedEvents || size >= refeedBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// post hands events over, some at once: a Broker keeps no order.
func (r *refeed) post(ctx context.Context, batch []sink.Logged) error {
	posts, ctx := errgroup.WithContext(ctx)
	posts.SetLimit(sendAtOnce)
	for i := range batch {
		e := &batch[i]
		posts.Go(func() error {
			at := r.url(e.Broker)
			ctx := safely(ctx, &e.Event)
			err := function.PostPatiently(ctx, r.client, at, e.Event)
			if err != nil && ctx.Err() == nil {
				err = hint(err, "is %s a Broker? --to names another", at)
			}
			return err
		})
	}
	err := posts.Wait()
	if err == nil {
		r.sent += int64(len(batch))
	}
	return err
}

// safely makes an event be sent in structured mode if one of its attributes would
// not come through a header as it is.
func safely(ctx context.Context, e *event.Event) context.Context {
	attributes := []string{e.ID(), e.Source(), e.Type(), e.Subject(), e.DataSchema()}
	for _, value := range e.Extensions() {
		if text, err := types.Format(value); err == nil {
			attributes = append(attributes, text)
		}
	}
	for _, a := range attributes {
		if strings.TrimSpace(a) != a || strings.ContainsFunc(a, func(c rune) bool { return c < ' ' || c > '~' }) {
			// Text is a string in JSON only if its content type says so.
			e.DataBase64 = e.DataBase64 || !json.Valid(e.Data())
			return binding.WithForceStructured(ctx)
		}
	}
	return ctx
}

// stopped says where the log was left.
func (r *refeed) stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if r.next == 0 {
		return err
	}
	err = whoReads.add(err)
	text := "what was sent stays sent: the same command with --since " + r.next.String() + " goes on"
	var h hinted
	if errors.As(err, &h) {
		text = h.hint + "; " + text
	}
	return hint(err, "%s", text)
}

func (r *refeed) report(out io.Writer) {
	fmt.Fprintf(out, "events         %9d sent, %d do not match\n", r.sent, r.other)
	for _, name := range slices.Sorted(maps.Keys(r.leftOut)) {
		fmt.Fprintf(out, "not sent       %9d %s: the log keeps no data of these, send what they were made from\n", r.leftOut[name], plain(name))
	}
	if r.match.Failed > 0 {
		fmt.Fprintf(os.Stderr, "telemesh: the expression has no value for %d events, which do not match: %v\n", r.match.Failed, r.match.Why)
	}
}

// seen knows the last half to whole million of events, as the ledger of the
// warehouse does: what two Brokers had is received twice within seconds.
type seen struct {
	now, earlier map[[sha256.Size]byte]struct{}
}

const seenEvents = 500_000

func (s *seen) before(source, id string) bool {
	key := sha256.Sum256([]byte(source + "\x00" + id))
	_, now := s.now[key]
	_, earlier := s.earlier[key]
	if now || earlier {
		return true
	}
	if s.now == nil || len(s.now) == seenEvents {
		s.now, s.earlier = map[[sha256.Size]byte]struct{}{}, s.now
	}
	s.now[key] = struct{}{}
	return false
}
