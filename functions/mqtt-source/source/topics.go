package source

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// topics is what MQTT_TOPICS says, in its order.
type topics []filter

// filter is a topic filter (MQTT 5, section 4.7) and what it says of the
// messages that match it.
type filter struct {
	levels []string
	names  []string // of each level: the attribute it becomes, or ""
	says   []attribute
}

type attribute struct{ name, value string }

var level = regexp.MustCompile(`^\{[A-Za-z][A-Za-z0-9_]*\}$`)

// own are the attributes that are told by nothing but the message itself.
var own = []string{"topic", "retain", mesh.AttributeSender}

func parseTopics(text string) (topics, error) {
	var all topics
	for part := range strings.SplitSeq(text, ",") {
		f, err := parseFilter(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("MQTT_TOPICS: filter %q: %w", part, err)
		}
		all = append(all, f)
	}
	return all, nil
}

func parseFilter(text string) (filter, error) {
	pattern, query, _ := strings.Cut(text, "?")
	if pattern == "" {
		return filter{}, fmt.Errorf("it is empty")
	}
	f := filter{levels: strings.Split(pattern, "/")}
	f.names = make([]string, len(f.levels))
	for i, l := range f.levels {
		switch {
		case l == "#" && i == len(f.levels)-1, l == "+":
		case level.MatchString(l):
			f.levels[i], f.names[i] = "+", l[1:len(l)-1]
		case strings.ContainsAny(l, "#+{}\x00"):
			return filter{}, fmt.Errorf("level %q: #, + and {name} are whole levels, and # is the last one", l)
		}
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return filter{}, fmt.Errorf("behind the ?: %w", err)
	}
	told := slices.Clone(own)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[name] {
			f.says = append(f.says, attribute{name, value})
		}
	}
	for _, a := range f.says {
		if slices.Contains(told, a.name) {
			return filter{}, fmt.Errorf("attribute %s is told already", a.name)
		}
		told = append(told, a.name)
	}
	for _, name := range f.names {
		if name != "" && slices.Contains(told, name) {
			return filter{}, fmt.Errorf("attribute %s is told already", name)
		}
		told = append(told, name)
	}
	return f, nil
}

func (f *filter) String() string { return strings.Join(f.levels, "/") }

// match gives the first filter that topic matches; nil: none.
func (t topics) match(topic string) *filter {
	levels := strings.Split(topic, "/")
	for i := range t {
		if covers(t[i].levels, levels) {
			return &t[i]
		}
	}
	return nil
}

// subscribed are the filters that no other covers. Where subscriptions overlap,
// some MQTT brokers send a message once for each.
func (t topics) subscribed() []string {
	var out []string
	for i := range t {
		covered := slices.ContainsFunc(t, func(other filter) bool {
			return covers(other.levels, t[i].levels) && !slices.Equal(other.levels, t[i].levels)
		})
		if text := t[i].String(); !covered && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// covers says whether every topic that matches the levels of narrow, a filter or
// a topic, matches those of wide.
func covers(wide, narrow []string) bool {
	// What begins with $ belongs to the MQTT broker; wildcards pass it over
	// (MQTT 5, section 4.7.2).
	if strings.HasPrefix(narrow[0], "$") && (wide[0] == "#" || wide[0] == "+") {
		return false
	}
	for i, w := range wide {
		switch {
		case w == "#": // also what stands before it (section 4.7.1.2)
			return true
		case i == len(narrow):
			return false
		case w == "+" && narrow[i] != "#":
		case w != narrow[i]:
			return false
		}
	}
	return len(wide) == len(narrow)
}

// describe adds to m what the filter says of a message of this topic.
func (f *filter) describe(m *mesh.Message, topic string) {
	for _, a := range f.says {
		m.Describe(a.name, a.value)
	}
	levels := strings.Split(topic, "/")
	for i, name := range f.names {
		if name != "" {
			m.Describe(name, levels[i])
		}
	}
}
