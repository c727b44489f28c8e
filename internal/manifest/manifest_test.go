package manifest

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
)

// load reads one file of the given text, named config/x.yaml.
func load(t *testing.T, text string) (Set, error) {
	t.Helper()
	return Load(Folder{"config", fstest.MapFS{"x.yaml": {Data: []byte(text)}}})
}

func mustLoad(t *testing.T, text string) Set {
	t.Helper()
	s, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const brokers = `apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: iot, namespace: iot}
---
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: crm, namespace: crm}
spec: {delivery: {retry: 3}}
`

// trigger is a Trigger of broker iot whose subscriber and further spec are
// given.
func trigger(name, subscriber, spec string) string {
	return `---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: ` + name + `, namespace: iot}
spec:
  broker: iot
  subscriber: ` + subscriber + `
` + spec
}

func toService(name string) string {
	return "{ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: " + name + "}}"
}

func byType(eventType string) string { return "  filters: [{exact: {type: " + eventType + "}}]\n" }

func service(name, emits, env string) string {
	return `---
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: ` + name + `
  namespace: iot
  annotations: {telemesh.dev/emits: "` + emits + `"}
spec:
  template:
    spec:
      containers:
        - image: ko://github.com/telemesh/telemesh/functions/` + name + `
          env: [` + env + `]
`
}

// source is a Deployment in namespace iot.
func source(name, emits, env string) string {
	return `---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ` + name + `
  namespace: iot
  annotations: {telemesh.dev/emits: "` + emits + `"}
spec:
  selector: {matchLabels: {app: ` + name + `}}
  template:
    metadata: {labels: {app: ` + name + `}}
    spec:
      containers:
        - image: ko://github.com/telemesh/telemesh/functions/` + name + `
          env: [` + env + `]
`
}

const toIoT = "{name: K_SINK, value: http://broker-ingress.knative-eventing.svc.cluster.local/iot/iot}"

func TestDeployments(t *testing.T) {
	s := mustLoad(t, brokers+source("mqtt", "a", toIoT+", {name: URL, valueFrom: {secretKeyRef: {name: mqtt, key: url}}}, {name: TOPICS, valueFrom: {configMapKeyRef: {name: mqtt, key: topics}}}")+
		service("flat", "", "")+trigger("flat", toService("flat"), byType("a")))
	d := s.Deployment(Ref{"iot", "mqtt"})
	if d == nil || d.Function() != "mqtt" || d.Object() != "Deployment iot/mqtt" {
		t.Fatalf("Deployments = %v, want iot/mqtt of function mqtt", s.Deployments)
	}
	if diff := cmp.Diff([]string{"URL", "TOPICS"}, d.Missing); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	// A Deployment is decoded as strictly as the rest.
	good := source("mqtt", "", "")
	for _, test := range []struct{ from, to, want string }{
		{"containers:", "containres:", `config/x.yaml:13: Deployment: unknown field "spec.template.spec.containres"`},
		{"matchLabels: {app: mqtt}", "matchLabels: {app: other}", "config/x.yaml:9: Deployment iot/mqtt: the selector does not select"},
		{"matchLabels: {app: mqtt}", "", "config/x.yaml:9: Deployment iot/mqtt: the selector does not select"},
		{"image: ko", "name: ko", "config/x.yaml:14: Deployment iot/mqtt: missing field(s): spec.template.spec.containers[0].image"},
	} {
		_, err := load(t, strings.Replace(good, test.from, test.to, 1))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("with %q instead of %q: %v, want %s", test.to, test.from, err, test.want)
		}
	}
}

func TestLoadAppliesKnativeDefaults(t *testing.T) {
	s := mustLoad(t, brokers+trigger("flat", toService("flat"), "")+service("flat", "", ""))
	iot := s.Broker(Ref{"iot", "iot"})
	if got := *iot.Spec.Delivery.Retry; got != 10 {
		t.Errorf("retry of a Broker without delivery = %d, want 10 as Knative installs it", got)
	}
	if got := *iot.Spec.Delivery.BackoffDelay; got != "PT0.2S" {
		t.Errorf("backoffDelay = %q, want PT0.2S", got)
	}
	if crm := s.Broker(Ref{"crm", "crm"}); *crm.Spec.Delivery.Retry != 3 || crm.Spec.Delivery.BackoffDelay != nil {
		t.Errorf("delivery of crm = %+v, want its own alone", crm.Spec.Delivery)
	}
	flat := s.Service(Ref{"iot", "flat"})
	if got := *flat.Spec.Template.Spec.TimeoutSeconds; got != 300 {
		t.Errorf("timeoutSeconds = %d, want Knative's 300", got)
	}
	if got := flat.Function(); got != "flat" {
		t.Errorf("Function() = %q, want flat", got)
	}
	if got := flat.Where.String(); got != "config/x.yaml:17" {
		t.Errorf("service is at %s, want config/x.yaml:17", got)
	}
}

