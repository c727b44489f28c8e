package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"knative.dev/eventing/pkg/apis/config"
	eventingapi "knative.dev/eventing/pkg/apis/eventing"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	messaging "knative.dev/eventing/pkg/apis/messaging/config"
	"sigs.k8s.io/yaml"

	"github.com/telemesh/telemesh/internal/manifest"
)

// brokers says what the Brokers are made of, and whether functions post to where
// they are.
func (j *judge) brokers() {
	const check = "brokers"
	made := map[material][]string{}
	for _, b := range j.set.Brokers {
		if j.wanted(b.Where) {
			of := j.madeOf(b)
			made[of] = append(made[of], label(kindBroker, b.Namespace, b.Name))
		}
	}
	classes := map[string]bool{}
	for _, of := range slices.SortedFunc(maps.Keys(made), func(a, b material) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.storage, b.storage), cmp.Compare(a.lacks, b.lacks))
	}) {
		class, storage, names := of.class, of.storage, made[of]
		classes[class] = true
		if of.lacks != "" {
			j.say(Missing, check, names, of.lacks, "")
			continue
		}
		switch {
		case class == "":
			// Not shown: hidden says so.
		case class == eventingapi.MTChannelBrokerClassValue && storage == "InMemoryChannel":
			j.say(Unsafe, check, names, "of class MTChannelBasedBroker on InMemoryChannel: events live in a process, and those it has are lost when it ends",
				"for trying out only; config/overlays/kafka makes them Brokers of class Kafka")
		case class == eventingapi.MTChannelBrokerClassValue && storage == "":
			j.say(Unknown, check, names, "of class MTChannelBasedBroker; on what channel was not shown", "")
		case class == eventingapi.MTChannelBrokerClassValue:
			j.say(OK, check, names, "of class MTChannelBasedBroker on "+storage+", which keeps events as that channel does", "")
		case class == kafkaClass && storage == "1":
			j.say(Unsafe, check, names, "of class Kafka with one replica of each topic: what the one Kafka broker loses is lost", "set default.topic.replication.factor in its ConfigMap; topics that are there stay as they are")
		case class == kafkaClass:
			j.say(OK, check, names, "of class Kafka: events are kept in topics"+replicas(storage), "")
		default:
			j.say(Unknown, check, names, "of class "+class+": whether it keeps events is not known here", "")
		}
	}
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		var missing []string
		for _, name := range brokerDeployments[class] {
			if u, err := j.c.get(kindDeployment, eventing, name); err == nil && u == nil {
				missing = append(missing, label(kindDeployment, eventing, name))
			}
		}
		if missing != nil {
			j.say(Missing, check, missing, "not there: no Broker of class "+class+" works without", "install it: https://knative.dev/docs/eventing/brokers/broker-types")
		}
	}
	j.domain()
	j.aliases()
}

func replicas(factor string) string {
	if factor == "" {
		return ""
	}
	return " of " + factor + " replicas"
}

// material is what a Broker is made of, as far as it was shown.
type material struct {
	class   string
	storage string // what it keeps events in: the kind of a channel, or the replicas of a topic of Kafka
	lacks   string // what it does not work without
}

// madeOf says what a Broker is made of. One that is not there yet is what the
// defaults of the cluster make of it.
func (j *judge) madeOf(b *manifest.Broker) (m material) {
	u, err := j.c.get(kindBroker, b.Namespace, b.Name)
	if err != nil {
		return m
	}
	defaults := j.brokerDefaults()
	live := &b.Broker
	if u != nil {
		if live, err = as[eventingv1.Broker](u); err != nil {
			return m
		}
	} else {
		live = live.DeepCopy()
		if class := live.Annotations[eventingapi.BrokerClassKey]; class == eventingapi.MTChannelBrokerClassValue || class == "" {
			// What manifests leave open is filled in here as Knative installs it,
			// and there as the cluster says.
			if defaults == nil {
				return m
			}
			class, err := defaults.GetBrokerClass(b.Namespace)
			if err != nil {
				return m
			}
			metav1.SetMetaDataAnnotation(&live.ObjectMeta, eventingapi.BrokerClassKey, class)
			if made, err := defaults.GetBrokerConfig(b.Namespace, &class); err == nil {
				live.Spec.Config = made.KReference
			}
		}
	}
	m.class = live.Annotations[eventingapi.BrokerClassKey]
	if m.storage = live.Status.Annotations[eventingapi.BrokerChannelKindStatusAnnotationKey]; m.storage != "" || live.Spec.Config == nil {
		return m
	}
	namespace, name := cmp.Or(live.Spec.Config.Namespace, live.Namespace), live.Spec.Config.Name
	data, err := j.c.configMap(namespace, name)
	switch {
	case err != nil:
	case data == nil:
		m.lacks = fmt.Sprintf("what it is made of stands in %s, which is not there", label(kindConfigMap, namespace, name))
	case m.class != kafkaClass:
		m.storage = j.channelKind(data, live.Namespace)
	case data["bootstrap.servers"] == "":
		m.lacks = label(kindConfigMap, namespace, name) + " has no key bootstrap.servers: where Kafka is is not known"
	default:
		m.storage = data["default.topic.replication.factor"]
	}
	return m
}

