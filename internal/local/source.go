package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
)

// sources are the sources that run in this process.
type sources struct {
	running sync.WaitGroup
	stops   []context.CancelFunc
}

// StartSources starts the sources of the Deployments, those that have all of
// their environment, and the PingSources. It is not a part of Open, since what
// they bring needs what is told to the mesh before.
func (m *Mesh) StartSources() error {
	for _, d := range m.cfg.Manifests.Deployments {
		start, err := m.functionOf(&d.Workload)
		if err != nil {
			return err
		}
		if start == nil {
			continue
		}
		if !m.optedIn(&d.Workload) {
			continue
		}
		if err := m.StartSource(d, start); err != nil {
			return err
		}
	}
	return m.startPings()
}

// optedIn says whether a source is told what to fetch.
func (m *Mesh) optedIn(w *manifest.Workload) bool {
	ok, missing := w.OptedIn(m.cfg.Set[w.Ref()])
	if !ok {
		m.log.Info("not run here: variables come from the cluster", "workload", w.Object(), "missing", strings.Join(missing, ", "))
	}
	return ok
}

// StartSource starts a source as if it were that of a Deployment, in its
// environment, whatever that lacks. It ends with the mesh.
func (m *Mesh) StartSource(d *manifest.Deployment, start function.Start) error {
	log := m.log.With("function", d.Name)
	env, _ := d.Environ(m.cfg.Set[d.Ref()])
	begin := func() (*function.Function, error) { return m.begin(&d.Workload, env, start, log) }
	fn, err := begin()
	if err != nil {
		return err
	}
	if fn.Run == nil {
		return fmt.Errorf("start %s: function %s is no source", d.Object(), d.Function())
	}
	m.here.mu.Lock()
	m.here.started[d.Ref()] = true
	m.here.mu.Unlock()
	ctx, stop := context.WithCancel(context.Background())
	m.sources.stops = append(m.sources.stops, stop)
	m.sources.running.Go(func() { keep(ctx, log, fn, begin) })
	return nil
}

// What a source that ends waits for before it begins again, as a pod does.
const (
	firstRestart = time.Second
	lastRestart  = 5 * time.Minute
)

// keep runs a source until ctx is done: one that ends before begins anew.
func keep(ctx context.Context, log *slog.Logger, fn *function.Function, begin func() (*function.Function, error)) {
	wait := firstRestart
	for {
		began := time.Now()
		err := runSource(ctx, fn)
		if time.Since(began) > lastRestart {
			wait = firstRestart
		}
		for fn = nil; fn == nil; wait = min(2*wait, lastRestart) {
			if ctx.Err() != nil {
				if err != nil {
					log.Warn("source not ended well", "error", err)
				}
				return
			}
			log.Error("source ended, it begins again", "after", wait.String(), "error", err)
			select {
			case <-time.After(wait):
				fn, err = begin()
			case <-ctx.Done():
				return
			}
		}
	}
}

func runSource(ctx context.Context, fn *function.Function) error {
	err := fn.Run(ctx)
	if fn.Close != nil {
		err = errors.Join(err, fn.Close(context.WithoutCancel(ctx)))
	}
	return err
}

func (s *sources) close(ctx context.Context) error {
	for _, stop := range s.stops {
		stop()
	}
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close the sources: %w", ctx.Err())
	}
}
