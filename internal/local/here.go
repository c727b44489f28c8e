package local

import (
	"slices"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/topology"
)

// here is what functions are told of the mesh that runs them.
type here struct {
	since    time.Time
	topology topology.Mesh

	mu              sync.Mutex
	ingest, ingress string
	started         map[manifest.Ref]bool // sources
}

// Listens says, to functions that show it, where the mesh takes messages of
// devices and where its Brokers take events: URLs, empty for none.
func (m *Mesh) Listens(ingest, ingress string) {
	m.here.mu.Lock()
	defer m.here.mu.Unlock()
	m.here.ingest, m.here.ingress = ingest, ingress
}

// Here tells how the mesh stands. What its user has to apply, and has not, is
// not in it.
func (m *Mesh) Here() topology.Here {
	status := m.Status()
	m.here.mu.Lock()
	out := topology.Here{Since: m.here.since, Folder: m.cfg.Dir, Ingest: m.here.ingest, Ingress: m.here.ingress}
	runs := func(r topology.Ref, source bool) bool {
		ref := manifest.Ref(r)
		if source {
			return m.here.started[ref]
		}
		s := m.services[ref]
		return s != nil && s.function != nil
	}
	out.Mesh.Brokers = m.here.topology.Brokers
	for _, f := range m.here.topology.Functions {
		if !f.Optional || runs(f.Ref, f.Source) {
			out.Mesh.Functions = append(out.Mesh.Functions, f)
		}
	}
	m.here.mu.Unlock()
	for _, t := range m.here.topology.Triggers {
		if slices.ContainsFunc(status.Triggers, func(s TriggerStatus) bool { return s.Trigger == manifest.Ref(t.Ref) }) {
			out.Mesh.Triggers = append(out.Mesh.Triggers, t)
		}
	}
	pings := m.Pings()
	for _, t := range m.here.topology.Ticks {
		if slices.Contains(pings, manifest.Ref(t.Ref)) {
			out.Mesh.Ticks = append(out.Mesh.Ticks, t)
		}
	}
	for _, t := range status.Triggers {
		out.Triggers = append(out.Triggers, topology.Count{
			Trigger: topology.Ref(t.Trigger), Pending: t.Pending, InFlight: t.InFlight,
			Delivered: t.Delivered, Retried: t.Retried, DeadLettered: t.DeadLettered,
		})
	}
	for _, f := range status.Failures {
		out.Failures = append(out.Failures, topology.Failure{
			At: f.At, Trigger: topology.Ref(f.Trigger), EventID: f.EventID, EventType: f.EventType, Status: f.Status, Text: f.Text,
		})
	}
	return out
}
