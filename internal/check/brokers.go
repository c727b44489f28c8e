package check

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"knative.dev/eventing/pkg/apis/eventing"
	duckv1 "knative.dev/pkg/apis/duck/v1"

	"github.com/telemesh/telemesh/internal/address"
	"github.com/telemesh/telemesh/internal/manifest"
)

// destinations says what is sent to where nobody is.

func (c *checker) destinations() {
	for _, b := range c.Brokers {
		if d := b.Spec.Delivery; d != nil && d.DeadLetterSink != nil {
			object := "Broker " + b.Ref().String()
			c.destination(b.At("spec.delivery.deadLetterSink"), object, "dead letter sink", *d.DeadLetterSink, b.Namespace)
			c.deadLetters(b.At("spec.delivery.deadLetterSink.uri"), object, *d.DeadLetterSink, b.Namespace, "/"+b.Namespace)
		}
	}
	for _, t := range c.Triggers {
		object := "Trigger " + t.Ref().String()
		if c.Broker(t.BrokerOf()) == nil {
			c.find(t.At("spec.broker"), object, "broker-missing", "name one of "+names(c.Brokers), "Broker %s does not exist", t.BrokerOf())
		}
		c.destination(t.At("spec.subscriber"), object, "subscriber", t.Spec.Subscriber, t.Namespace)
		if d := t.Spec.Delivery; d != nil && d.DeadLetterSink != nil {
			c.destination(t.At("spec.delivery.deadLetterSink"), object, "dead letter sink", *d.DeadLetterSink, t.Namespace)
			c.deadLetters(t.At("spec.delivery.deadLetterSink.uri"), object, *d.DeadLetterSink, t.Namespace, "/"+t.Ref().String())
		}
	}
}

func (c *checker) destination(w manifest.Where, object, role string, d duckv1.Destination, namespace string) {
	target, err := manifest.Resolve(d, namespace)
	none := manifest.Ref{}
	switch {
	case err != nil:
		c.find(w, object, "destination-invalid", "correct the "+role, "%s: %v", role, err)
	case target.Service != none && c.Service(target.Service) == nil:
		c.find(w, object, "service-missing", "name one of "+names(c.Services), "%s: Service %s does not exist", role, target.Service)
	case target.Broker != none && c.Broker(target.Broker) == nil:
		c.find(w, object, "broker-missing", "name one of "+names(c.Brokers), "%s: Broker %s does not exist", role, target.Broker)
	}
}

// deadLetters: the function of dead letters knows by the path alone whose they are,
// and gives them back to that Trigger.
func (c *checker) deadLetters(w manifest.Where, object string, d duckv1.Destination, namespace, want string) {
	target, err := manifest.Resolve(d, namespace)
	if err != nil {
		return // found already
	}
	if s := c.Service(target.Service); s != nil && s.Function() == "dead-letter-sink" && target.URL.Path != want {
		c.find(w, object, "dead-letter-path", "make it uri: "+want, "dead letter sink: what it gives up is kept as that of %q", target.URL.Path)
	}
}

// addresses says which functions are told to ask a Service that is not there. K_SINK and
// WAKE are looked at by themselves.
func (c *checker) addresses() {
	for _, w := range c.Workloads() {
		for _, name := range slices.Sorted(maps.Keys(w.Env)) {
			if name == "K_SINK" || name == "WAKE" {
				continue
			}
			for _, at := range inCluster.FindAllStringSubmatch(w.Env[name], -1) {
				ref := manifest.Ref{Namespace: at[2], Name: at[1]}
				known := slices.ContainsFunc(c.Services, func(s *manifest.Service) bool { return s.Ref().Namespace == ref.Namespace })
				if known && c.Service(ref) == nil && c.Alias(ref) == nil {
					c.find(w.Where, w.Object(), "service-missing", "name one of "+names(c.Services), "%s: Service %s does not exist", name, ref)
				}
			}
		}
	}
}

// inCluster is the address of a Service.
var inCluster = regexp.MustCompile(`https?://([a-z0-9-]+)\.([a-z0-9-]+)` + regexp.QuoteMeta(address.Cluster))

