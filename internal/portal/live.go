package portal

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/cesql"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/rejected"
)

func (p *Portal) liveRoutes() []route {
	return []route{
		{"GET /live", team, ofEvents, p.livePage},
		{"GET /live/event", team, queried, p.livePageEvent},
		{"GET /api/live", team, ofEvents, p.streams.of(p.liveStream)},
		{"GET /api/live/data", team, exported, p.exports.of(p.liveData)},
	}
}

var liveAPI = api{
	"GET /api/live": {Summary: "Events as they pass", Media: "text/event-stream", Errors: []int{http.StatusBadRequest, http.StatusTooManyRequests}, Query: []parameter{
		{Name: "filter", Description: "an expression in CESQL; default: all events"},
		{Name: "broker", Description: "NAMESPACE/NAME of a Broker"},
		{Name: "type", Description: "of events"},
		{Name: "tenant", Description: "whose events"},
	}},
	"GET /api/live/data": {Summary: "The data of an event, as they are", Media: "application/octet-stream", Errors: []int{http.StatusBadRequest, http.StatusNotFound, http.StatusTooManyRequests}, Query: []parameter{
		{Name: "source", Description: "of the event", Required: true},
		{Name: "id", Description: "of the event", Required: true},
		{Name: "at", Description: "when the Broker had it; default: any time"},
	}},
}

const (
	liveShown = 100 // events at first
	liveBeat  = 15 * time.Second
	// Shorter than Knative lets a request last (300 s): the browser comes again, and who
	// it is is asked again.
	liveLasts = 4 * time.Minute
	// What is shown of the data of an event; all of it is a download.
	dataShown     = 64 << 10
	readingsShown = 100
)

// liveFilter is what is asked for, as the page's form and the stream's address have it.
type liveFilter struct {
	Expression, Broker, Type, Tenant string
	Wrong                            *wrong // with the expression
}

// wrong is what is wrong with an expression, and where.
type wrong struct{ Text, Marked string }

func filterOf(r *http.Request) (f liveFilter, of *live.Filter) {
	q := r.URL.Query()
	f = liveFilter{Expression: q.Get("filter"), Broker: q.Get("broker"), Type: q.Get("type"), Tenant: q.Get("tenant")}
	of = &live.Filter{Broker: f.Broker, Type: f.Type, Tenant: f.Tenant}
	x, err := cesql.Parse(f.Expression)
	if err != nil {
		f.Wrong = &wrong{Text: err.Error()}
		if at, ok := errors.AsType[*cesql.SyntaxError](err); ok {
			f.Wrong.Marked = rejected.Marked([]byte(f.Expression), offsetOf(f.Expression, at))
		}
		return f, of
	}
	of.Expression = x
	return f, of
}

// offsetOf is the byte that a syntax error is at.
func offsetOf(text string, at *cesql.SyntaxError) int {
	offset := 0
	for line := 1; line < at.Line; line++ {
		offset += strings.IndexByte(text[offset:], '\n') + 1
	}
	for column := 1; column < at.Column && offset < len(text); column++ {
		_, size := utf8.DecodeRuneInString(text[offset:])
		offset += size
	}
	return offset
}

func (f liveFilter) query() string {
	q := url.Values{}
	for name, value := range map[string]string{"filter": f.Expression, "broker": f.Broker, "type": f.Type, "tenant": f.Tenant} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q.Encode()
}

// Chosen says whether anything is asked for.
func (f liveFilter) Chosen() bool { return f.query() != "" }

// liveEvent is an event as a line of the list shows it, on the page and to its script.
type liveEvent struct {
	Key      string `json:"key"` // tells the rows of the log apart
	Link     string `json:"link"`
	ID       string `json:"id"`
	Source   string `json:"source"`
	Type     string `json:"type"`
	Short    string `json:"short"` // of the type
	Subject  string `json:"subject,omitempty"`
	Tenant   string `json:"tenant,omitempty"`
	Broker   string `json:"broker"`
	Received string `json:"received"` // by the Broker, UTC
	Delay    string `json:"delay"`    // until it was in the log
	Size     string `json:"size"`     // of its data
	At       string `json:"at"`       // as Received, RFC 3339
}

func newLiveEvent(e *live.Event) liveEvent {
	return liveEvent{
		Key:  strings.Join([]string{e.ReceivedAt.String(), e.Broker, e.Source(), e.ID()}, " "),
		Link: eventLink(e.Key(), e.ReceivedAt),
		ID:   e.ID(), Source: e.Source(), Type: e.Type(), Short: subject(e.Type()), Subject: e.Subject(), Tenant: e.Tenant(), Broker: e.Broker,
		Received: clock(e.ReceivedAt), Delay: took(e.RecordedAt - e.ReceivedAt), Size: bytesOf(e.Size), At: e.ReceivedAt.String(),
	}
}

