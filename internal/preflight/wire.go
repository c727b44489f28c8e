package preflight

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	eventingapi "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/eventing/pkg/apis/feature"

	"github.com/telemesh/telemesh/internal/manifest"
)

// flagValues are the values of the flags that are judged. Knative takes another
// one for the flag not being on, or for anybody being allowed.
// knative.dev/eventing/pkg/apis/feature
var flagValues = map[string][]feature.Flag{
	feature.OIDCAuthentication:       {feature.Enabled, feature.Disabled},
	feature.TransportEncryption:      {feature.Disabled, feature.Permissive, feature.Strict},
	feature.AuthorizationDefaultMode: {feature.AuthorizationAllowAll, feature.AuthorizationDenyAll, feature.AuthorizationAllowSameNamespace},
}

// features reads the flags of Knative Eventing, and names those whose value is
// none that Knative knows.
func features(data map[string]string) (flags feature.Flags, odd []string, err error) {
	known := map[string]string{}
	for name, values := range flagValues {
		text, said := data[name]
		switch {
		case !said:
		case slices.ContainsFunc(values, func(v feature.Flag) bool { return strings.EqualFold(string(v), text) }):
			known[name] = text
		default:
			odd = append(odd, name+": "+text)
		}
	}
	slices.Sort(odd)
	flags, err = feature.NewFlagsConfigFromMap(known)
	if _, said := data[feature.AuthorizationDefaultMode]; err == nil && said && known[feature.AuthorizationDefaultMode] == "" {
		flags[feature.AuthorizationDefaultMode] = feature.AuthorizationAllowAll
	}
	return flags, odd, err
}

const (
	configFeatures = "ConfigMap knative-eventing/config-features"
	patchFeatures  = "kubectl patch configmap config-features -n knative-eventing --type merge -p '{\"data\": {%s}}'"
	secure         = "; kubectl apply -f config/overlays/secure"
)

// flags says who may send to Brokers, and what passes in clear text.
func (j *judge) flags() {
	data, err := j.c.configMap(eventing, "config-features")
	if err != nil {
		return
	}
	flags, odd, err := features(data)
	if err != nil {
		j.say(Unknown, "flags", []string{configFeatures}, err.Error(), "")
		return
	}
	if odd != nil {
		j.say(Unsafe, "flags", []string{configFeatures}, strings.Join(odd, ", ")+": no value that Knative knows: it counts as disabled, or as allow-all", "")
	}
	j.senders(flags)
	j.encryption(flags)
}

