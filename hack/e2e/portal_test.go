package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/telemesh/telemesh/internal/mesh"
)

// portalURL is where the tests reach the portal, as hack/e2e.sh tells it: within the
// cluster.
const portalURL = "http://portal.platform.svc.cluster.local"

// visitor is a browser without a screen.
type visitor struct{ *http.Client }

// ask gives the answer to a request, or why there is none of the status.
func (v visitor) ask(ctx context.Context, method, path string, form url.Values, status int) (string, http.Header, error) {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, portalURL+path, body)
	if err != nil {
		return "", nil, err
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := v.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("%s %s: %s, want %d\n%.3000s", method, path, resp.Status, status, text)
	}
	return string(text), resp.Header, err
}

func (v visitor) must(t *testing.T, method, path string, form url.Values, status int) (string, http.Header) {
	t.Helper()
	text, header, err := v.ask(t.Context(), method, path, form, status)
	if err != nil {
		t.Fatal(err)
	}
	return text, header
}

var (
	setupLink   = regexp.MustCompile(`"link":"` + regexp.QuoteMeta(portalURL) + `(/setup/[A-Za-z0-9_-]+)"`)
	setupSecret = regexp.MustCompile(`type the secret: <code>([A-Z2-7 ]+)</code>`)
)

// From zero the portal wakes for who comes. The link in its log makes the first admin,
// who logs in with a code, is told of an event as it passes, and sees the room that it
// is of.
func TestPortal(t *testing.T) {
	d := onCluster(t)
	if at := kubectl(t, "", "get", "secret", "portal", "-n", "platform", "-o", "go-template={{.data.url | base64decode}}"); at != portalURL {
		t.Skipf("the portal on the cluster is reached at %s, where it has users of its own", at)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	v := visitor{&http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	woken := until(t, patience, "the portal", func() string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := v.ask(ctx, http.MethodGet, "/login", nil, http.StatusOK); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Logf("the page to log in came after %v", woken.Round(time.Millisecond))
	link := setupLink.FindStringSubmatch(kubectl(t, "", "logs", "-n", "platform", "-l", "serving.knative.dev/service=portal", "-c", "user-container", "--tail=-1"))
	if link == nil {
		t.Fatal("the log of the portal has no link that sets up the first admin")
	}
	page, _ := v.must(t, http.MethodGet, link[1], nil, http.StatusOK)
	shown := setupSecret.FindStringSubmatch(page)
	if shown == nil {
		t.Fatalf("no secret on the page:\n%s", page)
	}
	secret := strings.ReplaceAll(shown[1], " ", "")
	code := func(at time.Time) string {
		code, err := totp.GenerateCode(secret, at)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	const name, password = "e2e", "correct horse battery"
	now := time.Now()
	v.must(t, http.MethodPost, link[1], url.Values{"name": {name}, "new": {password}, "again": {password}, "code": {code(now)}}, http.StatusOK)
	v.must(t, http.MethodPost, "/logout", url.Values{}, http.StatusSeeOther)
	if _, header := v.must(t, http.MethodGet, "/live", nil, http.StatusSeeOther); !strings.HasPrefix(header.Get("Location"), "/login") {
		t.Errorf("without a log-in /live leads to %s", header.Get("Location"))
	}
	v.must(t, http.MethodPost, "/login", url.Values{"name": {name}, "password": {password}}, http.StatusSeeOther)
	// That of the next half minute: each is taken once.
	v.must(t, http.MethodPost, "/login/code", url.Values{"code": {code(now.Add(30 * time.Second))}}, http.StatusSeeOther)
	v.must(t, http.MethodGet, "/live", nil, http.StatusOK)

	const device, tenant, room = "e2e-portal", "e2e-portal-school", "e2e-portal-room"
	(&metadata{placements: []mesh.Placement{{
		DeviceID: device, TenantID: tenant, Building: "A", Floor: "1", Room: room, ValidFrom: mesh.At(now.AddDate(0, 0, -1).Truncate(time.Second)), Version: 1,
	}}}).tell(t, d.client)

	filter := fmt.Sprintf("type = '%s' AND EXISTS tenantid AND tenantid = '%s'", mesh.AnalyticsJoined, tenant)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, portalURL+"/api/live?"+url.Values{"filter": {filter}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := v.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	if stream.StatusCode != http.StatusOK {
		t.Fatalf("/api/live: %s", stream.Status)
	}
	sent := time.Now()
	send(t, d.client, fmt.Appendf(nil, `{"device_id":%q,"time":%q,"metrics":{"co2":1234}}`, device, sent.UTC().Format(time.RFC3339)))
	event := ""
	lines := bufio.NewReader(stream.Body)
	for event == "" {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatalf("the event was not told in %v: %v", time.Since(sent).Round(time.Millisecond), err)
		}
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			continue
		}
		var some struct {
			Events []struct{ Link, Tenant string }
		}
		if err := json.Unmarshal(data, &some); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		for _, e := range some.Events {
			if e.Tenant != tenant {
				t.Errorf("told of an event of %q, which the filter leaves out", e.Tenant)
			}
			event = e.Link
		}
	}
	t.Logf("the event was told %v after its message was sent", time.Since(sent).Round(time.Millisecond))
	page, _ = v.must(t, http.MethodGet, event, nil, http.StatusOK)
	for _, want := range []string{"telemetry.received", "telemetry.flattened", "telemetry.enriched", "analytics.joined"} {
		if !strings.Contains(page, want) {
			t.Errorf("the chain of the event lacks %s:\n%s", want, page)
		}
	}
	until(t, patience, "the room's air", func() string {
		text, _, err := v.ask(ctx, http.MethodGet, "/api/air/rooms?"+url.Values{"tenant": {tenant}}.Encode(), nil, http.StatusOK)
		switch {
		case err != nil:
			return err.Error()
		case !strings.Contains(text, room) || !strings.Contains(text, "1234"):
			return text
		}
		return ""
	})
}
