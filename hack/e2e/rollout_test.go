package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// chain are the functions between a device and the tables, after those that are
// woken by a correction. The repairs come first, since theirs is the longest time
// until a delivery is tried again.
var chain = []manifest.Ref{
	{Namespace: "iot", Name: "tenancy-repair"},
	{Namespace: "analytics", Name: "analytics-repair"},
	{Namespace: "iot", Name: "iot-metadata-sink"},
	{Namespace: "iot", Name: "telemetry-ingest"},
	{Namespace: "iot", Name: "telemetry-flatten"},
	{Namespace: "iot", Name: "tenant-enrich"},
	{Namespace: "iot", Name: "iot-telemetry-sink"},
	{Namespace: "analytics", Name: "analytics-join"},
	{Namespace: "analytics", Name: "iot-analytics-sink"},
	{Namespace: "platform", Name: "event-log"},
}

// woken is how many of the chain are woken by corrections.
const woken = 3

// TestFunctionsEndUnderLoad has devices send on and sheets be corrected while each
// function of the chain gets a new revision, whose predecessor ends, and is then
// killed while it handles a request. E2E_KILLER is the image of hack/e2e/killer.
//
// Not killed is the Broker: what its channels hold in memory ends with their
// process, and is none of the functions' to keep.
func TestFunctionsEndUnderLoad(t *testing.T) {
	d := onCluster(t)
	start := time.Now()
	l := newLoad(t, d)
	pods := watchPods(t)
	l.start(t)
	l.whileCorrecting(t, func() {
		until(t, patience, "a pod of each function", func() string {
			return missing(func(ref manifest.Ref) bool { return len(pods.ready(ref)) > 0 })
		})
	})
	t.Logf("all functions awake after %v", since(start))

	ended := rollOut(t, l, pods)
	t.Run("SIGKILL", func(t *testing.T) { kill(t, l, pods) })
	ended()
	l.stop()
	t.Logf("%d requests with %d messages, %d of them sent again; %d corrections; after %v", l.requests.Load(), l.messages, l.repeated.Load(), l.corrections, since(start))
	l.check(t, d)
	t.Logf("checked after %v", since(start))
}

// missing names the functions of the chain that something does not hold of.
func missing(holds func(manifest.Ref) bool) string {
	var all []string
	for _, ref := range chain {
		if !holds(ref) {
			all = append(all, ref.String())
		}
	}
	return strings.Join(all, ", ")
}

