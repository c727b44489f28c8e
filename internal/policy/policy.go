// Package policy holds the mesh against rules that its teams agreed on, as files:
// one policy each, in CEL over a model of products, contracts and manifests.
//
//	name: owner-is-a-team
//	severity: error
//	why: A person leaves or is ill; a team answers.
//	for: product
//	at: team.name
//	must: product.owner.endsWith('-team')
//	message: "'is owned by \"' + product.owner + '\"'"
//	fix: name a team in team.name, as in iot-team
//	exceptions:
//	  - {object: customers, reason: the CRM is bought and has no team before spring, until: 2027-03-01}
//	cases:
//	  - {name: a person, given: {product: {owner: jan@example.org}}, finds: 'is owned by "jan@example.org"'}
//	  - {name: a team, given: {product: {owner: iot-team}}}
//
// A policy finds an object for which when is true (it is, if it is missing) and must
// is false. The cases are small inputs and what has to be found in them: nothing,
// where they do not say. Each policy shows by them what it finds and what it lets
// pass.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/check"
	"github.com/telemesh/telemesh/internal/manifest"
)

// Policy is a rule about objects of one kind.
type Policy struct {
	Name     string
	Severity check.Severity
	Why, Fix string
	For      string // a kind of objects
	At       string // the field of the object that it is about; empty: all of it

	Exceptions []Exception
	Cases      []Case

	when, must, message expression
	where               check.Where // of must
}

// Exception is an object that a policy does not hold for, for now.
type Exception struct {
	Object string // as findings name it, with its kind or without
	Reason string
	Until  time.Time // the last day

	where check.Where
}

// Case is an input and what a policy has to find in it.
type Case struct {
	Name  string
	Finds string // the message; empty: nothing is found

	given scope
	where check.Where
}

// kinds are the objects that there are policies for, and the variables that their
// expressions see besides mesh.
var kinds = map[string][]string{
	"product":  {"product"},
	"port":     {"port", "product"},
	"contract": {"contract", "product"},
	"column":   {"column", "contract", "product"}, // of a contract
	"read":     {"read"},
	"event":    {"event"},
	"broker":   {"broker"},
	"trigger":  {"trigger"},
	"service":  {"service"},
	"tick":     {"tick"},
}

// Kinds are the kinds of objects that there are policies for.
var Kinds = slices.Sorted(maps.Keys(kinds))

// scope is what expressions see.
type scope struct {
	Mesh     *Mesh    `json:"mesh"`
	Product  Product  `json:"product"`
	Port     Port     `json:"port"`
	Contract Contract `json:"contract"`
	Column   Column   `json:"column"`
	Read     Read     `json:"read"`
	Event    Event    `json:"event"`
	Broker   Broker   `json:"broker"`
	Trigger  Trigger  `json:"trigger"`
	Service  Service  `json:"service"`
	Tick     Tick     `json:"tick"`
}

// ResolveName and Parent make it a cel.Activation.
func (s *scope) ResolveName(name string) (any, bool) {
	switch name {
	case "mesh":
		return s.Mesh, true
	case "product":
		return s.Product, true
	case "port":
		return s.Port, true
	case "contract":
		return s.Contract, true
	case "column":
		return s.Column, true
	case "read":
		return s.Read, true
	case "event":
		return s.Event, true
	case "broker":
		return s.Broker, true
	case "trigger":
		return s.Trigger, true
	case "service":
		return s.Service, true
	case "tick":
		return s.Tick, true
	}
	return nil, false
}

// Parent is none.
func (s *scope) Parent() cel.Activation { return nil }

// document is a policy as YAML.
type document struct {
	Name       string      `yaml:"name"`
	Severity   string      `yaml:"severity"`
	Why        string      `yaml:"why"`
	For        string      `yaml:"for"`
	At         string      `yaml:"at"`
	When       yaml.Node   `yaml:"when"`
	Must       yaml.Node   `yaml:"must"`
	Message    yaml.Node   `yaml:"message"`
	Fix        string      `yaml:"fix"`
	Exceptions []exception `yaml:"exceptions"`
	Cases      []example   `yaml:"cases"`
}

type exception struct {
	Object string `yaml:"object"`
	Reason string `yaml:"reason"`
	Until  string `yaml:"until"`
}

type example struct {
	Name  string    `yaml:"name"`
	Given yaml.Node `yaml:"given"`
	Finds string    `yaml:"finds"`
}

