package check

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/manifest"
)

// What a function wakes is what its events lead to: replies, other Brokers, what
// the functions there ask, and no correction.
func TestWake(t *testing.T) {
	const toCRM = "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: crm, namespace: crm}}"
	mesh := func(wake string) string {
		env := "{name: K_SINK, value: 'http://" + manifest.IngressHost + "/iot/iot'}"
		if wake != "" {
			env += ", {name: WAKE, value: '" + wake + "'}"
		}
		return brokers + service("ingest", "a", env) +
			service("flat", "b", "{name: PORT_URL, value: 'http://port.iot.svc.cluster.local/rows'}") +
			service("port", "", "{name: WAREHOUSE_URL, value: 'http://warehouse.platform.svc.cluster.local'}") +
			service("sink", "c", "") + service("far", "", "") + service("repair", "b", "") + service("other", "", "") +
			trigger("flat", toService("flat"), byType("a")) + trigger("sink", toService("sink"), byType("b")) +
			ends("it finds less", trigger("repair", toService("repair"), byType("c"))) +
			trigger("out", toCRM, byType("b")) +
			strings.NewReplacer("namespace: iot}\nspec", "namespace: crm}\nspec", "broker: iot", "broker: crm").Replace(
				trigger("far", "{ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: far, namespace: iot}}", byType("b")))
	}
	of := func(names ...string) string {
		var urls []string
		for _, name := range names {
			urls = append(urls, "http://"+name+".iot.svc.cluster.local")
		}
		return strings.Join(urls, ",")
	}
	all := of("far", "flat", "port", "sink")
	const says = "Service iot/ingest: WAKE does not name the Services that its events lead to: set it to "
	for name, test := range map[string]struct{ wake, want string }{
		"none":           {"", ""},
		"all":            {all, ""},
		"another order":  {of("sink", "port", "flat", "far"), ""},
		"one is missing": {of("flat", "port", "sink"), says + all},
		"one too many":   {of("far", "flat", "port", "repair", "sink"), says + all},
		"one of nobody":  {of("far", "flat", "gone", "port", "sink"), says + all},
	} {
		var got []string
		for _, f := range fitting(mustLoad(t, mesh(test.wake))) {
			if text := f.String(); strings.Contains(text, "WAKE") {
				_, text, _ = strings.Cut(text, ": ")
				got = append(got, text)
			}
		}
		if diff := cmp.Diff(test.want, strings.Join(got, "\n")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A Service that is woken runs until it may be woken again.
func TestWokenForLongEnough(t *testing.T) {
	for window, want := range map[string]string{
		"":    "",
		"21s": "",
		"20s": "config/x.yaml:31: Service iot/flat: autoscaling.knative.dev/window is 20s; Service iot/ingest wakes it, and for 20s does not wake it again: make it longer",
	} {
		flat := service("flat", "", "")
		if window != "" {
			flat = strings.Replace(flat, "  template:\n", "  template:\n    metadata: {annotations: {autoscaling.knative.dev/window: "+window+"}}\n", 1)
		}
		s := mustLoad(t, brokers+service("ingest", "a", toIoT+", {name: WAKE, value: 'http://flat.iot.svc.cluster.local'}")+
			flat+trigger("flat", toService("flat"), byType("a")))
		var got []string
		for _, f := range fitting(s) {
			if text := f.String(); strings.Contains(text, "window") {
				got = append(got, text)
			}
		}
		if diff := cmp.Diff(want, strings.Join(got, "\n")); diff != "" {
			t.Errorf("window %q (-want +got):\n%s", window, diff)
		}
	}
}
