package lineage

import (
	"slices"
	"strings"

	"github.com/cloudspannerecosystem/memefish/ast"
)

// parted are functions whose last argument is the name of a part of a date.
var parted = []string{
	"TIMESTAMP_TRUNC", "DATE_TRUNC", "DATETIME_TRUNC", "TIME_TRUNC",
	"TIMESTAMP_DIFF", "DATE_DIFF", "DATETIME_DIFF", "TIME_DIFF", "LAST_DAY",
}

// dateParts are these names. https://cloud.google.com/bigquery/docs/reference/standard-sql/timestamp_functions
var dateParts = []string{
	"MICROSECOND", "MILLISECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "ISOWEEK", "MONTH", "QUARTER", "YEAR", "ISOYEAR",
}

// expr gives the columns that the value of an expression is made of.
func (r *reader) expr(e ast.Expr, s *scope) (set, error) {
	all := func(parts ...ast.Expr) (set, error) {
		out := set{}
		for _, part := range parts {
			if err := r.decides(part, s, out); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	switch e := e.(type) {
	case *ast.Ident:
		f, err := r.resolve(e, []*ast.Ident{e}, s)
		return f.from, err
	case *ast.Path:
		f, err := r.resolve(e, e.Idents, s)
		return f.from, err
	case *ast.NullLiteral, *ast.BoolLiteral, *ast.IntLiteral, *ast.FloatLiteral, *ast.StringLiteral, *ast.BytesLiteral, *ast.DateLiteral,
		*ast.TimestampLiteral, *ast.NumericLiteral, *ast.JSONLiteral, *ast.IntervalLiteralRange, *ast.CountStarExpr:
		return nil, nil
	case *ast.IntervalLiteralSingle:
		if value, ok := e.Value.(ast.Expr); ok {
			return all(value)
		}
		return nil, r.unknown(e)
	case *ast.ParenExpr:
		return all(e.Expr)
	case *ast.UnaryExpr:
		return all(e.Expr)
	case *ast.BinaryExpr:
		return all(e.Left, e.Right)
	case *ast.IsNullExpr:
		return all(e.Left)
	case *ast.IsBoolExpr:
		return all(e.Left)
	case *ast.BetweenExpr:
		return all(e.Left, e.RightStart, e.RightEnd)
	case *ast.CastExpr:
		return all(e.Expr)
	case *ast.ExtractExpr:
		if e.AtTimeZone != nil {
			return all(e.Expr, e.AtTimeZone.Expr)
		}
		return all(e.Expr)
	case *ast.IfExpr:
		return all(e.Expr, e.TrueResult, e.ElseResult)
	case *ast.CaseExpr:
		var parts []ast.Expr
		if e.Expr != nil {
			parts = append(parts, e.Expr)
		}
		for _, when := range e.Whens {
			parts = append(parts, when.Cond, when.Then)
		}
		if e.Else != nil {
			parts = append(parts, e.Else.Expr)
		}
		return all(parts...)
	case *ast.SelectorExpr:
		return all(e.Expr)
	case *ast.IndexExpr:
		return r.index(e, s)
	case *ast.ArrayLiteral:
		return all(e.Values...)
	case *ast.TupleStructLiteral:
		return all(e.Values...)
	case *ast.TypedStructLiteral:
		return all(e.Values...)
	case *ast.TypelessStructLiteral:
		var parts []ast.Expr
		for _, value := range e.Values {
			switch value := value.(type) {
			case *ast.ExprArg:
				parts = append(parts, value.Expr)
			case *ast.Alias:
				parts = append(parts, value.Expr)
			default:
				return nil, r.unknown(value)
			}
		}
		return all(parts...)
	case *ast.InExpr:
		return r.in(e, s)
	case *ast.ScalarSubQuery:
		return r.subquery(e.Query, s)
	case *ast.ArraySubQuery:
		return r.subquery(e.Query, s)
	case *ast.ExistsSubQuery:
		out, err := r.query(e.Query, s)
		return out.rows, err
	case *ast.WithExpr:
		inner := s.inner()
		for _, v := range e.Vars {
			f, err := r.field(v.Expr, inner)
			if err != nil {
				return nil, err
			}
			f.name = v.Name.Name
			inner.merged = append(inner.merged, f)
		}
		return r.expr(e.Expr, inner)
	case *ast.CallExpr:
		return r.call(e, s)
	}
	return nil, r.unknown(e)
}

// subquery gives what the value of a query is made of: its columns, and what
// decides its rows.
func (r *reader) subquery(q ast.QueryExpr, s *scope) (set, error) {
	out, err := r.query(q, s)
	if err != nil {
		return nil, err
	}
	from := set{}.add(out.rows)
	for _, f := range out.fields {
		from.add(f.from)
	}
	return from, nil
}

func (r *reader) index(e *ast.IndexExpr, s *scope) (set, error) {
	out := set{}
	if err := r.decides(e.Expr, s, out); err != nil {
		return nil, err
	}
	switch at := e.Index.(type) {
	case *ast.ExprArg:
		return out, r.decides(at.Expr, s, out)
	case *ast.SubscriptSpecifierKeyword:
		return out, r.decides(at.Expr, s, out)
	}
	return nil, r.unknown(e.Index)
}

func (r *reader) in(e *ast.InExpr, s *scope) (set, error) {
	out := set{}
	if err := r.decides(e.Left, s, out); err != nil {
		return nil, err
	}
	switch right := e.Right.(type) {
	case *ast.ValuesInCondition:
		for _, value := range right.Exprs {
			if err := r.decides(value, s, out); err != nil {
				return nil, err
			}
		}
		return out, nil
	case *ast.UnnestInCondition:
		return out, r.decides(right.Expr, s, out)
	case *ast.SubQueryInCondition:
		from, err := r.subquery(right.Query, s)
		return out.add(from), err
	}
	return nil, r.unknown(e.Right)
}

func (r *reader) call(e *ast.CallExpr, s *scope) (set, error) {
	out := set{}
	function := strings.ToUpper(e.Func.Idents[len(e.Func.Idents)-1].Name)
	for i, arg := range e.Args {
		value, ok := arg.(*ast.ExprArg)
		if !ok {
			return nil, r.unknown(arg)
		}
		if name, ok := value.Expr.(*ast.Ident); ok && i == len(e.Args)-1 && i > 0 && slices.Contains(parted, function) &&
			slices.Contains(dateParts, strings.ToUpper(name.Name)) {
			continue
		}
		if err := r.decides(value.Expr, s, out); err != nil {
			return nil, err
		}
	}
	for _, arg := range e.NamedArgs {
		if err := r.decides(arg.Value, s, out); err != nil {
			return nil, err
		}
	}
	switch having := e.Having.(type) {
	case nil:
	case *ast.HavingMax:
		if err := r.decides(having.Expr, s, out); err != nil {
			return nil, err
		}
	case *ast.HavingMin:
		if err := r.decides(having.Expr, s, out); err != nil {
			return nil, err
		}
	default:
		return nil, r.unknown(having)
	}
	if e.OrderBy != nil {
		by, err := r.order(e.OrderBy, s)
		if err != nil {
			return nil, err
		}
		out.add(by)
	}
	return out, nil
}