// rollOut gives each function a new revision and takes the old ones away as soon
// as nothing is routed to them. What it returns waits until their pods have ended,
// and says how.
func rollOut(t *testing.T, l *load, pods *pods) (ended func()) {
	start, repeated := time.Now(), l.repeated.Load()
	slow := l.sendSlowly(t)
	before := routed(t)
	var old []pod
	l.whileCorrecting(t, func() {
		for _, ref := range chain {
			old = append(old, pods.ready(ref)...)
			kubectl(t, "", "patch", "ksvc", ref.Name, "-n", ref.Namespace, "--type=merge", "-p",
				fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"telemesh.dev/rollout":"%d"}}}}}`, start.UnixNano()))
		}
		until(t, patience, "new revisions", func() string {
			now := routed(t)
			return missing(func(ref manifest.Ref) bool { return now[ref] != "" && now[ref] != before[ref] })
		})
	})
	t.Logf("%d new revisions take all requests after %v; requests sent again meanwhile: %d", len(chain), since(start), l.repeated.Load()-repeated)
	var endings []<-chan error
	for _, p := range old {
		endings = append(endings, toldToEnd(t, p))
	}
	for _, ref := range chain {
		kubectl(t, "", "delete", "revision", "-n", ref.Namespace, before[ref], "--wait=false")
	}
	return func() {
		t.Helper()
		for i, p := range old {
			if err := <-endings[i]; err != nil {
				t.Errorf("pod %s: %v", p.Metadata.Name, err)
			}
		}
		// No other request has come for 30 seconds, and the quiet period is one.
		pods.oneStays(t, slices.DeleteFunc(slices.Clone(old), func(p pod) bool { return p.of().Name != "telemetry-ingest" }), 2*time.Second)
		slow()
		for _, p := range old {
			until(t, patience, "end of "+p.Metadata.Name, func() string {
				if code := pods.exit(p.Metadata.UID); code != "0" {
					return "exit code " + code
				}
				return ""
			})
		}
		t.Logf("%d old pods ended by themselves with 0 after %v", len(old), since(start))
	}
}

// routed gives the revision to which all requests of a Service go, if it is the
// one of its latest template, and ready.
func routed(t *testing.T) map[manifest.Ref]string {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name, Namespace string
				Generation      int64
			}
			Status struct {
				ObservedGeneration        int64
				LatestCreatedRevisionName string
				Traffic                   []struct {
					RevisionName string
					Percent      int
				}
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "", "get", "ksvc", "-A", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	revisions := map[manifest.Ref]string{}
	for _, s := range list.Items {
		ready := slices.ContainsFunc(s.Status.Conditions, func(c struct{ Type, Status string }) bool { return c.Type == "Ready" && c.Status == "True" })
		if ready && s.Status.ObservedGeneration == s.Metadata.Generation && len(s.Status.Traffic) == 1 && s.Status.Traffic[0].RevisionName == s.Status.LatestCreatedRevisionName {
			revisions[manifest.Ref{Namespace: s.Metadata.Namespace, Name: s.Metadata.Name}] = s.Status.LatestCreatedRevisionName
		}
	}
	return revisions
}

// toldToEnd gives nil when the function in a pod has got its SIGTERM.
func toldToEnd(t *testing.T, p pod) <-chan error {
	told := make(chan error, 1)
	cmd := exec.CommandContext(t.Context(), "kubectl", "logs", "-f", "-n", p.Metadata.Namespace, p.Metadata.Name, "-c", "user-container")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer cmd.Wait()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"msg":"ending"`) {
				told <- nil
				return
			}
		}
		told <- fmt.Errorf("its log ends without saying that it ends: %v", lines.Err())
	}()
	return told
}

// kill ends the process of each function once, with a request in its hands.
func kill(t *testing.T, l *load, pods *pods) {
	start, repeated := time.Now(), l.repeated.Load()
	killers := newKillers(t)
	amid := 0
	for i, ref := range chain {
		began := time.Now()
		requests, tries := 0, 0
		one := func() {
			until(t, patience, "SIGKILL of "+ref.String(), func() (missing string) {
				ready := pods.ready(ref)
				if len(ready) == 0 {
					return "no pod is ready"
				}
				requests, missing = killers.kill(t, ready[tries%len(ready)])
				tries++
				return missing
			})
		}
		if i < woken {
			l.whileCorrecting(t, one)
		} else {
			one()
		}
		amid += requests
		t.Logf("%s killed with %d requests in its hands after %v", ref, requests, since(began))
	}
	t.Logf("%d processes killed with %d requests in their hands in %v; requests sent again meanwhile: %d", len(chain), amid, since(start), l.repeated.Load()-repeated)
}

// killers is a pod of hack/e2e/killer on each node that needs one.
type killers struct {
	namespace string
	nodes     map[string]string // pods by node
}