func (j *judge) brokerDefaults() *config.Defaults {
	data, err := j.c.configMap(eventing, "config-br-defaults")
	if err != nil || data == nil {
		return nil
	}
	defaults, err := config.NewDefaultsConfigFromMap(data)
	if err != nil {
		return nil
	}
	return defaults
}

// channelKind is the kind of the channel that a template asks for. A Channel is
// what the defaults of channels make of it.
// knative.dev/eventing/pkg/reconciler/broker NewConfigFromConfigMapFunc
func (j *judge) channelKind(data map[string]string, namespace string) string {
	var template metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(cmp.Or(data["channel-template-spec"], data["channelTemplateSpec"])), &template); err != nil {
		return ""
	}
	if template.Kind != "Channel" {
		return template.Kind
	}
	data, err := j.c.configMap(eventing, "default-ch-webhook")
	if err != nil || data == nil {
		return ""
	}
	defaults, err := messaging.NewChannelDefaultsConfigFromMap(data)
	if err != nil {
		return ""
	}
	channel, err := defaults.GetChannelConfig(namespace)
	if err != nil || channel == nil {
		return ""
	}
	return channel.Kind
}

// clusterDomain is where manifests and functions know Services.
const clusterDomain = "cluster.local"

// domain says whether names of Services end as the manifests and the
// functions write them. That of a cluster stands in the addresses of its Brokers.
func (j *judge) domain() {
	other := map[string][]string{}
	live, _ := j.c.list(kindBroker, j.domains...)
	for _, u := range live {
		if domain := domainOf(servedAt(u)); domain != "" && domain != clusterDomain {
			other[domain] = append(other[domain], label(kindBroker, u.GetNamespace(), u.GetName()))
		}
	}
	for domain, names := range other {
		j.say(Failing, "brokers", names, "has an address in the cluster domain "+domain+", and manifests and functions know Services as NAME.NAMESPACE.svc."+clusterDomain+
			": in K_SINK, in WAKE, and where ports are", "take a cluster whose domain is "+clusterDomain)
	}
}

// domainOf is the cluster domain of a Service's host; empty: it is no such host.
func domainOf(host string) string {
	_, domain, _ := strings.Cut(host, ".svc.")
	return domain
}

// servedAt is the host at which a Broker takes events; empty: it is not ready.
func servedAt(broker *unstructured.Unstructured) string {
	text, _, _ := unstructured.NestedString(broker.Object, "status", "address", "url")
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// address reads a URL as what it stands for; the zero Target if it is none.
func address(text string) manifest.Target {
	u, err := url.Parse(text)
	if text == "" || err != nil {
		return manifest.Target{}
	}
	return manifest.TargetOf(u)
}

// aliases says where functions post to an ingress that does not know their Broker.
// Each class has an ingress of its own, and what functions call it is an alias.
func (j *judge) aliases() {
	type miss struct{ posts, served string }
	wrong := map[miss][]string{}
	for _, w := range workloads(j.set) {
		sink := j.sink(w)
		if sink.Broker == (manifest.Ref{}) || !j.wanted(w.Where) {
			continue
		}
		u, err := j.c.get(kindBroker, sink.Broker.Namespace, sink.Broker.Name)
		if err != nil || u == nil {
			continue // said already
		}
		served := servedAt(u)
		if domain := domainOf(served); served == "" || domain != "" && domain != clusterDomain {
			continue // it is not ready, or said already
		}
		if posts, ok := j.alias(sink.URL.Hostname()); ok && posts != served {
			m := miss{posts, served}
			wrong[m] = append(wrong[m], w.Object())
		}
	}
	for m, names := range wrong {
		j.say(Failing, "brokers", names, fmt.Sprintf("posts to %s, and its Broker is at %s", m.posts, m.served),
			"let the ExternalName of Service platform/broker-ingress be "+m.served)
	}
}

// alias follows a Service of type ExternalName. It does not know where a host
// leads whose Service was not shown.
func (j *judge) alias(host string) (string, bool) {
	ref := manifest.TargetOf(&url.URL{Scheme: "http", Host: host}).Service
	if host == manifest.AliasHost {
		name, rest, _ := strings.Cut(host, ".")
		namespace, _, _ := strings.Cut(rest, ".")
		ref = manifest.Ref{Namespace: namespace, Name: name}
	}
	if ref == (manifest.Ref{}) {
		return host, true
	}
	u, err := j.c.get(kindService, ref.Namespace, ref.Name)
	if err != nil || u == nil {
		return "", false
	}
	s, err := as[corev1.Service](u)
	if err != nil {
		return "", false
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return s.Spec.ExternalName, true
	}
	return host, true
}
