package lineage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cloudspannerecosystem/memefish"
	"github.com/cloudspannerecosystem/memefish/ast"
	"github.com/cloudspannerecosystem/memefish/token"
)

// Answer is what a query gives.
type Answer struct {
	Columns []Output
	// Rows are the columns that decide which rows there are: by ON, USING, WHERE,
	// GROUP BY, HAVING, DISTINCT, INTERSECT, EXCEPT and ORDER BY with LIMIT.
	Rows []Column
}

// Output is a column of an answer.
type Output struct {
	Name string // empty: the query gives it none
	From []Column
	// Same is the one column whose values these are, unchanged; the zero Column:
	// they are made.
	Same Column
}

// Query reads a query in GoogleSQL. columns gives those of a table, in their
// order, and whether there is such a table. The file is for errors: what the
// query says that is not understood here is one, with its line.
func Query(file, sql string, columns func(table string) ([]string, bool)) (*Answer, error) {
	sql, err := readable(file, sql)
	if err != nil {
		return nil, err
	}
	statement, err := memefish.ParseQuery(file, sql)
	if err != nil {
		return nil, fmt.Errorf("read query: %w", err)
	}
	r := &reader{file: token.File{FilePath: file, Buffer: sql}, tables: columns}
	out, err := r.query(statement.Query, &scope{})
	if err != nil {
		return nil, err
	}
	a := &Answer{Rows: out.rows.sorted()}
	for _, f := range out.fields {
		a.Columns = append(a.Columns, Output{f.name, f.from.sorted(), f.same})
	}
	return a, nil
}

// readable writes IS [NOT] DISTINCT FROM as = : the parser, whose dialect is
// Spanner's, does not know the comparison, which has the precedence of =, and is
// about the same columns. Places stay what they are.
func readable(file, sql string) (string, error) {
	lexer := &memefish.Lexer{File: &token.File{FilePath: file, Buffer: sql}}
	var last []token.Token
	out := []byte(sql)
	for {
		if err := lexer.NextToken(); err != nil {
			return "", fmt.Errorf("read query: %w", err)
		}
		if lexer.Token.Kind == token.TokenEOF {
			return string(out), nil
		}
		last = append(last, lexer.Token)
		from := len(last)
		for _, want := range []token.TokenKind{"FROM", "DISTINCT", "NOT", "IS"} {
			if from > 0 && last[from-1].Kind == want {
				from--
			} else if want != "NOT" {
				from = -1
				break
			}
		}
		if from < 0 {
			continue
		}
		for at := last[from].Pos; at < lexer.Token.End; at++ {
			if out[at] != '\n' {
				out[at] = ' '
			}
		}
		out[last[from].Pos] = '='
	}
}

// set is columns of tables.
type set map[Column]bool

func (s set) add(others ...set) set {
	for _, other := range others {
		for c := range other {
			s[c] = true
		}
	}
	return s
}

func (s set) sorted() []Column {
	var all []Column
	for c := range s {
		all = append(all, c)
	}
	slices.SortFunc(all, compare)
	return all
}

// field is a column that can be named, and the columns of tables it is made of.
type field struct {
	name string
	from set
	same Column
}

// relation is what stands in FROM, or what a query gives.
type relation struct {
	fields []field
	rows   set
}

// source is a relation under its name.
type source struct {
	name string
	relation
}

// scope is what names mean at a place of a query.
type scope struct {
	sources []source
	merged  []field             // by USING: they have no source's name
	with    map[string]relation // what WITH names
	outer   *scope              // of the query that this one stands in
}

func (s *scope) inner() *scope { return &scope{outer: s} }

// named finds what WITH gives a name.
func (s *scope) named(name string) (relation, bool) {
	for ; s != nil; s = s.outer {
		if r, ok := s.with[strings.ToLower(name)]; ok {
			return r, true
		}
	}
	return relation{}, false
}

// fields gives what * stands for.
func (s *scope) fields() []field {
	all := slices.Clone(s.merged)
	for _, from := range s.sources {
		for _, f := range from.fields {
			if find(s.merged, f.name) == nil {
				all = append(all, f)
			}
		}
	}
	return all
}

func find(fields []field, name string) *field {
	for i := range fields {
		if strings.EqualFold(fields[i].name, name) {
			return &fields[i]
		}
	}
	return nil
}

// reader follows the columns of one query.
type reader struct {
	file   token.File
	tables func(string) ([]string, bool)
}

