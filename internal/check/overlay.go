package check

import (
	"maps"

	"k8s.io/apimachinery/pkg/api/equality"
	"knative.dev/eventing/pkg/apis/eventing"

	"github.com/telemesh/telemesh/internal/manifest"
)

// overlay says where the mesh with an overlay is another one than the mesh without:
// what is wrong with it and not with the other, and what its Brokers do otherwise. The
// class of a Broker and its config are what an overlay is for.
func overlay(base *checker, over manifest.Set, functions []string) []Finding {
	found := map[string]bool{}
	for _, f := range base.findings {
		found[f.Object+f.Problem] = true
	}
	with := checker{Set: over, ofTenant: base.ofTenant}
	with.manifests(functions)
	c := checker{Set: over}
	for _, f := range with.findings {
		if !found[f.Object+f.Problem] {
			c.findings = append(c.findings, f)
		}
	}
	for _, b := range base.Brokers {
		same := over.Broker(b.Ref())
		if same == nil {
			c.find(b.Where, "Broker "+b.Ref().String(), "overlay-differs", "add it to the overlay", "is not in the overlay that stands in place of it")
			continue
		}
		for _, part := range []struct {
			field       string
			there, here any
		}{
			{"metadata.annotations", withoutClass(b.Annotations), withoutClass(same.Annotations)},
			{"metadata.labels", b.Labels, same.Labels},
			{"spec.delivery", b.Spec.Delivery, same.Spec.Delivery},
		} {
			if !equality.Semantic.DeepEqual(part.there, part.here) {
				c.find(same.At(part.field), "Broker "+b.Ref().String(), "overlay-differs", "make all but the class and spec.config as it is there",
					"has other %s than at %s", part.field, b.Where)
			}
		}
	}
	return c.findings
}

func withoutClass(annotations map[string]string) map[string]string {
	rest := maps.Clone(annotations)
	delete(rest, eventing.BrokerClassKey)
	return rest
}
