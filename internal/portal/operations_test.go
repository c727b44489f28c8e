package portal_test

import (
	"cmp"
	"context"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/address"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/portal"
	"github.com/telemesh/telemesh/internal/users"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/triggers"
)

// subscriber counts the events that it gets, and refuses them for good while it is
// told to.
type subscriber struct {
	*httptest.Server
	refuses atomic.Bool
	mu      sync.Mutex
	got     []string // ids
}

func newSubscriber(t *testing.T) *subscriber {
	s := &subscriber{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.got = append(s.got, r.Header.Get("Ce-Id"))
		s.mu.Unlock()
		if s.refuses.Load() {
			http.Error(w, "in no mood for "+r.Header.Get("Ce-Id"), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *subscriber) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

// running is the whole mesh in this process, and the portal that is part of it.
type running struct {
	*httptest.Server
	t         *testing.T
	mesh      *local.Mesh
	warehouse warehouse.Warehouse
	audit     *audit.Log
	ids       map[string]string // of users, by name
}

// runMesh runs the mesh with further Triggers. Users enter by the demo.
func runMesh(t *testing.T, more map[string]string) *running {
	t.Helper()
	files := fstest.MapFS{}
	for name, text := range more {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	set, err := manifest.Load(manifest.Folder{Name: "brokers", FS: brokers.FS}, manifest.Folder{Name: "triggers", FS: triggers.FS},
		manifest.Folder{Name: "config", FS: config.FS}, manifest.Folder{Name: "more", FS: files})
	if err != nil {
		t.Fatal(err)
	}
	address := "sqlite:" + filepath.Join(t.TempDir(), "portal.db")
	db, err := database.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r := &running{t: t, warehouse: duckdbtest.Open(t), audit: audit.New(db, time.Now), ids: map[string]string{}}
	store := users.New(db, r.audit, time.Now)
	for name, role := range map[string]access.Role{"admin": access.Admin, "analyst": access.Analyst, "tenant": access.Tenant} {
		var tenants []string
		if role == access.Tenant {
			tenants = []string{"north"}
		}
		if err := store.AddDemo(t.Context(), users.By{Who: "test"}, name, role, tenants); err != nil {
			t.Fatal(err)
		}
		u, err := store.Named(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		r.ids[name] = u.ID
	}
	r.mesh, err = local.Open(t.Context(), local.Config{
		Dir: t.TempDir(), Manifests: set, Functions: functions.Table, Warehouse: r.warehouse, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Set: map[manifest.Ref]map[string]string{{Namespace: "platform", Name: "portal"}: {
			"DATABASE_URL": address, "PORTAL_URL": "http://127.0.0.1", "PORTAL_DEMO": "true", "LIVE_INTERVAL": "5ms",
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.mesh.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	r.Server = httptest.NewServer(r.mesh.Service("platform", "portal"))
	t.Cleanup(r.Server.Close)
	return r
}

// post hands an event to Broker iot/iot, and waits until all that comes of it is done.
func (r *running) post(e event.Event) {
	r.t.Helper()
	if err := function.Post(r.t.Context(), r.mesh.Client(), address.OfBroker("iot", "iot").String(), e); err != nil {
		r.t.Fatal(err)
	}
	r.idle()
}

func (r *running) idle() {
	r.t.Helper()
	if err := r.mesh.Idle(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) number(sql string) (n int64) {
	r.t.Helper()
	rows, err := r.warehouse.Query(r.t.Context(), sql)
	if err != nil {
		r.t.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil {
			r.t.Fatal(err)
		}
		n, _ = row[0].(int64)
	}
	return n
}

// visitor is a user of the portal.
type visitor struct {
	*running
	client *http.Client
}

func (r *running) enter(name string) *visitor {
	r.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	v := &visitor{r, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	v.ask(http.MethodPost, "/login/demo", url.Values{"user": {r.ids[name]}}, http.StatusSeeOther)
	return v
}

// ask asks for a page, and gives its text.
func (v *visitor) ask(method, path string, form url.Values, status int) string {
	v.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(v.t.Context(), method, v.URL+path, body)
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := v.client.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	if resp.StatusCode != status {
		v.t.Fatalf("%s %s: %s, want %d\n%s", method, path, resp.Status, status, text)
	}
	return string(text)
}

func (v *visitor) get(path string) string {
	v.t.Helper()
	return v.ask(http.MethodGet, path, nil, http.StatusOK)
}

// has says what a page lacks.
func has(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(text, want) {
			_, main, _ := strings.Cut(text, "<main")
			t.Errorf("the page does not have %q:\n%s", want, cmp.Or(main, text))
		}
	}
}

var (
	links  = regexp.MustCompile(`href="([^"]*)"`)
	hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// link gives the first link of a page that begins with a prefix.
func link(t *testing.T, text, prefix string) string {
	t.Helper()
	for _, m := range links.FindAllStringSubmatch(text, -1) {
		if to := html.UnescapeString(m[1]); strings.HasPrefix(to, prefix) {
			return to
		}
	}
	t.Fatalf("no link to %s…:\n%s", prefix, text)
	return ""
}

// fields gives what the form of a page sends.
func fields(text string) url.Values {
	form := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(text, -1) {
		form.Set(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return form
}

const trigger = `apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: %[1]s, namespace: iot}
spec:
  broker: iot
  filters: [{exact: {type: com.example.mood}}]
  delivery:
    retry: 0
    deadLetterSink:
      ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: dead-letter-sink, namespace: platform}
      uri: /iot/%[1]s
  subscriber: {uri: %[2]s}
`

// A letter that an admin redrives comes to the subscriber that refused it and to no
// other; one that is given up comes to nobody. Who may only look does neither.
func TestDeadLettersOfThePage(t *testing.T) {
	moody, other := newSubscriber(t), newSubscriber(t)
	r := runMesh(t, map[string]string{"moody.yaml": fmt.Sprintf(trigger, "moody", moody.URL), "other.yaml": fmt.Sprintf(trigger, "other", other.URL)})
	moody.refuses.Store(true)
	for i := range 3 {
		e := mesh.NewEvent("com.example.mood", "/test", []byte(`{}`), fmt.Sprint(i))
		e.SetID(fmt.Sprintf("event-%d", i))
		r.post(e)
	}
	if moody.count() != 3 || other.count() != 3 {
		t.Fatalf("the subscribers got %d and %d events, want 3 each", moody.count(), other.count())
	}
	analyst, admin := r.enter("analyst"), r.enter("admin")
	page := analyst.get("/operations/deadletters")
	has(t, page, "iot/moody", "<strong>3</strong> open", "in no mood for event-…", "event-0")
	if strings.Contains(page, "/operations/deadletters/act") {
		t.Error("an analyst is offered to act")
	}
	has(t, analyst.get(link(t, page, "/operations/deadletters/")), "in no mood for event-", "iot/moody", moody.URL, "com.example.mood")

	page = admin.get("/operations/deadletters")
	confirm := link(t, page, "/operations/deadletters/act?do=redrive&group=")
	page = admin.get(confirm)
	has(t, page, "Redrive 3 dead letters", "to no other", moody.URL)
	form := fields(page)
	analyst.ask(http.MethodGet, confirm, nil, http.StatusForbidden)
	analyst.ask(http.MethodPost, "/operations/deadletters/act", form, http.StatusForbidden)
	r.enter("tenant").ask(http.MethodPost, "/operations/deadletters/act", form, http.StatusForbidden)
	if moody.count() != 3 {
		t.Fatalf("after refusals the subscriber has got %d events, want 3", moody.count())
	}

	has(t, admin.ask(http.MethodPost, "/operations/deadletters/act", form, http.StatusOK), "0 redriven, 3 failed", "400 in no mood for event-0")
	moody.refuses.Store(false)
	id := nameOf(t, admin.get("/operations/deadletters"))
	one := "/operations/deadletters/" + id
	has(t, admin.ask(http.MethodPost, "/operations/deadletters/act", url.Values{"do": {"discard"}, "id": {id}}, http.StatusBadRequest), "say why")
	has(t, admin.ask(http.MethodPost, "/operations/deadletters/act", url.Values{"do": {"discard"}, "id": {id}, "reason": {"nobody wants it"}}, http.StatusOK), "1 given up, 0 failed")
	has(t, admin.get(one), "closed", "admin: nobody wants it")
	page = admin.ask(http.MethodPost, "/operations/deadletters/act", form, http.StatusOK)
	has(t, page, "2 redriven, 0 failed")
	// Of a page that is sent again nothing comes.
	has(t, admin.get(confirm), "None of these letters is open any more")
	has(t, admin.ask(http.MethodPost, "/operations/deadletters/act", form, http.StatusOK), "None of these letters is open any more")
	has(t, admin.get("/operations/deadletters"), "No dead letters")
	r.idle()
	if moody.count() != 3+3+2 || other.count() != 3 {
		t.Errorf("the subscriber that failed got %d events, the other %d; want 8 and 3", moody.count(), other.count())
	}

	has(t, admin.get("/operations/audit?action=acted"), "discard nobody wants it", "3 dead letters of Trigger iot/moody", "redrive")
	has(t, admin.ask(http.MethodPost, "/operations/audit", url.Values{}, http.StatusOK), "The log is as it was written")
	analyst.ask(http.MethodGet, "/operations/audit", nil, http.StatusForbidden)
}

// Messages that can be read today become rows, as the page says before; the others stay.
func TestRejectedMessagesOfThePage(t *testing.T) {
	r := runMesh(t, nil)
	at := mesh.At(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC))
	var all []mesh.Rejection
	for i, payload := range []string{
		`{"device_id": "a", "time": "2026-03-01T09:00:00Z", "metrics": {"co2": 812, "temperature": 21}}`,
		`{"device_id": "b", "time": "2026-03-01T09:01:00Z", "metrics": {"co2": 813}}`,
		`{"device_id": "<script>alert(1)</script>", "co2": `,
	} {
		all = append(all, mesh.Rejection{Cause: "older", Reader: "json", Position: mesh.PositionAt(3), Message: mesh.Message{
			ID: fmt.Sprint(i), Source: "/devices", ReceivedAt: at + mesh.Instant(i), Payload: []byte(payload)}})
	}
	r.post(mesh.NewEvent(mesh.TelemetryRejected, mesh.Source("telemetry-flatten"), mesh.EncodeRejections(all), "1"))
	admin, analyst := r.enter("admin"), r.enter("analyst")
	page := analyst.get("/operations/rejected")
	has(t, page, "older", `class="n">3</td>`)
	if group := analyst.get(link(t, page, "/operations/rejected?")); strings.Contains(group, "/operations/rejected/retry") {
		t.Error("an analyst is offered to retry")
	}
	group := admin.get(link(t, admin.get("/operations/rejected"), "/operations/rejected?"))
	// The newest is the one that cannot be read.
	has(t, admin.get("/operations/rejected/"+nameOf(t, group)), "It cannot be read now either", "&lt;script&gt;alert(1)", "byte 3: line 1, column 4")
	confirm := link(t, group, "/operations/rejected/retry?")
	page = admin.get(confirm)
	has(t, page, "Read 3 messages again", "Of the 3 below 2 can be read now", "It can be read now: 2 readings.")
	form := fields(page)
	analyst.ask(http.MethodPost, "/operations/rejected/retry", form, http.StatusForbidden)
	r.idle()
	const stored = "SELECT COUNT(*) FROM iot_telemetry.readings WHERE device_id IN ('a', 'b')"
	if n := r.number(stored); n != 0 {
		t.Fatalf("%d rows before, want none", n)
	}
	has(t, admin.ask(http.MethodPost, "/operations/rejected/retry", form, http.StatusOK), "3 messages: 2 read now, 1 remain unreadable. Of 3 readings 3 are rows.")
	if n := r.number(stored); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
	// What is done is done once.
	has(t, admin.ask(http.MethodPost, "/operations/rejected/retry", form, http.StatusOK), "1 message: 0 read now, 1 remain unreadable")
	r.idle()
	if n := r.number(stored); n != 3 {
		t.Errorf("%d rows after the second time, want 3", n)
	}
	// They are of nobody, and the page tells which row would change that.
	has(t, analyst.get("/operations/parked"), "<code>a,TENANT,,,ROOM,,,2026-03-01T09:00:00Z,</code>", "<strong>2</strong> readings of 2 metrics", "never by anybody")
	has(t, analyst.get("/operations"), `<p class="many some">3 <small>of nobody</small></p>`, `<p class="many some">1 <small>not read</small></p>`)
}

var named = regexp.MustCompile(`/operations/[a-z]+/([0-9a-f]{32})`)

// nameOf gives the first letter or message of a list.
func nameOf(t *testing.T, text string) string {
	t.Helper()
	m := named.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("nothing is listed on the page:\n%s", text)
	}
	return m[1]
}

// The console runs what reads, for admins, and not without an entry in the audit log.
func TestConsole(t *testing.T) {
	r := runMesh(t, nil)
	admin := r.enter("admin")
	run := func(sql, format string, status int) string {
		t.Helper()
		return admin.ask(http.MethodPost, "/operations/console", url.Values{"sql": {sql}, "format": {format}}, status)
	}
	has(t, run("SELECT 1 AS one, NULL AS nothing, '<b>' AS text, 2.5 AS number", "table", http.StatusOK),
		"1 row in", `<th scope="col" class="n">one</th>`, `<td class="n">1</td>`, `<span class="none">NULL</span>`, "&lt;b&gt;", "2.5")
	has(t, run("SELECT i AS i FROM UNNEST(range(5000)) AS t(i)", "table", http.StatusOK), "The first 1000 rows")
	if got, want := run("SELECT 'a,\"b' AS text, TIMESTAMP '2026-03-01 09:00:00' AS at", "csv", http.StatusOK), "text,at\n\"a,\"\"b\",2026-03-01T09:00:00Z\n"; got != want {
		t.Errorf("CSV %q, want %q", got, want)
	}
	if got, want := run("SELECT '=1+1' AS \"@a\", -1 AS number", "csv", http.StatusOK), "'@a,number\n'=1+1,-1\n"; got != want {
		t.Errorf("CSV %q, want %q: no spreadsheet may compute a text", got, want)
	}
	if got := run("SELECT 1 AS one WHERE FALSE", "csv", http.StatusOK); got != "one\n" {
		t.Errorf("CSV of no rows: %q", got)
	}
	for sql, says := range map[string]string{
		"SELECT nothing":                               "nothing",
		"SELECT repeat('x', 70000000)":                 "a text of 70000000 bytes",
		"DROP TABLE event_log_internal.events_current": "only SELECT",
		"SELECT 1; SELECT 2":                           "2 statements",
		"COPY (SELECT 1) TO '/tmp/x'":                  "disabled by configuration",
		"SELECT * FROM read_text('/etc/passwd')":       "disabled by configuration",
		"":                                             "there is no statement",
		strings.Repeat(" ", 16<<10) + "SELECT 1":       "are the most",
		"SELECT '\x1b'":                                "the audit log cannot keep this",
	} {
		has(t, run(sql, "table", http.StatusBadRequest), says)
	}
	analyst := r.enter("analyst")
	analyst.ask(http.MethodPost, "/operations/console", url.Values{"sql": {"SELECT 1"}}, http.StatusForbidden)
	analyst.ask(http.MethodGet, "/operations/console", nil, http.StatusForbidden)
	entries, err := r.audit.List(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var ran []string
	for _, e := range entries {
		if e.Object == "SQL console" && e.Who == "admin" {
			ran = append(ran, string(e.Action)+" "+e.Detail)
		}
	}
	if len(ran) != 11 || !strings.Contains(strings.Join(ran, "\n"), "query DROP TABLE event_log_internal.events_current\n") || !strings.Contains(strings.Join(ran, "\n"), "export SELECT 1 AS one WHERE FALSE\n") {
		t.Errorf("%d statements in the audit log, want all 11 that were run, refused or not:\n%s", len(ran), strings.Join(ran, "\n"))
	}
}

// held answers nothing until it is let go, whatever its context says.
type held struct {
	warehouse.Warehouse
	asked, free chan struct{}
}

func (h *held) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	if n := warehouse.MostBytes(ctx); n != 7 {
		return nil, fmt.Errorf("a statement may be billed for %d bytes, want 7", n)
	}
	h.asked <- struct{}{}
	<-h.free
	return &warehouse.Rows{All: func(func([]any, error) bool) {}}, nil
}

// One statement runs at a time, until it has ended, also if nobody waits for it.
func TestConsoleRunsOne(t *testing.T) {
	h := &held{asked: make(chan struct{}, 1), free: make(chan struct{})}
	p, err := portal.New(portal.Config{Data: access.New(h, nil), ConsoleBytes: 7, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Viewer: func(*http.Request) (access.Viewer, bool, error) {
			return access.Viewer{Name: "ann", Role: access.Admin}, true, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/operations/console", strings.NewReader("sql=SELECT+1"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		p.Handler().ServeHTTP(w, r)
		return w
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		run(ctx)
	}()
	<-h.asked
	if w := run(t.Context()); w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), "Another statement is running") {
		t.Errorf("beside another statement: %d\n%s", w.Code, w.Body)
	}
	leave()
	<-left // though the warehouse goes on
	if w := run(t.Context()); w.Code != http.StatusTooManyRequests {
		t.Errorf("beside a statement that nobody waits for: %d", w.Code)
	}
	close(h.free)
	for w := run(t.Context()); w.Code != http.StatusOK; w = run(t.Context()) {
		if w.Code != http.StatusTooManyRequests || t.Context().Err() != nil {
			t.Fatalf("after it has ended: %d\n%s", w.Code, w.Body)
		}
	}
}

// Each page is there for the roles that may look, also while there is nothing to see.
func TestOperationsAreTheTeams(t *testing.T) {
	r := runMesh(t, nil)
	for who, pages := range map[string]map[string]int{
		"tenant":  {"": 403, "/deadletters": 403, "/rejected": 403, "/parked": 403, "/sheets": 403, "/quality": 403, "/audit": 403, "/console": 403},
		"analyst": {"": 200, "/deadletters": 200, "/rejected": 200, "/parked": 200, "/sheets": 200, "/quality": 200, "/audit": 403, "/console": 403},
		"admin":   {"": 200, "/deadletters": 200, "/rejected": 200, "/parked": 200, "/sheets": 200, "/quality": 200, "/audit": 200, "/console": 200},
	} {
		v := r.enter(who)
		for path, status := range pages {
			v.ask(http.MethodGet, "/operations"+path, nil, status)
		}
	}
	admin := r.enter("admin")
	for _, path := range []string{"/deadletters/none", "/rejected/none", "/rejected/0123456789abcdef0123456789abcdef"} {
		admin.ask(http.MethodGet, "/operations"+path, nil, http.StatusNotFound)
	}
	for _, path := range []string{"/deadletters/act?do=redrive", "/deadletters/act?do=else&id=x", "/rejected/retry", "/audit?before=x"} {
		status := http.StatusBadRequest
		if strings.Contains(path, "id=x") {
			status = http.StatusOK // nothing to do
		}
		admin.ask(http.MethodGet, "/operations"+path, nil, status)
	}
}
