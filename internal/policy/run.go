package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/check"
)

// object is a part of the mesh that a policy may be about.
type object struct {
	name  string // as exceptions name it
	title string // as findings name it, with its kind
	scope scope
	where func(field string) check.Where
}

// Finder gives, as check.Run takes it, what is wrong with policies, with their cases
// and, by them, with a mesh whose products have these documents. While one of these
// cannot be read nothing is held against the mesh: what is wrong there, others find.
func Finder(policies []*Policy, faults []check.Finding, documents Products, now time.Time) func(check.Mesh) []check.Finding {
	return func(mesh check.Mesh) []check.Finding {
		found := append(slices.Clone(faults), Test(policies)...)
		if m, err := New(mesh.Manifests, documents); err == nil {
			found = append(found, m.Check(policies, now)...)
		}
		return found
	}
}

// Check holds the mesh against policies at an instant, by which exceptions end. An
// object that an exception names is not found, one whose exception has ended is, and
// so are the exceptions that have ended or are not needed.
func (m *Model) Check(policies []*Policy, now time.Time) []check.Finding {
	var all []check.Finding
	for _, p := range policies {
		all = append(all, m.check(p, now)...)
	}
	return all
}

func (m *Model) check(p *Policy, now time.Time) []check.Finding {
	var all []check.Finding
	find := func(where check.Where, object, problem, do string) {
		all = append(all, check.Finding{Where: where, Object: object, Severity: p.Severity, Rule: p.Name, Problem: problem, Why: p.Why, Do: do})
	}
	met := map[string]bool{} // objects that are as they must be
	for _, o := range m.objects[p.For] {
		problem, err := p.find(&o.scope)
		excepted := slices.ContainsFunc(p.Exceptions, func(e Exception) bool { return e.of(o) && !e.ended(now) })
		switch {
		case err != nil:
			find(p.where, o.title, "the policy "+p.Name+" cannot be held against it: "+err.Error(),
				"ask with has(…) or .?… for what may be missing, and show it by a case")
		case problem == "":
			met[o.name], met[o.title] = true, true
		case !excepted:
			find(o.where(p.At), o.title, problem, p.Fix)
		}
	}
	for _, e := range p.Exceptions {
		switch {
		case met[e.Object]:
			find(e.where, "exception of "+e.Object, "is not needed: what it excepts is as the policy wants it", "remove it")
		case e.ended(now):
			find(e.where, "exception of "+e.Object, "ended on "+e.Until.Format(time.DateOnly), "mend what it excepts, or say until when it holds and why")
		}
	}
	return all
}

func (e Exception) of(o object) bool { return e.Object == o.name || e.Object == o.title }

// ended says whether the last day of an exception is over, everywhere.
func (e Exception) ended(now time.Time) bool { return !now.Before(e.Until.AddDate(0, 0, 2)) }

// Test runs the cases of policies and gives those that do not end as they say.
func Test(policies []*Policy) []check.Finding {
	var all []check.Finding
	for _, p := range policies {
		for i := range p.Cases {
			c := &p.Cases[i]
			got, err := p.find(&c.given)
			var problem string
			switch {
			case err != nil:
				problem = err.Error()
			case got != "" && c.Finds == "":
				problem = fmt.Sprintf("finds %q, wants nothing", got)
			case got == "" && c.Finds != "":
				problem = fmt.Sprintf("finds nothing, wants %q", c.Finds)
			case strings.TrimSpace(got) != strings.TrimSpace(c.Finds):
				problem = fmt.Sprintf("finds %q, wants %q", got, c.Finds)
			default:
				continue
			}
			all = append(all, check.Finding{
				Where: c.where, Object: fmt.Sprintf("policy %s, case %q", p.Name, c.Name), Severity: check.Error, Rule: "policy-case",
				Problem: problem, Why: "a policy that does not do what its cases say finds what is right, or lets pass what is wrong", Do: "correct the policy, or the case",
			})
		}
	}
	return all
}