// Load reads the policies of a folder, *.yaml and *.yml, by their names; folder is its name in
// messages. What is wrong with a policy is a finding, and that policy is not among
// those that are given.
func Load(folder string, files fs.FS) ([]*Policy, []check.Finding, error) {
	names, err := fs.Glob(files, "*.y*ml")
	if err != nil {
		return nil, nil, err
	}
	var all []*Policy
	var findings []check.Finding
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, nil, fmt.Errorf("read policy: %w", err)
		}
		r := reader{file: filepath.Join(folder, name)}
		p := r.read(text)
		if len(r.findings) == 0 {
			all = append(all, p)
		}
		findings = append(findings, r.findings...)
	}
	return all, findings, nil
}

var (
	policyName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	yamlLine   = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)
)

// reader reads a policy.
type reader struct {
	file     string
	root     yaml.Node
	findings []check.Finding
}

func (r *reader) at(field string) check.Where {
	return check.Where{File: r.file, Line: manifest.LineOf(&r.root, field)}
}

// name is that of the file, and so of the policy.
func (r *reader) name() string {
	return strings.TrimSuffix(filepath.Base(r.file), filepath.Ext(r.file))
}

func (r *reader) find(where check.Where, problem, do string) {
	r.findings = append(r.findings, check.Finding{Where: where, Object: "policy " + r.name(), Severity: check.Error,
		Rule: "policy-invalid", Problem: problem, Why: "A policy that cannot be read finds nothing.", Do: do})
}

// fault is that of a field.
func (r *reader) fault(field, do, problem string, args ...any) {
	r.find(r.at(field), field+": "+fmt.Sprintf(problem, args...), do)
}

// read gives the policy, as far as there are no findings, with its expressions compiled.
func (r *reader) read(text []byte) *Policy {
	var d document
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := yaml.Unmarshal(text, &r.root); err != nil {
		r.notYAML(err)
		return nil
	}
	switch err := decoder.Decode(&d); {
	case err == io.EOF:
		r.find(r.at(""), "the file is empty", "write a policy, or remove it")
		return nil
	case err != nil:
		r.notYAML(err)
		return nil
	case decoder.Decode(&document{}) != io.EOF:
		r.find(r.at(""), "the file has more than one document", "write each policy into a file of its own")
		return nil
	}
	p := &Policy{Name: d.Name, Severity: check.Severity(d.Severity), Why: d.Why, Fix: d.Fix, For: d.For, At: d.At, where: r.at("must")}
	if want := r.name(); d.Name != want || !policyName.MatchString(d.Name) {
		r.fault("name", "make it that of the file, in lower-case words joined by -", "is %q", d.Name)
	}
	if p.Severity != check.Error && p.Severity != check.Warning {
		r.fault("severity", "make it error or warning", "is %q", d.Severity)
	}
	if strings.TrimSpace(d.Why) == "" {
		r.fault("why", "say why it matters", "is missing")
	}
	if strings.TrimSpace(d.Fix) == "" {
		r.fault("fix", "say what to do about what it finds", "is missing")
	}
	if kinds[d.For] == nil {
		r.fault("for", "name one of "+strings.Join(Kinds, ", "), "is %q", d.For)
		return nil
	}
	p.when = expression{text: "true"}
	r.expression("when", d.For, &d.When, &p.when, types.BoolType)
	r.expression("must", d.For, &d.Must, &p.must, types.BoolType)
	r.expression("message", d.For, &d.Message, &p.message, types.StringType)
	for i, e := range d.Exceptions {
		field := fmt.Sprintf("exceptions[%d]", i)
		until, err := time.Parse(time.DateOnly, e.Until)
		if err != nil {
			r.fault(field+".until", "make it the last day of the exception, as 2027-03-01", "is %q", e.Until)
		}
		if e.Object == "" || strings.TrimSpace(e.Reason) == "" {
			r.fault(field, "name the object, as findings do, and give the reason", "has no object or no reason")
		}
		p.Exceptions = append(p.Exceptions, Exception{Object: e.Object, Reason: e.Reason, Until: until, where: r.at(field)})
	}
	finds := map[bool]bool{}
	for i, c := range d.Cases {
		field := fmt.Sprintf("cases[%d]", i)
		one := Case{Name: c.Name, Finds: c.Finds, where: r.at(field)}
		if err := given(&c.Given, d.For, &one.given); err != nil {
			r.fault(field+".given", "give members of the model alone", "%v", err)
		}
		if c.Name == "" {
			r.fault(field, "give it one", "has no name")
		}
		finds[c.Finds != ""] = true
		p.Cases = append(p.Cases, one)
	}
	if !finds[true] || !finds[false] {
		r.fault("cases", "show by one what the policy finds, and by one what it lets pass", "are not enough")
	}
	return p
}

