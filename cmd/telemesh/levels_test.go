package main

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/telemesh/telemesh/internal/topology"
)

// While the mesh runs, ticks become rows of what it knows of itself, and what is read
// with `telemesh query` is counted; the command and the portal show both.
func TestMeshMetricsWhileUp(t *testing.T) {
	const port = "iot_telemetry.readings"
	data := filepath.Join(t.TempDir(), "data")
	at := started(t, command(t.Context(), t, up(data)...))
	postMessage(t, at["ingest"], fmt.Sprintf(`{"device_id":"d","time":%q,"metrics":{"CO2":812}}`, time.Now().UTC().Format(time.RFC3339)))
	waitFor(t, func() bool {
		return slices.Equal(rows(t, data, "SELECT value FROM iot_telemetry_internal.readings"), []string{"812"}) // no port: it does not count
	})

	for range 2 {
		if got := rows(t, data, "SELECT r.value FROM iot_telemetry.readings AS r LEFT JOIN iot_actions.actions AS a ON FALSE JOIN iot_telemetry.readings AS again USING (reading_id)"); !slices.Equal(got, []string{"812"}) {
			t.Errorf("query: %v", got)
		}
	}
	waitFor(t, func() bool {
		got := rows(t, data, "SELECT port, consumer, kind, sum(times) FROM mesh_metrics.reads WHERE port NOT LIKE 'mesh_metrics.%' GROUP BY ALL ORDER BY port")
		return slices.Equal(got, []string{"iot_actions.actions,telemesh,cli,2", port + ",telemesh,cli,2"})
	})

	for _, name := range []string{"service-levels", "quality-check"} {
		tick(t, strings.TrimSuffix(at["brokers"], "NAMESPACE/BROKER")+"platform/platform", name)
	}
	waitFor(t, func() bool {
		return slices.Equal(rows(t, data, "SELECT level, total FROM mesh_metrics.service_levels WHERE port = '"+port+"' AND total > 0 AND level = 'latency'"), []string{"latency,1"})
	})
	waitFor(t, func() bool {
		return slices.Equal(rows(t, data, "SELECT count(*) > 0, bool_and(kept) FROM mesh_metrics.quality_results WHERE port = '"+port+"'"), []string{"true,true"})
	})

	shown := telemesh(t, "catalog", "show", port, "--data", data)
	for _, want := range []string{`(?m)^latency +10s +.*% of the error budget left`, `(?m)^telemesh +cli +2$`, `kept: 0, `} {
		if !regexp.MustCompile(want).MatchString(shown) {
			t.Errorf("telemesh catalog show %s does not have %s:\n%s", port, want, shown)
		}
	}

	client := logIn(t, at["setup"])
	resp, err := client.Get(at["portal"] + "catalog/iot-telemetry/" + port)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`[0-9]% of the error budget left`, `<td>telemesh</td><td [^>]*>cli</td><td [^>]*>2</td>`, `<span class="badge good">kept</span>`} {
		if !regexp.MustCompile(want).Match(page) {
			t.Errorf("%s does not have %s:\n%s", resp.Request.URL, want, page)
		}
	}
}

// tick posts what a PingSource sends.
func tick(t *testing.T, broker, name string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, broker, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Format(time.RFC3339Nano)
	for key, value := range map[string]string{"Ce-Specversion": "1.0", "Ce-Id": name + now, "Ce-Source": "/apis/v1/namespaces/platform/pingsources/" + name,
		"Ce-Type": topology.TickType, "Ce-Time": now, "Content-Type": "application/json"} {
		req.Header.Set(key, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		said, _ := io.ReadAll(resp.Body)
		t.Fatalf("tick %s: %s %s", name, resp.Status, said)
	}
}

// logIn makes the first admin by the link that `telemesh up` prints, and gives a client
// that is logged in.
func logIn(t *testing.T, link string) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	read := func(resp *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	page := read(client.Get(link))
	m := regexp.MustCompile(`type the secret: <code>([A-Z2-7 ]+)</code>`).FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no secret at %s:\n%s", link, html.UnescapeString(page))
	}
	code, err := totp.GenerateCode(strings.ReplaceAll(m[1], " ", ""), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"name": {"ada"}, "new": {"correct horse battery"}, "again": {"correct horse battery"}, "code": {code}}
	if page := read(client.PostForm(link, form)); !strings.Contains(page, "Recovery codes") {
		t.Fatalf("set up:\n%s", page)
	}
	return client
}
