package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: trying
clusters:
- {name: here, cluster: {server: %s}}
- {name: there, cluster: {server: "https://there.example.com"}}
contexts:
- {name: trying, context: {cluster: here, user: me}}
- {name: production, context: {cluster: there, user: me}}
users:
- {name: me, user: {}}
`

func config(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, fmt.Appendf(nil, kubeconfig, server), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpen(t *testing.T) {
	path := config(t, "https://here.example.com")
	for _, test := range []struct{ file, environment, context, want, host string }{
		{path, "", "", "trying", "https://here.example.com"},
		{path, "/nowhere", "production", "production", "https://there.example.com"},
		{"", path, "", "trying", "https://here.example.com"},
	} {
		t.Setenv("KUBECONFIG", test.environment)
		c, err := Open(test.file, test.context)
		if err != nil {
			t.Fatal(err)
		}
		if c.Context != test.want || c.Config.Host != test.host {
			t.Errorf("Open(%q, %q) is context %s at %s, want %s at %s", test.file, test.context, c.Context, c.Config.Host, test.want, test.host)
		}
	}
	if _, err := Open(path, "other"); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("Open of a context that is not there = %v, want an error that names it", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), ""); err == nil {
		t.Error("Open of a file that is not there gave no error")
	}
}

// The pod is one that is ready, and its port the one that the Service's stands for.
func TestPodOf(t *testing.T) {
	answers := map[string]any{
		"/api/v1/namespaces/knative-eventing/services/broker-ingress": map[string]any{"spec": map[string]any{"ports": []any{
			map[string]any{"name": "http", "port": 80}, map[string]any{"name": "metrics", "port": 9092},
		}}},
		"/apis/discovery.k8s.io/v1/namespaces/knative-eventing/endpointslices": map[string]any{"items": []any{
			map[string]any{
				"ports": []any{map[string]any{"name": "metrics", "port": 9092}, map[string]any{"name": "http", "port": 8080}},
				"endpoints": []any{
					map[string]any{"conditions": map[string]any{"ready": false}, "targetRef": map[string]any{"kind": "Pod", "name": "starting"}},
					map[string]any{"conditions": map[string]any{"ready": true}},
					map[string]any{"conditions": map[string]any{"ready": true}, "targetRef": map[string]any{"kind": "Pod", "name": "ready"}},
				},
			},
		}},
		"/api/v1/namespaces/platform/services/asleep":                  map[string]any{"spec": map[string]any{"ports": []any{map[string]any{"port": 80}}}},
		"/apis/discovery.k8s.io/v1/namespaces/platform/endpointslices": map[string]any{"items": []any{}},
	}
	c := (&apiServer{objects: answers}).open(t)
	namespace, pod, port, err := c.podOf(t.Context(), "broker-ingress.knative-eventing.svc.cluster.local:80")
	if namespace != "knative-eventing" || pod != "ready" || port != 8080 || err != nil {
		t.Errorf("podOf = %s/%s port %d, %v, want knative-eventing/ready port 8080", namespace, pod, port, err)
	}
	for address, want := range map[string]string{
		"broker-ingress.knative-eventing.svc:81": "no port 81 of Service knative-eventing/broker-ingress",
		"asleep.platform.svc:80":                 "no pod behind Service platform/asleep is ready",
		"other.platform.svc:80":                  "not found",
		"example.com:80":                         "no address of a Service",
		"broker-ingress.knative-eventing.svc":    "missing port",
	} {
		if _, err := c.Dial(t.Context(), "tcp", address); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), address) {
			t.Errorf("Dial(%s) = %v, want an error that says %q", address, err, want)
		}
	}
}
