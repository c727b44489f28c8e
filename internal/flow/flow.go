// Package flow says what goes through the mesh now: how many events each Broker
// takes, each Trigger lets pass and each function makes, how long functions take,
// and what could not be delivered.
//
// It reads the event log and nothing else, so that it says the same of a cluster
// and of one machine. Which events a Trigger takes is what its filters say of
// the events in the log. What the log does not tell is not known: how many events
// wait for a function that need not make anything of them.
package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/cesql"
	"github.com/telemesh/telemesh/internal/elapsed"
	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// The times that are looked back.
const (
	Recent = 5 * time.Minute
	Long   = time.Hour
	Given  = 24 * time.Hour // for dead letters
)

// maxGroups bounds what is read of the log: sets of events that filters cannot
// tell apart.
const maxGroups = 5000

// Rate counts events.
type Rate struct {
	Recent int64     `json:"recent"` // accepted in the last five minutes
	Long   int64     `json:"long"`   // in the last hour
	Last   time.Time `json:"last"`   // when the last one was accepted; zero: none in the hour
}

// PerMinute is the rate of the last five minutes.
func (r Rate) PerMinute() float64 { return float64(r.Recent) / Recent.Minutes() }

func (r *Rate) add(other Rate) {
	r.Recent += other.Recent
	r.Long += other.Long
	if other.Last.After(r.Last) {
		r.Last = other.Last
	}
}

// Type is events of a type on a Broker.
type Type struct {
	Broker topology.Ref
	Type   string
}

// Made is events of a type that a function brought to a Broker.
type Made struct {
	Function topology.Ref
	Type
}

// Taken is events of a type that a Trigger takes.
type Taken struct {
	Trigger topology.Ref
	Type    string
}

// Took is how long events took from a Broker through a Trigger and a function to
// the reply, which the Broker accepted: waiting, attempts that failed and all.
type Took struct {
	Events   int64
	P50, P95 time.Duration
}

// Waiting are events that a Trigger takes and that have no reply yet, nor were
// given up: those accepted in the last hour, as far as the log has come.
type Waiting struct {
	Events int64
	Oldest time.Time // when the first of them was accepted; zero: there are none
}

// Letters are events that a Trigger could not deliver.
type Letters struct {
	Long  int64 // given up in the last hour
	Given int64 // in the last day
	Last  time.Time
}

// Rates is what went through a mesh until At.
type Rates struct {
	At       time.Time
	Brokers  map[topology.Ref]Rate
	Types    map[Type]Rate
	Made     map[Made]Rate
	Taken    map[Taken]Rate
	Triggers map[topology.Ref]Rate
	Took     map[topology.Ref]Took // by Trigger
	// Waiting is by Trigger, of those alone that have a reply of every event.
	Waiting map[topology.Ref]Waiting
	// Logged is how long events took from a Broker to their row in the log.
	Logged  map[topology.Ref]Took    // by Broker
	Letters map[topology.Ref]Letters // by Trigger; one without a name: of all of its namespace that have no sink of their own
	// Unknown are Triggers whose filters ask for what tells single events apart.
	Unknown map[topology.Ref]bool
	// Partial: there was more in the log than is read.
	Partial bool
}

// Log counts what goes through a mesh.
type Log struct {
	data *access.Data
	mesh func() *topology.Mesh
	now  func() time.Time

	mu    sync.Mutex
	last  *Rates
	until time.Time // last is good enough
}

// NewLog counts what goes through the mesh that is there when it is asked.
func NewLog(data *access.Data, mesh func() *topology.Mesh, now func() time.Time) *Log {
	return &Log{data: data, mesh: mesh, now: now}
}

// How long an answer is good: at least fresh, and ten times as long as it took,
// so that who watches is not what the warehouse works for.
const (
	fresh   = 4 * time.Second
	timeout = 20 * time.Second
)

