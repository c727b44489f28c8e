package device

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"github.com/telemesh/telemesh/internal/formula"
)

// maxCost bounds the steps that the expressions of a mapping take for one
// message, as CEL counts them. Steps and not time, so that a message that is
// sent again ends as before.
const maxCost = 100_000

// expression is a part of a mapping, in CEL.
type expression struct {
	field string
	text  string
	kinds []types.Kind // what it may give
	each  bool         // it sees it
	file  string
	line  int  // of file, where text begins
	lines bool // the lines of text are lines of file

	ast     *cel.Ast
	program cel.Program
}

// place is file and line of a line of the text, the first is 1.
func (e *expression) place(line int) string {
	if !e.lines || line < 1 {
		line = 1
	}
	return fmt.Sprintf("%s:%d", e.file, e.line+line-1)
}

// cause says which part of the mapping an error is of, and where that stands.
func (e *expression) cause(err error) error { return e.causeAt(1, err) }

func (e *expression) causeAt(line int, err error) error {
	return &expressionError{e.field, e.place(line), err}
}

// is says that v is not what e should give.
func (e *expression) is(v ref.Val, want string) error {
	return e.cause(fmt.Errorf("gives %s, not %s", formula.Called(v), want))
}

type expressionError struct {
	field, place string
	err          error
}

func (e *expressionError) Error() string { return fmt.Sprintf("%s (%s): %s", e.field, e.place, e.err) }
func (e *expressionError) Unwrap() error { return e.err }

func (e *expression) compile() error {
	env, err := environment()
	if err == nil && e.each {
		env, err = env.Extend(cel.Variable("it", cel.DynType))
	}
	if err != nil {
		return e.cause(err)
	}
	ast, issues := env.Compile(e.text)
	if issues.Err() != nil {
		var errs []error
		for _, i := range issues.Errors() {
			errs = append(errs, e.causeAt(i.Location.Line(), errors.New(i.Message)))
		}
		return errors.Join(errs...)
	}
	// Of an optional or a dyn only the value tells.
	if k := ast.OutputType().Kind(); k != types.DynKind && k != types.OpaqueKind && !slices.Contains(e.kinds, k) {
		return e.cause(fmt.Errorf("gives %s: it has to be %s", cel.FormatCELType(ast.OutputType()), kindNames(e.kinds)))
	}
	e.ast = ast
	if e.program, err = env.Program(ast, cel.CostLimit(maxCost), cel.CostTracking(formula.Sizes{}), cel.EvalOptions(cel.OptOptimize)); err != nil {
		return e.cause(err)
	}
	return nil
}

func kindNames(kinds []types.Kind) string {
	var names []string
	for _, k := range kinds {
		names = append(names, map[types.Kind]string{
			types.BoolKind: "bool", types.ListKind: "list", types.MapKind: "map", types.StringKind: "string", types.DoubleKind: "double",
			types.IntKind: "int", types.UintKind: "uint", types.TimestampKind: "timestamp", types.NullTypeKind: "null",
		}[k])
	}
	return strings.Join(names, ", ")
}

// environment is what formulas may use, and what only messages have.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return formula.Environment(
		cel.Variable("payload", cel.DynType),
		cel.Variable("attributes", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("received_at", cel.TimestampType),
		cel.Function("hex.decode", cel.Overload("hex_decode_string", []*cel.Type{cel.StringType}, cel.BytesType, cel.UnaryBinding(decodeHex))),
		cel.Function("number", cel.MemberOverload("bytes_number_int_string",
			[]*cel.Type{cel.BytesType, cel.IntType, cel.StringType}, cel.DoubleType, cel.FunctionBinding(numberOf))),
	)
})

func decodeHex(v ref.Val) ref.Val {
	b, err := hex.DecodeString(string(v.(types.String)))
	if err != nil {
		return types.NewErr("hex.decode: %v", err)
	}
	return types.Bytes(b)
}

