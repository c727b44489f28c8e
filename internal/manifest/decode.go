package manifest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/eventing/pkg/apis/config"
	eventingduckv1 "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	eventingv1alpha1 "knative.dev/eventing/pkg/apis/eventing/v1alpha1"
	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"
	duckv1 "knative.dev/pkg/apis/duck/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	kjson "sigs.k8s.io/json"
	sigsyaml "sigs.k8s.io/yaml"
)

// Where is the place of an object: its file and its first line.
type Where struct {
	File string
	Line int
	node *yaml.Node // the object; its lines count from offset
	skip int        // lines of the file before the document
}

func (w Where) String() string { return fmt.Sprintf("%s:%d", w.File, w.Line) }

// At is the place of a field, given as Knative writes it: spec.filters[0].exact.
// A field that is not there is where its parent is.
func (w Where) At(field string) Where {
	if line := lineOf(w.node, field); line > 0 {
		w.Line = w.skip + line
	}
	return w
}

// Fault is what a cluster would refuse, or what is no YAML.
type Fault struct {
	Where
	Object string // Trigger iot/tenant-enrich; empty: it is not known
	Err    error
}

func (f *Fault) Error() string {
	if f.Object == "" {
		return fmt.Sprintf("%s: %v", f.Where, f.Err)
	}
	return fmt.Sprintf("%s: %s: %v", f.Where, f.Object, f.Err)
}

func (f *Fault) Unwrap() error { return f.Err }

func refused(w Where, object, format string, args ...any) error {
	return &Fault{w, object, fmt.Errorf(format, args...)}
}

// LineOf is the line of a field of a YAML document, given as Knative writes it,
// spec.filters[0].exact, or that of its parent where it is not there. In a list of
// properties, as the standards of data products have them, a name leads to the one
// with that property. Of a document that is none, or nil, it is 1.
func LineOf(document *yaml.Node, field string) int {
	if document != nil && document.Kind == yaml.DocumentNode {
		document = document.Content[0]
	}
	return max(1, lineOf(document, field))
}

// lineOf descends as far as the path leads. Names of annotations hold dots,
// so that a path cannot be cut at its dots: keys are matched as prefixes.
func lineOf(n *yaml.Node, path string) int {
	if n == nil {
		return 0
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			rest, ok := strings.CutPrefix(path, key.Value)
			if !ok || rest != "" && rest[0] != '.' && rest[0] != '[' {
				continue
			}
			if deeper := lineOf(value, strings.TrimPrefix(rest, ".")); rest != "" && deeper > 0 && value.Kind != yaml.ScalarNode {
				return max(key.Line, deeper)
			}
			return key.Line
		}
	case yaml.SequenceNode:
		index, rest, ok := strings.Cut(strings.TrimPrefix(path, "["), "]")
		if i, err := strconv.Atoi(index); ok && err == nil && i < len(n.Content) {
			return lineOf(n.Content[i], strings.TrimPrefix(rest, "."))
		}
		name, rest := path, ""
		if i := strings.IndexAny(path, ".["); i >= 0 {
			name, rest = path[:i], path[i:]
		}
		for _, item := range n.Content {
			for i := 0; i+1 < len(item.Content); i += 2 {
				if item.Content[i].Value == "property" && item.Content[i+1].Value == name {
					if line := lineOf(item, "value"+rest); rest != "" && line > 0 {
						return line
					}
					return item.Line
				}
			}
		}
	}
	return n.Line
}

// document is one YAML document of a file.
type document struct {
	Where
	json []byte
}

// split cuts a file into its documents, as kubectl does, and leaves out those
// that hold nothing.
func split(file string, data []byte) ([]document, error) {
	var docs []document
	var errs []error
	var text bytes.Buffer
	start := 0
	end := func() {
		d := document{Where: Where{File: file, skip: start}}
		var node yaml.Node
		if err := yaml.Unmarshal(text.Bytes(), &node); err != nil {
			errs = append(errs, d.noYAML(err))
		} else if node.Kind == yaml.DocumentNode && node.Content[0].Tag != "!!null" {
			d.node = node.Content[0]
			d.Line = start + d.node.Line
			// kubectl reads YAML 1.1 by way of JSON: do as it does.
			d.json, err = sigsyaml.YAMLToJSONStrict(text.Bytes())
			if err != nil {
				errs = append(errs, d.noYAML(err))
			} else {
				docs = append(docs, d)
			}
		}
		text.Reset()
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, len(data)+1)
	for n := 1; lines.Scan(); n++ {
		if line := lines.Bytes(); bytes.HasPrefix(line, []byte("---")) && len(bytes.TrimSpace(line)) == 3 {
			end()
			start = n
			continue
		}
		text.Write(lines.Bytes())
		text.WriteByte('\n')
	}
	end()
	return docs, errors.Join(append(errs, lines.Err())...)
}

var lineNumber = regexp.MustCompile(`line (\d+)`)

// noYAML is at the line that the error of the YAML parser names, which counts it from
// the beginning of the document.
func (d document) noYAML(err error) error {
	w := Where{File: d.File, Line: d.skip + 1}
	text := lineNumber.ReplaceAllStringFunc(err.Error(), func(s string) string {
		n, _ := strconv.Atoi(s[len("line "):])
		w.Line = d.skip + n
		return fmt.Sprintf("line %d", w.Line)
	})
	return &Fault{w, "", errors.New(text)}
}

// objectMeta is what every object has.
type objectMeta struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Namespace, Name string `json:"-"`
}

