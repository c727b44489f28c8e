package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Readings go bad in a room and good again: from zero, one webhook says so each time,
// however often the readings come.
func TestAlert(t *testing.T) {
	d := onCluster(t)
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told []string
	sink := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = verifier.Verify(body, r.Header)
		}
		var said struct {
			Type string
			Data struct{ Room, Label string }
		}
		if err == nil {
			err = json.Unmarshal(body, &said)
		}
		if err != nil {
			t.Errorf("webhook: %v", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, said.Type+" "+said.Data.Room+" "+said.Data.Label)
	}))

	const tenant = "alert-school"
	routes := fmt.Sprintf("- tenants: [%s]\n  webhook: {url: 'http://%s/', format: json, secret: %s}\n",
		tenant, net.JoinHostPort(os.Getenv("E2E_HOST"), fmt.Sprint(sink)), secret)
	was := kubectl(t, "", "get", "ksvc", "alert", "-n", "analytics", "-o", "jsonpath={.spec.template}")
	patch := func(operations string) {
		t.Helper()
		kubectl(t, "", "patch", "ksvc", "alert", "-n", "analytics", "--type=json", "-p", operations)
		kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=180s", "-n", "analytics", "ksvc/alert")
	}
	t.Cleanup(func() { patch(`[{"op": "replace", "path": "/spec/template", "value": ` + was + `}]`) })
	// What has been told is in one pod, which therefore stays. The Secret goes before the
	// pod does: without the patch its routes are refused.
	create(t, kubectl(t, "", "create", "secret", "generic", "alert", "-n", "analytics", "--dry-run=client", "-o", "yaml",
		"--from-literal=routes="+routes, "--from-literal=database-url=sqlite:/dev/shm/alerts.db"))
	patch(`[{"op": "add", "path": "/spec/template/metadata/annotations/autoscaling.knative.dev~1min-scale", "value": "1"},
		{"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": {"name": "ALERT_ALLOW_PRIVATE", "value": "true"}}]`)

	now := time.Now().UTC().Truncate(time.Second)
	var m metadata
	for _, room := range []string{"crowded", "other"} {
		m.placements = append(m.placements, mesh.Placement{
			DeviceID: "alert-" + room, TenantID: tenant, Building: "A", Floor: "1", Room: room, ValidFrom: mesh.At(now.AddDate(0, 0, -1)), Version: 1,
		})
	}
	m.tell(t, d.client)
	reading := func(room string, ago time.Duration, co2 int) []byte {
		return fmt.Appendf(nil, `{"device_id":"alert-%s","time":%q,"metrics":{"co2":%d}}`, room, now.Add(-ago).Format(time.RFC3339), co2)
	}
	hears := func(want ...string) {
		t.Helper()
		took := until(t, patience, "the webhooks", func() string {
			mu.Lock()
			defer mu.Unlock()
			return gocmp.Diff(want, slices.Clone(told))
		})
		t.Logf("told after %v", took.Round(time.Millisecond))
	}
	const bad, good, other = "alert.opened crowded bad", "alert.cleared crowded good", "alert.opened other bad"
	send(t, d.client, reading("crowded", 20*time.Minute, 700))
	send(t, d.client, reading("crowded", 10*time.Minute, 2400))
	hears(bad)
	send(t, d.client, reading("crowded", 10*time.Minute, 2400), reading("crowded", 5*time.Minute, 2500))
	send(t, d.client, reading("crowded", time.Minute, 650))
	hears(bad, good)
	send(t, d.client, reading("crowded", 10*time.Minute, 2400), reading("crowded", time.Minute, 650))
	send(t, d.client, reading("other", time.Minute, 3000)) // what was sent before it is over by then
	hears(bad, good, other)
}
