package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// subscribers takes the events of test Triggers, by the last of their path.
type subscribers struct {
	mu     sync.Mutex
	broken bool // the first refuses what it gets
	got    map[string][]event.Event
}

func (s *subscribers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e, err := cehttp.NewEventFromHTTPRequest(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/")
	s.got[name] = append(s.got[name], *e)
	switch {
	case name != "first":
		w.WriteHeader(http.StatusNoContent)
	case s.broken:
		http.Error(w, "no room for co2", http.StatusBadRequest)
	default:
		reply := mesh.Derive(*e, "e2e", "com.example.deadletters.replied", "", []byte(`{}`))
		cehttp.WriteResponseWriter(r.Context(), (*binding.EventMessage)(&reply), http.StatusOK, w)
	}
}

func (s *subscribers) mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = false
}

func (s *subscribers) of(name string) []event.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[name]
}

func (s *subscribers) counts() string {
	return fmt.Sprintf("first %d, second %d, replies %d", len(s.of("first")), len(s.of("second")), len(s.of("replies")))
}

// telemesh runs the command with the cluster's warehouse.
func telemesh(t *testing.T, warehouse string, args ...string) (out string, failed bool) {
	t.Helper()
	program := os.Getenv("E2E_TELEMESH")
	if program == "" {
		t.Fatal("E2E_TELEMESH is not set: hack/e2e.sh builds the command and says where it is")
	}
	cmd := exec.CommandContext(t.Context(), program, append(args, "--warehouse", warehouse)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	said, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("telemesh %s: %v\n%s%s", strings.Join(args, " "), err, said, stderr.String())
	return string(said), err != nil
}

// A letter that a subscriber refused is delivered to it again once it is mended, and
// to no other; what it replies goes on.
func TestDeadLetters(t *testing.T) {
	d := onCluster(t)
	warehouse := kubectl(t, "", "get", "configmap", "warehouse", "-n", "platform", "-o", "jsonpath={.data.url}")
	s := &subscribers{broken: true, got: map[string][]event.Event{}}
	port := serve(t, s)
	var triggers strings.Builder
	for name, eventType := range map[string]string{
		"first": "com.example.deadletters", "second": "com.example.deadletters", "replies": "com.example.deadletters.replied",
	} {
		fmt.Fprintf(&triggers, `---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata:
  name: e2e-%[1]s
  namespace: iot
  labels: {%[2]s: e2e}
spec:
  broker: iot
  filters:
    - exact: {type: %[3]s}
  delivery:
    retry: 1
    backoffPolicy: linear
    backoffDelay: PT0.1S
    deadLetterSink:
      ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: dead-letter-sink, namespace: platform}
      uri: /iot/e2e-%[1]s
  subscriber:
    ref: {apiVersion: v1, kind: Service, name: e2e-subscribers, namespace: platform}
    uri: /%[1]s
`, name, mine, eventType)
	}
	t.Cleanup(func() { // what is created ends before this: the other tests are not to have it behind each event
		until(t, patience, "the Triggers gone", func() string {
			out := kubectl(t, "", "get", "subscriptions.messaging.knative.dev", "-n", "iot", "-o", "name")
			if strings.Contains(out, "e2e-") {
				return out
			}
			return behind(t, "iot")
		})
	})
	create(t, d.serviceYAML("e2e-subscribers", servicePort{"http", 80, strconv.Itoa(port)})+triggers.String())
	kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=60s", "-n", "iot", "trigger/e2e-first", "trigger/e2e-second", "trigger/e2e-replies")
	until(t, patience, "the Triggers seen", func() string { return behind(t, "iot") })

	until(t, patience, "the way to the subscribers", func() string {
		resp, err := d.client.Get("http://e2e-subscribers.platform.svc.cluster.local/")
		if err != nil { // until kube-proxy knows of it
			return err.Error()
		}
		resp.Body.Close()
		return ""
	})

	given := event.New()
	given.SetID(fmt.Sprint("e2e-", time.Now().UnixNano())) // another one in each run
	given.SetSource("/e2e/deadletters")
	given.SetType("com.example.deadletters")
	given.SetSubject("rooms/ü")
	given.SetDataContentType("application/octet-stream")
	given.SetExtension("tenantid", "school")
	for i := range 256 {
		given.DataEncoded = append(given.DataEncoded, byte(i))
	}
	if err := function.Post(t.Context(), d.client, brokerURL+"iot/iot", given); err != nil {
		t.Fatal(err)
	}
	type letter struct {
		ID, Trigger, By, Cause string
		Status                 int
	}
	var found letter
	start := time.Now()
	open := func() string {
		out, failed := telemesh(t, warehouse, "deadletters", "list", "--json")
		if failed {
			t.Fatal("the letters cannot be listed")
		}
		for lines := json.NewDecoder(strings.NewReader(out)); lines.More(); {
			var l letter
			if err := lines.Decode(&l); err != nil {
				t.Fatal(err)
			}
			if l.Trigger == "iot/e2e-first" {
				found = l
				return ""
			}
		}
		return "no letter of iot/e2e-first"
	}
	until(t, patience, "the dead letter", open)
	t.Logf("listed %v after the event", since(start))
	id := found.ID
	found.ID = ""
	want := letter{Trigger: "iot/e2e-first", By: "http://e2e-subscribers.platform.svc.cluster.local/first", Cause: "no room for co2\n", Status: 400}
	if diff := gocmp.Diff(want, found); diff != "" {
		t.Errorf("letter (-want +got):\n%s", diff)
	}
	until(t, patience, "the delivery to the second", func() string {
		if len(s.of("second")) == 0 {
			return "nothing came"
		}
		return ""
	})

	if out, failed := telemesh(t, warehouse, "deadletters", "redrive", id); !failed || !strings.Contains(out, "failed  400 no room for co2") {
		t.Errorf("redriven to one that is still broken, it failed: %t", failed)
	}
	s.mend()
	start = time.Now()
	if out, failed := telemesh(t, warehouse, "deadletters", "redrive", id); failed || !strings.Contains(out, id[:12]+"  redriven") {
		t.Errorf("redriven to one that is mended, it failed: %t", failed)
	}
	t.Logf("redriven in %v", since(start))
	until(t, patience, "the reply", func() string {
		if len(s.of("replies")) == 0 {
			return "nothing came"
		}
		return ""
	})
	if out, failed := telemesh(t, warehouse, "deadletters", "redrive", id[:8]); failed || !strings.Contains(out, "before") {
		t.Errorf("redriven twice, it failed: %t", failed)
	}
	// Refused, refused again, taken; the others got theirs once.
	if got, want := s.counts(), "first 3, second 1, replies 1"; got != want {
		t.Errorf("delivered: %s, want %s", got, want)
	}
	for i, got := range s.of("first") {
		for name := range got.Extensions() { // of the Broker
			if strings.HasPrefix(name, "knative") && name != "knativearrivaltime" {
				t.Errorf("delivery %d has the extension %s", i, name)
			}
		}
		if diff := gocmp.Diff(s.of("second")[0], got); diff != "" {
			t.Errorf("delivery %d differs from that to the second (-want +got):\n%s", i, diff)
		}
	}
	if open() == "" {
		t.Error("the letter is still listed")
	}

	// A function of the mesh that cannot read its event.
	broken := mesh.NewEvent(mesh.TelemetryReceived, "/e2e/deadletters", []byte(`{"messages":5}`), given.ID())
	if err := function.Post(t.Context(), d.client, brokerURL+"iot/iot", broken); err != nil {
		t.Fatal(err)
	}
	var line string
	until(t, patience, "the dead letter of a function", func() string {
		out, _ := telemesh(t, warehouse, "deadletters", "list")
		for l := range strings.Lines(out) {
			if strings.Contains(l, "iot/telemetry-flatten") && strings.Contains(l, broken.ID()[:8]) {
				line = l
				return ""
			}
		}
		return "no letter of iot/telemetry-flatten"
	})
	if out, failed := telemesh(t, warehouse, "deadletters", "discard", strings.Fields(line)[0]); failed || out != "1 discarded\n" {
		t.Errorf("discarded %q, failed: %t", out, failed)
	}
}
