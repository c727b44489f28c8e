package manifest

import (
	"fmt"
	"net/url"
	"strings"

	duckv1 "knative.dev/pkg/apis/duck/v1"
)

// Addresses inside a cluster.
const (
	// IngressHost answers for every Broker of Knative's default class.
	IngressHost = "broker-ingress.knative-eventing.svc.cluster.local"
	// KafkaIngressHost answers for every Broker of class Kafka.
	KafkaIngressHost = "kafka-broker-ingress.knative-eventing.svc.cluster.local"
	// AliasHost is what functions call the ingress: a Service of type ExternalName,
	// so that Brokers of another class need no other functions.
	AliasHost   = "broker-ingress.platform.svc.cluster.local"
	clusterHost = ".svc.cluster.local"
)

// IsIngress says whether a host answers for Brokers.
func IsIngress(host string) bool {
	return host == IngressHost || host == AliasHost || host == KafkaIngressHost
}

// Target is where a destination leads.
type Target struct {
	URL     *url.URL
	Service Ref // zero unless URL is a Service's address
	Broker  Ref // zero unless URL is a Broker's address
}

// Resolve gives the address of a destination as a cluster would; namespace is
// that of the object it stands in.
func Resolve(d duckv1.Destination, namespace string) (Target, error) {
	var base *url.URL
	if ref := d.Ref; ref != nil {
		if ref.Namespace != "" {
			namespace = ref.Namespace
		}
		group, _, _ := strings.Cut(ref.APIVersion, "/")
		switch group + " " + ref.Kind {
		case "serving.knative.dev Service":
			base = &url.URL{Scheme: "http", Host: ref.Name + "." + namespace + clusterHost}
		case "eventing.knative.dev Broker":
			base = &url.URL{Scheme: "http", Host: IngressHost, Path: "/" + namespace + "/" + ref.Name}
		default:
			return Target{}, fmt.Errorf("ref to a %s of %s: only Knative Services and Brokers are delivered to; name anything else by uri", ref.Kind, ref.APIVersion)
		}
	}
	if d.URI != nil {
		uri := d.URI.URL()
		if base != nil {
			uri = base.ResolveReference(uri)
		}
		base = uri
	}
	if base == nil || base.Host == "" {
		return Target{}, fmt.Errorf("neither a ref nor an absolute uri")
	}
	return TargetOf(base), nil
}

// TargetOf says what an address stands for.
func TargetOf(u *url.URL) Target {
	t := Target{URL: u}
	if host, port := u.Hostname(), u.Port(); port == "" || port == "80" {
		if IsIngress(host) {
			if namespace, name, ok := strings.Cut(strings.Trim(u.Path, "/"), "/"); ok && !strings.Contains(name, "/") {
				t.Broker = Ref{namespace, name}
			}
		} else if names, ok := strings.CutSuffix(host, clusterHost); ok {
			if name, namespace, ok := strings.Cut(names, "."); ok && !strings.Contains(namespace, ".") {
				t.Service = Ref{namespace, name}
			}
		}
	}
	return t
}