func (r *reader) fail(at ast.Node, format string, args ...any) error {
	line, column := r.file.ResolvePos(at.Pos())
	return fmt.Errorf("%s:%d:%d: %s", r.file.FilePath, line+1, column+1, fmt.Sprintf(format, args...))
}

func (r *reader) unknown(at ast.Node) error {
	return r.fail(at, "%s: lineage does not follow a %T", at.SQL(), at)
}

// query gives what a query gives; outer is what it may name of where it stands.
func (r *reader) query(q ast.QueryExpr, outer *scope) (relation, error) {
	switch q := q.(type) {
	case *ast.SubQuery:
		return r.query(q.Query, outer)
	case *ast.Query:
		return r.whole(q, outer)
	case *ast.Select:
		out, _, err := r.selects(q, outer)
		return out, err
	case *ast.FromQuery:
		s := outer.inner()
		rows, err := r.from(q.From.Source, s)
		return relation{s.fields(), rows}, err
	case *ast.CompoundQuery:
		return r.compound(q, outer)
	}
	return relation{}, r.unknown(q)
}

func (r *reader) whole(q *ast.Query, outer *scope) (relation, error) {
	if len(q.PipeOperators) > 0 {
		return relation{}, r.unknown(q.PipeOperators[0])
	}
	s := outer.inner()
	if q.With != nil {
		s.with = map[string]relation{}
		for _, cte := range q.With.CTEs {
			named, err := r.query(cte.QueryExpr, s)
			if err != nil {
				return relation{}, err
			}
			s.with[strings.ToLower(cte.Name.Name)] = named
		}
	}
	var out relation
	var err error
	inside := s
	if sel, ok := q.Query.(*ast.Select); ok {
		out, inside, err = r.selects(sel, s)
	} else {
		out, err = r.query(q.Query, s)
	}
	if err != nil || q.OrderBy == nil || q.Limit == nil {
		return out, err
	}
	by, err := r.order(q.OrderBy, &scope{merged: out.fields, outer: inside})
	out.rows = set{}.add(out.rows, by)
	return out, err
}

func (r *reader) compound(q *ast.CompoundQuery, outer *scope) (relation, error) {
	var out relation
	for i, each := range q.Queries {
		one, err := r.query(each, outer)
		switch {
		case err != nil:
			return out, err
		case i == 0:
			out = relation{slices.Clone(one.fields), set{}.add(one.rows)}
			continue
		case len(one.fields) != len(out.fields):
			return out, r.fail(each, "%d columns, and %d before", len(one.fields), len(out.fields))
		}
		out.rows.add(one.rows)
		for j, f := range one.fields {
			was := &out.fields[j]
			if was.same != f.same {
				was.same = Column{}
			}
			was.from = set{}.add(was.from, f.from)
		}
	}
	if q.Op != ast.SetOpUnion || q.AllOrDistinct != ast.AllOrDistinctAll {
		for _, f := range out.fields {
			out.rows.add(f.from)
		}
	}
	return out, nil
}

// selects gives what a SELECT gives, and the scope of its expressions.
func (r *reader) selects(q *ast.Select, outer *scope) (relation, *scope, error) {
	s := outer.inner()
	out := relation{rows: set{}}
	if q.From != nil {
		rows, err := r.from(q.From.Source, s)
		if err != nil {
			return out, s, err
		}
		out.rows.add(rows)
	}
	for _, item := range q.Results {
		fields, err := r.item(item, s)
		if err != nil {
			return out, s, err
		}
		out.fields = append(out.fields, fields...)
	}
	if q.Where != nil {
		if err := r.decides(q.Where.Expr, s, out.rows); err != nil {
			return out, s, err
		}
	}
	// Behind WHERE, names of the result count too.
	behind := &scope{sources: s.sources, merged: s.merged, outer: &scope{merged: out.fields, outer: s.outer}}
	if q.GroupBy != nil {
		for _, e := range q.GroupBy.Exprs {
			if n, ok := position(e); ok {
				if n < 1 || n > len(out.fields) {
					return out, s, r.fail(e, "there is no column %d", n)
				}
				out.rows.add(out.fields[n-1].from)
			} else if err := r.decides(e, behind, out.rows); err != nil {
				return out, s, err
			}
		}
	}
	if q.Having != nil {
		if err := r.decides(q.Having.Expr, behind, out.rows); err != nil {
			return out, s, err
		}
	}
	if q.AllOrDistinct == ast.AllOrDistinctDistinct {
		for _, f := range out.fields {
			out.rows.add(f.from)
		}
	}
	switch q.As.(type) {
	case nil, *ast.AsValue:
	case *ast.AsStruct:
		one := field{from: set{}}
		for _, f := range out.fields {
			one.from.add(f.from)
		}
		out.fields = []field{one}
	default:
		return out, s, r.unknown(q.As)
	}
	return out, s, nil
}

