package check

import (
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/classify"
	"github.com/telemesh/telemesh/internal/manifest"
)

// classifies says which Services classify by a rule that is not there or cannot be read,
// are not woken by what it reads, or do not say what it emits. Rules of which the manifests
// do not have the text are not looked at.
func (c *checker) classifies() {
	for _, w := range c.Workloads() {
		if w.Function() != "classify" {
			continue
		}
		text, known := w.Env["CLASSIFY_RULES"]
		var names []string
		if list := w.Env["CLASSIFY"]; list != "" {
			names = strings.Split(list, ",")
		}
		if len(names) == 0 && !known && w.Elsewhere("CLASSIFY_RULES") {
			continue
		}
		rules, err := classify.Load(names, text)
		if err != nil {
			for _, err := range each(err) {
				c.find(w.Where, w.Object(), "rule-invalid", "correct it", "%v", err)
			}
			continue
		}
		for _, rule := range rules {
			if !slices.Contains(w.Emits, rule.Emits) {
				c.find(w.Where, w.Object(), "rule-misfit", "add it to "+manifest.Emits, "the rule %s emits %s, which the Service does not say", rule.Name, rule.Emits)
			}
			woken := false
			for _, t := range c.Triggers {
				target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace)
				woken = woken || err == nil && "Service "+target.Service.String() == w.Object() && t.Reads(rule.Reads)
			}
			if !woken {
				c.find(w.Where, w.Object(), "rule-misfit", "let a Trigger that wakes it take them", "the rule %s reads %s, which no Trigger brings to it", rule.Name, rule.Reads)
			}
		}
	}
}