func newKillers(t *testing.T) *killers {
	t.Helper()
	const label = mine + "=e2e-killer"
	name, value, _ := strings.Cut(label, "=")
	kubectl(t, "", "delete", "namespace", "-l", label, "--wait=false")
	made := kubectl(t, fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata:
  generateName: e2e-killer-
  labels: {%s: %s, pod-security.kubernetes.io/enforce: privileged}
`, name, value), "create", "-f", "-", "-o", "name")
	k := &killers{strings.TrimPrefix(strings.TrimSpace(made), "namespace/"), map[string]string{}}
	t.Cleanup(func() {
		if _, err := runKubectl("", "delete", "namespace", k.namespace, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	return k
}

// on gives the killer of a node. Where a pod of its kind may not be, the test is
// skipped.
func (k *killers) on(t *testing.T, node string) string {
	t.Helper()
	if name := k.nodes[node]; name != "" {
		return name
	}
	image := os.Getenv("E2E_KILLER")
	if image == "" {
		t.Fatal("hack/e2e.sh sets E2E_KILLER, the image of hack/e2e/killer")
	}
	name := "killer-" + strconv.Itoa(len(k.nodes))
	_, err := runKubectl(fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: %s
spec:
  nodeName: %s
  hostPID: true
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
    - name: killer
      image: %s
      securityContext: {privileged: true, runAsUser: 0}
`, name, k.namespace, node, image), "create", "-f", "-")
	if err != nil && (strings.Contains(err.Error(), "forbidden") || strings.Contains(err.Error(), "denied")) {
		t.Skipf("no process was killed: this cluster allows no privileged pod with hostPID: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=60s", "-n", k.namespace, "pod/"+name)
	k.nodes[node] = name
	return name
}

// The killer looks for a request so long, and kubectl waits no longer than that for
// it to say so.
const lookFor, killWithin = 10 * time.Second, 30 * time.Second

// kill ends the function in a pod as soon as it has requests in its hands, and says
// how many, or why it did not.
func (k *killers) kill(t *testing.T, p pod) (requests int, missing string) {
	t.Helper()
	_, container, _ := strings.Cut(p.function().ContainerID, "://")
	ctx, cancel := context.WithTimeout(t.Context(), killWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", "exec", "-n", k.namespace, k.on(t, p.Spec.NodeName), "--", "/ko-app/killer", container, lookFor.String())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Sprintf("%v: %s", errors.Join(err, ctx.Err()), stderr.String())
	}
	if requests, err = strconv.Atoi(strings.TrimSpace(string(out))); err != nil || requests == 0 {
		t.Fatalf("the killer says %q", out)
	}
	return requests, ""
}

// load is devices that send readings, and sheets of them that are corrected, both
// without end.
type load struct {
	client *http.Client
	// Of all requests: in-memory channels deliver what comes of an event as long as
	// its poster waits, which may be longer than the subtest that posted it takes.
	ctx    context.Context
	cancel context.CancelFunc // of those who send, not of what they sent
	busy   sync.WaitGroup

	requests, repeated atomic.Int64

	mu          sync.Mutex
	messages    int
	corrections int
	holders     []string // by device: the tenant of the middle minutes
	faults      []string
}

const (
	loadDevices = 8
	loadPrefix  = "rollout-"
	// Senders of single messages, and sources with micro-batches of so many. Each
	// sends on when what it sent is accepted, which a Broker of in-memory channels
	// does when all that comes of it is delivered.
	singleSenders, batchSenders, batchMessages = 3, 1, 50
	sendEvery                                  = 300 * time.Millisecond
	// Of a correction comes a repair, which reads tables.
	correctEvery = time.Second
)

// A device sends for each minute. The minutes from middle until last are those
// that are corrected: before them it is the school's, after them the office's.
const middle, last = 10, 20

var loadFrom = time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC)

func minute(n int) mesh.Instant { return mesh.At(loadFrom.Add(time.Duration(n) * time.Minute)) }

func loadDevice(i int) string { return fmt.Sprint(loadPrefix, i) }

// newLoad tells who holds the devices.
func newLoad(t *testing.T, d *deployed) *load {
	t.Helper()
	l := &load{client: d.client, ctx: t.Context()}
	var m metadata
	for i := range loadDevices {
		l.holders = append(l.holders, loadPrefix+"school")
		m.placements = append(m.placements,
			mesh.Placement{DeviceID: loadDevice(i), TenantID: loadPrefix + "school", ValidFrom: minute(0), ValidTo: ptr(minute(middle)), Version: 1},
			l.holder(i, 1),
			mesh.Placement{DeviceID: loadDevice(i), TenantID: loadPrefix + "office", ValidFrom: minute(last), Version: 1})
	}
	m.tell(t, d.client)
	return l
}

