package preflight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/telemesh/telemesh/internal/manifest"
)

// Judge says what the answers of a cluster mean for manifests.
func Judge(set manifest.Set, c *Cluster) []Finding {
	j := &judge{set: set, c: c, domains: domains(set)}
	j.kubernetes()
	if j.eventing(); j.has(kindBroker) {
		j.flags()
	}
	if j.serving(); j.has(kindFunction) {
		j.ingress()
	}
	if j.has(kindBroker) && j.has(kindFunction) {
		j.applied()
		j.brokers()
		j.deadLetters()
	}
	j.wire()
	j.settings()
	j.warehouse()
	j.hidden()
	return j.out
}

type judge struct {
	set     manifest.Set
	c       *Cluster
	domains []string
	out     []Finding
}

func (j *judge) say(level Level, check string, objects []string, says, do string) {
	j.out = append(j.out, Finding{level, check, objects, says, do})
}

// has says whether the cluster knows a kind.
func (j *judge) has(gvk schema.GroupVersionKind) bool {
	return gvk.Group == "" || j.c.Groups[gvk.Group]
}

// there says whether an object is on the cluster; unless it is shown, it is not.
func (j *judge) there(o object) bool {
	u, err := j.c.get(o.gvk, o.namespace, o.name)
	return err == nil && u != nil
}

// wanted says whether what stands at a place should be on the cluster: a source
// should once something of its file is.
func (j *judge) wanted(w manifest.Where) bool {
	return !w.OptIn() || slices.ContainsFunc(objects(j.set), func(o object) bool { return o.File == w.File && j.there(o) })
}

// hidden names what was not shown, the kinds together that were hidden in the same
// places. Nothing is said of it elsewhere.
func (j *judge) hidden() {
	type fault struct{ verb, why string }
	type kind struct {
		fault
		resource string
	}
	places := map[kind][]string{}
	for q, a := range j.c.answers {
		if a.err == nil {
			continue
		}
		gvr, _ := meta.UnsafeGuessKindToResource(q.gvk)
		k := kind{fault{verb: "list"}, gvr.GroupResource().String()}
		place := q.namespace
		if q.name != "" {
			k.verb, place = "get", strings.TrimPrefix(q.namespace+"/"+q.name, "/")
		}
		switch {
		case apierrors.IsForbidden(a.err):
		case errors.Is(a.err, context.DeadlineExceeded) || apierrors.IsTimeout(a.err) || apierrors.IsServerTimeout(a.err):
			k.why = "no answer in time"
		default:
			k.why = a.err.Error()
		}
		places[k] = append(places[k], place)
	}
	type group struct {
		fault
		places string
	}
	resources := map[group][]string{}
	for k, at := range places {
		slices.Sort(at)
		g := group{k.fault, several(at, shownObjects)}
		resources[g] = append(resources[g], k.resource)
	}
	groups := slices.SortedFunc(maps.Keys(resources), func(a, b group) int {
		return cmp.Or(cmp.Compare(b.verb, a.verb), cmp.Compare(a.places, b.places), cmp.Compare(a.why, b.why))
	})
	do := "kubectl create clusterrolebinding NAME --clusterrole view --user USER shows a user most of it, and no Secrets"
	for _, g := range groups {
		slices.Sort(resources[g])
		what := strings.Join(resources[g], ", ")
		if g.why != "" {
			j.say(Unknown, "reading", nil, fmt.Sprintf("could not %s %s (%s): %s", g.verb, what, g.places, g.why), "")
			continue
		}
		j.say(Unknown, "reading", nil, fmt.Sprintf("you may not %s %s (%s): nothing is said of them", g.verb, what, g.places), do)
		do = "" // once
	}
}

// condition is a condition of an object's status.
type condition struct{ status, reason, message string }

func conditionOf(u *unstructured.Unstructured, kind string) (condition, bool) {
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, one := range all {
		if c, ok := one.(map[string]any); ok && c["type"] == kind {
			text := func(key string) string { s, _ := c[key].(string); return s }
			return condition{text("status"), text("reason"), text("message")}, true
		}
	}
	return condition{}, false
}

// notReady says why an object is not ready, or "" if it is.
func notReady(u *unstructured.Unstructured, kind string) string {
	if u.GetDeletionTimestamp() != nil {
		return "it is being deleted"
	}
	seen, found, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	if found && seen < u.GetGeneration() {
		return "its last change has not been taken up yet"
	}
	c, found := conditionOf(u, kind)
	switch {
	case !found:
		return "nothing has taken it up yet"
	case c.status == "True":
		return ""
	case c.reason == "" && c.message == "":
		return "its condition " + kind + " is " + c.status
	}
	// Messages of Knative may have several lines and hold addresses: the first says what it is.
	message, _, _ := strings.Cut(c.message, "\n")
	return strings.Trim(c.reason+": "+message, ": ")
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, what)
}