func TestLoadNamesFileLineAndField(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"unknown field": {
			brokers + trigger("flat", toService("flat"), "  filtres: []\n"),
			`config/x.yaml:16: Trigger: unknown field "spec.filtres"`},
		"unknown field in a list": {
			brokers + trigger("flat", toService("flat"), "  filters:\n    - exact: {type: a}\n    - exat: {type: b}\n"),
			`config/x.yaml:18: Trigger: unknown field "spec.filters[1].exat"`},
		"wrong type": {
			brokers + trigger("flat", toService("flat"), "  delivery:\n    retry: many\n"),
			`config/x.yaml:17: Trigger: field "spec.delivery.retry" is a string and must be a int32`},
		"Knative's validation": {
			brokers + trigger("flat", toService("flat"), "  delivery:\n    backoffPolicy: cubic\n"),
			`config/x.yaml:17: Trigger iot/flat: invalid value: cubic: spec.delivery.backoffPolicy`},
		"two dialects in a filter": {
			brokers + trigger("flat", toService("flat"), "  filters:\n    - {exact: {type: a}, prefix: {type: b}}\n"),
			`multiple dialects found`},
		"CESQL": {
			brokers + trigger("flat", toService("flat"), "  filters:\n    - cesql: \"type = \"\n"),
			`spec.filters[0].cesql`},
		"missing broker": {
			strings.Replace(trigger("flat", toService("flat"), ""), "broker: iot", "broker: ''", 1),
			`config/x.yaml:6: Trigger iot/flat: missing field(s): spec.broker`},
		"unknown kind": {
			"apiVersion: v1\nkind: Namespce\nmetadata: {name: x}\n",
			`config/x.yaml:2: kind Namespce of v1 is not known here`},
		"no object": {
			"a: b\n", `config/x.yaml:1: no Kubernetes object`},
		"no name": {
			"apiVersion: v1\nkind: Namespace\nmetadata:\n  labels: {}\n",
			`config/x.yaml:3: Namespace has no metadata.name`},
		"twice": {
			brokers + "---\n" + brokers, `config/x.yaml:10: Broker iot/iot: stands at config/x.yaml:1 already`},
		"same key twice": {
			brokers + trigger("flat", toService("flat"), "  broker: iot\n"), `key "broker" already set`},
		"no YAML": {
			brokers + "---\na: [\n", `config/x.yaml:10: yaml: line 10`},
		"missing ConfigMap": {
			service("flat", "", "{name: A, valueFrom: {configMapKeyRef: {name: m, key: k}}}"),
			`config/x.yaml:13: Service iot/flat: ConfigMap iot/m is not in the manifests`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, test.text)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Load = %v\nwant an error with %s", err, test.want)
			}
		})
	}
}

func TestLoadReportsEveryFault(t *testing.T) {
	_, err := load(t, trigger("a", toService("a"), "  one: 1\n")+trigger("b", toService("b"), "  two: 2\n"))
	if err == nil || !strings.Contains(err.Error(), "spec.one") || !strings.Contains(err.Error(), "spec.two") {
		t.Errorf("Load = %v, want both faults", err)
	}
}

func TestLoadPassesOverWhatOnlyAClusterUses(t *testing.T) {
	s := mustLoad(t, `# nothing here
---
apiVersion: v1
kind: Namespace
metadata: {name: iot}
---
apiVersion: sources.knative.dev/v1
kind: SinkBinding
metadata: {name: bound, namespace: iot}
spec: {}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: iot}
spec: {selector: {app: plain}, ports: [{port: 80}]}
`)
	var got []string
	for _, p := range s.Passed {
		got = append(got, p.Kind+" "+p.Ref.String())
	}
	if diff := cmp.Diff([]string{"Namespace default/iot", "Service iot/plain", "SinkBinding iot/bound"}, got); diff != "" {
		t.Errorf("passed over (-want +got):\n%s", diff)
	}
}

