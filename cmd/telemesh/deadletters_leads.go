package main

import (
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/manifest"
)

// leadsOf says where Triggers lead, by manifests.
func leadsOf(set manifest.Set) deadletter.Leads {
	out := deadletter.Leads{}
	for _, t := range set.Triggers {
		address := ""
		if target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace); err == nil {
			address = target.URL.String()
		}
		if out[t.Namespace] == nil {
			out[t.Namespace] = map[string]string{}
		}
		out[t.Namespace][t.Name] = address
	}
	return out
}
