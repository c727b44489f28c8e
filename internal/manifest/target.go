package manifest

import (
	"fmt"
	"net/url"
	"strings"

	duckv1 "knative.dev/pkg/apis/duck/v1"

	"github.com/telemesh/telemesh/internal/address"
)

// Addresses inside a cluster, as package address has them.
const (
	IngressHost      = address.Ingress
	KafkaIngressHost = address.KafkaIngress
	AliasHost        = address.Alias
	clusterHost      = address.Cluster
)

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
			base = address.OfService(namespace, ref.Name)
		case "eventing.knative.dev Broker":
			base = address.OfBroker(namespace, ref.Name)
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
	if namespace, name, ok := address.Broker(u); ok {
		t.Broker = Ref{namespace, name}
	} else if port := u.Port(); port == "" || port == "80" {
		if names, ok := strings.CutSuffix(u.Hostname(), clusterHost); ok && !address.IsIngress(u.Hostname()) {
			if name, namespace, ok := strings.Cut(names, "."); ok && !strings.Contains(namespace, ".") {
				t.Service = Ref{namespace, name}
			}
		}
	}
	return t
}