func TestServiceAccounts(t *testing.T) {
	const account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: flat, namespace: iot}\n"
	s := mustLoad(t, account+"---\n"+strings.Replace(service("flat", "", ""), "containers:", "serviceAccountName: flat\n      containers:", 1)+service("other", "", ""))
	if s.Account(Ref{"iot", "flat"}) == nil || s.Account(Ref{"iot", "other"}) != nil {
		t.Errorf("Accounts = %v, want iot/flat alone", s.Accounts)
	}
	for i, want := range []Ref{{"iot", "flat"}, {"iot", "default"}} {
		if got := s.Services[i].Account(); got != want {
			t.Errorf("%s runs as %s, want %s", s.Services[i].Object(), got, want)
		}
	}
	_, err := load(t, account+"spec: {}\n")
	if want := `config/x.yaml:4: ServiceAccount: unknown field "spec"`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Load = %v\nwant %s", err, want)
	}
}

func TestEnvironment(t *testing.T) {
	s := mustLoad(t, `apiVersion: v1
kind: ConfigMap
metadata: {name: m, namespace: iot}
data: {k: from the map}
`+service("flat", "", `{name: A, value: a}, {name: B, value: "$(A)-$(C)-$$(A)"},
            {name: C, valueFrom: {configMapKeyRef: {name: m, key: k}}},
            {name: D, valueFrom: {configMapKeyRef: {name: none, key: k, optional: true}}},
            {name: E, valueFrom: {secretKeyRef: {name: s, key: k}}},
            {name: F, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}`))
	env, missing := s.Services[0].Environ(map[string]string{"A": "other"})
	if diff := cmp.Diff(map[string]string{"A": "other", "B": "a-$(C)-$(A)", "C": "from the map"}, env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"E"}, missing); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	if _, missing := s.Services[0].Environ(map[string]string{"E": "e"}); missing != nil {
		t.Errorf("missing although set: %v", missing)
	}
}

func TestDeliveryOfABrokerIsTheDefaultOfItsTriggers(t *testing.T) {
	const sink = "deadLetterSink: {uri: http://example.com/}"
	s := mustLoad(t, strings.Replace(brokers, "namespace: iot}", "namespace: iot}\nspec: {delivery: {retry: 7, "+sink+"}}", 1)+
		trigger("none", toService("a"), "")+trigger("own", toService("a"), "  delivery: {retry: 1}\n"))
	if d := s.Delivery(find(s.Triggers, Ref{"iot", "none"})); *d.Retry != 7 || d.DeadLetterSink == nil {
		t.Errorf("delivery of a Trigger without = %+v, want the Broker's", d)
	}
	if d := s.Delivery(find(s.Triggers, Ref{"iot", "own"})); *d.Retry != 1 || d.DeadLetterSink == nil {
		t.Errorf("delivery of a Trigger with retry = %+v, want its retry and the Broker's sink", d)
	}
}

func TestTypes(t *testing.T) {
	for spec, want := range map[string][]string{
		"":                                     nil,
		byType("a"):                            {"a"},
		"  filter: {attributes: {type: a}}\n":  {"a"},
		"  filter: {attributes: {type: ''}}\n": nil,
		"  filters: [{any: [{exact: {type: a}}, {exact: {type: b}}]}]\n":                        {"a", "b"},
		"  filters: [{any: [{exact: {type: a}}, {exact: {source: b}}]}]\n":                      nil,
		"  filters: [{any: [{exact: {type: a}}, {exact: {type: b}}]}, {exact: {type: b}}]\n":    {"b"},
		"  filters: [{exact: {source: s}}, {all: [{exact: {type: b}}, {cesql: 'EXISTS x'}]}]\n": {"b"},
		"  filters: [{not: {exact: {type: a}}}]\n":                                              nil,
		"  filters: [{prefix: {type: a}}]\n":                                                    nil,
	} {
		s := mustLoad(t, trigger("t", toService("s"), spec))
		if diff := cmp.Diff(want, s.Triggers[0].Types()); diff != "" {
			t.Errorf("Types of %s(-want +got):\n%s", spec, diff)
		}
	}
}

