package portal

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/users"
	"github.com/telemesh/telemesh/products"
)

// watched is a site with events and readings, to which more can be told.
func watched(t *testing.T) (s *site, tell func(id string)) {
	t.Helper()
	s, log := watchedOf(t, time.Now())
	return s, func(id string) {
		t.Helper()
		e := mesh.NewEvent(mesh.AnalyticsJoined, "/test", []byte(`{"readings":[]}`))
		e.SetID(id)
		e.SetExtension(mesh.ExtTenant, own)
		log(e)
	}
}

// watchedOf is a site whose readings end at an instant. What is stored of an event
// is told.
func watchedOf(t *testing.T, now time.Time) (s *site, tell func(event.Event)) {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	w, _ := stored(t, now)
	data := access.New(w, all)
	feed := live.New(data, live.Config{Interval: 10 * time.Millisecond, Overlap: time.Minute}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	s = onSQLite(t, Config{Data: data, Live: feed, Products: all})
	t.Cleanup(feed.Close)
	rows, log := sink.New(w, sink.Tables{}, func(context.Context, event.Event) error { return nil }), sink.NewLog(w, nil)
	return s, func(e event.Event) {
		t.Helper()
		if _, err := rows(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if _, err := log(function.WithPath(t.Context(), "/analytics/analytics"), e); err != nil {
			t.Fatal(err)
		}
	}
}

// watch opens a stream, and gives what follows its first lines.
func (b *browser) watch(path string) *bufio.Reader {
	b.t.Helper()
	resp, err := b.client.Get(b.url + path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		b.t.Fatalf("%s: %s", path, resp.Status)
	}
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			b.t.Fatal(err)
		}
		if line == "\n" {
			return lines
		}
	}
}

// A stream tells no more to who may not have it any longer, and ends.
func TestStreamsEndWithTheRight(t *testing.T) {
	const liveStream = "/api/live?filter=EXISTS+tenantid"
	airStream := "/api/air/stream?" + url.Values{"tenant": {own}, "room": {own + "-building/" + own + "-floor/" + own + "-room"}}.Encode()
	by := users.By{Who: "test"}
	change := func(role access.Role, disabled bool, tenants ...string) func(*testing.T, *site, person, *browser) {
		return func(t *testing.T, s *site, who person, _ *browser) {
			if _, err := s.store.Change(t.Context(), by, who.ID, role, tenants, disabled); err != nil {
				t.Error(err)
			}
		}
	}
	for _, test := range []struct {
		name    string
		stream  string
		role    access.Role
		tenants []string
		then    func(*testing.T, *site, person, *browser)
	}{
		{"live, disabled", liveStream, access.Analyst, nil, change(access.Analyst, true)},
		{"live, another role", liveStream, access.Analyst, nil, change(access.Tenant, false, own)},
		{"live, logged out", liveStream, access.Analyst, nil, func(t *testing.T, _ *site, _ person, b *browser) {
			b.post("/logout").want(t, http.StatusSeeOther, "/login")
		}},
		{"live, idle", liveStream, access.Analyst, nil, func(_ *testing.T, s *site, _ person, _ *browser) { s.pass(61 * time.Minute) }},
		{"air, disabled", airStream, access.Tenant, []string{own}, change(access.Tenant, true, own)},
		{"air, a tenant less", airStream, access.Tenant, []string{own, foreign}, change(access.Tenant, false, foreign)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, tell := watched(t)
			ann := s.person("ann", test.role, test.tenants...)
			b := s.logIn(ann)
			lines := b.watch(test.stream)
			test.then(t, s, ann, b)
			tell("secret-event")
			rest, err := io.ReadAll(lines)
			if err != nil || strings.Contains(string(rest), "secret-event") || strings.Contains(string(rest), "event: readings") {
				t.Errorf("the stream went on: %q, %v", rest, err)
			}
		})
	}
	t.Run("who may goes on", func(t *testing.T) {
		s, tell := watched(t)
		b := s.logIn(s.person("ann", access.Analyst))
		lines := b.watch(liveStream)
		tell("the-event")
		for line := ""; !strings.Contains(line, "the-event"); {
			var err error
			if line, err = lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What is withdrawn leaves an open page at once: the page of who had it, and nobody
// learns of what another one lost.
func TestWithdrawnLeavesAnOpenPage(t *testing.T) {
	now := time.Now()
	s, tell := watchedOf(t, now)
	withdrawn := func(tenant, source string, ago time.Duration) event.Event {
		at := mesh.At(now.Add(-ago))
		r := mesh.Reading{ReadingID: mesh.ReadingID(tenant+"-device", "co2", at), DeviceID: tenant + "-device", Metric: "co2", Value: 1, Unit: "ppm",
			ObservedAt: at, ReceivedAt: at, AssignmentVersion: 2, EventSource: "/test", EventID: "e"}
		e := mesh.NewEvent(mesh.AnalyticsWithdrawn, "/telemesh/"+source, mesh.EncodeJoined([]mesh.JoinedReading{{Reading: r, JoinVersion: 5}}), tenant, ago.String())
		mesh.SetVersion(&e, 5)
		return e
	}
	b := s.logIn(s.person("ann", access.Tenant, own))
	told := make(chan string)
	lines := b.watch("/api/air/stream?range=7d&tenant=" + own)
	go func() {
		defer close(told)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if name, ok := strings.CutPrefix(line, "event: "); ok {
				told <- strings.TrimSpace(name)
			}
		}
	}()
	said := func(want string, within time.Duration) {
		t.Helper()
		for patience := time.After(within); ; {
			select {
			case name := <-told:
				if name == "readings" {
					continue // of what was there when it began
				}
				if name != want {
					t.Fatalf("the page was told of %q, want %q", name, want)
				}
				return
			case <-patience:
				if want != "" {
					t.Fatalf("the page was not told of %q", want)
				}
				return
			}
		}
	}
	tell(withdrawn(foreign, "analytics-join", 30*time.Minute))
	said("", 3*airWait)
	tell(withdrawn(own, "analytics-join", 30*time.Minute))
	said("withdrawn", 15*time.Second)
}

// A tab that lies open does not keep its session: what its scripts ask for by
// themselves is not use.
func TestAnOpenTabIsIdle(t *testing.T) {
	s, _ := watched(t)
	b := s.logIn(s.person("ann", access.Analyst))
	for range 2 {
		s.pass(50 * time.Minute)
		b.get("/account").want(t, http.StatusOK, "") // which is
	}
	s.pass(40 * time.Minute)
	b.watch("/api/live")
	b.get("/api/mesh").want(t, http.StatusOK, "")
	s.pass(25 * time.Minute)
	b.get("/api/live").want(t, http.StatusUnauthorized, "")
	b.get("/account").want(t, http.StatusSeeOther, "/login?next=%2Faccount")
}
