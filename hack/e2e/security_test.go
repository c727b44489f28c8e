package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// TestSecured switches on what docs/security.md does, on the mesh that runs: Brokers
// then refuse strangers, and senders what is not theirs to send, and the mesh works;
// and when it is switched off again it works, too.
//
// It changes settings of the whole cluster, so that it runs where E2E_SECURE is set,
// and puts them back.
func TestSecured(t *testing.T) {
	needCluster(t)
	if os.Getenv("E2E_SECURE") == "" {
		t.Skip("it changes settings of the whole cluster: E2E_SECURE=1 lets it")
	}
	d := onCluster(t)
	alone(t)
	const device, school, office = "secured-1", "secured-school", "secured-office"
	known := metadata{placements: []mesh.Placement{{DeviceID: device, TenantID: school, Building: "T", Room: "T5.38", Version: 1, ValidFrom: at(t, "2022-10-01T00:00:00Z")}}}
	known.tell(t, d.client)

	start := time.Now()
	insecure := d.secure(t)
	t.Logf("switched on after %v", since(start))

	message := func(minute int) []byte {
		return fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2022-10-07T12:%02d:00Z","metrics":{"co2__ppm":%d}}`, device, minute, 400+minute)
	}
	newEvent := func(eventType string, data []byte) event.Event {
		return mesh.NewEvent(eventType, "/telemesh/hack/e2e", data, "secured", eventType, string(data))
	}
	received := newEvent(mesh.TelemetryReceived, mesh.EncodeMessages([]mesh.Message{{ID: "secured", Source: "/telemesh/hack/e2e", ReceivedAt: at(t, "2022-10-07T12:00:01Z"), Payload: message(0)}}))
	unreadable := newEvent(mesh.TelemetryReceived, []byte(`{"messages":"secured"}`))
	enriched, customers := newEvent(mesh.TelemetryEnriched, []byte(`{}`)), newEvent(mesh.CustomersChanged, []byte(`{}`))
	moved := newEvent(mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: []mesh.Placement{{DeviceID: device, TenantID: office, Building: "Kantoor", Room: "12", Version: 2, ValidFrom: at(t, "2022-10-01T00:00:00Z")}}}))
	// The source of placements is opted in: its account may do what it would.
	create(t, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: sheet-source, namespace: iot, labels: {"+mine+": e2e}}\n")

	ingest := token(t, "telemetry-ingest", "iot/iot")
	for _, test := range []struct {
		name, token, broker string
		event               event.Event
		want                int
	}{
		{"a stranger", "", "iot/iot", received, http.StatusUnauthorized},
		{"a stranger with what is no token", "nonsense", "iot/iot", received, http.StatusUnauthorized},
		{"another account of the namespace", token(t, "default", "iot/iot"), "iot/iot", received, http.StatusForbidden},
		{"a sender of another domain's Broker", token(t, "telemetry-ingest", "crm/crm"), "crm/crm", customers, http.StatusForbidden},
		{"a token for another Broker", ingest, "crm/crm", customers, http.StatusUnauthorized},
		{"a type that is not the sender's", ingest, "iot/iot", enriched, http.StatusForbidden},
		{"what only a Trigger brings", ingest, "analytics/analytics", enriched, http.StatusUnauthorized},
		{"the sender itself", ingest, "iot/iot", received, http.StatusAccepted},
		{"the sender itself, what no function reads", ingest, "iot/iot", unreadable, http.StatusAccepted},
	} {
		if got := postAs(t, d.client, test.token, test.broker, test.event); got != test.want {
			t.Errorf("%s posts %s to Broker %s: status %d, want %d", test.name, test.event.Type(), test.broker, got, test.want)
		}
	}

	start = time.Now()
	// With one that cannot be read two events come of it, which telemetry-flatten posts itself.
	send(t, d.client, message(1), []byte(`{"device_id":"`+device+`","timestamp":"yesterday","metrics":{"co2__ppm":1}}`))
	joined(t, d, device, school, 2)
	t.Logf("joined after %v", since(start))
	const letter = "[[iot telemetry-flatten 400]]"
	until(t, patience, "a dead letter "+letter, func() string {
		got := fmt.Sprint(query(t, d.store, "SELECT namespace, trigger, status FROM event_log_internal.dead_letters WHERE event_id = '"+unreadable.ID()+"'"))
		return strings.TrimPrefix(got, letter)
	})
	// It is asked for with a token, and brought to the function again.
	id := fmt.Sprint(query(t, d.store, "SELECT letter_id FROM event_log_internal.dead_letters WHERE event_id = '"+unreadable.ID()+"'")[0][0])
	warehouse := kubectl(t, "", "get", "configmap", "warehouse", "-n", "platform", "-o", "jsonpath={.data.url}")
	if out, failed := telemesh(t, warehouse, "deadletters", "redrive", id); !failed || !strings.Contains(out, id[:12]+"  failed  400 ") {
		t.Errorf("a letter is redriven to a function that still cannot read it, it failed: %t", failed)
	}

	start = time.Now()
	if got := postAs(t, d.client, token(t, "sheet-source", "iot/iot"), "iot/iot", moved); got != http.StatusAccepted {
		t.Fatalf("a correction: status %d, want 202", got)
	}
	joined(t, d, device, office, 2)
	t.Logf("corrected after %v", since(start))

	start = time.Now()
	insecure()
	t.Logf("switched off after %v", since(start))
	send(t, d.client, message(2))
	joined(t, d, device, office, 3)
	if got := postAs(t, d.client, "", "iot/iot", received); got != http.StatusAccepted {
		t.Errorf("when it is off a stranger's event: status %d, want 202", got)
	}
}