// ping is a PingSource in namespace iot.
func ping(name, spec string) string {
	return `---
apiVersion: sources.knative.dev/v1
kind: PingSource
metadata: {name: ` + name + `, namespace: iot}
spec:
` + spec
}

const toBrokerIoT = "  sink: {ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: iot}}\n"

func TestPingSources(t *testing.T) {
	good := ping("clock", toBrokerIoT+"  schedule: '*/5 * * * *'\n  timezone: Europe/Amsterdam\n  contentType: application/json\n  data: '{}'\n")
	p := mustLoad(t, good).PingSource(Ref{"iot", "clock"})
	if p == nil || p.BrokerOf() != (Ref{"iot", "iot"}) || p.Spec.Schedule != "*/5 * * * *" {
		t.Fatalf("PingSource iot/clock = %+v", p)
	}
	if p := mustLoad(t, ping("clock", toBrokerIoT)).PingSources[0]; p.Spec.Schedule != "* * * * *" {
		t.Errorf("schedule %q by default, want Knative's", p.Spec.Schedule)
	}
	for _, test := range []struct{ from, to, want string }{
		{"schedule:", "shedule:", `config/x.yaml:7: PingSource: unknown field "spec.shedule"`},
		{"*/5 * * * *", "5", `config/x.yaml:7: PingSource iot/clock: invalid value: expected 5 to 6 fields, found 1: [5]: spec.schedule`},
		{"*/5 * * * *", "61 * * * *", `config/x.yaml:7: PingSource iot/clock: invalid value: end of range (61) above maximum (59): 61: spec.schedule`},
		{"*/5 * * * *", "@every 1m", `unsupported descriptor @every`},
		{"Amsterdam", "Atlantis", `config/x.yaml:8: PingSource iot/clock: invalid value: provided bad location Europe/Atlantis`},
		{"'{}'", "'{'", `config/x.yaml:10: PingSource iot/clock: invalid value: unexpected end of JSON input: spec.data`},
		{"data: '{}'", "dataBase64: '%'", `config/x.yaml:10: PingSource iot/clock: invalid value: illegal base64 data`},
		{toBrokerIoT, "", `PingSource iot/clock: expected at least one, got none: spec.sink.ref, spec.sink.uri`},
	} {
		_, err := load(t, strings.Replace(good, test.from, test.to, 1))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("with %q instead of %q: %v\nwant %s", test.to, test.from, err, test.want)
		}
	}
}

// What a source needs is its user's to say, and it is there once that is said.
func TestOptedIn(t *testing.T) {
	const (
		may  = "{name: A, valueFrom: {configMapKeyRef: {name: m, key: a, optional: true}}}, {name: B, valueFrom: {secretKeyRef: {name: m, key: b, optional: true}}}"
		must = "{name: C, valueFrom: {configMapKeyRef: {name: m, key: c}}}"
	)
	for _, test := range []struct {
		env     string
		set     map[string]string
		ok      bool
		missing []string
	}{
		{"{name: D, value: d}", nil, true, nil},
		{may, nil, false, []string{"A", "B"}},
		{may, map[string]string{"B": "b"}, true, []string{"A", "B"}},
		{may + ", " + must, map[string]string{"A": "a"}, false, []string{"C"}},
		{may + ", " + must, map[string]string{"C": "c"}, true, nil},
	} {
		s, err := Load(Folder{"config/sources", fstest.MapFS{"x.yaml": {Data: []byte(service("source", "", test.env))}}})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Services[0].OptIn() {
			t.Errorf("%s is not opt-in", s.Services[0].Where)
		}
		ok, missing := s.Services[0].OptedIn(test.set)
		if diff := cmp.Diff(test.missing, missing); ok != test.ok || !ok && diff != "" {
			t.Errorf("with env %s and %v: %v, %v; want %v, %v", test.env, test.set, ok, missing, test.ok, test.missing)
		}
	}
	if s := mustLoad(t, service("function", "", "")); s.Services[0].OptIn() {
		t.Errorf("%s is opt-in", s.Services[0].Where)
	}
}

// The manifests of the mesh itself: they load.
func TestMesh(t *testing.T) {
	root := dataset.Root(t)
	s, err := Load(Dir(root)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Brokers) == 0 || len(s.Triggers) == 0 || len(s.Services) == 0 {
		t.Errorf("%d brokers, %d triggers, %d services in %s, want some of each", len(s.Brokers), len(s.Triggers), len(s.Services), root)
	}
}