func (d document) meta() (objectMeta, error) {
	var m objectMeta
	if err := json.Unmarshal(d.json, &m); err != nil {
		return m, refused(d.Where, "", "%w", err)
	}
	m.Name, m.Namespace = m.Metadata.Name, m.Metadata.Namespace
	if m.Name == "" && m.Kind != "Kustomization" {
		return m, refused(d.At("metadata"), "", "%s has no metadata.name", m.Kind)
	}
	if m.Namespace == "" {
		m.Namespace = "default"
	}
	return m, nil
}

// decode gives the object as its Go type, or nil if only a cluster uses it.
func (d document) decode() (any, error) {
	var m metav1.TypeMeta
	if err := json.Unmarshal(d.json, &m); err != nil || m.Kind == "" || m.APIVersion == "" {
		return nil, refused(d.Where, "", "no Kubernetes object: apiVersion and kind are missing")
	}
	var object any
	switch m.APIVersion + " " + m.Kind {
	case "eventing.knative.dev/v1 Broker":
		object = new(eventingv1.Broker)
	case "eventing.knative.dev/v1 Trigger":
		object = new(eventingv1.Trigger)
	case "serving.knative.dev/v1 Service":
		object = new(servingv1.Service)
	case "apps/v1 Deployment":
		object = new(appsv1.Deployment)
	case "sources.knative.dev/v1 PingSource":
		object = new(sourcesv1.PingSource)
	case "v1 ConfigMap":
		object = new(corev1.ConfigMap)
	case "v1 Service":
		object = new(corev1.Service)
	case "v1 ServiceAccount":
		object = new(corev1.ServiceAccount)
	case "eventing.knative.dev/v1alpha1 EventPolicy":
		object = new(eventingv1alpha1.EventPolicy)
	case "networking.k8s.io/v1 NetworkPolicy":
		object = new(networkingv1.NetworkPolicy)
	default:
		group, _, ok := strings.Cut(m.APIVersion, "/")
		if !ok {
			group = ""
		}
		if !strings.Contains(" "+clusterKinds[group]+" ", " "+m.Kind+" ") {
			return nil, refused(d.At("kind"), "", "kind %s of %s is not known here: correct it, or keep it out of brokers/, triggers/ and config/",
				m.Kind, m.APIVersion)
		}
		return nil, nil
	}
	faults, err := kjson.UnmarshalStrict(d.json, object)
	if err != nil {
		faults = append(faults, err)
	}
	errs := make([]error, len(faults))
	for i, fault := range faults {
		errs[i] = d.fault(m.Kind, fault.Error())
	}
	return object, errors.Join(errs...)
}

// What the decoder of Kubernetes says of a field; its errors have no fields.
var (
	unknownField = regexp.MustCompile(`^unknown field "(.*)"$`)
	wrongType    = regexp.MustCompile(`^json: cannot unmarshal (.*) into Go struct field [^.]*\.(.*) of type (.*)$`)
)

func (d document) fault(kind, text string) error {
	if m := unknownField.FindStringSubmatch(text); m != nil {
		return refused(d.At(m[1]), kind, "unknown field %q", m[1])
	}
	if m := wrongType.FindStringSubmatch(text); m != nil {
		return refused(d.At(m[2]), kind, "field %q is a %s and must be a %s", m[2], m[1], m[3])
	}
	return refused(d.Where, kind, "%s", text)
}

// clusterKinds are the kinds, by API group, that a cluster uses and the local
// runtime has no need of.
var clusterKinds = map[string]string{
	"":                             "Namespace Secret PersistentVolumeClaim ResourceQuota LimitRange",
	"apps":                         "StatefulSet DaemonSet",
	"batch":                        "Job CronJob",
	"autoscaling":                  "HorizontalPodAutoscaler",
	"policy":                       "PodDisruptionBudget",
	"networking.k8s.io":            "Ingress",
	"rbac.authorization.k8s.io":    "Role RoleBinding ClusterRole ClusterRoleBinding",
	"admissionregistration.k8s.io": "ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding",
	"cert-manager.io":              "Certificate Issuer ClusterIssuer",
	"eventing.knative.dev":         "EventType",
	"messaging.knative.dev":        "Channel InMemoryChannel KafkaChannel Subscription",
	"sources.knative.dev":          "SinkBinding ContainerSource ApiServerSource KafkaSource",
	"sinks.knative.dev":            "JobSink IntegrationSink",
	"serving.knative.dev":          "DomainMapping",
	"kustomize.config.k8s.io":      "Kustomization Component",
}

// withBrokerDefaults gives the defaults of a Broker without delivery that
// Knative installs. config/core/configmaps/default-broker.yaml
func withBrokerDefaults(ctx context.Context) context.Context {
	retry, policy, delay := int32(10), eventingduckv1.BackoffPolicyExponential, "PT0.2S"
	return config.ToContext(ctx, &config.Config{Defaults: &config.Defaults{ClusterDefaultConfig: &config.DefaultConfig{
		DefaultBrokerClass: "MTChannelBasedBroker",
		BrokerConfig: &config.BrokerConfig{
			KReference: &duckv1.KReference{
				APIVersion: "v1", Kind: "ConfigMap", Namespace: "knative-eventing", Name: "config-br-default-channel",
			},
			Delivery: &eventingduckv1.DeliverySpec{Retry: &retry, BackoffPolicy: &policy, BackoffDelay: &delay},
		},
	}}})
}
