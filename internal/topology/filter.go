package topology

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Filter is one filter of a Trigger, of the dialects that Knative has. One of its
// fields is set; none: all events pass.
type Filter struct {
	Exact  map[string]string `json:"exact"`
	Prefix map[string]string `json:"prefix"`
	Suffix map[string]string `json:"suffix"`
	All    []Filter          `json:"all"`
	Any    []Filter          `json:"any"`
	Not    *Filter           `json:"not"`
	CESQL  string            `json:"cesql"`
}

// Attribute is the filter of the older kind: an attribute has a value, or any where
// that is empty.
func Attribute(name, value string) Filter {
	if value == "" {
		return Filter{CESQL: "EXISTS " + name}
	}
	return Filter{Exact: map[string]string{name: value}}
}

// Verdict is what a filter says of an event of which not everything is known.
type Verdict int

// The verdicts.
const (
	No Verdict = iota
	Maybe
	Yes
)

// Event is what is known of an event.
type Event struct {
	Attributes map[string]string
	All        bool // these are all that it has, but for its id and time, as far as the filters ask
}

// CESQL says whether an expression is true of an event with these attributes. An
// expression that fails is not: https://knative.dev/docs/eventing/triggers/#trigger-filtering
type CESQL func(expression string, attributes map[string]string) bool

// Takes says whether the trigger takes an event. Without cesql, no expression is
// known to be true or false.
func (t *Trigger) Takes(e Event, cesql CESQL) Verdict { return takes(t.Filters, e, cesql) }

func takes(filters []Filter, e Event, cesql CESQL) Verdict {
	out := Yes
	for _, f := range filters {
		out = min(out, f.takes(e, cesql))
	}
	return out
}

func (f *Filter) takes(e Event, cesql CESQL) Verdict {
	switch {
	case len(f.Exact) > 0:
		return e.match(f.Exact, func(have, want string) bool { return have == want })
	case len(f.Prefix) > 0:
		return e.match(f.Prefix, strings.HasPrefix)
	case len(f.Suffix) > 0:
		return e.match(f.Suffix, strings.HasSuffix)
	case len(f.All) > 0:
		return takes(f.All, e, cesql)
	case len(f.Any) > 0:
		out := No
		for _, f := range f.Any {
			out = max(out, f.takes(e, cesql))
		}
		return out
	case f.Not != nil:
		return Yes - f.Not.takes(e, cesql)
	case f.CESQL == "":
		return Yes
	case cesql == nil || !e.All:
		return Maybe
	case cesql(f.CESQL, e.Attributes):
		return Yes
	}
	return No
}

func (e Event) match(want map[string]string, matches func(have, want string) bool) Verdict {
	out := Yes
	for name, value := range want {
		have, known := e.Attributes[name]
		switch {
		case !known && (!e.All || name == "id" || name == "time"):
			out = min(out, Maybe)
		case !known || !matches(have, value):
			return No
		}
	}
	return out
}

// word is a name in an expression, with what stands behind it; quoted text comes
// first, so that nothing in it is one.
var word = regexp.MustCompile(`'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|([A-Za-z][A-Za-z0-9]*)(\s*\()?`)

var keywords = []string{"and", "or", "xor", "not", "in", "like", "exists", "true", "false"}

// Attributes gives the names of the attributes that the filters ask for.
func (t *Trigger) Attributes() []string {
	names := map[string]bool{}
	var collect func([]Filter)
	collect = func(filters []Filter) {
		for _, f := range filters {
			for _, want := range []map[string]string{f.Exact, f.Prefix, f.Suffix} {
				for name := range want {
					names[name] = true
				}
			}
			for _, m := range word.FindAllStringSubmatch(f.CESQL, -1) {
				if name := strings.ToLower(m[1]); name != "" && m[2] == "" && !slices.Contains(keywords, name) {
					names[name] = true
				}
			}
			collect(f.All)
			collect(f.Any)
			if f.Not != nil {
				collect([]Filter{*f.Not})
			}
		}
	}
	collect(t.Filters)
	return slices.Sorted(maps.Keys(names))
}

// Types are the event types outside of which the trigger takes nothing; nil: its
// filters set no bound.
func (t *Trigger) Types() []string { return slices.Sorted(maps.Keys(typesOfAll(t.Filters))) }

func (f *Filter) types() map[string]bool {
	switch {
	case len(f.Exact) > 0:
		if v := f.Exact["type"]; v != "" {
			return map[string]bool{v: true}
		}
	case len(f.Prefix) > 0, len(f.Suffix) > 0:
	case len(f.All) > 0:
		return typesOfAll(f.All)
	case len(f.Any) > 0:
		union := map[string]bool{}
		for _, f := range f.Any {
			some := f.types()
			if some == nil {
				return nil
			}
			maps.Copy(union, some)
		}
		return union
	}
	return nil
}

func typesOfAll(filters []Filter) map[string]bool {
	var common map[string]bool
	for _, f := range filters {
		some := f.types()
		switch {
		case common == nil:
			common = some
		case some != nil:
			maps.DeleteFunc(common, func(t string, _ bool) bool { return !some[t] })
		}
	}
	return common
}

// FilterText writes the filters as one line, for people.
func (t Trigger) FilterText() string {
	if len(t.Filters) == 0 {
		return "every event"
	}
	return join(t.Filters, " and ")
}

func join(filters []Filter, by string) string {
	var parts []string
	for _, f := range filters {
		parts = append(parts, f.text())
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return strings.Join(parts, by)
}

func (f *Filter) text() string {
	pairs := func(want map[string]string, by string) string {
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(want)) {
			parts = append(parts, name+by+want[name])
		}
		return strings.Join(parts, " and ")
	}
	switch {
	case len(f.Exact) > 0:
		return pairs(f.Exact, " = ")
	case len(f.Prefix) > 0:
		return pairs(f.Prefix, " begins with ")
	case len(f.Suffix) > 0:
		return pairs(f.Suffix, " ends with ")
	case len(f.All) > 0:
		return "(" + join(f.All, " and ") + ")"
	case len(f.Any) > 0:
		return "(" + join(f.Any, " or ") + ")"
	case f.Not != nil:
		return "not " + f.Not.text()
	case f.CESQL != "":
		return f.CESQL
	}
	return "every event"
}
