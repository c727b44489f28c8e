package portal

import (
	"bufio"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

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
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	w, _ := stored(t, time.Now())
	data := access.New(w, all)
	feed := live.New(data, live.Config{Interval: 10 * time.Millisecond, Overlap: time.Minute}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	s = onSQLite(t, Config{Data: data, Live: feed, Products: all})
	t.Cleanup(feed.Close)
	return s, func(id string) {
		t.Helper()
		e := mesh.NewEvent(mesh.AnalyticsJoined, "/test", []byte(`{"readings":[]}`))
		e.SetID(id)
		e.SetExtension(mesh.ExtTenant, own)
		if _, err := sink.NewLog(w, nil)(function.WithPath(t.Context(), "/analytics/analytics"), e); err != nil {
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
