// Package formula is what expressions in CEL, https://cel.dev, may use wherever
// files of a mesh read data with them: mappings of messages, and rules that classify
// events. Each adds its own variables and functions. Which steps an expression may take
// is bounded by who runs it, with Sizes.
//
// CEL does not mix int and double, and the numbers of JSON are doubles: here 10 *
// payload.t is a double, as in JavaScript.
package formula

import (
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	celenv "github.com/google/cel-go/common/env"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/stdlib"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/ext"
)

// Environment is CEL's own functions and its extensions for optional values, strings,
// numbers, base64, lists (flatten, slice) and local names, with what is added. Not among
// them are those whose cost CEL learns too late, such as lists.range.
func Environment(more ...cel.EnvOption) (*cel.Env, error) {
	mixing := []string{operators.Add, operators.Subtract, operators.Multiply, operators.Divide}
	subset := celenv.NewLibrarySubset()
	var arithmetic []cel.EnvOption
	for _, f := range stdlib.Functions() {
		if !slices.Contains(mixing, f.Name()) {
			continue
		}
		subset.AddExcludedFunctions(celenv.NewFunction(f.Name()))
		var options []cel.FunctionOpt
		for _, o := range f.OverloadDecls() {
			options = append(options, cel.Overload(o.ID(), o.ArgTypes(), o.ResultType()))
		}
		for _, t := range []*cel.Type{cel.IntType, cel.UintType} {
			options = append(options,
				cel.Overload(f.Name()+t.String()+"_double", []*cel.Type{t, cel.DoubleType}, cel.DoubleType),
				cel.Overload(f.Name()+"double_"+t.String(), []*cel.Type{cel.DoubleType, t}, cel.DoubleType))
		}
		options = append(options, cel.SingletonBinaryBinding(calculate(f.Name())))
		arithmetic = append(arithmetic, cel.Function(f.Name(), options...))
	}
	options := append([]cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(subset)),
		cel.OptionalTypes(), ext.Strings(), ext.Math(), ext.Encoders(), ext.Lists(ext.ListsVersion(1)), ext.Bindings(),
		cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
	}, arithmetic...)
	return cel.NewCustomEnv(append(options, more...)...)
}

// calculate is an operator of CEL for two numbers of different types too.
func calculate(operator string) func(a, b ref.Val) ref.Val {
	return func(a, b ref.Val) ref.Val {
		if IsNumber(a) && IsNumber(b) && a.Type() != b.Type() && (a.Type() == types.DoubleType || b.Type() == types.DoubleType) {
			a, b = a.ConvertToType(types.DoubleType), b.ConvertToType(types.DoubleType)
		}
		var result ref.Val
		if a.Type() == b.Type() || isTime(a) || isTime(b) {
			result = operate(operator, a, b)
		}
		if result == nil {
			return types.NewErr("%s %s %s cannot be calculated", Called(a), strings.Trim(operator, "_"), Called(b))
		}
		return result
	}
}

// operate gives nil where the type of a has no such operator.
func operate(operator string, a, b ref.Val) ref.Val {
	switch operator {
	case operators.Add:
		if a, ok := a.(traits.Adder); ok {
			return a.Add(b)
		}
	case operators.Subtract:
		if a, ok := a.(traits.Subtractor); ok {
			return a.Subtract(b)
		}
	case operators.Multiply:
		if a, ok := a.(traits.Multiplier); ok {
			return a.Multiply(b)
		}
	case operators.Divide:
		if a, ok := a.(traits.Divider); ok {
			return a.Divide(b)
		}
	}
	return nil
}

// Sizes counts what functions of the extensions and lists take; what it does
// not count is counted by CEL.
type Sizes struct{}

// CallCost makes it an interpreter.ActualCostEstimator.
func (Sizes) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	if strings.HasPrefix(function, "_") || strings.HasPrefix(function, "@") || function == "matches" {
		return nil
	}
	cost := uint64(1)
	for _, v := range append(slices.Clone(args), result) {
		switch v := v.(type) {
		case types.String:
			cost += uint64(len(v)) / 10
		case types.Bytes:
			cost += uint64(len(v)) / 10
		case traits.Lister:
			cost += uint64(v.Size().(types.Int))
		}
	}
	return &cost
}

// Unwrap gives what an optional value has; none is null.
func Unwrap(v ref.Val) ref.Val {
	for {
		o, ok := v.(*types.Optional)
		if !ok {
			return v
		}
		if !o.HasValue() {
			return types.NullValue
		}
		v = o.GetValue()
	}
}

// IsNumber says whether v is a double, an int or a uint.
func IsNumber(v ref.Val) bool {
	switch v.(type) {
	case types.Double, types.Int, types.Uint:
		return true
	}
	return false
}

func isTime(v ref.Val) bool {
	switch v.(type) {
	case types.Timestamp, types.Duration:
		return true
	}
	return false
}

// Called names the type of a value as people who write formulas do.
func Called(v ref.Val) string {
	switch v.(type) {
	case types.Null:
		return "null"
	case types.Bool:
		return "a boolean"
	case types.Double, types.Int, types.Uint:
		return "a number"
	case types.String:
		return "a string"
	case types.Bytes:
		return "bytes"
	case types.Timestamp:
		return "a timestamp"
	case types.Duration:
		return "a duration"
	case traits.Mapper:
		return "a map"
	case traits.Lister:
		return "a list"
	}
	return "a " + v.Type().TypeName()
}
