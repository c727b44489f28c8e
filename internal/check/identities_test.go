package check

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/telemesh/telemesh/internal/manifest"
)

// account is a ServiceAccount in namespace iot.
func account(name string) string {
	return "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: " + name + ", namespace: iot}\n"
}

// poster is a Service with an account of its own that posts to Broker iot and has a
// token for it.
func poster(name string) string {
	return account(name) + strings.Replace(service(name, "", toIoT), "containers:", "serviceAccountName: "+name+"\n      containers:", 1) +
		`          volumeMounts: [{name: oidc, mountPath: /oidc}]
      volumes:
        - name: oidc
          projected:
            sources: [{serviceAccountToken: {audience: eventing.knative.dev/broker/iot/iot, path: iot/iot}}]
`
}

func identities(s manifest.Set) []Finding { return sorted(s, (*checker).identities) }

func check(t *testing.T, got []Finding, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d findings, want %d:\n%v", len(got), len(want), got)
	}
	for i, f := range got {
		if !strings.Contains(f.String(), want[i]) || f.Do == "" || f.Why == "" {
			t.Errorf("finding %d = %s\nwant one with %s", i, f, want[i])
		}
	}
}

func TestIdentities(t *testing.T) {
	good := brokers + poster("flat") + account("other") + strings.Replace(service("other", "", ""), "containers:", "serviceAccountName: other\n      containers:", 1)
	for name, test := range map[string]struct {
		from, to string // what is another in good
		want     []string
	}{
		"fits":          {"", "", nil},
		"names none":    {"serviceAccountName: other", "timeoutSeconds: 10", []string{"Service iot/other: runs as ServiceAccount iot/default, as whatever names none"}},
		"shares":        {"serviceAccountName: other", "serviceAccountName: flat", []string{"config/x.yaml:46: Service iot/other: runs as ServiceAccount iot/flat, as Service iot/flat does"}},
		"not there":     {account("other"), "", []string{"ServiceAccount iot/other does not exist"}},
		"no volume":     {"mountPath: /oidc", "mountPath: /elsewhere", []string{"Service iot/flat: K_SINK is Broker iot/iot, and there is no token for it at /oidc/iot/iot: project a serviceAccountToken of audience eventing.knative.dev/broker/iot/iot there"}},
		"other file":    {"path: iot/iot", "path: crm/crm", []string{`the token at /oidc/crm/crm is for the audience "eventing.knative.dev/broker/iot/iot"`, "no token for it at /oidc/iot/iot"}},
		"no Broker":     {"path: iot/iot", "path: iot/none", []string{"the token at /oidc/iot/none is for Broker iot/none, which does not exist", "no token for it at /oidc/iot/iot"}},
		"audience":      {"audience: eventing.knative.dev/broker/iot/iot", "audience: iot", []string{`the token at /oidc/iot/iot is for the audience "iot", by which the Broker refuses it: make it eventing.knative.dev/broker/iot/iot`}},
		"posts to none": {toIoT, "{name: K_SINK, value: 'http://example.com/'}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, test.from) {
				t.Fatalf("the manifests have no %s", test.from)
			}
			check(t, identities(mustLoad(t, strings.Replace(good, test.from, test.to, 1))), test.want)
		})
	}
}

// eventPolicy is an EventPolicy in namespace iot.
func eventPolicy(to, from string) string {
	return "---\napiVersion: eventing.knative.dev/v1alpha1\nkind: EventPolicy\nmetadata: {name: in, namespace: iot}\nspec:\n  to: [" + to + "]\n  from: [" + from + "]\n"
}

const policedBroker = "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: iot}}"