// Rates gives what went through the mesh, as of a few seconds ago at most where
// the log is small. It is for who sees the events of all tenants, and else
// access.ErrForbidden.
func (l *Log) Rates(ctx context.Context, v access.Viewer) (*Rates, error) {
	if !v.SeesAll() {
		return nil, fmt.Errorf("the event log: %w", access.ErrForbidden)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil && l.now().Before(l.until) {
		return l.last, nil
	}
	// Others wait for the answer, so that it does not end with who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	began := time.Now()
	r, err := l.read(ctx, v)
	if err != nil {
		return nil, err
	}
	l.last, l.until = r, l.now().Add(max(fresh, 10*time.Since(began)))
	return r, nil
}

func (l *Log) read(ctx context.Context, v access.Viewer) (*Rates, error) {
	m, now := l.mesh(), l.now()
	r := &Rates{
		At: now, Brokers: map[topology.Ref]Rate{}, Types: map[Type]Rate{}, Made: map[Made]Rate{}, Taken: map[Taken]Rate{},
		Triggers: map[topology.Ref]Rate{}, Took: map[topology.Ref]Took{},
		Waiting: map[topology.Ref]Waiting{}, Logged: map[topology.Ref]Took{}, Letters: map[topology.Ref]Letters{}, Unknown: map[topology.Ref]bool{},
	}
	query := func(ctx context.Context, sql string) (*warehouse.Rows, error) { return l.data.Query(ctx, v, sql) }
	parts := []func() error{
		func() error { return r.count(ctx, query, m) },
		func() error { return r.time(ctx, query, m) },
		func() error { return r.wait(ctx, query, m) },
		func() error { return r.logged(ctx, query) },
		func() error { return r.letters(ctx, query) },
	}
	errs := make([]error, len(parts))
	var group sync.WaitGroup
	for i, part := range parts {
		group.Go(func() { errs[i] = part() })
	}
	group.Wait()
	return r, errors.Join(errs...)
}

type queryFunc func(context.Context, string) (*warehouse.Rows, error)

// columns are the attributes that have a column of their own in the log.
var columns = []string{"source", "type", "subject", "dataschema", "datacontenttype", "specversion"}

// count reads the events of the log, by all that filters ask for.
func (r *Rates) count(ctx context.Context, query queryFunc, m *topology.Mesh) error {
	names := []string{"source", "type"}
	for i := range m.Triggers {
		t := &m.Triggers[i]
		for _, name := range t.Attributes() {
			if name == "id" || name == "time" {
				r.Unknown[t.Ref] = true
			} else if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	var inner, outer []string
	for i, name := range names {
		value := name
		if !slices.Contains(columns, name) {
			value = eventlog.Extension(name)
		}
		inner = append(inner, fmt.Sprintf("%s AS a%d", value, i))
		outer = append(outer, fmt.Sprintf("a%d", i))
	}
	keys := strings.Join(outer, ", ")
	sql := fmt.Sprintf(`SELECT broker, COUNT(*) AS events, CAST(SUM(CASE WHEN received_at >= %s THEN 1 ELSE 0 END) AS INT64) AS recent, MAX(received_at) AS latest, %s
FROM (SELECT broker, received_at, %s FROM {event_log.events} WHERE received_at >= %s) AS e
GROUP BY broker, %s
ORDER BY events DESC
LIMIT %d`, literal.Time(mesh.At(r.At.Add(-Recent))), keys, strings.Join(inner, ", "), literal.Time(mesh.At(r.At.Add(-Long))), keys, maxGroups)
	rows, err := query(ctx, sql)
	if err != nil {
		return fmt.Errorf("count the events of the log: %w", err)
	}
	makers := map[string][]*topology.Function{}
	for i := range m.Functions {
		f := &m.Functions[i]
		for _, eventType := range f.Emits {
			makers[eventType] = append(makers[eventType], f)
		}
	}
	sqls := compiled{}
	n := 0
	for row, err := range rows.All {
		if err != nil {
			return fmt.Errorf("count the events of the log: %w", err)
		}
		n++
		name, _ := row[0].(string)
		broker, _ := topology.ParseRef(name)
		var rate Rate
		rate.Long, _ = row[1].(int64)
		rate.Recent, _ = row[2].(int64)
		rate.Last, _ = row[3].(time.Time)
		e := topology.Event{Attributes: map[string]string{}, All: true}
		for i, name := range names {
			if value, ok := row[4+i].(string); ok && value != "" {
				e.Attributes[name] = value
			}
		}
		of := Type{broker, e.Attributes["type"]}
		sum(r.Brokers, broker, rate)
		sum(r.Types, of, rate)
		for _, f := range makers[of.Type] {
			if mesh.Source(f.Image) == e.Attributes["source"] && brings(m, f, broker) {
				sum(r.Made, Made{f.Ref, of}, rate)
			}
		}
		for i := range m.Triggers {
			t := &m.Triggers[i]
			if t.Broker == broker && !r.Unknown[t.Ref] && t.Takes(e, sqls.holds) == topology.Yes {
				sum(r.Triggers, t.Ref, rate)
				sum(r.Taken, Taken{t.Ref, of.Type}, rate)
			}
		}
	}
	r.Partial = n == maxGroups
	return nil
}

func sum[K comparable](m map[K]Rate, k K, rate Rate) {
	all := m[k]
	all.add(rate)
	m[k] = all
}

// brings says whether a function brings events to a Broker.
func brings(m *topology.Mesh, f *topology.Function, broker topology.Ref) bool {
	return f.Posts == broker || slices.ContainsFunc(m.Wake(f.Ref), func(t *topology.Trigger) bool { return t.Broker == broker })
}

// compiled are expressions of CESQL, by their text; nil: one that is none.
type compiled map[string]*cesql.Expression

// holds evaluates CESQL as Knative does: what fails is false.
// knative.dev/eventing/pkg/eventfilter/subscriptionsapi
func (c compiled) holds(text string, attributes map[string]string) bool {
	e, ok := c[text]
	if !ok {
		e, _ = cesql.Parse(text) // nil with an error
		c[text] = e
	}
	if e == nil {
		return false
	}
	of := event.New()
	for name, value := range attributes {
		switch name {
		case "type":
			of.SetType(value)
		case "source":
			of.SetSource(value)
		case "subject":
			of.SetSubject(value)
		case "dataschema":
			of.SetDataSchema(value)
		case "datacontenttype":
			of.SetDataContentType(value)
		case "specversion":
		default:
			of.SetExtension(name, value)
		}
	}
	return e.Matches(of)
}

// time reads how long replies took after what they are of.
func (r *Rates) time(ctx context.Context, query queryFunc, m *topology.Mesh) error {
	sql := fmt.Sprintf(`SELECT broker, source, type, cause_type, took, COUNT(*) AS events
FROM (
  SELECT e.broker, e.source, e.type, c.type AS cause_type, %s AS took
  FROM (
    SELECT broker, source, type, received_at, %s AS cause, %s AS cause_source
    FROM {event_log.events}
    WHERE received_at >= %s
  ) AS e
  JOIN {event_log.events} AS c
    ON c.broker = e.broker AND c.event_id = e.cause AND c.source = e.cause_source AND c.received_at >= %s
) AS replies
GROUP BY broker, source, type, cause_type, took`, elapsed.Bucket("c.received_at", "e.received_at"), eventlog.Extension(mesh.ExtCauseID), eventlog.Extension(mesh.ExtCauseSource),
		literal.Time(mesh.At(r.At.Add(-Long))), literal.Time(mesh.At(r.At.Add(-2*Long))))
	rows, err := query(ctx, sql)
	if err != nil {
		return fmt.Errorf("time the events of the log: %w", err)
	}
	counts := map[topology.Ref]elapsed.Counts{} // by Trigger
	for row, err := range rows.All {
		if err != nil {
			return fmt.Errorf("time the events of the log: %w", err)
		}
		text := func(i int) string { s, _ := row[i].(string); return s }
		broker, _ := topology.ParseRef(text(0))
		took, _ := row[4].(int64)
		events, _ := row[5].(int64)
		for i := range m.Triggers {
			t := &m.Triggers[i]
			f := m.Function(t.Service)
			if t.Broker == broker && f != nil && slices.Contains(f.Emits, text(2)) && mesh.Source(f.Image) == text(1) &&
				t.Takes(topology.Event{Attributes: map[string]string{"type": text(3)}}, nil) != topology.No {
				if counts[t.Ref] == nil {
					counts[t.Ref] = elapsed.Counts{}
				}
				counts[t.Ref][took] += events
			}
		}
	}
	for ref, c := range counts {
		r.Took[ref] = Took{c.Total(), c.Percentile(50), c.Percentile(95)}
	}
	return nil
}

// replied says of which functions, by image and the type of what they take, the
// replies tell what waits.
var replied = map[string]map[string]bool{ // true: every event has one
	// Of joins of a network there is nothing to say, so that only what came behind
	// the last event with a reply is sure to wait.
	"telemetry-flatten": {mesh.TelemetryReceived: false},
	"tenant-enrich":     {mesh.TelemetryFlattened: true},
	"analytics-join":    {mesh.TelemetryEnriched: true},
}

// wait reads what has no reply yet.
func (r *Rates) wait(ctx context.Context, query queryFunc, m *topology.Mesh) error {
	since := literal.Time(mesh.At(r.At.Add(-Long)))
	var parts []string
	for i := range m.Triggers {
		t := &m.Triggers[i]
		f := m.Function(t.Service)
		if f == nil || len(f.Emits) == 0 {
			continue
		}
		for eventType, every := range replied[f.Image] {
			if t.Takes(topology.Event{Attributes: map[string]string{"type": eventType}}, nil) != topology.Yes {
				continue
			}
			r.Waiting[t.Ref] = Waiting{}
			parts = append(parts, fmt.Sprintf(`SELECT %[1]s AS trigger_ref, %[2]s AS sure, c.received_at, d.event_id IS NOT NULL AS done
FROM (SELECT event_id, source, received_at FROM {event_log.events} WHERE received_at >= %[3]s AND broker = %[4]s AND type = %[5]s) AS c
LEFT JOIN (
  SELECT %[6]s AS event_id, %[7]s AS source
  FROM {event_log.events}
  WHERE received_at >= %[3]s AND broker = %[4]s AND source = %[8]s AND type IN (%[9]s)
  UNION DISTINCT
  SELECT event_id, source FROM {event_log_internal.dead_letters} WHERE part = 0 AND received_at >= %[3]s AND namespace = %[10]s AND trigger = %[11]s
) AS d ON d.event_id = c.event_id AND d.source = c.source`,
				literal.Text(t.Ref.String()), strings.ToUpper(fmt.Sprint(every)), since, literal.Text(t.Broker.String()), literal.Text(eventType),
				eventlog.Extension(mesh.ExtCauseID), eventlog.Extension(mesh.ExtCauseSource), literal.Text(mesh.Source(f.Image)), eventlog.Distinct(f.Emits),
				literal.Text(t.Namespace), literal.Text(t.Name)))
		}
	}
	if parts == nil {
		return nil
	}
	slices.Sort(parts)
	rows, err := query(ctx, fmt.Sprintf(`SELECT trigger_ref, COUNT(*) AS events, MIN(received_at) AS oldest
FROM (
  SELECT trigger_ref, sure, received_at, done, MAX(CASE WHEN done THEN received_at END) OVER (PARTITION BY trigger_ref) AS last_done
  FROM (%s) AS taken
) AS known
WHERE NOT done AND (sure OR last_done IS NULL OR received_at > last_done)
GROUP BY trigger_ref`, strings.Join(parts, "\nUNION ALL\n")))
	if err != nil {
		return fmt.Errorf("count the events of the log without a reply: %w", err)
	}
	for row, err := range rows.All {
		if err != nil {
			return fmt.Errorf("count the events of the log without a reply: %w", err)
		}
		name, _ := row[0].(string)
		of, _ := topology.ParseRef(name)
		var w Waiting
		w.Events, _ = row[1].(int64)
		w.Oldest, _ = row[2].(time.Time)
		r.Waiting[of] = w
	}
	return nil
}

// logged reads how far the log is behind the Brokers.
func (r *Rates) logged(ctx context.Context, query queryFunc) error {
	rows, err := query(ctx, fmt.Sprintf("SELECT broker, took, COUNT(*) AS events FROM (SELECT broker, %s AS took FROM {event_log.events} WHERE received_at >= %s) AS e GROUP BY broker, took",
		elapsed.Bucket("received_at", "recorded_at"), literal.Time(mesh.At(r.At.Add(-Long)))))
	if err != nil {
		return fmt.Errorf("time the rows of the log: %w", err)
	}
	counts := map[topology.Ref]elapsed.Counts{}
	for row, err := range rows.All {
		if err != nil {
			return fmt.Errorf("time the rows of the log: %w", err)
		}
		name, _ := row[0].(string)
		broker, _ := topology.ParseRef(name)
		took, _ := row[1].(int64)
		if counts[broker] == nil {
			counts[broker] = elapsed.Counts{}
		}
		counts[broker][took], _ = row[2].(int64)
	}
	for broker, c := range counts {
		r.Logged[broker] = Took{c.Total(), c.Percentile(50), c.Percentile(95)}
	}
	return nil
}

// letters reads what was given up. A letter may be of an event that was accepted
// days before: it was tried for so long.
func (r *Rates) letters(ctx context.Context, query queryFunc) error {
	sql := fmt.Sprintf(`SELECT namespace, trigger, COUNT(DISTINCT letter_id) AS letters,
  COUNT(DISTINCT CASE WHEN recorded_at >= %s THEN letter_id END) AS recent, MAX(recorded_at) AS latest
FROM {event_log_internal.dead_letters}
WHERE part = 0 AND received_at >= %s AND recorded_at >= %s
GROUP BY namespace, trigger`, literal.Time(mesh.At(r.At.Add(-Long))), literal.Time(mesh.At(r.At.Add(-8*Given))), literal.Time(mesh.At(r.At.Add(-Given))))
	rows, err := query(ctx, sql)
	if err != nil {
		return fmt.Errorf("count the dead letters: %w", err)
	}
	for row, err := range rows.All {
		if err != nil {
			return fmt.Errorf("count the dead letters: %w", err)
		}
		var of topology.Ref
		of.Namespace, _ = row[0].(string)
		of.Name, _ = row[1].(string)
		var l Letters
		l.Given, _ = row[2].(int64)
		l.Long, _ = row[3].(int64)
		l.Last, _ = row[4].(time.Time)
		r.Letters[of] = l
	}
	return nil
}
