package main

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

// expression is a CloudEvents SQL expression as the filters of Triggers have
// it: an event for which it fails, such as for an attribute that is missing,
// does not match.
type expression struct {
	parsed cesql.Expression // nil: every event matches
	tree   gen.IExpressionContext

	failed int   // for so many events
	why    error // the first of these
}

// parseCESQL reads an expression; the empty one matches everything.
func parseCESQL(text string) (*expression, error) {
	if strings.TrimSpace(text) == "" {
		return &expression{}, nil
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
		return nil, hint(fmt.Errorf("CESQL expression %q: %w", text, found.first), "for example \"type = 'dev.telemesh.telemetry.received.v1' AND subject LIKE 'building-1/%%'\"")
	}
	parsed, err := parser.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("CESQL expression %q: %w", text, err)
	}
	return &expression{parsed: parsed, tree: whole.Expression()}, nil
}

// syntaxErrors keeps the first one: those that follow come of it.
type syntaxErrors struct {
	antlr.DefaultErrorListener
	first error
}

func (s *syntaxErrors) SyntaxError(_ antlr.Recognizer, offending any, line, column int, message string, _ antlr.RecognitionException) {
	if s.first != nil {
		return
	}
	at := fmt.Sprintf("column %d", column+1)
	if line > 1 {
		at = fmt.Sprintf("line %d, column %d", line, column+1)
	}
	switch token, ok := offending.(antlr.Token); {
	case ok && token.GetTokenType() == antlr.TokenEOF:
		s.first = fmt.Errorf("%s: it ends where more has to come", at)
	case ok:
		s.first = fmt.Errorf("%s: unexpected %q", at, token.GetText())
	default:
		s.first = fmt.Errorf("%s: %s", at, message)
	}
}

// matches says whether an event matches.
func (x *expression) matches(e event.Event) bool {
	if x.parsed == nil {
		return true
	}
	value, err := x.parsed.Evaluate(e)
	is, ok := value.(bool)
	if err == nil && !ok {
		err = fmt.Errorf("the expression gives %v, which is neither TRUE nor FALSE", value)
	}
	if err != nil {
		if x.failed++; x.failed == 1 {
			x.why = fmt.Errorf("event %s %s: %w", e.Source(), e.ID(), err)
		}
		return false
	}
	return is
}

// columnsOf the log that an expression compares and that SQL compares alike.
var comparedColumns = map[string]string{"type": "type", "source": "source", "id": "event_id", "subject": "subject"}

// conditions are what must hold in SQL of the row of an event that matches. A
// warehouse reads less for them; they need not be all.
func (x *expression) conditions() []string {
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