// token asks Kubernetes for one of an account of iot, as a kubelet does for its pods.
func token(t *testing.T, account, broker string) string {
	t.Helper()
	return strings.TrimSpace(kubectl(t, "", "create", "token", account, "-n", "iot", "--audience", "eventing.knative.dev/broker/"+broker))
}

// postAs posts an event to a Broker and gives the status.
func postAs(t *testing.T, client *http.Client, token, broker string, e event.Event) int {
	t.Helper()
	req, err := cehttp.NewHTTPRequestFromEvent(t.Context(), brokerURL+broker, e)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// joined waits until iot_analytics shows so many readings of a device, all of one tenant.
func joined(t *testing.T, d *deployed, device, tenant string, readings int) {
	t.Helper()
	want := fmt.Sprint([][]any{{tenant, int64(readings)}})
	until(t, patience, fmt.Sprintf("%d readings of %s", readings, tenant), func() string {
		got := fmt.Sprint(query(t, d.store, "SELECT tenant_id, COUNT(*) FROM iot_analytics.readings WHERE device_id = '"+device+"' GROUP BY tenant_id"))
		if got == want {
			return ""
		}
		return got
	})
}

// secure does what docs/security.md says, and waits until all is as it should be.
// It gives what does the contrary, which the test does at its end at the latest.
func (d *deployed) secure(t *testing.T) (insecure func()) {
	t.Helper()
	overlay := filepath.Join(dataset.Root(t), "config", "overlays", "secure")
	var before struct{ Data map[string]any }
	if err := json.Unmarshal([]byte(kubectl(t, "", append([]string{"get", "-o", "json"}, features...)...)), &before); err != nil {
		t.Fatal(err)
	}
	patch := func(oidc, mode any) string { // nil: takes it out
		text, err := json.Marshal(map[string]any{"data": map[string]any{"authentication-oidc": oidc, "default-authorization-mode": mode}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	putBack := d.putBackAtEnd(t, patch(before.Data["authentication-oidc"], before.Data["default-authorization-mode"]), overlay)
	insecure = sync.OnceFunc(func() {
		t.Helper()
		putBack()
		until(t, time.Minute, "no EventPolicy", func() string {
			var left string
			for _, b := range d.set.Brokers {
				kubectl(t, "", append([]string{"delete"}, policiesOf(b)...)...)
				left += kubectl(t, "", "get", "eventpolicy", "-n", b.Namespace, "-o", "name")
			}
			return left
		})
		d.freshChannels(t, false)
	})
	t.Cleanup(insecure)

	kubectl(t, "", append([]string{"patch", "--type", "merge", "-p", patch("enabled", "deny-all")}, features...)...)
	create(t, d.toThisMachine())
	until(t, time.Minute, "EventPolicies accepted", func() string { // once the webhook has heard of it
		if _, err := runKubectl("", "apply", "-f", overlay); err != nil {
			return err.Error()
		}
		return ""
	})
	d.freshChannels(t, true)
	return insecure
}

// policiesOf names the EventPolicies that Knative makes for the channel of a Broker.
// When it asks nobody any more it leaves them behind, or makes them once more, and
// the Broker is not Ready.
func policiesOf(b *manifest.Broker) []string {
	return []string{"eventpolicy", "-n", b.Namespace, "-l", "eventing.knative.dev/broker-name=" + b.Name}
}

// putBackAtEnd starts a process that waits for the end of this one, however it
// comes, and then puts back what is the whole cluster's, and the mesh. What it gives
// does not wait for that.
func (d *deployed) putBackAtEnd(t *testing.T, patch, overlay string) (putBack func()) {
	t.Helper()
	var policies string
	for _, b := range d.set.Brokers {
		policies += "kubectl delete --ignore-not-found " + strings.Join(policiesOf(b), " ") + "\n"
	}
	cmd := exec.Command("sh", append([]string{"-c", `told=$(cat)
		kubectl patch --type merge -p "$1" "$3" "$4" "$5" "$6"
		status=$?
		kubectl delete --ignore-not-found -f "$2" || status=$?
		[ -z "$told" ] || exit $status
		for again in 1 2 3 4 5; do
			` + policies + `
			sleep 1
		done`, "sh", patch, overlay}, features...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what ends this process need not end that one
	open, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	// A pipe would break with the end of this process, and kubectl with it.
	said, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		fmt.Fprintln(open, "the test deletes the EventPolicies of channels itself")
		open.Close()
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(said.Name())
			t.Errorf("put back the settings of the cluster: %v\n%s", err, text)
		}
		said.Close()
	}
}

var features = []string{"-n", "knative-eventing", "configmap", "config-features"}

// freshChannels waits until Triggers are subscribed as it should be, and makes the
// channels of Brokers anew: Knative replaces all Subscriptions at once, and then
// may leave some of the old ones in a channel, which get events, too.
func (d *deployed) freshChannels(t *testing.T, secured bool) {
	t.Helper()
	until(t, time.Minute, "Triggers subscribed anew", func() string { return d.unsettled(t, secured, false) })
	for _, b := range d.set.Brokers {
		kubectl(t, "", "delete", "inmemorychannel", "-n", b.Namespace, "-l", "eventing.knative.dev/broker="+b.Name)
	}
	until(t, time.Minute, "channels made anew", func() string { return d.unsettled(t, secured, true) })
}

// unsettled says what of the Brokers is not as it should be; exact means that
// channels have no other subscribers than Subscriptions.
func (d *deployed) unsettled(t *testing.T, secured, exact bool) string {
	t.Helper()
	for _, b := range d.set.Brokers {
		var list struct {
			Items []struct {
				Kind     string
				Metadata struct {
					Name, UID  string
					Generation int64
				}
				Spec struct {
					Subscriber  struct{ Audience string }
					Subscribers []struct{ UID string }
				}
				Status struct {
					ObservedGeneration int64
					Address            struct{ Audience string }
					Conditions         []struct{ Type, Status, Message string }
					Subscribers        []struct{ UID, Ready string }
				}
			}
		}
		out := kubectl(t, "", "get", "-n", b.Namespace, "-o", "json", "brokers.eventing.knative.dev,triggers.eventing.knative.dev,"+
			"eventpolicies.eventing.knative.dev,subscriptions.messaging.knative.dev,inmemorychannels.messaging.knative.dev")
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		want, have, ready := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for _, o := range list.Items {
			name := fmt.Sprintf("%s %s/%s", o.Kind, b.Namespace, o.Metadata.Name)
			kinds[o.Kind]++
			if o.Status.ObservedGeneration != o.Metadata.Generation {
				return name + " was not looked at"
			}
			is := "nothing is said of it"
			for _, c := range o.Status.Conditions {
				if c.Type == "Ready" {
					is = c.Status + ": " + c.Message
				}
			}
			if !strings.HasPrefix(is, "True") {
				return name + " is not ready: " + is
			}
			switch o.Kind {
			case "Broker":
				if (o.Status.Address.Audience != "") != secured {
					return fmt.Sprintf("%s asks for tokens of audience %q", name, o.Status.Address.Audience)
				}
			case "Subscription":
				if (o.Spec.Subscriber.Audience != "") != secured {
					return fmt.Sprintf("%s has a subscriber of audience %q", name, o.Spec.Subscriber.Audience)
				}
				want[o.Metadata.UID] = true
			case "InMemoryChannel":
				for _, s := range o.Spec.Subscribers {
					have[s.UID] = true
				}
				for _, s := range o.Status.Subscribers {
					ready[s.UID] = s.Ready == "True"
				}
			}
		}
		if kinds["InMemoryChannel"] != 1 || kinds["Subscription"] != kinds["Trigger"] || (kinds["EventPolicy"] > 0) != secured {
			return fmt.Sprintf("namespace %s has %v", b.Namespace, kinds)
		}
		if exact && (!maps.Equal(want, have) || !maps.Equal(want, ready)) {
			return fmt.Sprintf("the channel of Broker %s has subscribers %v, ready are %v, want %v", b.Ref(), have, ready, want)
		}
	}
	return ""
}

// toThisMachine opens what the overlay closes, where a cluster does so: the
// warehouse is this process.
func (d *deployed) toThisMachine() string {
	var all []string
	for _, namespace := range []string{"iot", "crm", "analytics", "platform"} {
		all = append(all, fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: e2e, namespace: %s, labels: {%s: e2e}}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
    - to:
        - ipBlock: {cidr: %s}
`, namespace, mine, netip.PrefixFrom(d.host, d.host.BitLen())))
	}
	return strings.Join(all, "---\n")
}