// clock is an instant to the millisecond, UTC.
func clock(at mesh.Instant) string { return at.Time().Format("2006-01-02 15:04:05.000") }

// took is a time that passed; clocks of two machines may differ.
func took(d mesh.Instant) string {
	t := time.Duration(d) * time.Microsecond
	switch {
	case t < 0:
		return "−" + took(-d)
	case t < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(t)/1e6)
	case t < time.Second:
		return fmt.Sprintf("%d ms", t.Milliseconds())
	case t < time.Minute:
		return fmt.Sprintf("%.1f s", t.Seconds())
	}
	return span(t)
}

// bytesOf is how many bytes there are, in words.
func bytesOf(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// eventLink is where an event is shown; at is when a Broker had it, about which it is
// looked for.
func eventLink(k live.Key, at mesh.Instant) string {
	q := url.Values{"source": {k.Source}, "id": {k.ID}}
	if at != 0 {
		q.Set("at", at.String())
	}
	return "/live/event?" + q.Encode()
}

type livePage struct {
	liveFilter
	Here, Stream            string // addresses, of the page and of its events
	Brokers, Types, Tenants []string
	Events                  []liveEvent
	Unvalued                int // events for which the expression has no value
	Why                     string
	Now                     string
}

// The types that the mesh makes, to choose from before any has come.
var meshTypes = []string{
	mesh.TelemetryReceived, mesh.TelemetryFlattened, mesh.TelemetryRejected, mesh.TelemetryEnriched, mesh.TelemetryUnassigned,
	mesh.TelemetryOutdated, mesh.TelemetryQuestioned, mesh.TenancyRepaired, mesh.PlacementsChanged, mesh.PlacementsRecorded, mesh.PlacementsRejected,
	mesh.ActionsLogged, mesh.ActionsRecorded, mesh.ActionsRejected, mesh.CustomersChanged, mesh.CustomersRecorded, mesh.CustomersRejected,
	mesh.AnalyticsJoined, mesh.AnalyticsWithdrawn, mesh.AnalyticsOutdated, mesh.QualityChecked, mesh.RedriveRequested,
}

func (p *Portal) livePage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	form, of := filterOf(r)
	page := livePage{
		liveFilter: form, Here: "/live?" + form.query(), Stream: "/api/live?" + form.query(), Now: clock(mesh.At(time.Now())),
		Brokers: []string{"analytics/analytics", "crm/crm", "iot/iot", "platform/platform"}, Types: slices.Clone(meshTypes),
	}
	status := http.StatusOK
	if form.Wrong != nil {
		status = http.StatusBadRequest
	} else {
		events, err := p.feed.Recent(r.Context(), v, of, liveShown)
		if err != nil {
			return err
		}
		for _, e := range events {
			page.Events = append(page.Events, newLiveEvent(e))
			page.Brokers, page.Types = append(page.Brokers, e.Broker), append(page.Types, e.Type())
		}
		if page.Unvalued = of.Expression.Failed; page.Unvalued > 0 {
			page.Why = of.Expression.Why.Error()
		}
	}
	var err error
	if page.Tenants, err = p.tenants(r.Context(), v); err != nil {
		return err
	}
	page.Brokers, page.Types = choices(page.Brokers, form.Broker), choices(page.Types, form.Type)
	page.Tenants = choices(page.Tenants, form.Tenant)
	return p.page(w, r, v, status, "live", "Live", page)
}

// tenants are the ids of those whose rows the viewer sees; none in a mesh without them.
func (p *Portal) tenants(ctx context.Context, v access.Viewer) (ids []string, err error) {
	if !p.data.Has("customers.customers") {
		return nil, nil
	}
	rows, err := p.data.Query(ctx, v, "SELECT DISTINCT customer_id FROM {customers.customers} ORDER BY 1 LIMIT 1000")
	if err != nil {
		return nil, err
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		id, _ := row[0].(string)
		ids = append(ids, id)
	}
	return ids, nil
}

