package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

const firstAddress = "http://first.iot.svc.cluster.local"

// emptyWarehouse is one of a folder.
func emptyWarehouse(t *testing.T) warehouse.Warehouse {
	t.Helper()
	w, err := openWarehouse(t.Context(), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// dead stores a letter that came to path after a failure at destination, and gives
// its id.
func dead(t *testing.T, w warehouse.Warehouse, path, destination, eventType string, n int) string {
	t.Helper()
	e := mesh.NewEvent(eventType, "/test", []byte(`{}`), fmt.Sprint(n))
	e.SetExtension("knativeerrordest", destination)
	l := deadletter.New(e, path, time.Now())
	if err := deadletter.Put(t.Context(), w, &l); err != nil {
		t.Fatal(err)
	}
	return l.ID
}

// asked is a dead-letter-sink: it records of each letter what outcome says.
type asked struct {
	warehouse warehouse.Warehouse
	outcome   func(letter mesh.RedriveLetter) deadletter.Outcome

	mu       sync.Mutex
	requests [][]mesh.RedriveLetter
}

func (a *asked) post(ctx context.Context, namespace string, e event.Event) error {
	request, err := mesh.Decode[mesh.Redrive](e.Data())
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.requests = append(a.requests, request.Letters)
	a.mu.Unlock()
	for _, l := range request.Letters {
		o := a.outcome(l)
		o.LetterID, o.RequestSource, o.RequestID, o.DoneAt = l.ID, e.Source(), e.ID(), mesh.At(time.Now())
		if err := deadletter.Record(ctx, a.warehouse, o); err != nil {
			return err
		}
	}
	return nil
}

func redriven(mesh.RedriveLetter) deadletter.Outcome {
	return deadletter.Outcome{Outcome: deadletter.Redriven}
}

// redriveOf is a redrive whose Triggers lead where they led.
func redriveOf(w warehouse.Warehouse, post func(context.Context, string, event.Event) error) *redrive {
	leads := func(context.Context, []string) (deadletter.Leads, error) {
		return deadletter.Leads{"iot": {"first": firstAddress}}, nil
	}
	return newRedrive(postbox{warehouse: w}, leads, post, time.Millisecond, time.Minute)
}

func hintOf(err error) string {
	var h hinted
	errors.As(err, &h)
	return h.hint
}

// Where Brokers keep no events, the POST of a request is answered when its letters are
// delivered, which may take minutes, and each letter may take long.
func TestRedriveDoesNotWaitForItsPosts(t *testing.T) {
	w := emptyWarehouse(t)
	var ids []string
	for n := range 20 {
		ids = append(ids, dead(t, w, "/iot/first", firstAddress, "com.example.a", n))
	}
	sink := &asked{warehouse: w, outcome: redriven}
	var out bytes.Buffer
	err := redriveOf(w, func(ctx context.Context, namespace string, e event.Event) error {
		if err := sink.post(ctx, namespace, e); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}).run(t.Context(), nil, true, &out)
	if err != nil || !strings.HasSuffix(out.String(), "\n20 redriven, 0 failed\n") || strings.Count(out.String(), "  redriven\n") != 20 {
		t.Errorf("redrive: %v\n%s", err, &out)
	}
	var got []string
	for _, letters := range sink.requests {
		if len(letters) > deadletter.LettersOfRequest {
			t.Errorf("a request of %d letters, want %d at most", len(letters), deadletter.LettersOfRequest)
		}
		for _, l := range letters {
			got = append(got, l.ID)
			if l.Subscriber != firstAddress {
				t.Errorf("letter %s is to go to %s, want %s", l.ID, l.Subscriber, firstAddress)
			}
		}
	}
	slices.Sort(ids)
	slices.Sort(got)
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

// What becomes of a letter, and what is said of it and of all.
func TestRedriveOutcomes(t *testing.T) {
	for name, test := range map[string]struct {
		before   string // what became of it before
		outcome  deadletter.Outcome
		line     string // behind its id; RE
		counts   string
		err, and string // in the hint
	}{
		"delivered": {"", deadletter.Outcome{Outcome: deadletter.Redriven}, "redriven", "1 redriven, 0 failed", "", ""},
		"failed": {"", deadletter.Outcome{Outcome: deadletter.Failed, Status: 400, Cause: "no"}, "failed  400 no", "0 redriven, 1 failed",
			"1 of 1 dead letters are not delivered", "what failed stays open;"},
		"redriven by somebody meanwhile":  {deadletter.Redriven, deadletter.Outcome{Outcome: deadletter.Closed}, "redriven  before, at ", "0 redriven, 0 failed, 1 closed before", "", ""},
		"discarded by somebody meanwhile": {deadletter.Discarded, deadletter.Outcome{Outcome: deadletter.Closed}, "discarded  before, at ", "0 redriven, 0 failed, 1 closed before", "1 of 1 dead letters are not delivered", "what was discarded does not"},
	} {
		t.Run(name, func(t *testing.T) {
			w := emptyWarehouse(t)
			id := dead(t, w, "/iot/first", firstAddress, "com.example.a", 1)
			sink := &asked{warehouse: w, outcome: func(l mesh.RedriveLetter) deadletter.Outcome {
				if test.before != "" {
					o := deadletter.Outcome{LetterID: l.ID, Outcome: test.before, RequestSource: "/other", RequestID: "1", DoneAt: mesh.At(time.Now())}
					if err := deadletter.Record(t.Context(), w, o); err != nil {
						t.Error(err)
					}
				}
				return test.outcome
			}}
			check := func(ids []string) {
				t.Helper()
				var out bytes.Buffer
				err := redriveOf(w, sink.post).run(t.Context(), ids, ids == nil, &out)
				if !strings.HasPrefix(out.String(), id[:shownID]+"  "+test.line) || !strings.HasSuffix(out.String(), "\n"+test.counts+"\n") {
					t.Errorf("redrive says\n%swant %q and %q", &out, test.line, test.counts)
				}
				if said := fmt.Sprint(err); err == nil != (test.err == "") || !strings.Contains(said, test.err) || !strings.Contains(hintOf(err), test.and) {
					t.Errorf("redrive = %v (%s), want %q (%q)", err, hintOf(err), test.err, test.and)
				}
			}
			check(nil)
			if test.before != "" { // and when it was closed before it is chosen
				check([]string{id})
				if len(sink.requests) != 1 {
					t.Errorf("%d requests for a letter that is closed, want none but the first", len(sink.requests))
				}
			}
		})
	}
}

func TestRedriveInterrupted(t *testing.T) {
	w := emptyWarehouse(t)
	for n := range deadletter.LettersOfRequest*deadletter.RequestsAtOnce + 3 {
		dead(t, w, "/iot/first", firstAddress, "com.example.a", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var begun sync.WaitGroup
	begun.Add(deadletter.RequestsAtOnce)
	go func() {
		begun.Wait()
		cancel()
	}()
	var out bytes.Buffer
	err := redriveOf(w, func(ctx context.Context, _ string, _ event.Event) error {
		begun.Done()
		<-ctx.Done()
		return ctx.Err()
	}).run(ctx, nil, true, &out)
	if want := "0 redriven, 0 failed, 32 without an outcome yet, 3 not asked for\n"; out.String() != want {
		t.Errorf("interrupted it says\n%swant\n%s", &out, want)
	}
	if err == nil || err.Error() != "interrupted" || !strings.Contains(hintOf(err), "what was asked for goes on") {
		t.Errorf("redrive = %v (%s), want that it was interrupted and what that means", err, hintOf(err))
	}
}

func TestRedriveGivesUpWaiting(t *testing.T) {
	w := emptyWarehouse(t)
	id := dead(t, w, "/iot/first", firstAddress, "com.example.a", 1)
	r := redriveOf(w, func(context.Context, string, event.Event) error { return nil })
	r.Patience = 5 * time.Millisecond
	var out bytes.Buffer
	err := r.run(t.Context(), []string{id}, false, &out)
	if !strings.Contains(out.String(), "no outcome yet  nothing came of it in 5ms") || !strings.HasSuffix(out.String(), "\n0 redriven, 0 failed, 1 without an outcome yet\n") {
		t.Errorf("redrive says\n%s", &out)
	}
	if err == nil || !strings.Contains(hintOf(err), "may get one") {
		t.Errorf("redrive = %v (%s), want an error that says that an outcome may come", err, hintOf(err))
	}
}

// After a Broker that does not take a request no other is asked.
func TestRedriveThatIsRefused(t *testing.T) {
	w := emptyWarehouse(t)
	const n = deadletter.LettersOfRequest*deadletter.RequestsAtOnce + 1
	for i := range n {
		dead(t, w, "/iot/first", firstAddress, "com.example.a", i)
	}
	for name, test := range map[string]struct {
		status    int
		err, hint string
	}{
		"without a token": {http.StatusUnauthorized, "post to Broker iot/iot: status 401: it asks who posts", "leave --brokers out"},
		"not let":         {http.StatusForbidden, "post to Broker iot/iot: status 403: it asks who posts", "leave --brokers out"},
		"not understood":  {http.StatusBadRequest, "400 Bad Request: so it is", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var paths []string
			ingress := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				paths = append(paths, r.URL.Path)
				mu.Unlock()
				http.Error(w, "so it is", test.status)
			}))
			defer ingress.Close()
			through := clusterBrokers{address: ingress.URL}
			defer through.close()
			var out bytes.Buffer
			err := redriveOf(w, through.post).run(t.Context(), nil, true, &out)
			if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(hintOf(err), test.hint) || strings.Contains(err.Error()+hintOf(err), "/oidc") {
				t.Errorf("redrive = %v (%s), want %q (%q)", err, hintOf(err), test.err, test.hint)
			}
			if want := fmt.Sprintf("0 redriven, 0 failed, %d not asked for\n", n); out.String() != want {
				t.Errorf("redrive says\n%swant\n%s", &out, want)
			}
			if len(paths) == 0 || len(paths) > deadletter.RequestsAtOnce || paths[0] != "/iot/iot" {
				t.Errorf("posted to %q, want /iot/iot, each request once at most", paths)
			}
		})
	}
	for _, address := range []string{"localhost:8080", "localhost", "http://"} {
		through := clusterBrokers{address: address}
		if _, err := through.leads(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "is no address") {
			t.Errorf("--brokers %s: %v, want that it is no address", address, err)
		}
	}
}

// Through a cluster it says where Triggers lead; and whoever may not make tokens for
// Brokers that ask for them is told, and has posted nothing.
func TestRedriveThroughACluster(t *testing.T) {
	const list, broker = "/apis/eventing.knative.dev/v1/namespaces/iot/triggers", "/apis/eventing.knative.dev/v1/namespaces/iot/brokers/iot"
	answers := map[string]string{
		list: `{"apiVersion": "eventing.knative.dev/v1", "kind": "TriggerList", "items": [{"apiVersion": "eventing.knative.dev/v1", "kind": "Trigger",
			"metadata": {"name": "first"}, "status": {"subscriberUri": "` + firstAddress + `"}}]}`,
		broker: `{"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "status": {"address": {"url": "http://broker-ingress.knative-eventing.svc.cluster.local/iot/iot", "audience": "a"}}}`,
	}
	var forbidden []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, is := answers[r.URL.Path]
		if !is {
			forbidden = append(forbidden, r.Method+" "+r.URL.Path)
			w.WriteHeader(http.StatusForbidden)
			answer = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "you may not"}`
		}
		fmt.Fprint(w, answer)
	}))
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: %q}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
users: [{name: me, user: {}}]
`, server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	w := emptyWarehouse(t)
	dead(t, w, "/iot/first", firstAddress, "com.example.a", 1)
	through := clusterBrokers{kubeconfig: kubeconfig}
	defer through.close()
	r := redriveOf(w, through.post)
	r.Leads = through.leads
	var out bytes.Buffer
	err := r.run(t.Context(), nil, true, &out)
	if err == nil || !strings.Contains(err.Error(), "you may not make tokens of ServiceAccount platform/dead-letter-sink") || !strings.Contains(hintOf(err), "who asks it") {
		t.Errorf("redrive = %v (%s), want that no token can be made", err, hintOf(err))
	}
	if want := "0 redriven, 0 failed, 1 not asked for\n"; out.String() != want {
		t.Errorf("redrive says\n%swant\n%s", &out, want)
	}
	if diff := cmp.Diff([]string{"POST /api/v1/namespaces/platform/serviceaccounts/dead-letter-sink/token"}, forbidden); diff != "" {
		t.Errorf("asked for besides (-want +got):\n%s", diff)
	}
	dead(t, w, "/crm/first", firstAddress, "com.example.a", 2)
	if err := r.run(t.Context(), nil, true, &out); err == nil || !strings.Contains(err.Error(), "read Triggers of namespace crm") {
		t.Errorf("redrive = %v, want that Triggers of crm cannot be read", err)
	}
}

// A request to redrive that failed names letters that are open, and addresses of then.
func TestRedriveAllLeavesRequestsOut(t *testing.T) {
	w := emptyWarehouse(t)
	id := dead(t, w, "/iot/first", firstAddress, "com.example.a", 1)
	dead(t, w, "/iot/dead-letter-redrive", firstAddress, mesh.RedriveRequested, 2)
	sink := &asked{warehouse: w, outcome: redriven}
	var out bytes.Buffer
	if err := redriveOf(w, sink.post).run(t.Context(), nil, true, &out); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([][]mesh.RedriveLetter{{{ID: id, Subscriber: firstAddress}}}, sink.requests); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(out.String(), "1 left out that are requests to redrive") || !strings.HasSuffix(out.String(), "\n1 redriven, 0 failed\n") {
		t.Errorf("redrive says\n%s", &out)
	}
}

// What nobody can be asked for fails, and the others are asked for.
func TestRedriveOfWhatLeadsNowhere(t *testing.T) {
	w := emptyWarehouse(t)
	gone := dead(t, w, "/iot/gone", firstAddress, "com.example.a", 1)
	good := dead(t, w, "/iot/first", firstAddress, "com.example.a", 2)
	sink := &asked{warehouse: w, outcome: redriven}
	var out bytes.Buffer
	if err := redriveOf(w, sink.post).run(t.Context(), []string{gone, good}, false, &out); err == nil {
		t.Error("redrive of a letter whose Trigger is gone gave no error")
	}
	for _, want := range []string{gone[:shownID] + "  failed  there is no Trigger iot/gone any more", good[:shownID] + "  redriven", "\n1 redriven, 1 failed\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("redrive does not say %q:\n%s", want, &out)
		}
	}
}

