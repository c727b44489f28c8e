package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/telemesh/telemesh/internal/manifest"
)

var (
	iot  = manifest.Ref{Namespace: "iot", Name: "iot"}
	sink = manifest.Ref{Namespace: "platform", Name: "dead-letter-sink"}
)

const brokerPath = "/apis/eventing.knative.dev/v1/namespaces/iot/brokers/iot"

func brokerAt(address map[string]any) map[string]any {
	return map[string]any{brokerPath: map[string]any{
		"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "status": map[string]any{"address": address},
	}}
}

// certificate makes one of a host, that is its own authority.
func certificate(t *testing.T, host string) (_ tls.Certificate, text string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	says := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, says, says, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// A Broker that asks who posts and speaks TLS is reached with a token of the account,
// which is asked for once, and by its own authority.
func TestBroker(t *testing.T) {
	const host, audience = "broker-ingress.knative-eventing.svc.cluster.local", "eventing.knative.dev/broker/iot/iot"
	var shown []string
	ingress := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = append(shown, r.URL.Path+" "+r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusAccepted)
	}))
	own, authority := certificate(t, host)
	ingress.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	ingress.StartTLS()
	defer ingress.Close()

	objects := behind("knative-eventing", "broker-ingress", "ingress-0", 443)
	maps.Copy(objects, brokerAt(map[string]any{"url": "https://" + host + "/iot/iot", "audience": audience, "CACerts": authority}))
	var asked []string
	c := (&apiServer{
		objects: objects,
		ports:   map[string]string{"/api/v1/namespaces/knative-eventing/pods/ingress-0": ingress.Listener.Addr().String()},
		make: func(path string, request runtime.Object) any {
			spec := request.(*authenticationv1.TokenRequest).Spec
			asked = append(asked, fmt.Sprintf("%s%v%d", path, spec.Audiences, *spec.ExpirationSeconds))
			return map[string]any{"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "status": map[string]any{"token": fmt.Sprint("token-", len(asked))}}
		},
	}).open(t)
	b, err := c.Broker(t.Context(), iot, sink)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 2 {
		resp, err := b.Client.Post(b.URL, "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if diff := cmp.Diff([]string{"/iot/iot Bearer token-1", "/iot/iot Bearer token-1"}, shown); diff != "" {
		t.Errorf("posted (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/api/v1/namespaces/platform/serviceaccounts/dead-letter-sink/token[" + audience + "]600"}, asked); diff != "" {
		t.Errorf("tokens asked for (-want +got):\n%s", diff)
	}
}

// One that asks nobody is shown nothing.
func TestBrokerThatAsksNobody(t *testing.T) {
	var shown string
	ingress := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = r.URL.Path + r.Header.Get("Authorization")
	}))
	defer ingress.Close()
	objects := behind("knative-eventing", "broker-ingress", "ingress-0", 80)
	maps.Copy(objects, brokerAt(map[string]any{"url": "http://broker-ingress.knative-eventing.svc.cluster.local/iot/iot"}))
	c := (&apiServer{objects: objects, ports: map[string]string{"/api/v1/namespaces/knative-eventing/pods/ingress-0": ingress.Listener.Addr().String()}}).open(t)
	b, err := c.Broker(t.Context(), iot, sink)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	resp, err := b.Client.Post(b.URL, "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if shown != "/iot/iot" {
		t.Errorf("posted to %q, want /iot/iot without a token", shown)
	}
}

func TestBrokerErrors(t *testing.T) {
	const url = "http://broker-ingress.knative-eventing.svc.cluster.local/iot/iot"
	for name, test := range map[string]struct {
		objects map[string]any
		made    any
		want    string
	}{
		"none":            {nil, nil, "read Broker iot/iot: not found"},
		"not ready":       {brokerAt(nil), nil, "no address of Broker iot/iot"},
		"no certificates": {brokerAt(map[string]any{"url": url, "CACerts": "none"}), nil, "no certificates in status.address.CACerts of Broker iot/iot"},
		"no account":      {brokerAt(map[string]any{"url": url, "audience": "a"}), nil, "make token of ServiceAccount platform/dead-letter-sink"},
		"empty token":     {brokerAt(map[string]any{"url": url, "audience": "a"}), map[string]any{"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}, "gave an empty one"},
	} {
		t.Run(name, func(t *testing.T) {
			c := (&apiServer{objects: test.objects, make: func(string, runtime.Object) any { return test.made }}).open(t)
			if _, err := c.Broker(t.Context(), iot, sink); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Broker = %v, want an error that says %q", err, test.want)
			}
		})
	}
}

// What takes longer than a token lives goes on with another one.
func TestTokenIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b := &bearer{ask: func(context.Context) (string, error) { n++; return fmt.Sprint(n), nil }}
		for _, test := range []struct {
			after time.Duration
			want  string
		}{{0, "1"}, {tokenLife/2 - 1, "1"}, {1, "2"}, {time.Minute, "2"}, {tokenLife, "3"}} {
			time.Sleep(test.after)
			if got, err := b.current(t.Context()); got != test.want || err != nil {
				t.Errorf("after %v more: token %q, %v, want %q", test.after, got, err, test.want)
			}
		}
	})
}

