package repotest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/pkg/kmeta"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/manifest"
)

func overlay(t *testing.T) manifest.Set {
	t.Helper()
	set, err := manifest.Load(manifest.Folder{Name: "config/overlays/secure", FS: os.DirFS(filepath.Join(dataset.Root(t), "config", "overlays", "secure"))})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// deadLetters is who brings dead letters to the functions again.
var deadLetters = manifest.Ref{Namespace: "platform", Name: "dead-letter-sink"}

// A Broker that asks who posts takes from each account what it makes, and nothing else:
// from a function what it posts, from the account of a Trigger what its subscriber
// replies, or what it brings from another Broker. Who brings letters again stands in for
// all of these Triggers, and who asks for letters shows its token.
func TestPoliciesAreWhatFunctionsEmit(t *testing.T) {
	set, secured := manifests(t), overlay(t)
	want, got := map[manifest.Ref]map[string][]string{}, map[manifest.Ref]map[string][]string{}
	add := func(to map[manifest.Ref]map[string][]string, broker manifest.Ref, who string, types ...string) {
		if to[broker] == nil {
			to[broker] = map[string][]string{}
		}
		to[broker][who] = slices.Compact(slices.Sorted(slices.Values(append(to[broker][who], types...))))
	}
	// Knative's name for the account that it makes for an object, to send by.
	made := func(r manifest.Ref, kind string) string {
		return manifest.Subject(manifest.Ref{Namespace: r.Namespace, Name: strings.ToLower(kmeta.ChildName(r.Name, "-oidc-"+kind))})
	}

	emits := map[manifest.Ref][]string{}
	for _, s := range set.Services {
		emits[s.Ref()] = typesIn(s.Annotations)
	}
	for _, d := range set.Deployments {
		emits[d.Ref()] = typesIn(d.Annotations)
	}
	for _, w := range set.Workloads() {
		for _, broker := range set.Brokers {
			if w.PostsTo(broker.Ref()) {
				add(want, broker.Ref(), manifest.Subject(w.Account()), emits[w.Ref()]...)
			}
		}
	}
	again := set.Service(deadLetters)
	for _, trigger := range set.Triggers {
		who := made(trigger.Ref(), "eventing.knative.dev-Trigger")
		sends := func(broker manifest.Ref, types []string) {
			add(want, broker, who, types...)
			if !again.PostsTo(broker) {
				t.Errorf("%s: %s cannot bring letters of Trigger %s again: it has no token for Broker %s", again.Where, again.Object(), trigger.Ref(), broker)
			}
			add(want, broker, manifest.Subject(again.Account()), types...)
		}
		target, err := manifest.Resolve(trigger.Spec.Subscriber, trigger.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		if target.Service == deadLetters { // who asks for letters shows its token
			add(want, trigger.BrokerOf(), manifest.Subject(again.Account()), trigger.Types()...)
		} else if (target.Broker != manifest.Ref{}) {
			sends(target.Broker, trigger.Types())
		} else if types := emits[target.Service]; len(types) > 0 {
			sends(trigger.BrokerOf(), types)
		}
	}
	for _, p := range set.PingSources {
		target, err := manifest.Resolve(p.Spec.Sink, p.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		add(want, target.Broker, made(p.Ref(), "sources.knative.dev-PingSource"), "dev.knative.sources.ping")
	}

	for _, p := range secured.EventPolicies {
		if len(p.Spec.To) != 1 || p.Spec.To[0].Ref == nil || p.Spec.To[0].Ref.Kind != "Broker" {
			t.Errorf("%s: EventPolicy %s is not of one Broker", p.Where, p.Ref())
			continue
		}
		broker := manifest.Ref{Namespace: p.Namespace, Name: p.Spec.To[0].Ref.Name}
		for _, from := range p.Spec.From {
			// knative.dev/eventing/pkg/auth.SubjectAndFiltersPass asks the first one only.
			// Why none stands by ref is said in broker-iot.yaml.
			if from.Sub == nil {
				t.Errorf("%s: EventPolicy %s names %+v by ref, which keeps the Broker from getting ready", p.Where, p.Ref(), from.Ref)
				continue
			}
			if got[broker][*from.Sub] != nil {
				t.Errorf("%s: EventPolicy %s: %s stands in another policy of the Broker, too", p.Where, p.Ref(), *from.Sub)
			}
			add(got, broker, *from.Sub, filtered(t, p.Spec.Filters)...)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("who may post what to which Broker (-what functions emit +config/overlays/secure):\n%s", diff)
	}
}

func typesIn(annotations map[string]string) []string {
	return strings.FieldsFunc(annotations[manifest.Emits], func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

// filtered gives the types that the filters of a policy let pass.
func filtered(t *testing.T, filters []eventingv1.SubscriptionsAPIFilter) (types []string) {
	t.Helper()
	if len(filters) == 1 && len(filters[0].Any) > 0 {
		filters = filters[0].Any
	} else if len(filters) != 1 {
		t.Fatalf("filters %+v: all of them would have to pass", filters)
	}
	for _, f := range filters {
		if len(f.Exact) != 1 || f.Exact["type"] == "" {
			t.Errorf("filter %+v says nothing of the type alone", f)
		}
		types = append(types, f.Exact["type"])
	}
	return types
}

// With everything closed, each function reaches what its manifest says it needs.
func TestNetworkPoliciesOpenWhatFunctionsNeed(t *testing.T) {
	set, secured := manifests(t), overlay(t)
	pods := map[manifest.Ref]labels.Set{}
	for _, s := range set.Services {
		pods[s.Ref()] = labels.Set{"serving.knative.dev/service": s.Name}
	}
	for _, d := range set.Deployments {
		pods[d.Ref()] = d.Spec.Template.Labels
	}
	selected := map[string][]string{} // pods, by what a file opens
	var gateways []networkingv1.NetworkPolicyPeer
	closed := map[string]bool{}
	for _, p := range secured.NetworkPolicies {
		selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			t.Fatal(err)
		}
		opens := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p.File), "network-"), ".yaml")
		if opens == "default" {
			closed[p.Namespace] = selector.Empty() && len(p.Spec.Ingress)+len(p.Spec.Egress) == 0 &&
				slices.Equal(p.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress})
		}
		// Functions are reached through gateways, and reach others there: in as many
		// policies these are named, on all their ports.
		var through []networkingv1.NetworkPolicyPeer
		switch {
		case opens == "knative" && len(p.Spec.Ingress) == 1:
			through = p.Spec.Ingress[0].From
		case opens == "services" && len(p.Spec.Egress) == 1 && p.Spec.Egress[0].Ports == nil:
			through = p.Spec.Egress[0].To
		}
		if gateways == nil {
			gateways = through
		}
		if diff := cmp.Diff(gateways, through); diff != "" && (opens == "knative" || opens == "services") {
			t.Errorf("%s: NetworkPolicy %s opens other gateways (-the first policy +this one):\n%s", p.Where, p.Ref(), diff)
		}
		for ref, pod := range pods {
			if ref.Namespace == p.Namespace && selector.Matches(pod) {
				selected[opens] = append(selected[opens], ref.String())
			}
		}
	}
	want := map[string][]string{}
	for _, w := range set.Workloads() {
		need := func(opened string) {
			if name := w.Ref().String(); !slices.Contains(want[opened], name) {
				want[opened] = append(want[opened], name)
			}
		}
		if !closed[w.Ref().Namespace] {
			t.Errorf("%s: no NetworkPolicy closes namespace %s", w.Where, w.Ref().Namespace)
		}
		need("default")
		need("dns")
		if set.Service(w.Ref()) != nil {
			need("knative")
		}
		if account := set.Account(w.Account()); account != nil && account.Labels[manifest.Product] != "" {
			need("warehouse")
		}
		if w.Env["K_SINK"] != "" {
			need("brokers")
		}
		if w.Ref() == deadLetters { // brings letters to Services of all namespaces
			need("services")
		}
		asks := func(name string) bool {
			s := set.Service(w.Ref())
			return s != nil && slices.ContainsFunc(s.Spec.Template.Spec.Containers[0].Env, func(v corev1.EnvVar) bool { return v.Name == name })
		}
		if asks("DATABASE_URL") {
			need("database")
		}
		if asks("ALERT_ROUTES") {
			need("alerts")
		}
		for name, value := range w.Env {
			if name == "WAKE" || name != "K_SINK" && strings.Contains(value, ".svc.cluster.local/") {
				need("services")
			}
		}
		if w.OptIn() || w.Ref().Name == "telemetry-ingest" {
			need("sources")
		}
	}
	for _, refs := range selected {
		slices.Sort(refs)
	}
	for _, refs := range want {
		slices.Sort(refs)
	}
	if diff := cmp.Diff(want, selected); diff != "" {
		t.Errorf("who is let through (-what functions need +config/overlays/secure):\n%s", diff)
	}
}
