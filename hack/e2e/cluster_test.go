// Package e2e shows on a real cluster what cannot be shown elsewhere: that the
// manifests are what Knative takes, that the functions start from zero and go
// back to it, and that the mesh gives there what it gives in one process, also
// when the placements are corrected afterwards.
//
// hack/e2e.sh puts the mesh on a cluster and runs it; without a cluster its tests
// are skipped.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/sheet/sheetstest"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

// deployed is the mesh on the cluster, which hack/e2e.sh has put there, with the
// BigQuery emulator of this process as its warehouse. All tests share it: each has
// devices, tenants and actions of its own, and judges their rows alone.
type deployed struct {
	host   netip.Addr          // where pods reach this process
	set    manifest.Set        // what is on the cluster, and the sources that are opted in
	store  warehouse.Warehouse // where its functions store, to the reader of which everything is shown
	client *http.Client
}

// onCluster gives the mesh on the cluster, when all of it is ready. Where there is
// no cluster the test is skipped.
func onCluster(t *testing.T) *deployed {
	t.Helper()
	needCluster(t)
	d, err := theMesh()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func needCluster(t *testing.T) {
	t.Helper()
	if os.Getenv("E2E_HOST") == "" {
		t.Skip("no cluster: hack/e2e.sh sets E2E_HOST")
	}
}

var theMesh = sync.OnceValues(deploy)

// ends is what ends with the process, the last first.
var ends []func() error

func TestMain(m *testing.M) {
	code := m.Run()
	for _, end := range slices.Backward(ends) {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// deploy makes the warehouse, and lets pods find it under the name that the
// ConfigMaps of hack/e2e.sh give it.
func deploy() (*deployed, error) {
	d := &deployed{client: &http.Client{Timeout: patience}}
	var err error
	if d.host, err = netip.ParseAddr(os.Getenv("E2E_HOST")); err != nil {
		return nil, fmt.Errorf("E2E_HOST: %w", err)
	}
	if d.set, err = manifests(); err != nil {
		return nil, err
	}
	e, err := emulator.Open(listenAt())
	if err != nil {
		return nil, err
	}
	ends = append(ends, e.Close)
	if d.store, err = openWarehouse(e); err != nil {
		return nil, err
	}
	ends = append(ends, d.store.Close)
	if err := d.showBigQuery(e); err != nil {
		return nil, err
	}
	startTicks, err := d.stopTicks()
	ends = append(ends, startTicks)
	if err != nil {
		return nil, err
	}
	return d, d.ready()
}

// ready waits until Knative says so of all that hack/e2e.sh applied.
func (d *deployed) ready() error {
	objects := map[string][]string{}
	add := func(kind string, ref manifest.Ref) {
		objects[ref.Namespace] = append(objects[ref.Namespace], kind+"/"+ref.Name)
	}
	for _, b := range d.set.Brokers {
		add("broker", b.Ref())
	}
	for _, t := range d.set.Triggers {
		if !t.OptIn() {
			add("trigger", t.Ref())
		}
	}
	for _, s := range d.set.Services {
		if !s.OptIn() {
			add("ksvc", s.Ref())
		}
	}
	for namespace, names := range objects {
		if _, err := runKubectl("", append([]string{"wait", "--for=condition=Ready", "--timeout=180s", "-n", namespace}, names...)...); err != nil {
			return fmt.Errorf("not everything is ready after 3 minutes: %w", err)
		}
	}
	return nil
}

// openWarehouse makes the datasets of the products, and lets the emulator's user
// read the rows of all tenants.
func openWarehouse(e *emulator.Emulator) (warehouse.Warehouse, error) {
	ctx := context.Background()
	all, err := contract.Load(products.FS)
	if err != nil {
		return nil, err
	}
	store, err := bigquery.Open(ctx, e.Config(), nil)
	if err != nil {
		return nil, err
	}
	if err := store.Apply(ctx, all); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	client, err := e.Config().NewClient(ctx)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	defer client.Close()
	if _, err := client.Query(fmt.Sprintf("INSERT INTO %s (member, tenant_id) VALUES (%q, %q)", schema.Members, emulator.User, schema.Everyone)).Read(ctx); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

// showBigQuery puts the emulator behind a Service: where pods look for it.
func (d *deployed) showBigQuery(e *emulator.Emulator) error {
	rest, err := url.Parse(e.URL)
	if err != nil {
		return err
	}
	_, storage, err := net.SplitHostPort(e.Storage)
	if err != nil {
		return err
	}
	service := d.serviceYAML("bigquery", servicePort{"rest", 80, rest.Port()}, servicePort{"storage", 9060, storage})
	if _, err := runKubectl(service, "create", "-f", "-"); err != nil {
		return err
	}
	ends = append(ends, func() error {
		_, err := runKubectl(service, "delete", "--ignore-not-found", "-f", "-")
		return err
	})
	return nil
}

// servicePort is a port of a Service, and which one of this process it leads to.
type servicePort struct {
	name string
	port int
	here string
}

// serviceYAML is a Service of namespace platform that leads to this process.
func (d *deployed) serviceYAML(name string, ports ...servicePort) string {
	family := "IPv4"
	if d.host.Is6() {
		family = "IPv6"
	}
	var outer, inner string
	for _, p := range ports {
		outer += fmt.Sprintf("    - {name: %s, port: %d, targetPort: %s}\n", p.name, p.port, p.here)
		inner += fmt.Sprintf("  - {name: %s, port: %s}\n", p.name, p.here) // kube-proxy passes over ports that have no name here
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: %[1]s
  namespace: platform
  labels: {%[2]s: e2e}
spec:
  ipFamilies: [%[3]s]
  ports:
%[4]s---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[1]s-e2e
  namespace: platform
  labels: {%[2]s: e2e, kubernetes.io/service-name: %[1]s}
addressType: %[3]s
ports:
%[5]sendpoints:
  - addresses: [%[6]q]
`, name, mine, family, outer, inner, d.host)
}

// TestClusterGivesWhatOneProcessGives feeds a recording of weeks to the embedded
// runtime and to the cluster, in two bursts, and then lets both read a corrected
// sheet: the tables are equal each time, row by row and column by column. Between
// the bursts all is at zero. The first comes request after request, so that the
// same events come of it; the second from several senders at once.
//
// It is the first of the tests: it counts all events that are logged.
func TestClusterGivesWhatOneProcessGives(t *testing.T) {
	needCluster(t)
	s := newScenario(t)
	google := sheetstest.NewAt(t, listenAt(), os.Getenv("E2E_HOST"))
	want := embedded(t, &s, google, duckdbtest.Open(t)) // while pods start
	showsEnough(t, &want)

	start := time.Now()
	d := onCluster(t)
	t.Logf("all ready, the warehouse too, after %v", since(start))
	start = time.Now()
	s.tell(t, d.client)
	t.Logf("metadata shown by the output ports after %v", since(start))

	refused := d.feed(t, 1, s.bursts[0])
	if refused > 0 { // what was accepted nevertheless came twice, in other events
		untimely(want[0].log)
	}
	d.logs(t, want[0].log)
	t.Logf("functions at zero after %v", atZero(t, d.set.Services).Round(time.Second))
	d.equals(t, want[0].tables)
	got := logged(t, d.store)
	if refused > 0 {
		untimely(got)
	}
	if diff := gocmp.Diff(want[0].log, got); diff != "" {
		t.Errorf("events: embedded runtime (-), cluster (+):\n%s", diff)
	}
	if diff := gocmp.Diff(sent(s.bursts[0]), received(t, d.store)); diff != "" {
		t.Errorf("messages: sent (-), logged (+):\n%s", diff)
	}

	d.wakes(t)
	d.feed(t, senders, s.bursts[1])
	want[1].Stored = nil
	d.equals(t, want[1].tables)

	d.correct(t, &s, google, &want[2])
	d.rests(t)
	if letters := query(t, d.store, "SELECT namespace, trigger, type, cause FROM event_log_internal.dead_letters"); len(letters) > 0 {
		t.Errorf("dead letters, where there are to be none: %v", letters)
	}
}

// senders is how many send at once: about as many micro-batches are on their way
// through the Brokers.
const senders = 4

// feed sends requests, and says how often one was refused, after which it is sent again.
func (d *deployed) feed(t *testing.T, senders int, requests []request) (refused int) {
	t.Helper()
	start := time.Now()
	refused = sendAll(t, d.client, senders, requests)
	t.Logf("%d requests of %d senders accepted after %v, %d times not", len(requests), senders, since(start), refused)
	return refused
}

// showsEnough fails a scenario in which too little happens for equal tables to
// mean much.
func showsEnough(t *testing.T, stages *[3]stage) {
	t.Helper()
	for i, stage := range stages {
		telemetry, analytics := stage.Shown["iot_telemetry.readings"], stage.Shown["iot_analytics.readings"]
		if len(telemetry) < 1000*(i+1) || len(analytics) >= len(telemetry) || len(stage.Shown["iot_telemetry_internal.rejected"]) == 0 {
			t.Fatalf("stage %d shows too little: %d readings, %d joined, of which some are to be parked, %d rejected", i+1,
				len(telemetry), len(analytics), len(stage.Shown["iot_telemetry_internal.rejected"]))
		}
	}
	before, after := stages[1], stages[2]
	again := after.again("iot_telemetry.readings")
	withdrawn := len(before.Shown["iot_analytics.readings"]) - len(after.Shown["iot_analytics.readings"])
	if moved := len(again) - withdrawn; withdrawn <= 0 || moved <= 0 || len(again) > len(before.Shown["iot_telemetry.readings"])/10 {
		t.Fatalf("the correction shows too little, or touches most of the readings: %d stored again, %d withdrawn", len(again), withdrawn)
	}
	for key, row := range before.Shown["iot_telemetry.readings"] {
		changed := row != after.Shown["iot_telemetry.readings"][key]
		if twice := len(before.Stored["iot_telemetry.readings"][key]) > 1; !twice && changed != slices.Contains(again, key) {
			t.Errorf("reading %s was shown as %s, is as %s, but stored again: %t", key, row, after.Shown["iot_telemetry.readings"][key], !changed)
		}
	}
}

// logs waits until the event log has these numbers of events, whatever others it
// has.
func (d *deployed) logs(t *testing.T, want map[string]int64) {
	t.Helper()
	took := until(t, patience, "all events", func() string {
		got := logged(t, d.store)
		maps.DeleteFunc(got, func(of string, _ int64) bool { return want[of] == 0 })
		return gocmp.Diff(want, got)
	})
	t.Logf("all events logged %v later", took.Round(time.Millisecond))
}

// untimely takes out the events of readings: how many there are depends on how
// messages met.
func untimely(log map[string]int64) {
	maps.DeleteFunc(log, func(of string, _ int64) bool {
		return strings.Contains(of, ".telemetry.") || strings.Contains(of, ".joined.")
	})
}

// rests waits until nothing is logged any more, for longer than a function takes.
func (d *deployed) rests(t *testing.T) {
	t.Helper()
	const quiet = 5 * time.Second
	var (
		last map[string]int64
		when time.Time
	)
	until(t, patience, "rest", func() string {
		if now := logged(t, d.store); !maps.Equal(now, last) {
			last, when = now, time.Now()
		}
		if since := time.Since(when); since < quiet {
			return fmt.Sprintf("an event was logged %v ago", since.Round(time.Millisecond))
		}
		return ""
	})
}

// equals waits until all rows are what they are to be. Rows that stand behind ports
// are compared if want has them.
func (d *deployed) equals(t *testing.T, want tables) {
	t.Helper()
	took := until(t, patience, "equal tables (-embedded runtime, +cluster)", func() string {
		return gocmp.Diff(want, read(t, d.store, want.Stored != nil))
	})
	t.Logf("tables equal %v later", took.Round(time.Millisecond))
}
