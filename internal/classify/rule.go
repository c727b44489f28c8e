// Package classify gives records the labels of an ordered scale, by rules that are files:
//
//	name: co2-level
//	reads: dev.telemesh.analytics.joined.v1
//	emits: dev.telemesh.co2.classified.v1
//	each: data.readings               # a list of records; without it the data are the record
//	when: record.metric == "co2"      # which records the rule is for; without it all
//	key: [tenant_id, building, room]  # members of a record: whose level it is
//	member: device_id                 # of several members of a key the most severe counts,
//	stale: 30m                        # as long as it was heard within this time
//	value: record.value
//	unit: ppm
//	at: record.observed_at            # without it the time of the event
//	levels:                           # ascending; from is inclusive, and the first level has none
//	  - {label: good, severity: INFO}
//	  - {label: poor, severity: WARN, from: 1200}
//	hysteresis: 50                    # a level is left downwards only below from − 50
//	overrides:                        # of these the first whose when is true
//	  - {when: 'record.room == "workshop"', levels: {poor: 1500}}
//	history: {table: iot_analytics.readings, where: metric = 'co2', within: 24h}
//
// each, when, value, at, overrides.when and a from that is text are formulas (package
// formula) over data, those of the event, record, which is one element of each, and
// event, the attributes of the event as strings.
//
// A rule without key tells of every record the level of its value. A rule with a key
// tells when the level of a key changes, and the level of a key is a function of its
// records and of nothing else: whatever order they come in, late, twice, or some of them
// from the warehouse, it ends the same. So nothing has to be stored (Classifier says what
// is remembered, and for how long).
//
// It does not post, and knows no Broker.
package classify

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Rule gives labels to the records of one type of event.
type Rule struct {
	Name         string
	Reads, Emits string // types of events
	Key          []string
	Member       string        // empty: a key has none
	Stale        time.Duration // 0: a member counts for ever
	Unit         string
	Levels       []Level
	Hysteresis   float64
	History      *History // nil: what was before the process is not known

	each, when, value, at *expression
	overrides             []override
	columns               []string // members of a record that History needs
	atColumn              string
}

// Level is a label of a rule's scale.
type Level struct {
	Label    string
	Severity string // a name of mesh.Severities
	Number   int    // and its number

	from threshold // the least value that has it; of the first level: none
}

// History says where the records of a key are that were before.
type History struct {
	Table  string
	Where  string        // a condition in SQL, as when is one on records
	Within time.Duration // how far back
}

// threshold is a number, or a formula that gives it.
type threshold struct {
	number  float64
	formula *expression // nil: number
}

type override struct {
	when *expression
	from []threshold // by level; of those that it does not name that of the rule
}

// Fault is what is wrong with a rule, and where that stands.
type Fault struct {
	File string
	Line int
	Rule string // its name; empty: it has none
	Err  error
}

func (f *Fault) Error() string {
	if f.Rule == "" {
		return fmt.Sprintf("%s:%d: %v", f.File, f.Line, f.Err)
	}
	return fmt.Sprintf("%s:%d: rule %s: %v", f.File, f.Line, f.Rule, f.Err)
}

func (f *Fault) Unwrap() error { return f.Err }

// ruleFile is a rule as YAML.
type ruleFile struct {
	Name       string         `yaml:"name"`
	Reads      string         `yaml:"reads"`
	Emits      string         `yaml:"emits"`
	Each       yaml.Node      `yaml:"each"`
	When       yaml.Node      `yaml:"when"`
	Key        []string       `yaml:"key"`
	Member     string         `yaml:"member"`
	Stale      yaml.Node      `yaml:"stale"`
	Value      yaml.Node      `yaml:"value"`
	Unit       string         `yaml:"unit"`
	At         yaml.Node      `yaml:"at"`
	Levels     []levelFile    `yaml:"levels"`
	Hysteresis float64        `yaml:"hysteresis"`
	Overrides  []overrideFile `yaml:"overrides"`
	History    *historyFile   `yaml:"history"`
}

type levelFile struct {
	Label    string    `yaml:"label"`
	Severity string    `yaml:"severity"`
	From     yaml.Node `yaml:"from"`
}

type overrideFile struct {
	When   yaml.Node            `yaml:"when"`
	Levels map[string]yaml.Node `yaml:"levels"`
}

