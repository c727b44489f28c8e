package local

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
)

// service is a Service whose function runs in this process.
type service struct {
	ref         manifest.Ref
	timeout     time.Duration
	concurrency int // 0: not limited
	log         *slog.Logger
	function    *function.Function // nil until it is started
	handler     http.Handler
}

// startServices starts the function of every Service. A Service that needs
// another at start-up finds it there: those whose address is in the
// environment come first.
func (m *Mesh) startServices() error {
	cfg := m.cfg
	for _, s := range cfg.Manifests.Services {
		svc := &service{ref: s.Ref(), log: cfg.Log.With("function", s.Name)}
		// A function answers when it is done: whatever ends first ends it. Where
		// the YAML says nothing, Knative's defaults stand here.
		spec := s.Spec.Template.Spec
		for _, seconds := range []*int64{spec.TimeoutSeconds, spec.ResponseStartTimeoutSeconds, spec.IdleTimeoutSeconds} {
			if seconds == nil || *seconds == 0 {
				continue
			}
			if timeout := time.Duration(*seconds) * time.Second; svc.timeout == 0 || timeout < svc.timeout {
				svc.timeout = timeout
			}
		}
		if most := spec.ContainerConcurrency; most != nil {
			svc.concurrency = int(*most)
		}
		m.services[s.Ref()] = svc
	}
	visited := map[manifest.Ref]bool{}
	var start func(*manifest.Service) error
	start = func(s *manifest.Service) error {
		if visited[s.Ref()] {
			return nil
		}
		visited[s.Ref()] = true
		if s.OptIn() && !m.optedIn(&s.Workload) {
			return nil
		}
		env, missing := s.Environ(cfg.Set[s.Ref()])
		for _, other := range cfg.Manifests.Services {
			address := other.Name + "." + other.Namespace + ".svc"
			for _, value := range env {
				if strings.Contains(value, "/"+address) {
					if err := start(other); err != nil {
						return err
					}
				}
			}
		}
		begin, err := m.functionOf(&s.Workload)
		switch {
		case begin == nil:
			return err
		case missing != nil:
			return fmt.Errorf("%s: %s: %s comes from the cluster: set a value for this machine", s.Where, s.Object(), strings.Join(missing, ", "))
		}
		svc := m.services[s.Ref()]
		fn, err := m.begin(&s.Workload, env, begin, svc.log)
		if err != nil {
			return err
		}
		svc.function, svc.handler = fn, fn.Serve(svc.log, env["K_SINK"], m.client)
		return nil
	}
	for _, s := range cfg.Manifests.Services {
		if err := start(s); err != nil {
			return err
		}
	}
	return nil
}

// functionOf gives the function that a workload's image is, or nil if it is none
// of telemesh: then it runs on a cluster only. It is an error if this program
// lacks it.
func (m *Mesh) functionOf(w *manifest.Workload) (function.Start, error) {
	start := m.cfg.Functions[w.Function()]
	switch {
	case start == nil && w.Function() != "":
		return nil, fmt.Errorf("%s: %s: there is no function %q in this program", w.Where, w.Object(), w.Function())
	case start == nil:
		m.log.Info("not run here: its image is no function of telemesh", "workload", w.Object())
	}
	return start, nil
}

// begin starts a function as workload w, with its environment.
func (m *Mesh) begin(w *manifest.Workload, env map[string]string, start function.Start, log *slog.Logger) (*function.Function, error) {
	ports := function.Ports{Client: m.client, Warehouse: m.cfg.Warehouse, Log: log, Here: m.Here}
	if m.cfg.Data != nil {
		ports.Data = m.cfg.Data(w.Function())
	}
	fn, err := withEnv(env, func() (*function.Function, error) { return start(ports) })
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", w.Object(), err)
	}
	return fn, nil
}

var environment sync.Mutex

// withEnv calls f with variables set in the environment of the process. It is
// the one place that changes it: functions read it once, when they start.
func withEnv[T any](env map[string]string, f func() (T, error)) (T, error) {
	environment.Lock()
	defer environment.Unlock()
	for _, name := range slices.Sorted(maps.Keys(env)) {
		before, was := os.LookupEnv(name)
		defer func() {
			if was {
				os.Setenv(name, before)
			} else {
				os.Unsetenv(name)
			}
		}()
		if err := os.Setenv(name, env[name]); err != nil {
			var none T
			return none, fmt.Errorf("set %s: %w", name, err)
		}
	}
	return f()
}

// Service serves the HTTP side of a Service. It answers 404 where there is no
// such Service and 503 where it does not run.
func (m *Mesh) Service(namespace, name string) http.Handler {
	ref := manifest.Ref{Namespace: namespace, Name: name}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := m.services[ref]
		switch {
		case s == nil:
			http.Error(w, fmt.Sprintf("Service %s does not exist", ref), http.StatusNotFound)
		case s.handler == nil:
			w.Header().Set("Retry-After", "1")
			http.Error(w, fmt.Sprintf("Service %s does not run", ref), http.StatusServiceUnavailable)
		default:
			s.handler.ServeHTTP(w, r)
		}
	})
}

// runServices runs what Services do besides answering, until the mesh closes.
func (m *Mesh) runServices() {
	ctx, stop := context.WithCancel(context.Background())
	m.sources.stops = append(m.sources.stops, stop)
	for _, s := range m.services {
		if s.function == nil || s.function.Run == nil {
			continue
		}
		m.sources.running.Go(func() {
			if err := s.function.Run(ctx); err != nil || ctx.Err() == nil {
				s.log.Error("what the Service does by itself has ended", "error", err)
			}
		})
	}
}

func (s *service) close(ctx context.Context) error {
	if s.function == nil || s.function.Close == nil {
		return nil
	}
	if err := s.function.Close(ctx); err != nil {
		return fmt.Errorf("close Service %s: %w", s.ref, err)
	}
	return nil
}