func TestEventPolicies(t *testing.T) {
	mesh := brokers + poster("flat") + poster("enrich") + trigger("flat", toService("flat"), "") + ping("clock", toBrokerIoT)
	const flat, enrich = "{sub: 'system:serviceaccount:iot:flat'}", "{sub: 'system:serviceaccount:iot:enrich'}"
	for name, test := range map[string]struct {
		policy string
		want   []string
	}{
		"of both":   {eventPolicy(policedBroker, flat+", "+enrich), nil},
		"by prefix": {eventPolicy("", "{sub: 'system:serviceaccount:iot:*'}"), nil},
		"of one": {eventPolicy(policedBroker, flat),
			[]string{"EventPolicy iot/in: Service iot/enrich posts to Broker iot/iot, and no policy lets it in: add sub: system:serviceaccount:iot:enrich to from"}},
		"by label": {eventPolicy("{selector: {apiVersion: eventing.knative.dev/v1, kind: Broker, matchLabels: {a: b}}}", flat), nil},
		"of no Broker": {eventPolicy(strings.Replace(policedBroker, "name: iot", "name: none", 1), flat),
			[]string{"Broker iot/none does not exist"}},
		"of nobody": {eventPolicy(policedBroker, flat+", "+enrich+", {sub: 'system:serviceaccount:iot:enrihc'}"),
			[]string{"ServiceAccount iot/enrihc does not exist"}},
		"of others": {eventPolicy(policedBroker, flat+", "+enrich+", {sub: 'system:serviceaccount:elsewhere:any'}"), nil},
		"of what Knative makes": {eventPolicy(policedBroker, flat+", "+enrich+
			", {sub: 'system:serviceaccount:iot:flat-oidc-eventing.knative.dev-trigger'}, {sub: 'system:serviceaccount:iot:clock-oidc-sources.knative.dev-pingsource'}"), nil},
		"by reference": {eventPolicy(policedBroker, flat+", "+enrich+
			", {ref: {apiVersion: eventing.knative.dev/v1, kind: Trigger, name: flat, namespace: iot}}, {ref: {apiVersion: eventing.knative.dev/v1, kind: Trigger, name: x, namespace: iot}}"),
			[]string{"Trigger iot/x does not exist"}},
	} {
		t.Run(name, func(t *testing.T) { check(t, identities(mustLoad(t, mesh+test.policy)), test.want) })
	}
	for _, test := range []struct{ policy, want string }{
		{eventPolicy(policedBroker, "{sbu: x}"), `EventPolicy: unknown field "spec.from[0].sbu"`},
		{eventPolicy(policedBroker, "{sub: 'a*b'}"), "'*' is only allowed as suffix"},
		{eventPolicy("{}", flat), "spec.to[0].ref, spec.to[0].selector"},
	} {
		if _, err := load(t, mesh+test.policy); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Load = %v, want %s", err, test.want)
		}
	}
}

func TestNetworkPolicies(t *testing.T) {
	policy := func(spec string) string {
		return brokers + poster("flat") + "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: in, namespace: iot}\nspec:\n" + spec
	}
	const pods = "  podSelector: {matchLabels: {serving.knative.dev/service: flat}}\n"
	for _, good := range []string{
		"  podSelector: {}\n",
		pods + "  ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 8012}, {port: http, protocol: TCP}]}]\n",
		pods + "  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}}]}]\n",
	} {
		check(t, identities(mustLoad(t, policy(good))), nil)
	}
	check(t, identities(mustLoad(t, policy(strings.Replace(pods, "flat", "flta", 1)))), []string{"is about Service iot/flta, which does not exist"})
	for _, test := range []struct{ spec, want string }{
		{"  podSelector: {}\n  ingres: []\n", `NetworkPolicy: unknown field "spec.ingres"`},
		{"  podSelector: {matchExpressions: [{key: a, operator: Is}]}\n", "spec.podSelector"},
		{"  podSelector: {}\n  policyTypes: [Inbound]\n", "spec.policyTypes[0]"},
		{"  podSelector: {}\n  policyTypes: [Ingress]\n  egress: [{}]\n", "policyTypes lacks Egress"},
		{"  podSelector: {}\n  ingress: [{from: [{}]}]\n", "spec.ingress[0].from[0].podSelector"},
		{"  podSelector: {}\n  ingress: [{ports: [{port: 80000}]}]\n", "spec.ingress[0].ports[0].port"},
		{"  podSelector: {}\n  ingress: [{ports: [{port: 80, protocol: HTTP}]}]\n", "spec.ingress[0].ports[0].protocol"},
		{"  podSelector: {}\n  egress: [{to: [{ipBlock: {cidr: 10.0.0.0}}]}]\n", "spec.egress[0].to[0].ipBlock"},
		{"  podSelector: {}\n  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]\n", "spec.egress[0].to[0].ipBlock"},
	} {
		if _, err := load(t, policy(test.spec)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Load of\n%s= %v\nwant %s", test.spec, err, test.want)
		}
	}
}

// The function of dead letters is told by the path whose an event is.
func TestCheckDeadLetters(t *testing.T) {
	const sink = "deadLetterSink: {ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: dead-letter-sink}, uri: "
	mesh := func(broker, own string) string {
		return strings.Replace(brokers, "kind: Broker\n", "kind: Broker\nspec: {delivery: {"+sink+broker+"}}}\n", 1) +
			service("dead-letter-sink", "", "") + service("flat", "a", "") +
			ends("it does", trigger("flat", toService("flat"), "  delivery: {"+sink+own+"}}\n"))
	}
	check(t, fitting(mustLoad(t, mesh("/iot", "/iot/flat"))), nil)
	check(t, fitting(mustLoad(t, mesh("/iot", "/iot/enrich"))),
		[]string{`Trigger iot/flat: dead letter sink: what it gives up is kept as that of "/iot/enrich": make it uri: /iot/flat`})
	check(t, fitting(mustLoad(t, mesh("/crm", "/iot/flat"))), []string{`Broker iot/iot: dead letter sink: what it gives up is kept as that of "/crm"`})
}

