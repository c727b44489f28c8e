package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// One event of a function is a reply, several go to its K_SINK: both lead on.
func TestDownstreamOfSeveralEvents(t *testing.T) {
	inCRM := strings.NewReplacer("namespace: iot}\nspec", "namespace: crm}\nspec", "broker: iot", "broker: crm")
	s := mustLoad(t, brokers+service("ingest", "a", toIoT)+
		service("flat", "b", "{name: K_SINK, value: 'http://"+IngressHost+"/crm/crm'}")+service("near", "", "")+service("far", "", "")+
		trigger("flat", toService("flat"), byType("a"))+trigger("near", toService("near"), byType("b"))+
		inCRM.Replace(trigger("far", "{ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: far, namespace: iot}}", byType("b"))))
	want := []Ref{{"iot", "far"}, {"iot", "flat"}, {"iot", "near"}}
	if diff := cmp.Diff(want, s.Downstream(&s.Service(Ref{"iot", "ingest"}).Workload)); diff != "" {
		t.Errorf("Downstream (-want +got):\n%s", diff)
	}
}

// What takes few events of a type would mostly start for nothing.
func TestDownstreamIsNotSeldom(t *testing.T) {
	seldom := strings.NewReplacer("{name: some, namespace: iot}\nspec:\n  broker", "{name: some, namespace: iot, annotations: {telemesh.dev/seldom: few are severe}}\nspec:\n  broker")
	s := mustLoad(t, brokers+service("ingest", "a", toIoT)+service("all", "", "")+service("some", "", "")+
		trigger("all", toService("all"), byType("a"))+seldom.Replace(trigger("some", toService("some"), byType("a"))))
	if diff := cmp.Diff([]Ref{{"iot", "all"}}, s.Downstream(&s.Service(Ref{"iot", "ingest"}).Workload)); diff != "" {
		t.Errorf("Downstream (-want +got):\n%s", diff)
	}
}