func (l *load) holder(device int, version int64) mesh.Placement {
	return mesh.Placement{DeviceID: loadDevice(device), TenantID: l.holders[device], ValidFrom: minute(middle), ValidTo: ptr(minute(last)), Version: version}
}

// start sends until stop.
func (l *load) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	t.Cleanup(l.stop)
	for range singleSenders {
		l.every(ctx, sendEvery, func() { l.send(l.next(1)) })
	}
	for range batchSenders {
		l.every(ctx, sendEvery, func() { l.send(l.next(batchMessages)) })
	}
}

// every does something again and again until ctx is done.
func (l *load) every(ctx context.Context, interval time.Duration, do func()) {
	l.busy.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for ctx.Err() == nil {
			do()
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
}

// whileCorrecting has the sheet corrected again and again while do runs.
func (l *load) whileCorrecting(t *testing.T, do func()) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.every(ctx, correctEvery, l.correct)
	do()
}

func (l *load) stop() {
	l.cancel()
	l.busy.Wait()
}

// next gives messages, each of another device than the one before.
func (l *load) next(n int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var body bytes.Buffer
	for range n {
		fmt.Fprintf(&body, `{"device_id":%q,"timestamp":%q,"metrics":{"co2__ppm":%d}}`+"\n",
			loadDevice(l.messages%loadDevices), minute(l.messages/loadDevices).Time().Format(time.RFC3339), 400+l.messages)
		l.messages++
	}
	return body.Bytes()
}

func (l *load) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
}

// again does something until it succeeds.
func again(ctx context.Context, do func() error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for do() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *load) send(body []byte) {
	l.requests.Add(1)
	tries := 0
	again(l.ctx, func() error {
		tries++
		if tries > 1 {
			l.repeated.Add(1)
		}
		return l.post(bytes.NewReader(body))
	})
}

func (l *load) post(body io.Reader) error {
	req, err := http.NewRequestWithContext(l.ctx, http.MethodPost, ingestURL, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Authorization", "Bearer "+os.Getenv("E2E_TOKEN"))
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusAccepted {
		return nil
	}
	err = function.StatusError(resp)
	if !function.Retriable(resp.StatusCode) {
		l.fault("POST %s: %v, want 202 or what passes", ingestURL, err)
	}
	return err
}

// sendSlowly begins a request. What it returns ends it.
func (l *load) sendSlowly(t *testing.T) (end func()) {
	messages := l.next(2)
	split := bytes.IndexByte(messages, '\n') + 1
	body, rest := io.Pipe()
	answered := make(chan error, 1)
	l.requests.Add(1)
	go func() { answered <- l.post(body) }()
	if _, err := rest.Write(messages[:split]); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		_, err := rest.Write(messages[split:])
		if err = errors.Join(err, rest.Close(), <-answered); err != nil {
			t.Errorf("a request that was under way when the function was told to end: %v", err)
		}
	}
}

// correct gives the middle minutes of the next device to the other tenant.
func (l *load) correct() {
	l.mu.Lock()
	device, round := l.corrections%loadDevices, l.corrections/loadDevices
	l.corrections++
	l.holders[device] = loadPrefix + [...]string{"office", "school"}[round%2]
	data := mesh.Encode(mesh.Placements{Placements: []mesh.Placement{l.holder(device, int64(round)+2)}})
	l.mu.Unlock()
	e := mesh.NewEvent(mesh.PlacementsChanged, "/telemesh/hack/e2e", data, mesh.PlacementsChanged, string(data))
	again(l.ctx, func() error { return function.Post(l.ctx, l.client, brokerURL+"iot/iot", e) })
}

