package cesql_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/cesql"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// The parser of the SDK says of a bad expression neither what is wrong nor where, and
// panics for most.
func TestSyntaxErrors(t *testing.T) {
	for text, want := range map[string]cesql.SyntaxError{
		"type =":                  {Line: 1, Column: 7, What: "it ends where more has to come"},
		"type = 'a":               {Line: 1, Column: 8},
		"type == 'a'":             {Line: 1, Column: 7, What: `unexpected "="`},
		"type = 'a'\nAND AND":     {Line: 2, Column: 5, What: `unexpected "AND"`},
		"(type = 'a'":             {Line: 1, Column: 12, What: "it ends where more has to come"},
		"type = 'a' source = 'b'": {Line: 1, Column: 12, What: `unexpected "source"`},
		"'é' = ü":                 {Line: 1, Column: 7},
	} {
		_, err := cesql.Parse(text)
		got := (*cesql.SyntaxError)(nil)
		if !errors.As(err, &got) {
			t.Errorf("Parse(%q) = %v, want a syntax error", text, err)
			continue
		}
		if got.Line != want.Line || got.Column != want.Column || want.What != "" && got.What != want.What {
			t.Errorf("Parse(%q) = %+v, want %+v", text, got, want)
		}
	}
}

// What an expression's conditions leave out would not match: they are for the
// warehouse to read less.
func TestConditionsOfCESQL(t *testing.T) {
	db := duckdbtest.Open(t)
	texts := []string{"a", "A", "b", "it's", `\`, "a'b", " a", "7", "TRUE", "ü"}
	some := 0
	for expression, wanted := range map[string]string{
		"":                       "",
		"TRUE":                   "",
		"type = 'a'":             "type = 'a'",
		`"a" = TYPE`:             "type = 'a'",
		"(type = 'a')":           "type = 'a'",
		"source = 'ü'":           "source = 'ü'",
		"id = '7'":               "event_id = '7'",
		"id = 7":                 "",
		"type = TRUE":            "",
		`type = 'it\'s'`:         "",
		`type = "it's"`:          "type = CONCAT('it', CHR(39), 's')",
		`type = '\\'`:            "",
		"type != 'a'":            "",
		"NOT type = 'a'":         "",
		"type = source":          "",
		"type = 'a' OR id = 'a'": "",
		"type = 'a' AND subject = 'b' AND EXISTS x":           "type = 'a' AND subject = 'b'",
		"EXISTS x AND type = 'a'":                             "type = 'a'",
		"type = 'a' AND source = 'a' OR id = '7'":             "type = 'a'", // OR belongs to the right side
		"type = 'a' XOR source = 'a'":                         "",
		"type IN ('a', \"b\") AND source IN ('a', UPPER(id))": "type IN ('a', 'b')",
		"type NOT IN ('a')":                                   "",
		"type LIKE 'a%'":                                      "",
		"UPPER(type) = 'A'":                                   "",
		"subject = 'a'":                                       "subject = 'a'",
		"type = 'a' AND LENGTH(subject) / 0 = 1":              "type = 'a'",
	} {
		x, err := cesql.Parse(expression)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		conditions := strings.Join(x.Conditions(), " AND ")
		if conditions != wanted {
			t.Errorf("%s: conditions %s, want %s", expression, conditions, wanted)
		}
		if conditions == "" {
			continue
		}
		for i, eventType := range texts {
			e := event.New()
			e.SetType(eventType)
			e.SetSource(texts[(i+3)%len(texts)])
			e.SetID(texts[(i+5)%len(texts)])
			if i%2 == 0 {
				e.SetSubject("b")
				e.SetExtension("x", "1")
			}
			matches := x.Matches(e)
			if !matches {
				continue
			}
			some++
			row := fmt.Sprintf("SELECT %s AS type, %s AS source, %s AS event_id, nullif(%s, '') AS subject",
				literal.Text(e.Type()), literal.Text(e.Source()), literal.Text(e.ID()), literal.Text(e.Subject()))
			found, err := db.Query(t.Context(), "SELECT * FROM ("+row+") WHERE "+conditions)
			if err != nil {
				t.Fatalf("%s: %v", expression, err)
			}
			n := 0
			for _, err := range found.All {
				if err != nil {
					t.Fatalf("%s: %v", expression, err)
				}
				n++
			}
			if n != 1 {
				t.Errorf("%s matches %v, its conditions leave it out", expression, e)
			}
		}
	}
	if some < 5 {
		t.Errorf("%d events match an expression: too few to say anything", some)
	}
}