// choices are the values of a field, with the one that is chosen.
func choices(all []string, chosen string) []string {
	if chosen != "" {
		all = append(all, chosen)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// liveStream tells of events as they are stored, as server-sent events: first of the
// latest, then of those that come. https://html.spec.whatwg.org/multipage/server-sent-events.html
//
//	event: events   data: {"events": […, the oldest first], "missed": N}
//	event: trouble  data: {"text": "…"}   the log cannot be read; empty: it can again
func (p *Portal) liveStream(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	form, of := filterOf(r)
	if form.Wrong != nil {
		return badRequest("filter: " + form.Wrong.Text)
	}
	_, watched := filterOf(r) // of another goroutine
	watcher, err := p.feed.Watch(r.Context(), v, watched.Matches)
	if err != nil {
		return err
	}
	defer watcher.Close()
	// After the watching has begun: what comes in between is told twice, and by its key
	// shown once.
	recent, err := p.feed.Recent(r.Context(), v, of, liveShown)
	if err != nil {
		return err
	}
	slices.Reverse(recent)
	if !p.still(r, v) {
		return nil
	}
	out := newStream(w)
	if err := out.send("events", liveEvents{Events: lines(recent)}); err != nil {
		return nil // nobody is there
	}
	ctx, cancel := context.WithTimeout(r.Context(), liveLasts)
	defer cancel()
	var trouble liveTrouble
	for {
		beat, cancel := context.WithTimeout(ctx, liveBeat)
		some, err := watcher.Next(beat)
		cancel()
		switch {
		case ctx.Err() != nil || errors.Is(err, live.ErrClosed) || !p.still(r, v):
			return nil
		case err != nil:
			err = out.beat()
		default:
			if len(some.Events) > 0 || some.Missed > 0 {
				err = out.send("events", liveEvents{lines(some.Events), some.Missed})
			}
			if now := troubleOf(some.Err); err == nil && now != trouble {
				trouble, err = now, out.send("trouble", now)
			}
		}
		if err != nil {
			return nil // nobody is there
		}
	}
}

type liveTrouble struct {
	Text string `json:"text"`
}

func troubleOf(err error) liveTrouble {
	if err == nil {
		return liveTrouble{}
	}
	return liveTrouble{"The event log cannot be read at the moment. It is tried again."}
}

type liveEvents struct {
	Events []liveEvent `json:"events"`
	Missed int         `json:"missed"`
}

func lines(events []*live.Event) []liveEvent {
	all := make([]liveEvent, len(events))
	for i, e := range events {
		all[i] = newLiveEvent(e)
	}
	return all
}

// stream writes server-sent events.
type stream struct {
	w  http.ResponseWriter
	to *http.ResponseController
}

func newStream(w http.ResponseWriter) stream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // a proxy passes it on at once
	w.WriteHeader(http.StatusOK)
	return stream{w, http.NewResponseController(w)}
}

func (s stream) send(name string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.w, "event: %s\ndata: %s\n\n", name, text); err != nil {
		return err
	}
	return s.to.Flush()
}

// beat finds out whether somebody is there.
func (s stream) beat() error {
	if _, err := s.w.Write([]byte(":\n\n")); err != nil {
		return err
	}
	return s.to.Flush()
}

// named is the event that an address names.
func named(r *http.Request) (k live.Key, at mesh.Instant, err error) {
	q := r.URL.Query()
	k = live.Key{Source: q.Get("source"), ID: q.Get("id")}
	if k.Source == "" || k.ID == "" {
		return k, 0, badRequest("source and id name an event")
	}
	if text := q.Get("at"); text != "" {
		if at, err = mesh.ParseInstant(text); err != nil {
			return k, 0, badRequest("at: " + err.Error())
		}
	}
	return k, at, nil
}

type eventPage struct {
	liveEvent
	Attributes [][2]string
	Brokers    []brokerAt
	Data       dataShow
	Chain      []chainLine
	Cut        bool
	Lost       *chainLost
	Readings   []live.Reading
	Table      string // that they stand in
	More       bool   // than are shown
	Search     string // address of the list with events of the same type
}

type brokerAt struct{ Name, Received, Stored string }

// dataShow is the data of an event as a page shows them.
type dataShow struct {
	Kind     string // none, left out, json, text, base64
	Text     string
	Size     string
	Cut      bool
	Download string
}

// chainLine is an event of a chain, those before it that it is below of.
type chainLine struct {
	liveEvent
	This    bool
	Took    string // since the event it was made of
	Brokers []string
	Made    []chainLine
}

type chainLost struct{ Source, ID string }

