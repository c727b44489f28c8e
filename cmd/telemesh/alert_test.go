package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/simulate"
)

// mailbox is an SMTP server that keeps what it gets.
type mailbox struct {
	mu  sync.Mutex
	got []string
}

func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &mailSession{m}, nil }
func (m *mailSession) Mail(string, *smtp.MailOptions) error    { return nil }
func (m *mailSession) Rcpt(string, *smtp.RcptOptions) error    { return nil }
func (m *mailSession) Reset()                                  {}
func (m *mailSession) Logout() error                           { return nil }

type mailSession struct{ *mailbox }

func (m *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, string(bytes.ReplaceAll(text, []byte("=\r\n"), nil)))
	return err
}

func (m *mailbox) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.got...)
}

func serveMail(t *testing.T) (*mailbox, string) {
	t.Helper()
	box := &mailbox{}
	server := smtp.NewServer(box)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-ended })
	return box, "smtp://" + listener.Addr().String() + "?tls=none"
}

// A crowd without ventilation makes the air of a room bad: one e-mail and one webhook,
// and one each when windows and ventilation have made it good again; of the room next
// door nobody hears. All of it comes once more, also to a mesh that was started again.
func TestRoomGoesBad(t *testing.T) {
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	told := []string{}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = verifier.Verify(body, r.Header)
		}
		var said struct {
			Type string
			Link string
			Data struct{ Room string }
		}
		if err == nil {
			err = json.Unmarshal(body, &said)
		}
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, said.Type+" "+said.Data.Room)
		if !strings.HasPrefix(said.Link, "http://127.0.0.1:8080/air?") {
			t.Errorf("link %q", said.Link)
		}
	}))
	t.Cleanup(hook.Close)
	box, server := serveMail(t)

	o := simulate.Sample()
	o.Tenants, o.Devices, o.Crowded = 1, 2, 1
	o.Relocations, o.Skewed, o.Timeless, o.Late, o.Reordered, o.Duplicated = 0, 0, 0, 0, 0, 0.1
	o.Duration = 24 * time.Hour
	fleet, err := simulate.New(o)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := fleet.WriteSheets(dir); err != nil {
		t.Fatal(err)
	}
	room := fleet.Placements()[0].Room
	options := &options{data: filepath.Join(t.TempDir(), "data"), links: linksTo("127.0.0.1:8080"), set: []string{
		"alert.ALERT_ROUTES=- {tenants: [linden-school], webhook: {url: '" + hook.URL + "', format: json, secret: " + secret + "}, email: {to: [caretaker@example.com]}}",
		"alert.ALERT_ALLOW_PRIVATE=true", "alert.ALERT_TIMEOUT=1m", "alert.SMTP_URL=" + server, "alert.MAIL_FROM=mesh@example.com",
		"alert.ALERT_WITHIN=876000h", // the day is a simulated one
	}}
	open := func() *instance {
		t.Helper()
		in, err := options.open(t.Context(), sheets{placements: filepath.Join(dir, "placements.csv"), actions: filepath.Join(dir, "actions.csv"), customers: filepath.Join(dir, "customers.csv")})
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	in := open()
	send := func(from, until time.Duration) {
		t.Helper()
		sender := simulate.Sender{URL: ingestAt, Client: in.mesh.Client(), Log: in.log}
		if err := sender.Run(t.Context(), fleet.Messages(o.Start.Add(from), o.Start.Add(until))); err != nil {
			t.Fatal(err)
		}
		if err := in.mesh.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wants := func(when string, want ...string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("%s, the webhook was told (-want +got):\n%s", when, diff)
		}
		if got := box.all(); len(got) != len(want) {
			t.Errorf("%s, %d e-mails, want %d:\n%s", when, len(got), len(want), strings.Join(got, "\n"))
		}
	}
	opened, cleared := "alert.opened "+room, "alert.cleared "+room
	told = []string{}
	send(8*time.Hour, 10*time.Hour)
	if len(told) != 0 {
		t.Errorf("before the crowd, told %q", told)
	}
	send(10*time.Hour, 11*time.Hour)
	wants("after the crowd", opened)
	send(11*time.Hour, 11*time.Hour+50*time.Minute)
	wants("when it is over", opened, cleared)
	send(8*time.Hour, 11*time.Hour+50*time.Minute)
	tick := mesh.NewEvent("dev.knative.sources.ping", "/apis/v1/namespaces/analytics/pingsources/alert", []byte(`{}`), "tick")
	if err := function.Post(t.Context(), in.mesh.Client(), ingress("analytics"), tick); err != nil {
		t.Fatal(err)
	}
	if err := in.mesh.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	wants("after all has come twice", opened, cleared)
	if err := in.close(); err != nil {
		t.Fatal(err)
	}
	in = open()
	defer in.close()
	send(8*time.Hour, 11*time.Hour+50*time.Minute)
	wants("after a start anew", opened, cleared)

	for _, mail := range box.all() {
		for _, want := range []string{" ppm since Mon 2 Mar 2026, ", "\r\nTo: <caretaker@example.com>\r\n", "\r\nhttp://127.0.0.1:8080/air?"} {
			if !strings.Contains(mail, want) {
				t.Errorf("an e-mail does not have %q:\n%s", want, mail)
			}
		}
	}
}

