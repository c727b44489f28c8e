package notify

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime/quotedprintable"
	"net/http"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/air"
	"github.com/telemesh/telemesh/internal/database/databasetest"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

func TestMain(m *testing.M) { databasetest.Main(m) }

func decoded(m *mail.Message) (string, error) {
	var r io.Reader = m.Body
	if strings.EqualFold(m.Header.Get("Content-Transfer-Encoding"), "quoted-printable") {
		r = quotedprintable.NewReader(r)
	}
	text, err := io.ReadAll(r)
	return strings.ReplaceAll(string(text), "\r\n", "\n"), err
}

// world is a Notifier, or several on one database, and who is told.
type world struct {
	*Notifier
	t        *testing.T
	cfg      Config
	hook     *webhook
	post     *post
	clockNow time.Time
	mu       sync.Mutex
}

// noon is a Monday.
var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

const (
	jsonRoute  = "- webhook: {url: HOOK/json, format: json, secret: " + secret + "}\n"
	emailRoute = "- email: {to: [school@example.com]}\n"
)

// newWorld starts at noon; HOOK in routes is the webhook's address.
func newWorld(t *testing.T, address, routes string) *world {
	t.Helper()
	w := &world{t: t, hook: serveHook(t), post: servePost(t), clockNow: noon}
	w.cfg = Config{Routes: strings.ReplaceAll(routes, "HOOK", w.hook.URL), Database: address, Portal: "https://portal.example.com", SMTP: w.post.url, From: "mesh@example.com", Private: true, Within: time.Hour, Timeout: time.Minute}
	w.Notifier = w.another()
	return w
}

// another is a process beside it.
func (w *world) another() *Notifier {
	w.t.Helper()
	n, err := New(w.cfg, slog.New(slog.DiscardHandler), w.clock)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { n.db.Close() })
	return n
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clockNow
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clockNow = w.clockNow.Add(d)
}

const (
	good = 9
	poor = mesh.SeverityWarnNumber
	bad  = mesh.SeverityErrorNumber
	dire = mesh.SeverityFatalNumber
)

var labels = map[int]string{good: "good", poor: "poor", bad: "bad", dire: "dire"}

// level makes the event of a room that goes from one level to another, minutes after noon.
func level(from, to, minutes int) event.Event {
	return levelIn(map[string]string{"tenant_id": "linden-school", "building": "A", "room": "1.01"}, from, to, minutes)
}

func levelIn(key map[string]string, from, to, minutes int) event.Event {
	at := mesh.At(noon.Add(time.Duration(minutes) * time.Minute))
	record := map[string]any{"device_id": "desk-1", "metric": "co2", "value": 100 * to, "unit": "ppm", "observed_at": at, "building": key["building"], "floor": "1", "customer_name": "Linden School",
		"last_action": "window opened", "last_action_at": mesh.At(noon.Add(-90 * time.Minute))}
	if key["room"] != "" {
		record["room"] = key["room"]
	}
	text, err := json.Marshal(record)
	if err != nil {
		panic(err)
	}
	data, err := json.Marshal(mesh.Classification{Rule: "co2-level", Classified: []mesh.Classified{{
		Label: labels[to], SeverityText: "X", SeverityNumber: to, PreviousLabel: labels[from], PreviousSeverityNumber: from,
		Value: float64(100 * to), Unit: "ppm", At: at, Key: key, Record: text,
	}}})
	if err != nil {
		panic(err)
	}
	return mesh.NewEvent("dev.telemesh.co2.classified.v1", "/telemesh/co2-level", data, "co2-level", fmt.Sprint(key), at.String(), labels[to])
}

// takes has the world take an event.
func (w *world) takes(e event.Event) {
	w.t.Helper()
	if out, err := w.Handle(w.t.Context(), e); err != nil || out != nil {
		w.t.Fatalf("Handle = %v, %v, want nothing", out, err)
	}
}

func (w *world) ticks() {
	w.t.Helper()
	w.takes(mesh.NewEvent(tick, "/apis/v1/namespaces/analytics/pingsources/alert", nil, w.clock().String()))
}

// told gives the webhook's messages in short: "opened bad".
func (w *world) told() []string {
	w.t.Helper()
	all := []string{}
	for _, h := range w.hook.taken() {
		var m message
		if err := json.Unmarshal([]byte(h.body), &m); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, strings.TrimPrefix(m.Type, "alert.")+" "+m.Data.Label)
	}
	return all
}

func (w *world) wants(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), w.told()); diff != "" {
		w.t.Errorf("told (-want +got):\n%s", diff)
	}
}

func each(t *testing.T, routes string, test func(t *testing.T, w *world)) {
	t.Helper()
	databasetest.Each(t, func(t *testing.T, address string) { test(t, newWorld(t, address, routes)) })
}

func TestOnceUntilItClears(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		for _, step := range []struct {
			from, to int
			want     string // what is told then
		}{
			{0, poor, ""},
			{poor, bad, "opened bad"},
			{bad, dire, "opened dire"},
			{dire, bad, ""},
			{bad, dire, ""}, // the alert was there already
			{dire, poor, "cleared poor"},
			{poor, good, ""},
			{good, bad, "opened bad"},
			{bad, good, "cleared good"},
		} {
			before := w.told()
			at := len(before) // each event comes twice
			w.pass(time.Minute)
			minutes := int(w.clock().Sub(noon).Minutes())
			w.takes(level(step.from, step.to, minutes))
			w.takes(level(step.from, step.to, minutes))
			if step.want != "" {
				before = append(before, step.want)
			}
			if diff := cmp.Diff(before, w.told()); diff != "" {
				t.Fatalf("from %d to %d, after %d messages, told (-want +got):\n%s", step.from, step.to, at, diff)
			}
		}
	})
}

