package source

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

func TestTopics(t *testing.T) {
	const list = "site/{building}/{device_id}/up?format=senml-json&model=a%2Cb, zigbee2mqtt/+?format=zigbee2mqtt,site/#,+/status"
	all, err := parseTopics(list)
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]struct {
		filter string
		m      mesh.Message
	}{
		"site/north/desk-1/up": {"site/+/+/up", mesh.Message{DeviceID: "desk-1", Format: "senml-json",
			Attributes: map[string]string{"building": "north", "model": "a,b"}}},
		"site/north/desk-1/down": {"site/#", mesh.Message{}}, // the filters behind say it
		"site":                   {"site/#", mesh.Message{}}, // # includes its parent
		"zigbee2mqtt/desk":       {"zigbee2mqtt/+", mesh.Message{Format: "zigbee2mqtt"}},
		"zigbee2mqtt/desk/set":   {},
		"desk/status":            {"+/status", mesh.Message{}},
		"$SYS/status":            {}, // what begins with $ is no wildcard's
		"elsewhere":              {},
	} {
		f := all.match(topic)
		if f == nil {
			if want.filter != "" {
				t.Errorf("match(%q) = none, want %s", topic, want.filter)
			}
			continue
		}
		var m mesh.Message
		f.describe(&m, topic)
		if diff := cmp.Diff(want.m, m); f.String() != want.filter || diff != "" {
			t.Errorf("match(%q) = %s, want %s; says (-want +got):\n%s", topic, f, want.filter, diff)
		}
	}
	if diff := cmp.Diff([]string{"zigbee2mqtt/+", "site/#", "+/status"}, all.subscribed()); diff != "" {
		t.Errorf("subscribed (-want +got):\n%s", diff)
	}
}

func TestTopicsSayWhatIsWrong(t *testing.T) {
	for list, want := range map[string]string{
		"":              "it is empty",
		"a,,b":          "it is empty",
		"a/#/b":         `level "#"`,
		"a/b#":          `level "b#"`,
		"a+/b":          `level "a+"`,
		"a/x{b}":        `level "x{b}"`,
		"a/{b-c}":       `level "{b-c}"`,
		"{x}/{x}":       "attribute x is told already",
		"{x}?x=1":       "attribute x is told already",
		"a?x=1&x=2":     "attribute x is told already",
		"a/{topic}":     "attribute topic is told already",
		"a?retain=true": "attribute retain is told already",
		"a?sender=me":   "attribute sender is told already",
		"a?x=%zz":       "behind the ?",
	} {
		if _, err := parseTopics(list); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "MQTT_TOPICS") {
			t.Errorf("parseTopics(%q) = %v, want %s", list, err, want)
		}
	}
}

// Two filters one of which covers the other would bring a message twice.
func TestCovers(t *testing.T) {
	for _, test := range []struct {
		wide, narrow string
		want         bool
	}{
		{"#", "a/b", true}, {"#", "+/#", true}, {"#", "$SYS/#", false}, {"+/a", "$SYS/a", false}, {"$SYS/#", "$SYS/a", true},
		{"a/#", "a", true}, {"a/#", "a/+/c", true}, {"a/+", "a/#", false}, {"a/+", "a/b", true}, {"a/+", "a/b/c", false},
		{"a/b", "a/+", false}, {"a/+/c", "a/+", false}, {"a", "a/", false}, {"a/+", "a/", true},
	} {
		if got := covers(strings.Split(test.wide, "/"), strings.Split(test.narrow, "/")); got != test.want {
			t.Errorf("covers(%s, %s) = %v, want %v", test.wide, test.narrow, got, test.want)
		}
	}
}
