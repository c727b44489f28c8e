package classify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/go-json-experiment/json/jsontext"
	celtypes "github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/traits"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Classifier holds records against a rule. It may be used by several goroutines.
//
// Of a key it remembers the last records for as long as the process lives, and of a key
// that it does not know it reads what was before in the rule's history, if the rule has
// one: once per key and process. Without a history the first level of a key is one that
// no other is known before.
//
// A record that comes again makes the same event again, with the same id, also in another
// process, and one that comes late changes nothing, unless the level is another one with
// it: then that is told, as of the last instant that is known. That a process was killed
// between a late record and its event may show in the id of the latter; the level is right.
type Classifier struct {
	rule      *Rule
	warehouse warehouse.Warehouse // nil: the rule has no history

	mu     sync.Mutex // also while the history is read: what comes meanwhile needs the same
	memory memory
}

// New makes a classifier. Only a rule with a history needs a warehouse.
func New(rule *Rule, w warehouse.Warehouse) *Classifier { return &Classifier{rule: rule, warehouse: w} }

// Untold are records that have no level, because a formula of the rule fails of them. It
// comes marked mesh.Permanent.
type Untold struct {
	Rule   string
	Of     int     // records there were
	Causes []error // of those that have none, in their order
}

// maxCauses bounds how many causes an error says.
const maxCauses = 3