// senders says who may send to Brokers.
// knative.dev/eventing/pkg/auth Verifier
func (j *judge) senders(flags feature.Flags) {
	const check = "authentication"
	policies, _ := j.c.list(kindEventPolicy, j.domains...)
	if !flags.IsOIDCAuthentication() {
		j.say(Unsafe, check, nil, "authentication-oidc is disabled: whoever reaches the ingress of the Brokers may send any event to each of them, as anybody",
			fmt.Sprintf(patchFeatures, `"authentication-oidc": "enabled", "default-authorization-mode": "deny-all"`)+secure)
		if names := named(policies); names != nil {
			j.say(Failing, check, names, "while authentication-oidc is disabled it is not ready, nor is the Broker that it is for",
				fmt.Sprintf(patchFeatures, `"authentication-oidc": "enabled"`)+"; or kubectl delete eventpolicy --all -n NAMESPACE")
		}
		return
	}
	mode := flags[feature.AuthorizationDefaultMode]
	var open, guarded []string
	crossed := map[string][]string{}
	brokers, _ := j.c.list(kindBroker, j.domains...)
	for _, u := range brokers {
		name := label(kindBroker, u.GetNamespace(), u.GetName())
		b, err := as[eventingapi.Broker](u)
		switch {
		case err != nil:
		case len(b.Status.Policies) > 0:
			guarded = append(guarded, name)
		default:
			open = append(open, name)
			crossed[name] = j.crossing(manifest.Ref{Namespace: u.GetNamespace(), Name: u.GetName()})
		}
	}
	switch {
	case mode == feature.AuthorizationDenyAll && len(brokers) == 0:
		j.say(OK, check, nil, "senders show who they are, and those that no EventPolicy names are refused: each Broker needs one", "")
	case mode == feature.AuthorizationDenyAll:
		if guarded != nil {
			j.say(OK, check, guarded, "takes events from those whom EventPolicies name", "")
		}
		if open != nil {
			j.say(Failing, check, open, "no EventPolicy that is ready is for it, and default-authorization-mode is deny-all: it takes nothing from anybody", "kubectl apply -f config/overlays/secure")
		}
	case mode == feature.AuthorizationAllowAll && (open != nil || len(brokers) == 0):
		j.say(Unsafe, check, open, "senders show who they are, and default-authorization-mode is allow-all: without an EventPolicy a Broker takes events from every ServiceAccount of the cluster",
			fmt.Sprintf(patchFeatures, `"default-authorization-mode": "deny-all"`)+secure)
	case mode == feature.AuthorizationAllowSameNamespace && (open != nil || len(brokers) == 0):
		j.say(Unsafe, check, open, "senders show who they are, and default-authorization-mode is allow-same-namespace: without an EventPolicy a Broker takes events from every ServiceAccount of its namespace, and from no other",
			fmt.Sprintf(patchFeatures, `"default-authorization-mode": "deny-all"`)+secure)
		for _, broker := range open {
			if from := crossed[broker]; from != nil {
				j.say(Failing, check, []string{broker}, "refuses what comes from another namespace: "+several(from, shownObjects), "kubectl apply -f config/overlays/secure")
			}
		}
	default:
		j.say(OK, check, guarded, "takes events from those whom EventPolicies name", "")
	}
	j.withoutToken()
}

func named(all []*unstructured.Unstructured) (names []string) {
	for _, u := range all {
		names = append(names, label(u.GroupVersionKind(), u.GetNamespace(), u.GetName()))
	}
	return names
}

// crossing names what sends to a Broker from another namespace.
func (j *judge) crossing(broker manifest.Ref) (from []string) {
	for _, t := range j.set.Triggers {
		target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace)
		if err == nil && target.Broker == broker && t.Namespace != broker.Namespace && j.wanted(t.Where) {
			from = append(from, label(kindTrigger, t.Namespace, t.Name))
		}
	}
	for _, w := range workloads(j.set) {
		if j.sink(w).Broker == broker && w.Ref().Namespace != broker.Namespace && j.wanted(w.Where) {
			from = append(from, w.Object())
		}
	}
	return from
}

// sink is where a workload posts its events.
func (j *judge) sink(w workload) manifest.Target { return address(w.Env["K_SINK"]) }

// withoutToken names what posts to a Broker and has no token for it: with
// authentication it is refused.
func (j *judge) withoutToken() {
	var without []string
	for _, w := range workloads(j.set) {
		broker := j.sink(w).Broker
		if broker == (manifest.Ref{}) || !j.wanted(w.Where) {
			continue
		}
		audience := manifest.Audience(broker)
		has := false
		for _, v := range w.pod.Volumes {
			if v.Projected == nil {
				continue
			}
			for _, s := range v.Projected.Sources {
				has = has || s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience
			}
		}
		if !has {
			without = append(without, w.Object())
		}
	}
	if without != nil {
		j.say(Failing, "authentication", without, "posts to a Broker without a token for it: it is refused",
			"mount a ServiceAccount token of audience eventing.knative.dev/broker/NAMESPACE/BROKER, as the built in manifests do")
	}
}

