package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
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

// mine labels all that tests make on the cluster, namespaces too. By it hack/e2e.sh
// takes away what a test leaves that is killed, and nothing that somebody else put
// there.
const mine = "telemesh.dev/made-by"

// create makes objects that end with the test.
func create(t *testing.T, manifests string) {
	t.Helper()
	kubectl(t, manifests, "create", "-f", "-")
	t.Cleanup(func() { kubectl(t, manifests, "delete", "--ignore-not-found", "-f", "-") })
}

// behind names the in-memory channels of a namespace that have not seen their latest
// subscribers. Such a one says that new ones are ready and does not deliver to them,
// and still delivers to those that are gone.
func behind(t *testing.T, namespace string) string {
	t.Helper()
	out, err := runKubectl("", "get", "inmemorychannels", "-n", namespace, "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.metadata.generation} {.status.observedGeneration}{"\n"}{end}`)
	if err != nil {
		if strings.Contains(err.Error(), "doesn't have a resource type") {
			return ""
		}
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) != 3 || f[1] != f[2] {
			all = append(all, "InMemoryChannel "+strings.TrimSpace(line))
		}
	}
	return strings.Join(all, ", ")
}

// listenAt is where this process listens for pods: at the address that they reach,
// or at all if that is another machine's, as a router's that leads here.
var listenAt = sync.OnceValue(func() string {
	host := os.Getenv("E2E_HOST")
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return ""
	}
	l.Close()
	return host
})

// serve answers requests of pods until the test ends.
func serve(t *testing.T, handler http.Handler) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(listenAt(), "0"))
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

// alone waits until nothing else of a run uses the cluster: E2E_ALONE names the file
// that is there then.
func alone(t *testing.T) {
	t.Helper()
	file := os.Getenv("E2E_ALONE")
	if file == "" {
		return
	}
	until(t, 10*time.Minute, "the end of the tests that run beside", func() string {
		if _, err := os.Stat(file); err != nil {
			return err.Error()
		}
		return ""
	})
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
