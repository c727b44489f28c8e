// Package e2e shows on a real cluster what cannot be shown elsewhere: that the
// manifests are what Knative takes, that the functions start from zero and go
// back to it, and that the mesh gives there what it gives in one process, also
// when the placements are corrected afterwards.
//
// hack/e2e.sh puts the mesh on a cluster and runs it; without a cluster its
// test is skipped.
package e2e

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions"
	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
	"github.com/telemesh/telemesh/triggers"
)

// TestClusterGivesWhatOneProcessGives sends the same micro-batch through the
// embedded runtime and through the cluster, and then lets both read the same
// corrected sheet.
func TestClusterGivesWhatOneProcessGives(t *testing.T) {
	host, err := netip.ParseAddr(os.Getenv("E2E_HOST"))
	if err != nil {
		t.Skipf("no cluster: hack/e2e.sh sets E2E_HOST: %v", err)
	}
	s := newScenario(t)
	wantJoined, wantRows, wantCorrected := embedded(t, s)
	tenants := map[string]int{}
	actions := map[string]int{}
	for _, r := range wantJoined {
		tenants[r.TenantID]++
		actions[r.LastAction]++
	}
	if len(tenants) != 2 || len(actions) != 3 || wantRows.parked == 0 {
		t.Fatalf("the scenario shows too little: readings by tenant %v, by last action %v, %d parked", tenants, actions, wantRows.parked)
	}

	set, err := manifests()
	if err != nil {
		t.Fatal(err)
	}
	store := duckdbtest.Open(t)
	got := newSubscriber()
	putOnCluster(t, host, serve(t, remote.Handler(store, "")), serve(t, got))
	client := &http.Client{Timeout: patience}
	start := time.Now()
	s.tell(t, client)
	t.Logf("metadata shown by the output ports after %v", since(start))
	t.Logf("functions at zero after %v", atZero(t, set.Services).Round(time.Second))

	arrived := func() string {
		if n := got.count(); n < len(wantJoined) {
			return fmt.Sprintf("%d of %d readings", n, len(wantJoined))
		}
		return ""
	}
	start = time.Now()
	s.send(t, client)
	accepted := since(start)
	until(t, patience, "analytics.joined from zero", arrived)
	t.Logf("%d messages, %d readings, from zero: accepted after %v, joined at the subscriber after %v",
		len(s.messages), len(wantJoined), accepted, since(start))
	if diff := gocmp.Diff(wantJoined, got.reset()); diff != "" {
		t.Errorf("joined readings: embedded runtime (-), cluster (+):\n%s", diff)
	}

	// The same messages again give the same readings, and no further row.
	start = time.Now()
	s.send(t, client)
	until(t, patience, "analytics.joined when warm", arrived)
	t.Logf("again, warm: joined at the subscriber after %v", since(start))
	if diff := gocmp.Diff(wantJoined, got.reset()); diff != "" {
		t.Errorf("joined readings of a repeated batch: embedded runtime (-), cluster (+):\n%s", diff)
	}

	t.Logf("functions at zero after %v", atZero(t, set.Services).Round(time.Second))
	if n := got.count(); n != 0 {
		t.Errorf("%d readings came after all had", n)
	}
	if rows := countRows(t, store); rows != wantRows {
		t.Errorf("rows in the warehouse: cluster %+v, embedded runtime %+v", rows, wantRows)
	}

	correct(t, s, host, set, store, wantCorrected)
	for id := range got.reset() {
		if !slices.Contains(wantCorrected.TelemetryAgain, id) {
			t.Errorf("reading %s was joined again: its tenant is the same", id)
		}
	}
	for _, fault := range got.faults {
		t.Error(fault)
	}
}

func since(start time.Time) time.Duration { return time.Since(start).Round(time.Millisecond) }

