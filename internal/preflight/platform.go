package preflight

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/version"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing"
)

// The least that the manifests need, and why.
var (
	// Triggers have filters, which are ignored where the flag new-trigger-filters is
	// off, and it is on by default from here. knative/docs issue 5710
	leastEventing = version.MustParseGeneric("1.12")
	// Containers say seccompProfile, which is refused before. knative/serving pull
	// 13401, merged days before 1.8
	leastServing = version.MustParseGeneric("1.9")
)

const install = "install Knative Serving and Eventing by their YAML, their Operator or your cloud's own way: https://knative.dev/docs/install"

func (j *judge) kubernetes() {
	j.say(OK, "kubernetes", nil, "Kubernetes "+j.c.Version.GitVersion, "")
}

func (j *judge) eventing() {
	needed := []string{"eventing-controller", "eventing-webhook"}
	j.component("Knative Eventing", "knative-eventing", j.has(kindBroker), eventing, needed, leastEventing,
		"Triggers would pass everything, their filters being ignored")
}

func (j *judge) serving() {
	j.component("Knative Serving", "knative-serving", j.has(kindFunction), serving, []string{"controller", "webhook", "activator", "autoscaler"}, leastServing,
		"Services that name a seccompProfile would be refused")
}

// component judges a part of Knative by its API and its Deployments.
func (j *judge) component(name, check string, there bool, namespace string, needed []string, least *version.Version, because string) {
	if !there {
		j.say(Missing, check, nil, name+" is not there", install)
		return
	}
	deployments, shown := j.c.list(kindDeployment, namespace)
	if !shown {
		j.say(OK, check, nil, name+" is there; its version and whether it runs were not shown", "")
		return
	}
	var missing, down []string
	for _, n := range needed {
		if !slices.ContainsFunc(deployments, func(u *unstructured.Unstructured) bool { return u.GetName() == n }) {
			missing = append(missing, label(kindDeployment, namespace, n))
		}
	}
	versions := map[string]bool{}
	for _, u := range deployments {
		if v := u.GetLabels()["app.kubernetes.io/version"]; v != "" && u.GetLabels()["app.kubernetes.io/name"] == namespace {
			versions[v] = true
		}
		if d, err := as[appsv1.Deployment](u); err == nil && unavailable(d) && !dormant(d) {
			down = append(down, label(kindDeployment, namespace, d.Name))
		}
	}
	if missing != nil {
		j.say(Missing, check, missing, "not there: "+name+" does nothing without", install)
	}
	if down != nil {
		j.say(Failing, check, down, "no pod of it is available", fmt.Sprintf("kubectl get pods -n %s; kubectl get events -n %s", namespace, namespace))
	}
	text, level, said := name, OK, ""
	for v := range versions {
		text += " " + v
		parsed, err := version.ParseGeneric(v)
		switch {
		case err != nil:
			said = "; " + v + " is no release's version: that it is at least " + least.String() + " is not known"
		case parsed.LessThan(least):
			level, said = Failing, fmt.Sprintf(", and at least %s is needed: %s", least, because)
		}
	}
	if len(versions) == 0 {
		said = ", of a version that nothing there says"
	}
	if missing == nil && down == nil && level == OK {
		said = fmt.Sprintf(": %s available%s", counted(len(deployments), "Deployment"), said)
	}
	j.say(level, check, nil, text+said, "")
}

func unavailable(d *appsv1.Deployment) bool { return d.Status.AvailableReplicas == 0 }

// dormant says whether a Deployment has no pods while there is no work: that of
// PingSources is scaled up with the first one.
func dormant(d *appsv1.Deployment) bool {
	return d.Spec.Replicas != nil && *d.Spec.Replicas == 0 && d.Name == "pingsource-mt-adapter"
}

// ingressControllers are what takes the Ingresses of a class, by its part before
// the first dot: a Deployment in the namespace of Knative Serving.
var ingressControllers = map[string]string{
	"istio":       "net-istio-controller",
	"kourier":     "net-kourier-controller",
	"contour":     "net-contour-controller",
	"gateway-api": "net-gateway-api-controller",
}

// defaultIngressClass is that of Knative Serving where config-network says none.
const defaultIngressClass = "istio.ingress.networking.knative.dev"

// ingress judges the networking layer of Knative Serving.
func (j *judge) ingress() {
	const check = "ingress"
	network, err := j.c.configMap(serving, "config-network")
	if err != nil {
		return
	}
	class := defaultIngressClass
	for _, key := range []string{"ingress-class", "ingress.class"} {
		if v := network[key]; v != "" {
			class = v
			break
		}
	}
	// What its controller has done shows best that there is one.
	ingresses, _ := j.c.list(kindIngress, j.domains...)
	for _, u := range ingresses {
		if u.GetAnnotations()["networking.knative.dev/ingress.class"] == class && notReady(u, "Ready") == "" {
			j.say(OK, check, nil, "the ingress "+class+" serves", "")
			return
		}
	}
	kind, _, _ := strings.Cut(class, ".")
	controller, known := ingressControllers[kind]
	u, err := j.c.get(kindDeployment, serving, controller)
	switch {
	case !known:
		j.say(Unknown, check, nil, "the ingress is "+class+", whose controller is not known here: whether it is there shows once a Service is ready", "")
	case err != nil:
	case u == nil:
		j.say(Missing, check, nil, fmt.Sprintf("the ingress is %s, and there is no Deployment %s/%s that would take it: no Service becomes ready", class, serving, controller),
			"install a networking layer, or name the one there is by ingress-class in ConfigMap "+serving+"/config-network")
	default:
		if d, err := as[appsv1.Deployment](u); err == nil && unavailable(d) {
			return // said with Knative Serving
		}
		j.say(OK, check, nil, "the ingress is "+class, "")
	}
}

// Brokers of a class need more than Eventing's own Deployments.
var brokerDeployments = map[string][]string{
	eventingv1.MTChannelBrokerClassValue: {"mt-broker-controller", "mt-broker-ingress", "mt-broker-filter"},
	kafkaClass:                           {"kafka-controller", "kafka-broker-receiver"},
}

const kafkaClass = "Kafka"