// A mesh that is killed while a webhook has a message and has not answered sends the same
// one after it was started again, by which the receiver knows it.
func TestKilledWhileTelling(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a process")
	}
	type request struct{ id, body string }
	got := make(chan request, 10)
	killed := make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		select {
		case got <- request{r.Header.Get("webhook-id"), string(body)}:
		case <-r.Context().Done(): // who asks has gone
		}
		<-killed
	}))
	t.Cleanup(hook.Close)
	data := filepath.Join(t.TempDir(), "data")
	start := func() (*exec.Cmd, string) {
		cmd := command(t.Context(), t, up(data, "--set", "alert.ALERT_ROUTES=- {webhook: {url: '"+hook.URL+"', format: slack}}",
			"--set", "alert.ALERT_ALLOW_PRIVATE=true", "--set", "alert.ALERT_TIMEOUT=1s")...)
		return cmd, strings.TrimSuffix(started(t, cmd)["brokers"], "NAMESPACE/BROKER") + "analytics/analytics"
	}
	bad := func(room string) event.Event {
		e := mesh.NewEvent("dev.telemesh.co2.classified.v1", "/test", fmt.Appendf(nil, `{"rule": "co2-level", "classified": [{"label": "bad", "severity_text": "ERROR", "severity_number": 17,
			"value": 2040, "unit": "ppm", "at": %q, "key": {"room": %q}, "record": {}}]}`, time.Now().UTC().Format(time.RFC3339Nano), room), room)
		e.SetExtension("severitynumber", 17)
		return e
	}
	cmd, broker := start()
	first := bad("first")
	if err := function.Post(t.Context(), http.DefaultClient, broker, first); err != nil {
		t.Fatal(err)
	}
	before := <-got
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	close(killed)
	_, broker = start()
	if after := <-got; after != before || after.id == "" {
		t.Errorf("after the kill it gets %v, want %v again", after, before)
	}
	for _, e := range []event.Event{first, bad("other")} {
		if err := function.Post(t.Context(), http.DefaultClient, broker, e); err != nil {
			t.Fatal(err)
		}
	}
	// On a slow machine an answer may be late, and the message come once more.
	next := <-got
	for next == before {
		next = <-got
	}
	if !strings.Contains(next.body, "other") {
		t.Errorf("it gets %v, want what comes of another room", next)
	}
}

func TestLinksTo(t *testing.T) {
	for address, want := range map[string]string{"127.0.0.1:8080": "http://127.0.0.1:8080", ":8080": "http://localhost:8080", "0.0.0.0:80": "http://localhost:80", "[::]:80": "http://localhost:80",
		"[::1]:80": "http://[::1]:80", "mesh.example:8080": "http://mesh.example:8080", "127.0.0.1:0": "", "nonsense": ""} {
		if got := linksTo(address); got != want {
			t.Errorf("linksTo(%q) = %q, want %q", address, got, want)
		}
	}
}
