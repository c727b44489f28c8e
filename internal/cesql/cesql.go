// Package cesql reads CloudEvents SQL expressions, which say of an event whether it
// is meant. https://github.com/cloudevents/spec/blob/main/cesql/spec.md
package cesql

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/antlr/antlr4/runtime/Go/antlr"
	cesql "github.com/cloudevents/sdk-go/sql/v2"
	"github.com/cloudevents/sdk-go/sql/v2/gen"
	"github.com/cloudevents/sdk-go/sql/v2/parser"
	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Expression is a CloudEvents SQL expression as the filters of Triggers have
// it: an event for which it fails, such as for an attribute that is missing,
// does not match. One goroutine at a time uses it.
type Expression struct {
	parsed cesql.Expression // nil: every event matches
	tree   gen.IExpressionContext

	Failed int   // for so many events it has had no value
	Why    error // it had none for the first of these
}

// SyntaxError says where an expression is none.
type SyntaxError struct {
	Line, Column int // from 1 on
	What         string
}

func (e *SyntaxError) Error() string {
	if e.Line > 1 {
		return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.What)
	}
	return fmt.Sprintf("column %d: %s", e.Column, e.What)
}

// Parse reads an expression; the empty one matches everything. The error is a
// *SyntaxError unless only evaluating it would fail.
func Parse(text string) (*Expression, error) {
	if strings.TrimSpace(text) == "" {
		return &Expression{}, nil
	}
	// parser.Parse says of a bad expression neither what is wrong nor where, and
	// panics for most.
	var found syntaxErrors
	lexer := gen.NewCESQLParserLexer(parser.NewCaseChangingStream(antlr.NewInputStream(text), true))
	lexer.RemoveErrorListeners()
	lexer.AddErrorListener(&found)
	syntax := gen.NewCESQLParserParser(antlr.NewCommonTokenStream(lexer, antlr.TokenDefaultChannel))
	syntax.RemoveErrorListeners()
	syntax.AddErrorListener(&found)
	whole := syntax.Cesql().(*gen.CesqlContext)
	if found.first != nil {
		return nil, found.first
	}
	parsed, err := parser.Parse(text)
	if err != nil {
		return nil, err
	}
	return &Expression{parsed: parsed, tree: whole.Expression()}, nil
}

// syntaxErrors keeps the first one: those that follow come of it.
type syntaxErrors struct {
	antlr.DefaultErrorListener
	first *SyntaxError
}

func (s *syntaxErrors) SyntaxError(_ antlr.Recognizer, offending any, line, column int, message string, _ antlr.RecognitionException) {
	if s.first != nil {
		return
	}
	s.first = &SyntaxError{Line: line, Column: column + 1, What: message}
	if token, ok := offending.(antlr.Token); ok && token.GetTokenType() == antlr.TokenEOF {
		s.first.What = "it ends where more has to come"
	} else if ok {
		s.first.What = fmt.Sprintf("unexpected %q", token.GetText())
	}
}

// Matches says whether an event matches.
func (x *Expression) Matches(e event.Event) bool {
	if x.parsed == nil {
		return true
	}
	value, err := x.parsed.Evaluate(e)
	is, ok := value.(bool)
	if err == nil && !ok {
		err = fmt.Errorf("the expression gives %v, which is neither TRUE nor FALSE", value)
	}
	if err != nil {
		if x.Failed++; x.Failed == 1 {
			x.Why = fmt.Errorf("event %s %s: %w", e.Source(), e.ID(), err)
		}
		return false
	}
	return is
}

// columnsOf the log that an expression compares and that SQL compares alike.
var comparedColumns = map[string]string{"type": "type", "source": "source", "id": "event_id", "subject": "subject"}

// Conditions are what must hold in SQL of the row of event_log.events of an event
// that matches. A warehouse reads less for them; they need not be all.
func (x *Expression) Conditions() []string {
	if x.tree == nil {
		return nil
	}
	return conjuncts(x.tree)
}

func conjuncts(tree gen.IExpressionContext) []string {
	switch tree := tree.(type) {
	case *gen.SubExpressionContext:
		return conjuncts(tree.Expression())
	case *gen.BinaryLogicExpressionContext:
		if tree.AND() != nil {
			return append(conjuncts(tree.Expression(0)), conjuncts(tree.Expression(1))...)
		}
	case *gen.BinaryComparisonExpressionContext:
		if tree.EQUAL() == nil {
			break
		}
		for i := range 2 {
			column := comparedColumns[strings.ToLower(tree.Expression(i).GetText())]
			if value, ok := literalOf(tree.Expression(1 - i)); ok && column != "" {
				return []string{column + " = " + literal.Text(value)}
			}
		}
	case *gen.InExpressionContext:
		column := comparedColumns[strings.ToLower(tree.Expression().GetText())]
		if column == "" || tree.NOT() != nil {
			break
		}
		var values []string
		for _, each := range tree.SetExpression().(*gen.SetExpressionContext).AllExpression() {
			value, ok := literalOf(each)
			if !ok {
				return nil
			}
			values = append(values, literal.Text(value))
		}
		return []string{column + " IN (" + strings.Join(values, ", ") + ")"}
	}
	return nil
}

// literalOf gives a string literal that has nothing to unescape.
func literalOf(tree gen.IExpressionContext) (string, bool) {
	s := tree.GetText()
	if len(s) < 2 || s[0] != '\'' && s[0] != '"' || s[len(s)-1] != s[0] || !utf8.ValidString(s) {
		return "", false
	}
	s, quote := s[1:len(s)-1], s[:1]
	return s, !strings.Contains(s, quote) && !strings.Contains(s, `\`)
}
