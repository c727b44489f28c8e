package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
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

// onCluster gives the mesh on the cluster. Where there is none the test is
// skipped.
func onCluster(t *testing.T) *deployed {
	t.Helper()
	if os.Getenv("E2E_HOST") == "" {
		t.Skip("no cluster: hack/e2e.sh sets E2E_HOST")
	}
	d, err := theMesh()
	if err != nil {
		t.Fatal(err)
	}
	return d
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
	// On all addresses of the machine: the one that pods reach may be another's.
	e, err := emulator.Open("")
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
	return d, nil
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
	family := "IPv4"
	if d.host.Is6() {
		family = "IPv6"
	}
	if _, err := runKubectl("", "delete", "-A", "-l", mine+"=e2e",
		"service,endpointslice,trigger,ksvc,pingsource,serviceaccount,configmap"); err != nil {
		return err
	}
	service := fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: bigquery
  namespace: platform
  labels: {%[1]s: e2e}
spec:
  ports:
    - {name: rest, port: 80, targetPort: %[2]s}
    - {name: storage, port: 9060, targetPort: %[3]s}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: bigquery-e2e
  namespace: platform
  labels: {%[1]s: e2e, kubernetes.io/service-name: bigquery}
addressType: %[4]s
ports:
  - {name: rest, port: %[2]s}
  - {name: storage, port: %[3]s}
endpoints:
  - addresses: [%[5]q]
`, mine, rest.Port(), storage, family, d.host)
	if _, err := runKubectl(service, "create", "-f", "-"); err != nil {
		return err
	}
	ends = append(ends, func() error {
		_, err := runKubectl(service, "delete", "--ignore-not-found", "-f", "-")
		return err
	})
	return nil
}

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
