// Package preflight reads a Kubernetes cluster and says what a deployment of the
// mesh would miss there, and what is unsafe, before it is applied and after.
//
// Read asks the cluster, and nothing is changed by it. Judge says what the answers
// mean, and asks nobody. What the cluster did not show is Unknown and never
// Missing. What no API shows, as whether a network enforces its policies, is said
// to be so.
package preflight

import (
	"fmt"
	"slices"
	"strings"
)

// Level is how much a finding matters.
type Level string

// Levels, the mildest first.
const (
	OK      Level = "ok"
	Warning Level = "warning" // it works, and somebody may be surprised
	Unknown Level = "unknown" // it was not shown
	Unsafe  Level = "unsafe"  // it works, and events may be lost, read or forged
	Failing Level = "failing" // it is there, and does not work
	Missing Level = "missing" // it is not there, and something does not work without
)

// Levels has all of them, the worst first.
var Levels = []Level{Missing, Failing, Unsafe, Unknown, Warning, OK}

// Finding is what one check says.
type Finding struct {
	Level   Level    `json:"level"`
	Check   string   `json:"check"`             // what was looked at: kubernetes, knative-eventing, brokers, …
	Objects []string `json:"objects,omitempty"` // that it is about: Trigger iot/telemetry-flatten
	Says    string   `json:"says"`
	Do      string   `json:"do,omitempty"` // a command, or a sentence
}

// shownObjects is how many objects a line names.
const shownObjects = 4

func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s ", f.Level)
	if len(f.Objects) > 0 {
		b.WriteString(several(f.Objects, shownObjects) + ": ")
	}
	b.WriteString(f.Says)
	if f.Do != "" {
		b.WriteString("\n         → " + f.Do)
	}
	return b.String()
}

// several names things of kinds, each kind once: Trigger iot/a, iot/b, Broker
// iot/iot and 3 more.
func several(objects []string, most int) string {
	var b strings.Builder
	shown := objects
	if len(objects) > most {
		shown = objects[:most-1]
	}
	last := ""
	for i, o := range shown {
		kind, name, ok := strings.Cut(o, " ")
		if i > 0 {
			b.WriteString(", ")
		}
		if ok && kind == last {
			b.WriteString(name)
		} else {
			b.WriteString(o)
		}
		last = kind
	}
	if more := len(objects) - len(shown); more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	return b.String()
}

// Count gives how many findings are of each level.
func Count(findings []Finding) map[Level]int {
	count := map[Level]int{}
	for _, f := range findings {
		count[f.Level]++
	}
	return count
}

// Passes says whether nothing is missing or failing and, if strict, nothing is
// unsafe or unknown either.
func Passes(findings []Finding, strict bool) bool {
	return !slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Level == Missing || f.Level == Failing || strict && (f.Level == Unsafe || f.Level == Unknown)
	})
}
