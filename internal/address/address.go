// Package address is what addresses inside a cluster stand for. It knows names and
// asks nobody.
package address

import (
	"net/url"
	"strings"
)

const (
	// Ingress is the host that answers for every Broker of Knative's default class.
	Ingress = "broker-ingress.knative-eventing.svc.cluster.local"
	// KafkaIngress answers for every Broker of class Kafka.
	KafkaIngress = "kafka-broker-ingress.knative-eventing.svc.cluster.local"
	// Alias is what functions call the ingress: a Service of type ExternalName,
	// so that Brokers of another class need no other functions.
	Alias = "broker-ingress.platform.svc.cluster.local"
	// Cluster ends the host of every Service.
	Cluster = ".svc.cluster.local"
)

// IsIngress says whether a host answers for Brokers.
func IsIngress(host string) bool { return host == Ingress || host == Alias || host == KafkaIngress }

// Broker gives the Broker that an address is of; false: it is of none.
func Broker(u *url.URL) (namespace, name string, ok bool) {
	if port := u.Port(); port != "" && port != "80" || !IsIngress(u.Hostname()) {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(strings.Trim(u.Path, "/"), "/")
	if !ok || strings.Contains(name, "/") {
		return "", "", false
	}
	return namespace, name, true
}

// OfBroker gives the address of a Broker.
func OfBroker(namespace, name string) *url.URL {
	return &url.URL{Scheme: "http", Host: Ingress, Path: "/" + namespace + "/" + name}
}

// OfService gives the address of a Knative Service.
func OfService(namespace, name string) *url.URL {
	return &url.URL{Scheme: "http", Host: name + "." + namespace + Cluster}
}