type historyFile struct {
	Table  string    `yaml:"table"`
	Where  string    `yaml:"where"`
	Within yaml.Node `yaml:"within"`
}

var (
	ruleName   = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	eventType  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	emitsType  = regexp.MustCompile(`\.classified\.v[0-9]+$`)
	labelText  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9])?$`) // an attribute holds it, a filter compares it
	columnName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	tableName  = regexp.MustCompile(`^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$`)
	yamlLine   = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)
)

// Load gives the rules of a text, and those of config/classify that have some names, but
// for which the text has one of that name.
func Load(names []string, text string) (rules []*Rule, err error) {
	if strings.TrimSpace(text) != "" {
		if rules, err = Read("CLASSIFY_RULES", []byte(text)); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		name = strings.TrimSpace(name)
		if slices.ContainsFunc(rules, func(r *Rule) bool { return r.Name == name }) {
			continue
		}
		rule, err := open(config.Classify, name)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	if len(rules) == 0 {
		return nil, errors.New("there is no rule: set CLASSIFY to names of config/classify, or CLASSIFY_RULES to rules in YAML")
	}
	return rules, nil
}

// open reads the rule of a name from a folder, in which each stands in a file of its own.
func open(folder fs.FS, name string) (*Rule, error) {
	text, err := fs.ReadFile(folder, name+".yaml")
	if err != nil {
		known, _ := fs.Glob(folder, "*.yaml")
		return nil, fmt.Errorf("there is no rule %q: those of config/classify are %s", name, strings.ReplaceAll(strings.Join(known, ", "), ".yaml", ""))
	}
	file := "config/classify/" + name + ".yaml"
	rules, err := Read(file, text)
	switch {
	case err != nil:
		return nil, err
	case len(rules) != 1 || rules[0].Name != name:
		return nil, &Fault{file, 1, name, errors.New("name: make it that of the file, which has one rule")}
	}
	return rules[0], nil
}

// Read reads rules from the documents of a text in YAML. The error is, or joins, Faults;
// file is named in them.
func Read(file string, text []byte) ([]*Rule, error) {
	var rules []*Rule
	var errs []error
	names := map[string]bool{}
	decoder, lines := yaml.NewDecoder(bytes.NewReader(text)), yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	for {
		var f ruleFile
		var at yaml.Node
		err := decoder.Decode(&f)
		if err == io.EOF {
			break
		}
		if err != nil { // of the documents behind it nobody knows where they begin
			errs = append(errs, yamlFaults(file, err)...)
			break
		}
		if err := lines.Decode(&at); err != nil {
			return nil, err
		}
		r := reader{file: file, root: &at, name: f.Name}
		rule := r.rule(&f)
		if names[f.Name] {
			r.fault(r.at("name"), "name: there are two rules of this name")
		}
		names[f.Name] = true
		rules, errs = append(rules, rule), append(errs, r.faults...)
	}
	if len(rules) == 0 && len(errs) == 0 {
		errs = append(errs, &Fault{file, 1, "", errors.New("there is no rule")})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return rules, nil
}

func yamlFaults(file string, err error) (faults []error) {
	var several *yaml.TypeError
	if !errors.As(err, &several) {
		several = &yaml.TypeError{Errors: []string{err.Error()}}
	}
	for _, text := range several.Errors {
		line := 1
		if found := yamlLine.FindStringSubmatch(text); found != nil {
			line, _ = strconv.Atoi(found[1])
			text = text[len(found[0]):]
		}
		text = strings.NewReplacer("in type ", "in ", "classify.ruleFile", "a rule", "classify.levelFile", "a level",
			"classify.overrideFile", "an override", "classify.historyFile", "history").Replace(text)
		faults = append(faults, &Fault{file, line, "", errors.New(strings.TrimPrefix(text, "yaml: "))})
	}
	return faults
}

// reader reads one rule, and finds all that is wrong with it.
type reader struct {
	file   string
	root   *yaml.Node
	name   string
	faults []error
}

func (r *reader) fault(line int, format string, args ...any) {
	r.faults = append(r.faults, &Fault{r.file, line, r.name, fmt.Errorf(format, args...)})
}

// at is the line of a part of the rule, by names of members and places in lists, or of
// what it is missing in.
func (r *reader) at(way ...any) int {
	n := r.root.Content[0]
	line := n.Line
	for _, step := range way {
		var next *yaml.Node
		switch step := step.(type) {
		case int:
			next = n.Content[step]
		case string:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == step {
					next = n.Content[i+1]
					line = n.Content[i].Line
				}
			}
		}
		if next == nil {
			return line
		}
		if n = next; n.Kind != yaml.ScalarNode {
			line = n.Line
		}
	}
	return line
}

func (r *reader) rule(f *ruleFile) *Rule {
	rule := &Rule{Name: f.Name, Reads: f.Reads, Emits: f.Emits, Key: f.Key, Member: f.Member, Unit: f.Unit, Hysteresis: f.Hysteresis}
	if !ruleName.MatchString(f.Name) {
		r.fault(r.at("name"), "name: %q is none: lower-case words joined by -, as co2-level", f.Name)
	}
	if !eventType.MatchString(f.Reads) {
		r.fault(r.at("reads"), "reads: %q is no type of events", f.Reads)
	}
	if !eventType.MatchString(f.Emits) || !emitsType.MatchString(f.Emits) {
		r.fault(r.at("emits"), "emits: %q does not end as types of what a rule says do, in .classified.v1", f.Emits)
	}
	if f.Emits == f.Reads {
		r.fault(r.at("emits"), "emits: %s is what the rule reads: its events would come to it again without end", f.Emits)
	}
	if f.Value.IsZero() {
		r.fault(r.at("value"), "value: is missing: it says which number of a record has a level")
	}
	rule.each = r.formula("each", &f.Each, overEvents, lists)
	rule.when = r.formula("when", &f.When, overRecords, truths)
	rule.value = r.formula("value", &f.Value, overRecords, numbers)
	rule.at = r.formula("at", &f.At, overRecords, times)
	for i, name := range f.Key {
		if !columnName.MatchString(name) || slices.Contains(f.Key[:i], name) {
			r.fault(r.at("key"), "key: %q is no name of a member, or twice there", name)
		}
	}
	rule.Stale = r.duration("stale", &f.Stale)
	switch {
	case f.Member != "" && !columnName.MatchString(f.Member):
		r.fault(r.at("member"), "member: %q is no name of a member", f.Member)
	case f.Member != "" && slices.Contains(f.Key, f.Member):
		r.fault(r.at("member"), "member: %s is one of the key", f.Member)
	case f.Member != "" && f.Stale.IsZero():
		r.fault(r.at("member"), "stale: is missing: a member that is never heard again would count for ever")
	case f.Member == "" && !f.Stale.IsZero():
		r.fault(r.at("stale"), "stale: is said of members: name one")
	}
	if len(f.Key) == 0 && (f.Member != "" || f.Hysteresis != 0 || f.History != nil) {
		r.fault(r.at("key"), "key: is missing: without it a record has no other before it, and member, hysteresis and history say nothing")
	}
	if f.Hysteresis < 0 || math.IsInf(f.Hysteresis, 0) || math.IsNaN(f.Hysteresis) {
		r.fault(r.at("hysteresis"), "hysteresis: %v is less than 0, or no number", f.Hysteresis)
	}
	r.levels(rule, f)
	r.history(rule, f)
	return rule
}

func (r *reader) duration(field string, node *yaml.Node) time.Duration {
	if node.IsZero() {
		return 0
	}
	d, err := time.ParseDuration(node.Value)
	if err != nil || d <= 0 {
		r.fault(node.Line, "%s: %q is no duration above 0, as 30m or 24h", field, node.Value)
	}
	return d
}

func (r *reader) levels(rule *Rule, f *ruleFile) {
	if len(f.Levels) < 2 || len(f.Levels) > maxLevels {
		r.fault(r.at("levels"), "levels: there are %d, want 2 to %d", len(f.Levels), maxLevels)
		return
	}
	index := map[string]int{}
	for i := range f.Levels {
		l := &f.Levels[i]
		field := fmt.Sprintf("levels[%d]", i)
		number, known := mesh.Severities[l.Severity]
		if !known {
			r.fault(r.at("levels", i), "%s.severity: %q is none of TRACE, DEBUG, INFO, WARN, ERROR, FATAL, with a digit from 2 to 4 behind it or none", field, l.Severity)
		}
		if _, twice := index[l.Label]; twice || !labelText.MatchString(l.Label) {
			r.fault(r.at("levels", i), "%s.label: %q is twice there, or no label: letters, digits, and between them spaces, dots, - and _", field, l.Label)
		}
		index[l.Label] = i
		level := Level{Label: l.Label, Severity: l.Severity, Number: number}
		switch {
		case i == 0 && !l.From.IsZero():
			r.fault(r.at("levels", i), "%s.from: the first level has none: it has what is below the next", field)
		case i > 0:
			level.from = r.threshold(field+".from", r.at("levels", i), &l.From)
		}
		rule.Levels = append(rule.Levels, level)
	}
	base := make([]threshold, len(rule.Levels))
	for i, l := range rule.Levels {
		base[i] = l.from
	}
	r.ascend("levels", r.at("levels"), rule, base)
	for i := range f.Overrides {
		o, field := &f.Overrides[i], fmt.Sprintf("overrides[%d]", i)
		if o.When.IsZero() || len(o.Levels) == 0 {
			r.fault(r.at("overrides", i), "%s: want when, and levels as {label: from}", field)
			continue
		}
		from := slices.Clone(base)
		for _, label := range slices.Sorted(maps.Keys(o.Levels)) {
			node := o.Levels[label]
			at, known := index[label]
			if !known || at == 0 {
				r.fault(node.Line, "%s.levels: %q is no level above the first", field, label)
				continue
			}
			from[at] = r.threshold(field+".levels."+label, r.at("overrides", i, "levels"), &node)
		}
		r.ascend(field, r.at("overrides", i, "levels"), rule, from)
		rule.overrides = append(rule.overrides, override{r.formula(field+".when", &o.When, overRecords, truths), from})
	}
}

// maxLevels is what a level takes in memory: a byte.
const maxLevels = 100

// ascend looks at what are numbers; of formulas a record tells.
func (r *reader) ascend(field string, line int, rule *Rule, from []threshold) {
	if err := ascending(rule, from, func(t threshold) (float64, bool) { return t.number, t.formula == nil }); err != nil {
		r.fault(line, "%s: %w", field, err)
	}
}

// ascending says which level does not begin above the one before it.
func ascending[T any](rule *Rule, from []T, number func(T) (float64, bool)) error {
	for i := 2; i < len(from); i++ {
		above, ok := number(from[i])
		below, too := number(from[i-1])
		if ok && too && !(above > below) {
			return fmt.Errorf("%s is from %v, which is not above the %v of %s", rule.Levels[i].Label, above, below, rule.Levels[i-1].Label)
		}
	}
	return nil
}

func (r *reader) threshold(field string, line int, node *yaml.Node) threshold {
	if node.IsZero() {
		r.fault(line, "%s: is missing", field)
		return threshold{}
	}
	if node.Tag == "!!int" || node.Tag == "!!float" {
		var t threshold
		if err := node.Decode(&t.number); err != nil || math.IsNaN(t.number) || math.IsInf(t.number, 0) {
			r.fault(node.Line, "%s: %s is no number that has an end", field, node.Value)
		}
		return t
	}
	return threshold{formula: r.formula(field, node, overRecords, numbers)}
}

func (r *reader) history(rule *Rule, f *ruleFile) {
	if f.History == nil {
		return
	}
	h := &History{Table: f.History.Table, Where: f.History.Where, Within: r.duration("history.within", &f.History.Within)}
	rule.History = h
	if !tableName.MatchString(h.Table) {
		r.fault(r.at("history", "table"), "history.table: %q is no output port, as iot_analytics.readings", h.Table)
	}
	if h.Within == 0 {
		r.fault(r.at("history"), "history.within: is missing: it says how far back records are read, as 24h")
	}
	if h.Where == "" {
		h.Where = "TRUE"
	}
	column, plain := rule.at.column()
	if !plain {
		r.fault(r.at("at"), "at: with a history it has to be a member of the record, as record.observed_at: it is a column of the table, too")
	}
	rule.atColumn = column
	needed := append(slices.Clone(f.Key), column)
	if f.Member != "" {
		needed = append(needed, f.Member)
	}
	read := []*expression{rule.value}
	for _, l := range rule.Levels {
		read = append(read, l.from.formula)
	}
	for _, o := range rule.overrides {
		read = append(read, o.when)
		for _, t := range o.from {
			read = append(read, t.formula)
		}
	}
	for _, e := range read {
		columns, err := e.columns()
		if err != nil {
			r.fault(e.line, "%s: %w", e.field, err)
		}
		needed = append(needed, columns...)
	}
	slices.Sort(needed)
	rule.columns = slices.Compact(needed)
}