// manifests is the mesh as it stands in the repository, with more Triggers.
func manifests(more ...string) (manifest.Set, error) {
	extra := fstest.MapFS{}
	for i, text := range more {
		extra[fmt.Sprintf("%d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return manifest.Load(
		manifest.Folder{Name: "brokers", FS: brokers.FS}, manifest.Folder{Name: "triggers", FS: triggers.FS},
		manifest.Folder{Name: "config", FS: config.FS}, manifest.Folder{Name: "config/sources", FS: config.Sources},
		manifest.Folder{Name: "test", FS: extra})
}

// toSubscriber is a Trigger that brings analytics.joined to a port of host.
func toSubscriber(host netip.Addr, port int) string {
	return fmt.Sprintf(`apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata:
  name: e2e
  namespace: analytics
  labels: {%s: e2e}
spec:
  broker: analytics
  filters:
    - exact: {type: %s}
  subscriber:
    uri: http://%s/
`, mine, mesh.AnalyticsJoined, netip.AddrPortFrom(host, uint16(port)))
}

// putOnCluster lets the functions find the warehouse at a port of host, and
// the events of the last Broker a subscriber.
func putOnCluster(t *testing.T, host netip.Addr, warehousePort, subscriberPort int) {
	t.Helper()
	kubectl(t, "", "delete", "service,endpointslice,trigger,ksvc,pingsource,serviceaccount,configmap", "-A", "-l", mine+"=e2e")
	family := "IPv4"
	if host.Is6() {
		family = "IPv6"
	}
	create(t, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: warehouse
  namespace: platform
  labels: {%[1]s: e2e}
spec:
  ports:
    - port: 80
      targetPort: %[2]d
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: warehouse-e2e
  namespace: platform
  labels: {%[1]s: e2e, kubernetes.io/service-name: warehouse}
addressType: %[3]s
ports:
  - port: %[2]d
endpoints:
  - addresses: [%[4]q]
`, mine, warehousePort, family, host))
	create(t, toSubscriber(host, subscriberPort))
	kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=60s", "-n", "analytics", "trigger/e2e")
}

// embedded gives what the mesh makes of the scenario in this process, before
// and after the correction.
func embedded(t *testing.T, s scenario) (map[string]mesh.JoinedReading, rows, readings) {
	t.Helper()
	got := newSubscriber()
	trigger := toSubscriber(netip.MustParseAddr("127.0.0.1"), serve(t, got))
	store := duckdbtest.Open(t)
	set, err := manifests(trigger)
	if err != nil {
		t.Fatal(err)
	}
	m, err := local.Open(t.Context(), local.Config{
		Dir: t.TempDir(), Manifests: set, Functions: functions.Table, Warehouse: store,
		Set: map[manifest.Ref]map[string]string{sheetSource: {"PLACEMENTS_SHEET": newPage(t, s.corrected).at(netip.MustParseAddr("127.0.0.1"))}},
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	s.tell(t, m.Client())
	start := time.Now()
	s.send(t, m.Client())
	if err := m.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("embedded: %d messages, %d readings joined and stored after %v", len(s.messages), got.count(), since(start))
	joined, stored, before := got.reset(), countRows(t, store), readingsOf(t, store)

	start = time.Now()
	if err := m.Tick(t.Context(), sheetSource); err != nil {
		t.Fatal(err)
	}
	if err := m.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := readingsOf(t, store)
	withdrawn := len(before.Analytics) - len(after.Analytics)
	moved := len(after.TelemetryAgain) - withdrawn
	t.Logf("embedded: of %d readings %d moved and %d withdrawn after %v", len(after.Telemetry), moved, withdrawn, since(start))
	if moved <= 0 || withdrawn <= 0 || moved+withdrawn > len(before.Analytics)/2 {
		t.Fatal("the correction shows too little, or touches most of the readings")
	}
	for id, row := range before.Telemetry {
		if changed := !gocmp.Equal(row, after.Telemetry[id]); changed != slices.Contains(after.TelemetryAgain, id) {
			t.Errorf("reading %s was shown as %v, is as %v, but stored again: %t", id, row, after.Telemetry[id], !changed)
		}
	}
	if len(got.faults) > 0 {
		t.Fatal(strings.Join(got.faults, "\n"))
	}
	return joined, stored, after
}

// rows is how many rows stand where.
type rows struct{ readings, parked, rejected, joined int64 }

func countRows(t *testing.T, store warehouse.Warehouse) (r rows) {
	t.Helper()
	for sql, n := range map[string]*int64{
		"SELECT count(*) FROM iot_telemetry_internal.readings":                &r.readings,
		"SELECT count(*) FROM iot_telemetry.readings WHERE tenant_id IS NULL": &r.parked,
		"SELECT count(*) FROM iot_telemetry_internal.rejected":                &r.rejected,
		"SELECT count(*) FROM iot_analytics_internal.readings":                &r.joined,
	} {
		*n = query(t, store, sql)[0][0].(int64)
	}
	return r
}

func query(t *testing.T, store warehouse.Warehouse, sql string) (rows [][]any) {
	t.Helper()
	answer, err := store.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range answer.All {
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, slices.Clone(row))
	}
	return rows
}
