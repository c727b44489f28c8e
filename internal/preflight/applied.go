package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"

	"github.com/telemesh/telemesh/internal/manifest"
)

const (
	apply = "ko apply --base-import-paths -f config -f brokers -f triggers"
	// shownReasons is how many reasons are named.
	shownReasons = 8
)

// readiness is the condition by which a kind says that it works; kinds without one
// are there or not.
var readiness = map[schema.GroupVersionKind]string{
	kindBroker: "Ready", kindTrigger: "Ready", kindFunction: "Ready", kindPingSource: "Ready", kindEventPolicy: "Ready", kindDeployment: "Available",
}

// applied says which objects of the manifests are not there or not ready.
func (j *judge) applied() {
	const check = "applied"
	var missing, ready, asleep []string
	opted := map[string]bool{} // files of sources: whether they are applied, or may be
	kinds, seen := map[string]int{}, 0
	failing := map[string][]string{}
	var reasons []string
	for _, o := range objects(j.set) {
		u, err := j.c.get(o.gvk, o.namespace, o.name)
		if o.OptIn() {
			opted[o.File] = opted[o.File] || err != nil || j.wanted(o.Where)
			if !opted[o.File] {
				continue
			}
		}
		if err != nil {
			continue
		}
		if u == nil {
			missing = append(missing, o.String())
			continue
		}
		if o.gvk.Group != "" {
			seen++
		}
		kinds[o.gvk.Kind]++
		of, judged := readiness[o.gvk]
		if !judged && u.GetDeletionTimestamp() == nil {
			continue
		}
		why := notReady(u, of)
		if why == "" {
			ready = append(ready, o.String())
			continue
		}
		if failing[why] == nil {
			reasons = append(reasons, why)
		}
		failing[why] = append(failing[why], o.String())
	}
	for _, file := range slices.Sorted(maps.Keys(opted)) {
		if !opted[file] {
			asleep = append(asleep, strings.TrimSuffix(file[strings.LastIndexByte(file, '/')+1:], ".yaml"))
		}
	}
	switch {
	case missing == nil:
	case seen == 0:
		do := apply
		if slices.ContainsFunc(missing, func(o string) bool { return strings.HasPrefix(o, kindNamespace.Kind+" ") }) {
			do = "kubectl apply -f config/000-namespaces.yaml; what is missing below; " + apply
		}
		j.say(Missing, check, nil, fmt.Sprintf("Telemesh is not applied: none of its %s is there", counted(len(missing), "object")), do)
		return
	default:
		j.say(Missing, check, missing, "not there", apply)
	}
	for i, why := range reasons {
		if i == shownReasons {
			j.say(Failing, check, nil, fmt.Sprintf("and %d more are not ready", len(reasons)-i), "kubectl get broker,trigger,ksvc,pingsource -A")
			break
		}
		j.say(Failing, check, failing[why], why, describe(failing[why][0]))
	}
	if len(ready) > 0 {
		said := fmt.Sprintf("%s of %s ready", counted(len(ready), "object"), counted(len(objectsIn(kinds)), "kind"))
		if missing == nil && reasons == nil {
			said = "all is applied and ready: " + summary(kinds)
		}
		j.say(OK, check, nil, said, "")
	}
	if asleep != nil {
		j.say(OK, check, nil, "sources that are not applied: "+strings.Join(asleep, ", "), "")
	}
}

func objectsIn(kinds map[string]int) (all []string) { return slices.Sorted(maps.Keys(kinds)) }

func summary(kinds map[string]int) string {
	var parts []string
	for _, k := range objectsIn(kinds) {
		parts = append(parts, counted(kinds[k], k))
	}
	return strings.Join(parts, ", ")
}

// describe is what one would look at next.
func describe(object string) string {
	kind, name, _ := strings.Cut(object, " ")
	namespace, name, _ := strings.Cut(name, "/")
	resource := strings.ToLower(kind)
	if kind == kindFunction.Kind {
		resource = "ksvc"
	}
	return fmt.Sprintf("kubectl describe %s %s -n %s", resource, name, namespace)
}

// deadLetters names the Triggers that lose what they cannot deliver: those on the
// cluster, whoever made them, and those of the manifests that are not there yet.
func (j *judge) deadLetters() {
	var lose, keep []string
	see := func(t *eventingv1.Trigger, broker *eventingv1.Broker) {
		name := label(kindTrigger, t.Namespace, t.Name)
		own := t.Spec.Delivery != nil && t.Spec.Delivery.DeadLetterSink != nil
		inherited := broker != nil && broker.Spec.Delivery != nil && broker.Spec.Delivery.DeadLetterSink != nil
		switch {
		case own || inherited:
			keep = append(keep, name)
		case t.Annotations[manifest.Keeps] != "nothing":
			lose = append(lose, name)
		}
	}
	live, _ := j.c.list(kindTrigger, j.domains...)
	for _, u := range live {
		t, err := as[eventingv1.Trigger](u)
		if err != nil {
			continue
		}
		see(t, j.liveBroker((&manifest.Trigger{Trigger: *t}).BrokerOf()))
	}
	for _, t := range j.set.Triggers {
		absent := !slices.ContainsFunc(live, func(u *unstructured.Unstructured) bool {
			return u.GetNamespace() == t.Namespace && u.GetName() == t.Name
		})
		if _, err := j.c.get(kindTrigger, t.Namespace, t.Name); err == nil && absent && j.wanted(t.Where) {
			broker := j.liveBroker(t.BrokerOf())
			if b := j.set.Broker(t.BrokerOf()); broker == nil && b != nil {
				broker = &b.Broker
			}
			see(&t.Trigger, broker)
		}
	}
	if lose != nil {
		j.say(Unsafe, "dead-letters", lose, "no dead letter sink: an event that its subscriber refuses, or does not take in time, is lost",
			"add spec.delivery.deadLetterSink to the Trigger or to its Broker")
	} else if keep != nil {
		j.say(OK, "dead-letters", nil, counted(len(keep), "Trigger")+" have a dead letter sink", "")
	}
}

func (j *judge) liveBroker(ref manifest.Ref) *eventingv1.Broker {
	u, err := j.c.get(kindBroker, ref.Namespace, ref.Name)
	if err != nil || u == nil {
		return nil
	}
	b, err := as[eventingv1.Broker](u)
	if err != nil {
		return nil
	}
	return b
}