func TestWhereLettersGo(t *testing.T) {
	const (
		second = "http://second.iot.svc.cluster.local/path"
		broker = "http://broker-ingress.knative-eventing.svc.cluster.local/"
		kafka  = "http://kafka-broker-ingress.knative-eventing.svc.cluster.local/"
	)
	all := deadletter.Leads{"iot": {"first": firstAddress, "second": second, "also-second": second, "crm": kafka + "crm/crm", "new": ""}, "crm": {"third": firstAddress}}
	for _, test := range []struct {
		letter  deadletter.Letter
		want    string
		moved   bool
		problem string
	}{
		{deadletter.Letter{Namespace: "iot", Trigger: "first", Destination: firstAddress}, firstAddress, false, ""},
		{deadletter.Letter{Namespace: "iot", Trigger: "first", Destination: firstAddress + "/"}, firstAddress, false, ""},
		// Its Broker did not say who failed, which is known all the same.
		{deadletter.Letter{Namespace: "iot", Trigger: "first"}, firstAddress, false, ""},
		// Its subscriber took it, and the Broker not the reply.
		{deadletter.Letter{Namespace: "iot", Trigger: "first", Destination: broker + "iot/iot"}, firstAddress, false, ""},
		{deadletter.Letter{Namespace: "iot", Trigger: "first", Destination: "http://evil.example.com"}, firstAddress, true, ""},
		{deadletter.Letter{Namespace: "iot", Trigger: "first", Destination: broker + "crm/crm"}, firstAddress, true, ""},
		// Brokers became ones of another class.
		{deadletter.Letter{Namespace: "iot", Trigger: "crm", Destination: broker + "crm/crm"}, kafka + "crm/crm", false, ""},
		{deadletter.Letter{Namespace: "iot", Trigger: "gone", Destination: firstAddress}, "", false, "no Trigger iot/gone any more"},
		{deadletter.Letter{Namespace: "iot", Trigger: "third", Destination: firstAddress}, "", false, "no Trigger iot/third any more"},
		{deadletter.Letter{Namespace: "iot", Trigger: "new", Destination: firstAddress}, "", false, "no address of the subscriber of Trigger iot/new"},
		// Of a Trigger without a dead letter sink of its own.
		{deadletter.Letter{Namespace: "iot", Destination: firstAddress}, firstAddress, false, ""},
		{deadletter.Letter{Namespace: "iot", Destination: broker + "crm/crm"}, kafka + "crm/crm", false, ""},
		{deadletter.Letter{Namespace: "iot", Destination: second}, "", false, "several lead to " + second + " (also-second, second)"},
		{deadletter.Letter{Namespace: "iot", Destination: "http://evil.example.com"}, "", false, "none of namespace iot leads to http://evil.example.com"},
		{deadletter.Letter{Namespace: "iot"}, "", false, "names neither its Trigger nor the subscriber"},
		{deadletter.Letter{Destination: firstAddress}, "", false, "no Broker to ask"},
	} {
		got, moved, err := all.Of(&test.letter)
		if got != test.want || moved != test.moved || (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
			t.Errorf("of(%s/%s, failed at %q) = %q, moved %t, %v, want %q, moved %t, error %q", test.letter.Namespace, test.letter.Trigger, test.letter.Destination, got, moved, err, test.want, test.moved, test.problem)
		}
	}
}

// Each Trigger of the mesh that is built in leads somewhere.
func TestLeadsOfTheMesh(t *testing.T) {
	set, err := loadManifests("")
	if err != nil {
		t.Fatal(err)
	}
	all := leadsOf(set)
	for _, trigger := range set.Triggers {
		if address := all[trigger.Namespace][trigger.Name]; !strings.HasPrefix(address, "http://") {
			t.Errorf("Trigger %s leads to %q", trigger.Ref(), address)
		}
	}
	graph, err := set.Topology()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, deadletter.LeadsOf(graph)); diff != "" {
		t.Errorf("by the manifests, and by what functions know of them (-manifests +topology):\n%s", diff)
	}
	if got, want := all["iot"]["telemetry-flatten"], "http://telemetry-flatten.iot.svc.cluster.local"; got != want {
		t.Errorf("Trigger iot/telemetry-flatten leads to %s, want %s", got, want)
	}
}