func TestCheckIngress(t *testing.T) {
	alias := func(host string) string {
		return "---\napiVersion: v1\nkind: Service\nmetadata: {name: broker-ingress, namespace: platform}\nspec: {type: ExternalName, externalName: " + host + "}\n"
	}
	kafka := strings.Replace(brokers, "namespace: iot}", "namespace: iot, annotations: {eventing.knative.dev/broker.class: Kafka}}\nspec: {config: {apiVersion: v1, kind: ConfigMap, name: k, namespace: k}}", 1)
	at := func(host string) string {
		return service("flat", "", "{name: K_SINK, value: 'http://"+host+"/iot/iot'}")
	}
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"itself":              {brokers + at(manifest.IngressHost), nil},
		"by its name":         {brokers + at(manifest.AliasHost) + alias(manifest.IngressHost), nil},
		"Kafka by its name":   {kafka + at(manifest.AliasHost) + alias(manifest.KafkaIngressHost), nil},
		"no name":             {brokers + at(manifest.AliasHost), []string{"Service iot/flat: K_SINK: there is no " + manifest.AliasHost}},
		"of the other class":  {kafka + at(manifest.AliasHost) + alias(manifest.IngressHost), []string{"config/x.yaml:27: Service iot/flat: K_SINK is Broker iot/iot, of which " + manifest.IngressHost + " knows nothing: make it " + manifest.KafkaIngressHost}},
		"past the name":       {kafka + at(manifest.IngressHost), []string{"of which " + manifest.IngressHost + " knows nothing"}},
		"of something else":   {brokers + at(manifest.AliasHost) + alias("example.com"), []string{"of which example.com knows nothing"}},
		"Kafka where none is": {brokers + at(manifest.KafkaIngressHost), []string{"of which " + manifest.KafkaIngressHost + " knows nothing"}},
	} {
		t.Run(name, func(t *testing.T) { check(t, fitting(mustLoad(t, test.text)), test.want) })
	}
}

func TestOverlays(t *testing.T) {
	base := []manifest.Folder{{Name: "brokers", FS: fstest.MapFS{"b.yaml": {Data: []byte(brokers)}}}, {Name: "config", FS: fstest.MapFS{"c.yaml": {Data: []byte(poster("flat"))}}}}
	without, err := manifest.Load(base...)
	if err != nil {
		t.Fatal(err)
	}
	kafka := strings.NewReplacer("namespace: iot}", "namespace: iot, annotations: {eventing.knative.dev/broker.class: Kafka}}\nspec: {config: {apiVersion: v1, kind: ConfigMap, name: k, namespace: k}}").Replace(brokers)
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"besides":         {eventPolicy(policedBroker, "{sub: 'system:serviceaccount:iot:flat'}"), nil},
		"besides, wrong":  {eventPolicy(policedBroker, "{sub: 'system:serviceaccount:iot:falt'}"), []string{"iot/falt does not exist", "Service iot/flat posts to Broker iot/iot"}},
		"the same":        {brokers, nil},
		"class":           {kafka, []string{"K_SINK is Broker iot/iot, of which " + manifest.IngressHost + " knows nothing"}},
		"retries":         {strings.Replace(brokers, "retry: 3", "retry: 4", 1), []string{"overlay/o.yaml:8: Broker crm/crm: has other spec.delivery than at brokers/b.yaml:5"}},
		"annotations":     {strings.Replace(brokers, "namespace: crm}", "namespace: crm, annotations: {a: b}}", 1), []string{"Broker crm/crm: has other metadata.annotations"}},
		"labels":          {strings.Replace(brokers, "namespace: crm}", "namespace: crm, labels: {a: b}}", 1), []string{"Broker crm/crm: has other metadata.labels"}},
		"one is not here": {brokers[:strings.Index(brokers, "---")], []string{"Broker crm/crm: is not in the overlay"}},
	} {
		t.Run(name, func(t *testing.T) {
			over, err := manifest.Overlaid(base, manifest.Folder{Name: "overlay", FS: fstest.MapFS{"o.yaml": {Data: []byte(test.text)}}})
			if err != nil {
				t.Fatal(err)
			}
			base := checker{Set: without}
			base.manifests(nil)
			check(t, overlay(&base, over, nil), test.want)
		})
	}
	folders, err := manifest.Overlays(manifest.Folder{Name: "overlays", FS: fstest.MapFS{"kafka/x.yaml": {}, "secure/x.yaml": {}, "README.md": {}}})
	if err != nil || len(folders) != 2 || folders[0].Name != "overlays/kafka" {
		t.Errorf("Overlays = %v, %v, want kafka and secure", folders, err)
	}
}
