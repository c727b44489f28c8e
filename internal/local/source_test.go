package local

import (
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
)

// deploymentYAML is a Deployment of the source of its name.
func deploymentYAML(name, env string) string {
	return `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ` + name + `, namespace: iot}
spec:
  selector: {matchLabels: {app: ` + name + `}}
  template:
    metadata: {labels: {app: ` + name + `}}
    spec:
      containers:
        - image: ko://github.com/telemesh/telemesh/functions/` + name + `
          env: [` + env + `]
`
}

const fromSecret = "{name: ADDRESS, valueFrom: {secretKeyRef: {name: s, key: a}}}"

// A source has its own environment, reaches the brokers, and ends before the
// functions do. One that needs what only a cluster has is not run.
func TestSources(t *testing.T) {
	var got inbox
	var mu sync.Mutex
	var order []string
	ended := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, what)
	}
	begun := make(chan string, 10)
	source := func(name string) function.Start {
		return func(ports function.Ports) (*function.Function, error) {
			begun <- name + " at " + os.Getenv("ADDRESS")
			sink := os.Getenv("K_SINK")
			return &function.Function{
				Run: func(ctx context.Context) error {
					<-ctx.Done()
					ended("source")
					// What it took is handed over now.
					return function.Post(context.WithoutCancel(ctx), ports.Client, sink, newEvent(name, "a", "x"))
				},
				Close: func(context.Context) error { ended("source closed"); return nil },
			}, nil
		}
	}
	functions := handlers(map[string]function.Handler{"sink": got.handle})
	sink := functions["sink"]
	functions["sink"] = func(ports function.Ports) (*function.Function, error) {
		fn, err := sink(ports)
		if err == nil {
			fn.Close = func(context.Context) error { ended("function closed"); return nil }
		}
		return fn, err
	}
	functions["whole"], functions["needy"] = source("whole"), source("needy")
	const toBroker = "{name: K_SINK, value: http://broker-ingress.knative-eventing.svc.cluster.local/iot/iot}"
	cfg := Config{
		Dir: t.TempDir(), Functions: functions,
		Manifests: manifests(t, brokerYAML+serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), "")+
			deploymentYAML("whole", toBroker+", {name: ADDRESS, value: here}")+deploymentYAML("needy", toBroker+", "+fromSecret)),
	}
	m := open(t, cfg)
	if len(begun) != 0 {
		t.Errorf("%s is started with the mesh: what is told to it before has to come first", <-begun)
	}
	if err := m.StartSources(); err != nil {
		t.Fatal(err)
	}
	if err := m.StartSource(cfg.Manifests.Deployments[0], source("besides")); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(begun)
	if diff := cmp.Diff([]string{"whole at here", "besides at "}, slices.Collect(func(yield func(string) bool) {
		for s := range begun {
			if !yield(s) {
				return
			}
		}
	})); diff != "" {
		t.Errorf("begun (-want +got):\n%s", diff)
	}
	if last := order[len(order)-1]; len(order) != 5 || last != "function closed" {
		t.Errorf("the end: %v, want the sources first", order)
	}

	// With what it needs it is run, and what the others brought is there.
	cfg.Set = map[manifest.Ref]map[string]string{{Namespace: "iot", Name: "needy"}: {"ADDRESS": "there"}}
	begun = make(chan string, 10)
	m = open(t, cfg)
	idle(t, m)
	ids := got.ids()
	slices.Sort(ids)
	if diff := cmp.Diff([]string{"besides", "whole"}, ids); diff != "" {
		t.Errorf("brought (-want +got):\n%s", diff)
	}
	if err := m.StartSources(); err != nil {
		t.Fatal(err)
	}
	if first := <-begun; first != "needy at there" {
		t.Errorf("begun: %s, want needy at there", first)
	}
}

// What a Service does besides answering begins with the mesh and ends before its
// functions do; what it hands over then is not lost.
func TestServiceRuns(t *testing.T) {
	var got inbox
	functions := handlers(map[string]function.Handler{"sink": got.handle})
	var closed atomic.Bool
	functions["counter"] = func(ports function.Ports) (*function.Function, error) {
		closed.Store(false)
		sink := os.Getenv("K_SINK")
		post := func(ctx context.Context, id string) error {
			return function.Post(context.WithoutCancel(ctx), ports.Client, sink, newEvent(id, "a", "x"))
		}
		return &function.Function{
			HTTP: http.NotFoundHandler(),
			Run: func(ctx context.Context) error {
				if err := post(ctx, "first"); err != nil {
					return err
				}
				<-ctx.Done()
				if closed.Load() {
					t.Error("the function is closed before what it does has ended")
				}
				return post(ctx, "last")
			},
			Close: func(context.Context) error { closed.Store(true); return nil },
		}, nil
	}
	const toBroker = "env: [{name: K_SINK, value: http://broker-ingress.knative-eventing.svc.cluster.local/iot/iot}, "
	cfg := Config{Dir: t.TempDir(), Functions: functions, Manifests: manifests(t, brokerYAML+serviceYAML("sink")+triggerYAML("sink", "a", toService("sink"), "")+
		strings.Replace(serviceYAML("counter"), "env: [", toBroker, 1))}
	m := open(t, cfg)
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	idle(t, open(t, cfg))
	ids := got.ids()
	slices.Sort(ids)
	if ids = slices.Compact(ids); !slices.Equal(ids, []string{"first", "last"}) {
		t.Errorf("handed over %v", ids)
	}
}

// A source that ends begins again, as a pod does, and later each time.
func TestSourceThatEndsBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		started := time.Now()
		var at []time.Duration
		run := func(ctx context.Context) error {
			at = append(at, time.Since(started))
			if len(at) < 3 {
				return errors.New("away")
			}
			<-ctx.Done()
			return nil
		}
		begins := 0
		begin := func() (*function.Function, error) {
			if begins++; begins == 1 {
				return nil, errors.New("not yet")
			}
			return &function.Function{Run: run}, nil
		}
		go keep(ctx, testLog(t), &function.Function{Run: run}, begin)
		time.Sleep(time.Hour)
		synctest.Wait()
		if diff := cmp.Diff([]time.Duration{0, 3 * time.Second, 7 * time.Second}, at); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
		cancel()
		synctest.Wait()
	})
}
