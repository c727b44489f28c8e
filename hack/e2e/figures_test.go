package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/errgroup"

	"github.com/telemesh/telemesh/functions"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// TestFigures measures the mesh on the cluster, beside the embedded runtime with
// the same warehouse, and prints the tables of docs/performance.md. E2E_FIGURES is
// how many rounds there are of a cold start, each of which waits for zero twice:
//
//	E2E_FIGURES=5 hack/e2e.sh TestFigures
func TestFigures(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("E2E_FIGURES"))
	if err != nil || rounds < 1 {
		t.Skip("E2E_FIGURES=5 measures for about ten minutes, with five rounds of a cold start")
	}
	alone(t)
	f := newFigures(t)
	f.coldStarts(t, rounds)
	f.latency(t, "cluster", f.client)
	f.memory(t)
	t.Logf("at zero %v after the last message", f.zero(t).Round(time.Second))
	f.latency(t, "embedded", f.embedded(t).Client())
	for _, messages := range []int{1, batch} {
		f.throughput(t, messages)
	}
}

const (
	figuresDevice = "figures"
	figuresAlone  = "figures-alone"  // a function that nothing leads to
	figuresIngest = "figures-ingest" // telemetry-ingest that wakes nobody
)

type figures struct {
	*deployed
	all  []*manifest.Service // of the mesh, and those of the test
	next mesh.Instant        // that no message was measured at yet
	pods *startWatch
}

func newFigures(t *testing.T) *figures {
	t.Helper()
	f := &figures{deployed: onCluster(t), next: at(t, "2026-01-01T00:00:00Z"), pods: watchStarts(t)}
	var copies []string
	for from, to := range map[string]string{"telemetry-flatten": figuresAlone, "telemetry-ingest": figuresIngest} {
		copies = append(copies, copyOf(t, from, to))
		create(t, copies[len(copies)-1])
		kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=60s", "-n", "iot", "ksvc/"+to)
	}
	set, err := manifests(copies...)
	if err != nil {
		t.Fatal(err)
	}
	f.all = set.Services
	start := at(t, "2025-12-01T00:00:00Z")
	m := metadata{
		placements: []mesh.Placement{{DeviceID: figuresDevice, TenantID: figuresDevice, Building: "B", Room: "1", ValidFrom: start, Version: 1}},
		actions:    []mesh.Action{{ActionID: figuresDevice, TenantID: figuresDevice, Building: "B", Room: "1", Action: "open window", TakenAt: start, Version: 1}},
		customers:  []mesh.Customer{{CustomerID: figuresDevice, Name: "F", Country: "NL", Version: 1}},
	}
	m.tell(t, f.client)
	return f
}

