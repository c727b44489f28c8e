// Package check says where a mesh does not fit together: the whole of it, manifests,
// contracts, views and functions, as one model (Mesh).
//
// What is wrong is a Finding, whoever found it. Others that look at a mesh, as
// policies do, are a func(Mesh) []Finding: Run takes them after its own.
package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/manifest"
)

// Finding is something in the mesh that is wrong.
type Finding struct {
	Where
	Object   string   `json:"object"` // Trigger iot/tenant-enrich; table iot_telemetry.readings
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"`    // that is broken: broker-missing
	Problem  string   `json:"problem"` // what is wrong here
	Why      string   `json:"why"`     // it matters
	Do       string   `json:"do"`      // what to do about it
}

// Severity of a Finding.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // the mesh is not to be applied
	Warning Severity = "warning" // it works, and something in it is for nothing or goes on luck
)

// Where is a place in a file.
type Where struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0: the whole file
}

func (w Where) String() string {
	if w.Line == 0 {
		return w.File
	}
	return fmt.Sprintf("%s:%d", w.File, w.Line)
}

// String is the finding on one line, without why.
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s: %s", f.Where, f.Object, f.Problem, f.Do)
}

// Mesh is all that there is to look at.
type Mesh struct {
	Manifests manifest.Set
	Overlays  []manifest.Set // the same with each overlay applied
	Functions []string       // that a Service can run, by the folder of their main
	Products  []contract.Product
	Lineage   *lineage.Graph // nil: there are no products, or a view that is not understood

	Released *Released // nil: there is nothing to compare with

	documents documents
	unread    []Finding
}

// Run gives what is wrong with the mesh, and what others find, ordered by place.
func Run(m Mesh, others ...func(Mesh) []Finding) []Finding {
	own := checker{Set: m.Manifests, ofTenant: map[string][]string{}}
	for _, p := range m.Products {
		for _, port := range p.Ports {
			if port.Tenant != "" {
				own.ofTenant[port.Name] = append(own.ofTenant[port.Name], port.Tenant)
			}
		}
	}
	own.manifests(m.Functions)
	findings := slices.Clone(m.unread)
	for _, over := range m.Overlays {
		findings = append(findings, overlay(&own, over, m.Functions)...)
	}
	own.products(m)
	findings = append(findings, own.findings...)
	for _, other := range others {
		findings = append(findings, other(m)...)
	}
	slices.SortStableFunc(findings, byPlace)
	return findings
}

func byPlace(a, b Finding) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Problem, b.Problem))
}

type checker struct {
	manifest.Set
	flows    map[flow][]maker
	ofTenant map[string][]string // attributes that say whose an event is, by its type
	findings []Finding
}

// manifests says what is wrong with manifests alone.
func (c *checker) manifests(functions []string) {
	c.images(functions)
	c.classifies()
	c.namespaces()
	c.annotations()
	c.addresses()
	c.fit()
	c.identities()
}

// fit says where what is sent does not arrive, or is not wanted.
func (c *checker) fit() {
	c.flows = map[flow][]maker{}
	c.destinations()
	c.ingress()
	c.emitted()
	c.ticks()
	c.forwarded()
	c.read()
	c.cycles()
	c.untrue()
	c.twice()
	c.woken()
}

// identities says which functions are not told from others by their account, or would
// be refused by a Broker that asks who posts, and which policies name nobody.
func (c *checker) identities() {
	c.accounts()
	c.tokens()
	c.policies()
}

// find adds a finding of one of the rules.
func (c *checker) find(at manifest.Where, object, rule, do, problem string, args ...any) {
	f := rules[rule].finding(rule)
	f.Where, f.Object, f.Problem, f.Do = Where{at.File, at.Line}, object, fmt.Sprintf(problem, args...), do
	c.findings = append(c.findings, f)
}

// images says which Services and Deployments have an image of a function that is
// not there. Other images run on a cluster only.
func (c *checker) images(known []string) {
	for _, w := range c.Workloads() {
		if name := w.Function(); name != "" && !slices.Contains(known, name) {
			c.find(w.AtImage(), w.Object(), "function-missing", "name one of "+strings.Join(known, ", "), "image: there is no function %q", name)
		}
	}
}