// namespaces says which namespaces are missing, where the manifests have those of others.
func (c *checker) namespaces() {
	there := map[string]bool{}
	for _, o := range c.Passed {
		if o.Kind == "Namespace" {
			there[o.Name] = true
		}
	}
	if len(there) == 0 {
		return // who applies the mesh makes them
	}
	need := func(at manifest.Where, object string, ref manifest.Ref) {
		if !there[ref.Namespace] {
			there[ref.Namespace] = true // it is said once
			c.find(at, object, "namespace-missing", "add it, or correct the name", "there is no Namespace %s", ref.Namespace)
		}
	}
	for _, b := range c.Brokers {
		need(b.At("metadata.namespace"), "Broker "+b.Ref().String(), b.Ref())
	}
	for _, w := range c.Workloads() {
		need(w.At("metadata.namespace"), w.Object(), w.Ref())
	}
	for _, t := range c.Triggers {
		need(t.At("metadata.namespace"), "Trigger "+t.Ref().String(), t.Ref())
	}
	for _, p := range c.PingSources {
		need(p.At("metadata.namespace"), "PingSource "+p.Ref().String(), p.Ref())
	}
}

// annotations says which annotations and labels of Telemesh there are not.
func (c *checker) annotations() {
	look := func(at manifest.Where, object string, known string, o interface {
		GetAnnotations() map[string]string
		GetLabels() map[string]string
	}) {
		all := manifest.List(known)
		for _, in := range []struct {
			field string
			names map[string]string
		}{{"annotations", o.GetAnnotations()}, {"labels", o.GetLabels()}} {
			for _, name := range slices.Sorted(maps.Keys(in.names)) {
				if strings.HasPrefix(name, "telemesh.dev/") && !slices.Contains(all, name) {
					c.find(at.At("metadata."+in.field), object, "annotation-unknown", "correct its name, or remove it; there are "+strings.Join(all, ", "), "has %s", name)
				}
			}
		}
	}
	for _, b := range c.Brokers {
		look(b.Where, "Broker "+b.Ref().String(), manifest.Outputs+","+manifest.Attributes, b)
	}
	for _, t := range c.Triggers {
		look(t.Where, "Trigger "+t.Ref().String(), manifest.Keeps+","+manifest.Ends+","+manifest.Seldom, t)
	}
	for _, s := range c.Services {
		look(s.Where, s.Object(), manifest.Emits+","+manifest.Attributes, s)
	}
	for _, d := range c.Deployments {
		look(d.Where, d.Object(), manifest.Emits+","+manifest.Attributes, d)
	}
	for _, a := range c.Accounts {
		look(a.Where, "ServiceAccount "+a.Ref().String(), manifest.Product, a)
	}
}

// ingress says which functions post to a Broker by a name that does not lead to it.
func (c *checker) ingress() {
	for _, w := range c.Workloads() {
		broker := c.Broker(w.Sink())
		if broker == nil {
			continue
		}
		want := manifest.IngressHost
		if broker.Annotations[eventing.BrokerClassKey] == "Kafka" {
			want = manifest.KafkaIngressHost
		}
		sink, _ := url.Parse(w.Env["K_SINK"]) // it is a Broker's
		host, by := sink.Hostname(), w.Where
		if host == manifest.AliasHost {
			name, namespace, _ := strings.Cut(strings.TrimSuffix(manifest.AliasHost, address.Cluster), ".")
			alias := c.Alias(manifest.Ref{Namespace: namespace, Name: name})
			if alias == nil {
				c.find(by, w.Object(), "ingress-missing", "add a Service of that name, type ExternalName and externalName "+want, "K_SINK: there is no %s", manifest.AliasHost)
				continue
			}
			host, by = alias.Spec.ExternalName, alias.At("spec.externalName")
		}
		if host != want {
			c.find(by, w.Object(), "ingress-wrong", "make it "+want, "K_SINK is Broker %s, of which %s knows nothing", broker.Ref(), host)
		}
	}
}

func names[T interface{ Ref() manifest.Ref }](all []T) string {
	if len(all) == 0 {
		return "(there is none)"
	}
	refs := make([]string, len(all))
	for i, o := range all {
		refs[i] = o.Ref().String()
	}
	return strings.Join(refs, ", ")
}
