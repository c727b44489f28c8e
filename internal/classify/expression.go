package classify

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/formula"
	"github.com/telemesh/telemesh/internal/mesh"
)

// maxCost bounds the steps that one expression takes for one record, as CEL counts them:
// steps and not time, so that a record that comes again ends as before. A payment may
// have thousands of outputs.
const maxCost = 1_000_000

// What expressions may give.
var (
	lists   = []types.Kind{types.ListKind}
	truths  = []types.Kind{types.BoolKind}
	numbers = []types.Kind{types.DoubleKind, types.IntKind, types.UintKind}
	times   = []types.Kind{types.StringKind, types.TimestampKind}
)

// What expressions see.
const (
	overEvents  = false // data and event
	overRecords = true  // and record
)

// environments are what formulas may use, by whether they see a record.
var environments = sync.OnceValues(func() (envs map[bool]*cel.Env, err error) {
	base, err := formula.Environment(
		cel.Variable("data", cel.DynType),
		cel.Variable("event", cel.MapType(cel.StringType, cel.StringType)),
		cel.Function("sum", cel.Overload("sum_list", []*cel.Type{cel.ListType(cel.DynType)}, cel.DoubleType, cel.UnaryBinding(sum))),
	)
	if err != nil {
		return nil, err
	}
	over, err := base.Extend(cel.Variable("record", cel.DynType))
	return map[bool]*cel.Env{overEvents: base, overRecords: over}, err
})

// sum is sum(list) of numbers.
func sum(v ref.Val) ref.Val {
	list, ok := v.(traits.Lister)
	if !ok {
		return types.NewErr("sum: %s is no list", formula.Called(v))
	}
	total := 0.0
	for i := range int(list.Size().(types.Int)) {
		n, ok := asNumber(formula.Unwrap(list.Get(types.Int(i))))
		if !ok {
			return types.NewErr("sum: element %d is %s, not a number", i, formula.Called(list.Get(types.Int(i))))
		}
		total += n
	}
	return types.Double(total)
}

func asNumber(v ref.Val) (float64, bool) {
	switch v := v.(type) {
	case types.Double:
		return float64(v), true
	case types.Int:
		return float64(v), true
	case types.Uint:
		return float64(v), true
	}
	return 0, false
}

// expression is a part of a rule. A nil one is a part that is not there.
type expression struct {
	field   string
	file    string
	line    int
	kinds   []types.Kind
	ast     *cel.Ast
	program cel.Program
	// guards are what has to be so for a formula to be true that begins with record.a ==
	// "text" && …: most records are passed over without CEL.
	guards []guard
	// way is what a formula that only follows members follows, from data or record on:
	// that needs no CEL. nil: it does more.
	way []string
}

// formula reads and compiles an expression; nil: the node is none, or no formula.
func (r *reader) formula(field string, node *yaml.Node, over bool, kinds []types.Kind) *expression {
	if node.IsZero() {
		return nil
	}
	if node.Kind != yaml.ScalarNode || node.Value == "" {
		r.fault(node.Line, "%s: is no text: write a formula in CEL, with | or in quotes where YAML would take it for something else", field)
		return nil
	}
	e := &expression{field: field, file: r.file, line: node.Line, kinds: kinds}
	lines := node.Style&yaml.LiteralStyle != 0
	if lines {
		e.line++ // the text begins below the |
	}
	envs, err := environments()
	if err != nil {
		r.fault(e.line, "%s: %w", field, err)
		return nil
	}
	compiled, issues := envs[over].Compile(node.Value)
	for _, i := range issues.Errors() {
		line := e.line
		if lines {
			line += max(i.Location.Line(), 1) - 1
		}
		r.fault(line, "%s: %s", field, i.Message)
	}
	if issues.Err() != nil {
		return nil
	}
	// Of an optional or a dyn only the value tells.
	if k := compiled.OutputType().Kind(); k != types.DynKind && k != types.OpaqueKind && !slices.Contains(kinds, k) {
		r.fault(e.line, "%s: gives %s: it has to be %s", field, cel.FormatCELType(compiled.OutputType()), wanted(kinds))
		return nil
	}
	e.ast, e.way, e.guards = compiled, way(compiled.NativeRep().Expr()), guards(compiled.NativeRep().Expr())
	if e.program, err = envs[over].Program(compiled, cel.CostLimit(maxCost), cel.CostTracking(formula.Sizes{}), cel.EvalOptions(cel.OptOptimize)); err != nil {
		r.fault(e.line, "%s: %w", field, err)
	}
	return e
}

func wanted(kinds []types.Kind) string {
	switch kinds[0] {
	case types.ListKind:
		return "a list"
	case types.BoolKind:
		return "true or false"
	case types.StringKind:
		return "a time: RFC 3339 as a string, or a timestamp"
	}
	return "a number"
}

// way gives the names of data.a.b or record.a, the variable first; nil: it is something else.
func way(e ast.Expr) []string {
	switch e.Kind() {
	case ast.IdentKind:
		if e.AsIdent() != "event" {
			return []string{e.AsIdent()}
		}
	case ast.SelectKind:
		if s := e.AsSelect(); !s.IsTestOnly() {
			if before := way(s.Operand()); before != nil {
				return append(before, s.FieldName())
			}
		}
	}
	return nil
}

// guard is a member of the record that has to be a text.
type guard struct{ member, text string }