func (u *Untold) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rule %s: %d of %d records have no level: ", u.Rule, len(u.Causes), u.Of)
	for i, cause := range u.Causes {
		if i == maxCauses {
			fmt.Fprintf(&b, "; and %d more", len(u.Causes)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(cause.Error())
	}
	return b.String()
}

// Classify gives the events that the rule makes of an event or of what it carries. With
// Untold there may be events, too: of the other records. Any other error is that no
// record could be looked at.
func (c *Classifier) Classify(ctx context.Context, in event.Event) ([]event.Event, error) {
	all, untold, err := c.measure(in)
	if err != nil {
		return nil, mesh.Permanentf("rule %s: %w", c.rule.Name, err)
	}
	var out []event.Event
	if len(c.rule.Key) == 0 {
		out = c.each(in, all)
	} else if out, err = c.changes(ctx, in, all); err != nil {
		return nil, err
	}
	if len(untold.Causes) > 0 {
		return out, mesh.Permanent(untold)
	}
	return out, nil
}

// measure reads the records that the rule is for.
func (c *Classifier) measure(in event.Event) (all []*measured, untold *Untold, err error) {
	untold = &Untold{Rule: c.rule.Name}
	carried, err := mesh.Carried(in)
	if err != nil {
		return nil, nil, err
	}
	for i := range carried {
		records, err := c.records(&carried[i], func(s *scope, at mesh.Instant) error {
			m, err := c.rule.measure(s, at)
			if m != nil {
				all = append(all, m)
			}
			return err
		}, untold)
		untold.Of += records
		if err != nil && len(carried) == 1 {
			return nil, nil, err
		} else if err != nil {
			untold.Of++
			untold.Causes = append(untold.Causes, fmt.Errorf("event %d of the carrier: %w", i, err))
		}
	}
	return all, untold, nil
}

// records calls f with each record of e, and gives how many there are.
func (c *Classifier) records(e *event.Event, f func(*scope, mesh.Instant) error, untold *Untold) (int, error) {
	data := jsontext.Value(bytes.TrimSpace(e.Data()))
	if !data.IsValid() {
		return 0, fmt.Errorf("the data of %s %s are not JSON", e.Type(), e.ID())
	}
	s := &scope{data: valueOf(data), event: attributes(e)}
	var at mesh.Instant
	if !e.Time().IsZero() {
		at = mesh.At(e.Time())
	}
	if c.rule.each == nil {
		s.record = s.data
		if err := f(s, at); err != nil {
			return 0, err
		}
		return 1, nil
	}
	v, err := c.rule.each.value(s)
	if err != nil {
		return 0, err
	}
	list, ok := v.(traits.Lister)
	if !ok {
		return 0, c.rule.each.is(v)
	}
	n := int(list.Size().(celtypes.Int))
	for i := range n {
		s.record = list.Get(celtypes.Int(i))
		if err := f(s, at); err != nil {
			untold.Causes = append(untold.Causes, fmt.Errorf("record %d: %w", i, err))
		}
	}
	return n, nil
}

func attributes(e *event.Event) map[string]string {
	all := map[string]string{"id": e.ID(), "source": e.Source(), "type": e.Type(), "subject": e.Subject()}
	if !e.Time().IsZero() {
		all["time"] = types.FormatTime(e.Time())
	}
	for name, value := range e.Extensions() {
		all[name], _ = types.Format(value)
	}
	return all
}

// measure reads a record; nil: the rule is not for it.
func (r *Rule) measure(s *scope, at mesh.Instant) (*measured, error) {
	record, ok := s.record.(*object)
	if !ok {
		return nil, errors.New("it is no object")
	}
	if r.when != nil {
		if is, err := r.when.truth(s); err != nil || !is {
			return nil, err
		}
	}
	m := &measured{record: record, at: at, tenant: cmp.Or(record.string(tenant), s.event[mesh.ExtTenant])}
	var err error
	if m.value, err = r.value.number(s); err != nil {
		return nil, err
	}
	if r.at != nil {
		if m.at, err = r.at.instant(s); err != nil {
			return nil, err
		}
	}
	if m.at == 0 && len(r.Key) > 0 {
		return nil, errors.New("at: neither the rule nor the event says when it was")
	}
	if m.lo, m.hi, err = r.level(s, m.value); err != nil {
		return nil, err
	}
	if len(r.Key) > 0 {
		m.key = make([]string, len(r.Key), len(r.Key)+1)
		if r.Member != "" {
			m.member = record.string(r.Member)
		}
		for i, name := range r.Key {
			if m.key[i] = record.string(name); m.key[i] == "" && len(m.key) == len(r.Key) {
				m.key = append(m.key, m.member) // not one with others of which it is not known either
			}
		}
	}
	return m, nil
}

// level gives the level of a value, and the highest that hysteresis keeps.
func (r *Rule) level(s *scope, value float64) (lo, hi int, err error) {
	from := r.overridden(s, &err)
	if err != nil {
		return 0, 0, err
	}
	var numbers [maxLevels]float64
	for i := 1; i < len(r.Levels); i++ {
		t := r.Levels[i].from
		if from != nil {
			t = from[i]
		}
		if numbers[i] = t.number; t.formula != nil {
			if numbers[i], err = t.formula.number(s); err != nil {
				return 0, 0, err
			}
		}
	}
	known := numbers[:len(r.Levels)]
	if err := ascending(r, known, func(n float64) (float64, bool) { return n, true }); err != nil {
		return 0, 0, err
	}
	for i := 1; i < len(known); i++ {
		if value >= known[i] {
			lo = i
		}
		if value >= known[i]-r.Hysteresis {
			hi = i
		}
	}
	return lo, hi, nil
}

// overridden gives the thresholds of the first override that is for the record.
func (r *Rule) overridden(s *scope, err *error) []threshold {
	for i := range r.overrides {
		is, failed := r.overrides[i].when.truth(s)
		if failed != nil {
			*err = failed
			return nil
		}
		if is {
			return r.overrides[i].from
		}
	}
	return nil
}

// each tells of every record, of those of one level and tenant in one event.
func (c *Classifier) each(in event.Event, all []*measured) []event.Event {
	type group struct {
		level  int
		tenant string
	}
	var groups []group
	of := map[group][]mesh.Classified{}
	for _, m := range all {
		g := group{m.lo, m.tenant}
		if of[g] == nil {
			groups = append(groups, g)
		}
		of[g] = append(of[g], c.classified(m, m.lo))
	}
	var out []event.Event
	for _, g := range groups {
		e := mesh.Derive(in, function, c.rule.Emits, mesh.Hash(c.rule.Name, c.rule.Levels[g.level].Label, g.tenant), c.data(of[g]))
		c.describe(&e, g.level, g.tenant)
		out = append(out, e)
	}
	return out
}

const (
	function = "classify"
	tenant   = "tenant_id" // member of a record that says whose it is
)

func (c *Classifier) data(records []mesh.Classified) []byte {
	return mesh.Encode(mesh.Classification{Rule: c.rule.Name, Classified: records})
}

func (c *Classifier) classified(m *measured, level int) mesh.Classified {
	l := c.rule.Levels[level]
	return mesh.Classified{Label: l.Label, SeverityText: l.Severity, SeverityNumber: l.Number,
		Value: m.value, Unit: c.rule.Unit, At: m.at, Record: jsontext.Value(m.record.text)}
}

func (c *Classifier) describe(e *event.Event, level int, tenant string) {
	l := c.rule.Levels[level]
	e.SetExtension(mesh.ExtLabel, l.Label)
	e.SetExtension(mesh.ExtSeverityText, l.Severity)
	e.SetExtension(mesh.ExtSeverityNumber, l.Number)
	if tenant != "" {
		e.SetExtension(mesh.ExtTenant, tenant)
	}
}

// changes tells what changes, an event each, of one key in the order of their instants.
func (c *Classifier) changes(ctx context.Context, in event.Event, all []*measured) ([]event.Event, error) {
	if len(all) == 0 {
		return nil, nil
	}
	var names []string // in the order in which they come
	of := map[string][]*measured{}
	for _, m := range all {
		name := mesh.Hash(m.key...)
		if of[name] == nil {
			names = append(names, name)
		}
		of[name] = append(of[name], m)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.recall(ctx, names, of); err != nil {
		return nil, err
	}
	var out []event.Event
	for _, name := range names {
		k := c.memory.get(name)
		if k == nil { // there are more in this event than are remembered
			k = c.memory.add(name)
		}
		for _, tell := range k.takeAll(c.rule, of[name]) {
			out = append(out, c.changed(in, name, tell))
		}
	}
	return out, nil
}

// takeAll takes records of a key in the order of their instants.
func (k *key) takeAll(rule *Rule, records []*measured) (tell []told) {
	slices.SortStableFunc(records, func(a, b *measured) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.member, b.member))
	})
	for len(records) > 0 {
		n := 1
		for n < len(records) && records[n].at == records[0].at {
			n++
		}
		tell = append(tell, k.take(rule, records[:n])...)
		records = records[n:]
	}
	return tell
}

// changed is the event of a change.
func (c *Classifier) changed(in event.Event, key string, tell told) event.Event {
	one := c.classified(tell.record, tell.to)
	one.At = tell.at
	one.Key = map[string]string{}
	for i, name := range c.rule.Key {
		one.Key[name] = tell.record.key[i]
	}
	if len(tell.record.key) > len(c.rule.Key) && c.rule.Member != "" {
		one.Key[c.rule.Member] = tell.record.member
	}
	var before *Level
	if tell.from != none {
		before = &c.rule.Levels[tell.from]
		one.PreviousLabel, one.PreviousSeverityNumber = before.Label, before.Number
	}
	e := mesh.NewEvent(c.rule.Emits, mesh.Source(function), c.data([]mesh.Classified{one}), c.rule.Name, key, tell.at.String(), one.Label)
	e.SetTime(tell.at.Time())
	mesh.SetCause(&e, in)
	if trace, ok := in.Extensions()[mesh.ExtTraceParent]; ok {
		e.SetExtension(mesh.ExtTraceParent, trace)
	}
	c.describe(&e, tell.to, tell.record.tenant)
	if before != nil {
		e.SetExtension(mesh.ExtPreviousSeverity, before.Number)
	}
	return e
}