// The message as each channel has it.
func TestWhatIsSaid(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", `
- zone: Europe/Amsterdam
  webhook: {url: HOOK/slack, format: slack}
  email: {to: [school@example.com, caretaker@example.com]}
- webhook: {url: HOOK/json, format: json, secret: `+secret+`}
- tenants: [harbour-offices]
  webhook: {url: HOOK/other, format: slack}
`)
	w.takes(levelIn(map[string]string{"tenant_id": "linden-school", "building": "A & B", "room": "1/01 <b>"}, good, bad, 0))
	w.pass(20 * time.Minute)
	w.takes(levelIn(map[string]string{"tenant_id": "linden-school", "building": "A & B", "room": "1/01 <b>"}, bad, good, 20))
	link := "https://portal.example.com/air?" + url.Values{"tenant": {"linden-school"}, "from": {"2026-03-02T09:00:00Z"}, "metric": {"co2"}, "tz": {"Europe/Amsterdam"},
		"room": {air.Room{Building: "A & B", Floor: "1", Name: "1/01 <b>"}.Key()}}.Encode()
	opening := "CO₂ bad: A & B, floor 1, room 1/01 <b>\n\n1700 ppm since Mon 2 Mar 2026, 13:00 CET.\nLast action: window opened, Mon 2 Mar 2026, 11:30 CET.\nTenant: Linden School.\n" + link + "\n"
	clearing := "CO₂ good again: A & B, floor 1, room 1/01 <b>\n\n900 ppm since Mon 2 Mar 2026, 13:20 CET.\nThe alert was open since Mon 2 Mar 2026, 13:00 CET; at its worst it was bad.\nLast action: window opened, Mon 2 Mar 2026, 11:30 CET.\nTenant: Linden School.\n" + link + "\n"
	var slack, plain []string
	for _, h := range w.hook.taken() {
		if h.id == "" || h.header.Get("Content-Type") != "application/json" {
			t.Errorf("webhook-id %q, Content-Type %q", h.id, h.header.Get("Content-Type"))
		}
		var got struct {
			Type, Text, Link string
			Data             map[string]any
		}
		if err := json.Unmarshal([]byte(h.body), &got); err != nil {
			t.Fatal(err)
		}
		if h.header.Get("webhook-signature") == "" {
			slack = append(slack, got.Text)
			continue
		}
		plain = append(plain, got.Type)
		if got.Data["room"] != "1/01 <b>" || got.Data["tenant_id"] != "linden-school" || got.Data["since"] != "2026-03-02T12:00:00Z" || got.Data["worst_label"] != "bad" || got.Data["last_action"] != "window opened" || got.Link == "" {
			t.Errorf("data %v, link %q", got.Data, got.Link)
		}
	}
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	if diff := cmp.Diff([]string{escape.Replace(opening), escape.Replace(clearing)}, slack); diff != "" {
		t.Errorf("slack (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{opened, closed}, plain); diff != "" {
		t.Errorf("json (-want +got):\n%s", diff)
	}
	got := map[string][]string{}
	for _, l := range w.post.taken() {
		got[l.to] = append(got[l.to], l.subject+"\n\n"+l.body)
		if !l.tls || l.user != user || !strings.HasSuffix(l.id, "@example.com>") || l.header.Get("From") != "<mesh@example.com>" || l.header.Get("To") != "<"+l.to+">" || l.header.Get("Auto-Submitted") != "auto-generated" {
			t.Errorf("a message by TLS %v of user %q: %s", l.tls, l.user, l.raw)
		}
	}
	if diff := cmp.Diff(map[string][]string{"school@example.com": {opening, clearing}, "caretaker@example.com": {opening, clearing}}, got); diff != "" {
		t.Errorf("e-mails (-want +got):\n%s", diff)
	}
}

// A room may have any name, and an action any words.
func TestNamesMakeNoHeaders(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", emailRoute)
	w.takes(levelIn(map[string]string{"tenant_id": "linden-school", "building": "A\r\nBcc: all@example.com", "room": "1\n\n.\r\n\u2028\u202eQUIT ü"}, good, bad, 0))
	got := w.post.taken()
	if len(got) != 1 || got[0].header.Get("Bcc") != "" || got[0].to != "school@example.com" {
		t.Fatalf("e-mails %+v, want one without Bcc", got)
	}
	if want := "CO₂ bad: A  Bcc: all@example.com, floor 1, room 1  .   QUIT ü"; strings.Join(strings.Fields(got[0].subject), " ") != strings.Join(strings.Fields(want), " ") || strings.ContainsAny(got[0].subject, "\r\n") {
		t.Errorf("subject %q, want %q", got[0].subject, want)
	}
}

// What comes late changes nothing: nobody is told of an alert whose end is known.
func TestByEventTime(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		w.takes(level(bad, good, 5))
		w.takes(level(good, bad, 0))
		w.wants()
		// Two devices report at one instant: one is good again, the other one gets bad.
		w.takes(level(good, bad, 10))
		w.takes(level(bad, good, 10))
		w.wants("opened bad")
		w.takes(level(bad, poor, 12))
		w.takes(level(poor, good, 12))
		w.takes(level(bad, poor, 12))
		w.wants("opened bad", "cleared poor")
	})
	// Both get better, one after the other, and the last of it comes first.
	each(t, strings.Replace(jsonRoute, "- webhook", "- severity: WARN\n  webhook", 1), func(t *testing.T, w *world) {
		for _, reverse := range []bool{false, true} {
			key := map[string]string{"tenant_id": "t", "room": fmt.Sprint(reverse)}
			w.takes(levelIn(key, good, bad, 0))
			falls := []event.Event{levelIn(key, bad, poor, 1), levelIn(key, poor, good, 1)}
			if reverse {
				slices.Reverse(falls)
			}
			for _, e := range falls {
				w.takes(e)
			}
		}
		w.wants("opened bad", "cleared good", "opened bad", "cleared good")
	})
}

// Whatever the order and however often: in the end an alert is open where the last
// level says so, no message comes twice, and what is told takes turns.
func TestAnyOrder(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		for seed := range uint64(20) {
			r := rand.New(rand.NewPCG(seed, 1))
			key := map[string]string{"tenant_id": "t", "building": "A", "room": fmt.Sprint(seed)}
			var events []event.Event
			now, levels := good, []int{good, poor, bad, dire}
			for minute := range 12 {
				next := levels[r.IntN(len(levels))]
				if next != now {
					events = append(events, levelIn(key, now, next, minute))
				}
				now = next
			}
			inOrder := seed%2 == 0
			events = append(events, events...)
			if inOrder {
				slices.SortStableFunc(events, func(a, b event.Event) int { return strings.Compare(instant(t, a), instant(t, b)) })
			} else {
				r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
			}
			from := len(w.hook.taken())
			for _, e := range events {
				w.takes(e)
			}
			open, worst := false, 0
			var want []string // of ordered events, by a model of three lines
			was := good
			for _, e := range events {
				c := classification(t, e)
				if inOrder && c.PreviousSeverityNumber == was && c.SeverityNumber != was {
					switch was = c.SeverityNumber; {
					case was >= bad && (!open || was > worst):
						want = append(want, "opened "+c.Label)
						open, worst = true, was
					case was < bad && open:
						want = append(want, "cleared "+c.Label)
						open, worst = false, 0
					}
				}
			}
			told, ids := w.told()[from:], map[string]bool{}
			if inOrder {
				if diff := cmp.Diff(want, told); diff != "" && len(want)+len(told) > 0 {
					t.Errorf("seed %d: told (-want +got):\n%s", seed, diff)
				}
			}
			for _, h := range w.hook.taken()[from:] {
				if ids[h.id] {
					t.Errorf("seed %d: message %s came twice", seed, h.id)
				}
				ids[h.id] = true
			}
			isOpen := false
			for _, said := range told {
				if opening := strings.HasPrefix(said, "opened"); !opening && !isOpen {
					t.Errorf("seed %d: told %v: cleared what was not open", seed, told)
				} else {
					isOpen = opening
				}
			}
			if isOpen != (now >= bad) {
				t.Errorf("seed %d: in the end open is %v, and the level %s", seed, isOpen, labels[now])
			}
		}
	})
}

func classification(t *testing.T, e event.Event) mesh.Classified {
	t.Helper()
	c, err := mesh.Decode[mesh.Classification](e.Data())
	if err != nil {
		t.Fatal(err)
	}
	return c.Classified[0]
}

func instant(t *testing.T, e event.Event) string { return classification(t, e).At.String() }

// Two processes get the same events, each several times at once.
func TestPodsTellOnce(t *testing.T) {
	each(t, jsonRoute+emailRoute, func(t *testing.T, w *world) {
		pods := []*Notifier{w.Notifier, w.another()}
		for round, e := range []event.Event{level(good, bad, 0), level(bad, good, 1)} {
			var all sync.WaitGroup
			for i := range 10 {
				all.Go(func() {
					// One that finds the other at it is to come again.
					if _, err := pods[i%2].Handle(t.Context(), e); mesh.IsPermanent(err) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			w.ticks()
			if hooks, letters := len(w.hook.taken()), len(w.post.taken()); hooks != round+1 || letters != round+1 {
				t.Fatalf("after %d events %d webhooks and %d e-mails", round+1, hooks, letters)
			}
		}
	})
}

// What a receiver answers decides whether it is asked again, and when.
func TestWebhookFaults(t *testing.T) {
	const passing, permanent = "passing", "permanent"
	for _, test := range []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request)
		want  string
	}{
		{"500", answers(500), passing}, {"503", answers(503), passing}, {"408", answers(408), passing}, {"429", answers(429), passing},
		{"the answer is lost", reset, passing}, {"no answer", silent, passing},
		{"400", answers(400), permanent}, {"404", answers(404), permanent}, {"410", answers(410), permanent},
		{"a redirect", answers(302, "Location", "/json/elsewhere"), permanent},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", jsonRoute)
			if test.name == "no answer" {
				w.Notifier.cfg.Timeout = 50 * time.Millisecond
			}
			w.hook.fail(test.fault)
			e := level(good, bad, 0)
			_, err := w.Handle(t.Context(), e)
			for len(w.hook.taken()) == 0 { // on a slow machine it took too long to get there
				w.pass(mostWait)
				_, err = w.Handle(t.Context(), e)
			}
			w.Notifier.cfg.Timeout = w.cfg.Timeout
			if err == nil || mesh.IsPermanent(err) != (test.want == permanent) {
				t.Fatalf("Handle = %v, want it %s", err, test.want)
			}
			if strings.Contains(err.Error(), "/json") || !strings.Contains(err.Error(), "room 1.01") {
				t.Errorf("error %q: want it to name the room, and not the address, which may be a secret", err)
			}
			if test.want == passing {
				// Before its time nothing is sent, and the Broker is to come again.
				if _, err := w.Handle(t.Context(), e); err == nil || mesh.IsPermanent(err) {
					t.Errorf("at once again: %v, want a passing error", err)
				}
				w.pass(mostWait)
			}
			w.takes(e) // by the Broker; or from the dead letters
			w.takes(e)
			got := w.hook.taken()
			if len(got) != 2 || got[0].id != got[1].id || got[0].body != got[1].body {
				t.Errorf("the webhook got %+v, want the same message twice", got)
			}
		})
	}
}

func TestRetryAfterIsWaitedFor(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", jsonRoute)
	w.hook.fail(answers(429, "Retry-After", "120"), answers(503, "Retry-After", w.clock().Add(10*time.Minute).Format(http.TimeFormat)))
	e := level(good, bad, 0)
	for _, step := range []struct {
		pass time.Duration
		want int
	}{{0, 1}, {119 * time.Second, 1}, {time.Second, 2}, {7*time.Minute + 59*time.Second, 2}, {time.Second, 3}} {
		w.pass(step.pass)
		w.Handle(t.Context(), e)
		if got := len(w.hook.taken()); got != step.want {
			t.Errorf("%s after noon it was asked %d times, want %d", w.clock().Sub(noon), got, step.want)
		}
	}
}

func TestMailFaults(t *testing.T) {
	for _, test := range []struct {
		name      string
		fault     func(p *post)
		permanent bool
		letters   int // that were taken in the end
	}{
		{"451 after the data", func(p *post) { p.faults = []error{&smtp.SMTPError{Code: 451, Message: "later"}} }, false, 1},
		{"554 after the data", func(p *post) { p.faults = []error{&smtp.SMTPError{Code: 554, Message: "spam"}} }, true, 1},
		{"450 of the recipient", func(p *post) { p.rcpt = &smtp.SMTPError{Code: 450, Message: "busy"} }, false, 1},
		{"550 of the recipient", func(p *post) { p.rcpt = &smtp.SMTPError{Code: 550, Message: "no such user"} }, true, 1},
		// It has the message, and nobody knows: it gets it again.
		{"dropped after the data", func(p *post) { p.drop = true }, false, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", emailRoute)
			w.post.set(func() { test.fault(w.post) })
			e := level(good, bad, 0)
			if _, err := w.Handle(t.Context(), e); err == nil || mesh.IsPermanent(err) != test.permanent || !strings.Contains(err.Error(), "school@example.com") {
				t.Fatalf("Handle = %v, want it permanent %v, with the recipient", err, test.permanent)
			}
			w.post.set(func() { w.post.rcpt = nil })
			w.pass(firstWait)
			w.takes(e)
			w.takes(e)
			got := w.post.taken()
			if len(got) != test.letters || got[0].raw != got[len(got)-1].raw || got[0].id == "" {
				t.Errorf("%d e-mails, want %d, all the same: %+v", len(got), test.letters, got)
			}
		})
	}
	t.Run("nobody is there", func(t *testing.T) {
		w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", emailRoute)
		w.mail.host = "127.0.0.1.invalid"
		if _, err := w.Handle(t.Context(), level(good, bad, 0)); err == nil || mesh.IsPermanent(err) {
			t.Errorf("Handle = %v, want a passing error", err)
		}
	})
}

// A server without TLS, or one that is another, gets no message and no password.
func TestMailIsEncrypted(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", emailRoute)
	w.cfg.SMTP, _, _ = strings.Cut(w.post.url, "?")
	if _, err := w.another().Handle(t.Context(), level(good, bad, 0)); err == nil || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "word") {
		t.Errorf("Handle = %v, want that the certificate is not trusted", err)
	}
	if got := w.post.taken(); len(got) != 0 {
		t.Errorf("%d e-mails", len(got))
	}
}

// One process is killed while it sends: another one takes it over, when the lease is over.
func TestKilledWhileSending(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		e := level(good, bad, 0)
		c, err := mesh.Decode[mesh.Classification](e.Data())
		if err != nil {
			t.Fatal(err)
		}
		change, err := newChange(c.Rule, "", &c.Classified[0])
		if err != nil {
			t.Fatal(err)
		}
		change.event = mesh.Hash(e.Source(), e.ID())
		if err := w.record(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		d, found, err := w.claim(t.Context(), w.clock(), "$4 = ''", "")
		if err != nil || !found {
			t.Fatalf("claim = %v, %v", found, err)
		}
		other := w.another()
		if _, err := other.Handle(t.Context(), e); err == nil || mesh.IsPermanent(err) {
			t.Errorf("Handle = %v, want that somebody is at it", err)
		}
		w.wants()
		w.pass(w.lease() + time.Second)
		if _, err := other.Handle(t.Context(), e); err != nil {
			t.Error(err)
		}
		// The first one was not killed, only slow.
		if _, err := w.deliver(t.Context(), d); err != nil {
			t.Error(err)
		}
		got := w.hook.taken()
		if len(got) != 2 || got[0].id != got[1].id {
			t.Errorf("the webhook got %+v, want the same message of both", got)
		}
	})
}

func TestQuietHours(t *testing.T) {
	const quiet = `
- severity: WARN
  zone: Europe/Amsterdam
  webhook: {url: HOOK/json, format: json, secret: ` + secret + `}
  quiet: {from: "12:30", to: "07:00", unless: FATAL}
`
	in := func(hour, minute int) int { return (hour-13)*60 + minute } // after noon of UTC
	each(t, quiet, func(t *testing.T, w *world) {
		// 13:00 in Amsterdam: held back, and the last level is told in the morning.
		w.takes(level(good, poor, in(13, 0)))
		w.takes(level(poor, bad, in(13, 1)))
		w.ticks()
		w.wants()
		w.pass(18*time.Hour - time.Second)
		w.ticks()
		w.wants()
		w.pass(time.Second)
		w.ticks()
		w.ticks()
		w.wants("opened bad")
	})
	each(t, quiet, func(t *testing.T, w *world) {
		// Cleared meanwhile: neither is told.
		w.takes(level(good, bad, in(13, 0)))
		w.takes(level(bad, good, in(13, 30)))
		// What is dire is told at once, and so is its end.
		w.pass(time.Hour)
		w.takes(level(good, poor, in(14, 0)))
		w.takes(level(poor, dire, in(14, 1)))
		w.takes(level(dire, good, in(14, 30)))
		w.wants("opened dire", "cleared good")
		w.pass(24 * time.Hour)
		w.ticks()
		w.wants("opened dire", "cleared good")
	})
	// One that could not be sent before they began waits for their end, too, and is
	// no error meanwhile.
	each(t, strings.Replace(quiet, "12:30", "13:01", 1), func(t *testing.T, w *world) {
		w.hook.fail(answers(503))
		e := level(good, bad, in(13, 0))
		if _, err := w.Handle(t.Context(), e); err == nil {
			t.Error("Handle = nil, want a passing error")
		}
		w.pass(time.Minute)
		w.takes(e)
		w.wants("opened bad")
		w.pass(18 * time.Hour)
		w.ticks()
		w.wants("opened bad", "opened bad")
	})
}

func TestUntil(t *testing.T) {
	for _, test := range []struct{ quiet, now, want string }{
		{`{from: "20:00", to: "07:00"}`, "2026-03-02T20:00:00+01:00", "2026-03-03T07:00:00+01:00"},
		{`{from: "20:00", to: "07:00"}`, "2026-03-03T06:59:59+01:00", "2026-03-03T07:00:00+01:00"},
		{`{from: "20:00", to: "07:00"}`, "2026-03-03T07:00:00+01:00", ""},
		{`{from: "20:00", to: "07:00"}`, "2026-03-02T19:59:00+01:00", ""},
		{`{from: "12:00", to: "13:00"}`, "2026-03-02T12:30:00+01:00", "2026-03-02T13:00:00+01:00"},
		// From Friday evening on the whole week-end, in which summer time begins.
		{`{from: "18:00", to: "18:00", days: [fri, sat, sun]}`, "2026-03-27T19:00:00+01:00", "2026-03-30T18:00:00+02:00"},
		{`{from: "18:00", to: "18:00", days: [fri, sat, sun]}`, "2026-03-26T19:00:00+01:00", ""},
		{`{from: "20:00", to: "07:00"}`, "2026-03-28T22:00:00+01:00", "2026-03-29T07:00:00+02:00"},
	} {
		routes, err := ReadRoutes("- {zone: Europe/Amsterdam, email: {to: [a@example.com]}, quiet: "+test.quiet+"}", false)
		if err != nil {
			t.Fatal(err)
		}
		now, err := time.Parse(time.RFC3339, test.now)
		if err != nil {
			t.Fatal(err)
		}
		if test.want == "" {
			test.want = test.now
		}
		if got := routes[0].until(now, bad); got.In(routes[0].zone).Format(time.RFC3339) != test.want {
			t.Errorf("%s at %s: until %s, want %s", test.quiet, test.now, got.In(routes[0].zone), test.want)
		}
	}
}

// History that is read again tells nobody, and its end neither.
func TestHistoryIsNotTold(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		w.takes(level(good, bad, -61))
		w.takes(level(bad, good, -30))
		w.wants()
		w.takes(level(good, bad, -20))
		w.wants("opened bad")
		w.pass(3 * time.Hour)
		w.takes(level(bad, good, 0)) // an end is told however late
		w.wants("opened bad", "cleared good")
	})
}

// What nobody took for a day is a dead letter of the tick; its end is not told then.
func TestGivenUp(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		for range 4 {
			w.hook.fail(answers(503))
		}
		e := level(good, bad, 0)
		for range 3 {
			w.Handle(t.Context(), e)
			w.pass(time.Hour)
		}
		w.pass(23 * time.Hour)
		_, err := w.Handle(t.Context(), mesh.NewEvent(tick, "/ping", nil, "1"))
		if !mesh.IsPermanent(err) || !strings.Contains(err.Error(), "503") {
			t.Errorf("tick = %v, want a permanent error with the cause", err)
		}
		w.takes(level(bad, good, 1))
		w.ticks()
		w.wants("opened bad", "opened bad", "opened bad", "opened bad")
	})
}

// An alert that cannot be sent yet is told before its end, and holds up no other room.
func TestEndComesAfterBeginning(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		w.hook.fail(answers(503))
		opening := level(good, bad, 0)
		if _, err := w.Handle(t.Context(), opening); err == nil {
			t.Error("Handle = nil, want a passing error")
		}
		if _, err := w.Handle(t.Context(), level(bad, good, 1)); err == nil || mesh.IsPermanent(err) {
			t.Errorf("Handle of the end = %v, want a passing error", err)
		}
		w.takes(levelIn(map[string]string{"tenant_id": "t", "building": "A", "room": "2"}, good, dire, 1))
		w.wants("opened bad", "opened dire")
		w.pass(firstWait)
		w.takes(opening)
		w.wants("opened bad", "opened dire", "opened bad", "cleared good")
	})
	// It is refused in the end: nobody who was not told hears that it is over.
	each(t, jsonRoute, func(t *testing.T, w *world) {
		w.hook.fail(answers(503), answers(410))
		opening, end := level(good, bad, 0), level(bad, good, 1)
		for _, e := range []event.Event{opening, end} {
			if _, err := w.Handle(t.Context(), e); err == nil || mesh.IsPermanent(err) {
				t.Errorf("Handle = %v, want a passing error", err)
			}
		}
		w.pass(firstWait)
		if _, err := w.Handle(t.Context(), opening); !mesh.IsPermanent(err) {
			t.Errorf("Handle = %v, want a permanent error", err)
		}
		w.takes(end)
		w.wants("opened bad", "opened bad")
	})
}

// One route's receiver says no for good, another's is away: the event comes again until
// the second has it, and is a dead letter then.
func TestRoutesFailByThemselves(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", jsonRoute+emailRoute)
	w.hook.fail(answers(410), answers(410))
	w.post.set(func() { w.post.faults = []error{&smtp.SMTPError{Code: 451, Message: "later"}} })
	e := level(good, bad, 0)
	if _, err := w.Handle(t.Context(), e); err == nil || mesh.IsPermanent(err) {
		t.Errorf("Handle = %v, want a passing error", err)
	}
	w.pass(time.Second)
	if _, err := w.Handle(t.Context(), e); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), "410") {
		t.Errorf("Handle = %v, want a permanent error", err)
	}
	if hooks, letters := len(w.hook.taken()), len(w.post.taken()); hooks != 1 || letters != 1 {
		t.Errorf("%d webhooks and %d e-mails, want one each", hooks, letters)
	}
	w.hook.fail()
	if _, err := w.Handle(t.Context(), e); !mesh.IsPermanent(err) { // brought again, and refused again
		t.Errorf("Handle = %v, want a permanent error", err)
	}
	w.takes(e)
	if hooks, letters := len(w.hook.taken()), len(w.post.taken()); hooks != 3 || letters != 1 {
		t.Errorf("%d webhooks and %d e-mails, want 3 and 1", hooks, letters)
	}
}

// Receivers that fail at random, two processes, and events that come several times: in the
// end each message was taken once, and those of a room in their order.
func TestFaultsAndPods(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		r, mu := rand.New(rand.NewPCG(7, 7)), sync.Mutex{}
		taken := map[string][]string{} // messages by room
		w.hook.Config.Handler = http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
			var m message
			if err := json.NewDecoder(in.Body).Decode(&m); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			switch r.IntN(4) {
			case 0:
				out.WriteHeader(http.StatusServiceUnavailable)
				return
			case 1:
				out.WriteHeader(http.StatusTooManyRequests)
				return
			}
			taken[m.Data.Room] = append(taken[m.Data.Room], m.Type+" "+m.Data.Label)
		})
		w.cfg.Within = 1000 * time.Hour // retries take long
		pods := []*Notifier{w.another(), w.another()}
		want := map[string][]string{}
		var events []event.Event
		for room := range 6 {
			key := map[string]string{"tenant_id": "t", "room": fmt.Sprint(room)}
			events = append(events, levelIn(key, good, bad, 0), levelIn(key, bad, dire, 1), levelIn(key, dire, good, 2))
			want[fmt.Sprint(room)] = []string{"alert.opened bad", "alert.opened dire", "alert.cleared good"}
		}
		for minute := range 3 { // of each room, so that no end overtakes its beginning
			left := true
			for round := 0; left && round < 100; round++ {
				left = false
				var all sync.WaitGroup
				for i := minute; i < len(events); i += 3 {
					for _, pod := range pods {
						all.Go(func() {
							if _, err := pod.Handle(t.Context(), events[i]); err != nil {
								mu.Lock()
								defer mu.Unlock()
								left = true
								if mesh.IsPermanent(err) {
									t.Error(err)
								}
							}
						})
					}
				}
				all.Wait()
				w.pass(mostWait)
			}
			if left {
				t.Errorf("events of minute %d are never told", minute)
			}
		}
		if diff := cmp.Diff(want, taken); diff != "" {
			t.Errorf("taken (-want +got):\n%s", diff)
		}
	})
}

// A dead letter that is brought again when the alert is over tells nobody of it.
func TestBroughtAgainTooLate(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		w.hook.fail(answers(410), answers(410))
		for i, e := range []event.Event{level(good, bad, 0), level(bad, dire, 1)} {
			if _, err := w.Handle(t.Context(), e); !mesh.IsPermanent(err) {
				t.Errorf("Handle of %d = %v, want a permanent error", i, err)
			}
		}
		w.takes(level(good, bad, 0)) // a higher level came after it
		w.wants("opened bad", "opened dire")
		w.takes(level(dire, good, 2))
		w.takes(level(bad, dire, 1)) // and it is over
		w.wants("opened bad", "opened dire")
	})
}

func TestQuantity(t *testing.T) {
	for value, want := range map[float64]string{2040: "2040 ppm", 812.3333333: "812 ppm", 21.46: "21.5 ppm", 3.14159: "3.14 ppm", 0: "0 ppm", -3: "-3 ppm"} {
		if got := (&facts{Value: value, Unit: "ppm"}).quantity(); got != want {
			t.Errorf("quantity of %v = %q, want %q", value, got, want)
		}
	}
}

// Whom no route names any more is told nothing, whatever was open.
func TestRoutesChange(t *testing.T) {
	each(t, jsonRoute+emailRoute, func(t *testing.T, w *world) {
		w.takes(level(good, bad, 0))
		w.cfg.Routes = emailRoute
		w.Notifier = w.another()
		w.takes(level(bad, good, 1))
		w.wants("opened bad")
		if got := len(w.post.taken()); got != 2 {
			t.Errorf("%d e-mails, want 2", got)
		}
		var open int
		if err := w.db.QueryRow("SELECT count(*) FROM alerts WHERE cleared_at IS NULL").Scan(&open); err != nil || open != 0 {
			t.Errorf("%d alerts are open, %v", open, err)
		}
	})
}

func TestForgets(t *testing.T) {
	each(t, jsonRoute, func(t *testing.T, w *world) {
		w.takes(level(good, bad, 0))
		w.takes(level(bad, good, 1))
		w.takes(levelIn(map[string]string{"room": "open"}, good, bad, 1))
		w.pass(kept + 2*time.Minute)
		w.ticks()
		var alerts, deliveries int
		if err := w.db.QueryRow("SELECT (SELECT count(*) FROM alerts), (SELECT count(*) FROM alert_deliveries)").Scan(&alerts, &deliveries); err != nil || alerts != 1 || deliveries != 1 {
			t.Errorf("%d alerts and %d deliveries are kept, %v; want the open one", alerts, deliveries, err)
		}
	})
}

func TestWhatIsNoAlert(t *testing.T) {
	w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", jsonRoute)
	for name, data := range map[string]string{
		"no JSON":     `{`,
		"no key":      `{"rule": "size", "classified": [{"label": "XL", "severity_number": 17, "at": "2026-03-02T12:00:00Z", "record": {}}]}`,
		"no severity": `{"rule": "size", "classified": [{"label": "XL", "at": "2026-03-02T12:00:00Z", "key": {"room": "1"}, "record": {}}]}`,
	} {
		if _, err := w.Handle(t.Context(), mesh.NewEvent("dev.telemesh.size.classified.v1", "/x", []byte(data), name)); !mesh.IsPermanent(err) {
			t.Errorf("%s: Handle = %v, want a permanent error", name, err)
		}
	}
	// Without a room it is the device's page.
	w.takes(levelIn(map[string]string{"tenant_id": "t", "building": "", "room": "", "device_id": "desk 1"}, good, bad, 0))
	if got := w.hook.taken(); len(got) != 1 || !strings.Contains(got[0].body, "device=desk+1") || !strings.Contains(got[0].body, "device desk 1") {
		t.Errorf("told %+v", got)
	}
}

// A rule of one's own has keys and records of its own: whatever they are, it is told of
// them, and in the same words each time.
func TestOtherRecords(t *testing.T) {
	for range 20 { // maps have an order of their own each time
		f, err := newFacts("tanks", "", &mesh.Classified{Key: map[string]string{"site": "North", "row": "3", "tank": "7"}, Record: []byte(`{"floor": 2, "metric": ["level"], "device_id": {"a": 1}}`)})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := f.place(), "row 3, site North, tank 7"; got != want {
			t.Fatalf("place = %q, want %q", got, want)
		}
	}
}

func TestReadRoutes(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "no routes"},
		{"[]", "no routes"},
		{"- {email: {to: [a@example.com]}}\n---\n- {email: {to: [b@example.com]}}", "second document"},
		{"- email: {to: [a@example.com]}\n  quite: {}", "line 2: field quite not found in a route"},
		{"- email: {to: [a@example.com]}\n-\n", "route 2: neither webhook nor email"},
		{"\n- tenants: [a]\n", "line 2: route 1: neither"},
		{"- {email: {to: []}}", "email: to: nobody"},
		{"- {email: {to: [A <a@example.com>]}}", "is no e-mail address"},
		{"- {email: {to: [\"a@example.com\\r\\nBcc: b\"]}}", "is no e-mail address"},
		{"- {severity: BAD, email: {to: [a@example.com]}}", `severity "BAD" is none of`},
		{"- {severity: INFO4, email: {to: [a@example.com]}}", "severity INFO4: an alert is of WARN at least"},
		{"- {tenants: [], email: {to: [a@example.com]}}", "leave tenants out"},
		{"- {zone: Local, email: {to: [a@example.com]}}", "no time zone"},
		{"- {webhook: {url: 'http://example.com', format: slack}}", "use https"},
		{"- {webhook: {url: 'ftp://example.com', format: slack}}", "want https"},
		{"- {webhook: {url: 'https://example.com', format: xml}}", "neither slack nor json"},
		{"- {webhook: {url: 'https://example.com', format: json}}", "openssl"},
		{"- {webhook: {url: 'https://example.com', format: json, secret: whsec_c2hvcnQ=}}", "openssl"},
		{"- {webhook: {url: 'https://example.com', format: slack, secret: x}}", "not signed"},
		{"- {email: {to: [a@example.com]}, quiet: {from: 20:00, to: 7:00}}", "no time of the day"},
		{"- {email: {to: [a@example.com]}, quiet: {from: '08:00', to: '08:00'}}", "nothing would ever be sent"},
		{"- {email: {to: [a@example.com]}, quiet: {from: '20:00', to: '08:00', days: [Monday]}}", "none of mon"},
	} {
		_, err := ReadRoutes(test.text, false)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "ALERT_ROUTES: ") {
			t.Errorf("ReadRoutes(%q) = %v, want %q", test.text, err, test.want)
		}
	}
}

// A webhook is on the internet, unless who operates the mesh says otherwise.
func TestPrivateNetworksAreRefused(t *testing.T) {
	for _, address := range []string{"127.0.0.1:80", "[::1]:80", "10.1.2.3:443", "172.16.0.1:443", "192.168.1.1:443", "169.254.169.254:80", "[fd00::1]:443", "[fe80::1]:443", "0.0.0.0:80", "[::]:80",
		"100.64.0.1:443", "224.0.0.1:443", "255.255.255.255:443", "[::ffff:127.0.0.1]:443", "[64:ff9b::7f00:1]:443", "240.0.0.1:1"} {
		if err := public("tcp", address, nil); err == nil {
			t.Errorf("public(%s) = nil", address)
		}
	}
	for _, address := range []string{"93.184.215.14:443", "[2606:2800:220:1::1]:443"} {
		if err := public("tcp", address, nil); err != nil {
			t.Errorf("public(%s) = %v", address, err)
		}
	}
	w := newWorld(t, "sqlite:"+t.TempDir()+"/alerts.db", jsonRoute)
	w.hooks = newHooks(Config{})
	if _, err := w.Handle(t.Context(), level(good, bad, 0)); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), "ALERT_ALLOW_PRIVATE") {
		t.Errorf("Handle = %v, want it refused for good", err)
	}
	w.wants()
}

func TestNoRoutesNeedNothing(t *testing.T) {
	fn, err := Start(function.Ports{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := fn.Handler(t.Context(), level(good, bad, 0)); out != nil || err != nil {
		t.Errorf("Handler = %v, %v, want nothing", out, err)
	}
	for name, want := range map[string]string{"ALERT_ROUTES": emailRoute, "DATABASE_URL": "", "PORTAL_URL": "portal", "SMTP_URL": "smtp://a:b@h?tls=none", "MAIL_FROM": "x"} {
		t.Setenv(name, want)
	}
	for _, step := range []struct{ name, value, want string }{
		{"ALERT_TIMEOUT", "0s", "ALERT_TIMEOUT is 0s"},
		{"ALERT_TIMEOUT", "1s", "MAIL_FROM"},
		{"ALERT_WITHIN", "-1h", "ALERT_WITHIN -1h"},
		{"ALERT_WITHIN", "1h", "MAIL_FROM"},
		{"SMTP_URL", "smtp://h:x", "SMTP_URL: it cannot be read"},
		{"SMTP_URL", "", "a route has e-mail"},
		{"SMTP_URL", "http://h", "SMTP_URL: it cannot be read"},
		{"SMTP_URL", "smtp://h", "MAIL_FROM"},
		{"MAIL_FROM", "mesh@example.com", "PORTAL_URL"},
		{"SMTP_URL", "smtp://a:secret@h?tls=none", "readable on the way"},
		{"SMTP_URL", "smtps://a:secret@h?tls=no", "tls=no is not"},
		{"SMTP_URL", "smtp://a:secret@h?ca=/nowhere", "/nowhere"},
		{"SMTP_URL", "smtps://a:secret@h", "PORTAL_URL"},
		{"PORTAL_URL", "https://portal.example.com", "DATABASE_URL"},
		{"DATABASE_URL", "sqlite:" + t.TempDir() + "/alerts.db", ""},
	} {
		t.Setenv(step.name, step.value)
		fn, err := Start(function.Ports{Log: slog.New(slog.DiscardHandler)})
		if step.want == "" {
			if err != nil {
				t.Fatal(err)
			}
			if err := fn.Close(t.Context()); err != nil {
				t.Error(err)
			}
		} else if err == nil || !strings.Contains(err.Error(), step.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("with %s=%s: %v, want %q", step.name, step.value, err, step.want)
		}
	}
}
