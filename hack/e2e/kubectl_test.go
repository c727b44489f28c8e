package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/manifest"
)

// runKubectl runs kubectl and gives what it prints.
func runKubectl(stdin string, args ...string) (string, error) {
	cmd := exec.Command("kubectl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

func kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := runKubectl(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mine labels what a test makes on the cluster: the next run takes away what a
// killed one has left, and nothing that somebody else put there.
const mine = "telemesh.dev/made-by"

// create makes objects that end with the test.
func create(t *testing.T, manifests string) {
	t.Helper()
	kubectl(t, manifests, "create", "-f", "-")
	t.Cleanup(func() { kubectl(t, manifests, "delete", "--ignore-not-found", "-f", "-") })
}

// serve answers requests of pods until the test ends. It listens on all
// addresses of the machine, since the one that pods reach may be another's.
func serve(t *testing.T, handler http.Handler) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return listener.Addr().(*net.TCPAddr).Port
}

// until asks again and again what is missing, and fails the test if something
// still is after limit.
func until(t *testing.T, limit time.Duration, what string, missing func() string) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		m := missing()
		if m == "" {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			t.Fatalf("%s: not after %v: %s", what, limit, m)
		}
		<-tick.C
	}
}

// atZero waits until no function of the mesh has a pod, but for those that
// are ending: an idle window and what the autoscaler takes to see it.
func atZero(t *testing.T, services []*manifest.Service) time.Duration {
	t.Helper()
	return until(t, 3*time.Minute, "scale to zero", func() string {
		out := kubectl(t, "", "get", "deployments", "-A", "-l", "serving.knative.dev/service", "-o", `jsonpath=`+
			`{range .items[*]}{.metadata.namespace} {.metadata.labels.serving\.knative\.dev/service} {.spec.replicas} {.status.replicas}{"\n"}{end}`)
		var awake []string
		for line := range strings.Lines(out) {
			var ref manifest.Ref
			var wanted, there int // the latter is left out where it is zero
			fmt.Sscan(line, &ref.Namespace, &ref.Name, &wanted, &there)
			if wanted+there > 0 && slices.ContainsFunc(services, func(s *manifest.Service) bool { return s.Ref() == ref }) {
				awake = append(awake, ref.String())
			}
		}
		return strings.Join(awake, ", ")
	})
}