func (p *Portal) livePageEvent(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	k, at, err := named(r)
	if err != nil {
		return err
	}
	chain, err := p.feed.Chain(r.Context(), v, k, at)
	if errors.Is(err, live.ErrNone) {
		return errNotFound
	}
	if err != nil {
		return err
	}
	e := chain.This.Event
	data, kept, err := p.feed.Data(r.Context(), v, e)
	if err != nil {
		return err
	}
	page := eventPage{
		liveEvent: newLiveEvent(e), Attributes: attributes(e), Data: showData(e, data, kept), Cut: chain.Cut,
		Chain: []chainLine{newChainLine(chain.First, chain.This)}, Search: "/live?" + url.Values{"type": {e.Type()}}.Encode(),
	}
	for _, b := range chain.This.Brokers {
		page.Brokers = append(page.Brokers, brokerAt{b.Broker, clock(b.ReceivedAt), took(b.RecordedAt - b.ReceivedAt)})
	}
	if chain.Lost.ID != "" {
		page.Lost = &chainLost{chain.Lost.Source, chain.Lost.ID}
	}
	if !kept {
		page.Table = e.Carried()
		if page.Readings, err = p.feed.Readings(r.Context(), v, chain, readingsShown+1); err != nil {
			return err
		}
		if page.More = len(page.Readings) > readingsShown; page.More {
			page.Readings = page.Readings[:readingsShown]
		}
	}
	return p.page(w, r, v, http.StatusOK, "live-event", page.Short+" "+e.ID(), page)
}

func newChainLine(l, this *live.Link) chainLine {
	line := chainLine{liveEvent: newLiveEvent(l.Event), This: l == this}
	if l.Of != nil {
		line.Took = took(l.ReceivedAt - l.Of.ReceivedAt)
	}
	for _, b := range l.Brokers {
		line.Brokers = append(line.Brokers, b.Broker)
	}
	line.Brokers = slices.Compact(line.Brokers)
	for _, made := range l.Made {
		line.Made = append(line.Made, newChainLine(made, this))
	}
	return line
}

// attributes of an event as the specification orders them, its extensions by name.
func attributes(e *live.Event) (all [][2]string) {
	add := func(name, value string) {
		if value != "" {
			all = append(all, [2]string{name, value})
		}
	}
	add("id", e.ID())
	add("source", e.Source())
	add("type", e.Type())
	add("specversion", e.SpecVersion())
	add("subject", e.Subject())
	if !e.Time().IsZero() {
		add("time", types.FormatTime(e.Time()))
	}
	add("datacontenttype", e.DataContentType())
	add("dataschema", e.DataSchema())
	first := len(all)
	for name, value := range e.Extensions() {
		text, err := types.Format(value)
		if err != nil {
			text = fmt.Sprint(value)
		}
		all = append(all, [2]string{name, text})
	}
	slices.SortFunc(all[first:], func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	return all
}

func showData(e *live.Event, data []byte, kept bool) dataShow {
	s := dataShow{Size: bytesOf(e.Size)}
	switch {
	case e.Size == 0:
		s.Kind = "none"
		return s
	case !kept:
		s.Kind = "left out"
		return s
	}
	s.Download = "/api/live/data?" + url.Values{"source": {e.Source()}, "id": {e.ID()}, "at": {e.ReceivedAt.String()}}.Encode()
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		s.Kind = "base64"
		if s.Cut = len(data) > dataShown; s.Cut {
			data = data[:dataShown/3*3]
		}
		s.Text = base64.StdEncoding.EncodeToString(data)
		return s
	}
	s.Kind = "text"
	var pretty bytes.Buffer
	if json.Valid(data) && json.Indent(&pretty, data, "", "  ") == nil {
		s.Kind, data = "json", pretty.Bytes()
	}
	if s.Cut = len(data) > dataShown; s.Cut {
		data = bytes.ToValidUTF8(data[:dataShown], nil)
	}
	s.Text = string(data)
	return s
}

// liveData gives the data of an event as they are. It is a file: a browser opens
// nothing that somebody sent.
func (p *Portal) liveData(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	k, at, err := named(r)
	if err != nil {
		return err
	}
	events, err := p.feed.Find(r.Context(), v, k, at)
	if errors.Is(err, live.ErrNone) {
		return errNotFound
	}
	if err != nil {
		return err
	}
	data, kept, err := p.feed.Data(r.Context(), v, events[0])
	if err != nil {
		return err
	}
	if !kept {
		return errNotFound
	}
	attachment(w, "event-"+hex.EncodeToString([]byte(k.ID))[:min(16, 2*len(k.ID))]+".bin")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data) // a client that is gone needs no answer
	return nil
}

// attachment makes the answer a file of bytes.
func attachment(w http.ResponseWriter, name string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
}