// numberOf is BYTES.number(from, kind): the number that stands there in a form
// such as u16be: unsigned, signed or a float, bits, big or little endian.
func numberOf(args ...ref.Val) ref.Val {
	b, from, kind := []byte(args[0].(types.Bytes)), int64(args[1].(types.Int)), string(args[2].(types.String))
	bits, form := 0, byte(0)
	if len(kind) > 1 {
		form = kind[0]
		bits, _ = strconv.Atoi(strings.TrimRight(kind[1:], "bel"))
	}
	order := strings.TrimPrefix(kind[min(1, len(kind)):], strconv.Itoa(bits))
	switch {
	case form != 'u' && form != 's' && form != 'f', form == 'f' && bits != 32 && bits != 64,
		bits%8 != 0 || bits < 8 || bits > 64, order != "be" && order != "le" && (order != "" || bits > 8):
		return types.NewErr("number: %s is none of u8, s8, u16be, s16le, … u64le, f32be, f64le", quote(kind))
	case from < 0 || from+int64(bits/8) > int64(len(b)):
		return types.NewErr("number: %s at %d is beyond the %d bytes there are", kind, from, len(b))
	}
	at := slices.Clone(b[from : from+int64(bits/8)])
	if order == "le" {
		slices.Reverse(at)
	}
	var u uint64
	for _, c := range at {
		u = u<<8 | uint64(c)
	}
	switch {
	case form == 'u':
		return types.Double(u)
	case form == 's':
		return types.Double(int64(u<<(64-bits)) >> (64 - bits))
	case bits == 32:
		return types.Double(math.Float32frombits(uint32(u)))
	}
	return types.Double(math.Float64frombits(u))
}

// scope is what an expression sees of a message.
type scope struct {
	p    *Parser
	d    *document
	root int32   // payload
	it   ref.Val // the element of each

	cost   uint64
	values map[int32]ref.Val // containers of d that were asked for
}

// ResolveName and Parent make it a cel.Activation.
func (s *scope) ResolveName(name string) (any, bool) {
	switch name {
	case "payload":
		return s.value(s.root), true
	case "it":
		return s.it, s.it != nil
	case "attributes":
		return s.p.m.Attributes, true
	case "received_at":
		return types.Timestamp{Time: s.p.m.ReceivedAt.Time()}, true
	}
	return nil, false
}

func (s *scope) Parent() cel.Activation { return nil }

// evaluate gives the value of e; one that is missing is null.
func (s *scope) evaluate(e *expression) (ref.Val, error) {
	v, details, err := e.program.Eval(s)
	if details != nil && details.ActualCost() != nil {
		s.cost += *details.ActualCost()
	}
	if s.cost > maxCost {
		return nil, e.cause(fmt.Errorf("the message takes more than %d steps", maxCost))
	}
	if err != nil {
		line := 1
		if at := (*types.Err)(nil); errors.As(err, &at) {
			line = e.ast.NativeRep().SourceInfo().GetStartLocation(at.NodeID()).Line()
		}
		return nil, e.causeAt(line, errors.New(abridged(err.Error())))
	}
	return formula.Unwrap(v), nil
}

// maxCause, in bytes, of what CEL says: it may repeat a text of the message.
const maxCause = 300

func abridged(s string) string {
	if len(s) > maxCause {
		return strings.ToValidUTF8(s[:maxCause], "") + "…"
	}
	return s
}

// value is JSON value i in CEL. A number is a double; only a whole one beyond
// 2⁵³, of which a double does not hold each, is an int.
func (s *scope) value(i int32) ref.Val {
	d := s.d
	switch d.kind(i) {
	case null:
		return types.NullValue
	case boolean:
		return types.Bool(d.raw(i)[0] == 't')
	case number:
		f, _ := parseNumber(d.raw(i))
		if math.Abs(f) >= 1<<53 {
			if n, err := strconv.ParseInt(string(d.raw(i)), 10, 64); err == nil {
				return types.Int(n)
			}
		}
		return types.Double(f)
	case text:
		return types.String(s.p.text(d.chars(i)))
	}
	if v, ok := s.values[i]; ok {
		return v
	}
	var v ref.Val
	if d.kind(i) == object {
		v = newJSONObject(s, i)
	} else {
		var elements []ref.Val
		for c := i + 1; c < d.end(i); c = d.end(c) {
			elements = append(elements, s.value(c))
		}
		v = types.NewRefValList(types.DefaultTypeAdapter, elements)
	}
	if s.values == nil {
		s.values = map[int32]ref.Val{}
	}
	s.values[i] = v
	return v
}

// jsonObject is an object of a payload as a map of CEL. What is not asked for
// is not made, and one that is a result is read as the JSON it is.
type jsonObject struct {
	s     *scope
	i     int32
	size  int
	index map[string]int32 // of one with many members
}

func newJSONObject(s *scope, i int32) *jsonObject {
	o := &jsonObject{s: s, i: i}
	for c := i + 1; c < s.d.end(i); c = s.d.end(c) {
		o.size++
	}
	if o.size > 16 {
		o.index = make(map[string]int32, o.size)
		for c := i + 1; c < s.d.end(i); c = s.d.end(c) {
			o.index[string(s.d.name(c))] = c
		}
	}
	return o
}

