package manifest

import (
	"encoding/json"
	"fmt"

	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/topology/manifests"
)

// Topology is the set as a graph, for who must not know Kubernetes.
func (s Set) Topology() (topology.Mesh, error) {
	var objects []manifests.Object
	var failed error
	add := func(w Where, object any) {
		text, err := json.Marshal(object)
		if err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w", w, err)
		}
		objects = append(objects, manifests.Object{Text: text, Optional: w.OptIn()})
	}
	for _, b := range s.Brokers {
		add(b.Where, &b.Broker)
	}
	for _, t := range s.Triggers {
		add(t.Where, &t.Trigger)
	}
	for _, svc := range s.Services {
		add(svc.Where, &svc.Service)
	}
	for _, dep := range s.Deployments {
		add(dep.Where, &dep.Deployment)
	}
	for _, p := range s.PingSources {
		add(p.Where, &p.PingSource)
	}
	for _, a := range s.Accounts {
		add(a.Where, &a.ServiceAccount)
	}
	if failed != nil {
		return topology.Mesh{}, failed
	}
	return manifests.Decode(objects)
}