// given reads the input of a case, strictly.
func given(node *yaml.Node, kind string, into *scope) error {
	into.Mesh = &Mesh{}
	var value map[string]any
	if err := node.Decode(&value); err != nil {
		return err
	}
	for name := range value {
		if name != "mesh" && !slices.Contains(kinds[kind], name) {
			return fmt.Errorf("%s: a policy for a %s sees %s and mesh", name, kind, strings.Join(kinds[kind], ", "))
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// notYAML finds what the parser of YAML did not take.
func (r *reader) notYAML(err error) {
	var several *yaml.TypeError
	if !errors.As(err, &several) {
		several = &yaml.TypeError{Errors: []string{err.Error()}}
	}
	for _, text := range several.Errors {
		where := check.Where{File: r.file, Line: 1}
		if found := yamlLine.FindStringSubmatch(text); found != nil {
			where.Line, _ = strconv.Atoi(found[1])
			text = text[len(found[0]):]
		}
		text = strings.NewReplacer(" in type policy.document", " in a policy", " in type policy.exception", " in an exception", " in type policy.example", " in a case").Replace(text)
		r.find(where, strings.TrimPrefix(text, "yaml: "), "correct it")
	}
}

// expression is a part of a policy, in CEL.
type expression struct {
	field, text string
	gives       *types.Type
	program     cel.Program
}

// expression reads and compiles one; what stands in the node, if anything does,
// takes the place of its text.
func (r *reader) expression(field, kind string, node *yaml.Node, e *expression, gives *types.Type) {
	e.field, e.gives = field, gives
	where := r.at(field)
	lines := node.Style&yaml.LiteralStyle != 0 // the lines of the text are lines of the file
	switch {
	case node.IsZero() && e.text != "":
	case node.Kind != yaml.ScalarNode || node.Value == "":
		r.fault(field, "write an expression in CEL, with | or in quotes where YAML would take it for something else", "is no text")
		return
	default:
		e.text = node.Value
		if lines {
			where.Line++ // it begins below the |
		}
	}
	all, err := environments()
	if err != nil {
		r.find(where, field+": "+err.Error(), "tell those who make Telemesh")
		return
	}
	ast, issues := all[kind].Compile(e.text)
	for _, i := range issues.Errors() {
		at := where
		if lines {
			at.Line += max(i.Location.Line(), 1) - 1
		}
		r.find(at, field+": "+i.Message, "correct the expression: a policy for a "+kind+" sees "+strings.Join(kinds[kind], ", ")+" and mesh")
	}
	if issues.Err() != nil {
		return
	}
	if got := ast.OutputType(); !got.IsExactType(gives) && !got.IsExactType(types.DynType) {
		r.find(where, field+": gives "+cel.FormatCELType(got), "make it give "+cel.FormatCELType(gives))
		return
	}
	if e.program, err = all[kind].Program(ast, cel.CostLimit(maxCost)); err != nil {
		r.find(where, field+": "+err.Error(), "correct the expression")
	}
}

// maxCost bounds the steps that an expression takes for one object, as CEL counts
// them, so that a policy ends.
const maxCost = 10_000_000

// environments are what the expressions of policies may use, by the kind of their
// objects: CEL's own functions, its optional values, and its extensions for strings,
// lists, sets and local names.
var environments = sync.OnceValues(func() (map[string]*cel.Env, error) {
	base, err := cel.NewEnv(cel.OptionalTypes(), ext.Strings(), ext.Lists(), ext.Sets(), ext.Bindings(), ext.TwoVarComprehensions(),
		cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		ext.NativeTypes(ext.ParseStructTag("json"), reflect.TypeFor[scope](), reflect.TypeFor[Mesh]()),
		cel.Variable("mesh", cel.ObjectType("policy.Mesh")))
	if err != nil {
		return nil, err
	}
	all := map[string]*cel.Env{}
	for kind, variables := range kinds {
		var options []cel.EnvOption
		for _, name := range variables {
			options = append(options, cel.Variable(name, cel.ObjectType("policy."+strings.ToUpper(name[:1])+name[1:])))
		}
		if all[kind], err = base.Extend(options...); err != nil {
			return nil, err
		}
	}
	return all, nil
})

// value evaluates the expression.
func value[T any](e *expression, s *scope) (T, error) {
	var none T
	out, _, err := e.program.Eval(s)
	if err != nil {
		return none, fmt.Errorf("%s: %w", e.field, err)
	}
	v, ok := out.Value().(T)
	if !ok {
		return none, fmt.Errorf("%s: gives %v, which is no %s", e.field, out.Value(), cel.FormatCELType(e.gives))
	}
	return v, nil
}

// find says what is wrong with an object; empty: nothing.
func (p *Policy) find(s *scope) (string, error) {
	if applies, err := value[bool](&p.when, s); err != nil || !applies {
		return "", err
	}
	if holds, err := value[bool](&p.must, s); err != nil || holds {
		return "", err
	}
	problem, err := value[string](&p.message, s)
	if err == nil && problem == "" {
		err = errors.New("message: is empty")
	}
	return problem, err
}