// guards gives those that all have to hold. CEL's && is false where one side is, whatever
// the other one is, an error included.
func guards(e ast.Expr) []guard {
	if e.Kind() != ast.CallKind {
		return nil
	}
	args := e.AsCall().Args()
	switch e.AsCall().FunctionName() {
	case operators.LogicalAnd:
		return append(guards(args[0]), guards(args[1])...)
	case operators.Equals:
		if w := way(args[0]); len(w) == 2 && w[0] == "record" && args[1].Kind() == ast.LiteralKind {
			if text, ok := args[1].AsLiteral().(types.String); ok {
				return []guard{{w[1], string(text)}}
			}
		}
	}
	return nil
}

// shut says that the member is another text.
func (g guard) shut(record *object) bool {
	text := record.find(g.member)
	return len(text) > 0 && text[0] == '"' && string(text[1:len(text)-1]) != g.text && unquoted(text) != g.text
}

// column gives the member of the record that e is, if that is all it does.
func (e *expression) column() (string, bool) {
	if e == nil || len(e.way) != 2 || e.way[0] != "record" {
		return "", false
	}
	return e.way[1], true
}

// columns gives the members of a record that e looks at. It fails where a table's row
// does not do for what e looks at.
func (e *expression) columns() (columns []string, err error) {
	if e == nil {
		return nil, nil
	}
	named := 0
	root := ast.NavigateAST(e.ast.NativeRep())
	all := ast.MatchDescendants(root, ast.AllMatcher())
	isRecord := func(e ast.Expr) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == "record" }
	for _, n := range all {
		switch n.Kind() {
		case ast.SelectKind:
			if s := n.AsSelect(); isRecord(s.Operand()) {
				columns = append(columns, s.FieldName())
				named++
			}
		case ast.CallKind:
			c := n.AsCall()
			if c.FunctionName() == operators.OptSelect && isRecord(c.Args()[0]) && c.Args()[1].Kind() == ast.LiteralKind {
				columns = append(columns, fmt.Sprint(c.Args()[1].AsLiteral().Value()))
				named++
			}
		}
	}
	for _, n := range all {
		switch {
		case isRecord(n):
			named--
		case n.Kind() == ast.IdentKind && (n.AsIdent() == "data" || n.AsIdent() == "event"):
			err = fmt.Errorf("sees %s, which records of the history do not have: look at the record alone", n.AsIdent())
		}
	}
	if named != 0 {
		err = errors.New("looks at the record as a whole: with a history it has to name its members, as in record.value")
	}
	return columns, err
}

// scope is what expressions see: the data of an event, one of its records, and the
// attributes of the event.
type scope struct {
	data, record ref.Val
	event        map[string]string
}

// ResolveName and Parent make it a cel.Activation.
func (s *scope) ResolveName(name string) (any, bool) {
	switch name {
	case "data":
		return s.data, s.data != nil
	case "record":
		return s.record, s.record != nil
	case "event":
		return s.event, true
	}
	return nil, false
}

// Parent is none.
func (s *scope) Parent() cel.Activation { return nil }

// maxCause, in bytes, of what CEL says: it may repeat a text of the record.
const maxCause = 300

// value gives what e gives; what is missing is null, or an error of CEL.
func (e *expression) value(s *scope) (ref.Val, error) {
	if e.way != nil {
		return e.follow(s)
	}
	v, _, err := e.program.Eval(s)
	if err != nil {
		text := err.Error()
		if len(text) > maxCause {
			text = strings.ToValidUTF8(text[:maxCause], "") + "…"
		}
		return nil, e.cause(errors.New(text))
	}
	return formula.Unwrap(v), nil
}

func (e *expression) follow(s *scope) (ref.Val, error) {
	v, _ := s.ResolveName(e.way[0])
	at := v.(ref.Val)
	for _, name := range e.way[1:] {
		m, ok := at.(traits.Mapper)
		if !ok {
			return nil, e.cause(fmt.Errorf("%s is %s, which has no member %s", e.way[0], formula.Called(at), name))
		}
		if at, ok = m.Find(types.String(name)); !ok {
			return nil, e.cause(fmt.Errorf("no such key: %s", name))
		}
	}
	return at, nil
}

// cause says which part of the rule an error is of, and where that stands.
func (e *expression) cause(err error) error {
	return fmt.Errorf("%s (%s:%d): %w", e.field, e.file, e.line, err)
}

func (e *expression) is(v ref.Val) error {
	return e.cause(fmt.Errorf("gives %s, not %s", formula.Called(v), wanted(e.kinds)))
}

func (e *expression) truth(s *scope) (bool, error) {
	if record, ok := s.record.(*object); ok && slices.ContainsFunc(e.guards, func(g guard) bool { return g.shut(record) }) {
		return false, nil
	}
	v, err := e.value(s)
	if err != nil {
		return false, err
	}
	if v, ok := v.(types.Bool); ok {
		return bool(v), nil
	}
	return false, e.is(v)
}

func (e *expression) number(s *scope) (float64, error) {
	v, err := e.value(s)
	if err != nil {
		return 0, err
	}
	n, ok := asNumber(v)
	if !ok {
		return 0, e.is(v)
	}
	if math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, e.cause(fmt.Errorf("gives %v", n))
	}
	return n, nil
}

func (e *expression) instant(s *scope) (mesh.Instant, error) {
	v, err := e.value(s)
	if err != nil {
		return 0, err
	}
	switch v := v.(type) {
	case types.Timestamp:
		return mesh.At(v.Time), nil
	case types.String:
		at, err := mesh.ParseInstant(string(v))
		if err != nil {
			return 0, e.cause(err)
		}
		return at, nil
	}
	return 0, e.is(v)
}