// position is that of a column of the result, which GROUP BY may have in place of
// an expression.
func position(e ast.Expr) (n int, ok bool) {
	literal, ok := e.(*ast.IntLiteral)
	if ok {
		_, err := fmt.Sscan(literal.Value, &n)
		ok = err == nil
	}
	return n, ok
}

// decides adds the columns of an expression to those that decide.
func (r *reader) decides(e ast.Expr, s *scope, rows set) error {
	from, err := r.expr(e, s)
	rows.add(from)
	return err
}

func (r *reader) order(by *ast.OrderBy, s *scope) (set, error) {
	out := set{}
	for _, item := range by.Items {
		if _, ok := position(item.Expr); ok {
			continue
		}
		if err := r.decides(item.Expr, s, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// item gives the columns of one item of a SELECT.
func (r *reader) item(item ast.SelectItem, s *scope) ([]field, error) {
	switch item := item.(type) {
	case *ast.Star:
		return r.modified(s.fields(), item.Except, item.Replace, s)
	case *ast.DotStar:
		name, ok := item.Expr.(*ast.Ident)
		if !ok {
			return nil, r.unknown(item)
		}
		for each := s; each != nil; each = each.outer {
			for _, from := range each.sources {
				if strings.EqualFold(from.name, name.Name) {
					return r.modified(from.fields, item.Except, item.Replace, s)
				}
			}
		}
		return nil, r.fail(item, "there is no table %s here", name.Name)
	case *ast.Alias:
		f, err := r.field(item.Expr, s)
		f.name = item.As.Alias.Name
		return []field{f}, err
	case *ast.ExprSelectItem:
		f, err := r.field(item.Expr, s)
		return []field{f}, err
	}
	return nil, r.unknown(item)
}

func (r *reader) modified(fields []field, except *ast.StarModifierExcept, replace *ast.StarModifierReplace, s *scope) ([]field, error) {
	fields = slices.Clone(fields)
	if except != nil {
		for _, name := range except.Columns {
			if find(fields, name.Name) == nil {
				return nil, r.fail(name, "there is no column %s", name.Name)
			}
			fields = slices.DeleteFunc(fields, func(f field) bool { return strings.EqualFold(f.name, name.Name) })
		}
	}
	if replace != nil {
		for _, with := range replace.Columns {
			f := find(fields, with.Name.Name)
			if f == nil {
				return nil, r.fail(with, "there is no column %s", with.Name.Name)
			}
			made, err := r.field(with.Expr, s)
			if err != nil {
				return nil, err
			}
			f.from, f.same = made.from, made.same
		}
	}
	return fields, nil
}

// field is a column that an expression makes, by the name that it gives itself.
func (r *reader) field(e ast.Expr, s *scope) (field, error) {
	switch e := e.(type) {
	case *ast.ParenExpr:
		return r.field(e.Expr, s)
	case *ast.Ident:
		return r.resolve(e, []*ast.Ident{e}, s)
	case *ast.Path:
		return r.resolve(e, e.Idents, s)
	}
	from, err := r.expr(e, s)
	out := field{from: from}
	if part, ok := e.(*ast.SelectorExpr); ok {
		out.name = part.Ident.Name
	}
	return out, err
}

// resolve finds what a name means: a column, a column of a table, or what is in
// one. The innermost query that knows the name counts.
func (r *reader) resolve(at ast.Node, path []*ast.Ident, s *scope) (field, error) {
	first := path[0].Name
	for ; s != nil; s = s.outer {
		var found []field
		if f := find(s.merged, first); f != nil {
			found = append(found, *f)
		} else {
			for _, from := range s.sources {
				if f := find(from.fields, first); f != nil {
					found = append(found, *f)
				}
			}
		}
		switch {
		case len(found) > 1:
			return field{}, r.fail(at, "%s is a column of several tables here", first)
		case len(found) == 1 && len(path) == 1:
			return found[0], nil
		}
		for _, from := range s.sources {
			if !strings.EqualFold(from.name, first) {
				continue
			}
			if len(path) == 1 { // the whole row
				whole := field{name: first, from: set{}}
				for _, f := range from.fields {
					whole.from.add(f.from)
				}
				return whole, nil
			}
			f := find(from.fields, path[1].Name)
			switch {
			case f == nil:
				return field{}, r.fail(at, "%s has no column %s", first, path[1].Name)
			case len(path) == 2:
				return *f, nil
			}
			return field{name: path[len(path)-1].Name, from: f.from}, nil
		}
		if len(found) == 1 {
			return field{name: path[len(path)-1].Name, from: found[0].from}, nil
		}
	}
	return field{}, r.fail(at, "%s: there is no such column here", at.SQL())
}

// from adds what a FROM names to a scope, and gives what decides its rows.
func (r *reader) from(t ast.TableExpr, s *scope) (set, error) {
	switch t := t.(type) {
	case *ast.ParenTableExpr:
		return r.from(t.Source, s)
	case *ast.Join:
		return r.join(t, s)
	case *ast.TableName:
		named, ok := s.named(t.Table.Name)
		if !ok {
			return nil, r.fail(t, "there is no table %s", t.Table.Name)
		}
		return r.add(s, t, t.Table.Name, t.As, named)
	case *ast.PathTableExpr:
		var parts []string
		for _, part := range t.Path.Idents {
			parts = append(parts, part.Name)
		}
		name := strings.Join(parts, ".")
		columns, ok := r.tables(name)
		if !ok || t.WithOffset != nil {
			return nil, r.fail(t, "there is no table %s", name)
		}
		var table relation
		for _, c := range columns {
			of := Column{name, c}
			table.fields = append(table.fields, field{c, set{of: true}, of})
		}
		return r.add(s, t, parts[len(parts)-1], t.As, table)
	case *ast.SubQueryTableExpr:
		out, err := r.query(t.Query, s.outer)
		if err != nil {
			return nil, err
		}
		return r.add(s, t, "", t.As, out)
	case *ast.Unnest:
		from, err := r.expr(t.Expr, s)
		if err != nil {
			return nil, err
		}
		out := relation{fields: []field{{from: from}}, rows: from} // as many rows as it has elements
		if t.As != nil {
			out.fields[0].name = t.As.Alias.Name
		}
		if t.WithOffset != nil {
			name := "offset"
			if t.WithOffset.As != nil {
				name = t.WithOffset.As.Alias.Name
			}
			out.fields = append(out.fields, field{name: name})
		}
		s.sources = append(s.sources, source{"", out})
		return out.rows, nil
	}
	return nil, r.unknown(t)
}

func (r *reader) add(s *scope, at ast.Node, name string, as *ast.AsAlias, table relation) (set, error) {
	if as != nil {
		name = as.Alias.Name
	}
	if name != "" && slices.ContainsFunc(s.sources, func(other source) bool { return strings.EqualFold(other.name, name) }) {
		return nil, r.fail(at, "%s names two tables", name)
	}
	s.sources = append(s.sources, source{name, table})
	return table.rows, nil
}

func (r *reader) join(j *ast.Join, s *scope) (set, error) {
	rows := set{}
	left, err := r.from(j.Left, s)
	if err != nil {
		return nil, err
	}
	// What stands left is known on the right, to UNNEST.
	right := &scope{sources: slices.Clone(s.sources), merged: s.merged, outer: s.outer}
	before := len(right.sources)
	more, err := r.from(j.Right, right)
	if err != nil {
		return nil, err
	}
	rows.add(left, more)
	switch cond := j.Cond.(type) {
	case nil:
	case *ast.On:
		if err := r.decides(cond.Expr, right, rows); err != nil {
			return nil, err
		}
	case *ast.Using:
		others := &scope{sources: right.sources[before:]}
		for _, name := range cond.Idents {
			a, err := r.resolve(name, []*ast.Ident{name}, &scope{sources: s.sources, merged: s.merged})
			if err != nil {
				return nil, err
			}
			b, err := r.resolve(name, []*ast.Ident{name}, others)
			if err != nil {
				return nil, err
			}
			one := field{name: a.name, from: set{}.add(a.from, b.from)}
			rows.add(one.from)
			right.merged = append(slices.DeleteFunc(slices.Clone(right.merged), func(f field) bool { return strings.EqualFold(f.name, a.name) }), one)
		}
	default:
		return nil, r.unknown(cond)
	}
	s.sources, s.merged = right.sources, right.merged
	return rows, nil
}
