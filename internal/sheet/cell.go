package sheet

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/telemesh/telemesh/internal/mesh"
)

// cell is what stands in one place of a grid. It is not empty.
type cell struct {
	text     string
	number   float64
	isNumber bool
	grid     *Grid
}

// cell takes a value of a row; ok says whether it is not empty. The error is
// about what can be no value of any column.
func (g *Grid) cell(value any) (c cell, ok bool, err error) {
	c.grid = g
	switch v := value.(type) {
	case nil:
	case string:
		c.text = strings.TrimSpace(v)
	case float64:
		c.text, c.number, c.isNumber = formatFloat(v), v, true
	case bool:
		c.text = strings.ToUpper(strconv.FormatBool(v)) // as a spreadsheet shows it
	default:
		return c, true, fmt.Errorf("%v is neither text, number nor truth value", v)
	}
	switch {
	case !utf8.ValidString(c.text):
		return c, true, fmt.Errorf("%q is not UTF-8: export the sheet as UTF-8", c.text)
	case isFormulaError(c.text):
		return c, true, fmt.Errorf("its formula gives %s", c.text)
	}
	return c, c.text != "", nil
}

// isFormulaError says whether a spreadsheet shows s where a formula has no
// value, or none yet.
// https://support.google.com/docs/answer/3238305 (ERROR.TYPE)
func isFormulaError(s string) bool {
	switch s {
	case "#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A", "#ERROR!", "Loading...":
		return true
	}
	return false
}

func (c cell) float() (float64, error) {
	if c.isNumber {
		return c.number, nil
	}
	// ParseFloat takes more than people write: hexadecimals, underscores, infinity.
	if strings.ContainsFunc(c.text, func(r rune) bool { return !strings.ContainsRune("+-.eE0123456789", r) }) {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(c.text, 64)
}

// maxText, in bytes, is as long as a text may be, so that many rows fit into an
// event.
const maxText = 4096

func text[R any](name string, required bool, field func(*R) *string) column[R] {
	return column[R]{name, required,
		func(row *R, c cell) error {
			if len(c.text) > maxText {
				return tooLong(c, maxText)
			}
			*field(row) = c.text
			return nil
		},
		func(row *R) string { return *field(row) },
	}
}

func tooLong(c cell, limit int) error {
	return fmt.Errorf("it has %d bytes, at most %d are accepted", len(c.text), limit)
}

// wholeDigits is the first number of which a spreadsheet does not keep every
// digit.
const wholeDigits = 1e15

// maxID, in bytes, is as long as an id may be, which every reading repeats.
const maxID = 256

// id is a text that may become an attribute of an event, and with it a header.
func id[R any](name string, required bool, field func(*R) *string) column[R] {
	column := text(name, required, field)
	set := column.set
	column.set = func(row *R, c cell) error {
		if len(c.text) > maxID {
			return tooLong(c, maxID)
		}
		if strings.ContainsFunc(c.text, unicode.IsControl) {
			return fmt.Errorf("%q holds a control character", c.text)
		}
		// Two ids that look alike would be two tenants.
		if strings.ContainsFunc(c.text, func(r rune) bool { return unicode.Is(unicode.Cf, r) }) {
			return fmt.Errorf("%q holds an invisible character: write it again by hand", c.text)
		}
		if c.isNumber && math.Abs(c.number) >= wholeDigits {
			return fmt.Errorf("%s is kept as a number, which has 15 digits: format the column as plain text and write it again", c.text)
		}
		return set(row, c)
	}
	return column
}

func instant[R any](name string, field func(*R) *mesh.Instant) column[R] {
	return column[R]{name, true,
		func(row *R, c cell) (err error) { *field(row), err = parseInstant(c); return err },
		func(row *R) string { return field(row).String() },
	}
}

// optional is a column whose empty cell is nil.
func optional[R, V any](name string, parse func(cell) (V, error), format func(V) string, field func(*R) **V) column[R] {
	return column[R]{name, false,
		func(row *R, c cell) error {
			v, err := parse(c)
			if err == nil {
				*field(row) = &v
			}
			return err
		},
		func(row *R) string {
			if v := *field(row); v != nil {
				return format(*v)
			}
			return ""
		},
	}
}

func parseCount(c cell) (int64, error) {
	n, err := strconv.ParseInt(c.text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a whole number from 0", c.text)
	}
	return n, nil
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

func parseConcentration(c cell) (float64, error) {
	f, err := c.float()
	if err != nil || f < 0 {
		return 0, fmt.Errorf("%q is not a number of ppm (a decimal point, no unit)", c.text)
	}
	return f, nil
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