// copyOf gives a Service of namespace iot as it is on the cluster, by another name,
// that wakes no others.
func copyOf(t *testing.T, from, to string) string {
	t.Helper()
	var service struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       struct {
			Template struct {
				Metadata map[string]any `json:"metadata"`
				Spec     map[string]any `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(kubectl(t, "", "get", "ksvc", "-n", "iot", from, "-o", "json")), &service); err != nil {
		t.Fatal(err)
	}
	service.Metadata = map[string]any{"name": to, "namespace": "iot", "labels": map[string]string{mine: "e2e", "networking.knative.dev/visibility": "cluster-local"}}
	container := service.Spec.Template.Spec["containers"].([]any)[0].(map[string]any)
	if env, ok := container["env"].([]any); ok {
		container["env"] = slices.DeleteFunc(env, func(v any) bool { return v.(map[string]any)["name"] == "WAKE" })
	}
	text, err := json.Marshal(service)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (f *figures) zero(t *testing.T) time.Duration { return atZero(t, f.all) }

// messages makes n messages of three readings, of other instants than any before.
func (f *figures) messages(n int) (messages [][]byte, from mesh.Instant) {
	from = f.next
	f.next = mesh.At(from.Time().Add(time.Duration(n) * 10 * time.Minute))
	return madeUp(figuresDevice, from, n), from
}

// stored waits until the readings from an instant on are joined and stored, and
// gives when each was, by instant. It asks seldom: the emulator answers one
// request after the other, also those of the functions.
func (f *figures) stored(t *testing.T, from mesh.Instant, readings int, every time.Duration) (last time.Time, at map[mesh.Instant]time.Time) {
	t.Helper()
	tick := time.NewTicker(every)
	defer tick.Stop()
	sql := fmt.Sprintf("SELECT reading_id, observed_at, recorded_at FROM iot_analytics_internal.readings WHERE device_id = '%s' AND observed_at >= TIMESTAMP '%s'", figuresDevice, from)
	for deadline := time.Now().Add(patience); ; <-tick.C {
		type stored struct {
			observed mesh.Instant
			recorded time.Time
		}
		first := map[string]stored{} // a delivery again stores again what was there before
		for _, row := range query(t, f.store, sql) {
			id, one := row[0].(string), stored{mesh.At(row[1].(time.Time)), row[2].(time.Time)}
			if before, ok := first[id]; !ok || one.recorded.Before(before.recorded) {
				first[id] = one
			}
		}
		if len(first) == readings {
			at = map[mesh.Instant]time.Time{}
			for _, one := range first {
				at[one.observed] = later(at[one.observed], one.recorded)
				last = later(last, one.recorded)
			}
			return last, at
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d readings are stored after %v", len(first), readings, patience)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ask sends a request once. What is measured is not to be sent twice.
func ask(t *testing.T, client *http.Client, method, url string, body []byte, header ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s", method, url, resp.Status)
	}
}

func (f *figures) post(t *testing.T, client *http.Client, url string, messages [][]byte) {
	t.Helper()
	ask(t, client, http.MethodPost, url, bytes.Join(messages, []byte{'\n'}), "Content-Type", "application/x-ndjson", "Authorization", "Bearer "+os.Getenv("E2E_TOKEN"))
}

// spread is what was measured of one thing.
type spread []time.Duration

func (s spread) at(share float64) time.Duration {
	if len(s) == 0 { // of a pod that was not ready when all was done
		return 0
	}
	slices.Sort(s)
	return s[min(int(share*float64(len(s))), len(s)-1)]
}

func (s spread) String() string {
	return fmt.Sprintf("%d ms | %d ms | %d–%d ms, n = %d", s.at(0.5).Milliseconds(), s.at(0.95).Milliseconds(), s.at(0).Milliseconds(), s.at(1).Milliseconds(), len(s))
}

// coldStarts sends one message when all is at zero, in turn by the ingest that
// wakes what follows and by one that does not, and wakes one function alone.
func (f *figures) coldStarts(t *testing.T, rounds int) {
	const alone, woken, chained = "one function alone", "the chain, woken at once", "the chain, one after the other"
	urls := map[string]string{woken: ingestURL, chained: "http://" + figuresIngest + ".iot.svc.cluster.local/"}
	took, busy, parts := map[string]spread{}, map[string]spread{}, map[string]map[string]*part{woken: {}, chained: {}}
	for range rounds {
		for _, way := range []string{woken, chained} {
			f.zero(t)
			start := time.Now()
			ask(t, f.client, http.MethodGet, "http://"+figuresAlone+".iot.svc.cluster.local/", nil, "User-Agent", "telemesh-wake")
			took[alone] = append(took[alone], time.Since(start))

			messages, from := f.messages(1)
			before := processors(t)
			start = time.Now()
			f.post(t, f.client, urls[way], messages)
			accepted := time.Since(start)
			last, _ := f.stored(t, from, 3, 100*time.Millisecond)
			took[way] = append(took[way], last.Sub(start))
			took[way+", accepted"] = append(took[way+", accepted"], accepted)
			busy[way] = append(busy[way], processors(t)-before)
			t.Logf("%s: %v, accepted %v; alone %v; processors %v", way, last.Sub(start).Round(time.Millisecond), accepted.Round(time.Millisecond), took[alone][len(took[alone])-1].Round(time.Millisecond), busy[way][len(busy[way])-1])
			f.collect(t, start, parts[way])
		}
	}
	for _, what := range []string{alone, woken, woken + ", accepted", chained, chained + ", accepted"} {
		t.Logf("| %s | %v | %.1f× |", what, took[what], float64(took[what].at(0.5))/float64(took[alone].at(0.5)))
	}
	for _, way := range []string{woken, chained} {
		t.Logf("%s: %.1f s of the processors' time; ms after the request, medians:", way, busy[way].at(0.5).Seconds())
		var names []string
		for name := range parts[way] {
			names = append(names, name)
		}
		slices.SortFunc(names, func(a, b string) int { return int(parts[way][a].created.at(0.5) - parts[way][b].created.at(0.5)) })
		for _, name := range names {
			p := parts[way][name]
			t.Logf("| %s | %d | %d | %d | %d | %s |", name, p.created.at(0.5).Milliseconds(), p.scheduled.at(0.5).Milliseconds(),
				p.listening.at(0.5).Milliseconds(), p.ready.at(0.5).Milliseconds(), p.accepted)
		}
	}
}

// part is when things happened to the pod of a Service after a request, in all
// rounds, and when the Broker took what the function made.
type part struct {
	created, scheduled, listening, ready spread
	made                                 spread
	accepted                             string
}

// makes is what shows that a function has answered.
var makes = map[string]string{
	"telemetry-ingest": mesh.TelemetryReceived, figuresIngest: mesh.TelemetryReceived, "telemetry-flatten": mesh.TelemetryFlattened,
	"tenant-enrich": mesh.TelemetryEnriched, "analytics-join": mesh.AnalyticsJoined,
}

func (f *figures) collect(t *testing.T, start time.Time, parts map[string]*part) {
	t.Helper()
	accepted := map[string]time.Duration{}
	for _, row := range query(t, f.store, fmt.Sprintf("SELECT type, received_at FROM event_log.events WHERE received_at >= TIMESTAMP '%s' AND broker IN ('iot/iot', 'analytics/analytics')", start.UTC().Format(time.RFC3339Nano))) {
		after := row[1].(time.Time).Sub(start)
		if first, ok := accepted[row[0].(string)]; !ok || after < first {
			accepted[row[0].(string)] = after
		}
	}
	for _, p := range f.pods.since(start) {
		if p.service == figuresAlone {
			continue
		}
		one := parts[p.service]
		if one == nil {
			one = &part{}
			parts[p.service] = one
		}
		add := func(s *spread, at time.Time) {
			if !at.IsZero() {
				*s = append(*s, at.Sub(start))
			}
		}
		add(&one.created, p.created)
		add(&one.scheduled, p.scheduled)
		add(&one.ready, p.ready)
		for line := range strings.Lines(kubectl(t, "", "logs", "-n", p.namespace, p.name, "-c", "user-container")) {
			var said struct {
				Time time.Time
				Msg  string
			}
			if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "serving" {
				add(&one.listening, said.Time)
			}
		}
		if at, ok := accepted[makes[p.service]]; ok {
			one.made = append(one.made, at)
			one.accepted = strconv.FormatInt(one.made.at(0.5).Milliseconds(), 10)
		}
	}
}

// embedded is the mesh in this process, with the cluster's warehouse.
func (f *figures) embedded(t *testing.T) *local.Mesh {
	t.Helper()
	set, err := manifests()
	if err != nil {
		t.Fatal(err)
	}
	m, err := local.Open(t.Context(), local.Config{
		Dir: t.TempDir(), Manifests: set, Functions: functions.Table, Warehouse: f.store,
		Set: map[manifest.Ref]map[string]string{portalService: portalHere(t)},
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// latency sends messages one by one and tells what each took from the request to
// its row.
func (f *figures) latency(t *testing.T, what string, client *http.Client) {
	t.Helper()
	const messages, every = 40, 250 * time.Millisecond
	_, from := f.messages(0)
	sent := map[mesh.Instant]time.Time{}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range messages + 4 {
		message, instant := f.messages(1)
		if i >= 4 { // the first ones find who it is that they meet
			sent[instant] = time.Now()
		}
		f.post(t, client, ingestURL, message)
		<-tick.C
	}
	_, at := f.stored(t, from, 3*(messages+4), time.Second)
	var took spread
	for instant, begin := range sent {
		took = append(took, at[instant].Sub(begin))
	}
	t.Logf("| %s, one message every %v | %v |", what, every, took)
}

// hops is how many Triggers an event passes in throughput: as many as a message
// does to its row.
const hops = 4

// throughput sends events of so many messages through a chain of Triggers, whose
// subscribers answer at once, on the cluster's Broker and on the embedded one.
func (f *figures) throughput(t *testing.T, messages int) {
	t.Helper()
	payloads, _ := f.messages(messages)
	var all []mesh.Message
	for i, payload := range payloads {
		all = append(all, mesh.Message{ID: fmt.Sprint(i), Source: "/figures", ReceivedAt: mesh.At(time.Now()), Payload: payload})
	}
	c := &relay{data: mesh.EncodeMessages(all), arrived: make(chan int, 1)}
	port := serve(t, function.Events(c.handle, slog.New(slog.DiscardHandler), "", nil))
	namespace := fmt.Sprintf("figures-%d", messages)
	onCluster := chainYAML(namespace, netip.AddrPortFrom(f.host, uint16(port)))
	create(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+", labels: {"+mine+": e2e}}\n---\n"+onCluster)
	kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=60s", "-n", namespace, "broker,trigger", "--all")

	set, err := manifest.Load(manifest.Folder{Name: "figures", FS: fstest.MapFS{"chain.yaml": {Data: []byte(chainYAML(namespace, netip.AddrPortFrom(netip.MustParseAddr(cmp.Or(listenAt(), "127.0.0.1")), uint16(port))))}}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := local.Open(t.Context(), local.Config{Dir: t.TempDir(), Manifests: set, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	url := brokerURL + namespace + "/chain"
	var real, here []float64
	for range 3 { // in turn
		real = append(real, c.rate(t, f.client, url))
		here = append(here, c.rate(t, m.Client(), url))
	}
	slices.Sort(real)
	slices.Sort(here)
	t.Logf("| %d | %.0f (%.0f–%.0f) | %.0f (%.0f–%.0f) | %.0f× |", messages, real[1], real[0], real[2], here[1], here[0], here[2], here[1]/real[1])
}

func chainYAML(namespace string, at netip.AddrPort) string {
	text := fmt.Sprintf("apiVersion: eventing.knative.dev/v1\nkind: Broker\nmetadata: {name: chain, namespace: %s}\n", namespace)
	for hop := range hops {
		text += fmt.Sprintf("---\napiVersion: eventing.knative.dev/v1\nkind: Trigger\nmetadata: {name: hop%[2]d, namespace: %[1]s}\n"+
			"spec: {broker: chain, filters: [{exact: {type: hop%[2]d}}], subscriber: {uri: 'http://%[3]s/'}}\n", namespace, hop, at)
	}
	return text
}

// relay answers an event with one of the next hop, and notes those of the last.
type relay struct {
	data    []byte
	sent    int
	arrived chan int
}

func (r *relay) handle(_ context.Context, in event.Event) ([]event.Event, error) {
	var hop int
	if _, err := fmt.Sscanf(in.Type(), "hop%d", &hop); err != nil {
		return nil, mesh.Permanent(err)
	}
	if hop == hops-1 {
		i, err := strconv.Atoi(in.Subject())
		r.arrived <- i
		return nil, err
	}
	out := mesh.Derive(in, "figures", fmt.Sprintf("hop%d", hop+1), "", in.Data())
	out.SetSubject(in.Subject())
	return []event.Event{out}, nil
}

// rate gives how many events a second go through the chain, from the first that is
// posted to the last that arrives.
func (r *relay) rate(t *testing.T, client *http.Client, url string) float64 {
	t.Helper()
	const events, senders = 300, 16
	first := r.sent
	r.sent += events
	waiting := make(chan int, events)
	for i := range events {
		waiting <- first + i
	}
	close(waiting)
	start := time.Now()
	var posting errgroup.Group
	for range senders {
		posting.Go(func() error {
			for i := range waiting {
				e := mesh.NewEvent("hop0", "/figures", r.data, strconv.Itoa(i))
				e.SetSubject(strconv.Itoa(i))
				if err := function.Post(t.Context(), client, url, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ended := time.After(patience)
	for got := map[int]bool{}; len(got) < events; {
		select {
		case i := <-r.arrived:
			if i >= first { // no delivery again of an earlier one
				got[i] = true
			}
		case <-ended:
			t.Fatalf("%d of %d events arrived in %v", len(got), events, patience)
		}
	}
	took := time.Since(start)
	if err := posting.Wait(); err != nil {
		t.Fatal(err)
	}
	return events / took.Seconds()
}

// memory tells what functions hold that run, or are just ending.
func (f *figures) memory(t *testing.T) {
	t.Helper()
	type summary struct {
		Pods []struct {
			PodRef     struct{ Name, Namespace string }
			Containers []struct {
				Name   string
				Memory struct{ WorkingSetBytes float64 }
			}
		}
	}
	const mib = 1 << 20
	const function, proxy = "user-container", "queue-proxy"
	most := map[string]map[string]float64{}
	for node := range strings.FieldsSeq(kubectl(t, "", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")) {
		var s summary
		if err := json.Unmarshal([]byte(kubectl(t, "", "get", "--raw", "/api/v1/nodes/"+node+"/proxy/stats/summary")), &s); err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Pods {
			service := f.pods.service(p.PodRef.Name)
			if service == "" {
				continue
			}
			if most[service] == nil {
				most[service] = map[string]float64{}
			}
			for _, c := range p.Containers {
				most[service][c.Name] = max(most[service][c.Name], c.Memory.WorkingSetBytes/mib)
			}
		}
	}
	for _, service := range slices.Sorted(maps.Keys(most)) {
		t.Logf("| %s | %.1f MiB | %.1f MiB |", service, most[service][function], most[service][proxy])
	}
}

// started is when the watch saw what of a pod.
type started struct {
	namespace, name, service  string
	created, scheduled, ready time.Time
}

// startWatch sees what becomes of the pods of Services, as kubectl tells it:
// Kubernetes itself writes down whole seconds.
type startWatch struct {
	mu   sync.Mutex
	pods map[string]*started
}

func watchStarts(t *testing.T) *startWatch {
	t.Helper()
	w := &startWatch{pods: map[string]*started{}}
	cmd := exec.CommandContext(t.Context(), "kubectl", "get", "pods", "-A", "-l", "serving.knative.dev/service", "--watch", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for d := json.NewDecoder(out); ; {
			var p struct {
				Metadata struct {
					Namespace, Name string
					Labels          map[string]string
				}
				Spec   struct{ NodeName string }
				Status struct {
					Conditions []struct{ Type, Status string }
				}
			}
			if d.Decode(&p) != nil {
				return
			}
			now := time.Now()
			w.mu.Lock()
			one := w.pods[p.Metadata.Name]
			if one == nil {
				one = &started{namespace: p.Metadata.Namespace, name: p.Metadata.Name, service: p.Metadata.Labels["serving.knative.dev/service"], created: now}
				w.pods[p.Metadata.Name] = one
			}
			if p.Spec.NodeName != "" && one.scheduled.IsZero() {
				one.scheduled = now
			}
			for _, c := range p.Status.Conditions {
				if c.Type == "Ready" && c.Status == "True" && one.ready.IsZero() {
					one.ready = now
				}
			}
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait() // says that it was killed
	})
	return w
}

// since gives the pods that are there since start.
func (w *startWatch) since(start time.Time) (pods []started) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pods {
		if p.created.After(start) {
			pods = append(pods, *p)
		}
	}
	return pods
}

func (w *startWatch) service(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pods[name]; p != nil {
		return p.service
	}
	return ""
}

// processors is how long the processors of this machine, which is the node or one
// of them, have worked since it started. They count hundredths of a second.
func processors(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var busy time.Duration
	for i, field := range strings.Fields(line)[1:] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if i != 3 && i != 4 && i < 8 { // idle, waiting for a disk; guests are counted twice
			busy += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return busy
}