func (o *jsonObject) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	if o.index != nil {
		c, ok := o.index[string(name)]
		if !ok {
			return nil, false
		}
		return o.s.value(c), true
	}
	d := o.s.d
	for c := o.i + 1; c < d.end(o.i); c = d.end(c) {
		if string(d.name(c)) == string(name) {
			return o.s.value(c), true
		}
	}
	return nil, false
}

func (o *jsonObject) Get(key ref.Val) ref.Val {
	if v, ok := o.Find(key); ok {
		return v
	}
	return types.NewErr("no such key: %v", key.Value())
}

func (o *jsonObject) Contains(key ref.Val) ref.Val {
	_, ok := o.Find(key)
	return types.Bool(ok)
}

func (o *jsonObject) Size() ref.Val { return types.Int(o.size) }

func (o *jsonObject) names() []ref.Val {
	names := make([]ref.Val, 0, o.size)
	for c := o.i + 1; c < o.s.d.end(o.i); c = o.s.d.end(c) {
		names = append(names, types.String(o.s.d.name(c)))
	}
	return names
}

func (o *jsonObject) Iterator() traits.Iterator {
	return types.NewRefValList(types.DefaultTypeAdapter, o.names()).Iterator()
}

// plain is o as a map that CEL made itself.
func (o *jsonObject) plain() traits.Mapper {
	m := make(map[ref.Val]ref.Val, o.size)
	for _, name := range o.names() {
		m[name] = o.Get(name)
	}
	return types.NewRefValMap(types.DefaultTypeAdapter, m)
}

func (o *jsonObject) ConvertToNative(t reflect.Type) (any, error) {
	return o.plain().ConvertToNative(t)
}
func (o *jsonObject) ConvertToType(t ref.Type) ref.Val { return o.plain().ConvertToType(t) }
func (o *jsonObject) Equal(other ref.Val) ref.Val      { return o.plain().Equal(other) }
func (o *jsonObject) Type() ref.Type                   { return types.MapType }
func (o *jsonObject) Value() any                       { return o }

// members calls f with each member of map v, in the order of the names. An
// optional value that is none is no member.
func members(e *expression, v ref.Val, f func(name string, v ref.Val) error) error {
	type member struct {
		name  string
		value ref.Val
	}
	var all []member
	m := v.(traits.Mapper)
	for it := m.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, ok := key.(types.String)
		if !ok {
			return e.cause(fmt.Errorf("gives a map with the name %v: names are strings", key.Value()))
		}
		value := m.Get(key)
		if o, ok := value.(*types.Optional); ok && !o.HasValue() {
			continue
		}
		all = append(all, member{string(name), formula.Unwrap(value)})
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	for _, m := range all {
		if err := f(m.name, m.value); err != nil {
			return err
		}
	}
	return nil
}

func isFinite(v ref.Val) bool {
	f, ok := v.(types.Double)
	return !ok || !math.IsNaN(float64(f)) && !math.IsInf(float64(f), 0)
}

// appendNumber writes a number without exponent.
func appendNumber(b []byte, v ref.Val) []byte {
	switch v := v.(type) {
	case types.Int:
		return strconv.AppendInt(b, int64(v), 10)
	case types.Uint:
		return strconv.AppendUint(b, uint64(v), 10)
	}
	return strconv.AppendFloat(b, float64(v.(types.Double)), 'f', -1, 64)
}

// appendJSON writes v.
func (s *scope) appendJSON(e *expression, b []byte, v ref.Val) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case *jsonObject:
		return append(b, s.d.raw(v.i)...), nil
	case types.Null:
		return append(b, "null"...), nil
	case types.Bool:
		return strconv.AppendBool(b, bool(v)), nil
	case types.Double, types.Int, types.Uint:
		if !isFinite(v) {
			return append(b, "null"...), nil
		}
		return appendNumber(b, v), nil
	case types.String:
		if b, err = jsontext.AppendQuote(b, string(v)); err != nil {
			return b, e.cause(err)
		}
		return b, nil
	case traits.Mapper:
		b = append(b, '{')
		err = members(e, v, func(name string, v ref.Val) error {
			if b[len(b)-1] != '{' {
				b = append(b, ',')
			}
			if b, err = jsontext.AppendQuote(b, name); err != nil {
				return e.cause(err)
			}
			b, err = s.appendJSON(e, append(b, ':'), v)
			return err
		})
		return append(b, '}'), err
	case traits.Lister:
		b = append(b, '[')
		for i := range int(v.Size().(types.Int)) {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = s.appendJSON(e, b, formula.Unwrap(v.Get(types.Int(i)))); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	}
	return b, e.cause(fmt.Errorf("%s is no JSON: make a number, a boolean or a string of it", formula.Called(v)))
}
