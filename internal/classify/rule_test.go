package classify_test

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/classify"
)

const sound = `name: air
reads: org.example.air.seen.v1
emits: org.example.air.classified.v1
each: data.rows
when: record.metric == "co2"
key: [tenant_id, room]
member: device_id
stale: 30m
value: record.value
at: record.at
levels:
  - {label: good, severity: INFO}
  - {label: poor, severity: WARN, from: 1200}
  - {label: bad, severity: ERROR, from: 'record.?limit.orValue(2000)'}
hysteresis: 50
overrides:
  - {when: 'record.room == "workshop"', levels: {poor: 1500}}
history: {table: iot_analytics.readings, where: metric = 'co2', within: 24h}
`

// What is wrong with a rule is said with its line.
func TestRuleFaults(t *testing.T) {
	for _, test := range []struct{ name, old, new, want string }{
		{"sound", "", "", ""},
		{"no YAML", "key: [", "key: ]", "rules.yaml:5: "},
		{"misspelt", "hysteresis: 50", "hysterese: 50", "rules.yaml:15: field hysterese not found in a rule"},
		{"no level", "{label: poor, severity: WARN, from: 1200}", "1200", "rules.yaml:13: cannot unmarshal !!int `1200` into a level"},
		{"misspelt in a level", "severity: WARN", "severty: WARN", "rules.yaml:13: field severty not found in a level"},
		{"name", "name: air", "name: Air", `rules.yaml:1: rule Air: name: "Air" is none`},
		{"emits", "air.classified.v1", "air.told.v1", "emits: \"org.example.air.told.v1\" does not end"},
		{"endless", "reads: org.example.air.seen.v1", "reads: org.example.air.classified.v1", "rules.yaml:3: rule air: emits: org.example.air.classified.v1 is what the rule reads"},
		{"no value", "value: record.value", "unit: ppm", "rule air: value: is missing"},
		{"no CEL", "value: record.value", "value: record.", "rules.yaml:9: rule air: value: Syntax error"},
		{"no variable", "value: record.value", "value: it.value", "rules.yaml:9: rule air: value: undeclared reference to 'it'"},
		{"no number", "value: record.value", "value: '\"x\"'", "rules.yaml:9: rule air: value: gives string: it has to be a number"},
		{"each sees no record", "each: data.rows", "each: record.rows", "rules.yaml:4: rule air: each: undeclared reference to 'record'"},
		{"each is no list", "each: data.rows", "each: size(data)", "rules.yaml:4: rule air: each: gives int: it has to be a list"},
		{"a formula of lines", "when: record.metric == \"co2\"", "when: |\n  has(record.x) &&\n  it", "rules.yaml:7: rule air: when: undeclared"},
		{"label", "label: poor", "label: 'poor\"'", "rules.yaml:13: rule air: levels[1].label"},
		{"label twice", "label: poor", "label: good", "rules.yaml:13: rule air: levels[1].label: \"good\" is twice there"},
		{"severity", "severity: WARN", "severity: WARNING", `rules.yaml:13: rule air: levels[1].severity: "WARNING" is none of TRACE`},
		{"first has from", "severity: INFO}", "severity: INFO, from: 1}", "rules.yaml:12: rule air: levels[0].from: the first level has none"},
		{"no from", ", from: 1200", "", "rules.yaml:13: rule air: levels[1].from: is missing"},
		{"descending", "from: 'record.?limit.orValue(2000)'", "from: 1200", "levels: bad is from 1200, which is not above the 1200 of poor"},
		{"descending by an override", "levels: {poor: 1500}", "levels: {poor: 1500, bad: 1400}", "rules.yaml:17: rule air: overrides[0]: bad is from 1400"},
		{"override of none", "levels: {poor: 1500}", "levels: {worse: 1500}", `rules.yaml:17: rule air: overrides[0].levels: "worse" is no level above the first`},
		{"infinite", "from: 1200", "from: .inf", "rules.yaml:13: rule air: levels[1].from: .inf is no number"},
		{"hysteresis", "hysteresis: 50", "hysteresis: -1", "hysteresis: -1 is less than 0"},
		{"member that never ends", "stale: 30m", "unit: ppm", "stale: is missing: a member"},
		{"stale", "stale: 30m", "stale: soon", `rules.yaml:8: rule air: stale: "soon" is no duration`},
		{"key twice", "key: [tenant_id, room]", "key: [room, room]", `key: "room"`},
		{"no key", "key: [tenant_id, room]\n", "", "key: is missing"},
		{"history of another time", "at: record.at", "at: record.at + ''", "rules.yaml:10: rule air: at: with a history"},
		{"history of data", "value: record.value", "value: record.value + data.plus", "rules.yaml:9: rule air: value: sees data"},
		{"history of a whole record", "value: record.value", "value: size(record)", "rules.yaml:9: rule air: value: looks at the record as a whole"},
		{"history within", ", within: 24h", "", "history.within: is missing"},
		{"history table", "iot_analytics.readings", "readings; DROP", "history.table"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := classify.Read("rules.yaml", []byte(strings.Replace(sound, test.old, test.new, 1)))
			switch {
			case test.want == "" && err != nil:
				t.Errorf("Read = %v, want a rule", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("Read = %v, want an error that says %q", err, test.want)
			}
		})
	}
	if rules, err := classify.Read("rules.yaml", []byte(sound+"---\n"+strings.Replace(sound, "air", "stale-air", 1))); err != nil || len(rules) != 2 {
		t.Errorf("Read of two = %v, %v", rules, err)
	}
	_, err := classify.Read("rules.yaml", []byte(sound+"---\n"+sound))
	if want := fmt.Sprintf("rules.yaml:%d: rule air: name: there are two", strings.Count(sound, "\n")+2); err == nil || err.Error()[:len(want)] != want {
		t.Errorf("Read of two of a name = %v, want an error that says %q", err, want)
	}
	if _, err := classify.Read("rules.yaml", nil); err == nil {
		t.Error("Read of nothing has no error")
	}
}

func TestLoad(t *testing.T) {
	shipped, err := fs.Glob(config.Classify, "*.yaml")
	if err != nil || len(shipped) < 2 {
		t.Fatalf("shipped are %v, %v", shipped, err)
	}
	for i := range shipped {
		shipped[i] = strings.TrimSuffix(shipped[i], ".yaml")
	}
	if rules, err := classify.Load(shipped, sound); err != nil || len(rules) != len(shipped)+1 {
		t.Errorf("Load of all and one more = %v, %v", rules, err)
	}
	own := strings.Replace(sound, "name: air", "name: co2-level", 1)
	if rules, err := classify.Load([]string{"co2-level"}, own); err != nil || len(rules) != 1 || rules[0].Reads != "org.example.air.seen.v1" {
		t.Errorf("Load of one's own co2-level = %v, %v, want it in place of the shipped one", rules, err)
	}
	for want, in := range map[string][2]string{
		`there is no rule "co2": those of config/classify are co2-level, transaction-size`: {"co2", ""},
		"there is no rule: set CLASSIFY":     {"", " "},
		"CLASSIFY_RULES:1: rule X: name: \"": {"", strings.Replace(sound, "air", "X", 1)},
	} {
		var names []string
		if in[0] != "" {
			names = []string{in[0]}
		}
		if _, err := classify.Load(names, in[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%q) = %v, want an error that says %q", in, err, want)
		}
	}
}