// want is what the output ports have to show, by device and time: whose it is,
// and the value.
func (l *load) want() map[string]string {
	want := map[string]string{}
	for i := range l.messages {
		device, n := i%loadDevices, i/loadDevices
		tenant := l.holders[device]
		switch {
		case n < middle:
			tenant = loadPrefix + "school"
		case n >= last:
			tenant = loadPrefix + "office"
		}
		want[key(loadDevice(device), minute(n).Time())] = fmt.Sprintf("%s %v", tenant, float64(400+i))
	}
	return want
}

// ofLoad chooses the rows of the load.
const ofLoad = " WHERE device_id LIKE '" + loadPrefix + "%'"

func key(device, at any) string { return fmt.Sprintf("%v %v", device, at.(time.Time).UTC()) }

// check compares what was sent with what is stored.
func (l *load) check(t *testing.T, d *deployed) {
	t.Helper()
	for _, fault := range l.faults {
		t.Error(fault)
	}
	want := l.want()
	for _, product := range []string{"iot_telemetry", "iot_analytics"} {
		took := until(t, patience, "readings of "+product, func() string {
			got := map[string]string{}
			for _, row := range query(t, d.store, "SELECT device_id, observed_at, tenant_id, value FROM "+product+".readings"+ofLoad) {
				k := key(row[0], row[1])
				if got[k] != "" {
					t.Fatalf("%s.readings shows %s more than once", product, k)
				}
				got[k] = fmt.Sprintf("%v %v", row[2], row[3])
			}
			if maps.Equal(got, want) {
				return ""
			}
			diff := gocmp.Diff(want, got)
			return fmt.Sprintf("%d of %d, want (-), got (+):\n%s", len(got), len(want), diff[:min(len(diff), 2000)])
		})
		l.checkBehind(t, d, product, took)
	}
	l.checkLog(t, d)
}

// checkBehind looks at the rows behind a port: what was never corrected is of one
// tenant and has one value, however often it was delivered.
func (l *load) checkBehind(t *testing.T, d *deployed, product string, took time.Duration) {
	t.Helper()
	for _, row := range query(t, d.store, "SELECT device_id, observed_at, COUNT(DISTINCT tenant_id), COUNT(DISTINCT value) FROM "+product+"_internal.readings"+
		ofLoad+" GROUP BY device_id, observed_at HAVING COUNT(DISTINCT tenant_id) > 1 OR COUNT(DISTINCT value) > 1") {
		at := mesh.At(row[1].(time.Time))
		if corrected := at >= minute(middle) && at < minute(last); !corrected || row[3] != int64(1) {
			t.Errorf("%s_internal.readings has %v tenants and %v values of %s, want one", product, row[2], row[3], key(row[0], row[1]))
		}
	}
	shown := query(t, d.store, "SELECT COUNT(*), COUNT(quality), SUM(CASE WHEN revision > 0 THEN 1 ELSE 0 END) FROM "+product+".readings"+ofLoad)[0]
	if shown[1] != int64(0) {
		t.Errorf("%s.readings flags %v readings", product, shown[1])
	}
	behind := query(t, d.store, "SELECT COUNT(*) FROM "+product+"_internal.readings"+ofLoad)[0][0]
	appended := query(t, d.store, "SELECT COUNT(*) FROM "+product+"_internal.readings_appended"+ofLoad)[0][0]
	t.Logf("%s: %v readings %v after the last request, %v of them with a revision; behind them %v rows, of %v that were appended",
		product, shown[0], took.Round(time.Millisecond), shown[2], behind, appended)
}