// encryption says what passes in clear text. With TLS between the parts of
// Eventing, what goes to Services is encrypted only if Serving does so too.
// knative.dev/eventing/pkg/eventingtls ServerManager
func (j *judge) encryption(flags feature.Flags) {
	const check = "encryption"
	tokens := ""
	if flags.IsOIDCAuthentication() {
		tokens = ". So do the tokens by which senders show who they are: who reads one may send as its owner until it expires"
	}
	if !flags.IsStrictTransportEncryption() && !flags.IsPermissiveTransportEncryption() {
		j.say(Unsafe, check, nil, "transport-encryption is disabled: events pass between functions, Brokers and channels in clear text, unless the network below encrypts, which cannot be seen from here"+tokens, "")
		return
	}
	var plain []string
	for _, w := range workloads(j.set) {
		if sink := j.sink(w); sink.URL != nil && sink.URL.Scheme == "http" && j.wanted(w.Where) {
			plain = append(plain, w.Object())
		}
	}
	switch {
	case plain == nil:
	case flags.IsStrictTransportEncryption():
		j.say(Failing, check, plain, "posts to a Broker by http, which transport-encryption strict refuses: its events are not taken",
			fmt.Sprintf(patchFeatures, `"transport-encryption": "permissive"`))
	default:
		j.say(Unsafe, check, plain, "posts to a Broker by http, which transport-encryption permissive allows: its events pass in clear text"+tokens, "")
	}
	network, err := j.c.configMap(serving, "config-network")
	if err != nil {
		return
	}
	if strings.EqualFold(network["cluster-local-domain-tls"], "enabled") {
		j.say(OK, check, nil, "between the parts of Knative events pass by TLS", "")
		return
	}
	j.say(Unsafe, check, nil, "transport-encryption is on for Brokers and channels, but Knative Serving has no TLS within the cluster (cluster-local-domain-tls): events pass to the functions in clear text", "")
}

// wire says what keeps others in the cluster from the functions and the
// warehouse, and how messages come in from outside.
func (j *judge) wire() {
	const check = "network"
	var without, closed, with []string
	for _, namespace := range j.domains {
		all, shown := j.c.list(kindNetworkPolicy, namespace)
		if u, err := j.c.get(kindNamespace, "", namespace); !shown || u == nil && err == nil {
			continue // not shown, or not there to be entered
		}
		isolates, admits := false, false
		for _, u := range all {
			p, err := as[networkingv1.NetworkPolicy](u)
			if err != nil || !forIngress(p) {
				continue
			}
			isolates = isolates || len(p.Spec.PodSelector.MatchLabels)+len(p.Spec.PodSelector.MatchExpressions) == 0
			admits = admits || len(p.Spec.Ingress) > 0
		}
		switch {
		case !isolates:
			without = append(without, "namespace "+namespace)
		case !admits:
			closed = append(closed, "namespace "+namespace)
		default:
			with = append(with, "namespace "+namespace)
		}
	}
	if without != nil {
		j.say(Unsafe, check, without, "no NetworkPolicy is for all pods: every pod of the cluster may call the functions, which do not ask who calls",
			"kubectl apply -f config/overlays/secure")
	}
	if closed != nil {
		j.say(Failing, check, closed, "NetworkPolicies let nobody in: no event comes to a function", "kubectl apply -f config/overlays/secure")
	}
	if with != nil {
		j.say(Warning, check, with, "NetworkPolicies say who may call the functions. They count only where the network of the cluster enforces them, which cannot be seen from here", "")
	}
	var clear []string
	functions, _ := j.c.list(kindFunction, j.domains...)
	for _, u := range functions {
		url, _, _ := unstructured.NestedString(u.Object, "status", "url")
		if strings.HasPrefix(url, "http://") && !strings.HasSuffix(url, ".svc.cluster.local") && u.GetLabels()["networking.knative.dev/visibility"] != "cluster-local" {
			clear = append(clear, label(kindFunction, u.GetNamespace(), u.GetName()))
		}
	}
	if clear != nil {
		j.say(Unsafe, check, clear, "reached from outside by http: messages and the tokens of their senders pass in clear text, unless something before it speaks TLS",
			"https://knative.dev/docs/serving/encryption/external-domain-tls")
	}
}

// forIngress says whether a policy bears on what comes in, as it does by default.
func forIngress(p *networkingv1.NetworkPolicy) bool {
	return len(p.Spec.PolicyTypes) == 0 || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
}
