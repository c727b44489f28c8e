package check

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/telemesh/telemesh/internal/manifest"
)

// load reads one file of the given text, named config/x.yaml.
func load(t *testing.T, text string) (manifest.Set, error) {
	t.Helper()
	return manifest.Load(manifest.Folder{Name: "config", FS: fstest.MapFS{"x.yaml": {Data: []byte(text)}}})
}

func mustLoad(t *testing.T, text string) manifest.Set {
	t.Helper()
	s, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sorted gives what one part of the checks finds.
func sorted(s manifest.Set, part func(*checker)) []Finding {
	c := checker{Set: s}
	part(&c)
	slices.SortStableFunc(c.findings, byPlace)
	return c.findings
}

func fitting(s manifest.Set) []Finding { return sorted(s, (*checker).fit) }

func images(s manifest.Set, known []string) []Finding {
	return sorted(s, func(c *checker) { c.images(known) })
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

// ends has a Trigger say why circles through it end.
func ends(why, trigger string) string {
	return strings.Replace(trigger, ", namespace: iot}", ", namespace: iot, annotations: {telemesh.dev/ends: '"+why+"'}}", 1)
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

// ping is a PingSource in namespace iot.
func ping(name, spec string) string {
	return `---
apiVersion: sources.knative.dev/v1
kind: PingSource
metadata: {name: ` + name + `, namespace: iot}
spec:
` + spec
}

const toIoT = "{name: K_SINK, value: http://broker-ingress.knative-eventing.svc.cluster.local/iot/iot}"

const toBrokerIoT = "  sink: {ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: iot}}\n"

func TestCheck(t *testing.T) {
	const sink = "{name: K_SINK, value: 'http://" + manifest.IngressHost + "/iot/iot'}"
	chain := strings.Replace(brokers, "namespace: iot}", "namespace: iot, annotations: {telemesh.dev/outputs: c}}", 1) +
		service("ingest", "a", sink) + service("flat", "b", "") + service("sink", "", "") +
		trigger("flat", toService("flat"), byType("a"))
	fits := chain + trigger("sink", toService("sink"), "  filters: [{any: [{exact: {type: b}}, {exact: {type: c}}]}]\n")
	for name, test := range map[string]struct {
		text string
		want []string // parts of the findings, in order
	}{
		"fits":               {fits, nil},
		"reads all":          {chain + trigger("sink", toService("sink"), ""), nil},
		"reads by prefix":    {chain + trigger("sink", toService("sink"), "  filters: [{prefix: {type: b}}]\n"), nil},
		"reads by CESQL":     {chain + trigger("sink", toService("sink"), "  filters: [{cesql: \"type = 'b'\"}]\n"), nil},
		"reads by not":       {chain + trigger("sink", toService("sink"), "  filters: [{not: {exact: {type: a}}}]\n"), nil},
		"reads by attribute": {chain + trigger("sink", toService("sink"), "  filter: {attributes: {type: b}}\n"), nil},
		"nobody reads":       {chain, []string{"Service iot/flat: brings b to Broker iot/iot, where nobody reads it"}},
		"a log alone reads": {chain + strings.Replace(trigger("sink", toService("sink"), ""), "namespace: iot}", "namespace: iot, annotations: {"+manifest.Keeps+": everything}}", 1),
			[]string{"Service iot/flat: brings b to Broker iot/iot, where nobody reads it"}},
		"a log reads too": {fits + strings.Replace(trigger("x", "{uri: 'https://example.com/'}", ""), "namespace: iot}", "namespace: iot, annotations: {"+manifest.Keeps+": everything}}", 1), nil},
		"nobody makes": {fits + trigger("x", toService("sink"), byType("z")),
			[]string{"config/x.yaml:71: Trigger iot/x: reads z, which nobody brings"}},
		"nothing matches": {fits + trigger("x", toService("sink"), "  filters: [{prefix: {type: z}}]\n"),
			[]string{"Trigger iot/x: reads nothing"}},
		"no subscriber": {fits + trigger("x", toService("none"), byType("a")),
			[]string{"Trigger iot/x: subscriber: Service iot/none does not exist"}},
		"no subscriber by uri": {fits + trigger("x", "{uri: 'http://none.iot.svc.cluster.local/'}", byType("a")),
			[]string{"subscriber: Service iot/none does not exist"}},
		"uri elsewhere": {fits + trigger("x", "{uri: 'https://example.com/'}", byType("a")), nil},
		"no broker": {fits + strings.Replace(trigger("x", toService("sink"), ""), "broker: iot", "broker: none", 1),
			[]string{"Broker iot/none does not exist: name one of crm/crm, iot/iot"}},
		"no dead letter sink": {fits + trigger("x", toService("sink"), byType("a")+"  delivery: {deadLetterSink: "+toService("none")+"}\n"),
			[]string{"dead letter sink: Service iot/none does not exist"}},
		"wakes itself": {fits + service("loop", "a", "") + trigger("loop", toService("loop"), byType("b")),
			[]string{"closes a circle of events that would wake each other for ever: a on iot/iot → b on iot/iot → a on iot/iot"}},
		"wakes itself at once": {fits + service("loop", "a", "") + trigger("loop", toService("loop"), byType("a")),
			[]string{"a on iot/iot → a on iot/iot"}},
		"a circle that ends": {fits + service("loop", "a", "") + ends("it only ever makes less", trigger("loop", toService("loop"), byType("b"))), nil},
		"a circle that ends, without a reason": {fits + service("loop", "a", "") + ends(" ", trigger("loop", toService("loop"), byType("b"))),
			[]string{"say in telemesh.dev/ends of a Trigger on it why it ends"}},
		"one of two circles ends": {fits + service("loop", "a", "") + ends("it only ever makes less", trigger("loop", toService("loop"), byType("b"))) +
			service("other", "a", "") + trigger("other", toService("other"), byType("b")),
			[]string{"Trigger iot/other: closes a circle"}},
		"circle of brokers": {fits +
			trigger("out", "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: crm, namespace: crm}}", byType("b")) +
			strings.NewReplacer("namespace: iot", "namespace: crm", "broker: iot", "broker: crm").Replace(
				trigger("back", "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: iot, namespace: Iot}}", byType("b"))),
			[]string{"Broker Iot/iot does not exist"}},
		"other sink than the waking broker": {fits + service("split", "b", strings.Replace(sink, "iot/iot", "crm/crm", 1)) + trigger("split", toService("split"), byType("a")),
			[]string{"Service iot/split: one event goes as a reply to another Broker", "Service iot/split: brings b to Broker crm/crm, where nobody reads it"}},
		"reaches no broker": {fits + service("mute", "q", ""), []string{"Service iot/mute: emits q and reaches no Broker"}},
		"forwarded": {fits +
			trigger("out", "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: crm, namespace: crm}}", byType("b")) +
			strings.NewReplacer("namespace: iot", "namespace: crm", "broker: iot", "broker: crm").Replace(
				trigger("in", "{uri: 'https://example.com/'}", byType("b"))), nil},
		"forwarded and not read": {fits +
			trigger("out", "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: crm, namespace: crm}}", byType("b")),
			[]string{"Trigger iot/out: brings b to Broker crm/crm, where nobody reads it"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := fitting(mustLoad(t, test.text))
			if len(got) != len(test.want) {
				t.Fatalf("Check gives %d findings, want %d:\n%v", len(got), len(test.want), got)
			}
			for i, f := range got {
				if !strings.Contains(f.String(), test.want[i]) || f.Do == "" || f.Why == "" {
					t.Errorf("finding %d = %s\nwant one with %s", i, f, test.want[i])
				}
			}
		})
	}
}

// What no program has, `telemesh up` could not start.
func TestImages(t *testing.T) {
	s := mustLoad(t, service("sink", "", "")+service("other", "", "")+
		strings.Replace(service("foreign", "", ""), "ko://github.com/telemesh/telemesh/functions/", "example.com/", 1))
	if got := images(s, []string{"other", "sink"}); len(got) != 0 {
		t.Errorf("images = %v, want nothing", got)
	}
	got := images(s, []string{"other", "x"})
	if want := `config/x.yaml:12: Service iot/sink: image: there is no function "sink": name one of other, x`; len(got) != 1 || got[0].String() != want {
		t.Errorf("images = %v, want %s", got, want)
	}
}

func TestCheckFindsCircleAcrossBrokers(t *testing.T) {
	toBroker := func(name string) string {
		return "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: " + name + ", namespace: " + name + "}}"
	}
	s := mustLoad(t, strings.Replace(brokers, "namespace: iot}", "namespace: iot, annotations: {telemesh.dev/outputs: b}}", 1)+
		trigger("out", toBroker("crm"), byType("b"))+
		strings.NewReplacer("namespace: iot}\nspec", "namespace: crm}\nspec", "broker: iot", "broker: crm").Replace(
			trigger("back", toBroker("iot"), byType("b"))))
	got := fitting(s)
	if len(got) != 1 || !strings.Contains(got[0].String(), "b on crm/crm → b on iot/iot → b on crm/crm") {
		t.Errorf("Check = %v, want one circle", got)
	}
}

func TestCheckPingSources(t *testing.T) {
	const ticks = "dev.knative.sources.ping"
	of := func(name string) string { return "/apis/v1/namespaces/iot/pingsources/" + name }
	clock := brokers + service("a", "", "") + ping("clock", toBrokerIoT+"  ceOverrides: {extensions: {sheet: placements}}\n")
	taken := clock + trigger("a", toService("a"), "  filters: [{exact: {type: "+ticks+", source: "+of("clock")+"}}]\n")
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"fits":            {taken, nil},
		"by source":       {clock + trigger("a", toService("a"), "  filters: [{exact: {type: "+ticks+"}}, {prefix: {source: /apis/v1/namespaces/iot/}}]\n"), nil},
		"by extension":    {clock + trigger("a", toService("a"), "  filters: [{exact: {type: "+ticks+"}}, {suffix: {sheet: ments}}]\n"), nil},
		"by CESQL":        {clock + trigger("a", toService("a"), "  filters: [{exact: {type: "+ticks+"}}, {cesql: \"EXISTS sheet\"}]\n"), nil},
		"nobody":          {clock, []string{"no Trigger of Broker iot/iot takes its ticks: add a Trigger with the filter exact: {type: " + ticks + ", source: " + of("clock") + "}"}},
		"other extension": {clock + trigger("a", toService("a"), "  filters: [{exact: {type: "+ticks+", sheet: actions}}]\n"), []string{"PingSource iot/clock: no Trigger of Broker iot/iot takes its ticks"}},
		"other source":    {taken + ping("second", toBrokerIoT), []string{"PingSource iot/second: no Trigger of Broker iot/iot takes its ticks"}},
		"only kept": {strings.Replace(taken, "name: a, namespace: iot}\nspec:\n  broker", "name: a, namespace: iot, annotations: {"+manifest.Keeps+": everything}}\nspec:\n  broker", 1),
			[]string{"PingSource iot/clock: no Trigger of Broker iot/iot takes its ticks"}},
		"no broker":     {strings.Replace(taken, "kind: Broker, name: iot}}", "kind: Broker, name: none}}", 1), []string{"PingSource iot/clock: sink: Broker iot/none does not exist: name one of crm/crm, iot/iot", "Trigger iot/a: reads " + ticks + ", which nobody brings"}},
		"to a function": {strings.Replace(taken, toBrokerIoT, "  sink: "+toService("a")+"\n", 1), []string{"sink: http://a.iot.svc.cluster.local is no Broker: a tick that it does not take is lost", "which nobody brings"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := fitting(mustLoad(t, test.text))
			if len(got) != len(test.want) {
				t.Fatalf("Check gives %d findings, want %d:\n%v", len(got), len(test.want), got)
			}
			for i, f := range got {
				if !strings.Contains(f.String(), test.want[i]) {
					t.Errorf("finding %d = %s\nwant one with %s", i, f, test.want[i])
				}
			}
		})
	}
}