func TestSubscribers(t *testing.T) {
	trigger := func(name string, status map[string]any) any {
		return map[string]any{"apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": map[string]any{"name": name}, "status": status}
	}
	c := (&apiServer{objects: map[string]any{"/apis/eventing.knative.dev/v1/namespaces/iot/triggers": map[string]any{
		"apiVersion": "eventing.knative.dev/v1", "kind": "TriggerList",
		"items": []any{trigger("first", map[string]any{"subscriberUri": "http://first.iot.svc.cluster.local"}), trigger("new", nil)},
	}}}).open(t)
	got, err := c.Subscribers(t.Context(), "iot")
	if diff := cmp.Diff(map[string]string{"first": "http://first.iot.svc.cluster.local", "new": ""}, got); diff != "" || err != nil {
		t.Errorf("Subscribers: %v (-want +got):\n%s", err, diff)
	}
	if _, err := c.Subscribers(t.Context(), "crm"); err == nil || !strings.Contains(err.Error(), "Triggers of namespace crm") {
		t.Errorf("Subscribers of a namespace that cannot be read = %v, want an error that names it", err)
	}
}

// A Trigger is applied server-side in the name of telemesh, and no conflict is forced.
func TestApplyTrigger(t *testing.T) {
	var asked *http.Request
	var body, there map[string]any
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "application/json")
			if there == nil {
				w.WriteHeader(http.StatusNotFound)
				json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
				return
			}
			json.NewEncoder(w).Encode(there)
			return
		}
		asked, body = r, nil
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(body)
	}))
	defer server.Close()
	c, err := Open(config(t, server.URL), "")
	if err != nil {
		t.Fatal(err)
	}
	reads := func(eventType string) []any {
		return []any{map[string]any{"exact": map[string]any{"type": eventType}}}
	}
	trigger := map[string]any{"apiVersion": "eventing.knative.dev/v1", "kind": "Trigger",
		"metadata": map[string]any{"name": "alarm", "namespace": "iot"}, "spec": map[string]any{"broker": "iot", "filters": reads("a.v1")}}
	if err := c.ApplyTrigger(t.Context(), &unstructured.Unstructured{Object: trigger}); err != nil {
		t.Fatal(err)
	}
	if asked.Method != http.MethodPatch || asked.URL.Path != "/apis/eventing.knative.dev/v1/namespaces/iot/triggers/alarm" ||
		asked.Header.Get("Content-Type") != "application/apply-patch+yaml" || asked.URL.Query().Get("fieldManager") != "telemesh" || asked.URL.Query().Get("force") == "true" {
		t.Errorf("asked %s %s %v", asked.Method, asked.URL, asked.Header)
	}
	if diff := cmp.Diff(trigger, body); diff != "" {
		t.Errorf("applied (-want +got):\n%s", diff)
	}
	// Again, it changes nothing; of other events it is somebody's, and stays.
	there = maps.Clone(trigger)
	if err := c.ApplyTrigger(t.Context(), &unstructured.Unstructured{Object: trigger}); err != nil {
		t.Errorf("ApplyTrigger again = %v", err)
	}
	asked, there["spec"] = nil, map[string]any{"broker": "iot", "filters": reads("b.v1")}
	if err := c.ApplyTrigger(t.Context(), &unstructured.Unstructured{Object: trigger}); !errors.Is(err, ErrOtherEvents) || asked != nil {
		t.Errorf("ApplyTrigger over one of other events = %v, and asked for %v", err, asked)
	}
	there, status = nil, http.StatusForbidden
	if err := c.ApplyTrigger(t.Context(), &unstructured.Unstructured{Object: trigger}); err == nil || !strings.Contains(err.Error(), "Trigger iot/alarm") {
		t.Errorf("ApplyTrigger = %v, want an error that names it", err)
	}
}