// checkLog looks for each message in the event log, and for events of the load
// among the dead letters.
func (l *load) checkLog(t *testing.T, d *deployed) {
	t.Helper()
	found, events := map[string]int{}, map[string]int{}
	// Of ingest alone: a test may post there what cannot be read.
	for _, row := range query(t, d.store, "SELECT source, event_id, data FROM event_log.events WHERE type = '"+mesh.TelemetryReceived+"' AND source = '"+mesh.Source("telemetry-ingest")+"'") {
		messages, err := mesh.DecodeMessages([]byte(row[2].(string)))
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint(row[0], " ", row[1])
		for _, m := range messages {
			if payload := string(m.Payload); strings.Contains(payload, `"`+loadPrefix) {
				found[strings.TrimSpace(payload)]++
				events[id] = 0
			}
		}
		if n, ok := events[id]; ok {
			events[id] = n + 1
		}
	}
	twice := 0
	for _, n := range found {
		if n > 1 {
			twice++
		}
	}
	for id, n := range events {
		if n != 1 {
			t.Errorf("event_log.events shows %s %d times", id, n)
		}
	}
	if len(found) != l.messages {
		t.Errorf("event_log.events has %d of %d messages", len(found), l.messages)
	}
	t.Logf("event log: %d events telemetry.received with %d messages, %d of which came in several", len(events), len(found), twice)
	// Of the Triggers of the mesh alone: a channel may go on for a while to deliver to
	// a Trigger of another test that is gone, which nobody answers any more.
	for _, row := range query(t, d.store, "SELECT namespace, trigger, type, cause FROM event_log_internal.dead_letters WHERE data LIKE '%"+loadPrefix+"%'") {
		at := manifest.Ref{Namespace: fmt.Sprint(row[0]), Name: fmt.Sprint(row[1])}
		if slices.ContainsFunc(d.set.Triggers, func(t *manifest.Trigger) bool { return t.Ref() == at }) {
			t.Errorf("dead letter of type %v at %v: %v", row[2], at, row[3])
		}
	}
}

// pods follows the pods of all functions.
type pods struct {
	mu    sync.Mutex
	byUID map[string]pod // also those that are gone
}

type pod struct {
	Metadata struct {
		Name, Namespace, UID string
		Labels               map[string]string
		CreationTimestamp    time.Time
		DeletionTimestamp    *time.Time
	}
	Spec   struct{ NodeName string }
	Status struct{ ContainerStatuses []container }
}

type container struct {
	Name, ContainerID string
	Ready             bool
	State             struct{ Terminated *struct{ ExitCode int } }
}

func (p pod) of() manifest.Ref {
	return manifest.Ref{Namespace: p.Metadata.Namespace, Name: p.Metadata.Labels["serving.knative.dev/service"]}
}

// function is the container that the function runs in, the other one is the
// queue-proxy.
func (p pod) function() container {
	i := slices.IndexFunc(p.Status.ContainerStatuses, func(c container) bool { return c.Name == "user-container" })
	if i < 0 {
		return container{}
	}
	return p.Status.ContainerStatuses[i]
}

func watchPods(t *testing.T) *pods {
	t.Helper()
	cmd := exec.Command("kubectl", "get", "pods", "-A", "-l", "serving.knative.dev/service", "--watch", "--output-watch-events", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &pods{byUID: map[string]pod{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		events := json.NewDecoder(out)
		for {
			var event struct{ Object pod }
			if events.Decode(&event) != nil {
				return
			}
			p.mu.Lock()
			p.byUID[event.Object.Metadata.UID] = event.Object
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait()
	})
	return p
}

// ready gives the pods of a function that are meant to stay, the youngest first.
func (p *pods) ready(ref manifest.Ref) (all []pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.byUID {
		if one.of() == ref && one.function().Ready && one.Metadata.DeletionTimestamp == nil {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b pod) int { return b.Metadata.CreationTimestamp.Compare(a.Metadata.CreationTimestamp) })
	return all
}

const running = "none yet"

// exit is the code with which the function in a pod ended.
func (p *pods) exit(uid string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ended := p.byUID[uid].function().State.Terminated; ended != nil {
		return strconv.Itoa(ended.ExitCode)
	}
	return running
}

// oneStays checks that of functions that were told to end one goes on for a while.
func (p *pods) oneStays(t *testing.T, told []pod, d time.Duration) {
	t.Helper()
	end := time.After(d)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for slices.ContainsFunc(told, func(one pod) bool { return p.exit(one.Metadata.UID) == running }) {
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
	t.Errorf("of %d pods none waited for the request in its hands", len(told))
}
